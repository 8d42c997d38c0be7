/* message.h - one message on its way from a session into the spool. A small body waits in memory and
 * goes out with its group; one over LARGE_INLINE_MAX is streamed to large/ID as it comes in, so
 * that memory stays flat whatever a client sends. */
#ifndef RELAYD_INTAKE_MESSAGE_H
#define RELAYD_INTAKE_MESSAGE_H

#include "base/base.h"
#include "base/span.h"
#include "intake/intake.h"
#include "smtp/server.h"

struct message;

/* What is known of the sender of a message besides its envelope. */
struct message_origin {
	const struct peer *peer;
	const char *client;   /* "127.0.0.1", "uid 1000" */
	const char *listener; /* as written in the config */
	struct span helo;
	bool esmtp;
};

/* Tells the session what became of it; `result` as in writer.h. After it the message is gone. */
typedef void message_done_fn(void *arg, int result);

/* Gives a message, ended by message_drop() or message_commit(). */
struct message *message_begin(struct intake *intake, uint64_t declared_bytes);

/* Keeps a copy of the chunk. -ENOMEM, -ENOSPC, -EIO, ...: the message cannot be kept; drop it. */
int message_append(struct message *message, struct span chunk) MUST_CHECK;

void message_drop(struct message *message); /* NULL is fine */

/* Hands it to the spool; done() comes from a later turn of the loop, and only once, unless the
 * session lets go before. -EINVAL or -EMSGSIZE: the envelope cannot be stored (the message is not
 * submitted: drop it). */
int message_commit(struct message *message, const struct smtp_mail *mail,
    const struct message_origin *origin, message_done_fn *done, void *arg) MUST_CHECK;
/* The session gave up waiting: the message goes its way without it. */
void message_let_go(struct message *message);

uint64_t message_id(const struct message *message); /* 0 before commit */
uint64_t message_bytes(const struct message *message);

#endif
