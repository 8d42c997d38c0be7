/* test_client.c - the client session as dialogues. A row is a transcript: `S:` lines are what the upstream
 * says (| ends a line within one arrival), all others are what must come of it, in this order:
 *   C: a line sent    T: TLS begins    V: recipient verdict code    F: finished    E: kind of end
 * Each row runs twice: as written, and with every byte arriving alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/base.h"
#include "smtp/base64.h"
#include "smtp/client.h"

#define JOBS_MAX 8

struct job {
	struct smtp_envelope envelope;
	struct smtp_envelope_recipient recipients[4];
	char sender[64], rcpt[4][64], body[128];
	unsigned verdicts;
	bool finished;
};

struct player {
	struct smtp_client client;
	struct job jobs[JOBS_MAX];
	size_t n_jobs, given;
	char out[16384];
	size_t out_len;
};

static void note(struct player *p, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void
note(struct player *p, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	p->out_len +=
	    (size_t)vsnprintf(p->out + p->out_len, sizeof(p->out) - p->out_len, fmt, args);
	va_end(args);
	assert_true(p->out_len < sizeof(p->out));
}

static void
on_recipient(
    void *arg, void *job, size_t i, const struct upstream_reply *reply, enum verdict verdict)
{
	static const char *const words[] = { "accepted", "reply", "unsent", "unknown", "local" };
	struct job *j = job;

	assert_false(j->finished);
	j->verdicts++;
	note(arg, "V: %s %s %d\n", j->rcpt[i], words[verdict], reply->code);
}

static void
on_finished(void *arg, void *job)
{
	struct job *j = job;

	assert_false(j->finished);
	if (j->verdicts != j->envelope.n_recipients)
		fail_msg(
		    "finished with %u verdicts after %s", j->verdicts, ((struct player *)arg)->out);
	j->finished = true;
	note(arg, "F: %s\n", j->sender);
}

/* A mechanism of one or two steps: NAME is what it is called, "x" its initial response. */
static const char *
choose(struct smtp_auth *auth, const struct smtp_capabilities *caps, struct smtp_trouble *trouble,
    enum smtp_end_kind *kind)
{
	(void)trouble;
	*kind = SMTP_END_NO_AUTH;
	auth->client_first = smtp_capability_has_mechanism(caps, "FIRST");
	return auth->client_first                              ? "FIRST"
	       : smtp_capability_has_mechanism(caps, "SECOND") ? "SECOND"
	                                                       : NULL;
}

static enum smtp_auth_result
step(struct smtp_auth *auth, struct span challenge, char *out, size_t *len,
    struct smtp_trouble *trouble)
{
	(void)auth, (void)trouble;
	if (span_equals(challenge, SPAN("cancel")))
		return SMTP_AUTH_CANCEL;
	*len = challenge.len;
	memcpy(out, challenge.data, challenge.len); /* echoes */
	return SMTP_AUTH_SEND;
}

static bool
finish(struct smtp_auth *auth, struct smtp_trouble *trouble)
{
	(void)auth, (void)trouble;
	return true;
}

static bool
miss_the_proof(struct smtp_auth *auth, struct smtp_trouble *trouble)
{
	(void)auth, (void)trouble;
	return false;
}

static struct smtp_auth fake_auth = { .choose = choose, .step = step, .finish = finish };
static struct smtp_auth unproven_auth = {
	.choose = choose, .step = step, .finish = miss_the_proof
};

/* "sender>rcpt,rcpt:body" with ~ for CR LF in the body; '8' and 'U' before the sender set flags. */
static void
add_job(struct player *p, const char *text)
{
	struct job *j = &p->jobs[p->n_jobs++];
	char rcpts[160] = "", *save = NULL, *body = j->body;

	if (*text == '8' || *text == 'U')
		j->envelope.flags = *text++ == '8' ? SMTP_ENVELOPE_8BIT : SMTP_ENVELOPE_UTF8;
	if (*text == '>')
		sscanf(text, ">%150[^:]", rcpts);
	else
		sscanf(text, "%60[^>]>%150[^:]", j->sender, rcpts);
	for (const char *s = strchr(text, ':') + 1; *s != '\0'; s++) {
		if (*s == '~')
			*body++ = '\r';
		*body++ = *s == '~' ? '\n' : *s;
	}
	for (char *r = strtok_r(rcpts, ",", &save); r != NULL; r = strtok_r(NULL, ",", &save)) {
		size_t n = j->envelope.n_recipients++;

		strcpy(j->rcpt[n], r);
		j->recipients[n].address = span_of(j->rcpt[n]);
	}
	j->envelope.sender = span_of(j->sender);
	j->envelope.recipients = j->recipients;
	j->envelope.bytes = strlen(j->body);
}

static void
pump(struct player *p)
{
	struct smtp_client *c = &p->client;

	for (int steps = 0; steps < 1000; steps++) {
		switch (smtp_client_next(c)) {
		case SMTP_CLIENT_WAIT:
		case SMTP_CLIENT_END:
			return;
		case SMTP_CLIENT_READY:
			if (p->given < p->n_jobs) {
				struct job *j = &p->jobs[p->given++];

				smtp_client_add(c, &j->envelope, j);
			}
			break;
		case SMTP_CLIENT_BODY: {
			struct job *j = c->body_job;

			smtp_client_body(c, (struct span){ j->body + c->body_offset, c->body_len });
			break;
		}
		case SMTP_CLIENT_START_TLS:
			note(p, "T:\n");
			smtp_client_secured(c);
			break;
		case SMTP_CLIENT_WRITE: {
			struct span out = smtp_buffer_span(&c->out);

			while (out.len > 0) {
				const char *end = memmem(out.data, out.len, "\r\n", 2);

				assert_non_null(end);
				note(p, "C: %.*s\n", (int)(end - out.data), out.data);
				out = span_skip(out, (size_t)(end - out.data) + 2);
			}
			smtp_client_wrote(c);
			break;
		}
		}
	}
	fail_msg("the client never waits");
}

static void
say(struct player *p, const char *text, size_t len, bool alone)
{
	char bytes[2048];
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		if (text[i] == '|')
			bytes[n++] = '\r';
		bytes[n++] = text[i] == '|' ? '\n' : text[i];
	}
	memcpy(bytes + n, "\r\n", 2);
	n += 2;
	if (!alone)
		smtp_client_input(&p->client, (struct span){ bytes, n });
	for (size_t i = 0; alone && i < n && p->client.end == SMTP_END_NONE; i++) {
		smtp_client_input(&p->client, (struct span){ bytes + i, 1 });
		if (i + 1 < n && bytes[i] == '\n')
			pump(p);
	}
	pump(p);
}

struct row {
	struct smtp_client_options o;
	const char *jobs[JOBS_MAX];
	const char *transcript;
	bool whole_only; /* what it shows can only be seen when it arrives in one piece */
};

static void
play(const struct row *row, bool alone)
{
	struct player *p = xcalloc(1, sizeof(*p));
	struct smtp_client_options o = row->o;
	const char *at = row->transcript;
	size_t checked = 0;

	o.helo = "c.example";
	o.arg = p;
	o.recipient = on_recipient;
	o.finished = on_finished;
	o.pipelining = o.chunking = true;
	if (o.window == 0)
		o.window = 2;
	smtp_client_init(&p->client, &o);
	if (o.tls == CONFIG_TLS_IMPLICIT)
		smtp_client_secured(&p->client);
	for (size_t i = 0; i < JOBS_MAX && row->jobs[i] != NULL; i++)
		add_job(p, row->jobs[i]);
	while (*at != '\0') {
		size_t len = strcspn(at, "\n");

		if (strncmp(at, "S: ", 3) == 0) {
			if (checked != p->out_len)
				fail_msg("%s...\ntoo early: %s", row->transcript, p->out + checked);
			say(p, at + 3, len - 3, alone);
		} else if (strncmp(at, "S!", 2) ==
		           0) { /* it closed; a digit: only so much had gone out */
			smtp_client_eof(&p->client);
		} else if (strncmp(at, "Q!", 2) == 0) {
			smtp_client_quit(&p->client);
			pump(p);
		} else {
			if (checked >= p->out_len || strncmp(at, p->out + checked, len + 1) != 0)
				fail_msg("%s...\nexpected: %.*s\ngot: %s", row->transcript,
				    (int)len, at, p->out + checked);
			checked += len + 1;
		}
		if (p->client.end != SMTP_END_NONE && p->given != 9999) {
			smtp_client_abandon(&p->client, p->client.out_total);
			note(p, "E: %s\n", smtp_end_kind_name(p->client.end));
			p->given = 9999;
		}
		at += len + (at[len] == '\n');
	}
	if (checked != p->out_len)
		fail_msg("%s...\nand then: %s", row->transcript, p->out + checked);
	smtp_client_fini(&p->client);
	free(p);
}

static void
play_all(const struct row *rows, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		play(&rows[i], false);
		if (!rows[i].whole_only)
			play(&rows[i], true);
	}
}

#define CLEAR .o = { .tls = CONFIG_TLS_NONE }
#define HELLO(ext) "S: 220 hi\nC: EHLO c.example\nS: 250-x" ext "|250 HELP\n"
#define FLIGHT(s, r) "C: MAIL FROM:<" s ">\nC: RCPT TO:<" r ">\nC: DATA\n"
#define NEXT(s, r) "C: RSET\n" FLIGHT(s, r)

static void
a_session_begins_only_as_configured(void **state)
{
	static const struct row rows[] = {
		{ CLEAR, .transcript = HELLO("") "Q!\nC: QUIT\nS: 221 bye\nE: quit\n" },
		{ CLEAR, .transcript = HELLO("") "Q!\nC: QUIT\nS: 500 what?\nE: quit\n" },
		{ CLEAR, .transcript = HELLO("") "Q!\nC: QUIT\nS: no reply at all\nE: quit\n" },
		{ CLEAR, .transcript = HELLO("") "S: 421 idle too long\nE: idle\n" },
		{ CLEAR, .transcript = HELLO("") "S: 250 who asked?\nE: protocol\n" },
		{ CLEAR, .transcript = HELLO("") "S!\nE: idle\n" },
		{ CLEAR, .transcript = "S: 554 5.7.1 no\nE: reply\n" },
		{ CLEAR,
		    .transcript =
		        "S: 220-hi|220 there\nC: EHLO c.example\nS: 502 what\nC: HELO c.example\n"
		        "S: 250 x\nQ!\nC: QUIT\n" },
		{ CLEAR, .transcript = "S: SSH-2.0\nE: protocol\n" },
		{ CLEAR, .transcript = "S: 999 x\nE: protocol\n" },
		{ CLEAR, .transcript = "S: 220-a|221 b\nE: protocol\n" },
		{ CLEAR, .transcript =
		             "S: 200 odd but success by its first digit\nC: EHLO c.example\nS!\n"
		             "E: lost\n" },
		{ CLEAR, .transcript = "S: 220 hi|250 too early\nE: protocol\n",
		    .whole_only = true },
		{ .o = { .tls = CONFIG_TLS_STARTTLS },
		    .transcript =
		        HELLO("|250-STARTTLS") "C: STARTTLS\nS: 220 go\nT:\nC: EHLO c.example\n"
		                               "S: 250 x\nQ!\nC: QUIT\n" },
		{ .o = { .tls = CONFIG_TLS_STARTTLS }, .transcript = HELLO("") "E: no-starttls\n" },
		{ .o = { .tls = CONFIG_TLS_STARTTLS },
		    .transcript = "S: 220 hi\nC: EHLO c.example\nS: 502 no EHLO\nE: reply\n" },
		{ .o = { .tls = CONFIG_TLS_STARTTLS },
		    .transcript =
		        HELLO("|250-STARTTLS") "C: STARTTLS\nS: 454 later\nE: no-starttls\n" },
		{ .o = { .tls = CONFIG_TLS_STARTTLS },
		    .whole_only = true,
		    .transcript = HELLO(
		        "|250-STARTTLS") "C: STARTTLS\nS: 220 go|250 injected\nE: protocol\n" },
		{ .o = { .tls = CONFIG_TLS_STARTTLS, .auth = &fake_auth },
		    .transcript =
		        HELLO("|250-STARTTLS|250-AUTH FIRST") "C: STARTTLS\nS: 220 go\nT:\nC: EHLO "
		                                              "c.example\nS: 250 x\nE: no-auth\n" },
	};

	(void)state;
	play_all(rows, ARRAY_LEN(rows));
}

/* What was half said before its question is no answer to it. */
static void
half_a_reply_before_its_command_ends_it(void **state)
{
	struct player *p = xcalloc(1, sizeof(*p));
	struct smtp_client_options o = { .helo = "c.example", .tls = CONFIG_TLS_NONE, .arg = p };

	(void)state;
	smtp_client_init(&p->client, &o);
	smtp_client_input(&p->client, SPAN("220 hi\r\n250-x"));
	assert_int_equal(smtp_client_next(&p->client), SMTP_CLIENT_END);
	assert_int_equal(p->client.end, SMTP_END_PROTOCOL);
	smtp_client_fini(&p->client);
	free(p);
}

/* Nobody can have taken what has not left. */
static void
success_before_the_end_of_the_message_is_none(void **state)
{
	struct player *p = xcalloc(1, sizeof(*p));
	struct smtp_client_options o = { .helo = "c.example",
		.tls = CONFIG_TLS_NONE,
		.arg = p,
		.recipient = on_recipient,
		.finished = on_finished,
		.pipelining = true,
		.chunking = true,
		.overlap = SMTP_OVERLAP_PROVEN,
		.window = 4 };
	enum smtp_client_action action;

	(void)state;
	smtp_client_init(&p->client, &o);
	add_job(p, "a>b:x~");
	say(p, "220 hi", 6, false);
	say(p, "250-x|250-PIPELINING|250 CHUNKING", 33, false);
	say(p, "250 mail|250 rcpt|354 go", 24, false);
	say(p, "250 taken", 9, false);
	assert_true(p->jobs[0].finished);
	add_job(p, "c>d:y~");
	add_job(p, "e>f:z~");
	p->out_len = 0;
	p->out[0] = '\0';
	for (int i = 1; i <= 2; i++)
		smtp_client_add(&p->client, &p->jobs[i].envelope, &p->jobs[i]);
	while ((action = smtp_client_next(&p->client)) == SMTP_CLIENT_READY)
		continue;                           /* that is all */
	assert_int_equal(action, SMTP_CLIENT_BODY); /* by BDAT */
	smtp_client_input(
	    &p->client, SPAN("250 rset\r\n250 mail\r\n250 rcpt\r\n250 all of it\r\n"));
	assert_int_equal(p->client.end, SMTP_END_PROTOCOL);
	assert_null(strstr(p->out, "accepted"));
	smtp_client_abandon(&p->client, 0);
	smtp_client_fini(&p->client);
	free(p);
}

/* Half a line in clear would be the beginning of the first one under TLS. */
static void
half_a_line_behind_the_yes_to_starttls_ends_it(void **state)
{
	struct player *p = xcalloc(1, sizeof(*p));
	struct smtp_client_options o = {
		.helo = "c.example", .tls = CONFIG_TLS_STARTTLS, .arg = p
	};

	(void)state;
	smtp_client_init(&p->client, &o);
	say(p, "220 hi", 6, false);
	say(p, "250-x|250 STARTTLS", 18, false);
	smtp_client_input(&p->client, SPAN("220 go\r\n250-"));
	assert_int_equal(smtp_client_next(&p->client), SMTP_CLIENT_END);
	assert_int_equal(p->client.end, SMTP_END_PROTOCOL);
	smtp_client_fini(&p->client);
	free(p);
}

static void
a_login_is_exactly_its_mechanism_s(void **state)
{
#define TLS_AUTH .o = {.tls = CONFIG_TLS_IMPLICIT, .auth = &fake_auth }
#define ONE "S: 334 YQ==\nC: YQ==\n"
#define FOUR ONE ONE ONE ONE
	static const struct row rows[] = {
		{ TLS_AUTH, .transcript = HELLO(
		                "|250-AUTH FIRST") "C: AUTH FIRST =\nS: 235 ok\nQ!\nC: QUIT\n" },
		{ TLS_AUTH, .transcript = HELLO(
		                "|250-AUTH SECOND") "C: AUTH SECOND\nS: 334 YWJj\nC: YWJj\n"
		                                    "S: 334 \nC: \nS: 235 ok\nQ!\nC: QUIT\n" },
		{ TLS_AUTH, .transcript =
		                HELLO("|250-AUTH=SECOND") "C: AUTH SECOND\nS: 334 !!!\nC: *\n"
		                                          "S: 501 ok\nE: auth\n" },
		{ TLS_AUTH, .transcript =
		                HELLO("|250-AUTH SECOND") "C: AUTH SECOND\nS: 334 Y2FuY2Vs\nC: *\n"
		                                          "S: 235 but you cancelled\nE: auth\n" },
		{ TLS_AUTH, .transcript =
		                HELLO("|250-AUTH SECOND") "C: AUTH SECOND\nS: 334-YWJj|334 "
		                                          "YWJj\nC: *\nS!\nE: lost\n" },
		{ TLS_AUTH, .transcript =
		                HELLO("|250-AUTH FIRST") "C: AUTH FIRST =\nS: 535 no\nE: auth\n" },
		{ TLS_AUTH, .transcript = HELLO(
		                "|250-AUTH FIRST") "C: AUTH FIRST =\nS: 454 later\nE: auth\n" },
		{ TLS_AUTH, .transcript =
		                HELLO("|250-AUTH FIRST") "C: AUTH FIRST =\nS: 421 no\nE: reply\n" },
		{ TLS_AUTH, .transcript = HELLO(
		                "|250-AUTH FIRST") "C: AUTH FIRST =\nS: 354 what\nE: protocol\n" },
		{ TLS_AUTH, .transcript = HELLO(
		                "|250-AUTH SECOND") "C: AUTH SECOND\n" FOUR FOUR FOUR FOUR
		                                    "S: 334 YQ==\nC: *\nS: 501 ok\nE: auth\n" },
		{ TLS_AUTH, .transcript = HELLO("|250-AUTH OTHER") "E: no-auth\n" },
		{ .o = { .tls = CONFIG_TLS_IMPLICIT, .auth = &unproven_auth },
		    .transcript =
		        HELLO("|250-AUTH FIRST") "C: AUTH FIRST =\nS: 235 yes, yes\nE: auth\n" },
	};

	(void)state;
	play_all(rows, ARRAY_LEN(rows));
}

static void
envelopes_and_bodies_travel_together(void **state)
{
	static const struct row rows[] = {
		/* One step at a time without PIPELINING. */
		{ CLEAR, .jobs = { "a>b,c:Hi~" },
		    .transcript =
		        HELLO("") "C: MAIL FROM:<a>\nS: 250 ok\nC: RCPT TO:<b>\nS: 250 ok\n"
		                  "C: RCPT TO:<c>\nS: 250 ok\nC: DATA\nS: 354 go\nC: Hi\nC: .\n"
		                  "S: 250 taken\nV: b accepted 250\nV: c accepted 250\nF: "
		                  "a\nQ!\nC: QUIT\n" },
		/* With it, the second envelope leaves with the first body. */
		{ CLEAR, .jobs = { "a>b:.dot~~", "c>d:Ho~", "e>f:x~" },
		    .transcript = HELLO("|250-PIPELINING")
		        FLIGHT("a", "b") "S: 250 1|250 2|354 3\nC: ..dot\nC: \nC: .\n" NEXT("c",
		            "d") "S: 250 taken\nS: 250 0|250 1|250 2|354 3\nV: b accepted 250\nF: "
		                 "a\nC: Ho\n"
		                 "C: .\n" NEXT("e", "f") "S: 250 taken\nS!\nV: d accepted 250\nF: "
		                                         "c\nV: f unsent 0\nF: e\nE: lost\n" },
		/* MAILMAX ends the session by itself. */
		{ CLEAR, .jobs = { "a>b:Hi~", "c>d:Ho~" },
		    .transcript = HELLO("|250-PIPELINING|250-LIMITS RCPTMAX=5 MAILMAX=1")
		        FLIGHT("a", "b") "S: 250 1|250 2|354 3\nC: Hi\nC: .\nS: 250 ok\nV: b "
		                         "accepted 250\nF: a\nC: QUIT\nS: 221 x\nE: quit\n" },
		/* Parameters. */
		{ CLEAR, .jobs = { "8a>b:Hi~", "U>d:Ho~" },
		    .transcript = HELLO(
		        "|250-SIZE 100|250-8BITMIME|250-SMTPUTF8|250-DSN") "C: MAIL FROM:<a> "
		                                                           "SIZE=4 "
		                                                           "BODY=8BITMIME\nS: 550 "
		                                                           "no\nC: RSET\nS: 250 "
		                                                           "ok\n"
		                                                           "C: MAIL FROM:<> SIZE=4 "
		                                                           "SMTPUTF8\nS: 250 "
		                                                           "ok\nC: RCPT "
		                                                           "TO:<d>\nS!\n"
		                                                           "V: b reply 550\nF: "
		                                                           "a\nV: d unsent 0\nF: "
		                                                           "\nE: lost\n" },
		/* What the upstream cannot take never leaves. */
		{ CLEAR,
		    .jobs = { "8a>b:Hi~", "Ua>c:Hi~", "a>d:A longer one~", "a>\177:x~",
		        "\303\244>f:x~" },
		    .transcript =
		        HELLO("|250-SIZE 10|250-PIPELINING") "V: b local 554\nF: a\nV: c local "
		                                             "553\nF: a\nV: d local 552\nF: a\nV: "
		                                             "\177 local 553\nF: a\n"
		                                             "V: f local 553\nF: \303\244\nQ!\nC: "
		                                             "QUIT\n" },
		/* A body that is not clean CRLF text is never completed. */
		{ CLEAR, .jobs = { "a>b:x\n~" },
		    .transcript = HELLO("|250-PIPELINING")
		        FLIGHT("a", "b") "S: 250 1|250 2|354 3\nV: b local 451\nF: a\nE: local\n" },
		{ CLEAR, .jobs = { "a>b:x\r.~" },
		    .transcript = HELLO("|250-PIPELINING")
		        FLIGHT("a", "b") "S: 250 1|250 2|354 3\nV: b local 451\nF: a\nE: local\n" },
		{ CLEAR, .jobs = { "a>b:no end" },
		    .transcript = HELLO("|250-PIPELINING")
		        FLIGHT("a", "b") "S: 250 1|250 2|354 3\nV: b local 451\nF: a\nE: local\n" },
	};

	(void)state;
	play_all(rows, ARRAY_LEN(rows));
}

static void
replies_go_to_whom_they_belong(void **state)
{
#define PIPE HELLO("|250-PIPELINING")
#define TWO "C: MAIL FROM:<a>\nC: RCPT TO:<b>\nC: RCPT TO:<c>\nC: DATA\n"
	static const struct row rows[] = {
		/* Its 354 shows that the refusal of a recipient is its own. */
		{ CLEAR, .jobs = { "a>b,c:x~" },
		    .transcript =
		        PIPE TWO "S: 250 1|450 4.2.1 b|250 c\nS: 354 go\nV: b reply 450\nC: "
		                 "x\nC: .\nS: 554 no\nV: c reply 554\nF: a\n" },
		/* 354 although nobody is left (RFC 2920 3.1): a lone dot, and no success. */
		{ CLEAR, .jobs = { "a>b,c:x~", "d>e:y~" },
		    .transcript =
		        PIPE TWO "S: 250 1|550 b|451 c|354 go\nV: b reply 550\nV: c reply 451\nC: "
		                 ".\n" NEXT("d", "e") "S: 250 sure\nF: a\n" },
		/* DATA refused: the mark is that of the next message, or of QUIT. */
		{ CLEAR, .jobs = { "a>b,c:x~", "d>e:y~" },
		    .transcript = PIPE TWO "S: 250 1|550 b|250 c|451 not now\n" NEXT(
		        "d", "e") "S: 250 0|250 1|250 2\nS: 354 go\nV: b reply 550\nV: c reply "
		                  "451\nF: a\n"
		                  "C: y\nC: .\n" },
		{ CLEAR, .jobs = { "a>b,c:x~", "d>e:y~" },
		    .transcript = PIPE TWO "S: 550 1\nS: 503 b|503 c|503 d\n" NEXT(
		        "d", "e") "S: 250 0|550 1|503 2\nS: 503 3\nC: QUIT\nS: 221 x\n"
		                  "V: b reply 550\nV: c reply 550\nV: e reply 550\nF: a\nF: d\nE: "
		                  "quit\n" },
		{ CLEAR, .jobs = { "a>b,c:x~" },
		    .transcript = PIPE TWO "S: 550 1\nS: 250 b|250 c|354 d\nV: b reply 550\n"
		                           "V: c reply 550\nC: .\nS: 250 x\nF: a\n" },
		{ CLEAR, .jobs = { "a>b:x~" },
		    .transcript = HELLO(
		        "") "C: MAIL FROM:<a>\nS: 250 ok\nC: RCPT TO:<b>\nS: 550 no\nC: QUIT\n"
		            "S: 221 x\nV: b reply 550\nF: a\nE: quit\n" },
		/* Out of step, no refusal is believed. */
		{ CLEAR, .jobs = { "a>b,c:x~" },
		    .transcript = PIPE TWO "S: 250 1|250 more|550 b\nS: 250 c\nV: b unsent 0\nV: c "
		                           "unsent 0\nF: a\nE: protocol\n" },
		{ CLEAR, .jobs = { "a>b:x~" },
		    .transcript =
		        PIPE FLIGHT("a", "b") "S: 250 1|250 more|550 b\nC: QUIT\nS: 503 none\nV: b "
		                              "unsent 0\nF: a\nE: protocol\n" },
		{ CLEAR, .jobs = { "a>b:x~", "c>d:y~" },
		    .transcript = PIPE FLIGHT("a", "b") "S: 250 1|250 2|354 3\nC: x\nC: .\n" NEXT(
		        "c",
		        "d") "S: 250 more\nS: 554 no\nV: b unknown 0\nF: a\nV: d unsent 0\nF: c\n"
		             "E: protocol\n" },
		/* It ends without a mark: a refusal counts, if it cannot be that of the one before. */
		{ CLEAR, .jobs = { "a>b:x~" },
		    .transcript = PIPE FLIGHT(
		        "a", "b") "S: 250 1|550 b\nS!\nV: b reply 550\nF: a\nE: lost\n" },
		{ CLEAR, .jobs = { "a>b:x~" },
		    .transcript = PIPE FLIGHT("a", "b") "S: 250 1|250 2|554 no\nC: QUIT\nS!\nV: b "
		                                        "reply 554\nF: a\nE: quit\n" },
		{ CLEAR, .jobs = { "a>b,c:x~" },
		    .transcript = PIPE TWO "S: 550 1|503 b\nS!\nV: b reply 550\nV: c reply 550\nF: "
		                           "a\nE: lost\n" },
		{ CLEAR, .jobs = { "a>b,c:x~" },
		    .transcript = PIPE TWO "S: 250 1|550 b|250 c\nS!\nV: b reply 550\nV: c unsent "
		                           "0\nF: a\nE: lost\n" },
		{ CLEAR, .jobs = { "a>b,c:x~" },
		    .transcript = PIPE TWO "S: 250 1|250 b|550 c\nS!\nV: b unsent 0\nV: c unsent "
		                           "0\nF: a\nE: lost\n" },
		{ CLEAR, .jobs = { "a>b,c:x~" },
		    .transcript = PIPE TWO "S: 250 1|250 b|250 c|554 no\nC: QUIT\nS!\nV: c reply "
		                           "554\nV: b unsent 0\nF: a\nE: quit\n" },
		/* The wrong class for the command is no answer to it. */
		{ CLEAR, .jobs = { "a>b,c:x~" },
		    .transcript =
		        PIPE TWO "S: 354 1\nV: b unsent 0\nV: c unsent 0\nF: a\nE: protocol\n" },
		{ CLEAR, .jobs = { "a>b,c:x~" },
		    .transcript = PIPE TWO
		    "S: 250 1|354 2\nV: b unsent 0\nV: c unsent 0\nF: a\nE: protocol\n" },
		{ CLEAR, .jobs = { "a>b,c:x~" },
		    .transcript = PIPE TWO "S: 250 1|250 2|250 3|250 4\nV: b unsent 0\nV: c unsent "
		                           "0\nF: a\nE: protocol\n" },
		{ CLEAR, .jobs = { "a>b,c:x~" },
		    .transcript =
		        PIPE TWO "S: 250 1|250 2|250 3|354 4\nC: x\nC: .\nS: 354 again\nV: b "
		                 "unknown 0\nV: c unknown 0\nF: a\nE: protocol\n" },
		{ CLEAR, .jobs = { "a>b:x~" }, .whole_only = true,
		    .transcript =
		        PIPE FLIGHT("a", "b") "S: 250 1|250 2|354 4\nC: x\nC: .\nS: 250 yes|250 "
		                              "more\nV: b unknown 0\nF: a\nE: protocol\n" },
		{ CLEAR, .jobs = { "a>b:x~" }, .whole_only = true,
		    .transcript =
		        PIPE FLIGHT("a", "b") "S: 250 1|250 2|354 4\nC: x\nC: .\nS: 250 yes|421 "
		                              "bye\nV: b accepted 250\nF: a\nE: idle\n" },
		/* 421: what it answers is refused for now, the rest was not done. */
		{ CLEAR, .jobs = { "a>b,c:x~" },
		    .transcript = PIPE TWO
		    "S: 250 1|421 4.3.2 b\nS!\nV: b reply 421\nV: c unsent 0\nF: a\nE: reply\n" },
		{ CLEAR, .jobs = { "a>b:x~" },
		    .transcript = PIPE FLIGHT("a", "b") "S: 250 1|250 2|354 4\nC: x\nC: .\nS: 421 "
		                                        "no\nV: b reply 421\nF: a\nE: reply\n" },
	};

	(void)state;
	play_all(rows, ARRAY_LEN(rows));
}

/* The first message by DATA, then a flight: its body, one message by BDAT, and one by DATA again. */
static void
a_reply_counts_when_a_mark_behind_it_shows_that_all_are_in_step(void **state)
{
#define FLY .o = {.tls = CONFIG_TLS_NONE, .overlap = SMTP_OVERLAP_PROVEN, .window = 2 }
#define OPENED HELLO("|250-PIPELINING|250-CHUNKING") FLIGHT("a", "b") "S: 250 1|250 2|354 3\n"
#define BDAT(s, r, n, body)                                                                        \
	"C: RSET\nC: MAIL FROM:<" s ">\nC: RCPT TO:<" r ">\nC: BDAT " n " LAST\nC: " body "\n"
#define FIRST_FLIGHT OPENED "C: ..\nC: .\n" BDAT("c", "d", "3", ".") NEXT("e", "f")
#define ABC .jobs = { "a>b:.~", "c>d:.~", "e>f:x~" }
#define LOST_STEP "V: b unknown 0\nF: a\nV: d unknown 0\nF: c\nV: f unsent 0\nF: e\nE: protocol\n"
	static const struct row rows[] = {
		{ FLY, ABC,
		    .transcript = FIRST_FLIGHT
		    "S: 250 a\nS: 250 r|250 c|250 d|250 taken\nS: 250 rset|250 e\nS: 250 f\nS: 354 "
		    "go\n"
		    "V: b accepted 250\nV: d accepted 250\nF: a\nF: c\nC: x\nC: .\nS: 250 e\n"
		    "V: f accepted 250\nF: e\n" },
		/* Each flight leaves with the body before it. */
		{ FLY, .jobs = { "a>b:.~", "c>d:.~", "e>f:x~", "g>h:y~", "i>j:z~", "k>l:x~" },
		    .transcript = FIRST_FLIGHT
		    "S: 250 a|250 r|250 c|250 d|250 taken|250 rset|250 e|250 f|354 go\n"
		    "V: b accepted 250\nV: d accepted 250\nF: a\nF: c\nC: x\nC: .\n" BDAT(
		        "g", "h", "3", "y")
		        NEXT("i", "j") "S: 250 e|250 r|250 g|250 h|554 no\n"
		                       "S: 250 rset|250 i|250 j|354 go\nV: f accepted 250\nV: h "
		                       "reply 554\nF: e\nF: g\n"
		                       "C: z\nC: .\n" NEXT(
		                           "k", "l") "S!\nV: j unknown 0\nF: i\nV: l unsent 0\n"
		                                     "F: k\nE: lost\n" },
		/* What cannot leave ends no flight. */
		{ FLY, .jobs = { "a>b:.~", "c>d:x~", "e>\177:x~" },
		    .transcript = OPENED "V: \177 local 553\nC: ..\nC: .\n" NEXT("c", "d") },
		/* A reply too many in the envelope, and the message refused, accepted, or that too. */
		{ FLY, ABC,
		    .transcript =
		        FIRST_FLIGHT "S: 250 a|250 r|250 c|250 more|250 d\nS: 554 no\n" LOST_STEP },
		{ FLY, ABC,
		    .transcript = FIRST_FLIGHT
		    "S: 250 a|250 r|250 c|250 d|250 more\nS: 451 later\n" LOST_STEP },
		{ FLY, ABC,
		    .transcript = FIRST_FLIGHT "S: 250 a|250 r|250 c|250 more|250 d|250 taken|250 "
		                               "rset|250 e\nS: 250 f\n" LOST_STEP },
		{ FLY, ABC,
		    .transcript = FIRST_FLIGHT
		    "S: 250 a|250 r|250 more|250 c|250 more|250 d|554 no\nS: 250 rset|250 e\n"
		    "V: b unknown 0\nF: a\nV: d unknown 0\nF: c\nV: f unsent 0\nF: e\nE: "
		    "protocol\n" },
		{ FLY, ABC,
		    .transcript = FIRST_FLIGHT
		    "S: 250 a|250 r|250 c|250 more|250 d|421 bye\nS!\nV: b accepted 250\nF: a\n"
		    "V: d unknown 0\nF: c\nV: f unsent 0\nF: e\nE: reply\n" },
		/* One of two recipients refused: no reply is out of its class until the mark. */
		{ FLY, .jobs = { "a>b:.~", "c>d,x:.~", "e>f:x~" },
		    .transcript = OPENED
		    "C: ..\nC: .\nC: RSET\nC: MAIL FROM:<c>\nC: RCPT TO:<d>\nC: RCPT TO:<x>\nC: "
		    "BDAT 3 LAST\n"
		    "C: .\n" NEXT("e", "f") "S: 250 a|250 r|250 c|250 more|550 d|250 x\n"
		                            "S: 250 taken|250 rset|250 e|250 f\nV: b unknown 0\nF: "
		                            "a\nV: d unknown 0\nV: x unknown 0\nF: c\nV: f unsent "
		                            "0\nF: e\nE: protocol\n" },
		/* The reply of the second moved to the end: the first was delivered. */
		{ FLY, .jobs = { "a>b:.~", "c>d,x:.~", "e>f:x~" },
		    .transcript = OPENED
		    "C: ..\nC: .\nC: RSET\nC: MAIL FROM:<c>\nC: RCPT TO:<d>\nC: RCPT TO:<x>\nC: "
		    "BDAT 3 "
		    "LAST\nC: .\n" NEXT(
		        "e", "f") "S: 250 a|250 r|250 c|250 d|250 more|450 x\nS: 250 taken\nS!\n"
		                  "V: b accepted 250\nF: a\nV: x reply 450\nV: d unknown 0\nF: "
		                  "c\nV: f unsent 0\nF: e\nE: lost\n" },
		/* The same, and the connection ends before the mark: whose the refusal is nobody knows. */
		{ FLY, .jobs = { "a>b:.~", "c>d,x:.~", "e>f:x~" },
		    .transcript =
		        OPENED "C: ..\nC: .\nC: RSET\nC: MAIL FROM:<c>\nC: RCPT TO:<d>\nC: RCPT "
		               "TO:<x>\nC: BDAT 3 LAST\nC: .\n" NEXT(
		                   "e", "f") "S: 250 a|250 r|250 c|250 more|550 d|250 x\nS: 250 "
		                             "taken|250 rset\nS!\n"
		                             "V: b accepted 250\nF: a\nV: d unknown 0\nV: x "
		                             "unknown 0\nF: c\nV: f unsent 0\nF: e\nE: lost\n" },
		/* A reply too few: the 354 comes where none is due. */
		{ FLY, ABC,
		    .transcript = FIRST_FLIGHT
		    "S: 250 a|250 r|250 d|250 taken|250 rset|250 e|250 f|354 go\n" LOST_STEP },
		{ FLY, ABC,
		    .transcript =
		        FIRST_FLIGHT "S: 250 a|250 r|250 c|250 d|250 taken|554 rset\n" LOST_STEP },
		{ FLY, ABC,
		    .transcript = FIRST_FLIGHT
		    "S: 250 a|250 r|250 c|250 d|250 taken\nS: SSH-2.0\n" LOST_STEP },
		/* The DATA at the end is refused: the next mark will do, be it the one of QUIT. */
		{ FLY, .jobs = { "a>b:.~", "c>d:.~", "e>f:x~", "g>h:y~" },
		    .transcript = FIRST_FLIGHT
		    "S: 250 a|250 r|250 c|250 d|250 taken|250 rset|250 e|550 f|503 none\n" NEXT(
		        "g", "h") "S: 250 rset|250 g|250 h|354 go\nV: b accepted 250\n"
		                  "V: d accepted 250\nV: f reply 550\nF: a\nF: c\nF: e\nC: y\nC: "
		                  ".\nS: 250 g\nV: h accepted 250\n"
		                  "F: g\n" },
#define NO_MARK FIRST_FLIGHT "S: 250 a|250 r|250 c|250 d|250 taken|250 rset|250 e|550 f\nS: "
		{ FLY, ABC,
		    .transcript =
		        NO_MARK "503 none\nC: QUIT\nS: 221 bye\nV: b accepted 250\n"
		                "V: d accepted 250\nV: f reply 550\nF: a\nF: c\nF: e\nE: quit\n" },
		{ FLY, ABC,
		    .transcript =
		        NO_MARK "503 none\nC: QUIT\nS: 250 bye\nV: b unknown 0\n"
		                "F: a\nV: d unknown 0\nF: c\nV: f unsent 0\nF: e\nE: protocol\n" },
		{ FLY, ABC,
		    .transcript =
		        NO_MARK "503 none\nC: QUIT\nS: 554 no\nV: b unknown 0\n"
		                "F: a\nV: d unknown 0\nF: c\nV: f unsent 0\nF: e\nE: protocol\n" },
		{ FLY, ABC,
		    .transcript =
		        NO_MARK "503 none\nC: QUIT\nS!\nV: b accepted 250\n"
		                "F: a\nV: d accepted 250\nF: c\nV: f reply 550\nF: e\nE: quit\n" },
		/* It ends before the mark: what a later 2xx stands behind counts. */
		{ FLY, ABC,
		    .transcript = FIRST_FLIGHT "S: 250 a|250 r|250 c|250 d|250 taken\nS!\n"
		                               "V: b accepted 250\nF: a\nV: d unknown 0\nF: c\nV: "
		                               "f unsent 0\nF: e\nE: lost\n" },
		{ FLY, ABC,
		    .transcript = FIRST_FLIGHT "S: 250 a|250 r|250 c|250 d|250 taken|250 rset\nS!\n"
		                               "V: b accepted 250\nF: a\nV: d accepted 250\nF: "
		                               "c\nV: f unsent 0\nF: e\nE: lost\n" },
		{ FLY, ABC,
		    .transcript =
		        FIRST_FLIGHT "S: 250 a|250 r|250 c|250 d|250 taken|250 rset|421 bye\nS!\n"
		                     "V: b accepted 250\nF: a\nV: d accepted 250\nF: c\nV: f reply "
		                     "421\nF: e\nE: reply\n" },
		{ FLY, ABC,
		    .transcript =
		        FIRST_FLIGHT "S: 250 a|250 r|250 c|250 d|421 no\nS!\nV: b accepted 250\nF: "
		                     "a\nV: d reply 421\nF: c\nV: f unsent 0\nF: e\nE: reply\n" },
		/* So does the refusal of one recipient; what has no answer is unknown. */
		{ FLY, ABC,
		    .transcript = FIRST_FLIGHT "S: 250 a|250 r|250 c|550 d\nS!\n"
		                               "V: b accepted 250\nF: a\nV: d reply 550\nF: c\nV: "
		                               "f unsent 0\nF: e\nE: lost\n" },
		{ FLY, ABC,
		    .transcript =
		        FIRST_FLIGHT "S: 250 a|250 r|250 c\nS!\nV: b accepted 250\nF: a\n"
		                     "V: d unknown 0\nF: c\nV: f unsent 0\nF: e\nE: lost\n" },
		/* Who was out of step, or has not shown that envelopes may overlap, gets one at a time. */
		{ .o = { .tls = CONFIG_TLS_NONE, .overlap = SMTP_OVERLAP_NEVER, .window = 2 },
		    ABC,
		    .transcript = OPENED "C: ..\nC: .\nS: 250 a\nV: b accepted 250\nF: a\n" NEXT(
		        "c", "d") "S: 250 r|250 1|250 2|354 3\nC: ..\nC: .\n" },
		{ .o = { .tls = CONFIG_TLS_NONE, .window = 2 },
		    ABC,
		    .transcript = OPENED "C: ..\nC: .\n" NEXT(
		        "c", "d") "S: 250 a|250 r|250 1|250 2|354 3\n"
		                  "V: b accepted 250\nF: a\nC: ..\nC: .\n" NEXT("e", "f") },
	};

	(void)state;
	play_all(rows, ARRAY_LEN(rows));
}

/* Sends one message of these bytes; returns how the session ends, SMTP_END_NONE: it is on its way. */
static enum smtp_end_kind
send_one(struct player *p, const char *body, size_t len)
{
	struct smtp_client_options o = { .helo = "c.example",
		.tls = CONFIG_TLS_NONE,
		.arg = p,
		.recipient = on_recipient,
		.finished = on_finished,
		.pipelining = true };
	struct smtp_client *c = &p->client;
	struct job *j = &p->jobs[0];
	unsigned answers = 0;
	enum smtp_end_kind end;

	j->envelope.bytes = len;
	smtp_client_init(c, &o);
	smtp_client_input(c, SPAN("220 hi\r\n"));
	for (int steps = 0; steps < 100 && c->end == SMTP_END_NONE && answers < 3; steps++) {
		switch (smtp_client_next(c)) {
		case SMTP_CLIENT_READY:
			if (p->given++ == 0)
				smtp_client_add(c, &j->envelope, j);
			break;
		case SMTP_CLIENT_BODY:
			smtp_client_body(c, (struct span){ body + c->body_offset, c->body_len });
			break;
		case SMTP_CLIENT_WRITE:
			if (p->out_len + c->out.len < sizeof(p->out)) {
				memcpy(p->out + p->out_len, c->out.data + c->out.start, c->out.len);
				p->out_len += c->out.len;
			}
			smtp_client_wrote(c);
			break;
		case SMTP_CLIENT_WAIT:
			if (++answers < 3)
				smtp_client_input(
				    c, answers == 1 ? SPAN("250-x\r\n250-DSN\r\n250 PIPELINING\r\n")
				                    : SPAN("250 ok\r\n250 ok\r\n354 go\r\n"));
			break;
		default:
			break;
		}
	}
	end = c->end;
	smtp_client_fail(c, SMTP_END_DROPPED, &(struct smtp_trouble){ 0 });
	smtp_client_abandon(c, 0);
	smtp_client_fini(c);
	return end;
}

/* C1: only clean lines leave, wherever the spool or the pieces come from. */
static void
a_body_that_is_not_clean_never_leaves(void **state)
{
	enum { PIECE = 32768 };
	static char body[PIECE + 4];
	static const struct {
		const char *text;
		size_t len;
		bool clean;
	} rows[] = { { "a\r\nb\r\n", 6, true }, { "\r\n", 2, true }, { "a\0b\r\n", 5, false },
		{ "a\rb\r\n", 5, false }, { "a\nb\r\n", 5, false }, { "\na\r\n", 4, false },
		{ "a\r\r\n", 4, false }, { "a\r\n.\n.\r\n", 8, false }, { "a\r", 2, false },
		{ "a\n", 2, false }, { "a", 1, false }, { "\n", 1, false } };
	/* the last byte of the first piece, and the first ones of the next */
	static const struct {
		const char *text;
		bool clean;
	} seams[] = { { "\r\nx\r\n", true }, { "x\r\n\r\n", true }, { "\rx\nx\n", false },
		{ "\rx\r\n\n", false }, { "\r\r\n\r\n", false }, { "x\nx\r\n", false },
		{ "\r.\r\n\n", false } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct player *p = xcalloc(1, sizeof(*p));

		add_job(p, "a>b:x~");
		assert_int_equal(send_one(p, rows[i].text, rows[i].len),
		    rows[i].clean ? SMTP_END_NONE : SMTP_END_LOCAL);
		free(p);
	}
	for (size_t at = 0; at < PIECE;
	     at += PIECE / 3) { /* in a line that has no end in its piece */
		struct player *p = xcalloc(1, sizeof(*p));

		memset(body, 'x', sizeof(body));
		memcpy(body + PIECE + 2, "\r\n", 2);
		body[at] = '\r';
		add_job(p, "a>b:x~");
		assert_int_equal(send_one(p, body, PIECE + 4), SMTP_END_LOCAL);
		free(p);
	}
	for (size_t i = 0; i < ARRAY_LEN(seams); i++) {
		struct player *p = xcalloc(1, sizeof(*p));

		memset(body, 'x', sizeof(body));
		memcpy(body + PIECE - 1, seams[i].text, 5);
		add_job(p, "a>b:x~");
		assert_int_equal(
		    send_one(p, body, PIECE + 4), seams[i].clean ? SMTP_END_NONE : SMTP_END_LOCAL);
		free(p);
	}
}

/* The last door: what could end a command or its path early stays here, and all of it is told. */
static void
an_address_that_is_not_safe_never_leaves(void **state)
{
	static const struct {
		const char *text;
		size_t len;
		bool safe;
	} rows[] = { { "b@x", 3, true }, { "\"b c\"@x", 7, true }, { "\"b>c\"@x", 7, true },
		{ "\"b\\\"c\"@x", 8, true }, { "b>c@x", 5, false }, { "b<c@x", 5, false },
		{ "b c@x", 5, false }, { "\"b@x", 4, false }, { "b\rc@x", 5, false },
		{ "b\nc@x", 5, false }, { "b\0c@x", 5, false }, { "\"b\rc\"@x", 7, false },
		{ "\"b\\\nc\"@x", 8, false }, { "b\177@x", 4, false },
		{ "b\303\244@x", 5, false } };
	static const struct {
		const char *text;
		size_t len;
		bool safe;
	} parameters[] = { { "rfc822;b+40x", 12, true }, { "b c", 3, false }, { "b\rc", 3, false },
		{ "b\nc", 3, false }, { "b\0c", 3, false }, { "b\177", 2, false } };

	(void)state;
	for (size_t i = 0; i < 2 * (ARRAY_LEN(rows) + ARRAY_LEN(parameters)); i++) {
		struct player *p = xcalloc(1, sizeof(*p));
		struct job *j = &p->jobs[0];
		size_t k = i / 2 < ARRAY_LEN(rows) ? i / 2 : i / 2 - ARRAY_LEN(rows);
		bool is_address = i / 2 < ARRAY_LEN(rows), of_sender = i % 2 == 1, safe;
		struct span text = is_address
		                       ? (struct span){ rows[k].text, rows[k].len }
		                       : (struct span){ parameters[k].text, parameters[k].len };

		safe = is_address ? rows[k].safe : parameters[k].safe;
		add_job(p, "a>b:x~");
		if (is_address && of_sender)
			j->envelope.sender = text;
		else if (is_address)
			j->recipients[0].address = text;
		else if (of_sender)
			j->envelope.envid = text;
		else
			j->recipients[0].orcpt = text;
		(void)send_one(p, "x\r\n", 3);
		if ((memmem(p->out, p->out_len, "RCPT TO:<", 9) != NULL) != safe)
			fail_msg("%.*s", (int)text.len, text.data);
		assert_true(j->finished);
		free(p);
	}
}

static void
dsn_parameters_are_passed_on(void **state)
{
	struct player *p = xcalloc(1, sizeof(*p));
	struct smtp_client_options o = { .helo = "c.example",
		.tls = CONFIG_TLS_NONE,
		.arg = p,
		.recipient = on_recipient,
		.finished = on_finished,
		.pipelining = true };
	struct job *j = &p->jobs[0];

	(void)state;
	add_job(p, "a>b,c,d:x~");
	j->envelope.ret = SMTP_ENVELOPE_RET_HDRS;
	j->envelope.envid = SPAN("QQ314159");
	j->recipients[0].notify = SMTP_ENVELOPE_NOTIFY_SUCCESS | SMTP_ENVELOPE_NOTIFY_DELAY;
	j->recipients[0].orcpt = SPAN("rfc822;b+2Bx@e");
	j->recipients[1].notify = SMTP_ENVELOPE_NOTIFY_NEVER;
	smtp_client_init(&p->client, &o);
	say(p, "220 hi", 6, false);
	say(p, "250-x|250-DSN|250 PIPELINING", 28, false);
	assert_string_equal(p->out, "C: EHLO c.example\nC: MAIL FROM:<a> RET=HDRS ENVID=QQ314159\n"
	                            "C: RCPT TO:<b> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bx@e\n"
	                            "C: RCPT TO:<c> NOTIFY=NEVER\nC: RCPT TO:<d>\nC: DATA\n");
	smtp_client_fini(&p->client);
	free(p);
}

/* ---- replies ---- */

static void
replies_are_read_within_their_bounds(void **state)
{
	static const struct {
		const char *text;
		int code;
		const char *enhanced, *words; /* NULL: not a reply */
	} rows[] = {
		{ "250 2.0.0 ok\r\n", 250, "2.0.0", "ok" },
		{ "250 ok\n", 250, "", "ok" },
		{ "250\r\n", 250, "", "" },
		{ "250 \r\n", 250, "", "" },
		{ "550 5.7.2\r\n", 550, "5.7.2", "" }, /* CVE-2026-43964 */
		{ "550 5.7.\r\n", 550, "", "5.7." },
		{ "550 5..2\r\n", 550, "", "5..2" },
		{ "550 5.7\r\n", 550, "", "5.7" },
		{ "550 5.7.1234 x\r\n", 550, "", "5.7.1234 x" },
		{ "550 5.7.139 x\r\n", 550, "5.7.139", "x" },
		{ "550 4.7.1 class\r\n", 550, "", "4.7.1 class" },
		{ "250 2\r\n", 250, "", "2" },
		{ "550-5.1.1 one\r\n550 5.1.1 two\r\n", 550, "5.1.1", "one two" },
		{ "550-5.1.1 one\r\n550-\r\n550 5.2.2 two\r\n", 550, "5.1.1", "one 5.2.2 two" },
		{ "550 a\033[31mb\001\tc\377\r\n", 550, "", "a?[31mb? c?" },
		{ "550 \303\244\303\r\n", 550, "", "\303\244?" },
		{ "250 a\rb\r\n", 250, "", "a?b" },
		{ "25\r\n", 0, NULL, NULL },
		{ "\r\n", 0, NULL, NULL },
		{ "250x\r\n", 0, NULL, NULL },
		{ "150 x\r\n", 0, NULL, NULL },
		{ "600 x\r\n", 0, NULL, NULL },
		{ "000 x\r\n", 0, NULL, NULL },
		{ "265 x\r\n", 265, "", "x" },
		{ "250-a\r\n251 b\r\n", 0, NULL, NULL },
		{ "2a0 x\r\n", 0, NULL, NULL },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		for (int alone = 0; alone < 2; alone++) {
			struct smtp_reply_parser p;
			struct upstream_reply reply = { 0 };
			struct span in = span_of(rows[i].text);
			bool first = true, bad = false, done = false;

			smtp_reply_init(&p);
			while (in.len > 0 && !bad) {
				size_t used;
				struct span piece = { in.data, alone ? 1 : in.len };
				enum smtp_reply_event event = smtp_reply_input(&p, piece, &used);

				in = span_skip(in, used);
				bad = event == SMTP_REPLY_BAD;
				if (event == SMTP_REPLY_LINE) {
					smtp_reply_collect(&reply, &p, first);
					first = false;
					done = p.is_last;
				}
			}
			assert_int_equal(bad, rows[i].words == NULL);
			if (bad)
				continue;
			assert_true(done);
			assert_int_equal(reply.code, rows[i].code);
			assert_string_equal(reply.enhanced, rows[i].enhanced);
			assert_string_equal(reply.text, rows[i].words);
		}
	}
}

static void
an_endless_reply_is_an_error(void **state)
{
	static const struct {
		size_t line, lines; /* bytes of a line's text, lines before the last */
		bool bad;
	} rows[] = { { 10, 99, false }, { 10, 100, true }, { 4091, 1, false }, { 4093, 1, true },
		{ 4000, 14, false }, { 4000, 17, true } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct smtp_reply_parser p;
		char line[5000];
		bool bad = false;
		size_t len;

		smtp_reply_init(&p);
		for (size_t j = 0; j <= rows[i].lines && !bad; j++) {
			struct span in;

			memcpy(line, j < rows[i].lines ? "250-" : "250 ", 4);
			memset(line + 4, 'x', rows[i].line);
			memcpy(line + 4 + rows[i].line, "\r\n", 2);
			len = rows[i].line + 6;
			for (in = (struct span){ line, len }; in.len > 0 && !bad;) {
				size_t used;

				bad = smtp_reply_input(&p, in, &used) == SMTP_REPLY_BAD;
				in = span_skip(in, used);
			}
		}
		assert_int_equal(bad, rows[i].bad);
	}
}

static void
capabilities_are_what_the_last_ehlo_said(void **state)
{
	struct smtp_capabilities caps;
	static const char *const lines[] = { "pipelining", "SIZE 35882577", "AUTH LOGIN plain",
		"AUTH=LOGIN XOAUTH2", "AUTH bad$name toolongnameofamechanism",
		"LIMITS RCPTMAX=20 MAILMAX=x",
		"LIMITS RCPTMAX=10 FOO=1 MAILMAX=0 RCPTMAX=", "X-UNKNOWN 1", "", " ", "CHUNKINGX",
		"8bitmime " };

	(void)state;
	smtp_capability_reset(&caps);
	for (size_t i = 0; i < ARRAY_LEN(lines); i++)
		smtp_capability_line(&caps, span_of(lines[i]));
	assert_int_equal(caps.set, SMTP_CAP_PIPELINING | SMTP_CAP_SIZE | SMTP_CAP_AUTH |
	                               SMTP_CAP_LIMITS | SMTP_CAP_8BITMIME);
	assert_int_equal(caps.size_bytes, 35882577);
	assert_int_equal(caps.rcpt_max, 10);
	assert_int_equal(caps.mail_max, 0);
	assert_string_equal(caps.mechanisms, " LOGIN PLAIN XOAUTH2 ");
	assert_false(smtp_capability_has_mechanism(&caps, "OAUTH"));
	smtp_capability_line(&caps, SPAN("SIZE 99999999999999999999999"));
	assert_int_equal(caps.size_bytes, 0);
	for (int i = 0; i < 100; i++) {
		char line[32];

		snprintf(line, sizeof(line), "AUTH MECHANISM-%d", i);
		smtp_capability_line(&caps, span_of(line));
	}
	/* not by strlen(): it never leaves its array, thinks the compiler */
	assert_non_null(memchr(caps.mechanisms, '\0', sizeof(caps.mechanisms)));
}

static void
base64_is_strict(void **state)
{
	static const struct {
		const char *text, *raw;
	} good[] = { { "", "" }, { "Zg==", "f" }, { "Zm8=", "fo" }, { "Zm9v", "foo" },
		{ "Zm9vYmFy", "foobar" } };
	static const char *const bad[] = { "Z", "Zg",
		"Zg=", "Zh==", "Zm9=", "Zg==Zg==", "Z===", "====", "Zm9v\r\n", "Zm 9", "Zm9_" };
	char out[32];
	size_t len;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		assert_true(base64_decode(span_of(good[i].text), out, &len));
		assert_int_equal(len, strlen(good[i].raw));
		assert_memory_equal(out, good[i].raw, len);
		base64_encode(span_of(good[i].raw), out);
		assert_string_equal(out, good[i].text);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(base64_decode(span_of(bad[i]), out, &len));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_session_begins_only_as_configured),
		cmocka_unit_test(half_a_reply_before_its_command_ends_it),
		cmocka_unit_test(success_before_the_end_of_the_message_is_none),
		cmocka_unit_test(half_a_line_behind_the_yes_to_starttls_ends_it),
		cmocka_unit_test(a_login_is_exactly_its_mechanism_s),
		cmocka_unit_test(envelopes_and_bodies_travel_together),
		cmocka_unit_test(replies_go_to_whom_they_belong),
		cmocka_unit_test(a_body_that_is_not_clean_never_leaves),
		cmocka_unit_test(an_address_that_is_not_safe_never_leaves),
		cmocka_unit_test(a_reply_counts_when_a_mark_behind_it_shows_that_all_are_in_step),
		cmocka_unit_test(dsn_parameters_are_passed_on),
		cmocka_unit_test(replies_are_read_within_their_bounds),
		cmocka_unit_test(an_endless_reply_is_an_error),
		cmocka_unit_test(capabilities_are_what_the_last_ehlo_said),
		cmocka_unit_test(base64_is_strict),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
