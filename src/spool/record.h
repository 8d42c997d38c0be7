/* record.h - the bytes of a record: the unit of which segments and journals are made. Pure: no I/O.
 *
 * A record starts at a multiple of 8 in its file. All numbers are little endian.
 *
 *   offset  bytes
 *        0      4  magic 0x52444c52 ("RLDR")
 *        4      1  type, never 0 (zeros are prewritten space, never a record)
 *        5      1  flags: bit 0 "critical": a reader that does not know the type must not skip it;
 *                  the other bits are 0
 *        6      2  0
 *        8      4  payload length, at most RECORD_PAYLOAD_MAX
 *       12      4  0
 *       16      8  seq: 1, 2, 3, ... in each file, COMMIT records counted as well
 *       24      8  header checksum: XXH3_64 of bytes 0..23, seed = first half of the file's salt
 *       32      n  payload
 *     32+n    0-7  zeros up to a multiple of 8
 *             8    payload checksum: XXH3_64 of the payload,
 *                  seed = second half of the salt XOR header checksum
 *
 * The salt is random, secret to the file, and changes when a file is recycled: a message's body
 * cannot forge a record, and what a recycled file held before is never taken for one. The payload's
 * checksum hangs on its own header, so a payload never passes under another record's header.
 *
 * A group starts at a multiple of RECORD_BLOCK and ends with a COMMIT record, zeros fill its last
 * block. It is what one fdatasync made durable. The COMMIT's payload:
 *        0      8  first seq of the group          8      8  last seq before the COMMIT
 *       16      4  number of records before it    20      4  0
 *       24      8  chain over those records: start with the second half of the salt; for each record
 *                  XXH3_64 of its header checksum and payload checksum (16 bytes), seed = so far */
#ifndef RELAYD_SPOOL_RECORD_H
#define RELAYD_SPOOL_RECORD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/base.h"
#include "base/span.h"

#define RECORD_MAGIC 0x52444c52u
#define RECORD_BLOCK 4096u
#define RECORD_HEADER_BYTES 32u
#define RECORD_TRAILER_MAX 15u /* padding and payload checksum */
#define RECORD_PAYLOAD_MAX (4u << 20)
#define RECORD_CRITICAL 1u
#define RECORD_SALT_BYTES 16u
#define RECORD_COMMIT_BYTES 32u
#define RECORD_REVOKE_BYTES 24u

enum record_type {
	RECORD_COMMIT = 1,   /* ends a group */
	RECORD_ENVELOPE = 2, /* envelope.h; a BODY follows unless the body stands in large/ */
	RECORD_BODY = 3,     /* the bytes of a message as received */
	RECORD_REVOKE =
	    4, /* critical. Records of another segment that are not to be delivered (I6);
	                      * stands only as the first record of a file */
	RECORD_OUTCOME = 5,  /* journal.h */
	RECORD_SNAPSHOT = 6, /* journal.h: what follows in this file replaces all older journals */
	RECORD_CLEAN = 7,    /* the writer closed the file in good order: nothing follows */
};

struct record_salt {
	uint64_t header, payload;
};

struct record_header {
	uint8_t type, flags;
	uint32_t payload_bytes;
	uint64_t seq;
	uint64_t checksum;
};

struct record_commit {
	uint64_t first_seq, last_seq;
	uint32_t count;
	uint64_t checksum;
};

/* Records first..last of segment `segment` never happened. */
struct record_revoke {
	uint32_t segment;
	uint64_t first_seq, last_seq;
};

/* Salt from its 16 stored bytes. */
struct record_salt record_salt_from(const uint8_t bytes[RECORD_SALT_BYTES]);

/* The whole length of a record with such a payload: header, payload, padding, checksum. */
static inline uint32_t
record_bytes(uint32_t payload_bytes)
{
	return RECORD_HEADER_BYTES + ((payload_bytes + 7u) & ~7u) + 8u;
}

/* Fills the header's 32 bytes and sets h->checksum. */
void record_put_header(
    struct record_header *h, struct record_salt salt, uint8_t out[RECORD_HEADER_BYTES]);
/* false: these bytes are no record's header under this salt (*h is untouched). */
bool record_get_header(
    const uint8_t in[RECORD_HEADER_BYTES], struct record_salt salt, struct record_header *h);

/* The checksum of a payload in pieces. */
uint64_t record_payload_checksum(
    const struct record_header *h, struct record_salt salt, const struct iovec *iov, int n);
/* Fills padding and checksum; returns their length (8..15). */
size_t record_put_trailer(
    const struct record_header *h, uint64_t checksum, uint8_t out[RECORD_TRAILER_MAX]);
/* Is the whole record at `in` (record_bytes() long) good? Checks padding and payload checksum. */
bool record_is_whole(const struct record_header *h, struct record_salt salt, const uint8_t *in);

/* Does a whole record of that type begin at `in`, in the `len` bytes that are there? Checks all of it. */
bool record_begins(
    const uint8_t *in, size_t len, struct record_salt salt, uint8_t type, struct record_header *h);

/* The COMMIT's chain: `so_far` starts as salt.payload. */
uint64_t record_chain(uint64_t so_far, uint64_t header_checksum, uint64_t payload_checksum);
void record_put_commit(const struct record_commit *c, uint8_t out[RECORD_COMMIT_BYTES]);
bool record_get_commit(struct span payload, struct record_commit *c);
void record_put_revoke(const struct record_revoke *v, uint8_t out[RECORD_REVOKE_BYTES]);
bool record_get_revoke(struct span payload, struct record_revoke *v);

/* Little endian, at any address. */
void record_put_u16(uint8_t *out, uint16_t v);
void record_put_u32(uint8_t *out, uint32_t v);
void record_put_u64(uint8_t *out, uint64_t v);
uint16_t record_get_u16(const uint8_t *in);
uint32_t record_get_u32(const uint8_t *in);
uint64_t record_get_u64(const uint8_t *in);

#endif
