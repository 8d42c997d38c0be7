/* fuzz_spool.c - the reader over a file that was damaged in any way. An input is a list of changes to a good
 * file (image_damage()), so that the fuzzer gets past the checksums. One that starts with "RLYDSEG1"
 * is a file itself; one that starts with 'E' or 'J' is the payload of an envelope or an outcome.
 *
 * What must hold, by a second opinion on the bytes (spool_image.h):
 *   - what is given is a whole record of the file, both checksums computed anew, its seq growing;
 *   - each byte is in exactly one record, in one range that was told, or fills up a group's last block;
 *   - of a good file with damage: a message is given if and only if none of its bytes changed, once;
 *     damage before a later group is told as such, with the numbers of what it cost;
 *   - a record inside a body, made under another salt or taken from another file, is never given. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>

#include "base/queue_id.h"
#include "spool/envelope.h"
#include "spool/journal.h"
#include "spool/reader.h"
#include "spool_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { GROUPS = 4, PER_GROUP = 3, MESSAGES = GROUPS * PER_GROUP, BLOCKS = 12 };

#define NUMBER 1000u

static struct image good, other;
static uint8_t bad[BLOCKS * RECORD_BLOCK];
static uint32_t starts[MESSAGES], ends[MESSAGES];
static uint64_t seqs[MESSAGES];
static int dirfd_of_files = -1;

/* ---- The good file ---- */

static uint32_t
add_message(struct image *i, uint64_t id, const void *body, size_t len)
{
	struct envelope_recipient recipient = { .address = SPAN("ann@example.org") };
	struct envelope e = { .id = id, .recipients = &recipient, .n_recipients = 1 };
	void *encoded;
	size_t encoded_len;
	uint32_t at;

	assert(envelope_encode(&e, &encoded, &encoded_len) == 0);
	at = image_add(i, RECORD_ENVELOPE, 0, encoded, encoded_len);
	image_add(i, RECORD_BODY, 0, body, len);
	free(encoded);
	return at;
}

/* Bodies: text; and whole groups as another file, and one whose salt is all zeros, hold them. */
static void
make_body(unsigned k, uint8_t *body, size_t len)
{
	memset(body, 'b', len);
	if (k % 3 == 0)
		return;
	image_begin(&other, SEGMENT_INTAKE, NUMBER, 4, k % 3 == 1 ? 0 : 0x66);
	other.seq = k % 2 == 0 ? 1 : 2 * k + 3; /* as if it came next, or from the start */
	add_message(&other, 4096 + k, "forged\r\n", 8);
	add_message(&other, 8192 + k, "forged\r\n", 8);
	image_commit(&other);
	memcpy(body, other.bytes + RECORD_BLOCK, len < 600 ? len : 600);
}

static void
make_good_file(void)
{
	uint8_t body[3000];

	image_begin(&good, SEGMENT_INTAKE, NUMBER, BLOCKS, 0x77);
	for (unsigned k = 0; k < MESSAGES; k++) {
		make_body(k, body, k * 250);
		seqs[k] = good.seq;
		starts[k] = add_message(&good, k + 1, body, k * 250);
		ends[k] = good.at;
		if (k % PER_GROUP == PER_GROUP - 1)
			image_commit(&good);
	}
	dirfd_of_files = image_directory();
}

/* ---- One reading ---- */

enum owner { NOBODY, RECORD, RANGE }; /* RANGE + enum spool_range */

struct reading {
	const uint8_t *file;
	uint64_t len, end; /* of the file; of what is to be read */
	bool has_salt;
	uint8_t salt[16];
	uint8_t *owners; /* of each byte */
	uint64_t last_seq;
	bool was_given[MESSAGES], was_committed[MESSAGES];
	bool is_missing[1024]; /* seq numbers */
	bool is_newer;
};

/* Do these bytes belong to nobody? (Some 100 KiB for each input: byte by byte would be slow.) */
static bool
is_unowned(const struct reading *g, uint64_t start, uint64_t bytes)
{
	static const uint8_t nobody[IMAGE_MOST];

	assert(bytes <= sizeof(nobody));
	return memcmp(g->owners + start, nobody, bytes) == 0;
}

static void
own(struct reading *g, uint64_t start, uint64_t bytes, uint8_t owner)
{
	if (start >= g->len)
		return; /* where a file that was cut would have gone on */
	bytes = bytes < g->len - start ? bytes : g->len - start;
	assert(is_unowned(g, start, bytes));
	memset(g->owners + start, owner, bytes);
}

static void
take_damage(struct reading *g, const struct spool_damage *d)
{
	assert(d->error == 0 && d->first_missing <= d->last_missing);
	assert((d->first_missing == 0) == (d->last_missing == 0));
	own(g, d->offset, d->length_bytes, (uint8_t)(RANGE + d->range));
	for (uint64_t seq = d->first_missing; seq != 0 && seq <= d->last_missing; seq++)
		if (seq < ARRAY_LEN(g->is_missing) && d->range == SPOOL_RANGE_CORRUPT)
			g->is_missing[seq] = true;
}

static void
take_record(struct reading *g, enum spool_event event, const struct spool_entry *entry)
{
	const uint64_t at = entry->location.offset;
	struct image_record r, body;

	assert(g->has_salt && at % 8 == 0 && entry->location.segment == NUMBER);
	assert(image_record_at(g->file, g->end, at, g->salt, &r));
	assert(r.seq == entry->seq && r.seq > g->last_seq);
	assert(entry->payload.len == r.payload_bytes &&
	       memcmp(entry->payload.data, g->file + at + 32, r.payload_bytes) == 0);
	own(g, at, r.bytes, RECORD);
	g->last_seq = entry->last_seq;
	if (event != SPOOL_MESSAGE || entry->body_offset == 0)
		return;
	assert(r.type == RECORD_ENVELOPE);
	assert(entry->body_offset == at + r.bytes + 32);
	assert(image_record_at(g->file, g->end, at + r.bytes, g->salt, &body));
	assert(body.type == RECORD_BODY && body.seq == r.seq + 1 && entry->last_seq == body.seq);
	assert(body.payload_bytes == entry->body_bytes);
	own(g, at + r.bytes, body.bytes, RECORD);
}

static void
take_message_of_ours(struct reading *g, const struct spool_entry *entry)
{
	const uint64_t k = entry->id - 1;

	assert(k < MESSAGES && !g->was_given[k]);
	g->was_given[k] = true;
	g->was_committed[k] = entry->committed;
	assert(entry->location.offset + (ends[k] - starts[k]) <= g->end);
	assert(memcmp(good.bytes + starts[k], g->file + entry->location.offset,
	           ends[k] - starts[k]) == 0);
}

/* Records that are not told of, and what fills up the block behind a COMMIT. */
static void
check_account(const struct reading *g)
{
	struct image_record r;

	for (uint64_t at = RECORD_BLOCK; g->has_salt && at < g->end;) {
		const uint8_t *unowned = memchr(g->owners + at, NOBODY, g->end - at);
		uint64_t padding;

		if (unowned == NULL)
			return;
		at = (uint64_t)(unowned - g->owners);
		assert(at % 8 == 0 && image_record_at(g->file, g->end, at, g->salt, &r));
		assert(r.type == RECORD_COMMIT || r.type == RECORD_SNAPSHOT ||
		       r.type == RECORD_CLEAN ||
		       (r.type > RECORD_CLEAN && (r.flags & RECORD_CRITICAL) == 0));
		assert(is_unowned(g, at, r.bytes));
		at += r.bytes;
		padding =
		    r.type == RECORD_COMMIT ? (RECORD_BLOCK - at % RECORD_BLOCK) % RECORD_BLOCK : 0;
		padding = padding < g->end - at ? padding : g->end - at;
		assert(is_unowned(g, at, padding));
		at += padding;
	}
}

/* Whole headers where none was made (a block was copied): they have the right to confuse. */
static bool
has_stray_record(const struct reading *g)
{
	struct image_record r;

	for (uint64_t at = RECORD_BLOCK; at < g->end; at += 8)
		if (image_header_at(g->file, g->end, at, g->salt, &r) &&
		    memcmp(g->file + at, good.bytes + at, 32) != 0)
			return true;
	return false;
}

static void
check_ours(const struct reading *g)
{
	const bool is_plain = g->has_salt && !has_stray_record(g);
	unsigned last_group = 0;

	for (unsigned k = 0; k < MESSAGES; k++)
		if (g->was_committed[k])
			last_group = k / PER_GROUP;
	for (unsigned k = 0; is_plain && k < MESSAGES; k++) {
		const bool is_intact =
		    ends[k] <= g->end &&
		    memcmp(good.bytes + starts[k], g->file + starts[k], ends[k] - starts[k]) == 0;

		assert(g->was_given[k] == is_intact);
		if (is_intact || k / PER_GROUP >= last_group)
			continue;
		for (uint32_t at = starts[k]; at < ends[k]; at++)
			assert(g->owners[at] == RANGE + SPOOL_RANGE_CORRUPT);
		assert(g->is_missing[seqs[k]] && g->is_missing[seqs[k] + 1]);
	}
}

static void
read_all(const uint8_t *file, uint64_t len, uint64_t limit, bool is_ours)
{
	struct reading g = { .file = file, .len = len, .owners = calloc(len + 1, 1) };
	struct spool_entry entry;
	struct spool_reader *r;
	enum spool_event event;
	uint64_t data_end = 0, steps = 0;
	bool is_copy;

	g.has_salt = image_salt(file, len, SEGMENT_INTAKE, NUMBER, g.salt, &data_end, &is_copy);
	g.end = data_end < len ? data_end : len;
	g.end = limit < g.end ? limit : g.end;
	assert(spool_reader_open(dirfd_of_files, SEGMENT_INTAKE, NUMBER, limit, false, &r) == 0);
	assert(g.has_salt == (spool_reader_header(r) != NULL));
	do {
		assert(spool_reader_next(r, &event, &entry) == 0);
		assert(++steps < 100000);
		if (event == SPOOL_DAMAGE)
			take_damage(&g, &entry.damage);
		else if (event == SPOOL_UNKNOWN && entry.location.offset == 0)
			g.is_newer = true;
		else if (event != SPOOL_END)
			take_record(&g, event, &entry);
		if (event == SPOOL_MESSAGE && is_ours)
			take_message_of_ours(&g, &entry);
		assert(!is_ours || event == SPOOL_MESSAGE || event == SPOOL_DAMAGE ||
		       event == SPOOL_END || g.is_newer);
	} while (event != SPOOL_END);
	if (is_copy && g.has_salt)
		assert(g.owners[0] == RANGE + SPOOL_RANGE_CORRUPT);
	for (uint64_t at = 0; !g.has_salt && !g.is_newer && at < len; at++)
		assert(g.owners[at] == RANGE + SPOOL_RANGE_CORRUPT);
	check_account(&g);
	if (is_ours)
		check_ours(&g);
	spool_reader_close(r);
	free(g.owners);
}

static void
try_file(const uint8_t *bytes, size_t len, bool is_ours)
{
	const char *name = "intake-1000.seg";

	image_write(dirfd_of_files, name, bytes, len);
	read_all(bytes, len, SPOOL_READ_TO_END, is_ours);
	read_all(bytes, len, 5 * RECORD_BLOCK, is_ours);
	unlinkat(dirfd_of_files, name, 0);
}

/* ---- Payloads ---- */

static void
try_envelope(struct span payload)
{
	struct envelope *e, *again;
	uint32_t flags;
	uint64_t id;
	void *encoded;
	size_t len;

	if (envelope_decode(payload, &e) < 0)
		return;
	assert(envelope_peek(payload, &id, &flags) == 0 && id == e->id && flags == e->flags);
	if (envelope_encode(e, &encoded, &len) == 0) {
		assert(envelope_decode((struct span){ encoded, len }, &again) == 0);
		assert(again->id == e->id && again->n_recipients == e->n_recipients);
		assert(span_equals(again->sender, e->sender));
		for (size_t i = 0; i < e->n_recipients; i++)
			assert(
			    span_equals(again->recipients[i].address, e->recipients[i].address) &&
			    span_equals(again->recipients[i].orcpt, e->recipients[i].orcpt) &&
			    again->recipients[i].notify == e->recipients[i].notify);
		envelope_free(again);
		free(encoded);
	}
	envelope_free(e);
}

static void
try_outcome(struct span payload)
{
	struct journal_outcome *o, *again;
	bool is_complete;
	uint32_t flags;
	uint64_t id;
	void *encoded;
	size_t len;

	if (journal_decode(payload, &o) < 0)
		return;
	assert(journal_peek(payload, &id, &flags, &is_complete) == 0);
	assert(id == o->id && flags == o->flags);
	assert(journal_encode(o, &encoded, &len) == 0);
	assert(journal_decode((struct span){ encoded, len }, &again) == 0);
	assert(again->id == o->id && again->flags == o->flags && again->time_ms == o->time_ms);
	assert(again->n_recipients == o->n_recipients && again->n_all == o->n_all);
	for (size_t i = 0; i < o->n_recipients; i++) {
		const struct journal_recipient *a = &o->recipients[i], *b = &again->recipients[i];

		assert(a->index == b->index && a->state == b->state && a->code == b->code);
		assert(a->attempts == b->attempts && a->next_attempt_ms == b->next_attempt_ms);
		assert(b->reply.len <= JOURNAL_REPLY_MAX);
		assert(a->reply.len > JOURNAL_REPLY_MAX || span_equals(a->reply, b->reply));
		assert(span_equals(a->upstream, b->upstream));
	}
	journal_free(again);
	free(encoded);
	journal_free(o);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t len = sizeof(bad);

	if (dirfd_of_files < 0)
		make_good_file();
	if (size >= 8 && memcmp(data, "RLYDSEG1", 8) == 0) {
		try_file(data, size, false);
	} else if (size > 1 && data[0] == 'E') {
		try_envelope((struct span){ (const char *)data + 1, size - 1 });
	} else if (size > 1 && data[0] == 'J') {
		try_outcome((struct span){ (const char *)data + 1, size - 1 });
	} else {
		memcpy(bad, good.bytes, sizeof(bad));
		while (size >= 5)
			len = image_damage(bad, sizeof(bad), len, &data, &size);
		try_file(bad, len, true);
	}
	return 0;
}
