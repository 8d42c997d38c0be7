/* reader_parts.h - what the three files of the reader share, and nobody else: reader.c (from group to group, and
 * what is given), reader_gaps.c (what is lost, and whether it was durable), reader_bytes.c (the file's bytes). */
#ifndef RELAYD_SPOOL_READER_PARTS_H
#define RELAYD_SPOOL_READER_PARTS_H

#include <errno.h>

#include "base/os.h"
#include "spool/reader.h"

#define READER_AHEAD_BYTES (256u << 10)

struct reader_found;
struct reader_gap;

struct spool_reader {
	int fd;
	enum segment_kind kind;
	uint32_t number;
	struct segment_header header;
	struct record_salt salt;
	uint64_t size, limit;
	uint64_t data_end; /* the last block is a copy of the first */
	bool bounded, revokes_only, header_is_bad, at_end, was_cut, copy_was_told, is_newer;
	bool closed_clean, has_snapshot;
	int sync_error;
	int header_error;  /* it cannot be read (errno) */
	uint64_t position; /* where the next group is looked for */
	uint64_t last_seq;

	uint8_t *buffer; /* what was read: reader_bytes.c's alone */
	uint64_t buffer_offset;
	size_t buffer_len, buffer_capacity;
	uint64_t anchor; /* bytes from here on are kept, up to KEEP_MOST */

	struct reader_found *found; /* of the group: reader.c's alone */
	size_t n_found, found_capacity, next_found;
	struct reader_gap *gaps; /* reader_gaps.c's alone */
	size_t n_gaps, gaps_capacity;
};

/* reader_bytes.c. Offsets are the file's. */
uint64_t reader_bytes_end(const struct spool_reader *r); /* no record reaches beyond it */
/* *out points to [offset, offset + len), until the next call. -ERANGE: beyond the end; -ENOMEM; -errno of
 * reading. What stands from r->anchor on is kept, so that a group that is looked at again costs no reading. */
int reader_bytes_view(
    struct spool_reader *r, uint64_t offset, size_t len, const uint8_t **out) MUST_CHECK;
/* 1: there is a good header at `offset`, of a record that could follow; 0: there is none; -errno. */
int reader_bytes_header(
    struct spool_reader *r, uint64_t offset, struct record_header *h) MUST_CHECK;
/* *found: from `offset` on, the next multiple of 8 with such a header; the end if there is none. Blocks that
 * cannot be read are passed over; *error tells the last errno. -ENOMEM. */
int reader_bytes_resync(
    struct spool_reader *r, uint64_t offset, uint64_t *found, int *error) MUST_CHECK;

/* reader_gaps.c. A gap is a range without a record in it, and the seq numbers that nobody has seen. It is open
 * until a record follows, and given when it is settled what it is (reader.h); what is known later can settle it.
 * Those that add one may return -ENOMEM. */
/* No good record from `start` to `end`. seq, id: of the one that stood there; 0: not known. One that touches the
 * open gap before it goes into that. */
int reader_gaps_add(struct spool_reader *r, uint64_t start, uint64_t end, uint64_t seq, uint64_t id,
    int error) MUST_CHECK;
/* What was there, or should be, was durable: settled at once. */
int reader_gaps_add_corrupt(
    struct spool_reader *r, uint64_t start, uint64_t end, int error) MUST_CHECK;
/* Nothing valid from `offset` to the end: settled at once, in one or two ranges. */
int reader_gaps_add_tail(struct spool_reader *r, uint64_t offset, int error) MUST_CHECK;
/* The record at `offset` has this seq: those after r->last_seq that nobody has seen are lost. */
int reader_gaps_note_missing(struct spool_reader *r, uint64_t seq, uint64_t offset) MUST_CHECK;
/* A record with this seq was taken: it follows what is open. */
void reader_gaps_close(struct spool_reader *r, uint64_t seq);
/* A record after `before_seq` is there: what earlier groups lack was durable. */
void reader_gaps_settle(struct spool_reader *r, uint64_t before_seq);
/* A COMMIT of the group that begins with first_seq. */
void reader_gaps_commit(struct spool_reader *r, bool is_good, uint64_t first_seq);
/* The end is reached: gaps of the last group are torn or corrupt. */
void reader_gaps_settle_last(struct spool_reader *r);
/* Gives one gap that is settled; false: there is none. */
bool reader_gaps_give(struct spool_reader *r, struct spool_entry *entry);
/* A record that was good a moment ago cannot be read now: told at once, as entry->damage. */
void reader_gaps_tell_lost(const struct spool_reader *r, uint64_t start, uint64_t end, uint64_t seq,
    uint64_t id, int error, struct spool_entry *entry);

/* Makes room for one more than `n`. -ENOMEM: nothing has changed. */
static inline int
reader_grow(void **array, size_t *capacity, size_t n, size_t size)
{
	void *bigger;

	if (n < *capacity)
		return 0;
	bigger = os_realloc(*array, (*capacity * 2 + 64) * size);
	if (bigger == NULL)
		return -ENOMEM;
	*array = bigger;
	*capacity = *capacity * 2 + 64;
	return 0;
}

#endif
