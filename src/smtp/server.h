/* server.h - the server's side of SMTP (RFC 5321, for local submission): a machine that is fed the
 * client's bytes and says what is to be done. No descriptor, no clock, no libevent: unit tests,
 * dialogue files, fuzzers and intake drive the same code. It never offers TLS (STARTTLS on loopback
 * is a risk without a gain), relays for whoever the caller lets in, and rewrites nothing but line
 * ends: see data.h for what is done to the content.
 *
 * The caller's pump:
 *
 *	for (;;) {
 *		in = peek at unread input (any length, also 0);
 *		more = is there unread input behind `in`?
 *		action = smtp_server_input(s, in, more, &used);
 *		drop `used` bytes of the input  -- after using s->chunk, which points into them;
 *		switch (action) {
 *		MORE:   if nothing is unread any more: return and come back when the client sends
 *		REPLY:  append s->reply to the output
 *		BEGIN:  a message begins: s->mail.sender is known; a place for it, or smtp_server_refuse()
 *		BODY:   append s->chunk to the message
 *		ABORT:  throw away what was kept since BEGIN
 *		COMMIT: store s->mail and the body, then smtp_server_committed(); until then, return
 *		WAIT:   COMMIT is not answered yet: return
 *		CLOSE:  send what stands in the output, then close; the machine is done
 *		}
 *	}
 *
 * The first call (usually with nothing in it) gives the greeting. Every action may come with used
 * = 0; MORE always uses all of `in`. `more` and the rest of `in` matter for D10: a client that does
 * not wait where RFC 2920 says that it must wait is thrown out with 554.
 *
 * BEGIN and its end: for each BEGIN there is exactly one of COMMIT, ABORT, a smtp_server_refuse()
 * by the caller, or the end of the connection, which the caller sees himself. After a refused
 * message (too large, NUL, too many hops) ABORT comes as soon as it is known, and the reply at the
 * end of data.
 *
 *   START --EHLO/HELO--> READY --MAIL--> MAIL --RCPT--> RCPT --DATA--> DATA --CRLF.CRLF--> COMMIT
 *                          ^                              +---BDAT--> CHUNK <--> BDAT --LAST--^
 *                          +--- transaction_reset(): RSET, EHLO, any end of a message ----+
 *
 * Invariant: in START and READY there is no sender, no recipient and no body (asserted). */
#ifndef RELAYD_SMTP_SERVER_H
#define RELAYD_SMTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "base/span.h"
#include "smtp/data.h"
#include "smtp/header.h"

/* I9: what one session may make us hold. */
#define SMTP_LINE_MAX 4096          /* bytes of a command line, CRLF included */
#define SMTP_AUTH_LINE_MAX 12290    /* RFC 4954 section 4: a line of an AUTH exchange */
#define SMTP_LINE_SKIP_MAX 65536    /* bytes of an overlong line that are skipped before a 421 */
#define SMTP_ENVELOPE_MAX (2 << 20) /* bytes of all addresses and parameters of one message */
#define SMTP_HELO_MAX 255
#define SMTP_ARGUMENT_MAX 160
#define SMTP_REPLY_MAX 512 /* bytes of one reply line, CRLF included (RFC 5321 4.5.3.1.5) */

/* What every greeting ends in: by this relayd-sendmail knows that it speaks with relayd. */
#define SMTP_SERVER_GREETING_END " ESMTP relayd"

enum smtp_server_action {
	SMTP_SERVER_MORE,
	SMTP_SERVER_REPLY,
	SMTP_SERVER_BEGIN,
	SMTP_SERVER_BODY,
	SMTP_SERVER_ABORT,
	SMTP_SERVER_COMMIT,
	SMTP_SERVER_WAIT,
	SMTP_SERVER_CLOSE,
};

enum smtp_body { SMTP_BODY_UNSAID, SMTP_BODY_7BIT, SMTP_BODY_8BITMIME };
enum smtp_ret { SMTP_RET_UNSAID, SMTP_RET_FULL, SMTP_RET_HDRS };
/* A set; 0 = not said. NEVER stands alone. The same values as in smtp/envelope.h. */
enum smtp_notify {
	SMTP_NOTIFY_NEVER = 1,
	SMTP_NOTIFY_SUCCESS = 2,
	SMTP_NOTIFY_FAILURE = 4,
	SMTP_NOTIFY_DELAY = 8,
};

/* Addresses are `local@domain` as the client wrote them (case and quotes kept, a source route left
 * out, a missing domain completed), without angle brackets, checked by address.h: no control
 * bytes, ASCII or (in an SMTPUTF8 message only) valid UTF-8, at most ADDRESS_MAX bytes. */
struct smtp_recipient {
	struct span address;
	struct span
	    orcpt; /* "type;xtext" as received and checked, to be passed on as it is; or empty */
	unsigned notify; /* set of enum smtp_notify */
};

struct smtp_mail {
	struct span sender;      /* empty: the null reverse-path <> */
	uint64_t declared_bytes; /* SIZE=; 0: not said. A hint only (RFC 1870 section 6) */
	enum smtp_body body;
	enum smtp_ret ret;
	bool smtputf8;
	struct span envid; /* xtext as received and checked; or empty */
	struct smtp_recipient *recipients;
	size_t n_recipients;

	/* Complete at COMMIT: */
	uint64_t body_bytes;        /* the sum of the chunks */
	bool has_8bit;              /* some byte >= 0x80 in the content */
	struct header_facts header; /* what trace.h needs to know */
};

enum smtp_nul { SMTP_NUL_REJECT, SMTP_NUL_SPACE };
enum smtp_line_end { SMTP_LINE_END_NORMALIZE, SMTP_LINE_END_REJECT };

/* Borrowed by the sessions as long as they live. */
struct smtp_server_options {
	const char *hostname;       /* greeting, EHLO; completes addresses without a domain */
	uint64_t max_message_bytes; /* 0: no limit */
	unsigned max_recipients;    /* per message; 0: 1000 */
	unsigned
	    max_errors; /* refused commands without a message in between, before a 421; 0: 20 */
	unsigned max_commands; /* commands without a message in between, before a 421; 0: 1000 */
	unsigned max_received; /* Received lines that make a loop; 0: 100 (RFC 5321 6.3) */
	bool auth_ignore;      /* offer AUTH, take any credentials, forget them */
	enum smtp_line_end line_end; /* D3, D5 */
	enum smtp_nul nul;           /* D8 */
};

enum smtp_server_state {
	SMTP_SERVER_GREETING,
	SMTP_SERVER_START, /* no HELO or EHLO yet */
	SMTP_SERVER_READY,
	SMTP_SERVER_MAIL,
	SMTP_SERVER_RCPT,
	SMTP_SERVER_DATA,       /* content follows until CRLF.CRLF */
	SMTP_SERVER_CHUNK,      /* exactly chunk_left bytes of content follow */
	SMTP_SERVER_BDAT,       /* between two chunks */
	SMTP_SERVER_BDAT_ERROR, /* a chunk was refused: more are skipped until LAST (B3) */
	SMTP_SERVER_AUTH_PLAIN,
	SMTP_SERVER_AUTH_USER,
	SMTP_SERVER_AUTH_PASSWORD,
	SMTP_SERVER_COMMITTING,
	SMTP_SERVER_CLOSED,
};

/* The caller reads the first block and writes nothing. */
struct smtp_server {
	struct span reply; /* after REPLY: whole lines with CRLF, until the next call */
	struct span chunk; /* after BODY: points into `in` or to a constant, until the next call */
	struct smtp_mail mail; /* from MAIL until the call after the reply that ends it */
	struct span helo; /* what the client calls itself; may be empty; until the next HELO/EHLO */
	bool esmtp;       /* it said EHLO */
	const char
	    *command; /* what `reply` answers, for logs: "MAIL", "RCPT", "end of data", ... */
	struct span
	    argument; /* what stood behind it, cut off after some bytes; nothing of AUTH (I10) */
	uint64_t n_messages; /* accepted in this session */

	/* Private. */
	const struct smtp_server_options *options;
	enum smtp_server_state state;
	bool abort_pending, reply_pending, close_pending;
	bool begun;         /* the caller keeps something for this message */
	bool mail_is_stale; /* the message is over: s->mail goes when its reply was taken */
	bool said_helo, said_auth;
	bool input_pending;  /* the client did not wait for the answer to this line */
	struct span refusal; /* not empty: how the message will be answered at its end */
	struct data data;
	struct header_scan header;
	bool chunk_is_last;
	uint64_t chunk_left;
	uint64_t skipped_bytes;
	unsigned errors, commands, overshoot;
	char *line; /* the part of a command line that came in earlier calls */
	size_t line_len, line_size;
	bool line_is_long;
	struct smtp_arena *arena; /* everything that s->mail points to */
	size_t arena_bytes, recipients_size;
	char argument_text[SMTP_ARGUMENT_MAX];
	char helo_text[SMTP_HELO_MAX];
	char text[SMTP_REPLY_MAX * 2];
	char refusal_text[SMTP_REPLY_MAX];
};

void smtp_server_init(struct smtp_server *s, const struct smtp_server_options *options);
void smtp_server_fini(struct smtp_server *s);

enum smtp_server_action smtp_server_input(
    struct smtp_server *s, struct span in, bool more, size_t *used) MUST_CHECK;

/* "Not now" or "no", in the caller's words: "452 4.3.1 no room on the disk: try again later", without
 * CRLF; longer than SMTP_REPLY_MAX is cut. After BEGIN it answers MAIL; after BODY the rest of the
 * message is skipped and then answered so; after COMMIT it is the answer to the message. The caller
 * forgets the message by himself: no ABORT follows. */
void smtp_server_refuse(struct smtp_server *s, const char *reply);

/* After COMMIT: 0 = durable (I1), says 250 with the queue ID; -EAGAIN = surely not stored, 451;
 * -ENOSPC = surely not stored, 452. Where nobody knows (-EIO), do not call this: close the
 * connection without an answer. The machine goes on with the next smtp_server_input(). */
void smtp_server_committed(struct smtp_server *s, int result, const char *queue_id);

/* Ends the session from outside (deadline, shutdown, a client that may not submit), in any state but
 * COMMITTING (ignored there: answer the message first): the next calls give ABORT if a message was
 * begun, the reply ("421 4.4.2 ..."), CLOSE. Before the first input it replaces the greeting. */
void smtp_server_stop(struct smtp_server *s, const char *reply);

/* Is the session between two messages, so that a shutdown loses nothing? */
bool smtp_server_is_idle(const struct smtp_server *s);
/* Is a body on its way (between two chunks of it as well)? */
bool smtp_server_is_in_body(const struct smtp_server *s);

#endif
