/* mail.h - one queued message while somebody works on it: its queue entry, its envelope from the
 * spool, and what is known of each recipient. And the table of segments: how many messages of each
 * are not done and how many bytes they take, so that one is freed when its last message is done, and
 * compaction.h knows which are nearly empty. */
#ifndef RELAYD_DELIVERY_MAIL_H
#define RELAYD_DELIVERY_MAIL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "delivery/queue.h"
#include "spool/catalog.h"
#include "spool/envelope.h"
#include "spool/journal.h"
#include "spool/store.h"

struct delivery;

struct mail_recipient {
	uint8_t state; /* enum journal_state */
	uint16_t attempts;
};

struct mail {
	struct queue_entry *entry;
	struct envelope *envelope;
	struct mail_recipient *recipients; /* envelope->n_recipients of them */
	uint64_t due_ms;                   /* when the DEFERRED ones are; 0: now */
};

/* Reads it. *out is given, ended by mail_free(). -errno of spool_store_envelope(). */
int mail_load(struct delivery *d, struct queue_entry *e, struct mail **out) MUST_CHECK;
/* With its body (spool_body_close()), in one read where that can be. */
int mail_load_whole(struct delivery *d, struct queue_entry *e, struct mail **out,
    struct spool_body **body) MUST_CHECK;
/* The same for a list: see spool_store_browse(). */
int mail_browse(
    struct delivery *d, struct window *window, struct queue_entry *e, struct mail **out) MUST_CHECK;
void mail_free(struct mail *m); /* NULL is fine */
/* Writes the recipients' states back to where the queue keeps them: nothing if they are all alike,
 * else 4 bytes for each. */
void mail_store(struct delivery *d, struct mail *m);
/* And the entry goes where the states say: READY, DEFERRED, or HELD. */
void mail_place(struct delivery *d, struct mail *m, bool hold);

bool mail_is_done(const struct mail *m); /* every recipient is final */

/* Does it stand elsewhere than its ID says? It was moved, or the segment that its ID names was full when
 * it was written. Then each of its outcomes has to say where (journal.h). */
static inline bool
mail_is_elsewhere(const struct queue_entry *e)
{
	return e->segment != (uint32_t)(e->id >> 24);
}

/* What was replayed from disk or met in a segment becomes a queue entry: READY, DEFERRED or HELD. */
void mail_enter(struct delivery *d, const struct catalog_message *found);
/* Done and durable: gone from the queue; its large body and its segment are freed if it was the
 * last. `e` is invalid afterwards. */
void mail_leave(struct delivery *d, struct queue_entry *e);

/* A segment was read to its end. */
void mail_segment_read(struct delivery *d, const struct catalog_segment *s);
/* From now on segments are freed. Not called when records of a newer relayd were met: they may be
 * mail that this one cannot see. */
void mail_may_free(struct delivery *d);
bool mail_is_freeing(const struct delivery *d);
/* Frees some of the segments in which nothing is left. */
void mail_pump(struct delivery *d);
/* A segment with mail in it that somebody has removed is told, once: it can still be put back. Now and then. */
void mail_look_for_removed(struct delivery *d);
size_t mail_segments(const struct delivery *d); /* that hold mail */

/* For compaction. The message is counted in that segment (too), or no longer: then the segment is
 * freed if it was the last. */
void mail_count_in(struct delivery *d, uint32_t segment, const struct queue_entry *e);
void mail_count_out(struct delivery *d, uint32_t segment, const struct queue_entry *e);

/* A segment that is not written any more, was read to its end, and holds mail; and that would go if it did
 * not: spool_store_is_kept() is for none of them. */
struct mail_segment {
	uint32_t number;
	uint64_t file_bytes;
	uint64_t live_bytes; /* records of messages that are not done */
};
/* Of all those together (no number). */
void mail_segments_sum(const struct delivery *d, struct mail_segment *sum);
/* Gives an array (free()) of *n, in no order. */
struct mail_segment *mail_segments_list(const struct delivery *d, size_t *n);
/* It holds what cannot be moved: from now on it is in neither of the two. False: it is known. */
bool mail_segment_stays(struct delivery *d, uint32_t segment);

struct mail_places *mail_places_new(void);
void mail_places_free(struct mail_places *places);

#endif
