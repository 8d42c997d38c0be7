/* reader.h - reads one file of groups from its start: finds every whole record, whatever is damaged
 * between them, and accounts for every other byte. It writes nothing (quarantine: store.h).
 *
 * Rules. A record counts only if both its checksums hold under the file's salt, its seq is higher than
 * the one before, and (for a message) envelope and body are both whole. Where no record is found at
 * the expected place the reader looks on at every multiple of 8. What lies between is
 *   ZERO     prewritten space
 *   UNUSED   after the last record of a recycled file: left from before
 *   TORN     after the last record, or a broken record of the last group that looks like a write cut
 *            short (a 512-byte piece of zeros in it, or a recycled file): a crash did this before
 *            anybody got an answer
 *   CORRUPT  everything else: bytes that were durable have changed. Missing seq numbers tell
 *            how many records it cost.
 * A whole message of a group without COMMIT is given as well, marked: nobody was told that it is not
 * accepted (a REVOKE would say so), and it may be a group whose COMMIT was damaged. It may have been
 * sent again by its client: delivery counts it as a possible duplicate (I4). */
#ifndef RELAYD_SPOOL_READER_H
#define RELAYD_SPOOL_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "base/span.h"
#include "spool/record.h"
#include "spool/segment.h"

enum spool_range { SPOOL_RANGE_ZERO, SPOOL_RANGE_UNUSED, SPOOL_RANGE_TORN, SPOOL_RANGE_CORRUPT };

struct spool_damage {
	char file[SEGMENT_NAME_MAX];
	enum segment_kind kind;
	uint32_t number;
	enum spool_range range;
	uint64_t offset, length_bytes;
	uint64_t first_missing, last_missing; /* seq; 0: none known to be missing */
	uint64_t id;                          /* the message it belongs to, 0: unknown */
	int error;                            /* errno if the bytes could not be read, else 0 */
};

enum spool_event {
	SPOOL_END,     /* nothing more, up to the limit */
	SPOOL_MESSAGE, /* a whole message */
	SPOOL_OUTCOME,
	SPOOL_REVOKE,
	SPOOL_DAMAGE, /* a range that is not a record: see `damage` */
	SPOOL_UNKNOWN, /* a whole critical record of a type that this version does not know: newer data */
};

struct spool_entry {
	struct spool_location location;
	uint64_t seq;         /* of the first record */
	uint64_t last_seq;    /* of the last one (body) */
	bool committed;       /* false: its group has no good COMMIT */
	struct span payload;  /* envelope or outcome, valid until the next call */
	uint64_t id;          /* SPOOL_MESSAGE: from the envelope, 0 if that cannot be decoded */
	uint32_t body_offset; /* in the file, of the body's bytes; 0: in large/ */
	uint32_t body_bytes;
	struct record_revoke revoke;
	struct spool_damage damage;
};

struct spool_reader;

#define SPOOL_READ_TO_END UINT64_MAX

/* Opens. `limit`: committed bytes (shared_page_look()): what is before it is durable, so damage is
 * never taken for a torn tail, and nothing after it is looked at; or SPOOL_READ_TO_END. `distrust`:
 * see segment_open(). A damaged first block is not a failure: the copy at the end of the
 * file is used, and if that is damaged as well one SPOOL_DAMAGE covers the whole file; a
 * file of a newer version is one SPOOL_UNKNOWN, and what is strange (segment_is_strange(), or mail that
 * may not be read) one SPOOL_DAMAGE with its errno. -ENOENT, -errno. */
int spool_reader_open(int dirfd, enum segment_kind kind, uint32_t number, uint64_t limit,
    bool distrust, struct spool_reader **out) MUST_CHECK;
/* The next thing found. -ENOMEM; I/O errors are SPOOL_DAMAGE, not failures. */
int spool_reader_next(
    struct spool_reader *r, enum spool_event *event, struct spool_entry *entry) MUST_CHECK;
/* The writer has committed more. Only for a reader opened with a limit; it goes on where it ended. */
void spool_reader_extend(struct spool_reader *r, uint64_t limit);
/* Look only at the first group, and only if it starts with a REVOKE. Before the first next(), which then
 * fails with -errno if it cannot tell. */
void spool_reader_revokes_only(struct spool_reader *r);
const struct segment_header *spool_reader_header(const struct spool_reader *r);
uint64_t spool_reader_position(const struct spool_reader *r);     /* where the next group will be */
bool spool_reader_was_closed_clean(const struct spool_reader *r); /* a CLEAN record was met */
bool spool_reader_has_snapshot(const struct spool_reader *r);     /* a SNAPSHOT record was met */
int spool_reader_sync_error(const struct spool_reader *r); /* errno of distrust's fsync, or 0 */
void spool_reader_close(struct spool_reader *r);           /* NULL is fine */

#endif
