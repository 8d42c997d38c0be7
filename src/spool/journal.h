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
 * record that names it, and for the message the flags of the last record. Applying one twice does
 * no harm, so journals are replayed in the order of their numbers, whatever was copied.
 *
 * OUTCOMEs of a message are needed until the segment it stands in is gone from the directory, durably.
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
	JOURNAL_MOVED = 1u << 3,  /* `moved` is where the message stands now */
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
	struct spool_location
	    moved; /* once moved, every later outcome of the message says so again */
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

/* All that the journals say, by message: what replay and compaction work with. It keeps places, not
 * records: about 16 bytes for a message with outcomes, 4 for one without. */
struct journal_index;

/* What was found wrong: a damaged range of a journal (see reader.h), once each. */
struct spool_damage;
typedef void journal_damage_fn(void *arg, const struct spool_damage *damage);

/* Reads all journals of the directory in order, up to the end of what is valid; writes nothing.
 * -EPROTONOSUPPORT: one was written by a newer version; without it mail would be sent twice.
 * `distrust`: see segment_open(). Borrows dirfd as long as it lives. */
int journal_index_open(int dirfd, bool distrust, journal_damage_fn *on_damage, void *arg,
    struct journal_index **out) MUST_CHECK;
void journal_index_close(struct journal_index *index); /* NULL is fine */

bool journal_index_is_done(const struct journal_index *index, uint64_t id);
/* All outcomes of the message merged into one; *out is NULL when there are none. Gives it
 * (journal_free()). */
int journal_index_get(
    struct journal_index *index, uint64_t id, struct journal_outcome **out) MUST_CHECK;
/* Each stored outcome of one message as it was written, oldest first (what compaction has left). */
int journal_index_history(struct journal_index *index, uint64_t id,
    void (*each)(void *arg, const struct journal_outcome *o), void *arg) MUST_CHECK;
/* First call for an ID: false, later ones: true. Replay uses it to pass over a second copy. */
int journal_index_was_seen(struct journal_index *index, uint64_t id, bool *was_seen) MUST_CHECK;
/* IDs with outcomes, in ascending order of segment number and sequence. */
int journal_index_each(struct journal_index *index, int (*each)(void *arg, uint64_t id, bool done),
    void *arg) MUST_CHECK;
/* Damage was found in a journal: outcomes may be missing, some mail may be sent twice. */
bool journal_index_is_damaged(const struct journal_index *index);

#endif
