#include <stdlib.h>

#include "spool/in_flight.h"

#define UNNAMED UINT32_MAX /* the mark of what found no place */

struct in_flight {
	struct shared_page *page;
	uint32_t most;
	bool page_is_new;
	uint32_t old_unnamed;
	uint32_t n_old, n_free;
	uint64_t old[SHARED_PAGE_MARKS]; /* ascending: what the delivery before has left */
	uint32_t old_places[SHARED_PAGE_MARKS], free_places[SHARED_PAGE_MARKS];
};

static int
compare_ids(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

struct in_flight *
in_flight_open(struct shared_page *page, uint32_t most)
{
	struct in_flight *f = xcalloc(1, sizeof(*f));

	f->page = page;
	f->most = most;
	f->page_is_new = atomic_load(&page->marks_are_kept) == 0;
	f->old_unnamed = atomic_load(&page->unmarked);
	for (uint32_t i = SHARED_PAGE_MARKS; i > 0; i--) {
		uint64_t id = atomic_load(&page->marks[i - 1]);

		if (id == 0) {
			f->free_places[f->n_free++] = i - 1;
			continue;
		}
		f->old_places[f->n_old] = i - 1;
		f->old[f->n_old++] = id;
	}
	qsort(f->old, f->n_old, sizeof(f->old[0]), compare_ids);
	return f;
}

void
in_flight_close(struct in_flight *f)
{
	free(f);
}

bool
in_flight_was_sent(const struct in_flight *f, uint64_t id)
{
	return f->n_old > 0 && bsearch(&id, f->old, f->n_old, sizeof(id), compare_ids) != NULL;
}

uint32_t
in_flight_named(const struct in_flight *f)
{
	return f->n_old;
}

uint32_t
in_flight_unnamed(const struct in_flight *f, bool ended_well)
{
	return f->page_is_new && !ended_well ? f->most : f->old_unnamed;
}

void
in_flight_told(struct in_flight *f)
{
	atomic_store(&f->page->marks_are_kept, 1);
	f->page_is_new = false;
}

void
in_flight_forget(struct in_flight *f)
{
	for (uint32_t i = 0; i < f->n_old; i++) {
		atomic_store(&f->page->marks[f->old_places[i]], 0);
		f->free_places[f->n_free++] = f->old_places[i];
	}
	atomic_fetch_sub(&f->page->unmarked, f->old_unnamed);
	f->n_old = f->old_unnamed = 0;
	in_flight_told(f);
}

uint32_t
in_flight_enter(struct in_flight *f, uint64_t id)
{
	uint32_t place;

	if (f->n_free == 0) {
		atomic_fetch_add(&f->page->unmarked, 1);
		return UNNAMED;
	}
	place = f->free_places[--f->n_free];
	atomic_store(&f->page->marks[place], id);
	return place + 1;
}

void
in_flight_leave(struct in_flight *f, uint32_t mark)
{
	if (mark == 0)
		return;
	if (mark == UNNAMED) {
		atomic_fetch_sub(&f->page->unmarked, 1);
		return;
	}
	atomic_store(&f->page->marks[mark - 1], 0);
	f->free_places[f->n_free++] = mark - 1;
}
