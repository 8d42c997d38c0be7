/* journal_scan.c - every stored outcome, one after the other (journal.h). */
#include <errno.h>
#include <stdlib.h>

#include "base/os.h"
#include "spool/journal.h"
#include "spool/reader.h"

struct journal_scan {
	int dirfd;
	uint32_t below; /* journals from this number on are not read; 0: all are */
	bool distrust, is_damaged, ended_well;
	uint32_t newest_snapshot;
	journal_damage_fn *on_damage;
	void *arg;
	uint32_t *numbers; /* ascending; [0..next[ are begun or read */
	size_t n, next;
	struct spool_reader *reader;
};

/* Adds the journals that are newer than those it knows. */
static int
look_for_more(struct journal_scan *s)
{
	uint32_t *numbers = NULL, last = s->n > 0 ? s->numbers[s->n - 1] : 0;
	size_t n = 0;
	int r;

	r = segment_list(s->dirfd, SEGMENT_NAME_JOURNAL, &numbers, &n);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		if (numbers[i] <= last || (s->below != 0 && numbers[i] >= s->below))
			continue;
		s->numbers = xrealloc(s->numbers, s->n + 1, sizeof(*numbers));
		s->numbers[s->n++] = numbers[i];
	}
	free(numbers);
	return 0;
}

int
journal_scan_open(int dirfd, uint32_t below, bool distrust, journal_damage_fn *on_damage, void *arg,
    struct journal_scan **out)
{
	struct journal_scan *s = xcalloc(1, sizeof(*s));
	int r;

	s->dirfd = dirfd;
	s->below = below;
	s->distrust = distrust;
	s->on_damage = on_damage;
	s->arg = arg;
	s->ended_well = true;
	r = look_for_more(s);
	if (r < 0) {
		journal_scan_close(s);
		return r;
	}
	*out = s;
	return 0;
}

void
journal_scan_close(struct journal_scan *s)
{
	if (s == NULL)
		return;
	spool_reader_close(s->reader);
	free(s->numbers);
	free(s);
}

/* Which one it is that ends the start. */
static void
tell_unreadable(const struct journal_scan *s, uint32_t number, int error)
{
	struct spool_damage damage = { .kind = SEGMENT_JOURNAL,
		.number = number,
		.range = SPOOL_RANGE_CORRUPT,
		.error = error };

	segment_name(SEGMENT_JOURNAL, number, damage.file);
	if (s->on_damage != NULL)
		s->on_damage(s->arg, &damage);
}

/* 1: a reader is there; 0: all are read. One that is gone was compacted away meanwhile: what lived in
 * it stands in a newer one. */
static int
open_next(struct journal_scan *s)
{
	uint32_t number;
	int r;

	while (s->reader == NULL) {
		if (s->next == s->n) {
			r = look_for_more(s);
			if (r < 0 || s->next == s->n)
				return r;
		}
		number = s->numbers[s->next++];
		r = spool_reader_open(
		    s->dirfd, SEGMENT_JOURNAL, number, SPOOL_READ_TO_END, s->distrust, &s->reader);
		if (r < 0 && r != -ENOENT) {
			tell_unreadable(s, number, -r);
			return r;
		}
	}
	return 1;
}

int
journal_scan_next(struct journal_scan *s, struct spool_entry *entry)
{
	enum spool_event event;
	int r;

	while ((r = open_next(s)) > 0) {
		r = spool_reader_next(s->reader, &event, entry);
		if (r < 0)
			return r;
		switch (event) {
		case SPOOL_OUTCOME:
			return 1;
		case SPOOL_UNKNOWN:
			tell_unreadable(s, s->numbers[s->next - 1], EPROTONOSUPPORT);
			return -EPROTONOSUPPORT; /* it may say that mail was delivered */
		case SPOOL_DAMAGE:
			s->is_damaged |= entry->damage.range == SPOOL_RANGE_CORRUPT;
			if (s->on_damage != NULL)
				s->on_damage(s->arg, &entry->damage);
			break;
		case SPOOL_END:
			if (spool_reader_has_snapshot(s->reader))
				s->newest_snapshot = s->numbers[s->next - 1];
			s->ended_well = spool_reader_was_closed_clean(s->reader);
			spool_reader_close(s->reader);
			s->reader = NULL;
			break;
		case SPOOL_MESSAGE:
		case SPOOL_REVOKE:
			break;
		}
	}
	return r;
}

int
journal_scan_next_of(
    struct journal_scan *s, uint64_t id, unsigned most, struct journal_outcome **out)
{
	for (unsigned i = 0; i < most; i++) {
		struct spool_entry entry;
		bool is_complete;
		uint32_t flags;
		uint64_t found;
		int r = journal_scan_next(s, &entry);

		if (r <= 0)
			return r;
		if (journal_peek(entry.payload, &found, &flags, &is_complete) < 0 || found != id)
			continue;
		r = journal_decode(entry.payload, out);
		if (r == 0 || r == -ENOMEM)
			return r == 0 ? 1 : r;
	}
	return -EAGAIN;
}

bool
journal_scan_is_damaged(const struct journal_scan *s)
{
	return s->is_damaged;
}

bool
journal_scan_ended_well(const struct journal_scan *s)
{
	return s->ended_well;
}

uint32_t
journal_scan_newest_snapshot(const struct journal_scan *s)
{
	return s->newest_snapshot;
}

const uint32_t *
journal_scan_numbers(const struct journal_scan *s, size_t *n)
{
	*n = s->next;
	return s->numbers;
}
