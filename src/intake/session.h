/* session.h - one client: the adapter between a socket, the SMTP machine (smtp/server.h) and a message
 * on its way to the spool (message.h). An idle session holds no buffers.
 *
 *            bytes                    actions
 *   socket ----------> smtp_server -----------> REPLY: outbox, one send() for each batch
 *      ^  session_pump()                        BEGIN, BODY, ABORT: message
 *      |                                        COMMIT: message_commit(); the session waits
 *      +---- 250 ---- on_committed() <--------- the disk answered (I1)
 *
 * Life, one writer (enter()), one end (the last line of session_pump()):
 *   TALKING --COMMIT--> COMMITTING --on_committed()--> TALKING
 *   TALKING --CLOSE---> FLUSHING (what stands in the outbox) --sent--> LINGERING --> gone
 *   LINGERING: our side is shut, what the client still sends is thrown away for a moment, so that
 *   a reset does not take our last words from it (only where it may still be sending)
 *   any --reset, deadline--> gone; a message without complete end of data is thrown away */
#ifndef RELAYD_INTAKE_SESSION_H
#define RELAYD_INTAKE_SESSION_H

#include "intake/intake.h"

/* Takes `fd`. `refusal`: NULL, or the greeting of a client that may not come in. */
void session_open(struct intake *intake, int fd, const struct peer *peer,
    const struct config_listen *listen, const char *refusal);

/* For the sweep: ends the session if its deadline, or the process's, is over. May free it. */
void session_check(struct session *session, uint64_t now_ms);
/* Ends it now, with `reply` if it can still be said (NULL: without a word). May free it; a session
 * that waits for the disk goes on waiting. */
void session_end(struct session *session, const char *reply);

struct session *session_next(const struct session *session);

#endif
