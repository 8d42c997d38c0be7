/* dsn_message.h - delivery status notifications (RFC 3464 in a multipart/report, RFC 6522): facts in,
 * a complete message in CRLF form out. Pure; the caller brings the time and names. Text from peers
 * is cleaned (no control bytes, no line ends), folded and bounded; a DSN is at most DSN_MESSAGE_MAX
 * bytes, whatever its original. A DSN about an SMTPUTF8 message is message/global-* (RFC 6533). */
#ifndef RELAYD_SMTP_DSN_MESSAGE_H
#define RELAYD_SMTP_DSN_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "base/span.h"
#include "smtp/envelope.h"
#include "smtp/reply.h"

#define DSN_ORIGINAL_MAX 65536  /* bytes: a longer original comes back as its headers only */
#define DSN_HEADERS_MAX 32768   /* of the original's headers; cut at a line */
#define DSN_RECIPIENTS_MAX 1000 /* more: the rest is counted in one sentence */
#define DSN_MESSAGE_MAX 2097152

enum dsn_action { DSN_FAILED, DSN_DELAYED, DSN_RELAYED };

struct dsn_recipient {
	enum dsn_action action;
	struct span address;
	struct span orcpt;      /* as given (xtext), becomes Original-Recipient; empty: none */
	const char *status;     /* "5.1.1"; NULL or "": the reply's enhanced code, or X.0.0 */
	const char *remote_mta; /* the upstream that said it; NULL: we said it ourselves */
	const struct upstream_reply *reply; /* NULL or code 0: none */
	const char *explanation;            /* one sentence in plain words; NULL: none */
	int64_t last_attempt_ms;            /* realtime; 0: none */
	int64_t retry_until_ms;             /* DSN_DELAYED: realtime when it will be given up; 0 */
};

struct dsn_message {
	const char *hostname; /* Reporting-MTA, and the domain of From and Message-ID */
	struct span to;       /* the original's reverse-path, or the postmaster */
	const char *queue_id; /* of the original, as users see it */
	const char *unique; /* makes Message-ID and the boundary; e.g. ID and time; [A-Za-z0-9.-] */
	int64_t now_ms;     /* realtime */
	int64_t arrived_ms; /* of the original */
	struct span sender; /* its reverse-path */
	struct span envid;  /* as given (xtext); empty: none */
	enum smtp_envelope_ret ret;
	bool utf8;          /* the original needs SMTPUTF8 */
	bool seven_bit;     /* the way back may lack 8BITMIME and SMTPUTF8: all parts are 7-bit */
	bool to_postmaster; /* this is about mail whose sender cannot be told: says so */
	const struct dsn_recipient *recipients;
	size_t n_recipients; /* at least 1 */
	/* The original in CRLF form: its first original_len bytes; original_bytes is its whole size.
	 * RET=FULL is honoured when all of it is here and it is at most DSN_ORIGINAL_MAX. */
	struct span original;
	uint64_t original_bytes;
};

/* Gives *out (caller frees with free()) of *len bytes; *is_8bit: needs 8BITMIME (seven_bit: only where
 * `to` is not ASCII; if not, no SMTPUTF8 either, although utf8 is set). Failed recipients
 * with any relayed or delayed ones may be mixed; the subject says the worst. */
void dsn_message_build(const struct dsn_message *dsn, char **out, size_t *len, bool *is_8bit);

/* Two lines of helpers that others need too: "Tue, 24 Nov 2026 02:40:00 +0000". */
#define DSN_DATE_SIZE 40
void dsn_message_date(int64_t realtime_ms, char out[DSN_DATE_SIZE]);

#endif
