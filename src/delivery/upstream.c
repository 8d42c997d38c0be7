/* upstream.c - see upstream.h: when an upstream's connections are opened and closed, and with which secret. */
#include <errno.h>
#include <stdlib.h>

#include <utlist.h>

#include "base/log.h"
#include "base/os.h"
#include "delivery/conn.h"
#include "delivery/delivery.h"
#include "delivery/tls.h"
#include "delivery/upstream_parts.h"

/* --- the pump --------------------------------------------------------------------------------- */

/* What a connection needs before it is opened. False: not now; the reason is told. */
static bool
prepare(struct upstream *u, struct span *secret, const char **why, const char **fix)
{
	static struct smtp_trouble trouble;
	int r = secret_get(u->secret, secret);

	if (r == -EAGAIN)
		upstream_ask_password(u, os_boot_ms());
	u->is_waiting = r == -EAGAIN;
	if (r < 0) {
		*why = secret_why(u->secret);
		*fix = secret_fix(u->secret);
		return false;
	}
	if (secret_warning(u->secret)[0] != '\0' && !u->was_warned) {
		u->was_warned = true;
		log_warning("upstream.warned", KV_STR("upstream", u->config->name),
		    KV_WHY(secret_warning(u->secret)));
	}
	if (u->tls == NULL && u->config->tls != CONFIG_TLS_NONE) {
		memset(&trouble, 0, sizeof(trouble));
		if (tls_client_open(u->config, &u->tls, &trouble) < 0) {
			u->tls = NULL;
			*why = trouble.why;
			*fix = trouble.fix;
			return false;
		}
	}
	return true;
}

/* No connection can be opened; where to look is in why and fix. */
static void
fail_unprepared(struct upstream *u, const char *why, const char *fix)
{
	if (strcmp(u->why, why) != 0)
		log_error(
		    "secret.failed", KV_STR("upstream", u->config->name), KV_WHY(why), KV_FIX(fix));
	upstream_fail(u, BREAKER_OPERATOR, false, why, fix);
}

static unsigned
count_connecting(const struct upstream *u)
{
	const struct link *link;
	unsigned n = 0;

	LL_FOREACH(u->links, link)
	n += !link->is_ready && !link->is_test;
	return n;
}

static void
open_links(struct upstream *u, uint64_t now_ms)
{
	size_t waiting = queue_count_ready(u->d->queue, u->index);
	unsigned most = upstream_connections_max(u, now_ms), connecting;
	bool was_closed = u->breaker.state == BREAKER_CLOSED;
	const char *why = "", *fix = "";
	struct span secret;

	if (u->breaker.state == BREAKER_PROBING ||
	    (u->breaker.state == BREAKER_OPEN && now_ms < u->breaker.retry_at_ms))
		return;
	connecting = count_connecting(u);
	/* as long as none works, one finds out: a wrong password is tried once, not four times */
	if (was_closed && upstream_count_ready_links(u) == 0 &&
	    most > u->n_links + (connecting == 0))
		most = u->n_links + (connecting == 0);
	if (was_closed && (u->n_links >= most || connecting >= waiting))
		return;
	if (!was_closed && connecting > 0)
		return; /* those of before will tell */
	if (!prepare(u, &secret, &why, &fix)) {
		if (!u->is_waiting && breaker_may_try(&u->breaker, now_ms))
			fail_unprepared(u, why, fix);
		return;
	}
	if (!was_closed) {
		if (breaker_may_try(&u->breaker, now_ms))
			upstream_link_open(u, secret, NULL)->is_probe = true;
		return;
	}
	for (; u->n_links < most && connecting < waiting; connecting++)
		upstream_link_open(u, secret, NULL);
}

uint64_t
upstream_pump(struct upstream *u, uint64_t now_ms)
{
	struct link *link;
	uint64_t next_ms = UINT64_MAX;

	if (u->d->stopping)
		return next_ms;
	/* mail that others take now still wants to know when this one is mended */
	if (queue_count_ready(u->d->queue, u->index) == 0 &&
	    !(u->is_switched && !u->breaker.by_message)) {
		LL_FOREACH(u->links, link)
		if (link->is_probe && link->is_ready && !link->is_ending &&
		    u->breaker.state == BREAKER_PROBING && !link->probe_sent) {
			link->is_ending = true; /* nothing left to probe with */
			conn_quit(link->conn);
		}
		return next_ms;
	}
	if (u->d->is_full)
		return next_ms;
	if (now_ms >= u->wait_until_ms) {
		LL_FOREACH(u->links, link)
		upstream_link_feed(link, now_ms);
		if (now_ms >= u->wait_until_ms)
			open_links(u, now_ms);
	}
	if (queue_count_ready(u->d->queue, u->index) == 0)
		return next_ms;
	if (u->wait_until_ms > now_ms)
		next_ms = u->wait_until_ms;
	if (u->breaker.state == BREAKER_OPEN && u->breaker.retry_at_ms > now_ms &&
	    u->breaker.retry_at_ms < next_ms)
		next_ms = u->breaker.retry_at_ms;
	return next_ms;
}

void
upstream_tick(struct upstream *u, uint64_t now_ms)
{
	struct link *link;

	LL_FOREACH(u->links, link)
	if (link->is_ready && !link->is_ending && !link->is_test && conn_jobs(link->conn) == 0 &&
	    now_ms - link->idle_since_ms >= u->config->idle_ms) {
		link->is_ending = true;
		conn_quit(link->conn);
	}
	if (u->breaker.state == BREAKER_OPEN && secret_has_changed(u->secret))
		upstream_nudge(u);
	upstream_warn_of_silence(u);
}

void
upstream_nudge(struct upstream *u)
{
	breaker_nudge(&u->breaker, os_boot_ms());
	u->cap = 0;
	delivery_kick(u->d);
}

void
upstream_password(struct upstream *u, int status, struct span secret)
{
	struct span have;

	if (secret_set(u->secret, status, secret)) {
		upstream_nudge(u);
		return;
	}
	if (status == 0) /* how a command failed was logged by relayd, which ran it */
		return;
	if (secret_get(u->secret, &have) < 0 && breaker_may_try(&u->breaker, os_boot_ms()))
		upstream_fail(
		    u, BREAKER_OPERATOR, false, secret_why(u->secret), secret_fix(u->secret));
}

void
upstream_stop(struct upstream *u, bool quick)
{
	struct link *link, *next;

	DL_FOREACH_SAFE(u->links, link, next)
	{
		if (quick)
			conn_drop(link->conn);
		else if (!link->is_ending)
			conn_quit(link->conn);
		link->is_ending = true;
	}
}

bool
upstream_is_quiet(const struct upstream *u)
{
	return u->links == NULL;
}

struct upstream *
upstream_new(struct delivery *d, unsigned index)
{
	struct upstream *u = xcalloc(1, sizeof(*u));

	u->d = d;
	u->index = index;
	u->config = &d->config->upstreams[index];
	u->secret = secret_new(u->config);
	breaker_init(&u->breaker);
	pace_init(&u->pace, u->config->rate.count, u->config->rate.per_ms, u->config->daily,
	    os_boot_ms());
	return u;
}

void
upstream_look_at_secret(struct upstream *u)
{
	struct span secret;

	if (!secret_is_command(u->secret) && secret_get(u->secret, &secret) < 0)
		fail_unprepared(u, secret_why(u->secret), secret_fix(u->secret));
}

void
upstream_free(struct upstream *u)
{
	if (u == NULL)
		return;
	if (u->links == NULL)
		tls_client_close(u->tls);
	secret_free(u->secret);
	free(u);
}

/* --- relayctl test ---------------------------------------------------------------------------- */

struct link *
upstream_test(struct upstream *u, struct queue_entry *e, const struct upstream_watch *watch)
{
	const char *why = "", *fix = "";
	struct span secret;
	struct link *link;

	if (!prepare(u, &secret, &why, &fix)) {
		queue_hold(u->d->queue, e);
		watch->ended(watch->arg, false, "prepare", why, fix);
		return NULL;
	}
	link = upstream_link_open(u, secret, watch);
	link->test_entry = e;
	return link;
}

void
upstream_unwatch(struct link *link)
{
	link->watch = NULL;
}
