/* upstream_link.c - one connection to an upstream (upstream.h) and the messages on it: what it is given, and what
 * becomes of its events. */
#include <stdio.h>
#include <stdlib.h>

#include <utlist.h>

#include "base/log.h"
#include "base/os.h"
#include "delivery/attempt.h"
#include "delivery/conn.h"
#include "delivery/delivery.h"
#include "delivery/outcome.h"
#include "delivery/upstream_parts.h"

#define SUSPECT_MOST 3 /* connections that may die on one message before it counts as its fault */

/* --- relayctl test ---------------------------------------------------------------------------- */

static void
watch_step(struct link *link, const char *text)
{
	if (link->watch != NULL && !link->told)
		link->watch->step(link->watch->arg, text);
}

static void
watch_end(struct link *link, bool delivered, const char *phase, const char *why, const char *fix)
{
	if (link->watch != NULL && !link->told) {
		link->told = true;
		link->watch->ended(link->watch->arg, delivered, phase, why, fix);
	}
	link->told = true;
}

/* --- attempts --------------------------------------------------------------------------------- */

static void
on_recipient(void *ctx, struct conn *conn, struct delivery_job *job, size_t i,
    const struct upstream_reply *reply, enum verdict verdict)
{
	struct link *link = ctx;
	struct upstream *u = link->u;
	struct failure f = { 0 };
	const struct smtp_capabilities *caps = conn_capabilities(conn);

	attempt_verdict(job->arg, i, reply, verdict,
	    caps != NULL && smtp_capability_has(caps, SMTP_CAP_DSN), &f);
	upstream_note_verdict(u, reply, verdict, &f);
	if (verdict == VERDICT_ACCEPTED) {
		watch_end(link, true, smtp_stage_name(reply->stage), reply->text, "");
	} else if (link->is_test && (verdict == VERDICT_REPLY || verdict == VERDICT_LOCAL)) {
		char why[700];

		snprintf(why, sizeof(why), "%d %s %s", reply->code, reply->enhanced, reply->text);
		watch_end(link, false, smtp_stage_name(reply->stage), why, f.fix);
	}
}

static void
on_finished(void *ctx, struct conn *conn, struct delivery_job *job)
{
	struct link *link = ctx;
	struct attempt *a = job->arg;

	(void)conn;
	link->idle_since_ms = os_boot_ms();
	if (attempt_is_returned(a))
		LL_APPEND(link->returned, a);
	else
		attempt_end(a);
	delivery_kick(link->u->d);
}

/* Gives one message to the link. False: it was not sent, and is where it belongs. */
static bool
link_send(struct link *link, struct queue_entry *e)
{
	struct upstream *u = link->u;
	struct attempt *a;

	if (!attempt_new(u->d, u, e, conn_recipients_max(link->conn), &a))
		return false;
	if (conn_send(link->conn, attempt_job(a)) < 0) {
		attempt_cancel(a);
		return false;
	}
	return true;
}

void
upstream_link_feed(struct link *link, uint64_t now_ms)
{
	struct upstream *u = link->u;
	struct delivery *d = u->d;

	while (link->is_ready && !link->is_ending && !link->is_test && conn_room(link->conn) > 0) {
		struct queue_entry *e;
		uint64_t wait_ms = 0;
		enum pace_limit limit;

		if (u->breaker.state == BREAKER_OPEN || d->stopping || d->is_full ||
		    outcomes_waiting(d) > OUTCOMES_WAITING_MAX ||
		    (u->breaker.state == BREAKER_PROBING && (!link->is_probe || link->probe_sent)))
			return;
		if (queue_count_ready(d->queue, u->index) == 0)
			return;
		limit = pace_take(&u->pace, now_ms, &wait_ms);
		if (limit != PACE_FREE) {
			u->wait_until_ms = now_ms + wait_ms;
			if (limit == PACE_DAILY && !u->is_daily)
				log_warning("upstream.paced", KV_STR("upstream", u->config->name),
				    KV_INT("daily", u->config->daily),
				    KV_WHY(
				        "the day's number of messages is reached; the rest waits"),
				    KV_FIX("raise `daily` if the provider allows more"));
			u->is_daily = limit == PACE_DAILY;
			return;
		}
		u->is_daily = false;
		e = queue_take(d->queue, u->index);
		if (e == NULL || !link_send(link, e)) {
			pace_give_back(&u->pace, now_ms);
			continue;
		}
		link->probe_sent = true;
	}
}

/* --- the connection --------------------------------------------------------------------------- */

static void
on_ready(void *ctx, struct conn *conn)
{
	struct link *link = ctx;
	struct upstream *u = link->u;

	if (!link->is_ready) {
		link->is_ready = true;
		link->idle_since_ms = os_boot_ms();
		log_debug("upstream.connected", KV_STR("upstream", u->config->name),
		    KV_STR("peer", conn_peer(conn)), KV_STR("tls", conn_tls(conn)),
		    KV_STR("auth", conn_auth(conn)));
		upstream_note_login(u);
	}
	if (link->is_test && link->test_entry != NULL) {
		struct queue_entry *e = link->test_entry;

		link->test_entry = NULL;
		watch_step(link, "logged in; sending the message");
		if (!link_send(link, e))
			watch_end(link, false, "spool", "the message could not be read", "");
		conn_quit(conn);
		return;
	}
	upstream_link_feed(link, os_boot_ms());
	delivery_kick(u->d);
}

static void
on_closed(void *ctx, struct conn *conn, const struct conn_end *end)
{
	struct link *link = ctx;
	struct upstream *u = link->u;
	struct attempt *a, *next;
	bool first = true;

	(void)conn;
	DL_DELETE(u->links, link);
	if (!link->is_test)
		u->n_links--;
	log_debug("upstream.closed", KV_STR("upstream", u->config->name),
	    KV_STR("kind", smtp_end_kind_name(end->kind)), KV_INT("served", end->served),
	    KV_WHY(end->why));
	if (end->is_distrusted)
		log_warning("upstream.warned", KV_STR("upstream", u->config->name),
		    KV_WHY(
		        "its replies and our commands were out of step; from now on each message "
		        "waits for the one before"),
		    KV_FIX("tell the provider: its replies do not follow what is asked"));
	if (!u->d->stopping)
		upstream_blame(link, end);
	LL_FOREACH_SAFE(link->returned, a, next)
	{
		/* a message that kills connections must not stop all others for ever */
		if (first && upstream_end_is_amid_message(end) &&
		    ++attempt_entry(a)->suspect >= SUSPECT_MOST)
			attempt_blame(a, end->stage, end->why);
		first = false;
		attempt_end(a);
	}
	if (link->is_test) {
		if (link->test_entry != NULL)
			queue_hold(u->d->queue, link->test_entry);
		watch_end(link, false, smtp_stage_name(end->stage), end->why, end->fix);
	}
	free(link);
	delivery_kick(u->d);
}

static void
on_trace(void *ctx, struct conn *conn, char direction, struct span line)
{
	struct link *link = ctx;

	(void)conn;
	if (link->watch != NULL && !link->told)
		link->watch->line(link->watch->arg, direction, line);
}

static const struct conn_events events = {
	.ready = on_ready,
	.recipient = on_recipient,
	.finished = on_finished,
	.closed = on_closed,
};

static const struct conn_events traced_events = {
	.ready = on_ready,
	.recipient = on_recipient,
	.finished = on_finished,
	.closed = on_closed,
	.trace = on_trace,
};

struct link *
upstream_link_open(struct upstream *u, struct span secret, const struct upstream_watch *watch)
{
	struct link *link = xcalloc(1, sizeof(*link));
	struct conn_options options = { .base = u->d->base,
		.resolver = u->d->resolver,
		.upstream = u->config,
		.tls = u->tls,
		.helo = u->d->config->hostname,
		.secret = secret };

	link->u = u;
	link->watch = watch;
	link->is_test = watch != NULL;
	DL_APPEND(u->links, link);
	if (!link->is_test)
		u->n_links++;
	u->sessions++;
	link->conn = conn_open(&options, watch != NULL ? &traced_events : &events, link);
	return link;
}
