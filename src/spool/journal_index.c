/* journal_index.c - replay of the journals (journal.h) and their compaction (journal_compact.h).
 *
 * A message is found by its ID's two parts: segment number -> page of 1024 sequences -> its place
 * (journal_places.c). A record that names all recipients replaces the older ones, and so does a DONE. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/queue_id.h"
#include "spool/journal.h"
#include "spool/journal_compact.h"
#include "spool/reader.h"

#define PAGE_IDS 1024u
#define SLAB_PAGES 64u /* allocated at once, and so given back to the system when the index goes */
#define IS_DONE 0x80000000u
#define WAS_SEEN 0x40000000u
#define PLACE 0x3fffffffu
#define RECIPIENTS_AT_ONCE 256u /* of an outcome that is written anew */

struct numbered {
	uint32_t number;
	uint32_t n_pages;
	uint32_t **pages;
};

struct journal_index {
	bool damaged, ended_well;
	uint32_t newest_snapshot;  /* number of the journal that begins with it */
	struct numbered *numbered; /* ascending */
	size_t n_numbered, last;
	uint32_t **slabs;
	size_t n_slabs, slab_pages; /* used of the last one */
	struct journal_places *places, *own_places;
};

/* Where `number` stands, or would. */
static size_t
find_number(const struct journal_index *x, uint32_t number)
{
	size_t low = 0, high = x->n_numbered;

	if (x->last < x->n_numbered && x->numbered[x->last].number == number)
		return x->last;
	while (low < high) {
		size_t middle = (low + high) / 2;

		if (x->numbered[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static uint32_t *
find(const struct journal_index *x, uint64_t id)
{
	uint32_t number = (uint32_t)(id >> 24);
	uint32_t sequence = (uint32_t)id & QUEUE_ID_SEQUENCE_MAX, page = sequence / PAGE_IDS;
	size_t i = find_number(x, number);

	if (id >> 56 != 0 || i >= x->n_numbered || x->numbered[i].number != number)
		return NULL;
	if (page >= x->numbered[i].n_pages || x->numbered[i].pages[page] == NULL)
		return NULL;
	return &x->numbered[i].pages[page][sequence % PAGE_IDS];
}

static uint32_t *
new_page(struct journal_index *x)
{
	uint32_t **slabs, *page;

	if (x->n_slabs == 0 || x->slab_pages == SLAB_PAGES) {
		slabs = os_realloc(x->slabs, (x->n_slabs + 1) * sizeof(*slabs));
		if (slabs == NULL)
			return NULL;
		x->slabs = slabs;
		slabs[x->n_slabs] = os_alloc(SLAB_PAGES * PAGE_IDS * sizeof(**slabs));
		if (slabs[x->n_slabs] == NULL)
			return NULL;
		x->n_slabs++;
		x->slab_pages = 0;
	}
	page = x->slabs[x->n_slabs - 1] + x->slab_pages++ * PAGE_IDS;
	memset(page, 0, PAGE_IDS * sizeof(*page));
	return page;
}

/* As find(), made if it is not there. NULL: no memory, or no ID of ours. */
static uint32_t *
find_or_add(struct journal_index *x, uint64_t id)
{
	uint32_t number = (uint32_t)(id >> 24);
	uint32_t sequence = (uint32_t)id & QUEUE_ID_SEQUENCE_MAX, page = sequence / PAGE_IDS;
	size_t i = find_number(x, number);
	struct numbered *n;

	if (id >> 56 != 0)
		return NULL;
	if (i >= x->n_numbered || x->numbered[i].number != number) {
		n = os_realloc(x->numbered, (x->n_numbered + 1) * sizeof(*n));
		if (n == NULL)
			return NULL;
		x->numbered = n;
		memmove(&n[i + 1], &n[i], (x->n_numbered - i) * sizeof(*n));
		n[i] = (struct numbered){ .number = number };
		x->n_numbered++;
	}
	x->last = i;
	n = &x->numbered[i];
	if (page >= n->n_pages) {
		uint32_t **pages = os_realloc(n->pages, (page + 1) * sizeof(*pages));

		if (pages == NULL)
			return NULL;
		memset(&pages[n->n_pages], 0, (page + 1 - n->n_pages) * sizeof(*pages));
		n->pages = pages;
		n->n_pages = page + 1;
	}
	if (n->pages[page] == NULL)
		n->pages[page] = new_page(x);
	if (n->pages[page] == NULL)
		return NULL;
	return &n->pages[page][sequence % PAGE_IDS];
}

static int
take_outcome(struct journal_index *x, const struct spool_entry *entry)
{
	uint32_t flags, place, *at;
	bool is_complete;
	uint64_t id;
	int r;

	if (journal_peek(entry->payload, &id, &flags, &is_complete) < 0)
		return 0; /* whole, but nothing that we understand */
	at = find_or_add(x, id);
	if (at == NULL)
		return id >> 56 != 0 ? 0 : -ENOMEM;
	if (flags & JOURNAL_DONE)
		*at |= IS_DONE;
	place = *at & PLACE;
	r = journal_places_add(x->places, &place, entry->location.segment, entry->location.offset,
	    is_complete || (flags & JOURNAL_DONE) != 0);
	if (r == 0)
		*at = (*at & ~PLACE) | place;
	return r == -ENOENT ? 0 : r; /* compacted away meanwhile: it comes again */
}

static int
index_read(struct journal_index *x, struct journal_scan *scan)
{
	struct spool_entry entry;
	int r;

	while ((r = journal_scan_next(scan, &entry)) > 0) {
		r = take_outcome(x, &entry);
		if (r < 0)
			break;
	}
	x->damaged = journal_scan_is_damaged(scan);
	x->ended_well = journal_scan_ended_well(scan);
	x->newest_snapshot = journal_scan_newest_snapshot(scan);
	return r;
}

static struct journal_index *
index_new(int dirfd, struct journal_places *places)
{
	struct journal_index *x = xcalloc(1, sizeof(*x));

	if (places == NULL)
		places = x->own_places = journal_places_new(dirfd);
	x->places = places;
	return x;
}

int
journal_index_open(int dirfd, struct journal_places *places, bool distrust,
    journal_damage_fn *on_damage, void *arg, struct journal_index **out)
{
	struct journal_index *x = index_new(dirfd, places);
	struct journal_scan *scan = NULL;
	int r;

	r = journal_scan_open(dirfd, 0, distrust, on_damage, arg, &scan);
	if (r == 0)
		r = index_read(x, scan);
	journal_scan_close(scan);
	if (r < 0) {
		journal_index_close(x);
		return r;
	}
	*out = x;
	return 0;
}

void
journal_index_close(struct journal_index *x)
{
	if (x == NULL)
		return;
	for (size_t i = 0; i < x->n_numbered; i++)
		free(x->numbered[i].pages);
	for (size_t i = 0; i < x->n_slabs; i++)
		free(x->slabs[i]);
	free(x->slabs);
	journal_places_free(x->own_places);
	free(x->numbered);
	free(x);
}

bool
journal_index_is_done(const struct journal_index *x, uint64_t id)
{
	const uint32_t *at = find(x, id);

	return at != NULL && (*at & IS_DONE);
}

bool
journal_index_is_damaged(const struct journal_index *x)
{
	return x->damaged;
}

bool
journal_index_ended_well(const struct journal_index *x)
{
	return x->ended_well;
}

bool
journal_index_is_stale(const struct journal_index *x, uint64_t id)
{
	uint32_t place = journal_index_place(x, id);

	return place != 0 && journal_places_journal(x->places, place) < x->newest_snapshot;
}

int
journal_index_was_seen(struct journal_index *x, uint64_t id, bool *was_seen)
{
	uint32_t *at = find_or_add(x, id);

	if (at == NULL && id >> 56 == 0)
		return -ENOMEM;
	*was_seen = at != NULL && (*at & WAS_SEEN);
	if (at != NULL)
		*at |= WAS_SEEN;
	return 0;
}

uint32_t
journal_index_place(const struct journal_index *x, uint64_t id)
{
	const uint32_t *at = find(x, id);

	return at != NULL ? *at & PLACE : 0;
}

void
journal_index_unsee(struct journal_index *x, uint64_t id)
{
	uint32_t *at = find(x, id);

	if (at != NULL)
		*at &= ~WAS_SEEN;
}

int
journal_index_get(struct journal_index *x, uint64_t id, struct journal_outcome **out)
{
	return journal_places_get(x->places, journal_index_place(x, id), out);
}

int
journal_index_each(
    struct journal_index *x, int (*each)(void *arg, uint64_t id, bool done), void *arg)
{
	int r = 0;

	for (size_t i = 0; i < x->n_numbered && r == 0; i++) {
		const struct numbered *n = &x->numbered[i];

		for (uint32_t s = 0; s < n->n_pages * PAGE_IDS && r == 0; s++) {
			const uint32_t *page = n->pages[s / PAGE_IDS];

			if (page != NULL && (page[s % PAGE_IDS] & (PLACE | IS_DONE)) != 0)
				r = each(
				    arg, queue_id_make(n->number, s), page[s % PAGE_IDS] & IS_DONE);
		}
	}
	return r;
}

/* Compaction. */

struct compaction {
	struct journal_index *index;
	uint32_t *segments; /* that are there, ascending */
	size_t n_segments;
	int (*put)(void *arg, uint8_t type, const void *payload, size_t len);
	void *arg;
	uint64_t bytes;
};

static int
compare_numbers(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* Is any of the segments there in which the message may stand, or may have left a copy? */
static bool
is_there(const struct compaction *c, const struct journal_outcome *o)
{
	uint32_t first = (uint32_t)(o->id >> 24), last = first;
	size_t low = 0, high = c->n_segments;

	if (o->moved.offset != 0 && o->moved.segment > last)
		last = o->moved.segment;
	while (low < high) { /* the first that is not below the range */
		size_t middle = (low + high) / 2;

		if (c->segments[middle] < first)
			low = middle + 1;
		else
			high = middle;
	}
	return low < c->n_segments && c->segments[low] <= last;
}

/* In pieces of so many recipients, as the whole need not fit in a file of ours. */
static int
put_outcome(struct compaction *c, const struct journal_outcome *o)
{
	struct journal_outcome piece = *o;
	size_t from = 0, len;
	void *payload;
	int r;

	do {
		piece.recipients = o->recipients + from;
		piece.n_recipients = o->n_recipients - from;
		if (piece.n_recipients > RECIPIENTS_AT_ONCE)
			piece.n_recipients = RECIPIENTS_AT_ONCE;
		from += piece.n_recipients;
		r = journal_encode(&piece, &payload, &len);
		if (r < 0)
			return r;
		r = c->put(c->arg, RECORD_OUTCOME, payload, len);
		c->bytes += record_bytes((uint32_t)len);
		free(payload);
	} while (r == 0 && from < o->n_recipients);
	return r;
}

static int
on_live(void *arg, uint64_t id, bool done)
{
	struct compaction *c = arg;
	struct journal_outcome *o;
	int r;

	r = journal_index_get(c->index, id, &o);
	if (r < 0 || o == NULL)
		return r;
	if (!is_there(c, o)) {
		journal_free(o);
		return 0;
	}
	if (done) { /* whatever was said after it: it is never forgotten */
		o->flags |= JOURNAL_DONE;
		o->n_recipients = 0; /* nobody asks any more */
	}
	r = put_outcome(c, o);
	journal_free(o);
	return r;
}

static int
list_segments(int dirfd, struct compaction *c)
{
	uint32_t *more = NULL;
	size_t n = 0;
	int r;

	r = segment_list(dirfd, SEGMENT_NAME_INTAKE, &c->segments, &c->n_segments);
	if (r == 0)
		r = segment_list(dirfd, SEGMENT_NAME_DELIVERY, &more, &n);
	if (r == 0 && n > 0) {
		c->segments = xrealloc(c->segments, c->n_segments + n, sizeof(*more));
		memcpy(c->segments + c->n_segments, more, n * sizeof(*more));
		c->n_segments += n;
		qsort(c->segments, c->n_segments, sizeof(*more), compare_numbers);
	}
	free(more);
	return r;
}

static int
unlink_journals(const struct journal_scan *scan, int dirfd)
{
	char name[SEGMENT_NAME_MAX];
	const uint32_t *numbers;
	size_t n;

	numbers = journal_scan_numbers(scan, &n);
	for (size_t i = 0; i < n; i++) {
		int r;

		segment_name(SEGMENT_JOURNAL, numbers[i], name);
		r = os_unlink(dirfd, name); /* oldest first: what is left is still in order */
		if (r < 0 && r != -ENOENT)
			return r;
	}
	return os_fsync(dirfd);
}

int
journal_compact(int dirfd, uint32_t below,
    int (*put)(void *arg, uint8_t type, const void *payload, size_t len), void *arg,
    uint64_t *bytes)
{
	struct compaction c = { .index = index_new(dirfd, NULL), .put = put, .arg = arg };
	struct journal_scan *scan = NULL;
	int r;

	r = journal_scan_open(dirfd, below, false, NULL, NULL, &scan);
	if (r == 0)
		r = index_read(c.index, scan);
	if (r == 0 && c.index->damaged)
		r = -EBADMSG; /* the damaged bytes stay where they are until someone has looked */
	if (r == 0)
		r = list_segments(dirfd, &c);
	if (r == 0) /* what is not there must not come back when its outcomes are gone */
		r = os_fsync(dirfd);
	if (r == 0)
		r = put(arg, RECORD_SNAPSHOT, NULL, 0);
	if (r == 0)
		r = journal_index_each(c.index, on_live, &c);
	if (r == 0)
		r = put(arg, RECORD_OUTCOME, NULL, 0);
	if (r == 0)
		r = unlink_journals(scan, dirfd);
	if (r == 0)
		*bytes = c.bytes;
	free(c.segments);
	journal_scan_close(scan);
	journal_index_close(c.index);
	return r;
}

struct sum {
	int dirfd;
	uint64_t bytes;
};

static int
add_size(void *arg, const char *name)
{
	struct sum *sum = arg;
	uint32_t number;
	struct stat st;
	int fd;

	if (segment_parse_name(name, &number) != SEGMENT_NAME_JOURNAL)
		return 0;
	fd = os_open(sum->dirfd, name, O_RDONLY | O_NONBLOCK, 0);
	if (fd < 0)
		return 0;
	if (os_fstat(fd, &st) == 0 && st.st_size > 0)
		sum->bytes += (uint64_t)st.st_size;
	os_close(fd);
	return 0;
}

uint64_t
journal_bytes_on_disk(int dirfd)
{
	struct sum sum = { dirfd, 0 };

	if (os_list(dirfd, add_size, &sum) < 0)
		return 0;
	return sum.bytes;
}

static bool
is_empty(int dirfd, uint32_t number)
{
	struct spool_reader *reader = NULL;
	struct spool_entry entry;
	enum spool_event event;
	bool is;

	if (spool_reader_open(dirfd, SEGMENT_JOURNAL, number, SPOOL_READ_TO_END, false, &reader) <
	    0)
		return false;
	do
		is = spool_reader_next(reader, &event, &entry) == 0;
	while (
	    is && event == SPOOL_DAMAGE &&
	    (entry.damage.range == SPOOL_RANGE_ZERO || entry.damage.range == SPOOL_RANGE_UNUSED));
	is = is && event == SPOOL_END && !spool_reader_has_snapshot(reader) &&
	     !spool_reader_was_closed_clean(reader);
	spool_reader_close(reader);
	return is;
}

void
journal_drop_empty(int dirfd)
{
	char name[SEGMENT_NAME_MAX];
	uint32_t *numbers = NULL;
	size_t n = 0;

	if (segment_list(dirfd, SEGMENT_NAME_JOURNAL, &numbers, &n) < 0)
		return;
	for (size_t i = 0; i < n; i++)
		if (is_empty(dirfd, numbers[i])) {
			segment_name(SEGMENT_JOURNAL, numbers[i], name);
			segment_abandon(dirfd, name, numbers[i]);
		}
	free(numbers);
}
