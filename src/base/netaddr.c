/* netaddr.c - see netaddr.h. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "base/netaddr.h"
#include "base/span.h"
#include "base/units.h"

static int
parse_unix(const char *path, struct sockaddr_storage *out, socklen_t *out_len)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };

	if (path[0] != '/')
		return -EINVAL;
	if (strlen(path) >= sizeof(un.sun_path))
		return -ENAMETOOLONG;
	memcpy(un.sun_path, path, strlen(path) + 1);
	memset(out, 0, sizeof(*out));
	memcpy(out, &un, sizeof(un));
	*out_len = sizeof(un);
	return 0;
}

/* Splits "host:port" or "[host]:port". */
static int
split_port(const char *text, char *host, size_t size, unsigned *port)
{
	const char *colon = strrchr(text, ':');
	size_t len;

	if (colon == NULL || units_parse_count(colon + 1, port) < 0 || *port == 0 || *port > 65535)
		return -EINVAL;
	len = (size_t)(colon - text);
	if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
		text++;
		len -= 2;
	} else if (memchr(text, ':', len) != NULL) {
		return -EINVAL; /* IPv6 without brackets */
	}
	if (len >= size)
		return -EINVAL;
	memcpy(host, text, len);
	host[len] = '\0';
	return 0;
}

int
netaddr_parse(const char *text, struct sockaddr_storage *out, socklen_t *out_len)
{
	struct sockaddr_in in = { .sin_family = AF_INET };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
	char host[INET6_ADDRSTRLEN];
	unsigned port;
	int r;

	if (strncmp(text, "unix:", 5) == 0)
		return parse_unix(text + 5, out, out_len);
	r = split_port(text, host, sizeof(host), &port);
	if (r < 0)
		return r;
	if (text[0] != '[' && inet_pton(AF_INET, host, &in.sin_addr) == 1) {
		in.sin_port = htons((uint16_t)port);
		memset(out, 0, sizeof(*out));
		memcpy(out, &in, sizeof(in));
		*out_len = sizeof(in);
		return 0;
	}
	if (text[0] == '[' && inet_pton(AF_INET6, host, &in6.sin6_addr) == 1) {
		in6.sin6_port = htons((uint16_t)port);
		memset(out, 0, sizeof(*out));
		memcpy(out, &in6, sizeof(in6));
		*out_len = sizeof(in6);
		return 0;
	}
	return -EINVAL;
}

/* Are all bits of the address behind the prefix 0? */
static bool
is_network(const uint8_t *address, unsigned prefix_bits, unsigned bits)
{
	for (unsigned i = prefix_bits; i < bits; i++)
		if (address[i / 8] >> (7 - i % 8) & 1)
			return false;
	return true;
}

int
netaddr_parse_network(const char *text, struct config_cidr *out)
{
	struct config_cidr network = { .text = out->text };
	char host[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	size_t len = slash != NULL ? (size_t)(slash - text) : strlen(text);
	unsigned bits;

	if (len >= sizeof(host))
		return -EINVAL;
	memcpy(host, text, len);
	host[len] = '\0';
	network.family = strchr(host, ':') != NULL ? AF_INET6 : AF_INET;
	if (inet_pton(network.family, host, network.address) != 1)
		return -EINVAL;
	bits = network.family == AF_INET ? 32 : 128;
	network.prefix_bits = bits;
	if (slash != NULL &&
	    (units_parse_count(slash + 1, &network.prefix_bits) < 0 || network.prefix_bits > bits))
		return -EINVAL;
	if (!is_network(network.address, network.prefix_bits, bits))
		return -EINVAL;
	*out = network;
	return 0;
}

/* The bytes that an address is compared by: IPv4's four, also in its IPv6 dress. */
static int
address_bytes(const struct sockaddr *sa, uint8_t out[16])
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	struct sockaddr_in in;
	struct sockaddr_in6 in6;

	if (sa->sa_family == AF_INET) {
		memcpy(&in, sa, sizeof(in));
		memcpy(out, &in.sin_addr, 4);
		return AF_INET;
	}
	if (sa->sa_family != AF_INET6)
		return AF_UNSPEC;
	memcpy(&in6, sa, sizeof(in6));
	if (memcmp(&in6.sin6_addr, mapped, sizeof(mapped)) == 0) {
		memcpy(out, in6.sin6_addr.s6_addr + 12, 4);
		return AF_INET;
	}
	memcpy(out, &in6.sin6_addr, 16);
	return AF_INET6;
}

bool
netaddr_is_in(const struct sockaddr *sa, const struct config_cidr *network)
{
	uint8_t address[16];

	if (address_bytes(sa, address) != network->family)
		return false;
	for (unsigned i = 0; i < network->prefix_bits; i++)
		if ((address[i / 8] ^ network->address[i / 8]) >> (7 - i % 8) & 1)
			return false;
	return true;
}

bool
netaddr_collide(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	static const uint8_t any[16];
	const struct sockaddr_in *a4 = (const void *)a, *b4 = (const void *)b;
	const struct sockaddr_in6 *a6 = (const void *)a, *b6 = (const void *)b;

	if (a->ss_family != b->ss_family)
		return false;
	switch (a->ss_family) {
	case AF_INET:
		return a4->sin_port == b4->sin_port &&
		       (a4->sin_addr.s_addr == b4->sin_addr.s_addr ||
		           a4->sin_addr.s_addr == INADDR_ANY || b4->sin_addr.s_addr == INADDR_ANY);
	case AF_INET6:
		return a6->sin6_port == b6->sin6_port &&
		       (memcmp(&a6->sin6_addr, &b6->sin6_addr, sizeof(any)) == 0 ||
		           memcmp(&a6->sin6_addr, any, sizeof(any)) == 0 ||
		           memcmp(&b6->sin6_addr, any, sizeof(any)) == 0);
	default: /* paths: the same text is the same title, told before */
		return false;
	}
}

void
netaddr_print(const struct sockaddr *sa, char out[NETADDR_TEXT_MAX])
{
	uint8_t address[16];
	int family = address_bytes(sa, address);

	if (family == AF_UNSPEC || inet_ntop(family, address, out, NETADDR_TEXT_MAX) == NULL)
		snprintf(
		    out, NETADDR_TEXT_MAX, "%s", sa->sa_family == AF_UNIX ? "unix" : "unknown");
}

void
netaddr_print_port(const struct sockaddr *sa, char out[NETADDR_TEXT_MAX])
{
	char host[NETADDR_TEXT_MAX];
	struct sockaddr_in6 in6; /* its port stands where sockaddr_in has it */
	unsigned port;

	netaddr_print(sa, host);
	if (sa->sa_family != AF_INET && sa->sa_family != AF_INET6) {
		memcpy(out, host, sizeof(host));
		return;
	}
	memcpy(&in6, sa, sizeof(struct sockaddr_in));
	port = ntohs(in6.sin6_port);
	if (snprintf(out, NETADDR_TEXT_MAX, strchr(host, ':') != NULL ? "[%.100s]:%u" : "%.100s:%u",
	        host, port) < 0)
		out[0] = '\0';
}
