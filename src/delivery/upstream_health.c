/* upstream_health.c - what logins, verdicts and dead connections say about an upstream (upstream.h): up, down, or to
 * be spared; and what people are told of it. */
#include <stdio.h>

#include <utlist.h>

#include "base/log.h"
#include "base/os.h"
#include "delivery/conn.h"
#include "delivery/delivery.h"
#include "delivery/upstream_parts.h"

#define CAP_MS (60 * 1000)       /* how long fewer connections are tried after a refusal */
#define CAP_BURST_MS 2000        /* refusals of connections that were begun together count once */
#define ASK_EVERY_MS (10 * 1000) /* password-command */
#define SILENT_MS (15 * 1000)    /* without an answer: told, long before it is given up */

/* --- up and down ------------------------------------------------------------------------------ */

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

void
upstream_fail(
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

/* --- slower ----------------------------------------------------------------------------------- */

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

/* --- what shows it ---------------------------------------------------------------------------- */

void
upstream_note_login(struct upstream *u)
{
	/* it proves nothing about a quota; everything else it does */
	if (u->breaker.state == BREAKER_CLOSED || !u->breaker.by_message)
		succeed(u);
}

void
upstream_note_verdict(struct upstream *u, const struct upstream_reply *reply, enum verdict verdict,
    const struct failure *f)
{
	if (verdict == VERDICT_ACCEPTED) {
		u->delivered++;
		u->last_success_ms = os_now_ms();
		succeed(u);
		return;
	}
	if (verdict != VERDICT_REPLY && verdict != VERDICT_LOCAL)
		return;
	if (verdict == VERDICT_REPLY && f->class == FAILURE_PACE)
		slow(u, f, reply);
	else if (verdict == VERDICT_REPLY && f->class == FAILURE_OPERATOR &&
	         f->scope == FAILURE_OF_UPSTREAM) {
		char why[700];

		snprintf(why, sizeof(why), "%s: %d %s %s", smtp_stage_phrase(reply->stage),
		    reply->code, reply->enhanced, reply->text);
		upstream_fail(u, f->cause, true, why, f->fix);
	} else if (f->scope != FAILURE_OF_UPSTREAM && u->breaker.state == BREAKER_PROBING &&
	           u->breaker.by_message)
		succeed(u); /* it talks about the message again, not about us */
}

void
upstream_ask_password(struct upstream *u, uint64_t now_ms)
{
	if (now_ms - u->asked_ms <= ASK_EVERY_MS)
		return;
	u->asked_ms = now_ms;
	loop_want_password(u->d->loop, u->index);
}

unsigned
upstream_count_ready_links(const struct upstream *u)
{
	const struct link *link;
	unsigned n = 0;

	LL_FOREACH(u->links, link)
	n += link->is_ready && !link->is_ending && !link->is_test;
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

bool
upstream_end_is_amid_message(const struct conn_end *end)
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
	return end->kind == SMTP_END_REPLY && upstream_end_is_amid_message(end);
}

void
upstream_blame(struct link *link, const struct conn_end *end)
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
		if (!end->was_ready && upstream_count_ready_links(u) > 0) {
			set_cap(u, upstream_count_ready_links(u), now_ms);
			return;
		}
	}
	if (fix[0] == '\0' || (end->kind == SMTP_END_TIMEOUT && end->stage == SMTP_STAGE_GREETING))
		fix = default_fix(end, u->config);
	if (end->kind == SMTP_END_AUTH && secret_is_command(u->secret))
		upstream_ask_password(u, now_ms); /* a token may just have expired */
	upstream_fail(u, cause, is_mended_by_message(end), end->why, fix);
}

/* --- silence ---------------------------------------------------------------------------------- */

const char *
upstream_silence(const struct upstream *u, uint64_t *silent_ms)
{
	const char *phrase = NULL;
	const struct link *link;
	uint64_t waited_ms;

	if (u->breaker.state != BREAKER_CLOSED || upstream_count_ready_links(u) > 0)
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

void
upstream_warn_of_silence(struct upstream *u)
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
	    KV_FIX("nothing, if it answers soon; else check host, port and tls (a port that speaks "
	           "TLS "
	           "from the start wants tls = implicit), and that no firewall swallows the "
	           "connection"));
}
