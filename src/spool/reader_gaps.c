/* reader_gaps.c - what stands between good records: which bytes, which seq numbers are missing, and whether they
 * were durable or were never finished (reader.h has the rules). */
#include <errno.h>
#include <string.h>

#include "spool/reader_parts.h"

#define SECTOR 512u

struct reader_gap {
	uint64_t start, end;
	uint64_t first_missing, last_missing;
	uint64_t id;
	uint64_t seq_after; /* of the next record; 0: none yet */
	int error;
	bool covered; /* by a COMMIT after it */
	bool ready;
	enum spool_range range;
};

static int
push_gap(struct spool_reader *r, struct reader_gap gap)
{
	void *array = r->gaps;

	if (reader_grow(&array, &r->gaps_capacity, r->n_gaps, sizeof(gap)) < 0)
		return -ENOMEM;
	r->gaps = array;
	r->gaps[r->n_gaps++] = gap;
	return 0;
}

/* As push_gap(), but goes into the one before it if they touch. */
static int
add_gap(struct spool_reader *r, struct reader_gap gap)
{
	struct reader_gap *last = r->n_gaps > 0 ? &r->gaps[r->n_gaps - 1] : NULL;

	if (last != NULL && !last->ready && last->end == gap.start && last->seq_after == 0) {
		last->end = gap.end;
		if (last->first_missing == 0)
			last->first_missing = gap.first_missing;
		if (gap.last_missing > last->last_missing)
			last->last_missing = gap.last_missing;
		if (last->id == 0)
			last->id = gap.id;
		if (last->error == 0)
			last->error = gap.error;
		return 0;
	}
	return push_gap(r, gap);
}

int
reader_gaps_add(
    struct spool_reader *r, uint64_t start, uint64_t end, uint64_t seq, uint64_t id, int error)
{
	return add_gap(r, (struct reader_gap){ .start = start,
	                      .end = end,
	                      .first_missing = seq,
	                      .last_missing = seq,
	                      .id = id,
	                      .error = error });
}

int
reader_gaps_add_corrupt(struct spool_reader *r, uint64_t start, uint64_t end, int error)
{
	return push_gap(r, (struct reader_gap){ .start = start,
	                       .end = end,
	                       .error = error,
	                       .range = SPOOL_RANGE_CORRUPT,
	                       .ready = true });
}

int
reader_gaps_add_tail(struct spool_reader *r, uint64_t offset, int error)
{
	uint64_t end = reader_bytes_end(r), nonzero = offset, at = offset;
	struct reader_gap gap = { .start = offset, .end = end, .error = error, .ready = true };
	int v = 0;

	if (offset >= end)
		return 0;
	if (r->closed_clean) {
		gap.range = SPOOL_RANGE_UNUSED;
		return push_gap(r, gap);
	}
	if (r->bounded || error != 0) {
		gap.range = SPOOL_RANGE_CORRUPT;
		return push_gap(r, gap);
	}
	while (at < end) {
		size_t len =
		    end - at < READER_AHEAD_BYTES ? (size_t)(end - at) : READER_AHEAD_BYTES;
		const uint8_t *in;

		v = reader_bytes_view(r, at, len, &in);
		if (v < 0)
			return v == -ENOMEM ? v : 0;
		for (size_t i = len; i > 0; i--)
			if (in[i - 1] != 0) {
				nonzero = at + i;
				break;
			}
		at += len;
	}
	nonzero = nonzero + 7 > end ? end : (nonzero + 7) & ~(uint64_t)7;
	if (nonzero > offset) {
		gap.end = nonzero;
		gap.range = SPOOL_RANGE_TORN;
		if (r->header.flags & SEGMENT_RECYCLED) {
			gap.range = SPOOL_RANGE_UNUSED;
			gap.end = end;
		}
		v = push_gap(r, gap);
	}
	if (v == 0 && (nonzero == offset || gap.end < end)) {
		gap.start = nonzero;
		gap.end = end;
		gap.range = SPOOL_RANGE_ZERO;
		v = push_gap(r, gap);
	}
	return v;
}

int
reader_gaps_note_missing(struct spool_reader *r, uint64_t seq, uint64_t offset)
{
	struct reader_gap *last = r->n_gaps > 0 ? &r->gaps[r->n_gaps - 1] : NULL;
	uint64_t first = r->last_seq + 1;

	if (last != NULL && !last->ready && last->seq_after == 0) {
		if (seq > first) {
			if (last->first_missing == 0 || first < last->first_missing)
				last->first_missing = first;
			if (seq - 1 > last->last_missing)
				last->last_missing = seq - 1;
		}
	} else if (seq > first) {
		return add_gap(r, (struct reader_gap){ .start = offset,
		                      .end = offset,
		                      .first_missing = first,
		                      .last_missing = seq - 1 });
	}
	return 0;
}

void
reader_gaps_close(struct spool_reader *r, uint64_t seq)
{
	for (size_t i = 0; i < r->n_gaps; i++)
		if (r->gaps[i].seq_after == 0)
			r->gaps[i].seq_after = seq;
}

void
reader_gaps_settle(struct spool_reader *r, uint64_t before_seq)
{
	for (size_t i = 0; i < r->n_gaps; i++) {
		struct reader_gap *gap = &r->gaps[i];

		if (!gap->ready && gap->seq_after != 0 && gap->seq_after <= before_seq) {
			gap->range = SPOOL_RANGE_CORRUPT;
			gap->ready = true;
		}
	}
}

void
reader_gaps_commit(struct spool_reader *r, bool is_good, uint64_t first_seq)
{
	if (is_good)
		reader_gaps_settle(r, first_seq);
	for (size_t i = 0; i < r->n_gaps; i++) {
		struct reader_gap *gap = &r->gaps[i];

		if (gap->ready)
			continue;
		gap->covered = is_good;
		/* it reaches back into a group that was durable before this one was begun */
		if (is_good && gap->first_missing != 0 && gap->first_missing < first_seq) {
			gap->range = SPOOL_RANGE_CORRUPT;
			gap->ready = true;
		}
	}
}

/* Does a 512-byte piece of zeros lie in it? Then a sector of a new file was never written. */
static bool
has_zero_sector(struct spool_reader *r, uint64_t start, uint64_t end)
{
	static const uint8_t zeros[SECTOR];
	const uint8_t *in;

	for (uint64_t at = start / SECTOR * SECTOR; at < end; at += SECTOR)
		if (reader_bytes_view(r, at, SECTOR, &in) == 0 && memcmp(in, zeros, SECTOR) == 0)
			return true;
	return false;
}

void
reader_gaps_settle_last(struct spool_reader *r)
{
	for (size_t i = 0; i < r->n_gaps; i++) {
		struct reader_gap *gap = &r->gaps[i];
		bool torn;

		if (gap->ready)
			continue;
		torn = !r->bounded && gap->error == 0 && !r->closed_clean &&
		       (!gap->covered || (r->header.flags & SEGMENT_RECYCLED) ||
		           has_zero_sector(r, gap->start, gap->end));
		gap->range = torn ? SPOOL_RANGE_TORN : SPOOL_RANGE_CORRUPT;
		gap->ready = true;
	}
}

static void
fill_damage(const struct spool_reader *r, const struct reader_gap *gap, struct spool_entry *entry)
{
	struct spool_damage *d = &entry->damage;

	*d = (struct spool_damage){ .kind = r->kind,
		.number = r->number,
		.range = gap->range,
		.offset = gap->start,
		.length_bytes = gap->end - gap->start,
		.first_missing = gap->first_missing,
		.last_missing = gap->last_missing,
		.id = gap->id,
		.error = gap->error };
	segment_name(r->kind, r->number, d->file);
}

void
reader_gaps_tell_lost(const struct spool_reader *r, uint64_t start, uint64_t end, uint64_t seq,
    uint64_t id, int error, struct spool_entry *entry)
{
	fill_damage(r,
	    &(struct reader_gap){ .start = start,
	        .end = end,
	        .range = SPOOL_RANGE_CORRUPT,
	        .first_missing = seq,
	        .last_missing = seq,
	        .id = id,
	        .error = error },
	    entry);
}

bool
reader_gaps_give(struct spool_reader *r, struct spool_entry *entry)
{
	for (size_t i = 0; i < r->n_gaps; i++) {
		if (!r->gaps[i].ready)
			continue;
		fill_damage(r, &r->gaps[i], entry);
		memmove(&r->gaps[i], &r->gaps[i + 1], (r->n_gaps - i - 1) * sizeof(r->gaps[0]));
		r->n_gaps--;
		return true;
	}
	return false;
}
