/* envelope.h - what is known about a message besides its body: the payload of an ENVELOPE record.
 * Pure. A list of fields {tag u16, length u32, bytes}, little endian; fields may come in any order,
 * an unknown tag is skipped, so newer writers can add. Bit 15 of a tag means "critical": a reader
 * that does not know it must not deliver the message (decode says -EPROTONOSUPPORT).
 *
 *   tag            value
 *    1 id          u64                      9 helo        text, as the client said
 *    2 arrived_ms  u64, since 1970         10 sender      text, "" is <>
 *    3 uid         u32                     11 flags       u32, below
 *    4 unit        text, systemd unit      12 ret         u8: 1 FULL, 2 HDRS
 *    5 client      text, who: address,     13 envid       text, xtext as said
 *                  "uid 1000", ...         14 prefix      bytes: header lines put before the body
 *    6 listener    text                    15 body_bytes  u64
 *    7 dsn         -                       16 body_checksum u64 (large bodies only: XXH3_64, seed id)
 *    8 trace_count u32 (Received lines)    17 recipient   u8 notify, u16 length, address, then orcpt
 *
 * A text holds no CR, LF or NUL: the encoder refuses it (a stored newline is a smuggled command
 * later), the decoder too. Recipients keep their order: their index is their name in the journal. */
#ifndef RELAYD_SPOOL_ENVELOPE_H
#define RELAYD_SPOOL_ENVELOPE_H

#include <stdint.h>

#include "base/base.h"
#include "base/span.h"

#define ENVELOPE_UID_UNKNOWN UINT32_MAX

enum envelope_flags {
	ENVELOPE_8BITMIME = 1u << 0, /* BODY=8BITMIME was said */
	ENVELOPE_SMTPUTF8 = 1u << 1, /* SMTPUTF8 was said */
	ENVELOPE_8BIT = 1u << 2,     /* the body (or header) holds bytes above 127 */
	ENVELOPE_LARGE = 1u << 3,    /* the body stands in large/ID */
	ENVELOPE_DSN = 1u << 4,      /* written by relayd itself: never answered with a DSN */
};

enum envelope_notify {
	ENVELOPE_NOTIFY_NEVER = 1u << 0,
	ENVELOPE_NOTIFY_SUCCESS = 1u << 1,
	ENVELOPE_NOTIFY_FAILURE = 1u << 2,
	ENVELOPE_NOTIFY_DELAY = 1u << 3,
}; /* 0: NOTIFY was not said */

enum envelope_ret { ENVELOPE_RET_UNSAID, ENVELOPE_RET_FULL, ENVELOPE_RET_HDRS };

struct envelope_recipient {
	struct span address;
	struct span orcpt; /* "rfc822;..." as said, xtext kept; empty: not said */
	uint8_t notify;
};

struct envelope {
	uint64_t id;
	uint64_t arrived_ms;
	uint32_t uid;
	uint32_t flags;
	uint32_t trace_count;
	uint8_t ret;
	struct span unit, client, listener, helo, sender, envid;
	struct span prefix; /* lines end in CR LF; what is sent upstream is prefix, then body */
	uint64_t body_bytes;
	uint64_t body_checksum;
	struct envelope_recipient *recipients;
	size_t n_recipients;
};

/* Gives the payload (free()). -EINVAL: a text holds CR, LF or NUL, or no recipient; -EMSGSIZE: more
 * than a record can hold; -ENOMEM. */
int envelope_encode(const struct envelope *e, void **out, size_t *len) MUST_CHECK;

/* Gives an envelope that owns all its bytes (`payload` may go away), ended by envelope_free().
 * -EBADMSG: not an envelope; -EPROTONOSUPPORT; -ENOMEM. */
int envelope_decode(struct span payload, struct envelope **out) MUST_CHECK;
void envelope_free(struct envelope *e); /* NULL is fine */

/* ID and flags alone, for replay. -EBADMSG: none in it. */
int envelope_peek(struct span payload, uint64_t *id, uint32_t *flags) MUST_CHECK;

#endif
