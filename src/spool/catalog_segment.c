/* catalog_segment.c - one segment, up to the messages in it (catalog.h): it is followed until it is at its end
 * for good. */
#include <errno.h>
#include <stdlib.h>

#include "base/os.h"
#include "spool/catalog_parts.h"

/* --- what is found in it ---------------------------------------------------------------------- */

/* Is there nothing left in these bytes for which their file must stay? What could not be read may be
 * readable at the next start, and only who reads a file from its start knows the whole of a damage. */
static bool
is_set_aside(struct catalog *c, const struct spool_damage *damage, bool is_whole)
{
	if (!is_whole)
		return false;
	if (!c->options.sweep)
		return true; /* it only looks */
	return spool_store_quarantine(c->store, damage) == 0 && damage->error == 0;
}

void
catalog_segment_note_damage(struct catalog *c, const struct spool_damage *damage, bool is_whole)
{
	if (damage->range == SPOOL_RANGE_ZERO || damage->range == SPOOL_RANGE_UNUSED)
		return;
	if (damage->range == SPOOL_RANGE_TORN)
		c->sum.torn_ranges++;
	else
		c->sum.corrupt_ranges++;
	if (damage->range == SPOOL_RANGE_CORRUPT && damage->first_missing != 0)
		c->sum.missing_records += damage->last_missing - damage->first_missing + 1;
	if (damage->error != 0)
		c->is_unreadable = true;
	if (damage->range == SPOOL_RANGE_CORRUPT && !is_set_aside(c, damage, is_whole))
		spool_store_keep(c->store, damage->number);
	if (c->options.damage != NULL)
		c->options.damage(c->options.arg, damage);
}

/* A newer version wrote this: it is left for it. */
static void
keep_newer(struct catalog *c, uint32_t segment)
{
	c->sum.newer = true;
	spool_store_keep(c->store, segment);
}

static uint32_t
bytes_of(const struct spool_entry *entry)
{
	uint32_t envelope = record_bytes((uint32_t)entry->payload.len);

	return entry->body_offset != 0 ? envelope + record_bytes(entry->body_bytes) : envelope;
}

/* It came in by intake and stands in a segment of delivery's: a copy that compaction has made. Its
 * client had its 250 long before, whatever became of the copy's group. */
static bool
is_copy(const struct spool_entry *entry)
{
	return segment_kind_of(entry->location.segment) == SEGMENT_DELIVERY &&
	       segment_kind_of((uint32_t)(entry->id >> 24)) == SEGMENT_INTAKE;
}

/* Gives a message to the caller. */
static int
give(struct catalog *c, const struct spool_entry *entry, uint64_t *given)
{
	struct catalog_message m = { .id = entry->id,
		.location = entry->location,
		.place = c->index != NULL ? journal_index_place(c->index, entry->id) : 0,
		.bytes = bytes_of(entry),
		.uncommitted = !entry->committed && !is_copy(entry) };
	struct journal_outcome *outcome = NULL;
	struct envelope *envelope;
	int r;

	r = envelope_decode(entry->payload, &envelope);
	if (r == -ENOMEM)
		return r;
	if (r < 0) {
		keep_newer(c, entry->location.segment); /* whole, but not for us to deliver */
		return 0;
	}
	r = m.place != 0 ? journal_index_get(c->index, entry->id, &outcome) : 0;
	if (r == 0) {
		m.envelope = envelope;
		m.outcome = outcome;
		if (envelope->flags & ENVELOPE_LARGE)
			catalog_large_check(c, envelope);
		c->sum.messages++;
		c->sum.uncommitted += m.uncommitted;
		++*given;
		r = c->options.message != NULL ? c->options.message(c->options.arg, &m) : 0;
	}
	journal_free(outcome);
	envelope_free(envelope);
	return r;
}

static int
take_message(struct catalog *c, const struct spool_entry *entry, uint64_t *given)
{
	bool was_seen = false;
	int r;

	if (entry->id == 0) {
		keep_newer(c, entry->location.segment);
		return 0;
	}
	if (spool_store_is_revoked(c->store, entry->location.segment, entry->seq)) {
		c->sum.revoked++;
		return 0;
	}
	if (c->index != NULL && journal_index_is_done(c->index, entry->id)) {
		c->sum.done++;
		return 0;
	}
	if (c->index != NULL) {
		r = journal_index_was_seen(c->index, entry->id, &was_seen);
		if (r < 0)
			return r;
	}
	if (was_seen) { /* it was moved, and this place is not freed yet: the same message */
		c->sum.duplicates++;
		return 0;
	}
	r = give(c, entry, given);
	if (r < 0 && c->index != NULL)
		journal_index_unsee(c->index, entry->id); /* it comes again */
	return r;
}

/* 0, or -errno: it cannot be told. */
static int
note_revoke(struct catalog *c, uint32_t number, struct spool_reader *reader)
{
	struct spool_entry entry;
	enum spool_event event;
	int r;

	do {
		r = spool_reader_next(reader, &event, &entry);
		if (r < 0)
			return r;
		if (event == SPOOL_REVOKE)
			spool_store_note_revoke(c->store, number, &entry.revoke);
		if (event == SPOOL_DAMAGE && entry.damage.error != 0)
			return -entry.damage.error;
	} while (event != SPOOL_END);
	return 0;
}

/* A REVOKE is the first record of its file: look at these before anything is given. */
int
catalog_segment_note_revokes(struct catalog *c)
{
	for (size_t i = 0; i < c->n_past; i++) {
		uint32_t number = c->past[i].number;
		struct spool_reader *reader;
		int r;

		r = spool_reader_open(c->options.dirfd, segment_kind_of(number), number,
		    SPOOL_READ_TO_END, false, &reader);
		if (r == -ENOENT)
			continue;
		if (r < 0)
			return r;
		spool_reader_revokes_only(reader);
		r = note_revoke(c, number, reader);
		spool_reader_close(reader);
		if (r == -ENOMEM)
			return r;
		c->is_unsure |= r < 0; /* one bad block is no reason never to start */
	}
	return 0;
}

/* How far may it be read? False: nobody answers for it, as after a crash. What a writer has once said to
 * be final is remembered: its slot may be used again before we come to it. */
bool
catalog_segment_look(
    struct catalog *c, struct catalog_followed *l, uint64_t *limit, enum shared_slot_state *state)
{
	*state = SHARED_SLOT_FREE;
	*limit = 0;
	if (l->sealed_bytes != 0) {
		*limit = l->sealed_bytes;
		*state = SHARED_SLOT_SEALED;
		return true;
	}
	if (c->options.page == NULL || !shared_page_look(c->options.page, l->number, limit, state))
		return false;
	if (*state == SHARED_SLOT_SEALED)
		l->sealed_bytes = *limit;
	return true;
}

/* An orphan that never got its name. It may be the only trace of the highest number. */
static void
drop_prepared(struct catalog *c, uint32_t number)
{
	char name[SEGMENT_NAME_MAX], to[SEGMENT_NAME_MAX];

	segment_prep_name(number, name);
	segment_free_name(number, to);
	if (c->options.sweep && os_rename(c->options.dirfd, name, to) == -EEXIST)
		(void)os_unlink(c->options.dirfd, name);
}

static int
open_followed(struct catalog *c, struct catalog_followed *l, uint64_t limit, bool to_end)
{
	int r;

	l->reader_to_end = to_end;
	r = spool_reader_open(c->options.dirfd, segment_kind_of(l->number), l->number,
	    to_end ? SPOOL_READ_TO_END : limit, to_end && c->options.distrust, &l->reader);
	if (r == 0 && spool_reader_sync_error(l->reader) != 0)
		c->sum.sync_error = spool_reader_sync_error(l->reader);
	return r;
}

/* Its writer is gone, and what it had published is read: from here on the disk is believed. */
static int
reopen_to_end(struct catalog *c, struct catalog_followed *l)
{
	if (spool_reader_position(l->reader) > l->begin)
		l->begin = spool_reader_position(l->reader);
	spool_reader_close(l->reader);
	l->reader = NULL;
	return open_followed(c, l, 0, true);
}

/* It may reach back to where all was well the last time: all of the file, if its header cannot be read. */
static void
tell_once(struct catalog *c, struct catalog_followed *l, const struct spool_damage *damage)
{
	uint64_t end = damage->offset + damage->length_bytes;

	if (end <= l->told && damage->offset < l->told)
		return;
	catalog_segment_note_damage(c, damage, l->is_past);
	if (damage->range != SPOOL_RANGE_ZERO && damage->range != SPOOL_RANGE_UNUSED)
		l->told = end;
}

/* One that was not met before (note_revoke()) comes too late, perhaps: what it names may have been given. */
static int
take_revoke(struct catalog *c, const struct catalog_followed *l, const struct record_revoke *revoke)
{
	bool is_late = c->is_unsure && l->is_past &&
	               !spool_store_is_revoked(c->store, revoke->segment, revoke->first_seq);

	spool_store_note_revoke(c->store, l->number, revoke);
	return is_late ? -ESTALE : 0; /* start again: now it can be read */
}

static int
take_entry(struct catalog *c, struct catalog_followed *l, enum spool_event event,
    const struct spool_entry *entry, struct catalog_budget *budget)
{
	int r;

	switch (event) {
	case SPOOL_MESSAGE:
		if (entry->location.offset < l->begin)
			return 0;
		budget->messages--;
		r = take_message(c, entry, &l->given);
		if (r == 0)
			l->begin = (uint64_t)entry->location.offset + 1;
		return r;
	case SPOOL_DAMAGE:
		tell_once(c, l, &entry->damage);
		return 0;
	case SPOOL_REVOKE:
		return take_revoke(c, l, &entry->revoke);
	case SPOOL_UNKNOWN:
		keep_newer(c, l->number);
		return 0;
	case SPOOL_OUTCOME:
	case SPOOL_END:
		break;
	}
	return 0;
}

/* Gives what the reader finds, up to the budget. */
static int
read_on(struct catalog *c, struct catalog_followed *l, struct catalog_budget *budget, bool *at_end)
{
	while (budget->messages > 0 && budget->bytes > 0) {
		uint64_t position = spool_reader_position(l->reader), read;
		struct spool_entry entry;
		enum spool_event event;
		int r;

		r = spool_reader_next(l->reader, &event, &entry);
		if (r < 0)
			return r;
		read = spool_reader_position(l->reader) - position;
		budget->bytes -= read < budget->bytes ? read : budget->bytes;
		*at_end = event == SPOOL_END;
		if (*at_end)
			return 0;
		r = take_entry(c, l, event, &entry, budget);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Gives what is there, up to the budget. *ended: it is at its end for good, or gone. After a failure it
 * is read once more from its start, and what was given is passed over. */
int
catalog_segment_follow(
    struct catalog *c, struct catalog_followed *l, struct catalog_budget *budget, bool *ended)
{
	enum shared_slot_state state;
	bool at_end = false, orphan;
	uint64_t limit;
	int r;

	*ended = false;
	orphan = !catalog_segment_look(c, l, &limit, &state);
	if (!orphan && l->reader == NULL && limit <= l->begin && state == SHARED_SLOT_LIVE)
		return 0;
	r = l->reader == NULL ? open_followed(c, l, limit, orphan) : 0;
	if (r == 0 && !orphan)
		spool_reader_extend(l->reader, limit);
	if (r == 0)
		r = read_on(c, l, budget, &at_end);
	if (r == 0 && at_end && orphan && !l->reader_to_end) {
		at_end = false;
		r = reopen_to_end(c, l);
		if (r == 0)
			r = read_on(c, l, budget, &at_end);
	}
	if (r == -ENOENT) {
		if (orphan)
			drop_prepared(c, l->number);
		*ended = orphan || state == SHARED_SLOT_SEALED;
		return 0;
	}
	if (r < 0) {
		spool_reader_close(l->reader);
		l->reader = NULL;
		return r;
	}
	*ended = at_end && (orphan || state == SHARED_SLOT_SEALED);
	return 0;
}
