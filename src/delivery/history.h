/* history.h - where in the journals the last words about each queued message stand: 4 bytes a message, so
 * that a list of a million says why each of them waits without reading every journal first. Like the
 * queue it can be thrown away and made again (I7).
 *
 * The places come from the replay, and with each outcome that becomes durable. After a compaction all
 * of them are other ones: the journals are read once more, in steps, and until that is done the old places
 * are good, because the old journals are still open. */
#ifndef RELAYD_DELIVERY_HISTORY_H
#define RELAYD_DELIVERY_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "delivery/queue.h"
#include "spool/journal.h"

struct history;

/* Borrows both as long as it lives. */
struct history *history_new(int dirfd, const struct queue *queue);
void history_free(struct history *h); /* NULL is fine */

/* Where the replay keeps its places. Borrowed: not after the first history_renew(). */
struct journal_places *history_places(struct history *h);
/* The replay found them there (0: nothing was said yet). */
void history_enter(struct history *h, const struct queue_entry *e, uint32_t place);
/* One more outcome is durable. `is_complete`: it names every recipient. */
void history_note(
    struct history *h, const struct queue_entry *e, struct spool_location at, bool is_complete);
void history_leave(struct history *h, const struct queue_entry *e); /* before queue_remove() */

/* What was said of it, merged; *out is NULL: nothing, or it cannot be read. Gives it
 * (journal_free()). */
void history_get(
    const struct history *h, const struct queue_entry *e, struct journal_outcome **out);

/* The journals were compacted. */
void history_renew(struct history *h);
/* Reads some of them, if they were. True: there is more to do now. */
bool history_step(struct history *h, unsigned most);

#endif
