/* resolver.h - names to addresses by evdns, without blocking: /etc/hosts, resolv.conf (read again when
 * either changes), IPv6 and IPv4. It remembers for each host the family that last worked and puts
 * those addresses first. */
#ifndef RELAYD_DELIVERY_RESOLVER_H
#define RELAYD_DELIVERY_RESOLVER_H

#include <event2/event.h>
#include <sys/socket.h>

#include "smtp/client.h"

#define RESOLVER_ADDRESSES_MAX 16

struct resolver;
struct resolver_query;

struct resolver_address {
	struct sockaddr_storage sa;
	socklen_t len;
};

struct resolver *resolver_open(struct event_base *base); /* borrows base */
void resolver_close(struct resolver *resolver);          /* no query may be under way */

/* n > 0, or n = 0 and `trouble` says why. Called once from the event loop, never from inside
 * resolver_lookup(); the query is gone then. */
typedef void resolver_fn(
    void *arg, const struct resolver_address *list, size_t n, const struct smtp_trouble *trouble);

/* Gives a query that can be cancelled; its callback does not come then. */
struct resolver_query *resolver_lookup(
    struct resolver *resolver, const char *host, unsigned port, resolver_fn *done, void *arg);
void resolver_cancel(struct resolver_query *query);

/* A connection to this family of this host worked. */
void resolver_worked(struct resolver *resolver, const char *host, int family);

/* One more thing to remember of a host, conn.c's own: 0 if there is nothing. */
int resolver_recall(const struct resolver *resolver, const char *host);
void resolver_remember(struct resolver *resolver, const char *host, int what);

#endif
