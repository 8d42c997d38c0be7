/* queue.h - every message that is not done, in at most 64 bytes each: where it stands in the spool,
 * when its turn is, whose it is. All else (addresses, replies) is read from the spool when needed,
 * and the whole of this can be thrown away and rebuilt from disk (I7).
 *
 *              queue_take()
 *    READY ------------------> ACTIVE        queue_ready(), queue_defer(), queue_hold() and
 *      ^  \                    /  |          queue_remove() lead from any state.
 *      |   +---> HELD <-------+   |
 *      +------ DEFERRED <---------+
 *   queue_wake()
 *
 * READY messages stand in lanes, one for each upstream and tenant; queue_take() goes round the
 * tenants, one message each, so that ten thousand newsletters of one do not delay another's
 * password reset. DEFERRED messages stand in a heap by the time they are due.
 *
 * Memory: entries of 48 bytes in chunks that never move (a pointer stays good until
 * queue_remove()), 4 to 8 bytes of hash buckets and 4 to 5 of heap each. Pure; times in ms of any
 * steady clock, kept to a tenth of a second (13 years fit). */
#ifndef RELAYD_DELIVERY_QUEUE_H
#define RELAYD_DELIVERY_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "base/span.h"

enum queue_state {
	QUEUE_FREE,
	QUEUE_READY,
	QUEUE_ACTIVE,
	QUEUE_DEFERRED,
	QUEUE_HELD,
	QUEUE_STATES
};

#define QUEUE_UPSTREAMS 255 /* most upstreams there can be */

struct queue_entry {
	uint64_t id;
	uint32_t segment; /* its place in the spool: struct spool_location */
	uint32_t offset;  /* ... */
	uint32_t due_ds;  /* DEFERRED: when, in tenths of a second. READY: the one before it in its
			     * lane (queue's own) */
	int32_t born_s;   /* when it was accepted, on the steady clock (before its start: < 0) */
	uint32_t tenant;  /* queue_tenant() */
	uint32_t link;    /* next in its lane, or place in the heap (queue's own) */
	uint32_t hash_next; /* queue's own */
	uint32_t self;      /* its number: small, and another's when it is gone (queue writes it) */
	uint16_t attempts;  /* failed ones, of each recipient (unless is_mixed) */
	uint16_t bytes_128; /* its records in the segment, in units of 128 bytes, rounded up */
	uint8_t upstream;
	uint8_t duplicates;     /* possible ones so far */
	uint8_t state : 4;      /* enum queue_state, written by queue.c only */
	uint8_t suspect : 4;    /* connections that died on it in a row */
	uint8_t is_mixed : 1;   /* its recipients differ: mail.c keeps them apart */
	uint8_t is_warned : 1;  /* the sender was told that it is late */
	uint8_t is_large : 1;   /* its body stands in large/ID */
	uint8_t is_watched : 1; /* `relayctl test` follows it: not for the lanes */
};

struct queue_tenant {
	uint32_t uid; /* UINT32_MAX: unknown */
	struct span unit;
	size_t messages;
};

struct queue;

struct queue *queue_new(void);
void queue_free(struct queue *q);

/* Enters a message as HELD (which touches no list): the caller fills in the public fields and then
 * calls queue_ready() or queue_defer(). The tenant is counted. NULL: the id is there already. */
struct queue_entry *queue_add(
    struct queue *q, uint64_t id, uint32_t uid, struct span unit, unsigned upstream) MUST_CHECK;
struct queue_entry *queue_find(const struct queue *q, uint64_t id);
void queue_remove(struct queue *q, struct queue_entry *e);

void queue_ready(struct queue *q, struct queue_entry *e);       /* to the end of its lane */
void queue_ready_first(struct queue *q, struct queue_entry *e); /* it was taken and not used */
void queue_defer(struct queue *q, struct queue_entry *e, uint64_t due_ms);
void queue_hold(struct queue *q, struct queue_entry *e);
/* Somebody takes this very message, READY or not: it is ACTIVE now. */
void queue_claim(struct queue *q, struct queue_entry *e);
/* Another upstream takes it. Only READY, DEFERRED or HELD. */
void queue_reroute(struct queue *q, struct queue_entry *e, unsigned upstream);

/* The next READY message of this upstream, now ACTIVE; NULL: none. */
struct queue_entry *queue_take(struct queue *q, unsigned upstream);
/* Makes READY what is due; returns how many. */
size_t queue_wake(struct queue *q, uint64_t now_ms);
/* When queue_wake() has something to do next; UINT64_MAX: nothing is deferred. */
uint64_t queue_next_due_ms(const struct queue *q);
uint64_t queue_due_ms(const struct queue_entry *e); /* DEFERRED only */

size_t queue_count(const struct queue *q, enum queue_state state);
size_t queue_count_ready(const struct queue *q, unsigned upstream);
size_t queue_count_all(const struct queue *q);
const struct queue_tenant *queue_tenant(const struct queue *q, const struct queue_entry *e);

/* Walks over all messages, oldest storage first; the queue may change between two calls (messages
 * that come or go meanwhile may be seen or not; none is seen twice). Start with *cursor = 0. */
struct queue_entry *queue_each(const struct queue *q, uint32_t *cursor);

size_t queue_memory_bytes(const struct queue *q); /* all that it holds */

#endif
