/* server_internal.h - what the files of the server session share:
 *   server.c          the machine: lines, answers, the end of a transaction
 *   server_verbs.c    the commands
 *   server_params.c   what stands behind the address of MAIL and RCPT
 *   server_content.c  what follows DATA and BDAT
 *   server_replies.c  what it says
 *   server_mail.c     the envelope's memory
 * Nobody else includes it. */
#ifndef RELAYD_SMTP_SERVER_INTERNAL_H
#define RELAYD_SMTP_SERVER_INTERNAL_H

#include "smtp/server.h"

/* Each is one row in server_replies.c. */
enum reply {
	REPLY_MAIL_OK,
	REPLY_RCPT_OK,
	REPLY_DATA_GO,
	REPLY_OK,
	REPLY_VRFY,
	REPLY_HELP,
	REPLY_BYE,
	REPLY_AUTH_OK,
	REPLY_AUTH_ASK,
	REPLY_AUTH_USER,
	REPLY_AUTH_PASSWORD,
	REPLY_AUTH_CANCELLED,
	REPLY_AUTH_OFF,
	REPLY_AUTH_TWICE,
	REPLY_AUTH_MECHANISM,
	REPLY_UNKNOWN,
	REPLY_NOT_HERE,
	REPLY_NO_TLS,
	REPLY_TLS_HELLO,
	REPLY_HTTP,
	REPLY_CONTROL,
	REPLY_LINE_LONG,
	REPLY_LINE_ENDLESS,
	REPLY_BARE_COMMAND,
	REPLY_SYNC,
	REPLY_HELO_FIRST,
	REPLY_HELO_NAME,
	REPLY_NESTED_MAIL,
	REPLY_NO_MAIL,
	REPLY_NO_RCPT,
	REPLY_IN_MAIL,
	REPLY_IN_BDAT,
	REPLY_AFTER_BDAT_ERROR,
	REPLY_NO_ARGUMENT,
	REPLY_ARGUMENT,
	REPLY_MAIL_SYNTAX,
	REPLY_RCPT_SYNTAX,
	REPLY_SENDER,
	REPLY_RECIPIENT,
	REPLY_ADDRESS_LONG,
	REPLY_ADDRESS_UTF8,
	REPLY_NEEDS_SMTPUTF8,
	REPLY_PARAM_UNKNOWN,
	REPLY_PARAM_VALUE,
	REPLY_PARAM_TWICE,
	REPLY_BODY_BINARY,
	REPLY_TOO_MANY_RCPT,
	REPLY_TOO_LARGE,
	REPLY_ENDLESS,
	REPLY_NUL,
	REPLY_BARE,
	REPLY_LOOP,
	REPLY_BDAT_SYNTAX,
	REPLY_BDAT_EMPTY,
	REPLY_BDAT_SKIPPED,
	REPLY_NOT_STORED,
	REPLY_NO_ROOM,
	REPLY_TOO_MANY_ERRORS,
	REPLY_TOO_MANY_COMMANDS,
};

struct span server_reply(enum reply reply); /* with CRLF */

/* server.c */
void server_enter(struct smtp_server *s, enum smtp_server_state state);
void server_answer(struct smtp_server *s, enum reply reply);
void server_answer_text(struct smtp_server *s, const char *fmt, ...) PRINTF_LIKE(2, 3);
void server_close(struct smtp_server *s, enum reply reply); /* answers and ends the session */
/* The one function that ends a transaction (D11): to READY, or START if no HELO was said. */
void server_reset(struct smtp_server *s);
void server_answer_span(struct smtp_server *s, struct span reply);
/* What is to be told to the caller: ABORT, then the reply, then CLOSE. */
enum smtp_server_action server_next_pending(struct smtp_server *s);

/* server_content.c: the message under way is refused at its end; what is still to come is skipped. */
void server_refuse_message(struct smtp_server *s, struct span reply);
void server_begin_content(struct smtp_server *s, bool dots);
enum smtp_server_action server_take_data(struct smtp_server *s, struct span in, size_t *used);
enum smtp_server_action server_take_chunk(struct smtp_server *s, struct span in, size_t *used);

/* server_verbs.c: performs one command line. True: a message begins (BEGIN). */
bool server_command(struct smtp_server *s, struct span line);
void server_auth_line(struct smtp_server *s, struct span line);

/* server_params.c: reads what stands behind the path. REPLY_OK or what is wrong. */
enum reply server_mail_params(struct smtp_server *s, struct span params, struct smtp_mail *mail);
enum reply server_rcpt_params(
    struct smtp_server *s, struct span params, struct smtp_recipient *recipient);

/* server_mail.c */
struct smtp_arena;
/* Copies a, b, c one behind the other. False: the envelope is as large as it may be. */
bool server_mail_store(struct smtp_server *s, struct span a, struct span b, struct span c,
    struct span *out) MUST_CHECK;
void server_mail_add(struct smtp_server *s, const struct smtp_recipient *recipient);
void server_mail_clear(struct smtp_server *s);
void server_mail_free(struct smtp_server *s);

#endif
