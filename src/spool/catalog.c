#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/queue_id.h"
#include "spool/catalog.h"
#include "spool/large.h"

/* A file in large/ that nobody held open before the replay began. */
struct large_file {
	uint64_t id;
	bool is_named; /* by a message that is not done */
};

struct replay {
	const struct catalog_options *options;
	struct spool_store *store;
	struct journal_index *index;
	struct catalog_summary sum;
	struct large_file *large;
	size_t n_large;
	int large_dir;
};

#define SCAN_EVERY_MS 30000u

static int
compare_numbers(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static int
compare_large(const void *a, const void *b)
{
	const struct large_file *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

static int
on_large_name(void *arg, const char *name)
{
	struct replay *p = arg;
	uint64_t id;
	int fd;

	if (!queue_id_parse(span_of(name), &id))
		return 0;
	fd = os_open(p->large_dir, name, O_RDWR | O_NONBLOCK, 0);
	if (fd < 0)
		return 0;
	/* Locked: intake is writing it. Unlocked: its record is on disk by now, or never will be. */
	if (os_is_locked(fd) == 0) {
		p->large = xrealloc(p->large, p->n_large + 1, sizeof(*p->large));
		p->large[p->n_large++] = (struct large_file){ .id = id };
	}
	os_close(fd);
	return 0;
}

static void
sample_large(struct replay *p)
{
	p->large_dir = os_open(p->options->dirfd, "large", O_RDONLY | O_DIRECTORY, 0);
	if (p->large_dir < 0)
		return;
	if (os_list(p->large_dir, on_large_name, p) < 0)
		p->n_large = 0; /* sweep nothing then */
	if (p->n_large > 1)
		qsort(p->large, p->n_large, sizeof(*p->large), compare_large);
}

static void
sweep_large(struct replay *p)
{
	char name[LARGE_NAME_MAX], to[LARGE_NAME_MAX + sizeof("quarantine/large.")];
	char id[QUEUE_ID_LEN + 1];

	for (size_t i = 0; i < p->n_large; i++) {
		if (p->large[i].is_named)
			continue;
		large_name(p->large[i].id, name);
		if (p->sum.corrupt_ranges == 0 || journal_index_is_done(p->index, p->large[i].id)) {
			(void)os_unlink(p->options->dirfd, name);
			continue;
		}
		queue_id_print(p->large[i].id, id);
		snprintf(to, sizeof(to), "quarantine/large.%s", id);
		if (os_rename(p->options->dirfd, name, to) < 0)
			continue; /* it stays where it is: the next start tries again */
	}
}

static void
on_damage(void *arg, const struct spool_damage *damage)
{
	struct replay *p = arg;

	if (damage->range == SPOOL_RANGE_ZERO || damage->range == SPOOL_RANGE_UNUSED)
		return;
	if (damage->range == SPOOL_RANGE_TORN)
		p->sum.torn_ranges++;
	else
		p->sum.corrupt_ranges++;
	if (damage->range == SPOOL_RANGE_CORRUPT && damage->first_missing != 0)
		p->sum.missing_records += damage->last_missing - damage->first_missing + 1;
	if (damage->range == SPOOL_RANGE_CORRUPT && p->options->sweep &&
	    spool_store_quarantine(p->store, damage) < 0)
		spool_store_keep(p->store, damage->number);
	if (p->options->damage != NULL)
		p->options->damage(p->options->arg, damage);
}

/* The body of a large message must be there, and as long as its envelope says. */
static void
check_large(struct replay *p, const struct envelope *e)
{
	struct large_file key = { .id = e->id }, *file = NULL;
	struct spool_damage damage = { .range = SPOOL_RANGE_CORRUPT, .id = e->id };
	struct spool_body *body;
	int r;

	if (p->n_large > 0)
		file = bsearch(&key, p->large, p->n_large, sizeof(key), compare_large);
	if (file != NULL)
		file->is_named = true;
	r = spool_store_body(p->store, (struct spool_location){ 0 }, e, &body);
	if (r == 0) {
		spool_body_close(body);
		return;
	}
	large_name(e->id, damage.file);
	damage.length_bytes = e->body_bytes;
	damage.error = -r;
	p->sum.corrupt_ranges++;
	if (p->options->damage != NULL)
		p->options->damage(p->options->arg, &damage);
}

/* A newer version wrote this: it is left for it. */
static void
keep_newer(struct replay *p, uint32_t segment)
{
	p->sum.newer = true;
	spool_store_keep(p->store, segment);
}

/* Gives a message to the caller. */
static int
give(struct replay *p, const struct spool_entry *entry, uint64_t *given)
{
	struct catalog_message m = {
		.id = entry->id, .location = entry->location, .uncommitted = !entry->committed
	};
	struct journal_outcome *outcome = NULL;
	struct envelope *envelope;
	int r;

	r = envelope_decode(entry->payload, &envelope);
	if (r == -ENOMEM)
		return r;
	if (r < 0) {
		keep_newer(p, entry->location.segment); /* whole, but not for us to deliver */
		return 0;
	}
	if (p->index != NULL)
		r = journal_index_get(p->index, entry->id, &outcome);
	else
		r = 0;
	if (r == 0) {
		m.envelope = envelope;
		m.outcome = outcome;
		if (envelope->flags & ENVELOPE_LARGE)
			check_large(p, envelope);
		p->sum.messages++;
		p->sum.uncommitted += m.uncommitted;
		++*given;
		r = p->options->message != NULL ? p->options->message(p->options->arg, &m) : 0;
	}
	journal_free(outcome);
	envelope_free(envelope);
	return r;
}

static int
take_message(struct replay *p, const struct spool_entry *entry, uint64_t *given)
{
	bool was_seen = false;
	int r;

	if (entry->id == 0) {
		keep_newer(p, entry->location.segment);
		return 0;
	}
	if (spool_store_is_revoked(p->store, entry->location.segment, entry->seq)) {
		p->sum.revoked++;
		return 0;
	}
	if (p->index != NULL && journal_index_is_done(p->index, entry->id)) {
		p->sum.done++;
		return 0;
	}
	if (p->index != NULL) {
		r = journal_index_was_seen(p->index, entry->id, &was_seen);
		if (r < 0)
			return r;
	}
	if (was_seen) { /* moved, and the first place is not freed yet: the same message */
		p->sum.duplicates++;
		return 0;
	}
	return give(p, entry, given);
}

static int
read_segment(struct replay *p, uint32_t number, uint64_t *next_offset, uint64_t *given,
    enum shared_slot_state *state)
{
	uint64_t limit = SPOOL_READ_TO_END;
	struct spool_reader *reader;
	struct spool_entry entry;
	enum spool_event event;
	int r;

	*state = SHARED_SLOT_FREE;
	if (p->options->page != NULL && shared_page_look(p->options->page, number, &limit, state))
		r = spool_reader_open(
		    p->options->dirfd, segment_kind_of(number), number, limit, false, &reader);
	else
		r = spool_reader_open(p->options->dirfd, segment_kind_of(number), number, limit,
		    p->options->distrust, &reader);
	if (r < 0)
		return r;
	do {
		r = spool_reader_next(reader, &event, &entry);
		if (r < 0)
			break;
		if (event == SPOOL_MESSAGE)
			r = take_message(p, &entry, given);
		else if (event == SPOOL_DAMAGE)
			on_damage(p, &entry.damage);
		else if (event == SPOOL_REVOKE)
			spool_store_note_revoke(p->store, number, &entry.revoke);
		else if (event == SPOOL_UNKNOWN)
			keep_newer(p, number);
	} while (r == 0 && event != SPOOL_END);
	*next_offset = spool_reader_position(reader);
	p->sum.bytes += *next_offset;
	if (spool_reader_sync_error(reader) != 0)
		p->sum.sync_error = spool_reader_sync_error(reader);
	spool_reader_close(reader);
	return r;
}

/* A REVOKE is the first record of its file: look at these before anything is given. */
static int
note_revokes(struct replay *p, const uint32_t *numbers, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct spool_reader *reader;
		struct spool_entry entry;
		enum spool_event event;
		int r;

		r = spool_reader_open(p->options->dirfd, segment_kind_of(numbers[i]), numbers[i],
		    SPOOL_READ_TO_END, false, &reader);
		if (r == -ENOENT)
			continue;
		if (r < 0)
			return r;
		spool_reader_revokes_only(reader);
		do {
			r = spool_reader_next(reader, &event, &entry);
			if (r == 0 && event == SPOOL_REVOKE)
				spool_store_note_revoke(p->store, numbers[i], &entry.revoke);
		} while (r == 0 && event != SPOOL_END);
		spool_reader_close(reader);
		if (r < 0)
			return r;
	}
	return 0;
}

static int
list_all(int dirfd, uint32_t **numbers, size_t *n)
{
	uint32_t *intake = NULL, *delivery = NULL;
	size_t n_intake = 0, n_delivery = 0;
	int r;

	r = segment_list(dirfd, SEGMENT_NAME_INTAKE, &intake, &n_intake);
	if (r == 0)
		r = segment_list(dirfd, SEGMENT_NAME_DELIVERY, &delivery, &n_delivery);
	if (r == 0 && n_delivery > 0) {
		intake = xrealloc(intake, n_intake + n_delivery, sizeof(*intake));
		memcpy(intake + n_intake, delivery, n_delivery * sizeof(*intake));
		n_intake += n_delivery;
	}
	free(delivery);
	if (r < 0) {
		free(intake);
		return r;
	}
	*numbers = intake;
	*n = n_intake;
	return 0;
}

static int
replay_segments(struct replay *p)
{
	uint32_t *numbers = NULL;
	size_t n = 0;
	int r;

	r = list_all(p->options->dirfd, &numbers, &n);
	if (r == 0)
		r = note_revokes(p, numbers, n);
	for (size_t i = 0; i < n && r == 0; i++) {
		struct catalog_segment s = { .number = numbers[i] };

		r = read_segment(p, numbers[i], &s.next_offset, &s.messages, &s.state);
		if (r == -ENOENT) {
			r = 0;
			continue;
		}
		if (r == 0 && p->options->segment != NULL)
			p->options->segment(p->options->arg, &s);
		if (r == 0 && p->options->page != NULL && p->options->sweep &&
		    s.state != SHARED_SLOT_LIVE)
			shared_page_release_slot(p->options->page, numbers[i]);
	}
	free(numbers);
	return r;
}

int
catalog_replay(const struct catalog_options *options, struct catalog_summary *summary)
{
	struct replay p = { .options = options, .store = options->store, .large_dir = -1 };
	int r = 0;

	if (p.store == NULL)
		r = spool_store_open(options->dirfd, !options->sweep, &p.store);
	if (r < 0)
		return r;
	if (options->sweep)
		sample_large(&p);
	r = journal_index_open(options->dirfd, options->distrust, on_damage, &p, &p.index);
	if (r == 0)
		r = replay_segments(&p);
	if (r == 0 && options->sweep && !p.sum.newer)
		sweep_large(&p);
	if (summary != NULL)
		*summary = p.sum;
	journal_index_close(p.index);
	if (options->store == NULL)
		spool_store_close(p.store);
	if (p.large_dir >= 0)
		os_close(p.large_dir);
	free(p.large);
	return r;
}

struct search {
	uint64_t id;
	struct spool_location at;
	struct spool_store *store;
	struct journal_index *index;
};

static int
on_search(void *arg, const struct catalog_message *m)
{
	struct search *s = arg;

	if (m->id != s->id)
		return 0;
	s->at = m->location;
	return 1;
}

int
catalog_find(int dirfd, uint64_t id, struct spool_location *at, struct envelope **envelope,
    struct journal_outcome **outcome)
{
	struct search s = { .id = id };
	struct catalog_options options = { .dirfd = dirfd, .message = on_search, .arg = &s };
	struct journal_outcome *o = NULL;
	struct envelope *e = NULL;
	int r;

	r = catalog_replay(&options, NULL);
	if (r <= 0)
		return r < 0 ? r : -ENOENT;
	r = spool_store_open(dirfd, true, &s.store);
	if (r == 0)
		r = journal_index_open(dirfd, false, NULL, NULL, &s.index);
	if (r == 0)
		r = spool_store_envelope(s.store, s.at, &e);
	if (r == 0)
		r = journal_index_get(s.index, id, &o);
	if (r == 0) {
		*at = s.at;
		*envelope = e;
		*outcome = o;
		e = NULL;
	}
	envelope_free(e);
	journal_index_close(s.index);
	spool_store_close(s.store);
	return r;
}

/* Following. */

struct followed {
	uint32_t number;
	uint64_t begin; /* what lies before it was given */
	struct spool_reader *reader;
	bool reader_to_end;
};

struct catalog_follower {
	int dirfd;
	struct spool_store *store;
	struct shared_page *page;
	struct followed *live;
	size_t n_live;
	uint32_t *known; /* ascending: read to their end, or live */
	size_t n_known;
	uint64_t scan_ms; /* when the directory is looked at again */
};

int
catalog_follower_open(
    int dirfd, struct spool_store *store, struct shared_page *page, struct catalog_follower **out)
{
	struct catalog_follower *f = xcalloc(1, sizeof(*f));

	f->dirfd = dirfd;
	f->store = store;
	f->page = page;
	*out = f;
	return 0;
}

void
catalog_follower_close(struct catalog_follower *f)
{
	if (f == NULL)
		return;
	for (size_t i = 0; i < f->n_live; i++)
		spool_reader_close(f->live[i].reader);
	free(f->live);
	free(f->known);
	free(f);
}

static size_t
find_known(const struct catalog_follower *f, uint32_t number)
{
	size_t low = 0, high = f->n_known;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (f->known[middle] < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool
is_known(const struct catalog_follower *f, uint32_t number)
{
	size_t i = find_known(f, number);

	return i < f->n_known && f->known[i] == number;
}

static void
add_known(struct catalog_follower *f, uint32_t number)
{
	size_t i = find_known(f, number);

	if (i < f->n_known && f->known[i] == number)
		return;
	f->known = xrealloc(f->known, f->n_known + 1, sizeof(*f->known));
	memmove(&f->known[i + 1], &f->known[i], (f->n_known - i) * sizeof(*f->known));
	f->known[i] = number;
	f->n_known++;
}

static void
add_live(struct catalog_follower *f, uint32_t number, uint64_t begin)
{
	add_known(f, number);
	f->live = xrealloc(f->live, f->n_live + 1, sizeof(*f->live));
	f->live[f->n_live++] = (struct followed){ .number = number, .begin = begin };
}

void
catalog_follower_add(struct catalog_follower *f, const struct catalog_segment *s)
{
	if (s->state == SHARED_SLOT_LIVE)
		add_live(f, s->number, s->next_offset);
	else
		add_known(f, s->number);
}

/* Slots that show a segment we have not met yet. */
static void
look_for_new(struct catalog_follower *f)
{
	for (unsigned i = 0; i < SHARED_PAGE_SLOTS; i++) {
		struct shared_slot *slot = &f->page->slots[i];
		uint32_t state = atomic_load(&slot->state);
		uint32_t number = (uint32_t)atomic_load(&slot->segment_number);

		if (state == SHARED_SLOT_FREE || state == SHARED_SLOT_TAKEN || number == 0)
			continue;
		if (number % SHARED_PAGE_SLOTS == i && !is_known(f, number))
			add_live(f, number, 0);
	}
}

/* The page forgets a sealed segment when 256 newer ones have come while delivery was busy. What it
 * forgot still stands in the directory; what is gone from there need not be known any more. */
static int
look_into_directory(struct catalog_follower *f)
{
	uint32_t *numbers = NULL, *gone = f->known;
	size_t n = 0, n_gone = f->n_known;
	int r;

	if (os_boot_ms() < f->scan_ms)
		return 0;
	f->scan_ms = os_boot_ms() + SCAN_EVERY_MS;
	r = list_all(f->dirfd, &numbers, &n);
	if (r < 0)
		return r;
	f->known = NULL;
	f->n_known = 0;
	for (size_t i = 0; i < f->n_live; i++)
		add_known(f, f->live[i].number);
	for (size_t i = 0; i < n; i++) {
		uint64_t number_in_slot =
		    atomic_load(&shared_page_slot(f->page, numbers[i])->segment_number);

		if (is_known(f, numbers[i]))
			continue;
		if (n_gone > 0 &&
		    bsearch(&numbers[i], gone, n_gone, sizeof(*gone), compare_numbers) != NULL)
			add_known(f, numbers[i]);
		else if (number_in_slot != numbers[i])
			add_live(f, numbers[i], 0);
	}
	free(gone);
	free(numbers);
	return 0;
}

/* An orphan that never got its name. */
static void
drop_prepared(struct catalog_follower *f, uint32_t number)
{
	char name[SEGMENT_NAME_MAX];

	segment_prep_name(number, name);
	(void)os_unlink(f->dirfd, name);
}

static int
open_followed(struct catalog_follower *f, struct followed *l, uint64_t limit, bool to_end)
{
	l->reader_to_end = to_end;
	return spool_reader_open(f->dirfd, segment_kind_of(l->number), l->number,
	    to_end ? SPOOL_READ_TO_END : limit, to_end, &l->reader);
}

/* Its writer is gone, and what it had published is read: from here on the disk is believed. */
static int
reopen_to_end(struct catalog_follower *f, struct followed *l)
{
	if (spool_reader_position(l->reader) > l->begin)
		l->begin = spool_reader_position(l->reader);
	spool_reader_close(l->reader);
	l->reader = NULL;
	return open_followed(f, l, 0, true);
}

/* Gives what is new in one segment, up to `most`. 1: it is at its end for good. */
static int
follow_one(
    struct catalog_follower *f, struct followed *l, struct replay *p, unsigned most, unsigned *n)
{
	enum shared_slot_state state = SHARED_SLOT_FREE;
	uint64_t limit = 0, given = 0;
	struct spool_entry entry;
	enum spool_event event;
	bool orphan = !shared_page_look(f->page, l->number, &limit, &state);
	int r;

	if (!orphan && l->reader == NULL && limit <= l->begin && state == SHARED_SLOT_LIVE)
		return 0;
	r = l->reader == NULL ? open_followed(f, l, limit, orphan) : 0;
	if (r == -ENOENT) {
		if (orphan)
			drop_prepared(f, l->number);
		return orphan || state == SHARED_SLOT_SEALED ? 1 : 0;
	}
	if (r < 0)
		return r;
	if (!orphan)
		spool_reader_extend(l->reader, limit);
	while (*n < most) {
		r = spool_reader_next(l->reader, &event, &entry);
		if (r < 0)
			return r;
		if (event == SPOOL_END && orphan && !l->reader_to_end) {
			r = reopen_to_end(f, l);
			if (r < 0)
				return r == -ENOENT ? 1 : r;
			continue;
		}
		if (event == SPOOL_END)
			return orphan || state == SHARED_SLOT_SEALED;
		if (event == SPOOL_DAMAGE &&
		    entry.damage.offset + entry.damage.length_bytes >= l->begin)
			on_damage(p, &entry.damage);
		if (event == SPOOL_REVOKE)
			spool_store_note_revoke(f->store, l->number, &entry.revoke);
		if (event == SPOOL_UNKNOWN)
			keep_newer(p, l->number);
		if (event != SPOOL_MESSAGE || entry.location.offset < l->begin)
			continue;
		r = take_message(p, &entry, &given);
		if (r < 0)
			return r;
		*n += 1;
	}
	return 0;
}

int
catalog_follow(struct catalog_follower *f, unsigned most, const struct catalog_options *options)
{
	struct replay p = { .options = options, .store = f->store, .large_dir = -1 };
	unsigned n = 0;
	int r = 0;

	look_for_new(f);
	r = look_into_directory(f);
	if (r < 0)
		return r;
	for (size_t i = 0; i < f->n_live && n < most;) {
		struct followed *l = &f->live[i];
		struct catalog_segment s = { .number = l->number };

		r = follow_one(f, l, &p, most, &n);
		if (r < 0)
			return r;
		if (r == 0) {
			i++;
			continue;
		}
		s.next_offset = l->reader != NULL ? spool_reader_position(l->reader) : 0;
		spool_reader_close(l->reader);
		*l = f->live[--f->n_live];
		shared_page_release_slot(f->page, s.number);
		if (options->segment != NULL && s.next_offset != 0)
			options->segment(options->arg, &s);
	}
	return (int)n;
}

bool
catalog_follower_is_live(const struct catalog_follower *f, uint32_t number)
{
	for (size_t i = 0; i < f->n_live; i++)
		if (f->live[i].number == number)
			return true;
	return false;
}
