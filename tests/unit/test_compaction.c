/* test_compaction.c - delivery itself, without a network, on a disk of os_disk.h full of stragglers: the disk
 * shrinks to its bound; wherever the power is cut meanwhile, or delivery killed, each of them is there,
 * once, with all that the journal said of it; and whoever goes on from there ends well. */
#include <stdatomic.h>

#include "delivery_fixture.h"
#include "delivery/compaction.h"
#include "delivery/outcome.h"
#include "figures.h"
#include "spool/catalog_parts.h"

enum {
	BIG = 72,   /* messages */
	EVERY = 8,  /* one of so many stays */
	SMALL = 90, /* and all of these: several batches */
	MESSAGES = BIG + SMALL,
	STRAGGLERS = BIG / EVERY + SMALL,
	LETTERS = 1, /* of them */
	ATTEMPTS = 3,
	KEPT_MAX = 24, /* disks from which delivery goes on, */
	KEPT_MOST = 8, /* of which so many are as good as any */
	SEGMENTS = 8,  /* relayd-spool(5): besides twice the bytes of what waits */
	TURNS_BROKEN = 20,
};

#define SEGMENT_BYTES SEGMENT_BYTES_LEAST
#define BIG_BYTES 4000
#define SMALL_BYTES 700
#define RETRY_MS (24u * 3600000u)
#define TURN_MS 100 /* of the clock that is set by hand: what rests, rests for a few turns */
#define TURN_US 1000
#define TURNS_MOST 20000 /* half an hour of that clock: retries are due in four */

/* What makes a straggler special. */
enum kind { PLAIN, HELD, MIXED, NEVER_TRIED, LARGE, LETTER, KINDS };

static struct scenario {
	uint64_t id[MESSAGES];
	struct spool_location at[MESSAGES];
	unsigned moments, every; /* a look at every n-th */
	unsigned unknown;        /* disks with a copy of which the journal does not know */
	struct os_disk *kept[KEPT_MAX];
	unsigned n_kept;
	bool looks_later;
	char doing[64];
	unsigned restated; /* times that delivery had to tell the journal what it found */
} s;

/* Filled once; what a test begins with is a copy. */
static struct {
	struct os_disk *disk;
	struct scenario s;
} full;

static unsigned long kills;

/* Checks run in the writers' threads: cmocka's assertions have no way out of there. */
#define must(condition)                                                                            \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);            \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static bool
is_straggler(int i)
{
	return i >= BIG || i % EVERY == 3;
}

static enum kind
kind_of(int i)
{
	return i < BIG ? (enum kind)(i / EVERY % KINDS) : PLAIN;
}

static size_t
bytes_of(int i)
{
	if (i >= BIG)
		return SMALL_BYTES;
	return is_straggler(i) && kind_of(i) == LARGE ? LARGE_INLINE_MAX + 1 : BIG_BYTES;
}

/* --- a spool of stragglers --------------------------------------------------------------------- */

static void
open_writer(struct fixture *f, enum segment_kind kind)
{
	struct spool_writer_options options = { .dirfd = f->dirfd,
		.kind = kind,
		.segment_bytes = SEGMENT_BYTES,
		.wake_fd = -1,
		.report = fixture_on_report,
		.report_arg = f };

	assert_int_equal(spool_writer_open(&options, &f->writer), 0);
}

static void
send_message(struct fixture *f, int i)
{
	static char body[BIG_BYTES];

	memset(body, 'a' + i % 26, bytes_of(i));
	assert_int_equal(fixture_send(f, body, bytes_of(i), &s.id[i], &s.at[i]), 0);
}

static void
send_large(struct fixture *f, int i)
{
	struct sent *sent = calloc(1, sizeof(*sent));
	static char body[LARGE_INLINE_MAX + 1];
	struct envelope e;
	struct large *l;

	memset(body, 'a' + i % 26, sizeof(body));
	s.id[i] = sent->id = spool_writer_next_id(f->writer);
	assert_int_equal(large_create(f->dirfd, sent->id, &l), 0);
	assert_int_equal(large_append(l, (struct span){ body, sizeof(body) }), 0);
	e = fixture_envelope(sent->id, large_bytes(l));
	e.flags |= ENVELOPE_LARGE;
	e.body_checksum = large_checksum(l);
	assert_int_equal(envelope_encode(&e, &sent->envelope, &sent->envelope_len), 0);
	spool_item_message(
	    &sent->item, (struct span){ sent->envelope, sent->envelope_len }, NULL, 0, l);
	sent->item.done = fixture_on_done;
	sent->item.arg = sent;
	spool_writer_submit(f->writer, &sent->item);
	fixture_await(f, sent);
	assert_int_equal(sent->item.result, 0);
	s.at[i] = sent->item.location;
	fixture_free(sent);
}

/* The segment of its ID may have been full when it was written. */
static void
say_where(struct journal_outcome *o, struct spool_location at)
{
	if (at.segment == (uint32_t)(o->id >> 24))
		return;
	o->flags |= JOURNAL_MOVED;
	o->moved = at;
}

static void
say(struct fixture *f, int i)
{
	struct journal_recipient r[] = {
		{ .index = 0, .state = JOURNAL_DEFERRED, .attempts = ATTEMPTS },
		{ .index = 1, .state = JOURNAL_DEFERRED, .attempts = ATTEMPTS },
	};
	struct journal_outcome o = {
		.id = s.id[i], .n_all = 2, .recipients = r, .n_recipients = 2
	};

	r[0].next_attempt_ms = r[1].next_attempt_ms = os_now_ms() + RETRY_MS;
	if (!is_straggler(i)) {
		r[0].state = r[1].state = JOURNAL_DELIVERED;
		o.flags = JOURNAL_DONE;
	} else if (kind_of(i) == NEVER_TRIED) {
		r[0].state = r[1].state = JOURNAL_QUEUED; /* held, so that nobody sends it */
		r[0].attempts = r[1].attempts = 0;
		o.flags = JOURNAL_HOLD;
	} else if (kind_of(i) == HELD) {
		o.flags = JOURNAL_HOLD | JOURNAL_WARNED;
	} else if (kind_of(i) == MIXED) {
		r[1].state = JOURNAL_DELIVERED;
	}
	say_where(&o, s.at[i]);
	assert_int_equal(fixture_outcome(f, &o), 0);
}

static void
fill(struct fixture *f)
{
	open_writer(f, SEGMENT_INTAKE);
	for (int i = 0; i < MESSAGES; i++)
		if (is_straggler(i) && kind_of(i) == LARGE)
			send_large(f, i);
		else if (!is_straggler(i) || kind_of(i) != LETTER)
			send_message(f, i);
	fixture_stop(f);
	open_writer(f, SEGMENT_DELIVERY);
	for (int i = 0; i < MESSAGES; i++)
		if (is_straggler(i) && kind_of(i) == LETTER)
			send_message(f, i);
	fixture_stop(f);
	open_writer(f, SEGMENT_JOURNAL);
	for (int i = 0; i < MESSAGES; i++)
		say(f, i);
	fixture_stop(f);
}

/* --- what has to hold at any time --------------------------------------------------------------- */

/* Calls `each` for every segment of messages. */
static void
each_segment(int dirfd, void (*each)(void *arg, uint32_t number), void *arg)
{
	static const enum segment_name_kind kinds[] = { SEGMENT_NAME_INTAKE,
		SEGMENT_NAME_DELIVERY };

	for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
		uint32_t *numbers;
		size_t n;

		must(segment_list(dirfd, kinds[k], &numbers, &n) == 0);
		for (size_t i = 0; i < n; i++)
			each(arg, numbers[i]);
		free(numbers);
	}
}

static uint32_t
last_place(uint64_t id, const struct journal_outcome *o)
{
	uint32_t first = (uint32_t)(id >> 24);

	return o->moved.offset != 0 && o->moved.segment > first ? o->moved.segment : first;
}

struct copies {
	int dirfd;
	struct spool_store *store;
	struct journal_index *index;
	bool are_known;
};

static void
look_at_copies(void *arg, uint32_t number)
{
	struct copies *c = arg;
	struct spool_reader *reader;
	struct spool_entry entry;
	enum spool_event event;

	must(spool_reader_open(c->dirfd, segment_kind_of(number), number, SPOOL_READ_TO_END, false,
	         &reader) == 0);
	do {
		struct journal_outcome *o;

		must(spool_reader_next(reader, &event, &entry) == 0);
		if (event != SPOOL_MESSAGE || spool_store_is_revoked(c->store, number, entry.seq))
			continue;
		must(journal_index_get(c->index, entry.id, &o) == 0 && o != NULL);
		c->are_known = c->are_known && number <= last_place(entry.id, o);
		journal_free(o);
	} while (event != SPOOL_END);
	spool_reader_close(reader);
}

struct reach {
	uint32_t first, last;
	bool is_remembered;
};

static void
look_at_reach(void *arg, uint32_t number)
{
	struct reach *r = arg;

	r->is_remembered = r->is_remembered || (number >= r->first && number <= r->last);
}

static void
check_outcome(const struct journal_outcome *o, int i)
{
	must(o != NULL && (o->flags & JOURNAL_DONE) == 0);
	must(((o->flags & JOURNAL_HOLD) != 0) == (kind_of(i) == HELD || kind_of(i) == NEVER_TRIED));
	must(((o->flags & JOURNAL_WARNED) != 0) == (kind_of(i) == HELD));
	must(o->n_recipients == 2);
	for (size_t k = 0; k < 2; k++) {
		const struct journal_recipient *r = &o->recipients[k];

		must(r->attempts == (kind_of(i) == NEVER_TRIED ? 0 : ATTEMPTS));
		must((r->state == JOURNAL_DELIVERED) == (kind_of(i) == MIXED && r->index == 1));
	}
}

static void
check_straggler(int dirfd, struct journal_index *index, int i, struct spool_location at)
{
	struct fixture f = { .dirfd = dirfd };
	struct journal_outcome *o;
	struct reach reach;
	size_t len;
	char *body;

	must(is_straggler(i));
	must(journal_index_get(index, s.id[i], &o) == 0);
	check_outcome(o, i);
	/* If the journals were rewritten now, this would be kept. */
	reach = (struct reach){ (uint32_t)(s.id[i] >> 24), last_place(s.id[i], o), false };
	each_segment(dirfd, look_at_reach, &reach);
	must(reach.is_remembered);
	journal_free(o);
	body = fixture_body(&f, at, &len);
	must(len == bytes_of(i) && body[0] == 'a' + i % 26 && body[len - 1] == body[0]);
	free(body);
}

static int
index_of(uint64_t id)
{
	for (int i = 0; i < MESSAGES; i++)
		if (s.id[i] == id)
			return i;
	return -1;
}

/* Each straggler is listed once, and nothing else (none, if `gone`). False: there are copies beyond what
 * the journal says of their messages; so it would not be kept for as long as they are there. */
static bool
check_spool(int dirfd, bool gone)
{
	static struct listed l;
	struct fixture f = { .dirfd = dirfd };
	struct copies copies = { .dirfd = dirfd, .are_known = true };
	bool is_listed[MESSAGES] = { false };

	must(spool_store_open(dirfd, true, &copies.store) == 0);
	fixture_list(&f, &l, copies.store, NULL, false);
	for (size_t i = 0; i < l.n_damage && l.sum.corrupt_ranges > 0; i++)
		fprintf(stderr, "%s: range %d, %llu bytes at %llu\n", l.damage[i].file,
		    (int)l.damage[i].range, (unsigned long long)l.damage[i].length_bytes,
		    (unsigned long long)l.damage[i].offset);
	must(l.sum.corrupt_ranges == 0);
	must(l.sum.uncommitted <= LETTERS); /* a copy of these cannot be told from a new one */
	must(l.n == (gone ? 0 : STRAGGLERS));
	must(journal_index_open(dirfd, NULL, true, NULL, NULL, &copies.index) == 0);
	for (size_t k = 0; k < l.n; k++) {
		int i = index_of(l.ids[k]);

		must(i >= 0 && !is_listed[i]);
		is_listed[i] = true;
		check_straggler(dirfd, copies.index, i, l.at[k]);
	}
	each_segment(dirfd, look_at_copies, &copies);
	journal_index_close(copies.index);
	spool_store_close(copies.store);
	return copies.are_known;
}

static uint64_t
disk_bytes(int dirfd)
{
	static const enum segment_name_kind kinds[] = { SEGMENT_NAME_INTAKE, SEGMENT_NAME_DELIVERY,
		SEGMENT_NAME_FREE, SEGMENT_NAME_PREP };
	uint64_t bytes = 0;

	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		uint32_t *numbers;
		size_t n;

		assert_int_equal(segment_list(dirfd, kinds[i], &numbers, &n), 0);
		bytes += n * SEGMENT_BYTES;
		free(numbers);
	}
	return bytes;
}

/* --- cuts and kills ----------------------------------------------------------------------------- */

/* Takes the disk: looks at it, and may keep it for later. */
static void
look_at(struct os_disk *d)
{
	bool is_known = check_spool(os_disk_root(d), false);

	s.unknown += !is_known;
	if (is_known ? s.moments % 29 == 0 && s.n_kept < KEPT_MOST : s.n_kept < KEPT_MAX)
		s.kept[s.n_kept++] = d;
	else
		os_disk_free(d);
}

static void
on_moment(void *arg, struct os_disk *d, enum os_moment moment)
{
	unsigned n = ++s.moments;

	(void)arg;
	if (n % s.every != 0)
		return;
	if (moment == OS_MOMENT_CHANGE) {
		look_at(os_disk_kill(d));
		kills++;
		return;
	}
	for (int kind = 0; kind < OS_LUCK_CHANCE; kind++)
		look_at(os_disk_cut(d, (struct os_luck){ (enum os_luck_kind)kind, 0 }));
	look_at(os_disk_cut(d, (struct os_luck){ OS_LUCK_CHANCE, n * 7919 }));
}

/* While somebody goes on after a cut: cuts again. */
static void
on_later_moment(void *arg, struct os_disk *d, enum os_moment moment)
{
	struct os_disk *found;

	(void)arg;
	if (moment == OS_MOMENT_AFTER_SYNC || ++s.moments % s.every != 0)
		return;
	found = moment == OS_MOMENT_CHANGE
	            ? os_disk_kill(d)
	            : os_disk_cut(d, (struct os_luck){ OS_LUCK_CHANCE, s.moments });
	(void)check_spool(os_disk_root(found), false);
	os_disk_free(found);
}

/* --- delivery ----------------------------------------------------------------------------------- */

/* All of the past, a few messages at a time: nothing is done about it before everything is read. */
static void
read_past(struct delivery *d)
{
	do {
		assert_true(catalog_step(d->catalog, 7) >= 0);
		mail_pump(d);
		compaction_pump(d, os_boot_ms());
		assert_int_equal(queue_count(d->queue, QUEUE_ACTIVE), 0);
		assert_false(mail_is_freeing(d));
	} while (!catalog_is_read(d->catalog));
}

static void
run_delivery(struct running *x, int dirfd)
{
	assert_int_equal(running_begin(x, dirfd, SEGMENT_BYTES), 0);
	read_past(x->d);
}

/* It has done all that it can. */
static bool
is_calm(const struct delivery *d)
{
	struct mail_segment sum;

	mail_segments_sum(d, &sum);
	return sum.file_bytes <= 2 * sum.live_bytes + COMPACTION_SLACK * SEGMENT_BYTES &&
	       !compaction_is_restating(d) && queue_count(d->queue, QUEUE_ACTIVE) == 0 &&
	       !outcomes_are_failed(d) && !spool_writer_is_failed(d->letters) &&
	       !spool_writer_is_failed(d->journal);
}

/* And the disk is as small as it has to be. Files that could not be made while it failed stay until the next
 * start (segment.h), and are not counted. */
static bool
is_settled(const struct delivery *d)
{
	struct mail_segment sum;
	uint32_t *numbers = NULL;
	size_t left = 0;

	mail_segments_sum(d, &sum);
	assert_int_equal(segment_list(d->dirfd, SEGMENT_NAME_PREP, &numbers, &left), 0);
	free(numbers);
	return is_calm(d) &&
	       disk_bytes(d->dirfd) <= 2 * sum.live_bytes + (SEGMENTS + left) * SEGMENT_BYTES;
}

static bool
is_empty(const struct delivery *d)
{
	return queue_count_all(d->queue) == 0;
}

/* The threads of the writers have a moment of real time, everybody else has far more of the other one. */
static void
turn(struct running *x)
{
	struct timeval tick = { .tv_usec = TURN_US };

	event_base_loopexit(loop_base(x->loop), &tick);
	event_base_loop(loop_base(x->loop), 0);
	os_disk_wait(TURN_MS);
	delivery_kick(x->d);
}

/* Lets it work until `holds`, or fails. */
static void
turn_until(struct running *x, bool (*holds)(const struct delivery *d))
{
	struct mail_segment sum;

	for (unsigned turns = 0; !holds(x->d); turn(x)) {
		if (turns++ < TURNS_MOST)
			continue;
		mail_segments_sum(x->d, &sum);
		fail_msg("it does not get there: %s: %zu ACTIVE of %zu, %llu bytes live in %llu, "
		         "%llu on "
		         "the disk%s%s",
		    s.doing, queue_count(x->d->queue, QUEUE_ACTIVE), queue_count_all(x->d->queue),
		    (unsigned long long)sum.live_bytes, (unsigned long long)sum.file_bytes,
		    (unsigned long long)disk_bytes(x->d->dirfd),
		    compaction_is_restating(x->d) ? ", the journal is not told yet" : "",
		    outcomes_are_failed(x->d) ? ", outcomes cannot be written" : "");
	}
}

/* All, or all but those in `stay`. */
static void
remove_all(struct delivery *d, bool (*stay)(uint64_t id))
{
	struct queue_entry *e;
	uint32_t cursor = 0;

	while ((e = queue_each(d->queue, &cursor)) != NULL) {
		struct outcome *o;
		struct mail *m;

		if (stay != NULL && stay(e->id))
			continue;
		assert_int_equal(mail_load(d, e, &m), 0);
		queue_claim(d->queue, e);
		o = outcome_new(d, m);
		o->is_quiet = true;
		for (size_t i = 0; i < m->envelope->n_recipients; i++)
			if (!journal_state_is_final(m->recipients[i].state))
				outcome_set(o, i, JOURNAL_REMOVED, NULL, "");
		outcome_commit(o);
	}
}

/* What stands on the disk settles, then goes; and nothing comes back. Frees it. */
static void
go_on(struct os_disk *d)
{
	int dirfd = os_disk_root(d);
	struct running x;

	if (s.looks_later)
		os_disk_watch(d, on_later_moment, NULL);
	run_delivery(&x, dirfd);
	assert_int_equal(queue_count_all(x.d->queue), STRAGGLERS);
	s.restated += compaction_is_restating(x.d);
	turn_until(&x, is_settled);
	running_end(&x);
	os_disk_watch(d, NULL, NULL);
	assert_true(check_spool(dirfd, false));
	run_delivery(&x, dirfd);
	remove_all(x.d, NULL);
	turn_until(&x, is_empty);
	running_end(&x);
	assert_true(check_spool(dirfd, true));
	assert_int_equal(os_disk_open_files(d), 0);
	assert_null(os_disk_violation(d));
	os_disk_free(d);
}

/* --- the tests ----------------------------------------------------------------------------------- */

static int
fill_disk(void **state)
{
	struct fixture f;

	(void)state;
	full.disk = os_disk_new();
	os_disk_heal(full.disk);
	f = (struct fixture){ .dirfd = os_disk_root(full.disk) };
	assert_int_equal(segment_prepare_directory(f.dirfd), 0);
	s.every = fault_is_long() ? 1 : 5;
	fill(&f);
	assert_true(check_spool(f.dirfd, false));
	full.s = s;
	return 0;
}

static int
free_disk(void **state)
{
	(void)state;
	os_disk_free(full.disk);
	return 0;
}

static struct os_disk *
begin(void)
{
	s = full.s;
	return os_disk_kill(full.disk);
}

static void
a_cut_or_a_kill_while_stragglers_are_moved(void **state)
{
	struct os_disk *d = begin();
	uint64_t before = disk_bytes(os_disk_root(d));
	struct running x;

	(void)state;
	os_disk_watch(d, on_moment, NULL);
	run_delivery(&x, os_disk_root(d));
	turn_until(&x, is_settled);
	running_end(&x);
	os_disk_watch(d, NULL, NULL);
	assert_true(disk_bytes(os_disk_root(d)) < before);
	assert_true(check_spool(os_disk_root(d), false));
	s.looks_later = true;
	assert_true(s.unknown > 0); /* cuts between a copy and the journal's word for it */
	for (unsigned i = 0; i < s.n_kept; i++)
		go_on(s.kept[i]);
	assert_true(s.restated > 0);
	go_on(d);
}

static void
run_with_failure(enum os_call call, unsigned nth, bool sticky, bool *happened)
{
	struct os_disk *d = begin();
	struct running x;

	snprintf(s.doing, sizeof(s.doing), "%s %u%s", os_call_name(call), nth,
	    sticky ? " and all after it" : "");
	run_delivery(&x, os_disk_root(d));
	os_disk_fail_luck(d, (struct os_luck){ OS_LUCK_CHANCE, nth });
	os_disk_fail(d, call, nth, EIO, sticky);
	if (sticky) {
		for (int turns = 0; turns < TURNS_BROKEN; turns++)
			turn(&x);
		*happened = os_disk_has_failed(d);
		os_disk_heal(d);
	}
	turn_until(&x, is_calm);
	*happened = *happened || os_disk_has_failed(d);
	os_disk_heal(d);
	running_end(&x);
	assert_true(check_spool(os_disk_root(d), false));
	go_on(d);
}

/* The nth call of each kind fails, once or from then on until the disk is mended: copies are revoked, nobody
 * knows whether they are there, nothing can be read, freed or told. */
static void
a_disk_that_fails_while_stragglers_are_moved(void **state)
{
	static const enum os_call calls[] = { OS_CALL_WRITE, OS_CALL_SHORT_WRITE, OS_CALL_FDATASYNC,
		OS_CALL_FSYNC, OS_CALL_SYNC_DIRECTORY, OS_CALL_READ, OS_CALL_SHORT_READ,
		OS_CALL_OPEN, OS_CALL_ALLOCATE, OS_CALL_RENAME, OS_CALL_UNLINK, OS_CALL_LIST,
		OS_CALL_MEMORY };
	unsigned least = fault_is_long() ? 1 : 2, most = fault_is_long() ? 24 : 2;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(calls); i++)
		for (int sticky = 0; sticky < 2; sticky++) {
			bool happened = true;

			for (unsigned n = least; n <= most && happened; n++) {
				happened = false;
				run_with_failure(calls[i], n, sticky, &happened);
			}
		}
}

/* One byte of a straggler has changed: it stays, and so does its segment. */
static void
what_is_damaged_is_not_moved(void **state)
{
	struct os_disk *d = begin();
	struct fixture f = { .dirfd = os_disk_root(d) };
	char name[SEGMENT_NAME_MAX], byte;
	static struct listed l;
	struct running x;

	(void)state;
	run_delivery(&x, f.dirfd); /* it was read whole, and spoils afterwards */
	segment_name(SEGMENT_INTAKE, s.at[3].segment, name);
	assert_int_equal(os_disk_peek(d, name, s.at[3].offset + 2000, &byte, 1), 1);
	byte ^= 1;
	os_disk_poke(d, name, s.at[3].offset + 2000, &byte, 1);
	turn_until(&x, is_calm);
	assert_int_equal(queue_find(x.d->queue, s.id[3])->segment, s.at[3].segment);
	assert_int_equal(queue_find(x.d->queue, s.id[3])->offset, s.at[3].offset);
	assert_false(mail_segment_stays(x.d, s.at[3].segment)); /* it is known by now */
	assert_int_equal(queue_count_all(x.d->queue), STRAGGLERS);
	running_end(&x);
	fixture_list(&f, &l, NULL, NULL, false);
	assert_int_equal(l.n, STRAGGLERS - 1);
	assert_false(fixture_lists(&l, s.id[3]));
	os_disk_free(d);
}

static void
keep(void *arg, uint32_t number)
{
	spool_store_keep(((struct delivery *)arg)->store, number);
}

/* What stays whatever is done is not in the bound: there is nothing to do, and nothing is done. */
static void
what_cannot_be_freed_is_not_emptied(void **state)
{
	struct os_disk *d = begin();
	struct running x;

	(void)state;
	run_delivery(&x, os_disk_root(d));
	assert_false(is_calm(x.d));
	each_segment(x.d->dirfd, keep, x.d);
	for (int turns = 0; turns < TURNS_BROKEN; turns++)
		turn(&x);
	assert_true(is_calm(x.d));
	for (int i = 0; i < MESSAGES; i++)
		if (is_straggler(i))
			assert_int_equal(queue_find(x.d->queue, s.id[i])->segment, s.at[i].segment);
	running_end(&x);
	os_disk_free(d);
}

/* --- how a queue may drain ----------------------------------------------------------------------- */

enum { DRAINING = 300, PATTERNS = 5, NONE_IS_DONE = PATTERNS };

static bool
stays(int pattern, int i)
{
	static const int every[PATTERNS - 1] = { 100, 17, 5, 2 };

	if (pattern == NONE_IS_DONE)
		return true;
	return pattern < PATTERNS - 1 ? i % every[pattern] == 0 : i % 16 < 7;
}

static void
fill_pattern(struct fixture *f, int pattern, uint64_t id[DRAINING])
{
	static char body[BIG_BYTES];
	struct spool_location at[DRAINING];

	open_writer(f, SEGMENT_INTAKE);
	for (int i = 0; i < DRAINING; i++)
		assert_int_equal(fixture_send(f, body, sizeof(body), &id[i], &at[i]), 0);
	fixture_stop(f);
	open_writer(f, SEGMENT_JOURNAL);
	for (int i = 0; i < DRAINING; i++) {
		struct journal_outcome o = { .id = id[i],
			.flags = stays(pattern, i) ? JOURNAL_HOLD : JOURNAL_DONE };

		say_where(&o, at[i]);
		assert_int_equal(fixture_outcome(f, &o), 0);
	}
	fixture_stop(f);
}

/* More than a segment's worth is moved while delivery lives: what it moved to is read to its end, sealed,
 * and counted. */
static void
the_disk_shrinks_to_its_bound_however_a_queue_drains(void **state)
{
	(void)state;
	for (int pattern = 0; pattern < PATTERNS; pattern++) {
		struct os_disk *d = os_disk_new();
		struct fixture f = { .dirfd = os_disk_root(d) };
		static struct listed l;
		uint64_t id[DRAINING];
		size_t waiting = 0;
		struct running x;

		os_disk_heal(d);
		assert_int_equal(segment_prepare_directory(f.dirfd), 0);
		fill_pattern(&f, pattern, id);
		run_delivery(&x, f.dirfd);
		turn_until(&x, is_settled);
		running_end(&x);
		fixture_list(&f, &l, NULL, NULL, true);
		for (int i = 0; i < DRAINING; i++) {
			waiting += stays(pattern, i);
			assert_int_equal(fixture_lists(&l, id[i]), stays(pattern, i));
		}
		assert_int_equal(l.n, waiting);
		assert_true(disk_bytes(f.dirfd) <=
		            2 * waiting * (BIG_BYTES + 640) + SEGMENTS * SEGMENT_BYTES);
		os_disk_free(d);
	}
}

/* One in each of some segments: they all fit into one file, and that is not full then. */
static bool
is_one_of_few(uint64_t id)
{
	return (id & QUEUE_ID_SEQUENCE_MAX) == 1 && (id >> 24) / 2 % 8 == 0;
}

/* As after a failure: what is being written is read once more from its start. */
static void
forget_readers(struct catalog *c)
{
	for (size_t i = 0; i < c->n_live; i++) {
		spool_reader_close(c->live[i].reader);
		c->live[i].reader = NULL;
	}
}

/* The file that delivery writes cannot be read from its first block on, and this is found before there is
 * anything to move. Copies that go there are not met before the next start. */
static struct os_disk *
begin_unreadable(struct running *x)
{
	struct os_disk *d = os_disk_new();
	struct fixture f = { .dirfd = os_disk_root(d) };
	uint64_t id[DRAINING];

	os_disk_heal(d);
	assert_int_equal(segment_prepare_directory(f.dirfd), 0);
	fill_pattern(&f, NONE_IS_DONE, id);
	run_delivery(x, f.dirfd);
	forget_readers(x->d->catalog);
	os_disk_fail(d, OS_CALL_READ, 1, EIO, true);
	for (int turns = 0; turns < TURNS_BROKEN; turns++)
		turn(x);
	assert_true(os_disk_has_failed(d));
	os_disk_heal(d);
	remove_all(x->d, is_one_of_few);
	return d;
}

static void
copies_that_cannot_be_read_are_followed_by_others(void **state)
{
	struct running x;
	struct os_disk *d = begin_unreadable(&x);
	struct fixture f = { .dirfd = os_disk_root(d) };
	static struct listed l;
	size_t waiting;

	(void)state;
	turn_until(&x, is_calm);
	waiting = queue_count_all(x.d->queue);
	assert_in_range(waiting, 4, 8);
	running_end(&x);
	fixture_list(&f, &l, NULL, NULL, true);
	assert_int_equal(l.n, waiting);
	assert_in_range(l.sum.duplicates, waiting, 2 * waiting); /* in that file and in its spare */
	run_delivery(&x, f.dirfd);
	turn_until(&x, is_settled);
	assert_int_equal(queue_count_all(x.d->queue), waiting);
	remove_all(x.d, NULL);
	turn_until(&x, is_empty);
	running_end(&x);
	fixture_list(&f, &l, NULL, NULL, true);
	assert_int_equal(l.n, 0);
	assert_null(os_disk_violation(d));
	os_disk_free(d);
}

/* All that waits is on its way, and the first copies are durable. */
static bool
is_copied(const struct delivery *d)
{
	bool any = false;

	for (unsigned i = 0; i < SHARED_PAGE_SLOTS; i++) {
		const struct shared_slot *slot = &d->page->slots[i];
		uint32_t number = (uint32_t)atomic_load(&slot->segment_number);

		any = any || (segment_kind_of(number) == SEGMENT_DELIVERY &&
		                 atomic_load(&slot->committed_bytes) > RECORD_BLOCK);
	}
	return any && queue_count(d->queue, QUEUE_ACTIVE) == queue_count_all(d->queue);
}

static bool
is_let_go(const struct delivery *d)
{
	return queue_count(d->queue, QUEUE_ACTIVE) == 0;
}

/* The copy after one that cannot be read is revoked, and as soon as anybody can, the message is removed: the
 * journal knows of every copy that was made, and goes on to know for as long as it is there. */
static void
a_copy_in_doubt_is_followed_by_one_that_is_not(void **state)
{
	struct running x;
	struct os_disk *d = begin_unreadable(&x);
	struct fixture f = { .dirfd = os_disk_root(d) };
	struct copies copies = { .dirfd = f.dirfd, .are_known = true };
	static struct listed l;

	(void)state;
	turn_until(&x, is_copied);
	os_disk_fail(d, OS_CALL_FDATASYNC, 1, EIO, false);
	turn_until(&x, is_let_go);
	assert_true(os_disk_has_failed(d));
	os_disk_heal(d);
	remove_all(x.d, NULL);
	turn_until(&x, is_empty);
	running_end(&x);
	assert_int_equal(spool_store_open(f.dirfd, true, &copies.store), 0);
	fixture_list(&f, &l, copies.store, NULL, false);
	assert_int_equal(l.n, 0);
	assert_int_equal(journal_index_open(f.dirfd, NULL, true, NULL, NULL, &copies.index), 0);
	each_segment(f.dirfd, look_at_copies, &copies);
	assert_true(copies.are_known);
	journal_index_close(copies.index);
	spool_store_close(copies.store);
	assert_null(os_disk_violation(d));
	os_disk_free(d);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_disk_shrinks_to_its_bound_however_a_queue_drains),
		cmocka_unit_test(a_cut_or_a_kill_while_stragglers_are_moved),
		cmocka_unit_test(a_disk_that_fails_while_stragglers_are_moved),
		cmocka_unit_test(what_is_damaged_is_not_moved),
		cmocka_unit_test(what_cannot_be_freed_is_not_emptied),
		cmocka_unit_test(copies_that_cannot_be_read_are_followed_by_others),
		cmocka_unit_test(a_copy_in_doubt_is_followed_by_one_that_is_not),
	};
	unsigned long errors = 0;
	int failed;

	log_open("test_compaction", LOG_TO_STDERR, getenv("TEST_VERBOSE") ? LOG_DEBUG : LOG_ERROR);
	failed = cmocka_run_group_tests(tests, fill_disk, free_disk);
	for (enum os_call call = OS_CALL_OPEN; call < OS_CALLS; call++)
		if (call != OS_CALL_FDATASYNC && call != OS_CALL_FSYNC &&
		    call != OS_CALL_SYNC_DIRECTORY)
			errors += os_disk_injected(call);
	fault_figures("test_compaction", "3, 4", "power_cuts", os_disk_cuts());
	fault_figures("test_compaction", "4", "torn_writes", os_disk_torn());
	fault_figures("test_compaction", "1, 2", "crashes_survived", kills);
	fault_figures("test_compaction", "5", "sync_errors_injected",
	    os_disk_injected(OS_CALL_FDATASYNC) + os_disk_injected(OS_CALL_FSYNC) +
	        os_disk_injected(OS_CALL_SYNC_DIRECTORY));
	fault_figures("test_compaction", "6", "other_errors_injected", errors);
	return failed;
}
