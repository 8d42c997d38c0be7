/* client.c - the client session. Two tables: what a session does before it can carry mail, and the
 * steps of one message. A reply is matched to the oldest unanswered step and to nothing else; new
 * commands are composed in smtp_client_next() only, when all input has been looked at, so a reply
 * that came before its question is always seen as what it is (C2).
 *
 * It refuses to repair: a body that is not clean CRLF text never leaves (C1), an address that could
 * end a command early never leaves, an AUTH or MAIL before TLS is an assertion (I11). */
#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smtp/base64.h"
#include "smtp/client.h"

#define SPECULATE_BYTES (256 * 1024) /* a larger BDAT waits for its recipients' replies */
#define AUTH_ROUNDS_MAX 16
#define BODY_PIECE_BYTES 32768

struct stage {
	void (*send)(struct smtp_client *, struct smtp_client_transaction *, size_t i);
	void (*take)(struct smtp_client *, struct smtp_client_transaction *, size_t i);
};
static const struct stage stages[];

static void send_line(struct smtp_client *c, const char *fmt, ...) PRINTF_LIKE(2, 3);

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
	c->stage = SMTP_STAGE_GREETING;
	c->awaiting = true;
	smtp_reply_init(&c->parser);
}

void
smtp_client_fini(struct smtp_client *c)
{
	for (size_t i = 0; i < ARRAY_LEN(c->ring); i++)
		free(c->ring[i].rcpt);
	if (c->out.data != NULL)
		wipe(c->out.data, c->out.size); /* it may have carried a password */
	smtp_buffer_fini(&c->out);
}

/* ---- the end ---- */

static void
end_session(struct smtp_client *c, enum smtp_end_kind kind)
{
	if (c->end != SMTP_END_NONE)
		return;
	c->end_stage = c->closing ? c->end_reply.stage : smtp_client_waits_for(c);
	c->end = kind;
}

static void
protocol_error(struct smtp_client *c, const char *what)
{
	if (c->end != SMTP_END_NONE)
		return;
	smtp_trouble_why(&c->trouble, "the upstream does not follow SMTP: %s, while %s", what,
	    smtp_stage_phrase(smtp_client_waits_for(c)));
	smtp_trouble_fix(&c->trouble, "check host and port (465 wants tls = implicit)");
	end_session(c, SMTP_END_PROTOCOL);
}

/* The session ends because of the words in c->reply. */
static void
end_by_reply(struct smtp_client *c, enum smtp_end_kind kind, const char *what)
{
	if (c->end != SMTP_END_NONE)
		return;
	c->end_reply = c->reply;
	smtp_trouble_why(&c->trouble, "%s: %d %s%s%s", what, c->reply.code, c->reply.enhanced,
	    c->reply.enhanced[0] != '\0' ? " " : "", c->reply.text);
	end_session(c, kind);
	c->end_stage = c->reply.stage;
}

void
smtp_client_fail(struct smtp_client *c, enum smtp_end_kind kind, const struct smtp_trouble *trouble)
{
	if (c->end != SMTP_END_NONE)
		return;
	if (c->closing) { /* the 421 is the reason, not what followed */
		end_session(c, SMTP_END_REPLY);
		return;
	}
	c->trouble = *trouble;
	end_session(c, kind);
}

void
smtp_client_eof(struct smtp_client *c)
{
	struct smtp_trouble trouble = { 0 };
	enum smtp_stage stage = smtp_client_waits_for(c);

	if (stage == SMTP_STAGE_QUIT || (c->quitting && stage == SMTP_STAGE_IDLE)) {
		end_session(c, SMTP_END_QUIT);
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

static struct smtp_client_transaction *
nth(const struct smtp_client *c, unsigned i)
{
	return (struct smtp_client_transaction *)(uintptr_t)&c
	    ->ring[(c->head + i) % SMTP_CLIENT_WINDOW_MAX];
}

static bool
is_pipelining(const struct smtp_client *c)
{
	return c->o.pipelining && smtp_capability_has(&c->caps, SMTP_CAP_PIPELINING);
}

static bool
is_chunking(const struct smtp_client *c)
{
	return c->o.chunking && smtp_capability_has(&c->caps, SMTP_CAP_CHUNKING);
}

static unsigned
messages_max(const struct smtp_client *c)
{
	unsigned most = c->o.messages_max;

	if (c->caps.mail_max > 0 && (most == 0 || c->caps.mail_max < most))
		most = c->caps.mail_max;
	return most;
}

static bool
is_used_up(const struct smtp_client *c)
{
	return messages_max(c) > 0 && c->messages >= messages_max(c);
}

unsigned
smtp_client_room(const struct smtp_client *c)
{
	unsigned room, most = messages_max(c);

	if (c->stage != SMTP_STAGE_IDLE || c->quitting || c->closing || c->end != SMTP_END_NONE ||
	    is_used_up(c))
		return 0;
	if (!is_pipelining(c))
		room = c->count == 0;
	else if (is_chunking(c))
		room = c->o.window - c->count;
	else
		room = c->count == 0 ||
		       (c->count == 1 && ((nth(c, 0)->body_wanted && nth(c, 0)->accepted > 0) ||
		                             nth(c, 0)->over));
	if (most > 0 && room > most - c->messages)
		room = most - c->messages;
	return room;
}

void
smtp_client_add(struct smtp_client *c, const struct smtp_envelope *envelope, void *job)
{
	struct smtp_client_transaction *t;
	unsigned char *rcpt;
	size_t size;

	assert(smtp_client_room(c) > 0 && envelope->n_recipients > 0);
	t = nth(c, c->count++);
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
		.bdat = is_chunking(c),
		.at_line_start = true };
	c->messages++;
	c->offered = false;
}

void
smtp_client_quit(struct smtp_client *c)
{
	c->quitting = true;
}

static size_t
mail_step(const struct smtp_client_transaction *t)
{
	return t->rset ? 1 : 0;
}

static size_t
data_step(const struct smtp_client_transaction *t)
{
	return mail_step(t) + 1 + t->envelope->n_recipients;
}

static enum smtp_stage
stage_of(const struct smtp_client_transaction *t, size_t step)
{
	if (step < mail_step(t))
		return SMTP_STAGE_RSET;
	if (step == mail_step(t))
		return SMTP_STAGE_MAIL;
	if (step < data_step(t))
		return SMTP_STAGE_RCPT;
	return step == data_step(t) && !t->bdat ? SMTP_STAGE_DATA : SMTP_STAGE_END;
}

static void
give_verdict(struct smtp_client *c, struct smtp_client_transaction *t, size_t i,
    const struct upstream_reply *reply, enum verdict verdict)
{
	if (t->rcpt[i] == SMTP_RCPT_DONE || t->rcpt[i] == SMTP_RCPT_SKIPPED)
		return;
	if (t->rcpt[i] == SMTP_RCPT_ACCEPTED)
		t->accepted--;
	/* A recipient without a RCPT of its own has no reply to wait for. */
	t->rcpt[i] = t->sent <= mail_step(t) + 1 + i ? SMTP_RCPT_SKIPPED : SMTP_RCPT_DONE;
	c->o.recipient(c->o.arg, t->job, i, reply, verdict);
}

/* The same verdict for all in `state` (or, with PENDING, for all that have none yet). */
static void
give_verdicts(struct smtp_client *c, struct smtp_client_transaction *t, enum smtp_client_rcpt state,
    const struct upstream_reply *reply, enum verdict verdict)
{
	struct upstream_reply copy = *reply; /* callbacks may lead to another reply */

	for (size_t i = 0; i < t->envelope->n_recipients; i++)
		if (state == SMTP_RCPT_PENDING || t->rcpt[i] == state)
			give_verdict(c, t, i, &copy, verdict);
}

/* Steps of recipients that were never named are answered by nobody. */
static void
skip_unsent(struct smtp_client_transaction *t)
{
	while (t->taken < t->sent && stage_of(t, t->taken) == SMTP_STAGE_RCPT &&
	       t->rcpt[t->taken - mail_step(t) - 1] == SMTP_RCPT_SKIPPED)
		t->taken++;
}

static void
finish_complete(struct smtp_client *c)
{
	while (c->count > 0 && nth(c, 0)->over && nth(c, 0)->taken == nth(c, 0)->sent) {
		void *job = nth(c, 0)->job;

		c->head = (c->head + 1) % SMTP_CLIENT_WINDOW_MAX;
		c->count--;
		c->offered = false;
		c->o.finished(c->o.arg, job);
	}
}

/* ---- what leaves ---- */

static void
trace(struct smtp_client *c, char direction, struct span line)
{
	if (c->o.trace != NULL)
		c->o.trace(c->o.arg, direction, line);
}

static void
put(struct smtp_client *c, struct span bytes)
{
	smtp_buffer_add(&c->out, bytes);
	c->out_total += bytes.len;
}

/* The line that begins at offset `from` of out is complete: end it, and show it. */
static void
end_line(struct smtp_client *c, size_t from)
{
	trace(c, '>', span_skip(smtp_buffer_span(&c->out), from));
	put(c, SPAN("\r\n"));
}

static void
send_line(struct smtp_client *c, const char *fmt, ...)
{
	char line[512];
	size_t from = c->out.len;
	va_list args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	put(c, span_of(line));
	end_line(c, from);
}

/* I11: the only ways to AUTH and MAIL lead through here. */
static void
before_mail(const struct smtp_client *c)
{
	assert(c->secured || c->o.tls == CONFIG_TLS_NONE);
}

static void
send_ehlo(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	smtp_capability_reset(&c->caps);
	send_line(c, "%s %s", c->helo ? "HELO" : "EHLO", c->o.helo);
}

static void
send_starttls(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	send_line(c, "STARTTLS");
}

/* Sends a response, or with an empty verb `*`; what is shown of it are asterisks. */
static void
send_secret(struct smtp_client *c, const char *verb, const char *raw, size_t len)
{
	char *text = xcalloc(BASE64_SIZE(len), 1);

	base64_encode((struct span){ raw, len }, text);
	put(c, span_of(verb));
	put(c, len == 0 && verb[0] != '\0' ? SPAN("=") : span_of(text));
	put(c, SPAN("\r\n"));
	wipe(text, BASE64_SIZE(len));
	free(text);
	if (c->o.trace != NULL) {
		char shown[80];

		snprintf(shown, sizeof(shown), "%s%s", verb, len == 0 ? "=" : "********");
		trace(c, '>', span_of(shown));
	}
}

static void
auth_step(struct smtp_client *c, const char *verb, struct span challenge)
{
	char response[SMTP_AUTH_BYTES_MAX];
	size_t len = 0;

	if (c->o.auth->step(c->o.auth, challenge, response, &len, &c->trouble) == SMTP_AUTH_SEND) {
		send_secret(c, verb, response, len);
	} else if (verb[0] == '\0') {
		c->auth_cancelled = true;
		send_line(c, "*");
	} else { /* nothing was begun, so there is nothing to cancel */
		end_session(c, SMTP_END_AUTH);
	}
	wipe(response, sizeof(response));
}

static void
answer_challenge(struct smtp_client *c)
{
	char raw[SMTP_REPLY_CHALLENGE_MAX];
	struct span text = c->parser.line;
	size_t len = 0;

	while (text.len > 0 && text.data[text.len - 1] == ' ')
		text.len--;
	if (++c->auth_rounds > AUTH_ROUNDS_MAX || c->parser.lines > 1 ||
	    !base64_decode(text, raw, &len)) {
		smtp_trouble_why(&c->trouble, "the upstream's %s challenge is %s", c->mechanism,
		    c->auth_rounds > AUTH_ROUNDS_MAX ? "one too many" : "not base64");
		c->auth_cancelled = true;
		send_line(c, "*");
	} else {
		auth_step(c, "", (struct span){ raw, len });
	}
	wipe(raw, sizeof(raw));
}

static void
send_auth(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	enum smtp_end_kind kind = SMTP_END_NO_AUTH;
	char verb[64];

	(void)t, (void)i;
	before_mail(c);
	if (c->auth_begun) {
		answer_challenge(c);
		return;
	}
	c->mechanism = c->o.auth->choose(c->o.auth, &c->caps, &c->trouble, &kind);
	if (c->mechanism == NULL) {
		end_session(c, kind);
		return;
	}
	c->auth_begun = true;
	c->parser.line_max = SMTP_REPLY_CHALLENGE_MAX;
	snprintf(verb, sizeof(verb), "AUTH %s ", c->mechanism);
	if (c->o.auth->client_first)
		auth_step(c, verb, SPAN(""));
	else
		send_line(c, "AUTH %s", c->mechanism);
}

static void
send_rset(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	send_line(c, "RSET");
	c->dirty = false;
}

static void
send_mail(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	const struct smtp_envelope *e = t->envelope;
	size_t from = c->out.len;
	char number[48];

	(void)i;
	before_mail(c);
	put(c, SPAN("MAIL FROM:<"));
	put(c, e->sender);
	put(c, SPAN(">"));
	if (smtp_capability_has(&c->caps, SMTP_CAP_SIZE)) {
		snprintf(number, sizeof(number), " SIZE=%" PRIu64, e->bytes);
		put(c, span_of(number));
	}
	if ((e->flags & SMTP_ENVELOPE_8BIT) != 0 &&
	    smtp_capability_has(&c->caps, SMTP_CAP_8BITMIME))
		put(c, SPAN(" BODY=8BITMIME"));
	if ((e->flags & SMTP_ENVELOPE_UTF8) != 0)
		put(c, SPAN(" SMTPUTF8"));
	if (smtp_capability_has(&c->caps, SMTP_CAP_DSN)) {
		if (e->ret != SMTP_ENVELOPE_RET_NONE)
			put(c, e->ret == SMTP_ENVELOPE_RET_FULL ? SPAN(" RET=FULL")
			                                        : SPAN(" RET=HDRS"));
		if (e->envid.len > 0) {
			put(c, SPAN(" ENVID="));
			put(c, e->envid);
		}
	}
	end_line(c, from);
}

static void
put_notify(struct smtp_client *c, unsigned notify)
{
	static const struct {
		unsigned bit;
		struct span word;
	} words[] = { { SMTP_ENVELOPE_NOTIFY_SUCCESS, { "SUCCESS", 7 } },
		{ SMTP_ENVELOPE_NOTIFY_FAILURE, { "FAILURE", 7 } },
		{ SMTP_ENVELOPE_NOTIFY_DELAY, { "DELAY", 5 } } };
	bool more = false;

	put(c, SPAN(" NOTIFY="));
	if ((notify & SMTP_ENVELOPE_NOTIFY_NEVER) != 0) {
		put(c, SPAN("NEVER"));
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		if ((notify & words[i].bit) == 0)
			continue;
		if (more)
			put(c, SPAN(","));
		put(c, words[i].word);
		more = true;
	}
}

static void
send_rcpt(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	const struct smtp_envelope_recipient *r = &t->envelope->recipients[i];
	size_t from = c->out.len;

	if (t->rcpt[i] == SMTP_RCPT_SKIPPED)
		return;
	put(c, SPAN("RCPT TO:<"));
	put(c, r->address);
	put(c, SPAN(">"));
	if (smtp_capability_has(&c->caps, SMTP_CAP_DSN)) {
		if (r->notify != 0)
			put_notify(c, r->notify);
		if (r->orcpt.len > 0) {
			put(c, SPAN(" ORCPT="));
			put(c, r->orcpt);
		}
	}
	end_line(c, from);
}

static void
end_of_body(struct smtp_client *c, struct smtp_client_transaction *t)
{
	if (!t->bdat) {
		put(c, SPAN(".\r\n"));
		trace(c, '>', SPAN("."));
		t->sent++;
	}
	t->end_offset = c->out_total;
	t->over = true;
}

static void
send_data(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	send_line(c, "DATA");
}

static void
send_end(struct smtp_client *c, struct smtp_client_transaction *t, size_t i) /* BDAT */
{
	(void)i;
	send_line(c, "BDAT %" PRIu64 " LAST", t->envelope->bytes);
	t->body_wanted = true;
}

static void
send_quit(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	send_line(c, "QUIT");
}

/* ---- what can be sent at all ---- */

/* Could these bytes end the command or its <path> early? Paths are checked by intake; this is the
 * last door. */
static bool
is_safe_path(struct span path)
{
	bool quoted = false;

	for (size_t i = 0; i < path.len; i++) {
		unsigned char b = (unsigned char)path.data[i];

		if (b < 0x20 || b == 0x7f)
			return false;
		if (quoted && b == '\\' && i + 1 < path.len &&
		    (unsigned char)path.data[i + 1] >= 0x20)
			i++;
		else if (b == '"')
			quoted = !quoted;
		else if (!quoted && (b == '<' || b == '>' || b == ' '))
			return false;
	}
	return !quoted;
}

static bool
is_safe_xtext(struct span text)
{
	for (size_t i = 0; i < text.len; i++)
		if ((unsigned char)text.data[i] <= 0x20 || (unsigned char)text.data[i] == 0x7f)
			return false;
	return true;
}

static bool
is_ascii(struct span text)
{
	for (size_t i = 0; i < text.len; i++)
		if ((unsigned char)text.data[i] >= 0x80)
			return false;
	return true;
}

/* What keeps the whole message from this upstream; code 0: nothing does. */
static struct upstream_reply
refuse_message(const struct smtp_client *c, const struct smtp_envelope *e)
{
	struct upstream_reply no = { 0 };
	char text[160];

	if (c->caps.size_bytes > 0 && e->bytes > c->caps.size_bytes) {
		snprintf(text, sizeof(text),
		    "The message has %" PRIu64 " bytes, the upstream takes at most %" PRIu64,
		    e->bytes, c->caps.size_bytes);
		smtp_reply_say(&no, SMTP_STAGE_MAIL, 552, "5.3.4", text);
	} else if ((e->flags & SMTP_ENVELOPE_UTF8) != 0 &&
	           !smtp_capability_has(&c->caps, SMTP_CAP_SMTPUTF8)) {
		smtp_reply_say(&no, SMTP_STAGE_MAIL, 553, "5.6.7",
		    "The message needs SMTPUTF8, which the upstream does not offer");
	} else if ((e->flags & SMTP_ENVELOPE_8BIT) != 0 &&
	           !smtp_capability_has(&c->caps, SMTP_CAP_8BITMIME)) {
		smtp_reply_say(&no, SMTP_STAGE_MAIL, 554, "5.6.3",
		    "The message has 8-bit text, which the upstream does not take (no 8BITMIME)");
	} else if (!is_safe_path(e->sender) || !is_safe_xtext(e->envid) ||
	           (!is_ascii(e->sender) && (e->flags & SMTP_ENVELOPE_UTF8) == 0)) {
		smtp_reply_say(&no, SMTP_STAGE_MAIL, 553, "5.1.7",
		    "The sender's address cannot be sent by SMTP");
	}
	return no;
}

static void
check_transaction(struct smtp_client *c, struct smtp_client_transaction *t)
{
	const struct smtp_envelope *e = t->envelope;
	struct upstream_reply no = refuse_message(c, e);
	size_t skipped = 0;

	t->checked = true;
	if (no.code != 0) {
		give_verdicts(c, t, SMTP_RCPT_PENDING, &no, VERDICT_LOCAL);
		t->over = true;
		return;
	}
	smtp_reply_say(
	    &no, SMTP_STAGE_RCPT, 553, "5.1.3", "The recipient's address cannot be sent by SMTP");
	for (size_t i = 0; i < e->n_recipients; i++) {
		const struct smtp_envelope_recipient *r = &e->recipients[i];

		if (r->address.len == 0 || !is_safe_path(r->address) || !is_safe_xtext(r->orcpt) ||
		    (!is_ascii(r->address) && (e->flags & SMTP_ENVELOPE_UTF8) == 0)) {
			give_verdict(c, t, i, &no, VERDICT_LOCAL);
			skipped++;
		}
	}
	t->over = skipped == e->n_recipients;
}

/* ---- when it leaves ---- */

/* May the data step of `t` leave? If it never will, the transaction is over. */
static bool
may_send_data(struct smtp_client *c, struct smtp_client_transaction *t)
{
	if (t->taken == t->sent) { /* every recipient's reply is known */
		t->over = t->mail_failed || t->accepted == 0;
		c->dirty |= t->over && !t->mail_failed;
		return !t->over;
	}
	return is_pipelining(c) && !t->mail_failed &&
	       !(t->bdat && t->envelope->bytes > SPECULATE_BYTES);
}

static bool
may_send(struct smtp_client *c, struct smtp_client_transaction *t, bool is_head)
{
	if (!is_pipelining(c) && !(is_head && t->taken == t->sent))
		return false;
	if (t->sent == data_step(t))
		return may_send_data(c, t);
	return t->sent < data_step(t); /* after DATA: the 354, then the body */
}

static void
send_step(struct smtp_client *c, struct smtp_client_transaction *t, bool is_head)
{
	enum smtp_stage stage;
	size_t step;

	/* A message that follows another unanswered one must not stand on what that one leaves
	 * behind: some servers keep a transaction open after a refused BDAT. */
	if (t->sent == 0)
		t->rset = c->dirty || (t->bdat && !is_head);
	step = t->sent++;
	stage = stage_of(t, step);
	stages[stage].send(c, t, stage == SMTP_STAGE_RCPT ? step - mail_step(t) - 1 : 0);
	skip_unsent(t);
}

/* Sets what smtp_client_body() is to be given. false: the body is complete and ended. */
static bool
want_body(struct smtp_client *c, struct smtp_client_transaction *t)
{
	uint64_t left = t->envelope->bytes - t->body_sent;

	if (left == 0 || (!t->bdat && t->accepted == 0)) { /* RFC 2920 3.1: a lone dot */
		end_of_body(c, t);
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
	for (unsigned i = 0; i < c->count; i++) {
		struct smtp_client_transaction *t = nth(c, i);

		if (!t->checked)
			check_transaction(c, t);
		while (!t->over && c->out.len < SMTP_CLIENT_FLIGHT_MAX) {
			if (t->body_wanted) {
				if (want_body(c, t))
					return true;
			} else if (may_send(c, t, i == 0)) {
				send_step(c, t, i == 0);
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
		protocol_error(c, "more than one reply to one command");
		return;
	}
	c->stage = c->todo;
	c->todo = SMTP_STAGE_NONE;
	c->awaiting = true;
	stages[c->stage].send(c, NULL, 0);
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
		finish_complete(c);
		if (offer(c))
			return SMTP_CLIENT_READY;
		if (c->count == 0 && (c->quitting || is_used_up(c))) {
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

/* ---- the body ---- */

/* One line, or the rest of one, with its CR LF if it ends here: is it clean (C1)? */
static bool
is_clean_line(struct span line, bool is_ended, char before)
{
	const char *cr = memchr(line.data, '\r', line.len);

	if (memchr(line.data, '\0', line.len) != NULL)
		return false;
	if (before == '\r') /* the CR was the last byte of the piece before */
		return is_ended && line.len == 1;
	if (is_ended)
		return line.len >= 2 && cr == line.data + line.len - 2;
	return cr == NULL || cr == line.data + line.len - 1;
}

static bool
put_body(struct smtp_client *c, struct smtp_client_transaction *t, struct span bytes)
{
	char *room = smtp_buffer_reserve(&c->out, bytes.len + bytes.len / 2 + 2), *to = room;

	while (bytes.len > 0) {
		const char *lf = memchr(bytes.data, '\n', bytes.len);
		struct span line = { bytes.data,
			lf != NULL ? (size_t)(lf - bytes.data) + 1 : bytes.len };

		if (!is_clean_line(line, lf != NULL, t->last_byte))
			return false;
		if (t->at_line_start && line.data[0] == '.' && !t->bdat)
			*to++ = '.';
		memcpy(to, line.data, line.len);
		to += line.len;
		t->at_line_start = lf != NULL;
		t->last_byte = line.data[line.len - 1];
		bytes = span_skip(bytes, line.len);
	}
	smtp_buffer_commit(&c->out, (size_t)(to - room));
	c->out_total += (uint64_t)(to - room);
	return true;
}

void
smtp_client_body(struct smtp_client *c, struct span bytes)
{
	struct smtp_client_transaction *t = NULL;
	struct smtp_trouble trouble = { 0 };
	char text[64];

	for (unsigned i = 0; i < c->count && t == NULL; i++)
		if (nth(c, i)->job == c->body_job && nth(c, i)->body_wanted && !nth(c, i)->over)
			t = nth(c, i);
	assert(t != NULL && bytes.len == c->body_len);
	t->body_sent += bytes.len;
	if (!put_body(c, t, bytes) || (t->body_sent == t->envelope->bytes && !t->at_line_start)) {
		smtp_trouble_why(&trouble, "the stored message is not clean CRLF text");
		smtp_client_fail(c, SMTP_END_LOCAL, &trouble);
		return;
	}
	if (t->body_sent < t->envelope->bytes)
		return;
	snprintf(text, sizeof(text), "(%" PRIu64 " bytes of message)", t->envelope->bytes);
	trace(c, '>', span_of(text));
	end_of_body(c, t);
}

/* ---- what comes back ---- */

static void
take_greeting(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	if (c->reply.code / 100 != 2)
		end_by_reply(c, SMTP_END_REPLY, "the upstream turned us away at its greeting");
	else
		c->todo = SMTP_STAGE_EHLO;
}

static void
take_ehlo(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	bool may_helo = c->o.tls == CONFIG_TLS_NONE && c->o.auth == NULL && !c->helo;

	(void)t, (void)i;
	if (c->reply.code / 100 != 2) {
		if (c->reply.code / 100 == 5 && may_helo) {
			c->helo = true;
			c->todo = SMTP_STAGE_EHLO;
			return;
		}
		end_by_reply(c, SMTP_END_REPLY, "the upstream refused our EHLO");
		return;
	}
	if (c->o.tls == CONFIG_TLS_STARTTLS && !c->secured) {
		if (smtp_capability_has(&c->caps, SMTP_CAP_STARTTLS)) {
			c->todo = SMTP_STAGE_STARTTLS;
			return;
		}
		smtp_trouble_why(
		    &c->trouble, "the upstream does not offer STARTTLS; nothing was sent in clear");
		smtp_trouble_fix(&c->trouble,
		    "check host and port: 587 has STARTTLS, 465 wants tls = "
		    "implicit; tls = none only on a network you trust");
		end_session(c, SMTP_END_NO_STARTTLS);
		return;
	}
	c->stage = SMTP_STAGE_IDLE;
	if (c->o.auth != NULL)
		c->todo = SMTP_STAGE_AUTH;
}

static void
take_starttls(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	if (c->reply.code / 100 == 2)
		c->start_tls = true;
	else if (c->reply.code == 421)
		end_by_reply(c, SMTP_END_REPLY, "the upstream closed the session");
	else
		end_by_reply(c, SMTP_END_NO_STARTTLS,
		    "the upstream refused STARTTLS; nothing was sent in clear");
}

static void
take_auth(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	if (c->auth_cancelled) {
		c->end_reply = c->reply;
		end_session(c, SMTP_END_AUTH);
	} else if (c->reply.code == 334) {
		c->todo = SMTP_STAGE_AUTH;
	} else if (c->reply.code / 100 == 3) {
		protocol_error(c, "a reply that cannot follow AUTH");
	} else if (c->reply.code / 100 != 2) {
		end_by_reply(c, c->reply.code == 421 ? SMTP_END_REPLY : SMTP_END_AUTH,
		    "the upstream refused the login");
	} else if (!c->o.auth->finish(c->o.auth, &c->trouble)) {
		c->end_reply = c->reply;
		end_session(c, SMTP_END_AUTH);
	} else {
		c->stage = SMTP_STAGE_IDLE;
		c->parser.line_max = SMTP_REPLY_LINE_MAX;
	}
}

static void
take_quit(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	end_session(c, SMTP_END_QUIT);
}

static void
take_rset(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	if (c->reply.code / 100 != 2 && c->reply.code != 421)
		protocol_error(c, "RSET refused");
}

static void
take_mail(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)i;
	if (c->reply.code / 100 == 3) {
		protocol_error(c, "a 3xx reply to MAIL");
	} else if (c->reply.code / 100 != 2) {
		t->mail_failed = true;
		give_verdicts(c, t, SMTP_RCPT_PENDING, &c->reply, VERDICT_REPLY);
	}
}

static void
take_rcpt(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	struct upstream_reply reply = c->reply;

	if (reply.code / 100 == 3) {
		protocol_error(c, "a 3xx reply to RCPT");
	} else if (t->mail_failed || t->rcpt[i] != SMTP_RCPT_PENDING) {
		return; /* it has its verdict */
	} else if (reply.code / 100 == 2) {
		t->rcpt[i] = SMTP_RCPT_ACCEPTED;
		t->accepted++;
	} else {
		give_verdict(c, t, i, &reply, VERDICT_REPLY);
	}
}

static void
take_data(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)i;
	if (c->reply.code / 100 == 3) {
		t->body_wanted = true;
		c->offered = false; /* the next envelope may travel with this body */
	} else if (c->reply.code / 100 == 2) {
		protocol_error(c, "a 2xx reply to DATA");
	} else {
		give_verdicts(c, t, SMTP_RCPT_ACCEPTED, &c->reply, VERDICT_REPLY);
		t->over = true;
		c->dirty |= !t->mail_failed;
	}
}

static bool
has_unanswered(const struct smtp_client *c)
{
	for (unsigned i = 0; i < c->count; i++)
		if (nth(c, i)->taken < nth(c, i)->sent)
			return true;
	return false;
}

/* More input, though nothing more was asked? A 421 may come at any time. */
static bool
is_followed_by_nonsense(const struct smtp_client *c)
{
	return c->input_left.len > 0 && !has_unanswered(c) &&
	       memcmp(c->input_left.data, "421", c->input_left.len < 3 ? c->input_left.len : 3) !=
	           0;
}

static void
take_end(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	int class = c->reply.code / 100;

	(void)i;
	if (class == 3 || (class == 2 && t->end_offset == 0)) {
		protocol_error(c, class == 3 ? "a 3xx reply to the end of the message"
		                             : "success before the end of the message");
		return;
	}
	/* Success is believed only if it is the last word: a reply too many would credit this message
	 * with the answer to another command. */
	if (class == 2 && is_followed_by_nonsense(c)) {
		protocol_error(c, "more replies than commands");
		return;
	}
	c->served += class == 2 && t->accepted > 0;
	give_verdicts(
	    c, t, SMTP_RCPT_ACCEPTED, &c->reply, class == 2 ? VERDICT_ACCEPTED : VERDICT_REPLY);
}

/* clang-format off */
static const struct stage stages[] = {
	[SMTP_STAGE_GREETING] = { NULL,          take_greeting },
	[SMTP_STAGE_EHLO]     = { send_ehlo,     take_ehlo },
	[SMTP_STAGE_STARTTLS] = { send_starttls, take_starttls },
	[SMTP_STAGE_AUTH]     = { send_auth,     take_auth },
	[SMTP_STAGE_RSET]     = { send_rset,     take_rset },
	[SMTP_STAGE_MAIL]     = { send_mail,     take_mail },
	[SMTP_STAGE_RCPT]     = { send_rcpt,     take_rcpt },
	[SMTP_STAGE_DATA]     = { send_data,     take_data },
	[SMTP_STAGE_END]      = { send_end,      take_end },
	[SMTP_STAGE_QUIT]     = { send_quit,     take_quit },
};
/* clang-format on */

/* A reply to nothing. 421 is always allowed (RFC 5321 3.8); a refusal in the middle of DATA's body
 * is rude but clear; everything else means that replies and commands are out of step. */
static void
take_unasked(struct smtp_client *c)
{
	struct smtp_client_transaction *t = c->count > 0 ? nth(c, 0) : NULL;
	bool in_body = t != NULL && t->body_wanted && !t->over && !t->bdat;

	c->reply.stage = in_body ? SMTP_STAGE_BODY : SMTP_STAGE_IDLE;
	if (in_body && c->reply.code >= 400) {
		give_verdicts(c, t, SMTP_RCPT_ACCEPTED, &c->reply, VERDICT_REPLY);
		end_by_reply(c, SMTP_END_REPLY, "the upstream interrupted the message");
	} else if (c->reply.code == 421) {
		end_by_reply(c, c->count == 0 ? SMTP_END_IDLE : SMTP_END_REPLY,
		    "the upstream closed the session");
	} else {
		protocol_error(c, "a reply although nothing was asked");
	}
}

static void
take_421(struct smtp_client *c)
{
	if (c->end != SMTP_END_NONE || c->closing)
		return;
	c->closing = true;
	c->end_reply = c->reply;
	smtp_trouble_why(&c->trouble, "the upstream closed the session: 421 %s%s%s",
	    c->reply.enhanced, c->reply.enhanced[0] != '\0' ? " " : "", c->reply.text);
}

static void
take_transaction_reply(struct smtp_client *c, struct smtp_client_transaction *t)
{
	size_t step = t->taken++;

	c->reply.stage = stage_of(t, step);
	stages[c->reply.stage].take(
	    c, t, c->reply.stage == SMTP_STAGE_RCPT ? step - mail_step(t) - 1 : 0);
	if (c->end != SMTP_END_NONE) /* out of step: smtp_client_abandon() gives what is left */
		return;
	skip_unsent(t);
	if (c->reply.code == 421)
		take_421(c);
	finish_complete(c);
	if (c->count > 0)
		skip_unsent(nth(c, 0));
	if (c->closing && !has_unanswered(c))
		end_session(c, SMTP_END_REPLY);
}

static void
take_reply(struct smtp_client *c)
{
	c->replies++;
	if (c->stage != SMTP_STAGE_IDLE || c->todo != SMTP_STAGE_NONE) {
		c->reply.stage = c->stage;
		if (!c->awaiting || c->todo != SMTP_STAGE_NONE || c->start_tls) {
			protocol_error(c, "more than one reply to one command");
			return;
		}
		c->awaiting = false;
		stages[c->stage].take(c, NULL, 0);
	} else if (c->count > 0 && nth(c, 0)->taken < nth(c, 0)->sent) {
		take_transaction_reply(c, nth(c, 0));
	} else {
		take_unasked(c);
	}
}

static void
take_line(struct smtp_client *c)
{
	bool first = !c->reply_begun;

	c->reply_begun = !c->parser.is_last;
	smtp_reply_collect(&c->reply, &c->parser, first);
	if (c->stage == SMTP_STAGE_EHLO && c->awaiting && !c->helo && !first &&
	    c->reply.code / 100 == 2)
		smtp_capability_line(&c->caps, c->parser.line);
	if (c->o.trace != NULL) {
		char text[600];
		size_t n = (size_t)snprintf(
		    text, 5, "%03d%c", c->parser.code, c->parser.is_last ? ' ' : '-');

		n += smtp_reply_clean(c->parser.line, text + n, sizeof(text) - n);
		trace(c, '<', (struct span){ text, n });
	}
	if (c->parser.is_last)
		take_reply(c);
}

void
smtp_client_input(struct smtp_client *c, struct span in)
{
	size_t used;

	assert(c->secured || c->o.tls != CONFIG_TLS_IMPLICIT);
	while (in.len > 0 && c->end == SMTP_END_NONE) {
		enum smtp_reply_event event;

		if (c->start_tls) { /* CVE-2011-0411 the other way round: injected before TLS */
			protocol_error(c, "bytes in clear after agreeing to STARTTLS");
			return;
		}
		event = smtp_reply_input(&c->parser, in, &used);
		in = span_skip(in, used);
		c->input_left = in;
		if (event == SMTP_REPLY_LINE)
			take_line(c);
		else if (event == SMTP_REPLY_BAD)
			protocol_error(c, c->parser.problem);
	}
}

/* ---- waiting, and the last words ---- */

enum smtp_stage
smtp_client_waits_for(const struct smtp_client *c)
{
	if (c->start_tls)
		return SMTP_STAGE_TLS;
	if (c->stage != SMTP_STAGE_IDLE)
		return c->stage;
	if (c->count == 0)
		return SMTP_STAGE_IDLE;
	for (unsigned i = 0; i < c->count; i++)
		if (nth(c, i)->body_wanted && !nth(c, i)->over)
			return SMTP_STAGE_BODY;
	if (nth(c, 0)->taken < nth(c, 0)->sent)
		return stage_of(nth(c, 0), nth(c, 0)->taken);
	return nth(c, 0)->sent == 0 ? SMTP_STAGE_IDLE : stage_of(nth(c, 0), nth(c, 0)->sent);
}

static enum verdict
verdict_at_end(
    const struct smtp_client *c, const struct smtp_client_transaction *t, uint64_t flushed)
{
	if (c->end == SMTP_END_LOCAL && t->job == c->body_job && t->body_wanted && !t->over)
		return VERDICT_LOCAL;
	if (t->end_offset != 0 && t->end_offset <= flushed && !t->mail_failed && !c->closed)
		return VERDICT_UNKNOWN;
	return VERDICT_UNSENT;
}

void
smtp_client_abandon(struct smtp_client *c, uint64_t flushed)
{
	assert(c->end != SMTP_END_NONE);
	for (; c->count > 0; c->head = (c->head + 1) % SMTP_CLIENT_WINDOW_MAX) {
		struct smtp_client_transaction *t = nth(c, 0);
		struct upstream_reply reply = { .stage = c->end_stage };
		enum verdict verdict = verdict_at_end(c, t, flushed);

		if (verdict == VERDICT_LOCAL)
			smtp_reply_say(&reply, SMTP_STAGE_BODY, 451, "4.3.0", c->trouble.why);
		else
			smtp_reply_clean(span_of(c->trouble.why), reply.text, sizeof(reply.text));
		give_verdicts(c, t, SMTP_RCPT_PENDING, &reply, verdict);
		c->count--;
		c->o.finished(c->o.arg, t->job);
	}
}
