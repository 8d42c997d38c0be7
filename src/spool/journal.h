/* journal.h - what became of each recipient: the payload of OUTCOME records in journal-N.log, their
 * replay, and compaction. Only delivery writes a journal, with a spool_writer of SEGMENT_JOURNAL.
 *
 * OUTCOME payload: fields {tag u16, length u32, bytes} as in envelope.h (unknown tags are skipped):
 *    1 id u64   2 time_ms u64   3 flags u32 (below)   4 possible_duplicates u32
 *    5 moved: u32 segment, u32 offset
 *    6 recipient: u32 index, u8 state, u8 0, u16 code, u32 attempts, u64 next_attempt_ms,
 *                 u8 length, enhanced code; u16 length, reply text; u8 length, upstream name
 *    7 n_recipients u32
 * An OUTCOME says how things are, not what changed: replay takes, for each recipient, the last
 * record that names it, and for the message the flags of the last record; but a DONE that was said
 * once stays. Applying one twice does no harm, so journals are replayed in the order of their
 * numbers, whatever was copied.
 *
 * OUTCOMEs of a message are needed until each segment it stands in is gone from the directory,
 * durably. A message comes into the segment that its ID names, or a later one if that was full by
 * then, and each move takes it to a segment with a higher number; copies that it left behind stay
 * until their segments are freed, in whatever order. So all of its places lie between its ID's
 * segment and `moved`: as long as any segment of that range is there its outcomes are kept, and
 * whoever writes one says `moved` if the message stands anywhere but where its ID says.
 *
 * Compaction (done by the writer's thread, when the journals are over 4 times what lives) writes a
 * new journal that starts with a SNAPSHOT record, syncs it, then unlinks the older ones. */
#ifndef RELAYD_SPOOL_JOURNAL_H
#define RELAYD_SPOOL_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "base/span.h"
#include "spool/segment.h"

#define JOURNAL_REPLY_MAX 512u

enum journal_state {
	JOURNAL_QUEUED = 0,   /* not tried yet, or to be tried again now */
	JOURNAL_DEFERRED = 1, /* waits for next_attempt_ms */
	JOURNAL_HELD = 2,     /* waits for an operator */
	/* final (I3): */
	JOURNAL_DELIVERED = 3,
	JOURNAL_BOUNCED = 4, /* given up, the sender was told (or need not be) */
	JOURNAL_EXPIRED = 5, /* as bounced, because of its age */
	JOURNAL_REMOVED = 6, /* by an operator */
};

static inline bool
journal_state_is_final(enum journal_state state)
{
	return state >= JOURNAL_DELIVERED;
}

enum journal_flags {
	JOURNAL_DONE =
	    1u << 0, /* every recipient is final and nothing is owed: forget the message */
	JOURNAL_HOLD = 1u << 1,   /* the message is held by an operator (absent: released) */
	JOURNAL_WARNED = 1u << 2, /* the delay warning was sent */
	JOURNAL_MOVED = 1u << 3,  /* `moved` is where it stands now: not in its ID's segment */
};

struct journal_recipient {
	uint32_t index;
	enum journal_state state;
	uint32_t attempts;
	uint64_t next_attempt_ms; /* since 1970 */
	uint16_t code;            /* 0: no reply */
	struct span enhanced;     /* "5.1.1" or empty */
	struct span reply; /* cut to JOURNAL_REPLY_MAX; any bytes but CR, LF, NUL (made spaces) */
	struct span upstream;
};

struct journal_outcome {
	uint64_t id;
	uint64_t time_ms;
	uint32_t flags;
	uint32_t possible_duplicates; /* so far, for this message */
	/* Where the message stands, if that is not the segment of its ID: it was written to the next one, or
	 * moved. Every outcome of such a message says so, or compaction forgets it too early. */
	struct spool_location moved;
	uint32_t
	    n_all; /* how many recipients the message has: a record that names all of them makes
			 * older ones of this message unneeded */
	struct journal_recipient *recipients;
	size_t n_recipients; /* named here */
};

/* Gives the payload (free()). -EMSGSIZE, -ENOMEM. Texts that are too long are cut. */
int journal_encode(const struct journal_outcome *o, void **out, size_t *len) MUST_CHECK;
/* Gives an outcome that owns all its bytes, ended by journal_free(). -EBADMSG, -ENOMEM. */
int journal_decode(struct span payload, struct journal_outcome **out) MUST_CHECK;
void journal_free(struct journal_outcome *o); /* NULL is fine */
/* Without an allocation. is_complete: it names as many recipients as the message has. */
int journal_peek(struct span payload, uint64_t *id, uint32_t *flags, bool *is_complete) MUST_CHECK;

/* What was found wrong: a damaged range of a journal (see reader.h), once each. */
struct spool_damage;
struct spool_entry;
typedef void journal_damage_fn(void *arg, const struct spool_damage *damage);

/* Every stored outcome of all journals in order, up to the end of what is valid; writes nothing. What is
 * written meanwhile is given as well; what is compacted meanwhile may be given twice. `below`: only
 * journals of lower numbers; 0: all. `distrust`: see segment_open(). Borrows dirfd as long as it lives. */
struct journal_scan;
int journal_scan_open(int dirfd, uint32_t below, bool distrust, journal_damage_fn *on_damage,
    void *arg, struct journal_scan **out) MUST_CHECK;
/* 1: *entry is the next OUTCOME, in journal entry->location.segment; 0: there are no more; -errno.
 * -EPROTONOSUPPORT: a newer version wrote it; without it mail would be sent twice. */
int journal_scan_next(struct journal_scan *s, struct spool_entry *entry) MUST_CHECK;
/* The next one of this message (journal_free()); looks at `most` of them at the most, then it says
 * -EAGAIN: call again. */
int journal_scan_next_of(
    struct journal_scan *s, uint64_t id, unsigned most, struct journal_outcome **out) MUST_CHECK;
void journal_scan_close(struct journal_scan *s);            /* NULL is fine */
bool journal_scan_is_damaged(const struct journal_scan *s); /* so far: outcomes may be missing */
bool journal_scan_ended_well(
    const struct journal_scan *s); /* the last one was closed in good order */
/* The number of the newest one, so far, that compaction has begun; 0: none. */
uint32_t journal_scan_newest_snapshot(const struct journal_scan *s);
/* The journals that were begun so far, ascending. Borrowed. */
const uint32_t *journal_scan_numbers(const struct journal_scan *s, size_t *n);

/* The journals that hold nothing go: a delivery that is killed leaves one that it had made ready, and
 * each would take the room of a segment. When all have been read and before a new one is begun. What
 * cannot be read or removed stays. */
void journal_drop_empty(int dirfd);

/* Places: where the outcomes of a message stand, told in 30 bits that the caller keeps; 0: it has none.
 * Only messages with several outcomes that count (recipients that went different ways) cost
 * memory in here. Keeps the journals open: a place is good as long as this lives, whatever compaction
 * unlinks. */
struct journal_places;
struct journal_places *journal_places_new(int dirfd); /* borrows dirfd as long as it lives */
void journal_places_free(struct journal_places *p);   /* NULL is fine */
/* One more outcome of the message, newer than those that *place names. `is_complete`: it replaces
 * them. *place is as it was after a failure. */
int journal_places_add(struct journal_places *p, uint32_t *place, uint32_t journal, uint32_t offset,
    bool is_complete) MUST_CHECK;
void journal_places_drop(
    struct journal_places *p, uint32_t *place); /* they are not wanted any more */
/* The number of the journal in which its newest outcome stands. */
uint32_t journal_places_journal(const struct journal_places *p, uint32_t place);
/* All outcomes of the message merged into one; *out is NULL when there are none. Gives it
 * (journal_free()). */
int journal_places_get(
    struct journal_places *p, uint32_t place, struct journal_outcome **out) MUST_CHECK;

/* All that the journals say, by message: what replay and compaction work with. It keeps places, not
 * records: about 4 bytes for a message. */
struct journal_index;

/* Reads all journals of the directory. `places`: where its places are kept (borrowed), so that they
 * outlive it; NULL: with it. The rest as in journal_scan_open(), failures as in journal_scan_next(). */
int journal_index_open(int dirfd, struct journal_places *places, bool distrust,
    journal_damage_fn *on_damage, void *arg, struct journal_index **out) MUST_CHECK;
void journal_index_close(struct journal_index *index); /* NULL is fine */

bool journal_index_is_done(const struct journal_index *index, uint64_t id);
/* Is all that is known of it older than the last compaction? Then that has let go of it: the message was gone,
 * and what is left is a journal whose unlinking a crash has undone. */
bool journal_index_is_stale(const struct journal_index *index, uint64_t id);
uint32_t journal_index_place(const struct journal_index *index, uint64_t id);
int journal_index_get(
    struct journal_index *index, uint64_t id, struct journal_outcome **out) MUST_CHECK;
/* First call for an ID: false, later ones: true. Replay uses it to pass over a second copy. */
int journal_index_was_seen(struct journal_index *index, uint64_t id, bool *was_seen) MUST_CHECK;
void journal_index_unsee(
    struct journal_index *index, uint64_t id); /* as if it had not been called */
/* IDs with outcomes, in ascending order of segment number and sequence. */
int journal_index_each(struct journal_index *index, int (*each)(void *arg, uint64_t id, bool done),
    void *arg) MUST_CHECK;
/* Damage was found in a journal: outcomes may be missing, some mail may be sent twice. */
bool journal_index_is_damaged(const struct journal_index *index);
/* The last journal was closed in good order (or there is none): nothing was on its way then. */
bool journal_index_ended_well(const struct journal_index *index);

#endif
