/* client.c - the client session. Two tables: what a session does before it can carry mail, and the
 * steps of one message. A reply is matched to the oldest unanswered step and to nothing else; new
 * commands are composed in smtp_client_next() only, when all input has been looked at, so a reply
 * that came before its question is always seen as what it is (C2).
 *
 * It refuses to repair: a body that is not clean CRLF text never leaves (C1), an address that could
 * end a command early never leaves, an AUTH or MAIL before TLS is an assertion (I11). */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smtp/client_parts.h"

#define BODY_PIECE_BYTES 32768

/* clang-format off */
static const char *const end_names[] = {
	[SMTP_END_NONE] = "none",         [SMTP_END_QUIT] = "quit",
	[SMTP_END_IDLE] = "idle",         [SMTP_END_DROPPED] = "dropped",
	[SMTP_END_DNS] = "dns",           [SMTP_END_CONNECT] = "connect",
	[SMTP_END_TIMEOUT] = "timeout",   [SMTP_END_LOST] = "lost",
	[SMTP_END_REPLY] = "reply",       [SMTP_END_PROTOCOL] = "protocol",
	[SMTP_END_NO_STARTTLS] = "no-starttls", [SMTP_END_TLS] = "tls",
	[SMTP_END_NO_AUTH] = "no-auth",   [SMTP_END_AUTH] = "auth",
	[SMTP_END_NO_SECRET] = "no-secret", [SMTP_END_LOCAL] = "local",
};
/* clang-format on */

const char *
smtp_end_kind_name(enum smtp_end_kind kind)
{
	return (size_t)kind < ARRAY_LEN(end_names) ? end_names[kind] : "unknown";
}

void
smtp_trouble_why(struct smtp_trouble *trouble, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(trouble->why, sizeof(trouble->why), fmt, args);
	va_end(args);
}

void
smtp_trouble_fix(struct smtp_trouble *trouble, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(trouble->fix, sizeof(trouble->fix), fmt, args);
	va_end(args);
}

void
smtp_client_init(struct smtp_client *c, const struct smtp_client_options *options)
{
	memset(c, 0, offsetof(struct smtp_client, parser));
	memset(&c->reply, 0, sizeof(*c) - offsetof(struct smtp_client, reply));
	c->o = *options;
	if (c->o.window < 1)
		c->o.window = 1;
	if (c->o.window > SMTP_CLIENT_WINDOW_MAX)
		c->o.window = SMTP_CLIENT_WINDOW_MAX;
	c->overlap = c->o.overlap;
	c->stage = SMTP_STAGE_GREETING;
	c->awaiting = true;
	smtp_reply_init(&c->parser);
}

void
smtp_client_fini(struct smtp_client *c)
{
	for (size_t i = 0; i < ARRAY_LEN(c->ring); i++) {
		free(c->ring[i].rcpt);
		free(c->ring[i].refusals);
	}
	if (c->out.data != NULL)
		wipe(c->out.data, c->out.size); /* it may have carried a password */
	smtp_buffer_fini(&c->out);
}

/* ---- the end ---- */

void
client_end(struct smtp_client *c, enum smtp_end_kind kind)
{
	if (c->end != SMTP_END_NONE)
		return;
	c->end_stage = c->closing ? c->end_reply.stage : smtp_client_waits_for(c);
	c->end = kind;
}

void
client_protocol_error(struct smtp_client *c, const char *what)
{
	if (c->end != SMTP_END_NONE)
		return;
	/* all is done: how it says goodbye is its own affair */
	if (c->stage == SMTP_STAGE_QUIT && !client_holds(c)) {
		client_end(c, SMTP_END_QUIT);
		return;
	}
	smtp_trouble_why(&c->trouble, "the upstream does not follow SMTP: %s, while %s", what,
	    smtp_stage_phrase(smtp_client_waits_for(c)));
	smtp_trouble_fix(&c->trouble, "check host and port (465 wants tls = implicit)");
	client_end(c, SMTP_END_PROTOCOL);
}

/* A reply that its command cannot have got: all since the last mark are in doubt. */
void
client_out_of_step(struct smtp_client *c, const char *what)
{
	c->out_of_step = true;
	if (c->end != SMTP_END_NONE)
		return;
	client_protocol_error(c, what);
	if (c->end == SMTP_END_PROTOCOL)
		smtp_trouble_fix(
		    &c->trouble, "tell the provider: its replies do not follow what is asked");
}

/* The session ends because of the words in c->reply. */
void
client_end_by_reply(struct smtp_client *c, enum smtp_end_kind kind, const char *what)
{
	if (c->end != SMTP_END_NONE)
		return;
	c->end_reply = c->reply;
	smtp_trouble_why(&c->trouble, "%s: %d %s%s%s", what, c->reply.code, c->reply.enhanced,
	    c->reply.enhanced[0] != '\0' ? " " : "", c->reply.text);
	client_end(c, kind);
	c->end_stage = c->reply.stage;
}

void
smtp_client_fail(struct smtp_client *c, enum smtp_end_kind kind, const struct smtp_trouble *trouble)
{
	if (c->end != SMTP_END_NONE)
		return;
	if (c->closing) { /* the 421 is the reason, not what followed */
		client_end(c, SMTP_END_REPLY);
		return;
	}
	if (c->stage == SMTP_STAGE_QUIT)
		kind = SMTP_END_QUIT;
	c->trouble = *trouble;
	client_end(c, kind);
}

void
smtp_client_eof(struct smtp_client *c)
{
	struct smtp_trouble trouble = { 0 };
	enum smtp_stage stage = smtp_client_waits_for(c);

	if (stage == SMTP_STAGE_QUIT || (c->quitting && stage == SMTP_STAGE_IDLE)) {
		client_end(c, SMTP_END_QUIT);
		return;
	}
	c->closed = c->closing;
	if (stage == SMTP_STAGE_IDLE) { /* nothing was sent that it could have answered */
		smtp_trouble_why(&trouble, "the upstream closed the idle connection");
		smtp_client_fail(c, SMTP_END_IDLE, &trouble);
		return;
	}
	smtp_trouble_why(
	    &trouble, "the upstream closed the connection while %s", smtp_stage_phrase(stage));
	smtp_client_fail(c, SMTP_END_LOST, &trouble);
}

/* ---- transactions ---- */

struct smtp_client_transaction *
client_nth(const struct smtp_client *c, unsigned i)
{
	return (
	    struct smtp_client_transaction *)(uintptr_t)&c->ring[(c->head + i) % SMTP_CLIENT_RING];
}

/* The one that the next reply belongs to; NULL: none is due. */
struct smtp_client_transaction *
client_oldest_unanswered(const struct smtp_client *c)
{
	for (unsigned i = 0; i < c->count; i++)
		if (client_nth(c, i)->taken < client_nth(c, i)->sent)
			return client_nth(c, i);
	return NULL;
}

bool
client_is_pipelining(const struct smtp_client *c)
{
	return c->o.pipelining && smtp_capability_has(&c->caps, SMTP_CAP_PIPELINING);
}

void
smtp_client_add(struct smtp_client *c, const struct smtp_envelope *envelope, void *job)
{
	struct smtp_client_transaction *t;
	unsigned char *rcpt;
	size_t size;

	assert(smtp_client_room(c) > 0 && envelope->n_recipients > 0);
	t = client_nth(c, c->count++);
	rcpt = t->rcpt;
	size = t->rcpt_size;
	if (size < envelope->n_recipients) {
		size = envelope->n_recipients;
		rcpt = xrealloc(rcpt, size, 1);
	}
	memset(rcpt, SMTP_RCPT_PENDING, envelope->n_recipients);
	*t = (struct smtp_client_transaction){ .envelope = envelope,
		.job = job,
		.rcpt = rcpt,
		.rcpt_size = size,
		.at_line_start = true };
	c->messages++;
	c->offered = false;
}

void
smtp_client_quit(struct smtp_client *c)
{
	c->quitting = true;
}

size_t
client_mail_step(const struct smtp_client_transaction *t)
{
	return t->rset ? 1 : 0;
}

size_t
client_data_step(const struct smtp_client_transaction *t)
{
	return client_mail_step(t) + 1 + t->envelope->n_recipients;
}

enum smtp_stage
client_stage_of(const struct smtp_client_transaction *t, size_t step)
{
	if (step < client_mail_step(t))
		return SMTP_STAGE_RSET;
	if (step == client_mail_step(t))
		return SMTP_STAGE_MAIL;
	if (step < client_data_step(t))
		return SMTP_STAGE_RCPT;
	return step == client_data_step(t) && !t->bdat ? SMTP_STAGE_DATA : SMTP_STAGE_END;
}

void
client_give_verdict(struct smtp_client *c, struct smtp_client_transaction *t, size_t i,
    const struct upstream_reply *reply, enum verdict verdict)
{
	if (t->rcpt[i] == SMTP_RCPT_DONE || t->rcpt[i] == SMTP_RCPT_SKIPPED)
		return;
	if (t->rcpt[i] == SMTP_RCPT_ACCEPTED)
		t->accepted--;
	/* A recipient without a RCPT of its own has no reply to wait for. */
	t->rcpt[i] = t->sent <= client_mail_step(t) + 1 + i ? SMTP_RCPT_SKIPPED : SMTP_RCPT_DONE;
	c->o.recipient(c->o.arg, t->job, i, reply, verdict);
}

/* The same verdict for all that have none yet. */
void
client_give_verdicts(struct smtp_client *c, struct smtp_client_transaction *t,
    const struct upstream_reply *reply, enum verdict verdict)
{
	for (size_t i = 0; i < t->envelope->n_recipients; i++)
		client_give_verdict(c, t, i, reply, verdict);
}

/* Steps of recipients that were never named are answered by nobody. */
void
client_skip_unsent(struct smtp_client_transaction *t)
{
	while (t->taken < t->sent && client_stage_of(t, t->taken) == SMTP_STAGE_RCPT &&
	       t->rcpt[t->taken - client_mail_step(t) - 1] == SMTP_RCPT_SKIPPED)
		t->taken++;
}

void
client_finish_oldest(struct smtp_client *c)
{
	struct smtp_client_transaction *t = client_nth(c, 0);

	free(t->refusals);
	t->refusals = NULL;
	c->head = (c->head + 1) % SMTP_CLIENT_RING;
	c->count--;
	c->offered = false;
	c->o.finished(c->o.arg, t->job);
}

void
client_finish_complete(struct smtp_client *c)
{
	while (c->count > 0 && client_is_complete(client_nth(c, 0)) && !client_nth(c, 0)->held)
		client_finish_oldest(c);
}

/* clang-format off */
const struct client_stage client_stages[] = {
	[SMTP_STAGE_GREETING] = { NULL,          client_take_greeting },
	[SMTP_STAGE_EHLO]     = { client_send_ehlo,     client_take_ehlo },
	[SMTP_STAGE_STARTTLS] = { client_send_starttls, client_take_starttls },
	[SMTP_STAGE_AUTH]     = { client_send_auth,     client_take_auth },
	[SMTP_STAGE_RSET]     = { client_send_rset,     client_take_rset },
	[SMTP_STAGE_MAIL]     = { client_send_mail,     client_take_mail },
	[SMTP_STAGE_RCPT]     = { client_send_rcpt,     client_take_rcpt },
	[SMTP_STAGE_DATA]     = { client_send_data,     client_take_data },
	[SMTP_STAGE_END]      = { client_send_end,      client_take_end },
	[SMTP_STAGE_QUIT]     = { client_send_quit,     client_take_quit },
};
/* clang-format on */

/* ---- when it leaves ---- */

/* May the data step of `t` leave? If it never will, the transaction is over. */
static bool
may_send_data(struct smtp_client *c, struct smtp_client_transaction *t)
{
	if (t->taken == t->sent) { /* every recipient's reply is known */
		t->over = t->accepted == 0;
		return !t->over;
	}
	return client_is_pipelining(c);
}

static bool
may_send(struct smtp_client *c, struct smtp_client_transaction *t)
{
	if (!client_is_pipelining(c) && client_oldest_unanswered(c) != NULL)
		return false;
	if (t->mail_failed && t->sent <= client_data_step(t)) {
		t->over = true;
		return false;
	}
	if (t->sent == client_data_step(t))
		return may_send_data(c, t);
	return t->sent < client_data_step(t); /* after DATA: the 354, then the body */
}

static void
begin(struct smtp_client *c, struct smtp_client_transaction *t, unsigned i)
{
	t->overlapped = client_oldest_unanswered(c) != NULL;
	t->rset = c->dirty;
	t->bdat = client_goes_by_bdat(c, i);
}

static void
send_step(struct smtp_client *c, struct smtp_client_transaction *t, unsigned i)
{
	enum smtp_stage stage;
	size_t step;

	if (t->sent == 0)
		begin(c, t, i);
	step = t->sent++;
	stage = client_stage_of(t, step);
	client_stages[stage].send(
	    c, t, stage == SMTP_STAGE_RCPT ? step - client_mail_step(t) - 1 : 0);
	client_skip_unsent(t);
}

/* Sets what smtp_client_body() is to be given. false: the body is complete and ended. */
static bool
want_body(struct smtp_client *c, struct smtp_client_transaction *t)
{
	uint64_t left = t->envelope->bytes - t->body_sent;

	if (left == 0 || (!t->bdat && t->accepted == 0)) { /* RFC 2920 3.1: a lone dot */
		client_end_body(c, t);
		return false;
	}
	c->body_job = t->job;
	c->body_offset = t->body_sent;
	c->body_len = left < BODY_PIECE_BYTES ? (size_t)left : BODY_PIECE_BYTES;
	return true;
}

/* Composes the flight. true: a piece of a body is wanted first. */
static bool
compose(struct smtp_client *c)
{
	for (unsigned i = 0; i < c->count; i++)
		if (!client_nth(c, i)->checked)
			client_check(c, client_nth(c, i));
	for (unsigned i = 0; i < c->count; i++) {
		struct smtp_client_transaction *t = client_nth(c, i);

		while (!t->over && c->out.len < SMTP_CLIENT_FLIGHT_MAX) {
			if (t->body_wanted) {
				if (want_body(c, t))
					return true;
			} else if (may_send(c, t)) {
				send_step(c, t, i);
			} else {
				break;
			}
		}
		if (!t->over)
			break;
	}
	return false;
}

static void
send_session(struct smtp_client *c)
{
	if (smtp_reply_is_partial(&c->parser)) { /* it talks before it was asked */
		client_protocol_error(c, "more than one reply to one command");
		return;
	}
	c->stage = c->todo;
	c->todo = SMTP_STAGE_NONE;
	c->awaiting = true;
	client_stages[c->stage].send(c, NULL, 0);
}

static bool
offer(struct smtp_client *c)
{
	if (c->offered || smtp_client_room(c) == 0)
		return false;
	c->offered = true;
	return true;
}

enum smtp_client_action
smtp_client_next(struct smtp_client *c)
{
	if (c->end == SMTP_END_NONE && c->todo != SMTP_STAGE_NONE)
		send_session(c);
	if (c->end == SMTP_END_NONE && c->stage == SMTP_STAGE_IDLE && !c->closing) {
		if (offer(c))
			return SMTP_CLIENT_READY;
		if (compose(c))
			return SMTP_CLIENT_BODY;
		client_finish_complete(c);
		if (offer(c))
			return SMTP_CLIENT_READY;
		/* what is held and has no mark ahead of it waits for that of QUIT */
		if (client_count_under_way(c) == 0 &&
		    (c->quitting || client_is_used_up(c) || c->count > 0)) {
			c->quitting = true;
			c->todo = SMTP_STAGE_QUIT;
			send_session(c);
		}
	}
	if (c->end != SMTP_END_NONE)
		return SMTP_CLIENT_END;
	if (c->out.len > 0)
		return SMTP_CLIENT_WRITE;
	return c->start_tls ? SMTP_CLIENT_START_TLS : SMTP_CLIENT_WAIT;
}

void
smtp_client_wrote(struct smtp_client *c)
{
	if (c->stage == SMTP_STAGE_AUTH)
		wipe(c->out.data, c->out.size);
	smtp_buffer_clear(&c->out);
}

void
smtp_client_secured(struct smtp_client *c)
{
	c->secured = true;
	c->start_tls = false;
	smtp_capability_reset(&c->caps);
	if (c->stage == SMTP_STAGE_STARTTLS) /* everything learned in clear is forgotten */
		c->todo = SMTP_STAGE_EHLO;
}

/* ---- waiting, and the last words ---- */

bool
smtp_client_is_proving(const struct smtp_client *c)
{
	const struct smtp_client_transaction *t = client_oldest_unanswered(c);

	return c->overlap == SMTP_OVERLAP_TRY && t != NULL && t->overlapped && t->taken == 0;
}

enum smtp_stage
smtp_client_waits_for(const struct smtp_client *c)
{
	const struct smtp_client_transaction *t = client_oldest_unanswered(c);

	if (c->start_tls)
		return SMTP_STAGE_TLS;
	if (c->stage != SMTP_STAGE_IDLE)
		return c->stage;
	for (unsigned i = 0; i < c->count; i++)
		if (client_nth(c, i)->body_wanted && !client_nth(c, i)->over)
			return SMTP_STAGE_BODY;
	if (t != NULL)
		return client_stage_of(t, t->taken);
	for (unsigned i = 0; i < c->count; i++)
		if (!client_is_complete(client_nth(c, i)) && client_nth(c, i)->sent > 0)
			return client_stage_of(client_nth(c, i), client_nth(c, i)->sent);
	return SMTP_STAGE_IDLE;
}

void
smtp_client_abandon(struct smtp_client *c, uint64_t flushed)
{
	assert(c->end != SMTP_END_NONE);
	while (c->count > 0) {
		struct smtp_client_transaction *t = client_nth(c, 0);
		struct upstream_reply reply = { .stage = c->end_stage };
		enum verdict verdict = client_verdict_at_end(c, t, flushed);

		if (verdict == VERDICT_LOCAL)
			smtp_reply_say(&reply, SMTP_STAGE_BODY, 451, "4.3.0", c->trouble.why);
		else
			smtp_reply_clean(span_of(c->trouble.why), reply.text, sizeof(reply.text));
		client_settle_certain(c, t);
		client_give_verdicts(c, t, &reply, verdict);
		client_finish_oldest(c);
	}
}
