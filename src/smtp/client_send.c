/* client_send.c - what leaves a client session: commands, the check of what may leave at all, the body. */
#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smtp/base64.h"
#include "smtp/client_parts.h"

#define AUTH_ROUNDS_MAX 16

void
client_trace(struct smtp_client *c, char direction, struct span line)
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
	client_trace(c, '>', span_skip(smtp_buffer_span(&c->out), from));
	put(c, SPAN("\r\n"));
}

static void send_line(struct smtp_client *c, const char *fmt, ...) PRINTF_LIKE(2, 3);

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

void
client_send_ehlo(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	smtp_capability_reset(&c->caps);
	send_line(c, "%s %s", c->helo ? "HELO" : "EHLO", c->o.helo);
}

void
client_send_starttls(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
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
		client_trace(c, '>', span_of(shown));
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
		client_end(c, SMTP_END_AUTH);
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

void
client_send_auth(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
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
		client_end(c, kind);
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

void
client_send_rset(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	send_line(c, "RSET");
}

void
client_send_mail(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
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
	c->dirty = true;
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

void
client_send_rcpt(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
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

void
client_end_body(struct smtp_client *c, struct smtp_client_transaction *t)
{
	if (!t->bdat) {
		put(c, SPAN(".\r\n"));
		client_trace(c, '>', SPAN("."));
		t->sent++;
		c->dirty = client_is_pipelining(c); /* else it would be a round trip */
	}
	t->end_offset = c->out_total;
	t->over = true;
}

void
client_send_data(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	send_line(c, "DATA");
}

void
client_send_end(struct smtp_client *c, struct smtp_client_transaction *t, size_t i) /* BDAT */
{
	(void)i;
	send_line(c, "BDAT %" PRIu64 " LAST", t->envelope->bytes);
	t->body_wanted = true;
}

void
client_send_quit(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
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

void
client_check(struct smtp_client *c, struct smtp_client_transaction *t)
{
	const struct smtp_envelope *e = t->envelope;
	struct upstream_reply no = refuse_message(c, e);
	size_t skipped = 0;

	t->checked = true;
	if (no.code != 0) {
		client_give_verdicts(c, t, &no, VERDICT_LOCAL);
		t->over = true;
		return;
	}
	smtp_reply_say(
	    &no, SMTP_STAGE_RCPT, 553, "5.1.3", "The recipient's address cannot be sent by SMTP");
	for (size_t i = 0; i < e->n_recipients; i++) {
		const struct smtp_envelope_recipient *r = &e->recipients[i];

		if (r->address.len == 0 || !is_safe_path(r->address) || !is_safe_xtext(r->orcpt) ||
		    (!is_ascii(r->address) && (e->flags & SMTP_ENVELOPE_UTF8) == 0)) {
			client_give_verdict(c, t, i, &no, VERDICT_LOCAL);
			skipped++;
		}
	}
	t->over = skipped == e->n_recipients;
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
		if (client_nth(c, i)->job == c->body_job && client_nth(c, i)->body_wanted &&
		    !client_nth(c, i)->over)
			t = client_nth(c, i);
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
	client_trace(c, '>', span_of(text));
	client_end_body(c, t);
}
