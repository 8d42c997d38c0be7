/* client.h - the SMTP client session as a machine: bytes of replies and envelopes in, bytes and
 * actions out. No descriptor, no clock, no TLS: delivery/conn.c, the tests and the fuzzer drive it.
 *
 *   GREETING ▶ EHLO ▶ (STARTTLS ▶ [caller does TLS] ▶ EHLO) ▶ (AUTH) ▶ IDLE ⇄ transactions ▶ QUIT
 *
 * The caller's loop: after anything happened, call smtp_client_next() and do what it says until it
 * says WAIT (for input) or END. Transactions are sent and their replies taken in order; with
 * PIPELINING the next envelope leaves with this body, with CHUNKING whole messages leave back to back
 * within the window. Each reply is matched to one command; an unexpected one ends the session (C2).
 *
 * A 2xx too many would pass as the answer to each command behind it: credit a message that was refused,
 * bounce a recipient that was not. So no reply to a message counts, good or bad, before a mark behind it
 * shows that both sides are in step: a reply that no other command gets, 354 (DATA) or 221 (QUIT). Out
 * of step, nothing since the last mark counts: it is UNKNOWN (kept, repeated and counted as such) if the
 * message had left, else UNSENT, and the session ends with SMTP_END_PROTOCOL.
 *
 *   MAIL RCPT DATA ▶ 354 ▶ body, RSET MAIL RCPT BDAT, RSET MAIL RCPT BDAT, RSET MAIL RCPT DATA ▶ 354 ▶ body, ...
 *        proves itself            held .............................................. counts
 *
 *  - A session's first message goes by DATA, alone: who is always out of step never gets a BDAT.
 *  - Then a flight is messages by BDAT and a last one by DATA. If that DATA is refused all wait for the
 *    next flight's, and if there is no more mail QUIT is said at once, for its 221. No reply is waited
 *    for that would not be waited for anyway.
 *  - A message that went by DATA has its mark before its body: the reply to its end counts when nothing
 *    more is outstanding and nothing more has come, or else with the next mark.
 *  - RSET begins each message but the first: what was pushed out of the one before stops there, for no
 *    RSET is refused. (With PIPELINING it costs no round trip. Without, none follows a final dot.)
 *  - If the session ends otherwise before the mark, what one reply too many cannot have moved counts: a
 *    refusal in front of which no recipient of its message was accepted, that of the end for the last
 *    recipient, a 421, and a 2xx to a BDAT if all its recipients and the RSET behind it got one too.
 *    (Not seen: two too many, or one left out, in a flight that a lost connection or a 421 ends before
 *    its mark. To count nothing there would repeat mail for ever at who says 421 after so many messages.)
 *
 * Before TLS (unless tls = none) nothing but EHLO and STARTTLS can leave (I11): before_mail() in
 * client.c asserts it, and the machine has one path to AUTH and MAIL.
 *
 * Verdicts come by the two callbacks, each recipient exactly once, then finished(); from inside
 * smtp_client_next(), _input() and _abandon(). They may call smtp_client_add() and _quit(). */
#ifndef RELAYD_SMTP_CLIENT_H
#define RELAYD_SMTP_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/config.h"
#include "base/span.h"
#include "smtp/buffer.h"
#include "smtp/capability.h"
#include "smtp/envelope.h"
#include "smtp/reply.h"

/* Why a session ended. */
enum smtp_end_kind {
	SMTP_END_NONE,     /* it has not */
	SMTP_END_QUIT,     /* we said QUIT: all is well */
	SMTP_END_IDLE,     /* the upstream closed an idle connection: all is well */
	SMTP_END_DROPPED,  /* our side dropped it (shutdown) */
	SMTP_END_DNS,      /* the host name could not be looked up, or has no address */
	SMTP_END_CONNECT,  /* no address took the connection */
	SMTP_END_TIMEOUT,  /* no answer in time, or too slow */
	SMTP_END_LOST,     /* closed or reset in the middle */
	SMTP_END_REPLY,    /* the upstream refused the session: greeting, EHLO, or 421 anywhere */
	SMTP_END_PROTOCOL, /* it does not speak SMTP: garbage, replies out of step, injected bytes */
	SMTP_END_NO_STARTTLS, /* STARTTLS not offered or refused; nothing was sent in clear */
	SMTP_END_TLS,         /* handshake, certificate, name, pin */
	SMTP_END_NO_AUTH,     /* AUTH not offered, or not with a mechanism that is allowed */
	SMTP_END_AUTH,        /* login refused (see reply), or the server's proof was wrong */
	SMTP_END_NO_SECRET,   /* there is no password or token to log in with */
	SMTP_END_LOCAL,       /* our own message could not be read: not the upstream's fault */
};

const char *smtp_end_kind_name(enum smtp_end_kind kind);

/* Cause and remedy for people. */
struct smtp_trouble {
	char why[512];
	char fix[512]; /* "": nothing to change */
};

void smtp_trouble_why(struct smtp_trouble *trouble, const char *fmt, ...) PRINTF_LIKE(2, 3);
void smtp_trouble_fix(struct smtp_trouble *trouble, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* A login in progress: delivery/sasl.c makes one, tests make fakes. */
enum smtp_auth_result { SMTP_AUTH_SEND, SMTP_AUTH_CANCEL };

#define SMTP_AUTH_BYTES_MAX 9000 /* raw bytes of one response: 12288 as base64 (RFC 4954 4) */

struct smtp_auth {
	/* Picks one of the offered mechanisms and gives its name, e.g. "PLAIN"; NULL: none fits, and
	 * `trouble` says why. Called once a session, after the last EHLO. */
	const char *(*choose)(struct smtp_auth *auth, const struct smtp_capabilities *caps,
	    struct smtp_trouble *trouble, enum smtp_end_kind *kind);
	bool client_first; /* set by choose(): the mechanism starts with the client's words */
	/* One step: the decoded challenge in (empty at a client-first start), the raw response out
	 * (*len <= SMTP_AUTH_BYTES_MAX). CANCEL: say "*", `trouble` says why. */
	enum smtp_auth_result (*step)(struct smtp_auth *auth, struct span challenge, char *out,
	    size_t *len, struct smtp_trouble *trouble);
	/* The upstream said 235. Is everything proven that the mechanism has to prove? */
	bool (*finish)(struct smtp_auth *auth, struct smtp_trouble *trouble);
	/* Overwrites with asterisks what a reply to AUTH gives away: servers that do not know the
	 * command repeat it, and replies are logged (I10). May be NULL. */
	void (*hide)(struct smtp_auth *auth, char *text);
};

/* May a message's envelope leave before the reply to the one before it? RFC 2920 says so, but some servers
 * lose what follows the final dot in the same segment (chasquid up to 1.11 does). So it is tried, with
 * at most two in flight, and the caller gives up early while smtp_client_is_proving(). NEVER also means
 * that each message goes alone and by DATA: for who was out of step once (c->out_of_step). */
enum smtp_client_overlap { SMTP_OVERLAP_TRY, SMTP_OVERLAP_PROVEN, SMTP_OVERLAP_NEVER };

struct smtp_client_options {
	const char *helo;
	enum config_tls tls;
	bool pipelining, chunking; /* use when offered */
	unsigned window; /* whole messages in flight with CHUNKING: 1..SMTP_CLIENT_WINDOW_MAX */
	enum smtp_client_overlap overlap; /* what is known of this upstream */
	unsigned messages_max;            /* per connection; 0: no limit */
	struct smtp_auth *auth;           /* borrowed; NULL: do not log in */
	void *arg;                        /* for the callbacks */
	void (*recipient)(void *arg, void *job, size_t i, const struct upstream_reply *reply,
	    enum verdict verdict);
	void (*finished)(void *arg, void *job);
	void (*trace)(void *arg, char direction, struct span line); /* NULL: none; secrets masked */
};

#define SMTP_CLIENT_WINDOW_MAX 16
#define SMTP_CLIENT_RING (2 * SMTP_CLIENT_WINDOW_MAX) /* with those that are held */
#define SMTP_CLIENT_FLIGHT_MAX 65536                  /* out is sent when it holds that much */

enum smtp_client_action {
	SMTP_CLIENT_WAIT,  /* nothing to do before more input, or another envelope */
	SMTP_CLIENT_WRITE, /* send c->out as one flight, then empty it (smtp_client_wrote()) */
	SMTP_CLIENT_BODY, /* give c->body_len bytes of c->body_job at c->body_offset: smtp_client_body() */
	SMTP_CLIENT_START_TLS, /* hand shake, then smtp_client_secured(); unread input here is an attack */
	SMTP_CLIENT_READY, /* has room: smtp_client_add() or nothing */
	SMTP_CLIENT_END,   /* over: c->end, c->trouble, c->end_reply; then smtp_client_abandon() */
};

enum smtp_client_rcpt {
	SMTP_RCPT_PENDING,
	SMTP_RCPT_ACCEPTED,
	SMTP_RCPT_REFUSED, /* t->refusals */
	SMTP_RCPT_DONE,    /* its verdict was given */
	SMTP_RCPT_SKIPPED, /* and it was never named */
};

/* One message in flight. Steps in order: [RSET] MAIL RCPT... DATA END, or [RSET] MAIL RCPT... BDAT;
 * `sent` of them have left and `taken` are answered. */
struct smtp_client_transaction {
	const struct smtp_envelope *envelope;
	void *job;
	size_t sent, taken;
	size_t accepted;     /* recipients that are ACCEPTED */
	uint64_t body_sent;  /* bytes of the message given to out */
	uint64_t end_offset; /* c->out_total just after the final dot or chunk; 0: not yet */
	unsigned char *rcpt; /* enum smtp_client_rcpt of each recipient */
	size_t rcpt_size;
	struct upstream_reply *refusals; /* by recipient; NULL: none was refused */
	struct upstream_reply
	    all;         /* of MAIL, DATA or the end: what all others got; code 0: nothing yet */
	bool held;       /* there are verdicts to give, at the next mark */
	bool supported;  /* the RSET behind it, and all its recipients, got a 2xx */
	bool checked;    /* against what the upstream can do */
	bool overlapped; /* began before the one before it was answered */
	bool rset;       /* begins with RSET */
	bool bdat;       /* since its first step left */
	bool mail_failed;
	bool body_wanted; /* 354 came, or BDAT left */
	bool over;        /* nothing more will be sent for it */
	char last_byte;   /* of the body so far: where a line begins, and whether CR waits for LF */
	bool at_line_start;
};

struct smtp_client {
	struct smtp_client_options o;
	enum smtp_stage stage; /* of the session: GREETING .. IDLE, QUIT */
	enum smtp_stage todo;  /* the session's next command, not yet sent; NONE */
	bool awaiting;         /* a session-level reply is outstanding */
	bool secured;          /* TLS is up and verified */
	bool start_tls;        /* the upstream said 220 to STARTTLS */
	bool helo;             /* EHLO was refused: HELO */
	bool dirty;            /* the next message begins with RSET */
	bool in_step;          /* there was a mark */
	bool out_of_step; /* it said what was no answer to what was asked, or not in its turn */
	bool offered;     /* READY was said for the room there is */
	bool quitting;
	bool closing; /* 421 came: send nothing more, take what still comes */
	bool closed;  /* and then it closed: what was not answered was not done */
	bool reply_begun;
	bool auth_begun, auth_cancelled;
	unsigned auth_rounds;
	unsigned messages; /* taken in all */
	unsigned served;   /* accepted by the upstream */
	uint64_t replies;  /* complete ones, ever: progress, for the caller's deadlines */
	enum smtp_client_overlap overlap;
	const char *mechanism;
	struct smtp_capabilities caps;
	struct smtp_reply_parser parser;
	struct span input_left;      /* what follows the reply under way in this input */
	struct upstream_reply reply; /* the last one, or the one under way */
	struct smtp_buffer out;
	uint64_t out_total; /* bytes ever put into out */
	struct smtp_client_transaction ring[SMTP_CLIENT_RING];
	unsigned head, count;
	void *body_job;
	uint64_t body_offset;
	size_t body_len;
	enum smtp_end_kind end;
	enum smtp_stage end_stage;
	struct upstream_reply end_reply; /* code 0: none has to do with it */
	struct smtp_trouble trouble;
};

/* `options` is copied. With tls = implicit call smtp_client_secured() before the first input. */
void smtp_client_init(struct smtp_client *c, const struct smtp_client_options *options);
void smtp_client_fini(struct smtp_client *c);

enum smtp_client_action smtp_client_next(struct smtp_client *c);

/* Bytes from the upstream, all of them. */
void smtp_client_input(struct smtp_client *c, struct span in);

void smtp_client_secured(struct smtp_client *c);
void smtp_client_wrote(struct smtp_client *c); /* out was sent (or copied): it is empty now */

/* Answer to BODY: exactly c->body_len bytes, in CRLF form. What is not (C1) ends with END_LOCAL. */
void smtp_client_body(struct smtp_client *c, struct span bytes);

/* The session is over for a reason that the caller saw: EOF, a deadline, TLS, a failed read. */
void smtp_client_fail(
    struct smtp_client *c, enum smtp_end_kind kind, const struct smtp_trouble *why);
/* EOF from the upstream: END_QUIT, END_IDLE or END_LOST, as fits. */
void smtp_client_eof(struct smtp_client *c);

/* After END: the last verdicts. What is held as above; of the rest a transaction whose end_offset is at
 * most `flushed` (bytes of out that may have reached the upstream) is UNKNOWN, the rest are UNSENT;
 * with END_LOCAL the one whose body could not be given is LOCAL. */
void smtp_client_abandon(struct smtp_client *c, uint64_t flushed);

/* How many envelopes smtp_client_add() takes now. */
unsigned smtp_client_room(const struct smtp_client *c);
/* Takes an envelope (borrowed until finished()). It must have room. */
void smtp_client_add(struct smtp_client *c, const struct smtp_envelope *envelope, void *job);
/* Is the next reply the first that shows whether overlapping works here? */
bool smtp_client_is_proving(const struct smtp_client *c);
/* No more envelopes: QUIT when those taken are finished. */
void smtp_client_quit(struct smtp_client *c);

/* What the session waits for: the stage of the oldest unanswered command, BODY while a body is
 * going out, IDLE if it waits for us. The caller's deadlines go by it. */
enum smtp_stage smtp_client_waits_for(const struct smtp_client *c);

#endif
