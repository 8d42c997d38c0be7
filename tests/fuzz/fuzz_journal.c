/* fuzz_journal.c - journals of any outcomes, damaged in any way, beside a naive model of journal.h: a list
 * of what was stored, from the first to the last.
 *
 * Input: u8 how many outcomes, four bytes for each, then changes as image_damage() has them, where the
 * operation's byte also chooses the file.
 *
 * What must hold: a DONE whose record did not change is never forgotten, one that is not there never
 * invented; what is told of a message is what its records say that did not change; compaction
 * changes nothing of that for messages whose segment is still there. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/queue_id.h"
#include "spool/journal.h"
#include "spool/journal_compact.h"
#include "spool/reader.h"
#include "spool_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FILES = 3, OUTCOMES = 48, IDS = 6, RECIPIENTS = 4, BLOCKS = 10, FIRST = 10 };

#define STATES (JOURNAL_REMOVED + 1)

/* The segment that these messages stand in is there; the others' is not. */
#define SEGMENT_THERE 1000u

struct stored {
	unsigned id, file, group;
	uint32_t start, end; /* of its record */
	struct journal_outcome outcome;
	struct journal_recipient recipients[RECIPIENTS];
	char reply[16];
	bool is_alive;
};

static struct world {
	struct image files[FILES];
	uint8_t bad[FILES][BLOCKS * RECORD_BLOCK];
	size_t len[FILES];
	unsigned n_files, groups[FILES];
	struct stored outcomes[OUTCOMES];
	unsigned n_outcomes;
	bool is_moved[IDS];
	bool is_strange;      /* a record stands where none was made */
	bool must_be_damaged; /* something is lost in front of a later group */
} w;

static int dirfd_of_files = -1;

static uint64_t
id_of(unsigned i)
{
	return queue_id_make(i % 2 == 0 ? SEGMENT_THERE : 2000, i * 700);
}

static unsigned
n_all_of(unsigned id)
{
	return 1 + id % RECIPIENTS;
}

/* ---- Making ---- */

static void
fill_recipients(struct stored *s, uint8_t named, uint8_t choice)
{
	for (unsigned i = 0; i < n_all_of(s->id); i++) {
		struct journal_recipient *r = &s->recipients[s->outcome.n_recipients];

		if ((named >> i & 1) == 0)
			continue;
		snprintf(s->reply, sizeof(s->reply), "reply %u", choice);
		*r = (struct journal_recipient){ .index = i,
			.state = (choice + i) % STATES,
			.attempts = choice,
			.next_attempt_ms = 1000u + choice,
			.code = 250u + i,
			.enhanced = SPAN("4.2.1"),
			.reply = span_of(s->reply),
			.upstream = SPAN("up") };
		s->outcome.n_recipients++;
	}
	s->outcome.recipients = s->recipients;
}

static void
store(const uint8_t in[4])
{
	struct stored *s = &w.outcomes[w.n_outcomes++];
	struct image *file = &w.files[w.n_files - 1];
	void *payload;
	size_t len;

	*s = (struct stored){ .id = in[0] % IDS, .file = w.n_files - 1 };
	w.is_moved[s->id] |= (in[1] & JOURNAL_MOVED) != 0;
	s->group = w.groups[s->file];
	s->outcome = (struct journal_outcome){ .id = id_of(s->id),
		.time_ms = w.n_outcomes,
		.flags = (in[1] & (JOURNAL_DONE | JOURNAL_HOLD | JOURNAL_WARNED)) |
		         (w.is_moved[s->id] ? JOURNAL_MOVED : 0u),
		.possible_duplicates = in[1] >> 6,
		.n_all = n_all_of(s->id) };
	if (w.is_moved[s->id])
		s->outcome.moved = (struct spool_location){ 1001, 4096 };
	fill_recipients(s, in[2], in[3] >> 2);
	assert(journal_encode(&s->outcome, &payload, &len) == 0);
	s->start = image_add(file, RECORD_OUTCOME, 0, payload, len);
	s->end = file->at;
	free(payload);
	if ((in[3] & 1) != 0) {
		image_commit(file);
		w.groups[s->file]++;
	}
	if ((in[3] & 2) != 0 && w.n_files < FILES) {
		image_commit(file);
		image_begin(&w.files[w.n_files], SEGMENT_JOURNAL, FIRST + w.n_files, BLOCKS,
		    (uint8_t)(0x51 + w.n_files));
		w.n_files++;
	}
}

static void
make_files(const uint8_t **data, size_t *size)
{
	unsigned n = (*data)[0] % (OUTCOMES + 1);

	memset(&w, 0, offsetof(struct world, files));
	w.n_files = 1;
	w.n_outcomes = 0;
	memset(w.groups, 0, sizeof(w.groups));
	memset(w.is_moved, 0, sizeof(w.is_moved));
	image_begin(&w.files[0], SEGMENT_JOURNAL, FIRST, BLOCKS, 0x51);
	++*data, --*size;
	for (; n > 0 && *size >= 4; n--, *data += 4, *size -= 4)
		if (w.files[w.n_files - 1].at < 8 * RECORD_BLOCK)
			store(*data);
	for (unsigned i = 0; i < w.n_files; i++) {
		image_commit(&w.files[i]);
		memcpy(w.bad[i], w.files[i].bytes, sizeof(w.bad[i]));
		w.len[i] = sizeof(w.bad[i]);
	}
}

static void
write_file(unsigned i, const uint8_t *bytes, size_t len)
{
	char name[SEGMENT_NAME_MAX];

	segment_name(SEGMENT_JOURNAL, FIRST + i, name);
	image_write(dirfd_of_files, name, bytes, len);
}

/* ---- What is left of it ---- */

static bool
has_stray_record(unsigned i, uint64_t end, const uint8_t salt[16])
{
	struct image_record r;

	for (uint64_t at = RECORD_BLOCK; at < end; at += 8)
		if (image_header_at(w.bad[i], end, at, salt, &r) &&
		    memcmp(w.bad[i] + at, w.files[i].bytes + at, RECORD_HEADER_BYTES) != 0)
			return true;
	return false;
}

static void
look_at_damage(void)
{
	uint64_t ends[FILES] = { 0 };
	bool has_salt[FILES];
	uint8_t salt[16];

	w.is_strange = w.must_be_damaged = false;
	for (unsigned i = 0; i < w.n_files; i++) {
		bool is_copy;

		has_salt[i] = image_salt(
		    w.bad[i], w.len[i], SEGMENT_JOURNAL, FIRST + i, salt, &ends[i], &is_copy);
		if (w.len[i] < ends[i])
			ends[i] = w.len[i];
		w.is_strange |= has_salt[i] && has_stray_record(i, ends[i], salt);
	}
	for (unsigned k = 0; k < w.n_outcomes; k++) {
		struct stored *s = &w.outcomes[k];

		s->is_alive = has_salt[s->file] && s->end <= ends[s->file] &&
		              memcmp(w.bad[s->file] + s->start, w.files[s->file].bytes + s->start,
		                  s->end - s->start) == 0;
		w.must_be_damaged |= !has_salt[s->file];
	}
}

/* ---- The model, and what is compared ---- */

struct merged {
	bool is_known, is_done;
	const struct stored *last;
	const struct journal_recipient *recipients[RECIPIENTS];
	unsigned n_outcomes;
};

static struct merged
merge(unsigned id)
{
	struct merged m = { .is_known = false };

	for (unsigned k = 0; k < w.n_outcomes; k++) {
		const struct stored *s = &w.outcomes[k];

		if (s->id != id || !s->is_alive)
			continue;
		m.is_known = true;
		m.is_done |= (s->outcome.flags & JOURNAL_DONE) != 0;
		m.last = s;
		m.n_outcomes++;
		for (size_t i = 0; i < s->outcome.n_recipients; i++)
			m.recipients[s->recipients[i].index] = &s->recipients[i];
	}
	return m;
}

static void
check_recipient(const struct journal_recipient *a, const struct journal_recipient *b)
{
	assert(b != NULL && a->state == b->state && a->attempts == b->attempts);
	assert(a->next_attempt_ms == b->next_attempt_ms && a->code == b->code);
	assert(span_equals(a->reply, b->reply) && span_equals(a->enhanced, b->enhanced));
	assert(span_equals(a->upstream, b->upstream));
}

static void
check_outcome(const struct journal_outcome *o, const struct merged *m, uint32_t also)
{
	const struct journal_outcome *last = &m->last->outcome;
	unsigned named = 0;

	assert(
	    o->id == last->id && o->flags == (last->flags | also) && o->time_ms == last->time_ms);
	assert(o->possible_duplicates == last->possible_duplicates && o->n_all == last->n_all);
	assert(o->moved.segment == last->moved.segment && o->moved.offset == last->moved.offset);
	if (m->is_done)
		return; /* nobody asks who got it */
	for (unsigned i = 0; i < RECIPIENTS; i++)
		named += m->recipients[i] != NULL;
	assert(o->n_recipients == named);
	for (size_t i = 0; i < o->n_recipients; i++) {
		assert(o->recipients[i].index < RECIPIENTS);
		check_recipient(&o->recipients[i], m->recipients[o->recipients[i].index]);
	}
}

/* As `relayctl show` looks for them, in steps. */
static unsigned
count_outcomes(uint64_t id)
{
	struct journal_outcome *o;
	struct journal_scan *scan;
	unsigned n = 0;
	int r = -EAGAIN;

	assert(journal_scan_open(dirfd_of_files, 0, false, NULL, NULL, &scan) == 0);
	while (r == -EAGAIN || r == 1) {
		r = journal_scan_next_of(scan, id, 3, &o);
		if (r == 1) {
			assert(o->id == id);
			journal_free(o);
			n++;
		}
	}
	assert(r == 0);
	journal_scan_close(scan);
	return n;
}

struct walk {
	uint64_t last;
	unsigned n;
};

static int
on_id(void *arg, uint64_t id, bool done)
{
	struct walk *walk = arg;
	unsigned i = 0;

	while (i < IDS && id_of(i) != id)
		i++;
	assert(i < IDS && id > walk->last && merge(i).is_known && merge(i).is_done == done);
	walk->last = id;
	walk->n++;
	return 0;
}

static void
check_index(struct journal_index *index, bool was_compacted)
{
	struct walk walk = { 0, 0 };
	unsigned known = 0;

	for (unsigned id = 0; id < IDS; id++) {
		const struct merged m = merge(id);
		struct journal_outcome *o;
		bool seen;

		/* what stands in a segment that is gone, and was not moved, is forgotten by compaction */
		if (was_compacted && m.is_known && id_of(id) >> 24 != SEGMENT_THERE)
			continue;
		known += m.is_known;
		assert(journal_index_is_done(index, id_of(id)) == m.is_done);
		assert(journal_index_get(index, id_of(id), &o) == 0 && (o != NULL) == m.is_known);
		if (o != NULL)
			check_outcome(
			    o, &m, was_compacted && m.is_done ? (uint32_t)JOURNAL_DONE : 0);
		journal_free(o);
		if (was_compacted)
			continue;
		assert(journal_index_was_seen(index, id_of(id), &seen) == 0 && !seen);
		assert(journal_index_was_seen(index, id_of(id), &seen) == 0 && seen);
		assert(journal_index_is_done(index, id_of(id)) == m.is_done);
	}
	if (!was_compacted) /* reads the files again: of one is enough */
		assert(count_outcomes(id_of(w.n_outcomes % IDS)) ==
		       merge(w.n_outcomes % IDS).n_outcomes);
	assert(journal_index_each(index, on_id, &walk) == 0);
	assert(was_compacted || walk.n == known);
}

/* ---- Compaction ---- */

static struct image compacted;

static int
write_compacted(void *arg, uint8_t type, const void *payload, size_t len)
{
	(void)arg;
	if (payload == NULL && type == RECORD_OUTCOME) { /* all is to be durable now */
		image_commit(&compacted);
		write_file(FILES, compacted.bytes, compacted.blocks * RECORD_BLOCK);
		return 0;
	}
	image_add(&compacted, type, 0, payload, len);
	return 0;
}

static void
try_compaction(void)
{
	struct journal_index *index;
	uint64_t bytes;

	image_begin(&compacted, SEGMENT_JOURNAL, FIRST + FILES, BLOCKS, 0x5f);
	assert(journal_compact(dirfd_of_files, FIRST + FILES, write_compacted, NULL, &bytes) == 0);
	assert(journal_index_open(dirfd_of_files, NULL, false, NULL, NULL, &index) == 0);
	check_index(index, true);
	journal_index_close(index);
}

/* ---- */

static void
on_damage(void *arg, const struct spool_damage *damage)
{
	*(bool *)arg |= damage->range == SPOOL_RANGE_CORRUPT;
}

static void
remove_files(void)
{
	char name[SEGMENT_NAME_MAX];

	for (unsigned i = 0; i <= FILES; i++) {
		segment_name(SEGMENT_JOURNAL, FIRST + i, name);
		unlinkat(dirfd_of_files, name, 0);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct journal_index *index;
	bool was_told = false;

	if (size == 0)
		return 0;
	if (dirfd_of_files < 0) {
		dirfd_of_files = image_directory();
		image_write(dirfd_of_files, "intake-1000.seg", (const uint8_t *)"", 0);
	}
	make_files(&data, &size);
	while (size >= 5) {
		const unsigned i = data[0] / 6 % w.n_files;

		w.len[i] = image_damage(w.bad[i], sizeof(w.bad[i]), w.len[i], &data, &size);
	}
	for (unsigned i = 0; i < w.n_files; i++)
		write_file(i, w.bad[i], w.len[i]);
	look_at_damage();
	assert(journal_index_open(dirfd_of_files, NULL, false, on_damage, &was_told, &index) == 0);
	assert(journal_index_is_damaged(index) == was_told);
	assert(was_told || !w.must_be_damaged || w.n_outcomes == 0);
	if (!w.is_strange) {
		check_index(index, false);
		if (!was_told)
			try_compaction();
	}
	journal_index_close(index);
	remove_files();
	return 0;
}
