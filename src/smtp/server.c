/* server.c - see server.h. Lines come in, answers go out, and a transaction ends in one function. */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "smtp/server_internal.h"

enum { LINE_KEPT = 1024 };

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

void
server_answer_span(struct smtp_server *s, struct span reply)
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
	server_answer_span(s, server_reply(reply));
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
	server_answer_span(s, (struct span){ s->text, (size_t)n });
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

enum smtp_server_action
server_next_pending(struct smtp_server *s)
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
	s->argument = SPAN("");
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
	if (s->state == SMTP_SERVER_START && s->line_len == 0 && !s->line_is_long &&
	    in.data[0] == 0x16) {
		s->command = "command";
		server_close(s, REPLY_TLS_HELLO); /* a TLS client would wait for us for ever */
		return server_next_pending(s);
	}
	if (lf == NULL || s->line_len > 0 || s->line_is_long || line.len > most) {
		add_to_line(s, line);
		line = (struct span){ s->line, s->line_len };
	}
	if (s->skipped_bytes > SMTP_LINE_SKIP_MAX) {
		s->command = "command";
		server_close(s, REPLY_LINE_ENDLESS);
		return server_next_pending(s);
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
		return server_next_pending(s);
	return server_take_chunk(
	    s, span_skip(in, *used), used); /* BDAT is answered behind its bytes */
}

static enum smtp_server_action
greet(struct smtp_server *s, bool is_early)
{
	s->command = "connection";
	if (is_early) {
		server_close(s, REPLY_SYNC);
		return server_next_pending(s);
	}
	server_enter(s, SMTP_SERVER_START);
	server_answer_text(s, "220 %.255s" SMTP_SERVER_GREETING_END "\r\n", s->options->hostname);
	return server_next_pending(s);
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
		return server_next_pending(s);
	switch (s->state) {
	case SMTP_SERVER_GREETING:
		return greet(s, in.len > 0 || more);
	case SMTP_SERVER_DATA:
		return server_take_data(s, in, used);
	case SMTP_SERVER_CHUNK:
		return server_take_chunk(s, in, used);
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
		server_answer_span(s, line);
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
	s->argument = SPAN("");
	server_reset(s);
	s->reply = reply_line(reply, s->refusal_text);
	s->reply_pending = true;
}

bool
smtp_server_is_idle(const struct smtp_server *s)
{
	return is_between_messages(s->state) && s->line_len == 0 && !has_pending(s);
}

bool
smtp_server_is_in_body(const struct smtp_server *s)
{
	return s->state >= SMTP_SERVER_DATA && s->state <= SMTP_SERVER_BDAT_ERROR;
}
