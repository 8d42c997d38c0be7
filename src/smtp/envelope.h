/* envelope.h - what a client session needs to know about a message besides its bytes. Borrowed. */
#ifndef RELAYD_SMTP_ENVELOPE_H
#define RELAYD_SMTP_ENVELOPE_H

#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

enum {
	SMTP_ENVELOPE_8BIT = 1, /* the body has bytes over 127: needs 8BITMIME */
	SMTP_ENVELOPE_UTF8 = 2, /* accepted with SMTPUTF8: needs SMTPUTF8 */
};

/* NOTIFY as in RCPT (RFC 3461 4.1): a set; 0: not said. NEVER stands alone. Same values as the
 * server's SMTP_NOTIFY_*: what a client asked for goes through the spool unchanged. */
enum {
	SMTP_ENVELOPE_NOTIFY_SUCCESS = 1,
	SMTP_ENVELOPE_NOTIFY_FAILURE = 2,
	SMTP_ENVELOPE_NOTIFY_DELAY = 4,
	SMTP_ENVELOPE_NOTIFY_NEVER = 8,
};

enum smtp_envelope_ret { SMTP_ENVELOPE_RET_NONE, SMTP_ENVELOPE_RET_FULL, SMTP_ENVELOPE_RET_HDRS };

struct smtp_envelope_recipient {
	struct span address; /* forward-path without < > */
	unsigned notify;
	struct span
	    orcpt;      /* as it was given, "rfc822;ann+2Btag@example.org" (xtext); empty: none */
	unsigned index; /* the owner's number for it */
};

struct smtp_envelope {
	struct span sender; /* reverse-path without < >; empty: the null sender */
	unsigned flags;
	enum smtp_envelope_ret ret;
	struct span envid; /* as it was given (xtext); empty: none */
	const struct smtp_envelope_recipient *recipients;
	size_t n_recipients; /* at least 1 */
	uint64_t bytes;      /* of the message in CRLF form, before dot-stuffing */
};

#endif
