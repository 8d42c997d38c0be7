/* test_in_step.c - replies and commands out of step, every way there is: three messages in a session,
 * each result of each recipient and each end of data, replies too many or one too few at each place,
 * and the connection lost, or ended by a 421, at each reply. The upstream here knows what it took; the
 * client must not say otherwise (row 34 of the fault matrix). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/base.h"
#include "smtp/client.h"

enum { MESSAGES = 3, RECIPIENTS = 2, REPLIES = 20, NEVER = 99 };

/* One course of things. */
struct course {
	const char *extensions;
	int rcpt[MESSAGES][RECIPIENTS], end[MESSAGES]; /* codes */
	int surplus;    /* how many 250 too many come at once; -1: a reply is left out */
	int surplus_at; /* before, or instead of, which reply */
	int cut_at;     /* the reply that never comes */
	bool is_421;    /* it is a 421 instead, and then the end */
	bool is_slow;   /* each reply arrives alone */
};

struct upstream {
	const struct course *course;
	int replies, message, recipients;
	bool in_data, is_closed;
	uint64_t chunk_left;
	bool taken[MESSAGES][RECIPIENTS], accepted[MESSAGES][RECIPIENTS];
	bool refused[MESSAGES][RECIPIENTS]; /* by a 5xx of its own */
	bool surplus_was_at_dot;            /* in the place of the reply to a final dot */
	char pending[8192];
	size_t pending_len;
};

struct world {
	struct smtp_client client;
	struct smtp_envelope envelopes[MESSAGES];
	struct upstream upstream;
	int verdicts[MESSAGES][RECIPIENTS], codes[MESSAGES][RECIPIENTS];
	unsigned given;
};

static const struct smtp_envelope_recipient recipients[MESSAGES][RECIPIENTS] = {
	{ { .address = { "a0", 2 } }, { .address = { "b0", 2 } } },
	{ { .address = { "a1", 2 } }, { .address = { "b1", 2 } } },
	{ { .address = { "a2", 2 } }, { .address = { "b2", 2 } } },
};

/* ---- the upstream ---- */

static void
say(struct upstream *u, const char *line)
{
	size_t len = strlen(line);

	assert_true(u->pending_len + len < sizeof(u->pending));
	memcpy(u->pending + u->pending_len, line, len);
	u->pending_len += len;
}

/* false: it does not come to this any more. */
static bool
reply(struct upstream *u, int code, bool is_dot)
{
	const struct course *c = u->course;
	int n = u->replies++;
	char line[16];

	if (u->is_closed)
		return false;
	if (n == c->surplus_at)
		u->surplus_was_at_dot = is_dot;
	for (int i = 0; i < c->surplus && n == c->surplus_at; i++)
		say(u, "250 more\r\n");
	if (n == c->cut_at) {
		u->is_closed = true;
		if (c->is_421)
			say(u, "421 bye\r\n");
		return false;
	}
	snprintf(line, sizeof(line), "%d x\r\n", code);
	if (n != c->surplus_at || c->surplus >= 0)
		say(u, line);
	return true;
}

static void
reset(struct upstream *u)
{
	u->recipients = 0;
	memset(u->accepted, 0, sizeof(u->accepted));
}

/* All of a message is there. If the connection is lost instead of the reply, it was taken all the same. */
static void
end_of_data(struct upstream *u, bool is_dot)
{
	int m = u->message, code = u->recipients > 0 ? u->course->end[m] : 554;
	bool was_closed = u->is_closed;
	bool said = reply(u, code, is_dot);

	for (int i = 0; i < RECIPIENTS; i++) {
		if (!u->accepted[m][i])
			continue;
		if (code / 100 == 2 && (said || (!was_closed && !u->course->is_421)))
			u->taken[m][i] = true;
		if (code / 100 == 5 && said)
			u->refused[m][i] = true;
	}
	reset(u);
}

static void
rcpt(struct upstream *u, int i)
{
	int m = u->message, code = u->course->rcpt[m][i];

	if (!reply(u, code, false))
		return;
	u->accepted[m][i] = code / 100 == 2;
	u->refused[m][i] |= code / 100 == 5;
	u->recipients += code / 100 == 2;
}

static void
command(struct upstream *u, const char *line)
{
	unsigned long long bytes;

	if (u->in_data) {
		if (strcmp(line, ".") == 0) {
			u->in_data = false;
			end_of_data(u, true);
		}
	} else if (strncmp(line, "EHLO", 4) == 0) {
		say(u, "250-x\r\n");
		say(u, u->course->extensions);
		say(u, "250 HELP\r\n");
	} else if (sscanf(line, "MAIL FROM:<%d>", &u->message) == 1) {
		reply(u, 250, false);
	} else if (strncmp(line, "RCPT", 4) == 0) {
		rcpt(u, line[9] - 'a');
	} else if (strcmp(line, "DATA") == 0) {
		u->in_data = u->recipients > 0;
		if (!reply(u, u->in_data ? 354 : 503, false))
			u->in_data = false;
	} else if (sscanf(line, "BDAT %llu", &bytes) == 1) {
		u->chunk_left = bytes;
	} else if (strcmp(line, "RSET") == 0) {
		reset(u);
		reply(u, 250, false);
	} else {
		assert_string_equal(line, "QUIT");
		reply(u, 221, false);
	}
}

static void
hear(struct upstream *u, struct span out)
{
	char line[256];

	while (out.len > 0) {
		const char *end = memmem(out.data, out.len, "\r\n", 2);
		size_t len;

		if (u->chunk_left > 0) {
			len = out.len < u->chunk_left ? out.len : u->chunk_left;
			out = span_skip(out, len);
			u->chunk_left -= len;
			if (u->chunk_left == 0)
				end_of_data(u, false);
			continue;
		}
		assert_non_null(end);
		len = (size_t)(end - out.data);
		memcpy(line, out.data, len);
		line[len] = '\0';
		command(u, line);
		out = span_skip(out, len + 2);
	}
}

/* ---- the client's caller ---- */

static void
on_recipient(
    void *arg, void *job, size_t i, const struct upstream_reply *reply, enum verdict verdict)
{
	struct world *w = arg;
	ptrdiff_t m = (struct smtp_envelope *)job - w->envelopes;

	w->verdicts[m][i] = (int)verdict;
	w->codes[m][i] = reply->code;
}

static void
on_finished(void *arg, void *job)
{
	(void)arg, (void)job;
}

static void
pump(struct world *w)
{
	struct smtp_client *c = &w->client;

	for (;;) {
		switch (smtp_client_next(c)) {
		case SMTP_CLIENT_READY:
			if (w->given < MESSAGES) {
				struct smtp_envelope *e = &w->envelopes[w->given++];

				smtp_client_add(c, e, e);
			} else {
				smtp_client_quit(c);
			}
			break;
		case SMTP_CLIENT_BODY:
			smtp_client_body(c, (struct span){ "x\r\n" + c->body_offset, c->body_len });
			break;
		case SMTP_CLIENT_WRITE:
			hear(&w->upstream, smtp_buffer_span(&c->out));
			smtp_client_wrote(c);
			break;
		default:
			return;
		}
	}
}

static void
answer(struct world *w)
{
	struct upstream *u = &w->upstream;
	size_t len = u->pending_len;
	char said[sizeof(u->pending)];

	if (u->course->is_slow)
		len = (size_t)((char *)memchr(u->pending, '\n', len) - u->pending) + 1;
	memcpy(said, u->pending, len);
	u->pending_len -= len;
	memmove(u->pending, u->pending + len, u->pending_len);
	smtp_client_input(&w->client, (struct span){ said, len });
}

static void
run(struct world *w, const struct course *course)
{
	struct smtp_client_options o = { .helo = "x",
		.tls = CONFIG_TLS_NONE,
		.pipelining = true,
		.chunking = true,
		.overlap = SMTP_OVERLAP_PROVEN,
		.window = 2,
		.arg = w,
		.recipient = on_recipient,
		.finished = on_finished };
	static const char *const senders[] = { "0", "1", "2" };
	struct smtp_client *c = &w->client;

	memset(w, 0, sizeof(*w));
	memset(w->verdicts, -1, sizeof(w->verdicts));
	w->upstream.course = course;
	for (int m = 0; m < MESSAGES; m++)
		w->envelopes[m] = (struct smtp_envelope){ .sender = span_of(senders[m]),
			.recipients = recipients[m],
			.n_recipients = RECIPIENTS,
			.bytes = 3 };
	smtp_client_init(c, &o);
	smtp_client_input(c, SPAN("220 hi\r\n"));
	for (pump(w); c->end == SMTP_END_NONE; pump(w)) {
		if (w->upstream.pending_len > 0)
			answer(w);
		else
			smtp_client_eof(c);
	}
	smtp_client_abandon(c, c->out_total);
	smtp_client_fini(c);
}

/* ---- what must hold ---- */

/* What no client can see: a 250 between the final dot and its reply, if that comes later or never. And what
 * this one does not see: two too many, or a reply left out, in a flight that ends before its mark. */
static bool
cannot_be_seen(const struct world *w)
{
	const struct course *c = w->upstream.course;

	if (w->upstream.surplus_was_at_dot && (c->is_slow || c->cut_at == c->surplus_at))
		return true;
	return w->client.end != SMTP_END_PROTOCOL &&
	       (c->surplus == -1 || (c->surplus == 2 && c->cut_at != NEVER));
}

static const char *
wrong(const struct world *w, int m, int i)
{
	const struct upstream *u = &w->upstream;
	int verdict = w->verdicts[m][i], class = w->codes[m][i] / 100;
	bool is_refused = verdict == VERDICT_REPLY;

	if (cannot_be_seen(w))
		return NULL;
	if (verdict == VERDICT_ACCEPTED && !u->taken[m][i])
		return "counted as delivered, but it was not taken";
	if (u->taken[m][i] && (verdict == VERDICT_UNSENT || (is_refused && class == 4)))
		return "taken, and repeated without a word";
	if (is_refused && class == 5 && !u->refused[m][i])
		return "bounced, but it was not refused";
	return NULL;
}

static void
check(const struct course *c)
{
	static struct world w;
	char results[100] = "";

	run(&w, c);
	for (int m = 0; m < MESSAGES; m++) {
		for (int i = 0; i < RECIPIENTS; i++) {
			const char *what = wrong(&w, m, i);

			if (what == NULL)
				continue;
			for (int n = 0; n < MESSAGES; n++)
				snprintf(results + strlen(results),
				    sizeof(results) - strlen(results), " %d,%d>%d", c->rcpt[n][0],
				    c->rcpt[n][1], c->end[n]);
			fail_msg(
			    "message %d, recipient %d: %s (results%s; %d too many at reply %d; %s "
			    "at %d; slow %d; end %s)\n%s",
			    m, i, what, results, c->surplus, c->surplus_at,
			    c->is_421 ? "421" : "lost", c->cut_at, c->is_slow,
			    smtp_end_kind_name(w.client.end), c->extensions);
		}
	}
}

/* All places of the surplus and of the end; in the short form one reply too many, or none. */
static void
check_places(struct course *c, bool is_long)
{
	for (c->surplus = is_long ? -1 : 0; c->surplus <= (is_long ? 2 : 1); c->surplus++) {
		for (c->surplus_at = 0; c->surplus_at < REPLIES; c->surplus_at++) {
			for (int cut = 0; cut <= REPLIES; cut++) {
				c->cut_at = cut == REPLIES ? NEVER : cut;
				for (int way = 0; way < 2; way++) {
					c->is_421 = way == 1;
					check(c);
				}
			}
			if (c->surplus == 0)
				break;
		}
	}
}

/* The bits of n are results: of all recipients and ends. A refusal is for now or for ever in turn. */
static void
give_results(struct course *c, unsigned n, bool first_for_ever)
{
	for (int m = 0; m < MESSAGES; m++) {
		for (int i = 0; i <= RECIPIENTS; i++, n >>= 1) {
			int refusal = (i % 2 == 0) == first_for_ever ? 550 : 450;

			*(i < RECIPIENTS ? &c->rcpt[m][i] : &c->end[m]) =
			    (n & 1) != 0 ? refusal : 250;
		}
	}
}

/* In the short form all is well with the first message, and the upstream has PIPELINING. */
static void
nobody_is_credited_with_the_reply_of_another(void **state)
{
	static const char *const extensions[] = { "250-PIPELINING\r\n250-CHUNKING\r\n",
		"250-PIPELINING\r\n", "" };
	bool is_long = getenv("RELAYD_LONG") != NULL;
	struct course c = { 0 };

	(void)state;
	for (size_t e = 0; e < (is_long ? 3 : 2); e++) {
		c.extensions = extensions[e];
		for (unsigned n = 0; n < 1u << MESSAGES * (RECIPIENTS + 1); n += is_long ? 3 : 8) {
			give_results(&c, n, n / 8 % 2 == 0);
			c.is_slow = n / 8 % 3 == 0;
			check_places(&c, is_long);
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nobody_is_credited_with_the_reply_of_another),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
