/* upstream.c - see upstream.h. */
#include <errno.h>
#include <stdlib.h>

#include <utlist.h>

#include "base/log.h"
#include "base/os.h"
#include "delivery/attempt.h"
#include "delivery/conn.h"
#include "delivery/delivery.h"
#include "delivery/outcome.h"
#include "delivery/tls.h"
#include "delivery/upstream.h"

#define CAP_MS (60 * 1000)       /* how long fewer connections are tried after a refusal */
#define CAP_BURST_MS 2000        /* refusals of connections that were begun together count once */
#define ASK_EVERY_MS (10 * 1000) /* password-command */
#define SILENT_MS (15 * 1000)    /* without an answer: told, long before it is given up */
#define SUSPECT_MOST 3 /* connections that may die on one message before it counts as its fault */

struct link {
	struct upstream *u;
	struct conn *conn;
	bool is_ready, is_probe, is_ending;
	bool probe_sent;
	uint64_t idle_since_ms;
	struct attempt *returned; /* unsent: what it means is known when the link has closed */
	/* relayctl test */
	bool is_test;
	struct queue_entry *test_entry; /* until it is sent */
	const struct upstream_watch *watch;
	bool told; /* ended() was called */
	struct link *next, *prev;
};

/* --- for people ------------------------------------------------------------------------------- */

static void
remember(struct upstream *u, const char *why, const char *fix)
{
	snprintf(u->why, sizeof(u->why), "%s", why);
	if (fix != NULL && fix[0] != '\0')
		snprintf(u->fix, sizeof(u->fix), "%.700s (upstream \"%s\", %s)", fix,
		    u->config->name, u->config->place);
	else
		u->fix[0] = '\0';
	snprintf(u->last_error, sizeof(u->last_error), "%s", u->why);
}

static void
fail(
    struct upstream *u, enum breaker_cause cause, bool by_message, const char *why, const char *fix)
{
	struct link *link;
	bool news = breaker_fail(&u->breaker, cause, by_message, os_boot_ms(), delivery_random());
	uint64_t now_ms = os_boot_ms();

	remember(u, why, fix);
	u->was_silent = false;
	/* nothing more goes out, but what is on its way may come to its end */
	LL_FOREACH(u->links, link)
	{
		if (link->is_ready && !link->is_test && !link->is_ending) {
			link->is_ending = true;
			conn_quit(link->conn);
		}
	}
	if (!news)
		return;
	u->since_ms = os_now_ms();
	log_event(cause == BREAKER_NETWORK ? LOG_WARNING : LOG_ERROR, "upstream.down",
	    LOG_FIELDS(KV_STR("upstream", u->config->name), KV_WHY(u->why), KV_FIX(u->fix),
	        KV_INT("waiting", (int64_t)queue_count_ready(u->d->queue, u->index)),
	        KV_MS("next_probe",
	            u->breaker.retry_at_ms > now_ms ? u->breaker.retry_at_ms - now_ms : 0)));
}

static void
succeed(struct upstream *u)
{
	uint64_t down_ms = u->since_ms;

	u->was_silent = false;
	if (u->since_ms == 0)
		u->since_ms = os_now_ms();
	if (!breaker_succeed(&u->breaker))
		return;
	u->since_ms = os_now_ms();
	u->why[0] = u->fix[0] = '\0';
	log_info("upstream.up", KV_STR("upstream", u->config->name),
	    KV_MS("down", u->since_ms > down_ms ? u->since_ms - down_ms : 0),
	    KV_INT("waiting", (int64_t)queue_count_ready(u->d->queue, u->index)));
}

static void
set_cap(struct upstream *u, unsigned cap, uint64_t now_ms)
{
	u->cap = cap;
	u->cap_until_ms = now_ms + CAP_MS;
}

static bool
is_capped_lately(const struct upstream *u, uint64_t now_ms)
{
	return u->cap > 0 && now_ms + CAP_MS < u->cap_until_ms + CAP_BURST_MS;
}

static void
slow(struct upstream *u, const struct failure *f, const struct upstream_reply *reply)
{
	uint64_t now_ms = os_boot_ms();
	unsigned most = upstream_connections_max(u, now_ms);
	int64_t per_minute;

	if (f->is_sessions && is_capped_lately(u, now_ms))
		return;
	if (f->is_sessions && most > 1) {
		set_cap(u, most / 2, now_ms);
	} else if (!pace_slow(&u->pace, now_ms)) {
		return;
	}
	per_minute = (int64_t)(pace_per_second(&u->pace) * 60); /* 0: as fast as it takes them */
	snprintf(u->last_error, sizeof(u->last_error), "%d %s%s%s", reply->code, reply->enhanced,
	    reply->enhanced[0] != '\0' ? " " : "", reply->text);
	log_warning("upstream.paced", KV_STR("upstream", u->config->name),
	    per_minute > 0 ? KV_INT("per_minute", per_minute) : KV_STR("per_minute", NULL),
	    KV_INT("connections", upstream_connections_max(u, now_ms)),
	    KV_STR("reply", u->last_error), KV_WHY("the upstream says slow down"), KV_FIX(f->fix));
}

unsigned
upstream_connections_max(const struct upstream *u, uint64_t now_ms)
{
	unsigned most = u->config->connections > 0 ? u->config->connections : 1;

	if (u->cap > 0 && now_ms < u->cap_until_ms && u->cap < most)
		return u->cap;
	return most;
}

/* --- attempts --------------------------------------------------------------------------------- */

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
	if (verdict == VERDICT_ACCEPTED) {
		u->delivered++;
		u->last_success_ms = os_now_ms();
		succeed(u);
		watch_end(link, true, smtp_stage_name(reply->stage), reply->text, "");
		return;
	}
	if (verdict != VERDICT_REPLY && verdict != VERDICT_LOCAL)
		return;
	if (verdict == VERDICT_REPLY && f.class == FAILURE_PACE)
		slow(u, &f, reply);
	else if (verdict == VERDICT_REPLY && f.class == FAILURE_OPERATOR &&
	         f.scope == FAILURE_OF_UPSTREAM) {
		char why[700];

		snprintf(why, sizeof(why), "%s: %d %s %s", smtp_stage_phrase(reply->stage),
		    reply->code, reply->enhanced, reply->text);
		fail(u, f.cause, true, why, f.fix);
	} else if (f.scope != FAILURE_OF_UPSTREAM && u->breaker.state == BREAKER_PROBING &&
	           u->breaker.by_message)
		succeed(u); /* it talks about the message again, not about us */
	if (link->is_test) {
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

static void
link_feed(struct link *link, uint64_t now_ms)
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

/* --- connections ------------------------------------------------------------------------------ */

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
		/* a login proves nothing about a quota; everything else it does */
		if (u->breaker.state == BREAKER_CLOSED || !u->breaker.by_message)
			succeed(u);
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
	link_feed(link, os_boot_ms());
	delivery_kick(u->d);
}

static unsigned
count_ready_links(const struct upstream *u)
{
	const struct link *link;
	unsigned n = 0;

	LL_FOREACH(u->links, link)
	n += link->is_ready && !link->is_ending && !link->is_test;
	return n;
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

/* The kinds of end that say something about the upstream. */
static bool
blame_cause(
    const struct conn_end *end, enum breaker_cause *cause, struct failure *f, const char **fix)
{
	*fix = end->fix;
	switch (end->kind) {
	case SMTP_END_NONE:
	case SMTP_END_QUIT:
	case SMTP_END_IDLE:
	case SMTP_END_DROPPED:
	case SMTP_END_LOCAL:
		return false;
	case SMTP_END_DNS:
	case SMTP_END_CONNECT:
	case SMTP_END_TIMEOUT:
	case SMTP_END_LOST:
		*cause = BREAKER_NETWORK;
		return true;
	case SMTP_END_REPLY:
	case SMTP_END_AUTH:
		*cause = end->kind == SMTP_END_AUTH ? BREAKER_PASSWORD : BREAKER_NETWORK;
		if (end->reply.code >= 400) {
			*f = classify(&end->reply);
			if (f->scope == FAILURE_OF_UPSTREAM)
				*cause = f->cause;
			if ((*fix)[0] == '\0')
				*fix = f->fix;
		}
		return true;
	case SMTP_END_PROTOCOL:
	case SMTP_END_NO_STARTTLS:
	case SMTP_END_TLS:
	case SMTP_END_NO_AUTH:
	case SMTP_END_NO_SECRET:
		*cause = BREAKER_OPERATOR;
		return true;
	}
	return false;
}

/* There is always something to look at. */
static const char *
default_fix(const struct conn_end *end, const struct config_upstream *config)
{
	if (end->kind == SMTP_END_NO_STARTTLS)
		return "ask the provider why it does no STARTTLS now, or use its port for implicit "
		       "TLS "
		       "(465, `tls = implicit`)";
	if (end->kind == SMTP_END_REPLY && end->reply.code >= 400 && end->reply.code < 500)
		return "nothing, if it goes away by itself: relayd tries again. If it stays, ask "
		       "the "
		       "provider";
	if (end->stage == SMTP_STAGE_GREETING && config->tls == CONFIG_TLS_STARTTLS)
		return "check `host` and `port`; a port that wants TLS from the first byte (465) "
		       "needs "
		       "`tls = implicit`";
	return "check `host`, `port` and `tls`, and whether the provider has trouble";
}

static bool
is_amid_message(const struct conn_end *end)
{
	return end->stage >= SMTP_STAGE_MAIL && end->stage <= SMTP_STAGE_END &&
	       (end->kind == SMTP_END_LOST || end->kind == SMTP_END_TIMEOUT ||
	           end->kind == SMTP_END_REPLY || end->kind == SMTP_END_PROTOCOL);
}

/* It let us log in and closes on mail, in words: then the next login proves nothing, or it would be up and
 * down several times a second, with a message at each. */
static bool
is_mended_by_message(const struct conn_end *end)
{
	return end->kind == SMTP_END_REPLY && is_amid_message(end);
}

/* A link has died: is the upstream down? */
static void
blame(struct link *link, const struct conn_end *end)
{
	struct upstream *u = link->u;
	enum breaker_cause cause = BREAKER_NETWORK;
	struct failure f = { 0 };
	const char *fix = "";
	uint64_t now_ms = os_boot_ms();

	if (!blame_cause(end, &cause, &f, &fix)) {
		if (link->is_probe)
			breaker_unasked(&u->breaker, now_ms);
		return;
	}
	snprintf(u->last_error, sizeof(u->last_error), "%s", end->why);
	if (f.class == FAILURE_PACE)
		slow(u, &f, &end->reply);
	if (cause == BREAKER_NETWORK && !link->is_probe) {
		/* it served us well until now: a fresh connection will tell */
		if (end->was_ready && end->served > 0)
			return;
		/* others work: it takes no more than these */
		if (!end->was_ready && count_ready_links(u) > 0) {
			set_cap(u, count_ready_links(u), now_ms);
			return;
		}
	}
	if (fix[0] == '\0' || (end->kind == SMTP_END_TIMEOUT && end->stage == SMTP_STAGE_GREETING))
		fix = default_fix(end, u->config);
	if (end->kind == SMTP_END_AUTH && secret_is_command(u->secret) &&
	    now_ms - u->asked_ms > ASK_EVERY_MS) {
		u->asked_ms = now_ms; /* a token may just have expired */
		loop_want_password(u->d->loop, u->index);
	}
	fail(u, cause, is_mended_by_message(end), end->why, fix);
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
		blame(link, end);
	LL_FOREACH_SAFE(link->returned, a, next)
	{
		/* a message that kills connections must not stop all others for ever */
		if (first && is_amid_message(end) && ++attempt_entry(a)->suspect >= SUSPECT_MOST)
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

/* What a connection needs before it is opened. False: not now; the reason is told. */
static bool
prepare(struct upstream *u, struct span *secret, const char **why, const char **fix)
{
	static struct smtp_trouble trouble;
	uint64_t now_ms = os_boot_ms();
	int r;

	r = secret_get(u->secret, secret);
	if (r == -EAGAIN && now_ms - u->asked_ms > ASK_EVERY_MS) {
		u->asked_ms = now_ms;
		loop_want_password(u->d->loop, u->index);
	}
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

static struct link *
link_open(struct upstream *u, struct span secret, const struct upstream_watch *watch)
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

/* --- the pump --------------------------------------------------------------------------------- */

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
	if (was_closed && count_ready_links(u) == 0 && most > u->n_links + (connecting == 0))
		most = u->n_links + (connecting == 0);
	if (was_closed && (u->n_links >= most || connecting >= waiting))
		return;
	if (!was_closed && connecting > 0)
		return; /* those of before will tell */
	if (!prepare(u, &secret, &why, &fix)) {
		if (u->is_waiting || !breaker_may_try(&u->breaker, now_ms))
			return;
		if (strcmp(u->why, why) != 0)
			log_error("secret.failed", KV_STR("upstream", u->config->name), KV_WHY(why),
			    KV_FIX(fix));
		fail(u, BREAKER_OPERATOR, false, why, fix);
		return;
	}
	if (!was_closed) {
		if (breaker_may_try(&u->breaker, now_ms))
			link_open(u, secret, NULL)->is_probe = true;
		return;
	}
	for (; u->n_links < most && connecting < waiting; connecting++)
		link_open(u, secret, NULL);
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
		link_feed(link, now_ms);
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

const char *
upstream_silence(const struct upstream *u, uint64_t *silent_ms)
{
	const char *phrase = NULL;
	const struct link *link;
	uint64_t waited_ms;

	if (u->breaker.state != BREAKER_CLOSED || count_ready_links(u) > 0)
		return NULL;
	LL_FOREACH(u->links, link)
	if (!link->is_ready && !link->is_test) {
		const char *waiting = conn_waiting(link->conn, &waited_ms);

		if (phrase == NULL || waited_ms > *silent_ms) {
			phrase = waiting;
			*silent_ms = waited_ms;
		}
	}
	return phrase;
}

/* It is given up after minutes, as RFC 5321 has it: somebody looks at the log before. */
static void
warn_of_silence(struct upstream *u)
{
	uint64_t silent_ms = 0;
	const char *phrase = upstream_silence(u, &silent_ms);
	char why[256];

	if (phrase == NULL || silent_ms < SILENT_MS || u->was_silent)
		return;
	u->was_silent = true;
	snprintf(why, sizeof(why), "%s port %u does not answer, while %s: its mail waits",
	    u->config->host, u->config->port, phrase);
	log_warning("upstream.warned", KV_STR("upstream", u->config->name),
	    KV_MS("silent", (int64_t)silent_ms), KV_WHY(why),
	    KV_FIX(
	        "nothing, if it answers soon; else check host, port and tls, and that no firewall "
	        "swallows the connection"));
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
	warn_of_silence(u);
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
		fail(u, BREAKER_OPERATOR, false, secret_why(u->secret), secret_fix(u->secret));
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
		watch->ended(watch->arg, false, "auth", why, fix);
		return NULL;
	}
	link = link_open(u, secret, watch);
	link->test_entry = e;
	return link;
}

void
upstream_unwatch(struct link *link)
{
	link->watch = NULL;
}
