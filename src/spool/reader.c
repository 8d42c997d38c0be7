/* reader.c - see reader.h. A group is taken up whole: its records are found first, given when its COMMIT
 * is known. Gaps between records wait until it is known whether anything valid comes later. */
#include <errno.h>
#include <stdlib.h>

#include "spool/envelope.h"
#include "spool/reader_parts.h"

struct reader_found {
	uint8_t type;
	uint8_t flags;
	bool committed;
	uint32_t payload_bytes;
	uint64_t offset, seq;
	uint64_t id;
	uint64_t body_offset; /* of the BODY record; 0: none */
	uint32_t body_bytes;
};

static int
add_found(struct spool_reader *r, struct reader_found f)
{
	void *array = r->found;

	if (reader_grow(&array, &r->found_capacity, r->n_found, sizeof(f)) < 0)
		return -ENOMEM;
	r->found = array;
	r->found[r->n_found++] = f;
	return 0;
}

/* What a group looks like while it is read. */
struct group_state {
	uint64_t at;                  /* the next record */
	struct reader_found envelope; /* type 0: none waits for its body */
	uint64_t chain;
	uint64_t first_seq;
	uint32_t count;
	bool whole; /* no gap in it */
};

/* The envelope that waits gets no body. */
static int
drop_envelope(struct spool_reader *r, struct group_state *g)
{
	struct reader_found e = g->envelope;

	if (e.type == 0)
		return 0;
	g->envelope.type = 0;
	return reader_gaps_add(
	    r, e.offset, e.offset + record_bytes(e.payload_bytes), e.seq, e.id, 0);
}

static int
take_envelope(
    struct spool_reader *r, struct group_state *g, struct reader_found f, const uint8_t *payload)
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
take_body(struct spool_reader *r, struct group_state *g, struct reader_found f)
{
	struct reader_found e = g->envelope;

	if (e.type == 0 || e.seq + 1 != f.seq)
		return reader_gaps_add(
		    r, f.offset, f.offset + record_bytes(f.payload_bytes), f.seq, 0, 0);
	g->envelope.type = 0;
	e.body_offset = f.offset;
	e.body_bytes = f.payload_bytes;
	return add_found(r, e);
}

static void
take_commit(struct spool_reader *r, struct group_state *g, const uint8_t *payload, uint32_t len)
{
	struct record_commit c = { 0 };
	bool good = record_get_commit((struct span){ (const char *)payload, len }, &c);

	if (good && g->whole) /* nothing missing: then everything must agree */
		good = c.first_seq == g->first_seq && c.count == g->count && c.checksum == g->chain;
	reader_gaps_commit(r, good, c.first_seq);
	for (size_t i = 0; i < r->n_found; i++)
		r->found[i].committed = good;
}

/* One whole record. 1: it was the group's COMMIT. */
static int
take_record(struct spool_reader *r, struct group_state *g, const struct record_header *h,
    uint64_t offset, const uint8_t *in)
{
	struct reader_found f = { .type = h->type,
		.flags = h->flags,
		.payload_bytes = h->payload_bytes,
		.offset = offset,
		.seq = h->seq };
	const uint8_t *payload = in + RECORD_HEADER_BYTES;
	bool is_lost;
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
	is_lost = h->type == RECORD_BODY &&
	          (r->n_found == 0 || r->found[r->n_found - 1].body_offset != offset);
	if (v == 0 && !is_lost)
		reader_gaps_close(r, h->seq);
	return v;
}

/* Does the record at `offset` hold? 1: *in is it; 0: broken or not readable (*error). */
static int
whole_at(struct spool_reader *r, uint64_t offset, const struct record_header *h, const uint8_t **in,
    int *error)
{
	int v = reader_bytes_view(r, offset, record_bytes(h->payload_bytes), in);

	if (v == -ENOMEM)
		return v;
	if (v < 0) {
		*error = -v;
		return 0;
	}
	return record_is_whole(h, r->salt, *in);
}

/* Nothing valid from `offset` to the end. */
static int
take_tail(struct spool_reader *r, struct group_state *g, uint64_t offset, int error)
{
	int v = drop_envelope(r, g);

	return v < 0 ? v : reader_gaps_add_tail(r, offset, error);
}

/* 1, 0, or -errno: it cannot be told. */
static int
starts_with_revoke(struct spool_reader *r)
{
	struct record_header h;
	int v = reader_bytes_header(r, r->position, &h);

	return v == 1 ? h.type == RECORD_REVOKE : v;
}

/* Nothing more is to be read from `at` on. */
static int
take_end(struct spool_reader *r, struct group_state *g, uint64_t at)
{
	uint64_t due = r->bounded ? r->limit : r->data_end;
	int v;

	v = at < reader_bytes_end(r) && !r->revokes_only ? take_tail(r, g, at, 0)
	                                                 : drop_envelope(r, g);
	if (v == 0 && r->size < due && !r->was_cut) {
		r->was_cut = true; /* the file is shorter than it was made */
		v = reader_gaps_add_corrupt(r, r->size, due, 0);
	}
	r->position = reader_bytes_end(r);
	r->at_end = true;
	reader_gaps_settle_last(r);
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
	int v = reader_bytes_resync(r, g->at + 8, &next, &error);

	if (v < 0)
		return v;
	if (next >= reader_bytes_end(r)) {
		v = take_tail(r, g, g->at, error);
		if (v == 0)
			v = take_end(r, g, reader_bytes_end(r));
		return v < 0 ? v : 1;
	}
	v = spoil(r, g);
	if (v == 0)
		v = reader_gaps_add(r, g->at, next, 0, 0, error);
	g->at = next;
	return v;
}

/* Its header is whole, the rest is not. */
static int
pass_broken(struct spool_reader *r, struct group_state *g, const struct record_header *h, int error)
{
	uint64_t id = g->envelope.type != 0 ? g->envelope.id : 0;
	int v = spoil(r, g);

	return v < 0 ? v
	             : reader_gaps_add(
	                   r, g->at, g->at + record_bytes(h->payload_bytes), h->seq, id, error);
}

static int
pass_whole(
    struct spool_reader *r, struct group_state *g, const struct record_header *h, const uint8_t *in)
{
	uint64_t size = record_bytes(h->payload_bytes);

	if (h->type != RECORD_COMMIT) {
		/* a later record: what earlier groups lack was durable */
		if (g->count == 0) {
			reader_gaps_settle(r, h->seq - 1);
			g->first_seq = h->seq;
		}
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
	int error = 0, is_whole, v = reader_bytes_header(r, g->at, &h);

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
			v = reader_gaps_note_missing(r, h.seq, g->at);
		if (v < 0)
			return v;
	}
	v = is_whole ? pass_whole(r, g, &h, in) : pass_broken(r, g, &h, error);
	if (v < 0)
		return v;
	r->last_seq = h.seq;
	g->at += record_bytes(h.payload_bytes);
	if (v == 1) {
		reader_gaps_close(r, h.seq);
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
	while (v == 0 && g.at + RECORD_HEADER_BYTES <= reader_bytes_end(r))
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

static int
give_found(struct spool_reader *r, enum spool_event *event, struct spool_entry *entry)
{
	const struct reader_found *f = &r->found[r->next_found++];
	const uint8_t *in;
	int v;

	v = reader_bytes_view(r, f->offset + RECORD_HEADER_BYTES, f->payload_bytes, &in);
	if (v == -ENOMEM)
		return v;
	if (v < 0) { /* it was readable a moment ago */
		reader_gaps_tell_lost(r, f->offset, f->offset + record_bytes(f->payload_bytes),
		    f->seq, f->id, -v, entry);
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
		if (reader_gaps_give(r, entry)) {
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
			v = reader_gaps_add_corrupt(r, 0, r->size, r->header_error);
			r->at_end = true;
		} else if (r->header.is_copy && !r->copy_was_told) {
			r->copy_was_told = true;
			v = reader_gaps_add_corrupt(r, 0, RECORD_BLOCK, 0);
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
