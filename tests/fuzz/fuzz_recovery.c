/* fuzz_recovery.c - the replay of a whole spool (catalog.h) after damage of any kind in any of its files:
 *
 *   intake-1000.seg    messages; the last group failed, and is revoked
 *   delivery-1001.seg  a letter, and a copy of a message of 1000 that was moved
 *   intake-1002.seg    begins with the REVOKE, then messages
 *   journal-10.log     what was done, and what was tried
 *
 * Input: u8 options, then changes as image_damage() has them, where the operation's byte also chooses the
 * file. What must hold: exactly those messages are given, once, whose bytes did not change, and
 * for which no whole REVOKE and no whole DONE stands there; with the outcomes that are left; what is set
 * aside are the damaged bytes, and a second replay gives the same. */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/queue_id.h"
#include "spool/catalog.h"
#include "spool_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OLD, LETTERS, NEW, JOURNAL, FILES, BLOCKS = 8, MESSAGES = 18, OUTCOMES = 8 };

static const struct {
	enum segment_kind kind;
	uint32_t number;
} files[FILES] = {
	[OLD] = { SEGMENT_INTAKE, 1000 },
	[LETTERS] = { SEGMENT_DELIVERY, 1001 },
	[NEW] = { SEGMENT_INTAKE, 1002 },
	[JOURNAL] = { SEGMENT_JOURNAL, 10 },
};

/* One record, or an envelope with its body. */
struct piece {
	unsigned file;
	uint32_t start, end;
	bool is_intact;
};

struct message {
	struct piece place;
	uint64_t id;
	bool is_revoked;
};

struct stored {
	struct piece place;
	uint64_t id, time_ms;
	uint32_t flags;
};

static struct image good[FILES];
static struct message messages[MESSAGES];
static struct stored outcomes[OUTCOMES];
static unsigned n_messages, n_outcomes;
static struct piece the_revoke;

static uint8_t bad[FILES][BLOCKS * RECORD_BLOCK];
static size_t lens[FILES];
static bool is_strange;
static int dirfd_of_files = -1;

/* ---- The good spool ---- */

static void
add_message(unsigned file, uint64_t id, bool is_revoked)
{
	struct envelope_recipient recipient = { .address = SPAN("ann@example.org") };
	struct envelope e = { .id = id, .recipients = &recipient, .n_recipients = 1 };
	struct message *m = &messages[n_messages++];
	char body[700];
	void *encoded;
	size_t len;

	memset(body, 'a' + (int)n_messages, sizeof(body));
	assert(n_messages <= MESSAGES && envelope_encode(&e, &encoded, &len) == 0);
	*m = (struct message){ { .file = file }, id, is_revoked };
	m->place.start = image_add(&good[file], RECORD_ENVELOPE, 0, encoded, len);
	image_add(&good[file], RECORD_BODY, 0, body, n_messages % 4 * 200);
	m->place.end = good[file].at;
	free(encoded);
}

static void
add_outcome(uint64_t id, enum journal_state state)
{
	struct stored *s = &outcomes[n_outcomes++];
	struct journal_recipient r = { .state = state, .attempts = n_outcomes, .code = 250 };
	struct journal_outcome o = { .id = id,
		.time_ms = n_outcomes,
		.flags = journal_state_is_final(state) ? JOURNAL_DONE : 0u,
		.n_all = 1,
		.recipients = &r,
		.n_recipients = 1 };
	void *encoded;
	size_t len;

	assert(n_outcomes <= OUTCOMES && journal_encode(&o, &encoded, &len) == 0);
	*s = (struct stored){ { .file = JOURNAL }, id, o.time_ms, o.flags };
	s->place.start = image_add(&good[JOURNAL], RECORD_OUTCOME, 0, encoded, len);
	s->place.end = good[JOURNAL].at;
	free(encoded);
}

static void
add_revoke(uint64_t first, uint64_t last)
{
	struct record_revoke v = {
		.segment = files[OLD].number, .first_seq = first, .last_seq = last
	};
	uint8_t payload[RECORD_REVOKE_BYTES];

	record_put_revoke(&v, payload);
	the_revoke.file = NEW;
	the_revoke.start =
	    image_add(&good[NEW], RECORD_REVOKE, RECORD_CRITICAL, payload, sizeof(payload));
	the_revoke.end = good[NEW].at;
}

static void
make_good_spool(void)
{
	uint64_t revoked_from;

	for (unsigned f = 0; f < FILES; f++)
		image_begin(&good[f], files[f].kind, files[f].number, BLOCKS, (uint8_t)(0x31 + f));
	for (unsigned k = 0; k < 6; k++) {
		add_message(OLD, queue_id_make(1000, k + 1), false);
		if (k % 2 == 1)
			image_commit(&good[OLD]);
	}
	revoked_from = good[OLD].seq;
	add_message(OLD, queue_id_make(1000, 7), true);
	add_message(OLD, queue_id_make(1000, 8), true);
	add_revoke(revoked_from, good[OLD].seq - 1);
	image_commit(&good[OLD]);
	image_commit(&good[NEW]);
	for (unsigned k = 0; k < 4; k++) {
		add_message(NEW, queue_id_make(1002, k + 1), false);
		if (k % 2 == 1)
			image_commit(&good[NEW]);
	}
	add_message(LETTERS, queue_id_make(1000, 2), false); /* moved */
	add_message(LETTERS, queue_id_make(1001, 1), false);
	image_commit(&good[LETTERS]);
	add_outcome(queue_id_make(1000, 1), JOURNAL_DELIVERED);
	add_outcome(queue_id_make(1000, 3), JOURNAL_DEFERRED);
	image_commit(&good[JOURNAL]);
	add_outcome(queue_id_make(1000, 3), JOURNAL_DEFERRED);
	add_outcome(queue_id_make(1002, 2), JOURNAL_BOUNCED);
	add_outcome(queue_id_make(1000, 2), JOURNAL_DEFERRED);
	image_commit(&good[JOURNAL]);
	dirfd_of_files = image_directory();
	assert(segment_prepare_directory(dirfd_of_files) == 0);
}

/* ---- What is left of it ---- */

static bool
has_stray_record(unsigned f, uint64_t end, const uint8_t salt[16])
{
	struct image_record r;

	for (uint64_t at = RECORD_BLOCK; at < end; at += 8)
		if (image_header_at(bad[f], end, at, salt, &r) &&
		    memcmp(bad[f] + at, good[f].bytes + at, RECORD_HEADER_BYTES) != 0)
			return true;
	return false;
}

static uint64_t readable[FILES]; /* up to here; 0: without a salt nothing is */

static void
look_at(struct piece *p)
{
	p->is_intact =
	    p->end <= readable[p->file] &&
	    memcmp(bad[p->file] + p->start, good[p->file].bytes + p->start, p->end - p->start) == 0;
}

static void
look_at_damage(void)
{
	is_strange = false;
	for (unsigned f = 0; f < FILES; f++) {
		uint8_t salt[16];
		bool is_copy;

		readable[f] = 0;
		if (!image_salt(bad[f], lens[f], files[f].kind, files[f].number, salt, &readable[f],
		        &is_copy))
			continue;
		readable[f] = lens[f] < readable[f] ? lens[f] : readable[f];
		is_strange |= has_stray_record(f, readable[f], salt);
	}
	for (unsigned i = 0; i < n_messages; i++)
		look_at(&messages[i].place);
	for (unsigned i = 0; i < n_outcomes; i++)
		look_at(&outcomes[i].place);
	look_at(&the_revoke);
}

/* ---- What the replay has to give ---- */

static bool
is_done(uint64_t id)
{
	for (unsigned i = 0; i < n_outcomes; i++)
		if (outcomes[i].id == id && outcomes[i].place.is_intact &&
		    (outcomes[i].flags & JOURNAL_DONE) != 0)
			return true;
	return false;
}

static uint64_t
last_outcome_ms(uint64_t id)
{
	uint64_t last = 0;

	for (unsigned i = 0; i < n_outcomes; i++)
		if (outcomes[i].id == id && outcomes[i].place.is_intact)
			last = outcomes[i].time_ms;
	return last;
}

static bool
is_due(const struct message *m)
{
	return m->place.is_intact && !(m->is_revoked && the_revoke.is_intact) && !is_done(m->id);
}

struct replay {
	bool was_given[MESSAGES];
	unsigned n, n_corrupt;
	bool sweeps;
};

static int
on_message(void *arg, const struct catalog_message *given)
{
	struct replay *r = arg;
	unsigned i = 0;

	while (
	    i < n_messages && (messages[i].id != given->id ||
	                          files[messages[i].place.file].number != given->location.segment))
		i++;
	assert(i < n_messages && given->envelope->id == given->id && !r->was_given[i]);
	r->was_given[i] = true;
	r->n++;
	if (is_strange)
		return 0;
	assert(is_due(&messages[i]) && given->location.offset == messages[i].place.start);
	assert(
	    (given->outcome != NULL ? given->outcome->time_ms : 0) == last_outcome_ms(given->id));
	return 0;
}

/* What was set aside is what stands there. */
static void
check_quarantine(const struct spool_damage *d)
{
	char name[120];
	uint8_t copy[BLOCKS * RECORD_BLOCK];
	ssize_t n;
	int fd;

	for (unsigned f = 0; f < FILES; f++) {
		size_t there = lens[f] > d->offset ? lens[f] - d->offset : 0;

		if (files[f].kind != d->kind || files[f].number != d->number ||
		    d->length_bytes == 0)
			continue;
		there = there < d->length_bytes ? there : (size_t)d->length_bytes;
		snprintf(name, sizeof(name), "quarantine/%s.%llu-%llu", d->file,
		    (unsigned long long)d->offset, (unsigned long long)d->length_bytes);
		fd = openat(dirfd_of_files, name, O_RDONLY | O_CLOEXEC);
		n = read(fd, copy, sizeof(copy));
		assert(fd >= 0 && n == (ssize_t)there);
		assert(memcmp(copy, bad[f] + d->offset, there) == 0);
		close(fd);
	}
}

static void
on_damage(void *arg, const struct spool_damage *d)
{
	struct replay *r = arg;

	if (d->range != SPOOL_RANGE_CORRUPT)
		return;
	r->n_corrupt++;
	if (r->sweeps)
		check_quarantine(d);
}

static void
replay(bool sweeps)
{
	struct replay r = { .sweeps = sweeps };
	struct catalog_options options = { .dirfd = dirfd_of_files,
		.sweep = sweeps,
		.message = on_message,
		.damage = on_damage,
		.arg = &r };
	struct catalog_summary sum;

	assert(catalog_replay(&options, &sum) == 0 && sum.messages == r.n);
	assert(sum.corrupt_ranges == r.n_corrupt && (is_strange || !sum.newer));
	for (unsigned i = 0; i < n_messages && !is_strange; i++) {
		bool is_there = false;

		if (!is_due(&messages[i]))
			continue;
		/* one of the places where it stands is enough, and two are one too many */
		for (unsigned k = 0; k < n_messages; k++)
			if (messages[k].id == messages[i].id && r.was_given[k]) {
				assert(!is_there);
				is_there = true;
			}
		assert(is_there);
	}
}

static void
forget_files(void)
{
	char name[SEGMENT_NAME_MAX];

	for (unsigned f = 0; f < FILES; f++) {
		segment_name(files[f].kind, files[f].number, name);
		unlinkat(dirfd_of_files, name, 0);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char name[SEGMENT_NAME_MAX];
	bool sweeps;

	if (size == 0)
		return 0;
	if (dirfd_of_files < 0)
		make_good_spool();
	for (unsigned f = 0; f < FILES; f++) {
		memcpy(bad[f], good[f].bytes, sizeof(bad[f]));
		lens[f] = sizeof(bad[f]);
	}
	sweeps = data[0] % 4 == 1;
	for (data++, size--; size >= 5;) {
		const unsigned f = data[0] / 6 % FILES;

		lens[f] = image_damage(bad[f], sizeof(bad[f]), lens[f], &data, &size);
	}
	for (unsigned f = 0; f < FILES; f++) {
		segment_name(files[f].kind, files[f].number, name);
		image_write(dirfd_of_files, name, bad[f], lens[f]);
	}
	look_at_damage();
	replay(sweeps);
	if (sweeps) {
		replay(false);
		image_empty("quarantine");
	}
	forget_files();
	return 0;
}
