/* fuzz_client.c - an upstream that says anything, in any slices. Input: one byte of options, then what it
 * says; 0xff ends a slice. What must hold whatever it says: every recipient has one verdict and every
 * message one end; what leaves is clean lines; before TLS nothing but EHLO and STARTTLS leaves (I11);
 * no message is credited without a 2xx; and the session ends or waits. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "smtp/client.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MESSAGES 6

static const char *const bodies[MESSAGES] = { "Subject: x\r\n\r\n.\r\n..dots\r\n", "\r\n",
	"x\r\n.\r\n", ".\r\n", "a\r\n", "b\r\n" };
static const struct smtp_envelope_recipient recipients[] = {
	{ .address = { "ann@example.org", 15 } },
	{ .address = { "bob@example.org", 15 }, .notify = SMTP_ENVELOPE_NOTIFY_NEVER },
	{ .address = { "x\r\n@y", 5 } }
};

struct world {
	struct smtp_client client;
	struct smtp_envelope envelopes[MESSAGES];
	unsigned verdicts[MESSAGES][ARRAY_LEN(recipients)];
	bool finished[MESSAGES];
	unsigned given, accepted_messages, positive_replies;
	char last;
};

static size_t
index_of(const struct world *w, const void *job)
{
	return (size_t)((const struct smtp_envelope *)job - w->envelopes);
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
		assert(i != 2);
	}
	if (verdict == VERDICT_REPLY)
		assert(reply->code >= 400);
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

static void
check_output(struct world *w)
{
	struct span out = smtp_buffer_span(&w->client.out);
	bool in_clear = !w->client.secured && w->client.o.tls != CONFIG_TLS_NONE;

	for (size_t i = 0; i < out.len; i++) {
		assert(out.data[i] != '\0' && (out.data[i] == '\n') == (w->last == '\r'));
		w->last = out.data[i];
	}
	if (in_clear && out.len > 0)
		assert(memcmp(out.data, "EHLO x\r\n", out.len < 8 ? out.len : 8) == 0 ||
		       memcmp(out.data, "STARTTLS\r\n", out.len < 10 ? out.len : 10) == 0);
}

static void
pump(struct world *w)
{
	struct smtp_client *c = &w->client;

	for (unsigned steps = 0;; steps++) {
		assert(steps < 10000);
		switch (smtp_client_next(c)) {
		case SMTP_CLIENT_WAIT:
			assert(w->last != '\r');
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
			assert(c->body_len > 0);
			smtp_client_body(
			    c, (struct span){ bodies[index_of(w, c->body_job)] + c->body_offset,
			           c->body_len });
			break;
		case SMTP_CLIENT_START_TLS:
			smtp_client_secured(c);
			break;
		case SMTP_CLIENT_WRITE:
			check_output(w);
			smtp_client_wrote(c);
			break;
		}
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world w;
	struct smtp_client_options o = {
		.helo = "x", .arg = &w, .recipient = on_recipient, .finished = on_finished
	};
	const char *at = (const char *)data + 1, *end = (const char *)data + size;

	if (size < 1)
		return 0;
	memset(&w, 0, sizeof(w));
	o.tls = (data[0] & 3) == 0   ? CONFIG_TLS_NONE
	        : (data[0] & 3) == 1 ? CONFIG_TLS_IMPLICIT
	                             : CONFIG_TLS_STARTTLS;
	o.pipelining = (data[0] & 4) == 0;
	o.chunking = (data[0] & 8) == 0;
	o.auth = (data[0] & 16) != 0 ? &auth : NULL;
	o.window = 1 + (data[0] >> 5);
	for (size_t i = 0; i < MESSAGES; i++)
		w.envelopes[i] = (struct smtp_envelope){ .recipients = recipients,
			.n_recipients = 1 + i % 3,
			.bytes = strlen(bodies[i]),
			.flags = i == 4 ? SMTP_ENVELOPE_8BIT : 0 };
	smtp_client_init(&w.client, &o);
	if (o.tls == CONFIG_TLS_IMPLICIT)
		smtp_client_secured(&w.client);
	pump(&w);
	while (at < end && w.client.end == SMTP_END_NONE) {
		const char *stop = memchr(at, 0xff, (size_t)(end - at));
		size_t len = stop != NULL ? (size_t)(stop - at) : (size_t)(end - at);

		smtp_client_input(&w.client, (struct span){ at, len });
		pump(&w);
		at += len + 1;
	}
	if (w.client.end == SMTP_END_NONE)
		smtp_client_eof(&w.client);
	assert(w.client.end != SMTP_END_NONE && w.client.trouble.why[511] == '\0');
	smtp_client_abandon(&w.client, size % 2 == 0 ? w.client.out_total : 0);
	for (size_t i = 0; i < w.given; i++)
		assert(w.finished[i]);
	smtp_client_fini(&w.client);
	return 0;
}
