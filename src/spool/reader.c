/* reader.c - see reader.h. A group is taken up whole: its records are found first, given when its COMMIT
 * is known. Gaps between records wait until it is known whether anything valid comes later. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "spool/envelope.h"
#include "spool/reader.h"

#define READ_AHEAD (256u << 10)
#define KEEP_MOST (8u << 20) /* of a group in memory; what is before that is read again */
#define SECTOR 512u

struct found {
	uint8_t type;
	uint8_t flags;
	bool committed;
	uint32_t payload_bytes;
	uint64_t offset, seq;
	uint64_t id;
	uint64_t body_offset; /* of the BODY record; 0: none */
	uint32_t body_bytes;
};

struct gap {
	uint64_t start, end;
	uint64_t first_missing, last_missing;
	uint64_t id;
	uint64_t seq_after; /* of the next record; 0: none yet */
	int error;
	bool covered; /* by a COMMIT after it */
	bool ready;
	enum spool_range range;
};

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
	uint64_t commit_end; /* after the last COMMIT */

	uint8_t *buffer;
	uint64_t buffer_offset;
	size_t buffer_len, buffer_capacity;
	uint64_t anchor; /* bytes from here on are kept, up to KEEP_MOST */

	struct found *found;
	size_t n_found, found_capacity, next_found;
	struct gap *gaps;
	size_t n_gaps, gaps_capacity;
};

static uint64_t
end_of(const struct spool_reader *r)
{
	uint64_t end = r->size < r->data_end ? r->size : r->data_end;

	return r->limit < end ? r->limit : end;
}

/* Reads [offset, offset + len) into the buffer, and somewhat more. 0: *out points to it. */
static int
view(struct spool_reader *r, uint64_t offset, size_t len, const uint8_t **out)
{
	uint64_t keep = r->buffer_offset, end = end_of(r);
	size_t want, got;
	int v;

	if (offset + len > end)
		return -ERANGE;
	if (offset >= r->buffer_offset && offset + len <= r->buffer_offset + r->buffer_len) {
		*out = r->buffer + (offset - r->buffer_offset);
		return 0;
	}
	if (offset < r->buffer_offset || offset > r->buffer_offset + r->buffer_len ||
	    offset + len - r->anchor > KEEP_MOST) {
		keep = offset;
		r->buffer_len = 0;
	} else if (r->anchor > r->buffer_offset && r->anchor <= r->buffer_offset + r->buffer_len) {
		keep = r->anchor;
		r->buffer_len -= (size_t)(keep - r->buffer_offset);
		memmove(r->buffer, r->buffer + (keep - r->buffer_offset), r->buffer_len);
	}
	r->buffer_offset = keep;
	want = (size_t)(offset + len - keep) + READ_AHEAD;
	if (want > end - keep)
		want = (size_t)(end - keep);
	if (want > r->buffer_capacity) {
		uint8_t *bigger = os_realloc(r->buffer, want);

		if (bigger == NULL)
			return -ENOMEM;
		r->buffer = bigger;
		r->buffer_capacity = want;
	}
	v = segment_read_most(r->fd, r->buffer + r->buffer_len, want - r->buffer_len,
	    r->buffer_offset + r->buffer_len, &got);
	r->buffer_len += got;
	if (offset + len > r->buffer_offset + r->buffer_len)
		return v < 0 ? v : -EIO; /* more is missing than what was read ahead */
	*out = r->buffer + (offset - r->buffer_offset);
	return 0;
}

static int
grow(void **array, size_t *capacity, size_t n, size_t size)
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

static int
push_gap(struct spool_reader *r, struct gap gap)
{
	void *array = r->gaps;

	if (grow(&array, &r->gaps_capacity, r->n_gaps, sizeof(gap)) < 0)
		return -ENOMEM;
	r->gaps = array;
	r->gaps[r->n_gaps++] = gap;
	return 0;
}

/* As push_gap(), but goes into the one before it if they touch. */
static int
add_gap(struct spool_reader *r, struct gap gap)
{
	struct gap *last = r->n_gaps > 0 ? &r->gaps[r->n_gaps - 1] : NULL;

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

/* A record whose seq is known is lost. */
static int
add_lost(struct spool_reader *r, uint64_t start, uint64_t end, uint64_t seq, uint64_t id, int error)
{
	return add_gap(r, (struct gap){ .start = start,
	                      .end = end,
	                      .first_missing = seq,
	                      .last_missing = seq,
	                      .id = id,
	                      .error = error });
}

/* Is there a good header at `offset`, of a record that could follow? */
static int
header_at(struct spool_reader *r, uint64_t offset, struct record_header *h)
{
	const uint8_t *in;
	int v;

	if (offset + RECORD_HEADER_BYTES > end_of(r))
		return 0;
	v = view(r, offset, RECORD_HEADER_BYTES, &in);
	if (v < 0)
		return v;
	return record_get_header(in, r->salt, h) && h->seq > r->last_seq &&
	       offset + record_bytes(h->payload_bytes) <= end_of(r);
}

/* From `offset` on, the next multiple of 8 with a good header; end_of() if there is none. Blocks that
 * cannot be read are passed over; *error tells the last errno. */
static int
resync(struct spool_reader *r, uint64_t offset, uint64_t *found, int *error)
{
	static const uint8_t magic[4] = { 0x52, 0x4c, 0x44, 0x52 };
	uint64_t end = end_of(r);
	struct record_header h;

	while (offset + RECORD_HEADER_BYTES <= end) {
		size_t len = end - offset < READ_AHEAD ? (size_t)(end - offset) : READ_AHEAD;
		const uint8_t *in;
		int v = view(r, offset, len, &in);

		if (v == -ENOMEM)
			return v;
		if (v < 0) { /* block by block: some of them can be read */
			len = RECORD_BLOCK - offset % RECORD_BLOCK;
			if (len > end - offset)
				len = (size_t)(end - offset);
			v = view(r, offset, len, &in);
		}
		if (v < 0) {
			*error = -v;
			offset += len;
			continue;
		}
		for (size_t i = 0; i + sizeof(magic) <= len; i += 8) {
			if (memcmp(in + i, magic, sizeof(magic)) != 0)
				continue;
			v = header_at(r, offset + i, &h);
			if (v == -ENOMEM)
				return v;
			if (v == 1) {
				*found = offset + i;
				return 0;
			}
			/* the buffer may have moved */
			if (view(r, offset, len, &in) < 0)
				break;
		}
		offset += len - len % 8;
		if (len < 8)
			break;
	}
	*found = end;
	return 0;
}

static int
add_found(struct spool_reader *r, struct found f)
{
	void *array = r->found;

	if (grow(&array, &r->found_capacity, r->n_found, sizeof(f)) < 0)
		return -ENOMEM;
	r->found = array;
	r->found[r->n_found++] = f;
	return 0;
}

/* What a group looks like while it is read. */
struct group_state {
	uint64_t at;           /* the next record */
	struct found envelope; /* type 0: none waits for its body */
	uint64_t chain;
	uint64_t first_seq;
	uint32_t count;
	bool whole; /* no gap in it */
};

/* The envelope that waits gets no body. */
static int
drop_envelope(struct spool_reader *r, struct group_state *g)
{
	struct found e = g->envelope;

	if (e.type == 0)
		return 0;
	g->envelope.type = 0;
	return add_lost(r, e.offset, e.offset + record_bytes(e.payload_bytes), e.seq, e.id, 0);
}

static int
take_envelope(struct spool_reader *r, struct group_state *g, struct found f, const uint8_t *payload)
{
	uint32_t flags = 0;

	/* An envelope that cannot be understood is given all the same: its bytes are good. */
	if (envelope_peek((struct span){ (const char *)payload, f.payload_bytes }, &f.id, &flags) <
	    0)
		f.id = 0;
	if (flags & ENVELOPE_LARGE)
		return add_found(r, f);
	g->envelope = f;
	return 0;
}

static int
take_body(struct spool_reader *r, struct group_state *g, struct found f)
{
	struct found e = g->envelope;

	if (e.type == 0 || e.seq + 1 != f.seq)
		return add_lost(r, f.offset, f.offset + record_bytes(f.payload_bytes), f.seq, 0, 0);
	g->envelope.type = 0;
	e.body_offset = f.offset;
	e.body_bytes = f.payload_bytes;
	return add_found(r, e);
}

/* A valid record follows: whatever was open in earlier groups was durable. */
static void
settle_gaps(struct spool_reader *r, uint64_t before_seq)
{
	for (size_t i = 0; i < r->n_gaps; i++) {
		struct gap *gap = &r->gaps[i];

		if (!gap->ready && gap->seq_after != 0 && gap->seq_after <= before_seq) {
			gap->range = SPOOL_RANGE_CORRUPT;
			gap->ready = true;
		}
	}
}

/* Seq numbers that nobody has seen belong to the gap that is open. */
static int
note_missing(struct spool_reader *r, uint64_t seq, uint64_t offset)
{
	struct gap *last = r->n_gaps > 0 ? &r->gaps[r->n_gaps - 1] : NULL;
	uint64_t first = r->last_seq + 1;

	if (last != NULL && !last->ready && last->seq_after == 0) {
		if (seq > first) {
			if (last->first_missing == 0 || first < last->first_missing)
				last->first_missing = first;
			if (seq - 1 > last->last_missing)
				last->last_missing = seq - 1;
		}
	} else if (seq > first) {
		return add_gap(r, (struct gap){ .start = offset,
		                      .end = offset,
		                      .first_missing = first,
		                      .last_missing = seq - 1 });
	}
	return 0;
}

static void
close_gaps(struct spool_reader *r, uint64_t seq)
{
	for (size_t i = 0; i < r->n_gaps; i++)
		if (r->gaps[i].seq_after == 0)
			r->gaps[i].seq_after = seq;
}

static void
take_commit(struct spool_reader *r, struct group_state *g, const uint8_t *payload, uint32_t len)
{
	struct record_commit c;
	bool good = record_get_commit((struct span){ (const char *)payload, len }, &c);

	if (good && g->whole) /* nothing missing: then everything must agree */
		good = c.first_seq == g->first_seq && c.count == g->count && c.checksum == g->chain;
	if (good)
		settle_gaps(r, c.first_seq);
	for (size_t i = 0; i < r->n_gaps; i++) {
		struct gap *gap = &r->gaps[i];

		if (gap->ready)
			continue;
		gap->covered = good;
		/* it reaches back into a group that was durable before this one was begun */
		if (good && gap->first_missing != 0 && gap->first_missing < c.first_seq) {
			gap->range = SPOOL_RANGE_CORRUPT;
			gap->ready = true;
		}
	}
	for (size_t i = 0; i < r->n_found; i++)
		r->found[i].committed = good;
}

/* One whole record. 1: it was the group's COMMIT. */
static int
take_record(struct spool_reader *r, struct group_state *g, const struct record_header *h,
    uint64_t offset, const uint8_t *in)
{
	struct found f = { .type = h->type,
		.flags = h->flags,
		.payload_bytes = h->payload_bytes,
		.offset = offset,
		.seq = h->seq };
	const uint8_t *payload = in + RECORD_HEADER_BYTES;
	int v = 0;

	if (h->type != RECORD_BODY)
		v = drop_envelope(r, g);
	if (v < 0)
		return v;
	switch (h->type) {
	case RECORD_ENVELOPE:
		v = take_envelope(r, g, f, payload);
		break;
	case RECORD_BODY:
		v = take_body(r, g, f);
		break;
	case RECORD_COMMIT:
		take_commit(r, g, payload, h->payload_bytes);
		return 1;
	case RECORD_CLEAN:
		r->closed_clean = true;
		break;
	case RECORD_REVOKE:
	case RECORD_OUTCOME:
		v = add_found(r, f);
		break;
	case RECORD_SNAPSHOT:
		r->has_snapshot = true;
		break;
	default:
		if (h->flags & RECORD_CRITICAL)
			v = add_found(r, f);
	}
	if (v == 0 && h->type != RECORD_BODY && r->n_gaps > 0)
		close_gaps(r, h->seq);
	else if (v == 0 && h->type == RECORD_BODY && r->n_found > 0 &&
	         r->found[r->n_found - 1].body_offset == offset)
		close_gaps(r, h->seq);
	return v;
}

/* Does the record at `offset` hold? 1: *in is it; 0: broken or not readable (*error). */
static int
whole_at(struct spool_reader *r, uint64_t offset, const struct record_header *h, const uint8_t **in,
    int *error)
{
	int v = view(r, offset, record_bytes(h->payload_bytes), in);

	if (v == -ENOMEM)
		return v;
	if (v < 0) {
		*error = -v;
		return 0;
	}
	return record_is_whole(h, r->salt, *in);
}

/* Nothing valid from `offset` to the end: what is it? */
static int
take_tail(struct spool_reader *r, struct group_state *g, uint64_t offset, int error)
{
	uint64_t end = end_of(r), nonzero = offset, at = offset;
	struct gap gap = { .start = offset, .end = end, .error = error, .ready = true };
	int v;

	v = drop_envelope(r, g);
	if (v < 0 || offset >= end)
		return v;
	if (r->closed_clean) {
		gap.range = SPOOL_RANGE_UNUSED;
		return push_gap(r, gap);
	}
	if (r->bounded || error != 0) {
		gap.range = SPOOL_RANGE_CORRUPT;
		return push_gap(r, gap);
	}
	while (at < end) {
		size_t len = end - at < READ_AHEAD ? (size_t)(end - at) : READ_AHEAD;
		const uint8_t *in;

		v = view(r, at, len, &in);
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

/* Does a 512-byte piece of zeros lie in it? Then a sector of a new file was never written. */
static bool
has_zero_sector(struct spool_reader *r, uint64_t start, uint64_t end)
{
	static const uint8_t zeros[SECTOR];
	const uint8_t *in;

	for (uint64_t at = start / SECTOR * SECTOR; at < end; at += SECTOR)
		if (view(r, at, SECTOR, &in) == 0 && memcmp(in, zeros, SECTOR) == 0)
			return true;
	return false;
}

/* The end is reached: gaps of the last group are torn or corrupt. */
static void
settle_last_gaps(struct spool_reader *r)
{
	for (size_t i = 0; i < r->n_gaps; i++) {
		struct gap *gap = &r->gaps[i];
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

/* 1, 0, or -errno: it cannot be told. */
static int
starts_with_revoke(struct spool_reader *r)
{
	struct record_header h;
	int v = header_at(r, r->position, &h);

	return v == 1 ? h.type == RECORD_REVOKE : v;
}

/* Nothing more is to be read from `at` on. */
static int
take_end(struct spool_reader *r, struct group_state *g, uint64_t at)
{
	uint64_t due = r->bounded ? r->limit : r->data_end;
	int v;

	v = at < end_of(r) && !r->revokes_only ? take_tail(r, g, at, 0) : drop_envelope(r, g);
	if (v == 0 && r->size < due && !r->was_cut) {
		r->was_cut = true; /* the file is shorter than it was made */
		v = push_gap(r, (struct gap){ .start = r->size,
		                    .end = due,
		                    .range = SPOOL_RANGE_CORRUPT,
		                    .ready = true });
	}
	r->position = end_of(r);
	r->at_end = true;
	settle_last_gaps(r);
	return v;
}

/* Something of the group is broken or missing. */
static int
spoil(struct spool_reader *r, struct group_state *g)
{
	g->whole = false;
	return drop_envelope(r, g);
}

/* The steps below: 0, go on at g->at; 1, the group is complete or the file has ended; -errno. */

/* No record stands there. */
static int
pass_gap(struct spool_reader *r, struct group_state *g, int error)
{
	uint64_t next;
	int v = resync(r, g->at + 8, &next, &error);

	if (v < 0)
		return v;
	if (next >= end_of(r)) {
		v = take_tail(r, g, g->at, error);
		if (v == 0)
			v = take_end(r, g, end_of(r));
		return v < 0 ? v : 1;
	}
	v = spoil(r, g);
	if (v == 0)
		v = add_gap(r, (struct gap){ .start = g->at, .end = next, .error = error });
	g->at = next;
	return v;
}

/* Its header is whole, the rest is not. */
static int
pass_broken(struct spool_reader *r, struct group_state *g, const struct record_header *h, int error)
{
	uint64_t id = g->envelope.type != 0 ? g->envelope.id : 0;
	int v = spoil(r, g);

	return v < 0
	           ? v
	           : add_lost(r, g->at, g->at + record_bytes(h->payload_bytes), h->seq, id, error);
}

static int
pass_whole(
    struct spool_reader *r, struct group_state *g, const struct record_header *h, const uint8_t *in)
{
	uint64_t size = record_bytes(h->payload_bytes);

	if (h->type != RECORD_COMMIT) {
		/* a later record: what earlier groups lack was durable */
		if (g->count == 0 && r->n_gaps > 0)
			settle_gaps(r, h->seq - 1);
		if (g->count == 0)
			g->first_seq = h->seq;
		g->count++;
		g->chain = record_chain(g->chain, h->checksum, record_get_u64(in + size - 8));
	}
	return take_record(r, g, h, g->at, in);
}

static int
step(struct spool_reader *r, struct group_state *g)
{
	struct record_header h;
	const uint8_t *in = NULL;
	int error = 0, is_whole, v = header_at(r, g->at, &h);

	if (v == -ENOMEM)
		return v;
	if (v != 1)
		return pass_gap(r, g, v < 0 ? -v : 0);
	is_whole = whole_at(r, g->at, &h, &in, &error);
	if (is_whole < 0)
		return is_whole;
	if (h.seq != r->last_seq + 1) {
		v = spoil(r, g);
		if (v == 0)
			v = note_missing(r, h.seq, g->at);
		if (v < 0)
			return v;
	}
	v = is_whole ? pass_whole(r, g, &h, in) : pass_broken(r, g, &h, error);
	if (v < 0)
		return v;
	r->last_seq = h.seq;
	g->at += record_bytes(h.payload_bytes);
	if (v == 1) {
		close_gaps(r, h.seq);
		r->position = (g->at + RECORD_BLOCK - 1) / RECORD_BLOCK * RECORD_BLOCK;
	}
	return v;
}

/* Reads on to the next COMMIT, or to the end. */
static int
take_group(struct spool_reader *r)
{
	struct group_state g = { .at = r->position, .chain = r->salt.payload, .whole = true };
	int v = 0;

	r->anchor = g.at;
	if (r->revokes_only) {
		v = starts_with_revoke(r);
		if (v <= 0)
			return v < 0 ? v : take_end(r, &g, g.at);
		v = 0;
	}
	if (r->closed_clean)
		return take_end(r, &g, g.at);
	while (v == 0 && g.at + RECORD_HEADER_BYTES <= end_of(r))
		v = step(r, &g);
	return v == 0 ? take_end(r, &g, g.at) : v < 0 ? v : 0;
}

int
spool_reader_open(int dirfd, enum segment_kind kind, uint32_t number, uint64_t limit, bool distrust,
    struct spool_reader **out)
{
	struct segment_header header = { 0 };
	struct spool_reader *r;
	int fd, opened, sync_error = 0;
	struct stat st = { 0 };

	opened = segment_open(dirfd, kind, number, distrust, &header, &fd, &sync_error);
	if (fd < 0 && !segment_is_strange(opened) &&
	    !(opened == -EACCES && kind != SEGMENT_JOURNAL))
		return opened; /* without a journal nobody knows what was delivered */
	if (fd >= 0 && os_fstat(fd, &st) < 0) {
		os_close(fd);
		return -EIO;
	}
	r = xcalloc(1, sizeof(*r));
	r->fd = fd;
	r->kind = kind;
	r->number = number;
	r->header = header;
	r->salt = record_salt_from(header.salt);
	r->size = (uint64_t)st.st_size;
	r->limit = limit;
	r->data_end = segment_end(&header);
	r->bounded = limit != SPOOL_READ_TO_END;
	r->header_is_bad = opened < 0;
	r->is_newer = opened == -EPROTONOSUPPORT;
	r->header_error = opened < 0 && opened != -EBADMSG ? -opened : 0;
	r->sync_error = sync_error;
	r->position = RECORD_BLOCK;
	r->buffer_offset = RECORD_BLOCK;
	*out = r;
	return 0;
}

static void
fill_damage(const struct spool_reader *r, const struct gap *gap, struct spool_entry *entry)
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

/* Gives one gap that is settled; the others move up. */
static bool
give_gap(struct spool_reader *r, struct spool_entry *entry)
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

static int
give_found(struct spool_reader *r, enum spool_event *event, struct spool_entry *entry)
{
	const struct found *f = &r->found[r->next_found++];
	const uint8_t *in;
	int v;

	v = view(r, f->offset + RECORD_HEADER_BYTES, f->payload_bytes, &in);
	if (v == -ENOMEM)
		return v;
	if (v < 0) { /* it was readable a moment ago */
		fill_damage(r,
		    &(struct gap){ .start = f->offset,
		        .end = f->offset + record_bytes(f->payload_bytes),
		        .range = SPOOL_RANGE_CORRUPT,
		        .first_missing = f->seq,
		        .last_missing = f->seq,
		        .id = f->id,
		        .error = -v },
		    entry);
		*event = SPOOL_DAMAGE;
		return 0;
	}
	entry->location = (struct spool_location){ r->number, (uint32_t)f->offset };
	entry->seq = f->seq;
	entry->last_seq = f->body_offset != 0 ? f->seq + 1 : f->seq;
	entry->committed = f->committed;
	entry->payload = (struct span){ (const char *)in, f->payload_bytes };
	entry->id = f->id;
	entry->body_offset =
	    f->body_offset != 0 ? (uint32_t)(f->body_offset + RECORD_HEADER_BYTES) : 0;
	entry->body_bytes = f->body_bytes;
	switch (f->type) {
	case RECORD_ENVELOPE:
		*event = SPOOL_MESSAGE;
		break;
	case RECORD_OUTCOME:
		*event = SPOOL_OUTCOME;
		break;
	case RECORD_REVOKE:
		*event = record_get_revoke(entry->payload, &entry->revoke) ? SPOOL_REVOKE
		                                                           : SPOOL_UNKNOWN;
		break;
	default:
		*event = SPOOL_UNKNOWN;
	}
	return 0;
}

int
spool_reader_next(struct spool_reader *r, enum spool_event *event, struct spool_entry *entry)
{
	int v;

	*entry = (struct spool_entry){ 0 };
	for (;;) {
		if (r->next_found < r->n_found)
			return give_found(r, event, entry);
		r->n_found = r->next_found = 0;
		if (give_gap(r, entry)) {
			*event = SPOOL_DAMAGE;
			return 0;
		}
		if (r->at_end) {
			*event = SPOOL_END;
			return 0;
		}
		if (r->is_newer) {
			r->at_end = true;
			*event = SPOOL_UNKNOWN;
			return 0;
		}
		if (r->header_is_bad) {
			v = add_gap(r, (struct gap){ .end = r->size,
			                   .error = r->header_error,
			                   .range = SPOOL_RANGE_CORRUPT,
			                   .ready = true });
			r->at_end = true;
		} else if (r->header.is_copy && !r->copy_was_told) {
			r->copy_was_told = true;
			v = push_gap(r,
			    (struct gap){
			        .end = RECORD_BLOCK, .range = SPOOL_RANGE_CORRUPT, .ready = true });
		} else {
			v = take_group(r);
			if (r->revokes_only)
				r->at_end = true;
		}
		if (v < 0)
			return v;
	}
}

void
spool_reader_extend(struct spool_reader *r, uint64_t limit)
{
	if (!r->bounded || limit <= r->limit)
		return;
	r->limit = limit;
	r->at_end = r->header_is_bad;
}

void
spool_reader_revokes_only(struct spool_reader *r)
{
	r->revokes_only = true;
}

const struct segment_header *
spool_reader_header(const struct spool_reader *r)
{
	return r->header_is_bad ? NULL : &r->header;
}

bool
spool_reader_was_closed_clean(const struct spool_reader *r)
{
	return r->closed_clean;
}

bool
spool_reader_has_snapshot(const struct spool_reader *r)
{
	return r->has_snapshot;
}

int
spool_reader_sync_error(const struct spool_reader *r)
{
	return r->sync_error;
}

uint64_t
spool_reader_position(const struct spool_reader *r)
{
	return r->position;
}

void
spool_reader_close(struct spool_reader *r)
{
	if (r == NULL)
		return;
	if (r->fd >= 0)
		os_close(r->fd);
	free(r->buffer);
	free(r->found);
	free(r->gaps);
	free(r);
}
