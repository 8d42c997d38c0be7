/* conn_connect.c - the way to an upstream (conn.h): its name is looked up, and its addresses are tried one after
 * the other until one takes us. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "delivery/conn_parts.h"

static void try_address(struct conn *c);

static void
print_ip(const struct resolver_address *a, char ip[INET6_ADDRSTRLEN])
{
	snprintf(ip, INET6_ADDRSTRLEN, "?");
	getnameinfo(
	    (const struct sockaddr *)&a->sa, a->len, ip, INET6_ADDRSTRLEN, NULL, 0, NI_NUMERICHOST);
}

static void
on_connected(struct conn *c)
{
	const struct resolver_address *a = &c->addresses[c->address];
	const struct config_upstream *u = c->o.upstream;
	char ip[INET6_ADDRSTRLEN];

	print_ip(a, ip);
	snprintf(c->peer, sizeof(c->peer), "%s:%u (%s)", u->host, u->port, ip);
	conn_remark(c, "connected to %s", c->peer);
	resolver_worked(c->o.resolver, u->host, a->sa.ss_family);
	c->phase = CONN_SMTP;
	conn_watch(c, c->readable);
	if (u->tls == CONFIG_TLS_IMPLICIT)
		conn_begin_tls(c);
}

void
conn_next_address(struct conn *c, int error)
{
	const struct resolver_address *a = &c->addresses[c->address];
	size_t len = strlen(c->failures);
	char ip[INET6_ADDRSTRLEN];

	print_ip(a, ip);
	snprintf(c->failures + len, sizeof(c->failures) - len, "%s%s: %s", len > 0 ? "; " : "", ip,
	    strerror(error));
	conn_remark(c, "%s: %s", ip, strerror(error));
	conn_close_socket(c);
	c->address++;
	try_address(c);
}

static void
on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;
	int error = 0;
	socklen_t len = sizeof(error);

	(void)what;
	if (c->phase == CONN_CONNECT) {
		if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
			error = errno;
		if (error != 0)
			conn_next_address(c, error);
		else
			on_connected(c);
	}
	conn_pump(c);
}

static int
connect_to(struct conn *c, const struct resolver_address *a)
{
	int on = 1;

	c->fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return errno;
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	if (connect(c->fd, (const struct sockaddr *)&a->sa, a->len) < 0 && errno != EINPROGRESS)
		return errno;
	c->readable = event_new(c->o.base, c->fd, EV_READ | EV_PERSIST, conn_on_readable, c);
	c->writable = event_new(c->o.base, c->fd, EV_WRITE, on_writable, c);
	conn_watch(c, c->writable);
	return 0;
}

static void
try_address(struct conn *c)
{
	int error;

	if (c->address == c->n_addresses) {
		conn_fail_words(c, SMTP_END_CONNECT, "cannot connect to %s port %u: %s",
		    c->o.upstream->host, c->o.upstream->port, c->failures);
		return;
	}
	c->waits_for = SMTP_STAGE_NONE; /* a new wait */
	error = connect_to(c, &c->addresses[c->address]);
	if (error != 0)
		conn_next_address(c, error);
}

static void
on_resolved(
    void *arg, const struct resolver_address *list, size_t n, const struct smtp_trouble *trouble)
{
	struct conn *c = arg;

	c->query = NULL;
	if (n == 0) {
		conn_fail(c, SMTP_END_DNS, trouble);
	} else {
		memcpy(c->addresses, list, n * sizeof(list[0]));
		c->n_addresses = n;
		c->phase = CONN_CONNECT;
		try_address(c);
	}
	conn_pump(c);
}

void
conn_look_up(struct conn *c)
{
	const struct config_upstream *u = c->o.upstream;

	c->query = resolver_lookup(c->o.resolver, u->host, u->port, on_resolved, c);
}
