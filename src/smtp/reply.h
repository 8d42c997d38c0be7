/* reply.h - what an upstream says: the reply parser, and the words in which a reply is handed on.
 *
 * The parser takes bytes in any slices and gives lines. It is bounded (C2): a line may have 4 KiB, a
 * reply 64 KiB and 100 lines; what is more is a protocol error, never stored. It never looks beyond
 * the bytes it was given, so "5.7.2" without a text, "250" alone and a cut "5.7." are ordinary
 * input. A line ends with CR LF or, as RFC 5321 4.2 forgives nobody but many do, with LF alone. */
#ifndef RELAYD_SMTP_REPLY_H
#define RELAYD_SMTP_REPLY_H

#include <stdbool.h>
#include <stddef.h>

#include "base/span.h"

/* The stages of a client session in the order of their happening. Names and phrases for people:
 * smtp_stage_name() ("rcpt"), smtp_stage_phrase() ("waiting for the reply to RCPT TO"). */
enum smtp_stage {
	SMTP_STAGE_NONE,
	SMTP_STAGE_RESOLVE,  /* looking up the upstream's host */
	SMTP_STAGE_CONNECT,  /* TCP */
	SMTP_STAGE_GREETING, /* its 220 */
	SMTP_STAGE_EHLO,
	SMTP_STAGE_STARTTLS,
	SMTP_STAGE_TLS, /* the handshake, and the check of name and certificate */
	SMTP_STAGE_AUTH,
	SMTP_STAGE_IDLE, /* logged in, nothing to do */
	SMTP_STAGE_MAIL,
	SMTP_STAGE_RCPT,
	SMTP_STAGE_DATA, /* DATA: its 354 */
	SMTP_STAGE_BODY, /* sending the message itself */
	SMTP_STAGE_END,  /* after the final dot, or after BDAT LAST: no reply here is *unknown* */
	SMTP_STAGE_RSET,
	SMTP_STAGE_QUIT,
};

const char *smtp_stage_name(enum smtp_stage stage);
const char *smtp_stage_phrase(enum smtp_stage stage);

/* What became of one recipient in one attempt. */
enum verdict {
	VERDICT_ACCEPTED, /* the upstream took it over: reply is its 2xx after the final dot */
	VERDICT_REPLY,    /* it refused: look at reply.stage, .code, .enhanced, .text */
	VERDICT_UNSENT, /* the connection ended before it could matter: nothing counts, try again */
	VERDICT_UNKNOWN, /* the connection ended after the final dot and before its reply (C3) */
	VERDICT_LOCAL, /* cannot be sent to this upstream at all (size, 8-bit, SMTPUTF8), or its own
	                  bytes cannot be read: reply holds the code and words that we say ourselves */
};

#define SMTP_REPLY_TEXT_MAX 512

/* One reply as it is kept, shown and classified. `text` is the lines' text joined by one space,
 * without codes, cut to fit at a character's end, always valid UTF-8 without control bytes (others
 * became '?'). `enhanced` is "" if there was none or a malformed one. code 0: there was no reply. */
struct upstream_reply {
	enum smtp_stage stage; /* the command that it answers */
	int code;
	char enhanced[12]; /* "5.7.139" */
	char text[SMTP_REPLY_TEXT_MAX];
};

/* Bounds of C2. */
#define SMTP_REPLY_LINE_MAX 4096
#define SMTP_REPLY_CHALLENGE_MAX 12288 /* of a 334 line (RFC 4954 4) */
#define SMTP_REPLY_BYTES_MAX 65536
#define SMTP_REPLY_LINES_MAX 100

enum smtp_reply_event {
	SMTP_REPLY_MORE, /* all bytes used, no line complete */
	SMTP_REPLY_LINE, /* one line: p->code, p->line (its text), p->is_last; more bytes may wait */
	SMTP_REPLY_BAD, /* not a reply, or beyond the bounds: p->problem says so; end the session */
};

struct smtp_reply_parser {
	int code; /* of the reply under way */
	bool is_last;
	struct span line;    /* text after "250-"; valid until the next call */
	const char *problem; /* a literal */
	unsigned lines;
	size_t reply_bytes;
	size_t line_len;
	size_t line_max; /* SMTP_REPLY_LINE_MAX, or SMTP_REPLY_CHALLENGE_MAX while logging in */
	char line_bytes[SMTP_REPLY_CHALLENGE_MAX];
};

void smtp_reply_init(struct smtp_reply_parser *p);

/* Takes bytes from `in` up to the end of the next line; *used says how many. */
enum smtp_reply_event smtp_reply_input(struct smtp_reply_parser *p, struct span in, size_t *used);

/* Is a line or a reply half read? */
bool smtp_reply_is_partial(const struct smtp_reply_parser *p);

/* Collects the lines of one reply into `reply`: the first with first = true. */
void smtp_reply_collect(
    struct upstream_reply *reply, const struct smtp_reply_parser *p, bool first);

/* The enhanced status code at the start of `text` ("5.7.1 no"): copies it to `out` and returns its
 * length; 0 and "" if there is none, or its class is not that of `code`. */
size_t smtp_reply_enhanced(struct span text, int code, char out[12]);

/* A reply in our own words (VERDICT_LOCAL). */
void smtp_reply_say(struct upstream_reply *reply, enum smtp_stage stage, int code,
    const char *enhanced, const char *text);

/* Copies `in` as text for people: valid UTF-8, no control bytes, NUL-terminated, at most size-1
 * bytes. Returns the length. */
size_t smtp_reply_clean(struct span in, char *out, size_t size);

#endif
