/* conn.c - a socket, a clock, TLS and names around the pure client (smtp/client.c): the life of a
 * connection. Callbacks of libevent only note what happened and call conn_pump(); the pump is the only
 * loop, and its last line is the only place where a connection dies. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delivery/conn_parts.h"
#include "delivery/sasl.h"
#include "delivery/tls.h"

#define BODY_PIECE_MAX 65536

/* ---- the end ---- */

void
conn_fail(struct conn *c, enum smtp_end_kind kind, const struct smtp_trouble *trouble)
{
	static const enum smtp_stage stage_of[] = { [CONN_RESOLVE] = SMTP_STAGE_RESOLVE,
		[CONN_CONNECT] = SMTP_STAGE_CONNECT,
		[CONN_TLS] = SMTP_STAGE_TLS };

	if (c->client.end != SMTP_END_NONE)
		return;
	smtp_client_fail(&c->client, kind, trouble);
	if (c->phase != CONN_SMTP)
		c->client.end_stage = stage_of[c->phase];
}

void
conn_fail_words(struct conn *c, enum smtp_end_kind kind, const char *fmt, ...)
{
	struct smtp_trouble trouble = { 0 };
	va_list args;

	va_start(args, fmt);
	vsnprintf(trouble.why, sizeof(trouble.why), fmt, args);
	va_end(args);
	conn_fail(c, kind, &trouble);
}

static const char *
secret_setting(const struct config_upstream *u)
{
	return u->password_file != NULL         ? "password-file"
	       : u->password_credential != NULL ? "password-credential"
	       : u->password_command != NULL    ? "password-command"
	                                        : "password-file";
}

/* What to change, where the place that saw the trouble could not know. */
static void
suggest(const struct conn *c, struct conn_end *end)
{
	const struct config_upstream *u = c->o.upstream;

	if (end->fix[0] != '\0')
		return;
	switch (end->kind) {
	case SMTP_END_AUTH:
		snprintf(end->fix, sizeof(end->fix),
		    "check username (%s) and the password in %s of upstream \"%s\"",
		    u->username != NULL ? u->username : "none", secret_setting(u), u->name);
		break;
	case SMTP_END_CONNECT:
	case SMTP_END_TIMEOUT:
		if (end->stage != SMTP_STAGE_CONNECT && end->stage != SMTP_STAGE_GREETING)
			break;
		snprintf(end->fix, sizeof(end->fix),
		    "check host and port of upstream \"%s\", and that a firewall lets port %u out "
		    "(many "
		    "networks block 25)",
		    u->name, u->port);
		break;
	default:
		break;
	}
}

static void
conn_free(struct conn *c)
{
	resolver_cancel(c->query);
	conn_close_socket(c);
	event_free(c->timer);
	event_free(c->kick);
	smtp_client_fini(&c->client);
	sasl_free(c->sasl);
	tls_session_free(c->tls);
	smtp_buffer_fini(&c->plain_wire);
	free(c->body);
	free(c);
}

bool
conn_learn(struct conn *c, enum smtp_client_overlap what)
{
	const char *host = c->o.upstream->host;
	int known = resolver_recall(c->o.resolver, host);

	if (known == (int)what || known == SMTP_OVERLAP_NEVER)
		return false;
	resolver_remember(c->o.resolver, host, (int)what);
	return true;
}

static void
conn_end(struct conn *c)
{
	const struct smtp_client *m = &c->client;
	struct conn_end end = { .kind = m->end,
		.stage = m->end_stage,
		.reply = m->end_reply,
		.was_ready = c->was_ready,
		.served = m->served };

	c->dead = true;
	end.is_distrusted = m->out_of_step && conn_learn(c, SMTP_OVERLAP_NEVER);
	conn_say_goodbye(c);
	memcpy(end.why, m->trouble.why, sizeof(end.why));
	memcpy(end.fix, m->trouble.fix, sizeof(end.fix));
	if (end.kind == SMTP_END_AUTH && sasl_refusal(c->sasl)[0] != '\0') {
		size_t len = strlen(end.why);

		snprintf(end.why + len, sizeof(end.why) - len, " (%s)", sasl_refusal(c->sasl));
	}
	suggest(c, &end);
	smtp_client_abandon(&c->client, c->plain_flushed);
	c->on.closed(c->ctx, c, &end);
	conn_free(c);
}

/* ---- the pump ---- */

static void
give_body(struct conn *c)
{
	struct delivery_job *job = c->client.body_job;
	size_t len = c->client.body_len, have = 0;

	if (c->body == NULL)
		c->body = xcalloc(BODY_PIECE_MAX, 1);
	while (have < len) {
		int n = job->read(job, c->client.body_offset + have, c->body + have, len - have);

		if (n <= 0 || (size_t)n > len - have) {
			job->read_error = n < 0 ? n : -EIO;
			conn_fail_words(c, SMTP_END_LOCAL,
			    "the stored message could not be read: %s", strerror(-job->read_error));
			return;
		}
		have += (size_t)n;
	}
	smtp_client_body(&c->client, (struct span){ c->body, len });
	if (c->client.end == SMTP_END_LOCAL)
		job->read_error = -EBADMSG;
}

/* One thing that the client wants. false: nothing more to do now. */
static bool
perform(struct conn *c)
{
	switch (smtp_client_next(&c->client)) {
	case SMTP_CLIENT_READY:
		c->was_ready = true;
		c->on.ready(c->ctx, c);
		return true;
	case SMTP_CLIENT_BODY:
		give_body(c);
		return true;
	case SMTP_CLIENT_WRITE:
		conn_take_flight(c);
		return true;
	case SMTP_CLIENT_START_TLS:
		conn_flush(c);
		if (conn_unsent_bytes(c) > 0)
			return false;
		conn_begin_tls(c);
		return true;
	case SMTP_CLIENT_WAIT:
	case SMTP_CLIENT_END:
		break;
	}
	return false;
}

static bool
is_running(const struct conn *c)
{
	return c->phase == CONN_SMTP && c->client.end == SMTP_END_NONE;
}

void
conn_pump(struct conn *c)
{
	bool is_full;

	if (c->pumping || c->dead)
		return;
	c->pumping = true;
	do {
		is_full = false;
		while (is_running(c) && !(is_full = conn_unsent_bytes(c) >= CONN_WIRE_MAX) &&
		       perform(c))
			;
		conn_flush(c);
	} while (is_full && is_running(c) && conn_unsent_bytes(c) < CONN_WIRE_MAX);
	c->pumping = false;
	if (c->client.overlap == SMTP_OVERLAP_PROVEN && c->client.o.overlap == SMTP_OVERLAP_TRY) {
		c->client.o.overlap = SMTP_OVERLAP_PROVEN;
		conn_learn(c, SMTP_OVERLAP_PROVEN);
	}
	if (c->client.end != SMTP_END_NONE)
		conn_end(c);
	else
		conn_set_deadline(c);
}

static void
on_kick(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	conn_pump(arg);
}

/* ---- for the owner ---- */

static void
on_recipient(
    void *arg, void *job, size_t i, const struct upstream_reply *reply, enum verdict verdict)
{
	struct conn *c = arg;

	c->on.recipient(c->ctx, c, job, i, reply, verdict);
}

static void
on_finished(void *arg, void *job)
{
	struct conn *c = arg;

	c->on.finished(c->ctx, c, job);
}

void
conn_remark(struct conn *c, const char *fmt, ...)
{
	char text[512];
	va_list args;

	if (c->on.trace == NULL)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	c->on.trace(c->ctx, c, '=', span_of(text));
}

static void
on_trace(void *arg, char direction, struct span line)
{
	struct conn *c = arg;

	c->on.trace(c->ctx, c, direction, line);
}

struct conn *
conn_open(const struct conn_options *options, const struct conn_events *events, void *ctx)
{
	const struct config_upstream *u = options->upstream;
	struct conn *c = xcalloc(1, sizeof(*c));
	struct smtp_client_options client = { .helo = options->helo,
		.tls = u->tls,
		.pipelining = u->pipelining,
		.chunking = u->chunking,
		.window = options->window > 0 ? options->window : CONN_WINDOW,
		.overlap = (enum smtp_client_overlap)resolver_recall(options->resolver, u->host),
		.messages_max = u->messages_per_connection,
		.arg = c,
		.recipient = on_recipient,
		.finished = on_finished,
		.trace = events->trace != NULL ? on_trace : NULL };

	c->o = *options;
	c->o.secret = (struct span){ 0 };
	c->on = *events;
	c->ctx = ctx;
	c->fd = -1;
	c->sasl = sasl_new(u, options->secret);
	client.auth = sasl_auth(c->sasl);
	smtp_client_init(&c->client, &client);
	snprintf(c->peer, sizeof(c->peer), "%s:%u", u->host, u->port);
	c->timer = evtimer_new(c->o.base, conn_on_timer, c);
	c->kick = event_new(c->o.base, -1, 0, on_kick, c);
	conn_look_up(c);
	conn_set_deadline(c);
	return c;
}

unsigned
conn_room(const struct conn *c)
{
	return c->was_ready && !c->dead ? smtp_client_room(&c->client) : 0;
}

unsigned
conn_jobs(const struct conn *c)
{
	return c->client.count;
}

static void
kick(struct conn *c)
{
	if (!c->pumping && !c->dead)
		event_active(c->kick, EV_TIMEOUT, 0);
}

int
conn_send(struct conn *c, struct delivery_job *job)
{
	if (conn_room(c) == 0)
		return -EAGAIN;
	job->read_error = 0;
	smtp_client_add(&c->client, &job->envelope, job);
	kick(c);
	return 0;
}

void
conn_quit(struct conn *c)
{
	smtp_client_quit(&c->client);
	if (c->phase != CONN_SMTP || c->client.stage < SMTP_STAGE_IDLE) /* nothing to finish */
		conn_fail_words(c, SMTP_END_DROPPED, "closed by us");
	kick(c);
}

void
conn_drop(struct conn *c)
{
	conn_fail_words(c, SMTP_END_DROPPED, "dropped by us");
	kick(c);
}

unsigned
conn_recipients_max(const struct conn *c)
{
	unsigned most = c->o.upstream->recipients_per_message, theirs = c->client.caps.rcpt_max;

	return theirs > 0 && (most == 0 || theirs < most) ? theirs : most;
}

const struct smtp_capabilities *
conn_capabilities(const struct conn *c)
{
	return c->was_ready ? &c->client.caps : NULL;
}

const char *
conn_peer(const struct conn *c)
{
	return c->peer;
}

const char *
conn_tls(const struct conn *c)
{
	return c->tls != NULL ? tls_session_name(c->tls) : "";
}

const char *
conn_auth(const struct conn *c)
{
	return c->client.mechanism != NULL ? c->client.mechanism : "";
}

void *
conn_ctx(const struct conn *c)
{
	return c->ctx;
}
