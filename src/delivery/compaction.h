/* compaction.h - one deferred message keeps its whole segment. When most of what the segments on disk
 * hold is done, the messages that are not (stragglers) move out of the emptiest ones, into the
 * segment that delivery writes, and those are freed.
 *
 * The bound: segments that are read to their end and not written any more take at most twice the bytes
 * of the messages in them that are not done, and COMPACTION_SLACK segments; within seconds of any
 * change. What is never moved is not in it: a segment that holds something unreadable, or a
 * REVOKE for another one, stays as it is. As only segments of which at least half is done are
 * emptied, what is written for it is never more than what is freed by it.
 *
 * A move, and what a crash leaves of it (the ID stays the same):
 *
 *	1. the message is claimed (ACTIVE): nobody delivers it, or changes what the journal says of it
 *	2. its records are written again, durably      both copies are there: replay takes the newest,
 *	3. and met by the follower: both are counted   and does 4 before anything is freed (restating)
 *	4. an OUTCOME says MOVED, durably
 *	5. it leaves the old segment's count, and goes back to where it was in the queue
 *
 * When nobody knows whether there is a copy (-EIO), or it cannot be read, step 2 is repeated until it works,
 * in a later file: the journal's word covers all places up to the last one, so no copy ever comes back. */
#ifndef RELAYD_DELIVERY_COMPACTION_H
#define RELAYD_DELIVERY_COMPACTION_H

#include <stdbool.h>
#include <stdint.h>

#include "spool/catalog.h"

struct compaction;
struct delivery;
struct queue_entry;

#define COMPACTION_SLACK 2 /* segments */

struct compaction *compaction_new(void);
/* After the writers are closed: they hold what is under way. NULL is fine. */
void compaction_free(struct compaction *c);

/* A bounded piece of work, if there is any: from delivery's pump. */
void compaction_pump(struct delivery *d, uint64_t now_ms);

/* Is this the copy that was just made of a message? Then it is no new message. */
bool compaction_meets(struct delivery *d, const struct catalog_message *found);
/* The follower has found bytes damaged: perhaps those of a copy that it should meet, or those of a file that
 * cannot be read from its first block on, into which copies are still to come. */
void compaction_damage(struct delivery *d, const struct spool_damage *damage);

/* Found by replay in a place of which the journal does not know: it is told before anything is freed. */
void compaction_restate(struct delivery *d, const struct queue_entry *e);
bool compaction_is_restating(const struct delivery *d);

/* Is it ACTIVE because it is being moved? */
bool compaction_is_moving(const struct delivery *d, const struct queue_entry *e);
/* Then it is due as soon as it has moved, if it is not held. */
void compaction_retry(struct delivery *d, const struct queue_entry *e);

#endif
