/* history.c - see history.h. */
#include <errno.h>
#include <stdlib.h>

#include "delivery/history.h"
#include "spool/reader.h"

/* Places by the queue's own numbers. */
struct table {
	struct journal_places *places;
	uint32_t *slots;
	size_t n_slots;
};

/* An outcome that became durable while the journals are read anew. */
struct later {
	uint64_t id;
	struct spool_location at;
	bool is_complete;
};

struct history {
	int dirfd;
	const struct queue *queue;
	struct table now, next;
	bool is_due; /* to be read anew */
	struct journal_scan *scan;
	struct later *later;
	size_t n_later, later_room;
};

static void
table_fini(struct table *t)
{
	journal_places_free(t->places);
	free(t->slots);
	*t = (struct table){ 0 };
}

static uint32_t *
slot_of(struct table *t, const struct queue_entry *e)
{
	if (e->self >= t->n_slots) { /* by an eighth: a million messages shall not cost two */
		size_t n = e->self + e->self / 8 + 1024;

		t->slots = xrealloc(t->slots, n, sizeof(t->slots[0]));
		memset(t->slots + t->n_slots, 0, (n - t->n_slots) * sizeof(t->slots[0]));
		t->n_slots = n;
	}
	return &t->slots[e->self];
}

static void
table_add(struct table *t, const struct queue_entry *e, struct spool_location at, bool is_complete)
{
	/* What cannot be told costs a line in a list its reason, nothing else. */
	(void)!journal_places_add(t->places, slot_of(t, e), at.segment, at.offset, is_complete);
}

static void
table_leave(struct table *t, const struct queue_entry *e)
{
	if (e->self < t->n_slots)
		journal_places_drop(t->places, &t->slots[e->self]);
}

struct history *
history_new(int dirfd, const struct queue *queue)
{
	struct history *h = xcalloc(1, sizeof(*h));

	h->dirfd = dirfd;
	h->queue = queue;
	h->now.places = journal_places_new(dirfd);
	return h;
}

static void
stop_reading(struct history *h)
{
	journal_scan_close(h->scan);
	h->scan = NULL;
	table_fini(&h->next);
	free(h->later);
	h->later = NULL;
	h->n_later = h->later_room = 0;
}

void
history_free(struct history *h)
{
	if (h == NULL)
		return;
	stop_reading(h);
	table_fini(&h->now);
	free(h);
}

struct journal_places *
history_places(struct history *h)
{
	return h->now.places;
}

void
history_enter(struct history *h, const struct queue_entry *e, uint32_t place)
{
	if (place != 0)
		*slot_of(&h->now, e) = place;
}

void
history_note(
    struct history *h, const struct queue_entry *e, struct spool_location at, bool is_complete)
{
	table_add(&h->now, e, at, is_complete);
	if (h->scan == NULL)
		return;
	if (h->n_later == h->later_room) {
		h->later_room = h->later_room ? 2 * h->later_room : 64;
		h->later = xrealloc(h->later, h->later_room, sizeof(h->later[0]));
	}
	h->later[h->n_later++] = (struct later){ e->id, at, is_complete };
}

void
history_leave(struct history *h, const struct queue_entry *e)
{
	table_leave(&h->now, e);
	if (h->scan != NULL)
		table_leave(&h->next, e);
}

void
history_get(const struct history *h, const struct queue_entry *e, struct journal_outcome **out)
{
	*out = NULL;
	if (e->self < h->now.n_slots &&
	    journal_places_get(h->now.places, h->now.slots[e->self], out) < 0)
		*out = NULL;
}

void
history_renew(struct history *h)
{
	h->is_due = true;
}

/* All is read. What became durable meanwhile was perhaps read already: twice does no harm, and it is the
 * newest. */
static void
take_over(struct history *h)
{
	for (size_t i = 0; i < h->n_later; i++) {
		const struct queue_entry *e = queue_find(h->queue, h->later[i].id);

		if (e != NULL)
			table_add(&h->next, e, h->later[i].at, h->later[i].is_complete);
	}
	table_fini(&h->now);
	h->now = h->next;
	h->next = (struct table){ 0 };
	stop_reading(h);
}

bool
history_step(struct history *h, unsigned most)
{
	int r = 1;

	if (h->is_due) {
		stop_reading(h);
		if (journal_scan_open(h->dirfd, 0, false, NULL, NULL, &h->scan) < 0)
			return false; /* still due: the next tick tries again */
		h->next.places = journal_places_new(h->dirfd);
		h->is_due = false;
	}
	for (unsigned i = 0; i < most && h->scan != NULL && r > 0; i++) {
		const struct queue_entry *e;
		struct spool_entry entry;
		bool is_complete;
		uint32_t flags;
		uint64_t id;

		r = journal_scan_next(h->scan, &entry);
		if (r <= 0 || journal_peek(entry.payload, &id, &flags, &is_complete) < 0)
			continue;
		e = queue_find(h->queue, id);
		if (e != NULL)
			table_add(&h->next, e, entry.location, is_complete);
	}
	if (r == 0 && h->scan != NULL)
		take_over(h);
	else if (r < 0) {
		stop_reading(h);
		h->is_due = true;
		return false;
	}
	return h->scan != NULL;
}
