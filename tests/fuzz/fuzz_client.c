/* fuzz_client.c - an upstream that says anything, in any slices. Input: two bytes of options, then what it
 * says; 0xff ends a slice.
 *
 * A watcher (below) stands on the wire: it reads what leaves as commands and bodies, what comes as
 * replies, and matches the n-th reply with the n-th command, without a look at the session. By it:
 *   - a recipient is accepted only if its MAIL, its RCPT and the end of that very message each got a
 *     2xx, and all of the message had left, byte for byte; not if the reply was anybody else's;
 *   - by BDAT only if behind it a DATA got its 354 or QUIT its 221, or, when the session has ended
 *     otherwise, the RSET behind it its 2xx; nobody after replies out of step; and no BDAT leaves
 *     before the first 354 (row 34);
 *   - nor is it refused before such a mark, or, when the session has ended otherwise, for a reply that
 *     may be that of another recipient; and nothing but RSET leaves behind a message that has no reply;
 *   - what left to its end and got no reply is never called unsent (C3);
 *   - commands are clean lines, bodies hold no other CR or LF than CR LF, and no NUL (C1);
 *   - before TLS nothing but EHLO and STARTTLS leaves, after it everything begins anew (I11);
 *   - a reply that nobody asked for, or no reply at all, ends the session, and then nothing leaves;
 *   - each recipient has one verdict, each message one end, and what is held is bounded (I9). */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "smtp/client.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MESSAGES = 7, BIG = 6, RECIPIENTS = 3, COMMANDS = 4000, BODY_MOST = 40000 };

static char big[BODY_MOST + 1];
static const char *const bodies[BIG] = { "Subject: x\r\n\r\n.\r\n..dots\r\n", "\r\n", "x\r\n.\r\n",
	".\r\n", "a\r\n", "b\r\n" };
/* What the spool would never give, and what must not leave whoever gave it. */
static const struct span unclean[] = { SPAN("a\nb\r\n"), SPAN("a\rb\r\n"), SPAN("a\0b\r\n"),
	SPAN("a\r\n.\n"), SPAN("a\r\r\n"), SPAN("no end"), SPAN("\r"), SPAN("a\r\n\n") };
static const char *const senders[MESSAGES] = { "m0@x", "m1@x", "m2@x", "m3@x", "m4@x", "m5@x",
	"m6@x" };
static const struct smtp_envelope_recipient recipients[RECIPIENTS] = {
	{ .address = { "ann@example.org", 15 } },
	{ .address = { "bob@example.org", 15 }, .notify = SMTP_ENVELOPE_NOTIFY_NEVER },
	{ .address = { "x\r\n@y", 5 } } /* never leaves */
};

/* ---- The watcher ---- */

enum kind { GREETING, EHLO, STARTTLS, AUTH, AUTH_LINE, RSET, MAIL, RCPT, DATA, END, QUIT };

struct command {
	enum kind kind;
	unsigned message, recipient;
	bool is_complete; /* END: all of the body has left */
	bool is_chunk;    /* END: of a BDAT */
};

struct watcher {
	struct command commands[COMMANDS]; /* each is owed one reply */
	int replies[COMMANDS];             /* codes, as they came */
	size_t n_commands, n_replies;
	char line[16384]; /* the begun one, of what leaves */
	size_t line_len;
	uint64_t chunk_left; /* bytes of a BDAT that are still to leave */
	bool in_text;        /* the body of a DATA leaves */
	char body[BODY_MOST + 16];
	size_t body_len;
	char in[SMTP_REPLY_CHALLENGE_MAX + 8]; /* the begun line of what comes */
	size_t in_len;
	int code; /* of the begun reply; 0: none is */
	bool is_bad, saw_421, is_secured, must_greet;
	enum config_tls tls;
};

static struct span
body_of(unsigned message, uint8_t options)
{
	if (message == BIG)
		return (struct span){ big, BODY_MOST };
	if (message == 3 && (options & 7) != 0)
		return unclean[options & 7];
	return span_of(bodies[message]);
}

static struct command *
owe(struct watcher *w, enum kind kind)
{
	struct command *c = &w->commands[w->n_commands++];

	assert(w->n_commands < COMMANDS);
	*c = (struct command){ .kind = kind };
	if (w->n_commands > 1 && kind != MAIL)
		c->message = c[-1].message;
	if (!w->is_secured && w->tls != CONFIG_TLS_NONE)
		assert(kind == EHLO || kind == STARTTLS || kind == GREETING);
	assert(!w->must_greet || kind == EHLO);
	w->must_greet = false;
	return c;
}

static bool
begins(struct span line, const char *word)
{
	return line.len >= strlen(word) && memcmp(line.data, word, strlen(word)) == 0;
}

/* The reply to the last command; 0: it has not come. */
static int
last_reply(const struct watcher *w)
{
	return w->n_replies >= w->n_commands ? w->replies[w->n_commands - 1] : 0;
}

/* Does the n-th command or a later one have a reply that none but DATA or QUIT gets? */
static bool
has_mark(const struct watcher *w, size_t n)
{
	for (; n < w->n_commands && n < w->n_replies; n++)
		if ((w->commands[n].kind == DATA && w->replies[n] / 100 == 3) ||
		    (w->commands[n].kind == QUIT && w->replies[n] == 221))
			return true;
	return false;
}

static unsigned
index_in(struct span path, const struct span *names, unsigned n)
{
	unsigned i = 0;

	while (i < n && !(path.len > names[i].len && path.data[names[i].len] == '>' &&
	                    memcmp(path.data, names[i].data, names[i].len) == 0))
		i++;
	assert(i < n);
	return i;
}

static void
take_envelope_line(struct watcher *w, struct span line)
{
	struct span names[MESSAGES];
	struct command *c;

	if (begins(line, "MAIL FROM:<")) {
		for (unsigned i = 0; i < MESSAGES; i++)
			names[i] = span_of(senders[i]);
		assert(
		    w->n_replies >= w->n_commands || w->commands[w->n_commands - 1].kind == RSET);
		c = owe(w, MAIL);
		c->message = index_in(span_skip(line, 11), names, MESSAGES);
		return;
	}
	for (unsigned i = 0; i < RECIPIENTS; i++)
		names[i] = recipients[i].address;
	c = owe(w, RCPT);
	c->recipient = index_in(span_skip(line, 9), names, RECIPIENTS);
}

/* A command, without CR LF. */
static void
take_command(struct watcher *w, struct span line)
{
	const struct command *last = &w->commands[w->n_commands - 1];
	unsigned long long bytes;

	assert(line.len <= 12288);
	for (size_t i = 0; i < line.len; i++)
		assert((unsigned char)line.data[i] >= ' ' && line.data[i] != 0x7f);
	if ((last->kind == AUTH || last->kind == AUTH_LINE) && last_reply(w) == 334)
		owe(w, AUTH_LINE); /* may be empty (RFC 4954 4) */
	else if (begins(line, "EHLO x") || begins(line, "HELO x"))
		owe(w, EHLO);
	else if (begins(line, "STARTTLS"))
		owe(w, STARTTLS);
	else if (begins(line, "AUTH "))
		owe(w, AUTH);
	else if (begins(line, "RSET"))
		owe(w, RSET);
	else if (begins(line, "QUIT"))
		owe(w, QUIT);
	else if (begins(line, "MAIL FROM:<") || begins(line, "RCPT TO:<"))
		take_envelope_line(w, line);
	else if (begins(line, "DATA"))
		owe(w, DATA);
	else {
		w->line[w->line_len - 2] = '\0';
		assert(sscanf(w->line, "BDAT %llu LAST", &bytes) == 1 && bytes > 0);
		assert(has_mark(w, 0));
		owe(w, END)->is_chunk = true;
		w->chunk_left = bytes;
		w->body_len = 0;
	}
}

static void
end_text(struct watcher *w)
{
	w->in_text = false;
	owe(w, END)->is_complete = true;
}

/* A line of what leaves, with its CR LF. */
static void
take_line(struct watcher *w, struct span line)
{
	if (!w->in_text && w->commands[w->n_commands - 1].kind == DATA) {
		assert(last_reply(w) != 0); /* RFC 2920: DATA ends a group */
		w->in_text = last_reply(w) / 100 == 3;
		w->body_len = 0;
	}
	if (!w->in_text) {
		take_command(w, (struct span){ line.data, line.len - 2 });
		return;
	}
	if (span_equals(line, SPAN(".\r\n"))) {
		end_text(w);
		return;
	}
	if (line.data[0] == '.')
		line = span_skip(line, 1);
	assert(w->body_len + line.len <= BODY_MOST);
	memcpy(w->body + w->body_len, line.data, line.len);
	w->body_len += line.len;
}

static void
watch_output(struct watcher *w, struct span out)
{
	for (size_t i = 0; i < out.len; i++) {
		const char c = out.data[i];

		assert(c != '\0');
		if (w->chunk_left > 0) {
			assert(w->body_len < BODY_MOST);
			w->body[w->body_len++] = c;
			if (--w->chunk_left == 0)
				w->commands[w->n_commands - 1].is_complete = true;
			continue;
		}
		assert(w->line_len < sizeof(w->line));
		w->line[w->line_len++] = c;
		assert((c == '\n') == (w->line_len > 1 && w->line[w->line_len - 2] == '\r'));
		if (c == '\n') {
			take_line(w, (struct span){ w->line, w->line_len });
			w->line_len = 0;
		}
	}
}

/* RFC 5321 4.2, as strict as reply.h says. */
static void
take_reply_line(struct watcher *w)
{
	const char *s = w->in;
	size_t len = w->in_len;
	int code;

	w->in_len = 0;
	len -= len > 0 && s[len - 1] == '\r';
	if (len < 3 || s[0] < '2' || s[0] > '5' || s[1] < '0' || s[1] > '9' || s[2] < '0' ||
	    s[2] > '9' || (len > 3 && s[3] != ' ' && s[3] != '-')) {
		w->is_bad = true;
		return;
	}
	code = (s[0] - '0') * 100 + (s[1] - '0') * 10 + s[2] - '0';
	w->is_bad |= w->code != 0 && w->code != code;
	w->code = code;
	if ((len > 3 && s[3] == '-') || w->is_bad)
		return;
	w->saw_421 |= code == 421;
	if (w->n_replies < COMMANDS)
		w->replies[w->n_replies++] = code;
	w->code = 0;
}

static void
watch_input(struct watcher *w, struct span in)
{
	for (size_t i = 0; i < in.len && !w->is_bad; i++) {
		if (in.data[i] == '\n') {
			take_reply_line(w);
			continue;
		}
		if (w->in_len == sizeof(w->in))
			w->is_bad = true;
		else
			w->in[w->in_len++] = in.data[i];
	}
}

/* The reply to the command of that kind in the last transaction of the message; 0: none. */
static int
reply_to(const struct watcher *w, enum kind kind, unsigned message, unsigned recipient,
    bool *is_complete)
{
	for (size_t i = w->n_commands; i > 0; i--) {
		const struct command *c = &w->commands[i - 1];

		if (c->kind != kind || c->message != message ||
		    (kind == RCPT && c->recipient != recipient))
			continue;
		*is_complete = c->is_complete;
		return i <= w->n_replies ? w->replies[i - 1] : 0;
	}
	*is_complete = false;
	return 0;
}

/* ---- The caller ---- */

struct world {
	struct smtp_client client;
	struct watcher watcher;
	struct smtp_envelope envelopes[MESSAGES];
	unsigned verdicts[MESSAGES][RECIPIENTS];
	bool finished[MESSAGES];
	unsigned given;
	uint8_t options;
	bool is_abandoned_whole;
};

static struct world world;

static size_t
index_of(const struct world *w, const void *job)
{
	return (size_t)((const struct smtp_envelope *)job - w->envelopes);
}

static void
check_in_step(const struct world *w, unsigned message)
{
	const struct watcher *wire = &w->watcher;
	size_t n = wire->n_commands;

	while (wire->commands[n - 1].kind != END || wire->commands[n - 1].message != message)
		n--;
	if (!wire->commands[n - 1].is_chunk || has_mark(wire, n))
		return;
	assert(w->client.end != SMTP_END_NONE);
	assert(wire->commands[n].kind == RSET && n < wire->n_commands && n < wire->n_replies);
	assert(wire->replies[n] / 100 == 2);
}

static void
check_accepted(const struct world *w, unsigned message, unsigned recipient)
{
	const struct watcher *wire = &w->watcher;
	bool is_complete;

	assert(recipient != 2);
	assert(reply_to(wire, MAIL, message, 0, &is_complete) / 100 == 2);
	assert(reply_to(wire, RCPT, message, recipient, &is_complete) / 100 == 2);
	assert(reply_to(wire, END, message, 0, &is_complete) / 100 == 2 && is_complete);
	assert(w->client.end != SMTP_END_PROTOCOL);
	check_in_step(w, message);
}

/* Is the n-th command's refusal that of a recipient in front of it, if there was a 2xx too many? */
static bool
may_be_another_s(const struct watcher *w, size_t n, unsigned message, unsigned recipient)
{
	bool is_end = w->commands[n].kind == END || w->commands[n].kind == DATA;

	for (size_t i = 0; i < n; i++)
		if (w->commands[i].kind == RCPT && w->commands[i].message == message &&
		    w->replies[i] / 100 == 2 && !(is_end && recipient == message % RECIPIENTS))
			return true;
	return false;
}

static void
check_refused(
    const struct world *w, unsigned message, unsigned recipient, const struct upstream_reply *reply)
{
	static const enum kind kinds[] = { [SMTP_STAGE_MAIL] = MAIL,
		[SMTP_STAGE_RCPT] = RCPT,
		[SMTP_STAGE_DATA] = DATA,
		[SMTP_STAGE_END] = END };
	const struct watcher *wire = &w->watcher;
	size_t n = wire->n_commands;

	if (reply->stage == SMTP_STAGE_BODY) /* a refusal in the middle of a DATA's body */
		return;
	assert(reply->stage < ARRAY_LEN(kinds) && kinds[reply->stage] != GREETING);
	while (n > 0 && (wire->commands[n - 1].kind != kinds[reply->stage] ||
	                    wire->commands[n - 1].message != message ||
	                    (reply->stage == SMTP_STAGE_RCPT &&
	                        wire->commands[n - 1].recipient != recipient)))
		n--;
	assert(n > 0 && n <= wire->n_replies && wire->replies[n - 1] == reply->code);
	if (has_mark(wire, n) ||
	    (reply->stage == SMTP_STAGE_END && !wire->commands[n - 1].is_chunk))
		return;
	assert(w->client.end != SMTP_END_NONE && w->client.end != SMTP_END_PROTOCOL);
	assert(reply->code == 421 || !may_be_another_s(wire, n - 1, message, recipient));
}

/* Everything had left, and no answer came: it may have been taken. */
static void
check_unsent(const struct world *w, unsigned message)
{
	const struct watcher *wire = &w->watcher;
	const bool was_refused =
	    reply_to(wire, MAIL, message, 0, &(bool){ false }) >= 400 || wire->saw_421;
	bool is_complete;

	(void)reply_to(wire, END, message, 0, &is_complete);
	assert(!(is_complete && w->is_abandoned_whole && !was_refused));
}

static void
on_recipient(
    void *arg, void *job, size_t i, const struct upstream_reply *reply, enum verdict verdict)
{
	struct world *w = arg;
	size_t n = index_of(w, job);

	assert(!w->finished[n] && w->verdicts[n][i]++ == 0);
	assert(strlen(reply->text) < sizeof(reply->text));
	if (verdict == VERDICT_ACCEPTED) {
		assert(reply->code / 100 == 2 && reply->stage == SMTP_STAGE_END);
		check_accepted(w, (unsigned)n, (unsigned)i);
	}
	if (verdict == VERDICT_REPLY) {
		assert(reply->code >= 400);
		check_refused(w, (unsigned)n, (unsigned)i, reply);
	}
	if (verdict == VERDICT_UNSENT)
		check_unsent(w, (unsigned)n);
}

static void
on_finished(void *arg, void *job)
{
	struct world *w = arg;
	size_t n = index_of(w, job);

	assert(!w->finished[n]);
	w->finished[n] = true;
	for (size_t i = 0; i < w->envelopes[n].n_recipients; i++)
		assert(w->verdicts[n][i] == 1);
}

static const char *
choose(struct smtp_auth *auth, const struct smtp_capabilities *caps, struct smtp_trouble *trouble,
    enum smtp_end_kind *kind)
{
	(void)trouble;
	*kind = SMTP_END_NO_AUTH;
	auth->client_first = smtp_capability_has_mechanism(caps, "PLAIN");
	return smtp_capability_has(caps, SMTP_CAP_AUTH) ? "PLAIN" : NULL;
}

static enum smtp_auth_result
step(struct smtp_auth *auth, struct span challenge, char *out, size_t *len,
    struct smtp_trouble *trouble)
{
	(void)auth, (void)trouble;
	*len = challenge.len < 100 ? challenge.len : 100;
	if (*len > 0)
		memcpy(out, challenge.data, *len);
	return challenge.len > 1000 ? SMTP_AUTH_CANCEL : SMTP_AUTH_SEND;
}

static bool
finish(struct smtp_auth *auth, struct smtp_trouble *trouble)
{
	(void)auth, (void)trouble;
	return true;
}

static struct smtp_auth auth = { .choose = choose, .step = step, .finish = finish };

/* After a message has left: what came out is what went in. */
static void
check_bodies(const struct world *w, size_t from)
{
	const struct watcher *wire = &w->watcher;

	for (size_t i = from; i < wire->n_commands; i++) {
		const struct command *c = &wire->commands[i];
		struct span body = body_of(c->message, w->options);

		if (c->kind != END || !c->is_complete || i + 1 < wire->n_commands)
			continue; /* only the last one's body is still there */
		if (wire->body_len == 0)
			continue; /* a lone dot: nobody is to get it */
		assert(span_equals(body, (struct span){ wire->body, wire->body_len }));
	}
}

static void
write_out(struct world *w)
{
	const size_t from = w->watcher.n_commands;

	assert(w->client.end == SMTP_END_NONE);
	assert(w->client.out.size <= 4 * SMTP_CLIENT_FLIGHT_MAX);
	watch_output(&w->watcher, smtp_buffer_span(&w->client.out));
	check_bodies(w, from);
	smtp_client_wrote(&w->client);
}

static void
give_body(struct world *w)
{
	struct smtp_client *c = &w->client;
	const unsigned message = (unsigned)index_of(w, c->body_job);
	const struct span body = body_of(message, w->options);

	assert(c->body_len > 0 && c->body_offset + c->body_len <= body.len);
	smtp_client_body(c, (struct span){ body.data + c->body_offset, c->body_len });
}

static void
start_tls(struct world *w)
{
	struct watcher *wire = &w->watcher;

	/* nothing stands behind the 220, and it was asked for */
	assert(wire->commands[wire->n_commands - 1].kind == STARTTLS);
	assert(last_reply(wire) / 100 == 2 && wire->n_replies == wire->n_commands);
	assert(wire->in_len == 0 && wire->code == 0);
	wire->is_secured = wire->must_greet = true;
	smtp_client_secured(&w->client);
}

static void
pump(struct world *w)
{
	struct smtp_client *c = &w->client;

	for (unsigned steps = 0;; steps++) {
		assert(steps < 10000);
		switch (smtp_client_next(c)) {
		case SMTP_CLIENT_WAIT:
			assert(w->watcher.line_len == 0);
			return;
		case SMTP_CLIENT_END:
			return;
		case SMTP_CLIENT_READY:
			if (w->given < MESSAGES) {
				struct smtp_envelope *e = &w->envelopes[w->given++];

				smtp_client_add(c, e, e);
			} else {
				smtp_client_quit(c);
			}
			break;
		case SMTP_CLIENT_BODY:
			give_body(w);
			break;
		case SMTP_CLIENT_START_TLS:
			start_tls(w);
			break;
		case SMTP_CLIENT_WRITE:
			write_out(w);
			break;
		}
	}
}

static void
feed(struct world *w, struct span slice)
{
	struct watcher *wire = &w->watcher;
	const size_t n_commands = wire->n_commands;

	watch_input(wire, slice);
	smtp_client_input(&w->client, slice);
	/* more replies than questions, or what is none: it is over */
	if (wire->is_bad || wire->n_replies > n_commands)
		assert(w->client.end != SMTP_END_NONE);
	pump(w);
}

static void
begin(struct world *w, const uint8_t *data)
{
	struct smtp_client_options o = {
		.helo = "x", .arg = w, .recipient = on_recipient, .finished = on_finished
	};

	memset(w, 0, sizeof(*w));
	w->options = data[1];
	o.tls = (data[0] & 3) == 0   ? CONFIG_TLS_NONE
	        : (data[0] & 3) == 1 ? CONFIG_TLS_IMPLICIT
	                             : CONFIG_TLS_STARTTLS;
	o.pipelining = (data[0] & 4) == 0;
	o.chunking = (data[0] & 8) == 0;
	o.auth = (data[0] & 16) != 0 ? &auth : NULL;
	o.window = 1 + (data[0] >> 5);
	o.overlap = (data[1] & 8) != 0    ? SMTP_OVERLAP_PROVEN
	            : (data[1] & 16) != 0 ? SMTP_OVERLAP_NEVER
	                                  : SMTP_OVERLAP_TRY;
	for (unsigned i = 0; i < MESSAGES; i++)
		w->envelopes[i] = (struct smtp_envelope){ .sender = span_of(senders[i]),
			.recipients = recipients,
			.n_recipients = 1 + i % 3,
			.bytes = body_of(i, w->options).len,
			.flags = i == 4 ? SMTP_ENVELOPE_8BIT : 0 };
	w->watcher.tls = o.tls;
	owe(&w->watcher, GREETING);
	smtp_client_init(&w->client, &o);
	if (o.tls == CONFIG_TLS_IMPLICIT) {
		w->watcher.is_secured = true;
		smtp_client_secured(&w->client);
	}
	pump(w);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world *w = &world;
	const char *at = (const char *)data + 2, *end = (const char *)data + size;

	if (size < 2)
		return 0;
	if (big[0] == '\0') /* its second piece begins with the LF of a CR LF */
		for (unsigned i = 0; i < BODY_MOST; i++)
			big[i] = i % 128 == 127 ? '\r' : i % 128 == 0 && i > 0 ? '\n' : '.';
	memcpy(big + BODY_MOST - 2, "\r\n", 2);
	begin(w, data);
	while (at < end && w->client.end == SMTP_END_NONE) {
		const char *stop = memchr(at, 0xff, (size_t)(end - at));
		size_t len = stop != NULL ? (size_t)(stop - at) : (size_t)(end - at);

		feed(w, (struct span){ at, len });
		at += len + 1;
	}
	if (w->client.end == SMTP_END_NONE)
		smtp_client_eof(&w->client);
	assert(w->client.end != SMTP_END_NONE && w->client.trouble.why[511] == '\0');
	w->is_abandoned_whole = size % 2 == 0;
	smtp_client_abandon(&w->client, w->is_abandoned_whole ? w->client.out_total : 0);
	for (size_t i = 0; i < w->given; i++)
		assert(w->finished[i]);
	smtp_client_fini(&w->client);
	return 0;
}
