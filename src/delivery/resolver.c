/* resolver.c - evdns with three things added: it notices when resolv.conf or hosts changed (a laptop's
 * or container's network comes up later than we do), answers come from the event loop only, and the
 * family that worked goes first. A change makes a new evdns_base; the old one lives until its last
 * question is answered. */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <event2/dns.h>
#include <event2/util.h>

#include "base/base.h"
#include "base/hash.h"
#include "delivery/resolver.h"

#define RESOLV_CONF "/etc/resolv.conf"
#define HOSTS "/etc/hosts"

struct generation {
	struct evdns_base *dns;
	unsigned users; /* queries under way, and one for being the current */
};

struct stamp {
	time_t s;
	long ns;
	ino_t inode;
};

struct memory {
	UT_hash_handle hh;
	int family; /* 0: none has worked yet */
	int what;   /* resolver_remember() */
	char host[];
};

struct resolver {
	struct event_base *base;
	struct generation *current;
	struct stamp resolv_conf, hosts;
	struct memory *worked;
};

struct resolver_query {
	struct resolver *resolver;
	struct generation *generation;
	struct evdns_getaddrinfo_request *request;
	struct event *deliver;
	resolver_fn *done;
	void *arg;
	char *host;
	bool cancelled, answered;
	struct smtp_trouble trouble;
	struct resolver_address list[RESOLVER_ADDRESSES_MAX];
	size_t n;
};

static struct stamp
stamp_of(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return (struct stamp){ 0 };
	return (struct stamp){ st.st_mtim.tv_sec, st.st_mtim.tv_nsec, st.st_ino };
}

static bool
is_same(struct stamp a, struct stamp b)
{
	return a.s == b.s && a.ns == b.ns && a.inode == b.inode;
}

static void
leave(struct generation *g)
{
	if (g == NULL || --g->users > 0)
		return;
	if (g->dns != NULL)
		evdns_base_free(g->dns, 0);
	free(g);
}

/* Reads both files again if one changed. A missing resolv.conf means a server on this host. */
static void
refresh(struct resolver *r)
{
	struct stamp resolv_conf = stamp_of(RESOLV_CONF), hosts = stamp_of(HOSTS);

	if (r->current != NULL && is_same(resolv_conf, r->resolv_conf) && is_same(hosts, r->hosts))
		return;
	leave(r->current);
	r->current = xcalloc(1, sizeof(*r->current));
	r->current->users = 1;
	r->current->dns = evdns_base_new(r->base, EVDNS_BASE_DISABLE_WHEN_INACTIVE);
	r->resolv_conf = resolv_conf;
	r->hosts = hosts;
	if (r->current->dns == NULL)
		return;
	evdns_base_set_option(
	    r->current->dns, "randomize-case:", "0"); /* some forwarders lose it */
	if (evdns_base_resolv_conf_parse(
	        r->current->dns, DNS_OPTIONS_ALL & ~DNS_OPTION_HOSTSFILE, RESOLV_CONF) != 0 &&
	    evdns_base_count_nameservers(r->current->dns) == 0)
		evdns_base_nameserver_ip_add(r->current->dns, "127.0.0.1");
	evdns_base_load_hosts(r->current->dns, HOSTS);
}

struct resolver *
resolver_open(struct event_base *base)
{
	struct resolver *r = xcalloc(1, sizeof(*r));

	r->base = base;
	return r;
}

void
resolver_close(struct resolver *r)
{
	struct memory *m, *next;

	if (r == NULL)
		return;
	HASH_ITER(hh, r->worked, m, next)
	{
		HASH_DEL(r->worked, m);
		free(m);
	}
	leave(r->current);
	free(r);
}

static void
query_free(struct resolver_query *q)
{
	leave(q->generation);
	event_free(q->deliver);
	free(q->host);
	free(q);
}

/* The addresses of the family that worked last come first; otherwise the resolver's order. */
static void
sort_addresses(struct resolver_query *q)
{
	struct resolver_address sorted[RESOLVER_ADDRESSES_MAX];
	struct memory *m;
	size_t n = 0;

	HASH_FIND_STR(q->resolver->worked, q->host, m);
	if (m == NULL || m->family == 0)
		return;
	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < q->n; i++)
			if ((q->list[i].sa.ss_family == m->family) == (pass == 0))
				sorted[n++] = q->list[i];
	memcpy(q->list, sorted, n * sizeof(sorted[0]));
}

static void
on_deliver(evutil_socket_t fd, short what, void *arg)
{
	struct resolver_query *q = arg;

	(void)fd, (void)what;
	if (!q->cancelled) {
		sort_addresses(q);
		q->done(q->arg, q->list, q->n, &q->trouble);
	}
	query_free(q);
}

static void
explain(struct resolver_query *q, int error)
{
	bool no_name = error == EVUTIL_EAI_NONAME || error == EVUTIL_EAI_NODATA;

	smtp_trouble_why(&q->trouble,
	    no_name ? "the host name %s does not exist, or has no address"
	            : "the host name %s could not be looked up: DNS: %s",
	    q->host, evutil_gai_strerror(error));
	smtp_trouble_fix(&q->trouble,
	    no_name ? "check host of the upstream; and the name servers in " RESOLV_CONF
	            : "check the network, and the name servers in " RESOLV_CONF);
}

static void
on_answer(int error, struct evutil_addrinfo *list, void *arg)
{
	struct resolver_query *q = arg;

	q->request = NULL;
	q->answered = true;
	for (struct evutil_addrinfo *ai = list; ai != NULL && q->n < RESOLVER_ADDRESSES_MAX;
	     ai = ai->ai_next) {
		if (ai->ai_addrlen > sizeof(q->list[0].sa))
			continue;
		memcpy(&q->list[q->n].sa, ai->ai_addr, ai->ai_addrlen);
		q->list[q->n++].len = ai->ai_addrlen;
	}
	if (list != NULL)
		evutil_freeaddrinfo(list);
	if (q->n == 0)
		explain(q, error != 0 ? error : EVUTIL_EAI_NODATA);
	event_active(q->deliver, EV_TIMEOUT, 0);
}

struct resolver_query *
resolver_lookup(struct resolver *r, const char *host, unsigned port, resolver_fn *done, void *arg)
{
	struct resolver_query *q = xcalloc(1, sizeof(*q));
	struct evutil_addrinfo hints = { .ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
		.ai_protocol = IPPROTO_TCP,
		.ai_flags = EVUTIL_AI_NUMERICSERV };
	struct evdns_getaddrinfo_request *request;
	char service[12];

	refresh(r);
	q->resolver = r;
	q->generation = r->current;
	q->generation->users++;
	q->done = done;
	q->arg = arg;
	q->host = xstrdup(host);
	q->deliver = event_new(r->base, -1, 0, on_deliver, q);
	snprintf(service, sizeof(service), "%u", port);
	if (q->generation->dns == NULL) {
		on_answer(EVUTIL_EAI_MEMORY, NULL, q);
		return q;
	}
	request = evdns_getaddrinfo(q->generation->dns, host, service, &hints, on_answer, q);
	if (!q->answered)
		q->request = request;
	return q;
}

void
resolver_cancel(struct resolver_query *q)
{
	if (q == NULL)
		return;
	q->cancelled = true;
	if (q->request != NULL)
		evdns_getaddrinfo_cancel(q->request); /* on_answer() comes with EAI_CANCEL */
}

static struct memory *
memory_of(struct resolver *r, const char *host)
{
	struct memory *m;

	HASH_FIND_STR(r->worked, host, m);
	if (m == NULL) {
		m = xcalloc(1, sizeof(*m) + strlen(host) + 1);
		memcpy(m->host, host, strlen(host) + 1);
		HASH_ADD_STR(r->worked, host, m);
	}
	return m;
}

void
resolver_worked(struct resolver *r, const char *host, int family)
{
	memory_of(r, host)->family = family;
}

void
resolver_remember(struct resolver *r, const char *host, int what)
{
	memory_of(r, host)->what = what;
}

int
resolver_recall(const struct resolver *r, const char *host)
{
	struct memory *m;

	HASH_FIND_STR(r->worked, host, m);
	return m != NULL ? m->what : 0;
}
