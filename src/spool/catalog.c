/* catalog.c - see catalog.h. The past and what intake writes now are read by the same code: a segment is
 * followed until it is at its end for good (catalog_segment.c). What the past has more is a list of segments to
 * begin with, and the index of journals that says which of its messages are done. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "spool/catalog_parts.h"

#define STEP_BYTES (2u << 20) /* read in one step; a group more at most */
#define SCAN_EVERY_MS 30000u

static int
compare_numbers(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* delivery's, the newest first, then intake's: of a message that was moved the newest copy is met
 * first, and is the one that counts. (What the journal says of a message holds for all places up to
 * the one where it stood last, and no further: journal.h.) */
static int
list_all(int dirfd, uint32_t **numbers, size_t *n)
{
	uint32_t *intake = NULL, *delivery = NULL, *all;
	size_t n_intake = 0, n_delivery = 0;
	int r;

	r = segment_list(dirfd, SEGMENT_NAME_INTAKE, &intake, &n_intake);
	if (r == 0)
		r = segment_list(dirfd, SEGMENT_NAME_DELIVERY, &delivery, &n_delivery);
	if (r == 0) {
		all = xcalloc(n_intake + n_delivery + 1, sizeof(*all));
		for (size_t i = 0; i < n_delivery; i++)
			all[i] = delivery[n_delivery - 1 - i];
		for (size_t i = 0; i < n_intake; i++)
			all[n_delivery + i] = intake[i];
		*numbers = all;
		*n = n_intake + n_delivery;
	}
	free(intake);
	free(delivery);
	return r;
}

/* --- what is known ---------------------------------------------------------------------------- */

static size_t
find_known(const struct catalog *c, uint32_t number)
{
	size_t low = 0, high = c->n_known;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (c->known[middle] < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool
is_known(const struct catalog *c, uint32_t number)
{
	size_t i = find_known(c, number);

	return i < c->n_known && c->known[i] == number;
}

static void
add_known(struct catalog *c, uint32_t number)
{
	size_t i = find_known(c, number);

	if (i < c->n_known && c->known[i] == number)
		return;
	c->known = xrealloc(c->known, c->n_known + 1, sizeof(*c->known));
	memmove(&c->known[i + 1], &c->known[i], (c->n_known - i) * sizeof(*c->known));
	c->known[i] = number;
	c->n_known++;
}

/* It never had a name, so its number may be given again. */
static void
forget_known(struct catalog *c, uint32_t number)
{
	size_t i = find_known(c, number);

	if (i == c->n_known || c->known[i] != number)
		return;
	c->n_known--;
	memmove(&c->known[i], &c->known[i + 1], (c->n_known - i) * sizeof(*c->known));
}

static void
add_live(struct catalog *c, struct catalog_followed l)
{
	add_known(c, l.number);
	c->live = xrealloc(c->live, c->n_live + 1, sizeof(*c->live));
	c->live[c->n_live++] = l;
}

/* Slots that show a segment we have not met yet. */
static void
look_for_new(struct catalog *c)
{
	for (unsigned i = 0; i < SHARED_PAGE_SLOTS; i++) {
		struct shared_slot *slot = &c->options.page->slots[i];
		uint32_t state = atomic_load(&slot->state);
		uint32_t number = (uint32_t)atomic_load(&slot->segment_number);

		if (state == SHARED_SLOT_FREE || shared_slot_is_taken(state) || number == 0)
			continue;
		if (number % SHARED_PAGE_SLOTS == i && !is_known(c, number))
			add_live(c, (struct catalog_followed){ .number = number });
	}
}

/* The page forgets a sealed segment when 256 newer ones have come while delivery was busy. What it
 * forgot still stands in the directory; what is gone from there need not be known any more. */
static int
look_into_directory(struct catalog *c)
{
	uint32_t *numbers = NULL, *gone = c->known;
	size_t n = 0, n_gone = c->n_known;
	int r;

	if (os_boot_ms() < c->scan_ms)
		return 0;
	c->scan_ms = os_boot_ms() + SCAN_EVERY_MS;
	r = list_all(c->options.dirfd, &numbers, &n);
	if (r < 0)
		return r;
	c->known = NULL;
	c->n_known = 0;
	for (size_t i = 0; i < c->n_live; i++)
		add_known(c, c->live[i].number);
	for (size_t i = c->next_past; i < c->n_past; i++)
		add_known(c, c->past[i].number);
	for (size_t i = 0; i < n; i++) {
		struct shared_slot *slot = shared_page_slot(c->options.page, numbers[i]);
		uint64_t number_in_slot = atomic_load(&slot->segment_number);
		bool is_free = atomic_load(&slot->state) == SHARED_SLOT_FREE;

		if (is_known(c, numbers[i]))
			continue;
		if (n_gone > 0 &&
		    bsearch(&numbers[i], gone, n_gone, sizeof(*gone), compare_numbers) != NULL)
			add_known(c, numbers[i]);
		else if (number_in_slot != numbers[i] || is_free)
			add_live(c, (struct catalog_followed){ .number = numbers[i] });
	}
	free(gone);
	free(numbers);
	return 0;
}

/* --- the past, and what comes ------------------------------------------------------------------ */

static void
release_slot(struct catalog *c, uint32_t number)
{
	if (c->options.page != NULL && c->options.sweep)
		shared_page_release_slot(c->options.page, number);
}

static void
end_segment(struct catalog *c, struct catalog_followed *l)
{
	struct catalog_segment s = { .number = l->number, .messages = l->given };

	if (c->is_read)
		release_slot(c, l->number);
	if (l->reader == NULL) { /* it is gone, or never was */
		forget_known(c, l->number);
		return;
	}
	s.bytes = spool_reader_position(l->reader);
	c->sum.bytes += s.bytes;
	if (spool_reader_was_closed_clean(l->reader))
		spool_store_note_clean(c->store, l->number);
	spool_reader_close(l->reader);
	l->reader = NULL;
	if (c->options.segment != NULL)
		c->options.segment(c->options.arg, &s);
}

static int
follow_live(struct catalog *c, struct catalog_budget *budget)
{
	bool ended;
	int r;

	if (c->options.page == NULL)
		return 0;
	look_for_new(c);
	r = look_into_directory(c);
	for (size_t i = 0; i < c->n_live && r == 0 && budget->messages > 0 && budget->bytes > 0;) {
		r = catalog_segment_follow(c, &c->live[i], budget, &ended);
		if (r < 0 || !ended) {
			i++;
			continue;
		}
		end_segment(c, &c->live[i]);
		c->live[i] = c->live[--c->n_live];
	}
	return r;
}

/* The journal knows of it, it is not done, and it stands nowhere: its segment is gone. */
static int
on_outcome(void *arg, uint64_t id, bool done)
{
	uint32_t number = (uint32_t)(id >> 24);
	struct spool_damage damage = { .range = SPOOL_RANGE_CORRUPT,
		.kind = segment_kind_of(number),
		.number = number,
		.id = id,
		.error = ENOENT };
	struct catalog *c = arg;
	bool was_seen;
	int r;

	if (done || journal_index_is_stale(c->index, id))
		return 0;
	r = journal_index_was_seen(c->index, id, &was_seen);
	if (r < 0 || was_seen)
		return r;
	segment_name(damage.kind, number, damage.file);
	c->sum.corrupt_ranges++;
	if (c->options.damage != NULL)
		c->options.damage(c->options.arg, &damage);
	return 0;
}

static int
sweep(struct catalog *c)
{
	int r = 0;

	if (!c->sum.newer)
		r = journal_index_each(c->index, on_outcome, c);
	/* A body whose message could not be read is no orphan. */
	if (r == 0 && !c->sum.newer && !c->is_unreadable)
		catalog_large_sweep(c);
	for (size_t i = 0; r == 0 && i < c->n_known; i++)
		if (catalog_is_over(c, c->known[i]))
			release_slot(c, c->known[i]);
	return r;
}

/* The past is over: what only it needed goes. */
static int
end_past(struct catalog *c)
{
	int r = c->options.sweep ? sweep(c) : 0;

	if (r < 0)
		return r;
	journal_index_close(c->index);
	c->index = NULL;
	catalog_large_fini(c);
	free(c->past);
	c->past = NULL;
	c->n_past = c->next_past = 0;
	c->is_read = true;
	return 0;
}

static void
move_to_live(struct catalog *c, struct catalog_followed *l)
{
	l->is_past = false;
	add_live(c, *l);
	l->reader = NULL;
}

/* A segment that is still written leaves the past when what it had is read; its reader goes on. */
static int
read_past(struct catalog *c, struct catalog_budget *budget)
{
	while (c->next_past < c->n_past && budget->messages > 0 && budget->bytes > 0) {
		struct catalog_followed *l = &c->past[c->next_past];
		bool ended;
		int r;

		r = catalog_segment_follow(c, l, budget, &ended);
		if (r < 0)
			return r;
		if (ended)
			end_segment(c, l);
		else if (budget->messages > 0 && budget->bytes > 0)
			move_to_live(c, l);
		else
			break;
		c->next_past++;
		c->sum.unread--;
	}
	return c->next_past == c->n_past && !c->is_read ? end_past(c) : 0;
}

/* New mail shall not wait for a million: what intake is writing comes before all others. (Nothing was
 * moved out of it: compaction.h.) */
static int
list_past(struct catalog *c)
{
	enum shared_slot_state state;
	uint32_t *numbers = NULL;
	uint64_t limit;
	size_t n = 0, n_live = 0;
	int r;

	r = list_all(c->options.dirfd, &numbers, &n);
	if (r < 0)
		return r;
	c->past = xcalloc(n + 1, sizeof(*c->past));
	for (size_t i = 0; i < n; i++) {
		struct catalog_followed l = { .number = numbers[i], .is_past = true };

		add_known(c, l.number);
		if (segment_kind_of(l.number) != SEGMENT_INTAKE ||
		    !catalog_segment_look(c, &l, &limit, &state) || state != SHARED_SLOT_LIVE) {
			c->past[c->n_past++] = l;
			continue;
		}
		memmove(&c->past[n_live + 1], &c->past[n_live],
		    (c->n_past - n_live) * sizeof(*c->past));
		c->past[n_live++] = l;
		c->n_past++;
	}
	c->sum.segments = c->sum.unread = c->n_past;
	free(numbers);
	return 0;
}

/* In a journal. */
static void
on_damage(void *arg, const struct spool_damage *damage)
{
	catalog_segment_note_damage(arg, damage, true);
}

int
catalog_open(const struct catalog_options *options, struct catalog **out)
{
	struct catalog *c = xcalloc(1, sizeof(*c));
	int r = 0;

	c->options = *options;
	c->store = options->store;
	c->large_dir = -1;
	if (c->store == NULL) {
		r = spool_store_open(options->dirfd, !options->sweep, &c->own_store);
		c->store = c->own_store;
	}
	if (r == 0 && options->sweep)
		catalog_large_sample(c);
	if (r == 0)
		r = journal_index_open(
		    options->dirfd, options->places, options->distrust, on_damage, c, &c->index);
	if (r == 0)
		c->sum.ended_well = journal_index_ended_well(c->index);
	if (r == 0)
		r = list_past(c);
	if (r == 0)
		r = catalog_segment_note_revokes(c);
	if (r < 0) {
		catalog_close(c);
		return r;
	}
	*out = c;
	return 0;
}

int
catalog_step(struct catalog *c, unsigned most)
{
	struct catalog_budget new = { most, STEP_BYTES }, past = new;
	int r, s;

	r = follow_live(c, &new);
	s = read_past(c, &past);
	if (r < 0 || s < 0)
		return r < 0 ? r : s;
	return !c->is_read || new.messages == 0 || new.bytes == 0;
}

bool
catalog_is_unsure(const struct catalog *c)
{
	return c->is_unsure && !c->is_read;
}

bool
catalog_is_live(const struct catalog *c, uint32_t number)
{
	for (size_t i = 0; i < c->n_live; i++)
		if (c->live[i].number == number)
			return true;
	for (size_t i = c->next_past; i < c->n_past; i++)
		if (c->past[i].number == number)
			return true;
	return false;
}

bool
catalog_is_over(const struct catalog *c, uint32_t number)
{
	return is_known(c, number) && !catalog_is_live(c, number);
}

bool
catalog_is_read(const struct catalog *c)
{
	return c->is_read;
}

const struct catalog_summary *
catalog_summary(const struct catalog *c)
{
	return &c->sum;
}

void
catalog_close(struct catalog *c)
{
	if (c == NULL)
		return;
	for (size_t i = 0; i < c->n_live; i++)
		spool_reader_close(c->live[i].reader);
	for (size_t i = c->next_past; i < c->n_past; i++)
		spool_reader_close(c->past[i].reader);
	catalog_large_fini(c);
	journal_index_close(c->index);
	spool_store_close(c->own_store);
	free(c->past);
	free(c->live);
	free(c->known);
	free(c);
}

int
catalog_replay(const struct catalog_options *options, struct catalog_summary *summary)
{
	struct catalog *c;
	int r;

	r = catalog_open(options, &c);
	if (r < 0)
		return r;
	while (!c->is_read && r >= 0)
		r = catalog_step(c, UINT_MAX);
	if (summary != NULL)
		*summary = c->sum;
	catalog_close(c);
	return r < 0 ? r : 0;
}

/* --- one message ------------------------------------------------------------------------------- */

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
	return -ECANCELED;
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
	if (r != -ECANCELED)
		return r < 0 ? r : -ENOENT;
	r = spool_store_open(dirfd, true, &s.store);
	if (r == 0)
		r = journal_index_open(dirfd, NULL, false, NULL, NULL, &s.index);
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
