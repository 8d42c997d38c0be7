#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "smtp/server_internal.h"

enum { DISCARD_MIN = 16 << 20, LINE_KEPT = 1024 };

/* ---- State, answers ---- */

static bool
is_between_messages(enum smtp_server_state state)
{
	return state == SMTP_SERVER_START || state == SMTP_SERVER_READY;
}

void
server_enter(struct smtp_server *s, enum smtp_server_state state)
{
	assert(s->state != SMTP_SERVER_CLOSED);
	if (is_between_messages(state))
		assert(
		    !s->begun && s->refusal.len == 0 &&
		    (s->mail_is_stale || (s->mail.n_recipients == 0 && s->mail.sender.len == 0)));
	s->state = state;
}

static void
answer_span(struct smtp_server *s, struct span reply)
{
	const unsigned most = s->options->max_errors > 0 ? s->options->max_errors : 20;

	s->reply = reply;
	s->reply_pending = true;
	if (reply.data[0] == '5')
		s->errors++;
	if (s->errors > most && !s->close_pending) {
		s->close_pending = true;
		server_reset(s);
		s->reply = server_reply(REPLY_TOO_MANY_ERRORS);
	}
}

void
server_answer(struct smtp_server *s, enum reply reply)
{
	answer_span(s, server_reply(reply));
}

void
server_answer_text(struct smtp_server *s, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(s->text, sizeof(s->text), fmt, ap);
	va_end(ap);
	assert(n > 0 && (size_t)n < sizeof(s->text));
	answer_span(s, (struct span){ s->text, (size_t)n });
}

void
server_close(struct smtp_server *s, enum reply reply)
{
	s->close_pending = true;
	server_reset(s);
	server_answer(s, reply);
}

/* The caller's words as a reply line. */
static struct span
reply_line(const char *text, char out[SMTP_REPLY_MAX])
{
	const int n = snprintf(out, SMTP_REPLY_MAX - 2, "%s", text);
	const size_t len = n < SMTP_REPLY_MAX - 3 ? (size_t)n : SMTP_REPLY_MAX - 3;

	memcpy(out + len, "\r\n", 2);
	return (struct span){ out, len + 2 };
}

/* ---- The transaction ---- */

void
server_reset(struct smtp_server *s)
{
	s->abort_pending |= s->begun;
	s->begun = false;
	s->refusal = (struct span){ NULL, 0 };
	s->overshoot = 0;
	s->chunk_left = 0;
	s->skipped_bytes = 0;
	s->mail_is_stale = true; /* the caller may still log it, together with the reply */
	server_enter(s, s->said_helo ? SMTP_SERVER_READY : SMTP_SERVER_START);
}

void
server_refuse_message(struct smtp_server *s, struct span reply)
{
	s->refusal = reply;
	s->abort_pending |= s->begun;
	s->begun = false;
}

void
server_begin_content(struct smtp_server *s, bool dots)
{
	data_begin(&s->data, dots, s->options->nul == SMTP_NUL_SPACE);
	header_scan_begin(&s->header);
	s->skipped_bytes = 0;
}

static enum smtp_server_action
next_pending(struct smtp_server *s)
{
	if (s->abort_pending) {
		s->abort_pending = false;
		return SMTP_SERVER_ABORT;
	}
	if (s->reply_pending) {
		s->reply_pending = false;
		return SMTP_SERVER_REPLY;
	}
	s->close_pending = false;
	server_enter(s, SMTP_SERVER_CLOSED);
	return SMTP_SERVER_CLOSE;
}

static bool
has_pending(const struct smtp_server *s)
{
	return s->abort_pending || s->reply_pending || s->close_pending;
}

/* ---- Content ---- */

/* What the content itself says against the message. */
static void
judge_content(struct smtp_server *s)
{
	const unsigned hops = s->options->max_received > 0 ? s->options->max_received : 100;
	const uint64_t most = s->options->max_message_bytes;
	const bool is_bare = s->data.has_bare_cr || s->data.has_bare_lf;

	if (s->refusal.len > 0)
		return;
	if (most > 0 && s->mail.body_bytes > most)
		server_refuse_message(s, server_reply(REPLY_TOO_LARGE));
	else if (s->data.has_nul && s->options->nul == SMTP_NUL_REJECT)
		server_refuse_message(s, server_reply(REPLY_NUL));
	else if (is_bare && s->options->line_end == SMTP_LINE_END_REJECT)
		server_refuse_message(s, server_reply(REPLY_BARE));
	else if (s->header.facts.received >= hops)
		server_refuse_message(s, server_reply(REPLY_LOOP));
}

/* Is s->chunk part of a message that is still wanted? */
static bool
keep_chunk(struct smtp_server *s)
{
	if (s->refusal.len > 0)
		return false;
	s->mail.body_bytes += s->chunk.len;
	if (!s->header.is_over)
		header_scan_take(&s->header, s->chunk);
	judge_content(s);
	return s->refusal.len == 0;
}

/* D6: what is thrown away is read to its end, but not for ever. */
static bool
is_skipped_enough(struct smtp_server *s, size_t n)
{
	const uint64_t most = s->options->max_message_bytes;

	if (s->refusal.len == 0)
		return false;
	s->skipped_bytes += n;
	return s->skipped_bytes > (most > DISCARD_MIN ? most : DISCARD_MIN);
}

static enum smtp_server_action
commit(struct smtp_server *s)
{
	header_scan_finish(&s->header);
	s->mail.header = s->header.facts;
	s->mail.has_8bit = s->data.has_8bit;
	s->begun = false; /* from here on the caller answers for it */
	server_enter(s, SMTP_SERVER_COMMITTING);
	return SMTP_SERVER_COMMIT;
}

/* The message is over and refused. */
static enum smtp_server_action
answer_refusal(struct smtp_server *s)
{
	const struct span refusal = s->refusal;

	server_reset(s);
	answer_span(s, refusal);
	return next_pending(s);
}

static enum smtp_server_action
take_data(struct smtp_server *s, struct span in, size_t *used)
{
	s->command = "end of data";
	for (;;) {
		size_t n;
		const enum data_event event = data_take(&s->data, in, &n, &s->chunk);

		*used += n;
		in = span_skip(in, n);
		if (is_skipped_enough(s, n)) {
			server_close(s, REPLY_ENDLESS);
			return next_pending(s);
		}
		if (event == DATA_CHUNK && keep_chunk(s))
			return SMTP_SERVER_BODY;
		if (event == DATA_END)
			judge_content(s);
		if (s->abort_pending && event != DATA_END)
			return next_pending(s);
		if (event == DATA_END)
			return s->refusal.len > 0 ? answer_refusal(s) : commit(s);
		if (event == DATA_MORE)
			return SMTP_SERVER_MORE;
	}
}

/* B3: after an error in the middle, what is left of the message is skipped. */
static enum smtp_server_action
end_of_refused_chunk(struct smtp_server *s)
{
	const struct span refusal = s->refusal;

	server_reset(s);
	if (!s->chunk_is_last)
		server_enter(s, SMTP_SERVER_BDAT_ERROR);
	answer_span(s, refusal);
	return next_pending(s);
}

static enum smtp_server_action
end_of_chunk(struct smtp_server *s)
{
	if (s->refusal.len == 0 && s->chunk_is_last) {
		s->chunk = data_finish(&s->data);
		if (s->chunk.len > 0 && keep_chunk(s))
			return SMTP_SERVER_BODY;
	}
	judge_content(s);
	if (s->refusal.len > 0)
		return end_of_refused_chunk(s);
	if (s->chunk_is_last)
		return commit(s);
	server_enter(s, SMTP_SERVER_BDAT);
	server_answer(s, REPLY_OK);
	return next_pending(s);
}

static enum smtp_server_action
take_chunk(struct smtp_server *s, struct span in, size_t *used)
{
	s->command = "BDAT";
	if (in.len > s->chunk_left)
		in.len = (size_t)s->chunk_left;
	while (s->chunk_left > 0) {
		size_t n = in.len;
		enum data_event event = DATA_MORE;

		if (s->refusal.len == 0)
			event = data_take(&s->data, in, &n, &s->chunk);
		s->chunk_left -= n;
		*used += n;
		in = span_skip(in, n);
		if (is_skipped_enough(s, n)) {
			server_close(s, REPLY_ENDLESS);
			return next_pending(s);
		}
		if (event == DATA_CHUNK && keep_chunk(s))
			return SMTP_SERVER_BODY;
		if (s->abort_pending)
			return next_pending(s);
		if (in.len == 0 && s->chunk_left > 0)
			return SMTP_SERVER_MORE;
	}
	return end_of_chunk(s);
}

/* ---- Command lines ---- */

static void
drop_line(struct smtp_server *s)
{
	wipe(s->line, s->line_len); /* it may be a password (I10) */
	if (s->line_size > LINE_KEPT) {
		free(s->line);
		s->line = NULL;
		s->line_size = 0;
	}
	s->line_len = 0;
	s->line_is_long = false;
	s->skipped_bytes = 0;
}

/* Keeps the start of a line whose end has not come yet. */
static void
add_to_line(struct smtp_server *s, struct span part)
{
	const size_t most = s->options->auth_ignore ? SMTP_AUTH_LINE_MAX : SMTP_LINE_MAX;

	if (s->line_is_long || part.len > most - s->line_len) {
		s->line_is_long = true;
		s->skipped_bytes += part.len;
		return;
	}
	if (s->line_len + part.len > s->line_size) {
		size_t size = s->line_size > 0 ? s->line_size : 256;
		char *line;

		while (size < s->line_len + part.len)
			size *= 2;
		line = xcalloc(1, size);
		if (s->line_len > 0)
			memcpy(line, s->line, s->line_len);
		wipe(s->line, s->line_len);
		free(s->line);
		s->line = line;
		s->line_size = size;
	}
	memcpy(s->line + s->line_len, part.data, part.len);
	s->line_len += part.len;
}

static bool
has_control(struct span line)
{
	for (size_t i = 0; i < line.len; i++)
		if (((unsigned char)line.data[i] < 0x20 && line.data[i] != '\t') ||
		    line.data[i] == 0x7f)
			return true;
	return false;
}

/* One line, LF included. True: BEGIN. */
static bool
perform_line(struct smtp_server *s, struct span line)
{
	const unsigned most = s->options->max_commands > 0 ? s->options->max_commands : 1000;
	const bool has_cr = line.len > 1 && line.data[line.len - 2] == '\r';

	line.len -= has_cr ? 2 : 1;
	s->command = "command";
	if (++s->commands > most)
		server_close(s, REPLY_TOO_MANY_COMMANDS);
	else if (!has_cr && s->options->line_end == SMTP_LINE_END_REJECT)
		server_close(s, REPLY_BARE_COMMAND);
	else if (has_control(line)) {
		if (!is_between_messages(s->state) && s->state > SMTP_SERVER_BDAT_ERROR)
			server_enter(s, SMTP_SERVER_READY); /* the AUTH exchange is over */
		server_answer(s, REPLY_CONTROL);
	} else if (s->state == SMTP_SERVER_AUTH_PLAIN || s->state == SMTP_SERVER_AUTH_USER ||
	           s->state == SMTP_SERVER_AUTH_PASSWORD)
		server_auth_line(s, line);
	else
		return server_command(s, line);
	return false;
}

static enum smtp_server_action
take_line(struct smtp_server *s, struct span in, bool more, size_t *used)
{
	const size_t most = s->options->auth_ignore ? SMTP_AUTH_LINE_MAX : SMTP_LINE_MAX;
	const char *lf = memchr(in.data, '\n', in.len);
	struct span line = { in.data, lf != NULL ? (size_t)(lf - in.data) + 1 : in.len };
	bool begins = false;

	*used = line.len;
	if (in.len == 0)
		return SMTP_SERVER_MORE;
	if (s->state == SMTP_SERVER_START && s->line_len == 0 && in.data[0] == 0x16) {
		s->command = "command";
		server_close(s, REPLY_TLS_HELLO); /* a TLS client would wait for us for ever */
		return next_pending(s);
	}
	if (lf == NULL || s->line_len > 0 || s->line_is_long || line.len > most) {
		add_to_line(s, line);
		line = (struct span){ s->line, s->line_len };
	}
	if (s->skipped_bytes > SMTP_LINE_SKIP_MAX) {
		s->command = "command";
		server_close(s, REPLY_LINE_ENDLESS);
		return next_pending(s);
	}
	if (lf == NULL)
		return SMTP_SERVER_MORE;
	s->input_pending = more || *used < in.len;
	if (s->line_is_long) {
		s->command = "command";
		s->commands++;
		server_answer(s, REPLY_LINE_LONG);
	} else {
		begins = perform_line(s, line);
	}
	drop_line(s);
	if (begins && s->begun)
		return SMTP_SERVER_BEGIN; /* the reply waits for what the caller says */
	if (has_pending(s))
		return next_pending(s);
	return take_chunk(s, span_skip(in, *used), used); /* BDAT is answered behind its bytes */
}

static enum smtp_server_action
greet(struct smtp_server *s, bool is_early)
{
	s->command = "connection";
	if (is_early) {
		server_close(s, REPLY_SYNC);
		return next_pending(s);
	}
	server_enter(s, SMTP_SERVER_START);
	server_answer_text(s, "220 %.255s ESMTP relayd\r\n", s->options->hostname);
	return next_pending(s);
}

/* ---- The contract ---- */

void
smtp_server_init(struct smtp_server *s, const struct smtp_server_options *options)
{
	*s = (struct smtp_server){ .options = options, .state = SMTP_SERVER_GREETING };
	s->command = "connection";
}

void
smtp_server_fini(struct smtp_server *s)
{
	if (s->line != NULL)
		wipe(s->line, s->line_len);
	free(s->line);
	s->line = NULL;
	server_mail_free(s);
}

enum smtp_server_action
smtp_server_input(struct smtp_server *s, struct span in, bool more, size_t *used)
{
	*used = 0;
	if (in.len == 0)
		in.data = "";
	if (s->mail_is_stale && !s->abort_pending && !s->reply_pending) {
		s->mail_is_stale = false;
		server_mail_clear(s);
	}
	if (has_pending(s))
		return next_pending(s);
	switch (s->state) {
	case SMTP_SERVER_GREETING:
		return greet(s, in.len > 0 || more);
	case SMTP_SERVER_DATA:
		return take_data(s, in, used);
	case SMTP_SERVER_CHUNK:
		return take_chunk(s, in, used);
	case SMTP_SERVER_COMMITTING:
		return SMTP_SERVER_WAIT;
	case SMTP_SERVER_CLOSED:
		return SMTP_SERVER_CLOSE;
	default:
		return take_line(s, in, more, used);
	}
}

void
smtp_server_refuse(struct smtp_server *s, const char *reply)
{
	const struct span line = reply_line(reply, s->refusal_text);

	s->begun = false; /* the caller knows */
	if ((s->state == SMTP_SERVER_MAIL && s->reply_pending) ||
	    s->state == SMTP_SERVER_COMMITTING) {
		server_reset(s);
		answer_span(s, line);
	} else if (!is_between_messages(s->state) && s->state != SMTP_SERVER_CLOSED) {
		server_refuse_message(s, line);
	}
}

void
smtp_server_committed(struct smtp_server *s, int result, const char *queue_id)
{
	assert(s->state == SMTP_SERVER_COMMITTING);
	s->command = "end of data";
	server_reset(s);
	if (result == 0) {
		s->n_messages++;
		s->errors = s->commands = 0;
		server_answer_text(s, "250 2.0.0 Ok: queued as %.40s\r\n", queue_id);
	} else {
		server_answer(s, result == -ENOSPC ? REPLY_NO_ROOM : REPLY_NOT_STORED);
	}
}

void
smtp_server_stop(struct smtp_server *s, const char *reply)
{
	if (s->state == SMTP_SERVER_COMMITTING || s->state == SMTP_SERVER_CLOSED)
		return;
	s->close_pending = true;
	s->command = "connection";
	server_reset(s);
	s->reply = reply_line(reply, s->refusal_text);
	s->reply_pending = true;
}

bool
smtp_server_is_idle(const struct smtp_server *s)
{
	return is_between_messages(s->state) && s->line_len == 0 && !has_pending(s);
}
