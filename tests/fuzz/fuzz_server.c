/* fuzz_server.c - any bytes, in any pieces, to the server session, beside the model (model_server.h) that
 * gets them whole: they say the same (one reply to each command), keep the same messages, and the
 * contract of server.h holds. Four bytes in front of the input choose options, the pieces and what
 * the caller refuses; tests/fuzz/dialogue_seeds makes such inputs of the dialogue files. */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "smtp/server.h"
#include "model_server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum choice {
	AUTH_IGNORE = 1,
	NUL_SPACE = 2,
	REJECT_BARE = 4,
	NEVER_WAITS = 8,
	SMALL_MESSAGES = 16,
	ANY_SIZE = 32,
	LITTLE_PATIENCE = 64,
	FEW_HOPS = 128,
};

enum { EARLY = 255 }; /* the second byte: else the pieces */

struct watcher {
	struct smtp_server server;
	struct model_options options;
	struct model model;
	size_t n_replies, n_begins, n_commits;
	bool begun, closed, stopped;
	char *content; /* kept since BEGIN */
	size_t len, room;
};

static const char stop_reply[] = "421 4.3.2 stopped";

/* ---- What is compared ---- */

static void
check_reply(struct watcher *w, struct span reply)
{
	const struct model_reply *expected;
	const int code = atoi(reply.data);

	assert(reply.len >= 6 && reply.len < SMTP_REPLY_MAX * 2);
	assert(reply.data[reply.len - 2] == '\r' && reply.data[reply.len - 1] == '\n');
	for (size_t i = 0; i + 2 < reply.len; i++)
		assert((unsigned char)reply.data[i] >= ' ' || reply.data[i] == '\r' ||
		       (reply.data[i] == '\n' && reply.data[i - 1] == '\r'));
	if (w->stopped) {
		assert(code == 421);
		return;
	}
	assert(w->n_replies < w->model.n_replies);
	expected = &w->model.replies[w->n_replies++];
	for (unsigned i = 0; i < expected->n_codes; i++)
		if (expected->codes[i] == code)
			return;
	fprintf(
	    stderr, "reply %zu is %d, the model says %d\n", w->n_replies, code, expected->codes[0]);
	abort();
}

static bool
is_same(struct span a, const struct model_text *b)
{
	return span_equals(a, (struct span){ b->bytes, b->len });
}

static void
check_envelope(const struct smtp_mail *mail, const struct model_message *m)
{
	static const char bodies[] = {
		[SMTP_BODY_UNSAID] = 0, [SMTP_BODY_7BIT] = '7', [SMTP_BODY_8BITMIME] = '8'
	};
	static const char rets[] = {
		[SMTP_RET_UNSAID] = 0, [SMTP_RET_FULL] = 'F', [SMTP_RET_HDRS] = 'H'
	};

	assert(is_same(mail->sender, &m->sender) && is_same(mail->envid, &m->envid));
	assert(mail->declared_bytes == m->declared && mail->smtputf8 == m->smtputf8);
	assert(bodies[mail->body] == m->body && rets[mail->ret] == m->ret);
	assert(mail->n_recipients == m->n_recipients && m->n_recipients > 0);
	for (size_t i = 0; i < m->n_recipients; i++) {
		assert(is_same(mail->recipients[i].address, &m->recipients[i].address));
		assert(is_same(mail->recipients[i].orcpt, &m->recipients[i].orcpt));
		assert(mail->recipients[i].notify == m->recipients[i].notify);
	}
}

static void
check_message(struct watcher *w)
{
	const struct smtp_mail *mail = &w->server.mail;
	const struct model_message *m;

	assert(w->begun && w->n_commits < w->model.n_messages);
	m = &w->model.messages[w->n_commits];
	check_envelope(mail, m);
	assert(mail->body_bytes == w->len && w->len == m->len);
	assert(w->len == 0 || memcmp(w->content, m->content, w->len) == 0);
	assert(mail->has_8bit == m->has_8bit);
	assert(mail->header.received == m->received && mail->header.own == m->own);
}

/* State READY or START means: no sender, no recipient, nothing kept (D11). */
static void
check_transaction(const struct smtp_server *s)
{
	if ((s->state != SMTP_SERVER_READY && s->state != SMTP_SERVER_START) || s->mail_is_stale)
		return;
	assert(s->mail.n_recipients == 0 && s->mail.sender.len == 0 && s->mail.envid.len == 0);
	assert(!s->begun && s->refusal.len == 0 && s->chunk_left == 0 && s->arena_bytes == 0);
}

/* ---- The caller ---- */

static void
keep(struct watcher *w, struct span chunk)
{
	assert(w->begun && chunk.len > 0);
	if (w->len + chunk.len > w->room) {
		w->room = 2 * (w->len + chunk.len);
		w->content = realloc(w->content, w->room);
	}
	memcpy(w->content + w->len, chunk.data, chunk.len);
	w->len += chunk.len;
	if (w->options.body_most > 0 && w->len > w->options.body_most) {
		smtp_server_refuse(&w->server, "552 5.3.4 no room");
		w->begun = false;
	}
}

static void
begin(struct watcher *w)
{
	assert(!w->begun);
	w->begun = model_begin_refusal(&w->options, w->n_begins++) == 0;
	w->len = 0;
	if (!w->begun)
		smtp_server_refuse(&w->server, "452 4.3.1 no");
}

static void
commit(struct watcher *w)
{
	int code;

	check_message(w);
	w->begun = false;
	code = model_commit_refusal(&w->options, w->n_commits++);
	smtp_server_committed(&w->server,
	    code == 0     ? 0
	    : code == 451 ? -EAGAIN
	                  : -ENOSPC,
	    "0000000000001");
}

static void
perform(struct watcher *w, enum smtp_server_action action)
{
	switch (action) {
	case SMTP_SERVER_REPLY:
		check_reply(w, w->server.reply);
		break;
	case SMTP_SERVER_BEGIN:
		begin(w);
		break;
	case SMTP_SERVER_BODY:
		keep(w, w->server.chunk);
		break;
	case SMTP_SERVER_ABORT:
		assert(w->begun);
		w->begun = false;
		break;
	case SMTP_SERVER_COMMIT:
		commit(w);
		break;
	case SMTP_SERVER_CLOSE:
		assert(!w->begun);
		w->closed = true;
		break;
	case SMTP_SERVER_WAIT:
		abort();
	case SMTP_SERVER_MORE:
		break;
	}
	check_transaction(&w->server);
}

static void
feed(struct watcher *w, struct span in, bool more)
{
	enum smtp_server_action action;

	do {
		size_t used;

		action = smtp_server_input(&w->server, in, more, &used);
		assert(used <= in.len && (action != SMTP_SERVER_MORE || used == in.len));
		perform(w, action);
		in = span_skip(in, used);
	} while (action != SMTP_SERVER_MORE && action != SMTP_SERVER_CLOSE);
}

/* ---- The pieces ---- */

static size_t
piece_len(uint8_t choice, uint32_t *random)
{
	if (choice == 0)
		return SIZE_MAX;
	if (choice < 32)
		return choice; /* all alike */
	*random = *random * 1664525 + 1013904223;
	return 1 + (*random >> 16) % (choice < 128 ? 16 : choice < 192 ? 300 : 6000);
}

/* A client that waits does so where the model says. */
static size_t
until_it_waits(const struct watcher *w, size_t at, size_t end)
{
	for (size_t i = 0; i < w->model.n_waits && !w->options.never_waits; i++)
		if (w->model.waits[i] > at && w->model.waits[i] < end)
			return w->model.waits[i];
	return end;
}

static void
feed_pieces(struct watcher *w, struct span in, uint8_t choice)
{
	const bool never_waits = w->options.never_waits;
	uint32_t random = choice;
	size_t at = 0;

	feed(w, SPAN(""), w->options.is_early && in.len > 0);
	while (at < w->model.sure && !w->closed) {
		const size_t left = until_it_waits(w, at, w->model.sure) - at;
		const size_t most = piece_len(choice, &random), n = left < most ? left : most;

		feed(w, (struct span){ in.data + at, n }, never_waits && at + n < in.len);
		at += n;
	}
}

static void
stop(struct watcher *w)
{
	w->stopped = true;
	smtp_server_stop(&w->server, stop_reply);
	feed(w, SPAN(""), false);
	assert(w->closed);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct watcher w = { .begun = false };
	struct smtp_server_options options = { .hostname = "relay.example.com" };
	struct span in = { (const char *)data + 4, size - 4 };
	const struct model_options *o = &w.options;
	uint8_t choices;

	if (size < 4)
		return 0;
	choices = data[0];
	w.options = (struct model_options){ .hostname = options.hostname,
		.max_message = choices & ANY_SIZE         ? 0
		               : choices & SMALL_MESSAGES ? 100
		                                          : 5000,
		.max_recipients = choices & LITTLE_PATIENCE ? 2 : MODEL_RECIPIENTS,
		.max_errors = choices & LITTLE_PATIENCE ? 3 : 1000,
		.max_commands = choices & LITTLE_PATIENCE ? 12 : 1000,
		.max_received = choices & FEW_HOPS ? 2 : 100,
		.auth_ignore = choices & AUTH_IGNORE,
		.nul_space = choices & NUL_SPACE,
		.reject_bare = choices & REJECT_BARE,
		.is_early = data[1] == EARLY,
		.never_waits = choices & NEVER_WAITS,
		.refused_begins = data[2] & 15,
		.refused_commits = data[2] >> 4,
		.body_most = data[3] };
	options.max_message_bytes = o->max_message;
	options.max_recipients = o->max_recipients;
	options.max_errors = o->max_errors;
	options.max_commands = o->max_commands;
	options.max_received = o->max_received;
	options.auth_ignore = o->auth_ignore;
	options.nul = o->nul_space ? SMTP_NUL_SPACE : SMTP_NUL_REJECT;
	options.line_end = o->reject_bare ? SMTP_LINE_END_REJECT : SMTP_LINE_END_NORMALIZE;
	model_server(o, in, &w.model);
	smtp_server_init(&w.server, &options);
	feed_pieces(&w, in, data[1]);
	assert(w.n_replies == w.model.n_replies && w.closed == w.model.closed);
	assert(w.n_commits == w.model.n_messages);
	if (!w.closed)
		stop(&w);
	smtp_server_fini(&w.server);
	model_fini(&w.model);
	free(w.content);
	return 0;
}
