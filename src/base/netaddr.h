/* netaddr.h - addresses as the configuration spells them. Nothing here asks the network: a name is
 * not an address. Each call returns 0 or -EINVAL, or -ENAMETOOLONG for a socket's path. */
#ifndef RELAYD_BASE_NETADDR_H
#define RELAYD_BASE_NETADDR_H

#include <stdbool.h>
#include <sys/socket.h>

#include "base/base.h"
#include "base/config.h"

#define NETADDR_TEXT_MAX 128

/* "127.0.0.1:25", "[::1]:587" or "unix:/run/relayd/submit". */
int netaddr_parse(const char *text, struct sockaddr_storage *out, socklen_t *out_len) MUST_CHECK;

/* "10.0.0.0/8", "::1", "fe80::/10": an address alone is the network of that address. Bits behind
 * the prefix must be 0. Does not set text. */
int netaddr_parse_network(const char *text, struct config_cidr *out) MUST_CHECK;

/* Is the address in the network? IPv6 addresses that stand for IPv4 (::ffff:a.b.c.d) count as that. */
bool netaddr_is_in(const struct sockaddr *sa, const struct config_cidr *network);

/* Can there be no listener on both? Each has the other's port, and one of them is all addresses or the other's. */
bool netaddr_collide(const struct sockaddr_storage *a, const struct sockaddr_storage *b);

/* The address for people: "127.0.0.1", "::1", "unix"; with the port: "127.0.0.1:25", "[::1]:25". */
void netaddr_print(const struct sockaddr *sa, char out[NETADDR_TEXT_MAX]);
void netaddr_print_port(const struct sockaddr *sa, char out[NETADDR_TEXT_MAX]);

#endif
