/* session_parts.h - what the files of a session share, and nobody else: session.c (its life and its pump),
 * session_log.c (what the log says of it), session_wait.c (its deadlines). */
#ifndef RELAYD_INTAKE_SESSION_PARTS_H
#define RELAYD_INTAKE_SESSION_PARTS_H

#include <event2/event_struct.h>

#include "intake/session.h"

enum session_state { SESSION_TALKING, SESSION_COMMITTING, SESSION_FLUSHING, SESSION_LINGERING };

struct session_outbox {
	char *data; /* NULL: empty */
	size_t len, size, sent;
};

struct session_inbox { /* read but not taken yet, while the machine waits */
	char *data;
	size_t len;
};

struct session {
	struct session *next, *previous;
	struct intake *intake;
	const struct config_listen *listen;
	int fd;
	enum session_state state;
	bool is_reading; /* `readable` is with libevent */
	bool is_broken;  /* no word reaches the client any more */
	bool is_eof;     /* it sends nothing more; it may still listen (row 45) */
	struct event readable;
	struct event *writable; /* made when the socket is full for the first time */
	struct peer peer;
	struct smtp_server smtp;
	struct smtp_server_options smtp_options;
	struct message *message; /* between BEGIN and its end */
	struct session_outbox outbox;
	struct session_inbox inbox;
	uint64_t number;
	uint64_t opened_ms;
	uint64_t since_ms;    /* the wait that has a deadline began */
	uint64_t block_bytes; /* of the body, since since_ms; LINGERING: thrown away */
	const char *why;      /* it ends, for the log */
	bool is_turned_down;  /* the spool did not take its last message */
};

/* session.c. Does the client still have to read something? */
bool session_has_output(const struct session *s);
/* The disk does not answer (COMMITTING): nothing is said, and the message goes its way without us (I5). May free it. */
void session_give_up_waiting(struct session *s);

/* session_log.c. Nothing in there changes a session. */
void session_log_opened(const struct session *s);
/* A refused message is worth a line and is counted, a limit is worth a line. Our own last words are not: the line
 * about the session's end has their cause. */
void session_log_reply(const struct session *s);
void session_log_accepted(const struct session *s, uint64_t took_ms);
/* The session ends in the middle of a message. */
void session_log_lost(const struct session *s);
/* The disk did not answer in time, and the client is not answered either. */
void session_log_unanswered(const struct session *s);
void session_log_closed(const struct session *s);

#endif
