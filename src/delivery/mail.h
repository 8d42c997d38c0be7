/* mail.h - one queued message while somebody works on it: its queue entry, its envelope from the
 * spool, and what is known of each recipient. And the table of segments: how many messages of each
 * are not done, so that one is freed when its last message is. */
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
void mail_free(struct mail *m); /* NULL is fine */
/* Writes the recipients' states back to where the queue keeps them: nothing if they are all alike,
 * else 4 bytes for each. */
void mail_store(struct delivery *d, struct mail *m);
/* And the entry goes where the states say: READY, DEFERRED, or HELD. */
void mail_place(struct delivery *d, struct mail *m, bool hold);

bool mail_is_done(const struct mail *m); /* every recipient is final */

/* What was replayed from disk or met in a segment becomes a queue entry: READY, DEFERRED or HELD. */
void mail_enter(struct delivery *d, const struct catalog_message *found);
/* Done and durable: gone from the queue; its large body and its segment are freed if it was the
 * last. `e` is invalid afterwards. */
void mail_leave(struct delivery *d, struct queue_entry *e);

/* A segment was read to its end (LIVE: not yet). */
void mail_segment_read(struct delivery *d, const struct catalog_segment *s);
/* From now on segments are freed. Not called when records of a newer relayd were met: they may be
 * mail that this one cannot see. */
void mail_may_free(struct delivery *d);
size_t mail_segments(const struct delivery *d); /* that hold mail */

struct mail_places *mail_places_new(void);
void mail_places_free(struct mail_places *places);

#endif
