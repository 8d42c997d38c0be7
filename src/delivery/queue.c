/* queue.c - see queue.h. Entries are named by 32-bit handles (1, 2, ...; 0 is none) inside, so that
 * links cost half a pointer. */
#include <assert.h>
#include <stdlib.h>

#include "base/hash.h"
#include "delivery/queue.h"

#define CHUNK_ENTRIES 4096u
#define NO_ENTRY 0u

struct tenant {
	struct queue_tenant public;
	uint32_t number;
	size_t key_len;
	UT_hash_handle hh;
	char key[]; /* uid in 4 bytes, then the unit */
};

/* The READY messages of one tenant for one upstream. It exists while it holds any. */
struct lane {
	uint32_t first, last;
	uint32_t tenant;
	struct lane *ring_next, *ring_prev;
	UT_hash_handle hh; /* by tenant, in its upstream */
};

struct road {               /* to one upstream */
	struct lane *lanes; /* hash */
	struct lane *turn;  /* whose turn it is, in the ring of all lanes; NULL: empty */
	size_t count;
};

struct queue {
	struct queue_entry **chunks;
	size_t n_chunks, chunks_room;
	uint32_t used;      /* handles ever given out */
	uint32_t free_list; /* linked by ->link */
	uint32_t *buckets;  /* by id, chained by ->hash_next; a power of two of them */
	size_t n_buckets;
	uint32_t *heap; /* [0] is the first due */
	size_t n_heap, heap_room;
	size_t counts[QUEUE_STATES], all;
	struct tenant *tenants;  /* hash by key */
	struct tenant **numbers; /* by number */
	uint32_t n_numbers, numbers_room;
	struct road roads[QUEUE_UPSTREAMS];
};

_Static_assert(sizeof(struct queue_entry) <= 48, "a queued message costs at most 64 bytes in all");

static struct queue_entry *
at(const struct queue *q, uint32_t handle)
{
	return &q->chunks[(handle - 1) / CHUNK_ENTRIES][(handle - 1) % CHUNK_ENTRIES];
}

/* --- storage ---------------------------------------------------------------------------------- */

static struct queue_entry *
entry_new(struct queue *q)
{
	struct queue_entry *e;
	uint32_t handle = q->free_list;

	if (handle != NO_ENTRY) {
		e = at(q, handle);
		q->free_list = e->link;
	} else {
		if (q->used == q->n_chunks * CHUNK_ENTRIES) {
			if (q->n_chunks == q->chunks_room) {
				q->chunks_room = q->chunks_room ? q->chunks_room * 2 : 16;
				q->chunks =
				    xrealloc(q->chunks, q->chunks_room, sizeof(q->chunks[0]));
			}
			q->chunks[q->n_chunks++] = xcalloc(CHUNK_ENTRIES, sizeof(*e));
		}
		handle = ++q->used;
		e = at(q, handle);
	}
	*e = (struct queue_entry){ .self = handle };
	return e;
}

/* --- hash by id ------------------------------------------------------------------------------- */

static uint32_t *
bucket(const struct queue *q, uint64_t id)
{
	return &q->buckets[(id * 0x9e3779b97f4a7c15u >> 32) & (q->n_buckets - 1)];
}

static void
hash_grow(struct queue *q)
{
	uint32_t *old = q->buckets;
	size_t n_old = q->n_buckets;

	q->n_buckets = n_old ? n_old * 2 : 1024;
	q->buckets = xcalloc(q->n_buckets, sizeof(q->buckets[0]));
	for (size_t i = 0; i < n_old; i++)
		for (uint32_t handle = old[i], next; handle != NO_ENTRY; handle = next) {
			struct queue_entry *e = at(q, handle);
			uint32_t *b = bucket(q, e->id);

			next = e->hash_next;
			e->hash_next = *b;
			*b = handle;
		}
	free(old);
}

static void
hash_remove(struct queue *q, struct queue_entry *e)
{
	uint32_t *link = bucket(q, e->id);

	while (*link != e->self)
		link = &at(q, *link)->hash_next;
	*link = e->hash_next;
}

/* --- heap by time ----------------------------------------------------------------------------- */

static void
heap_place(struct queue *q, size_t i, uint32_t handle)
{
	q->heap[i] = handle;
	at(q, handle)->link = (uint32_t)i;
}

static void
heap_up(struct queue *q, size_t i)
{
	uint32_t handle = q->heap[i], due_ds = at(q, handle)->due_ds;

	for (; i > 0 && at(q, q->heap[(i - 1) / 2])->due_ds > due_ds; i = (i - 1) / 2)
		heap_place(q, i, q->heap[(i - 1) / 2]);
	heap_place(q, i, handle);
}

static void
heap_down(struct queue *q, size_t i)
{
	uint32_t handle = q->heap[i], due_ds = at(q, handle)->due_ds;

	for (;;) {
		size_t child = 2 * i + 1;

		if (child + 1 < q->n_heap &&
		    at(q, q->heap[child + 1])->due_ds < at(q, q->heap[child])->due_ds)
			child++;
		if (child >= q->n_heap || at(q, q->heap[child])->due_ds >= due_ds)
			break;
		heap_place(q, i, q->heap[child]);
		i = child;
	}
	heap_place(q, i, handle);
}

static void
heap_add(struct queue *q, struct queue_entry *e)
{
	if (q->n_heap == q->heap_room) { /* by a quarter: a million messages shall not cost two */
		q->heap_room += q->heap_room / 4 + 256;
		q->heap = xrealloc(q->heap, q->heap_room, sizeof(q->heap[0]));
	}
	q->heap[q->n_heap] = e->self;
	heap_up(q, q->n_heap++);
}

static void
heap_remove(struct queue *q, struct queue_entry *e)
{
	size_t i = e->link;
	uint32_t last = q->heap[--q->n_heap];

	if (last == e->self)
		return;
	heap_place(q, i, last);
	heap_up(q, i);
	heap_down(q, at(q, last)->link);
}

/* --- tenants and lanes ------------------------------------------------------------------------ */

static struct tenant *
tenant_get(struct queue *q, uint32_t uid, struct span unit)
{
	struct tenant *t;
	char key[4 + 256];
	size_t len = unit.len < 256 ? unit.len : 256;
	uint32_t number;

	memcpy(key, &uid, 4);
	if (len > 0)
		memcpy(key + 4, unit.data, len);
	HASH_FIND(hh, q->tenants, key, 4 + len, t);
	if (t != NULL)
		return t;
	t = xcalloc(1, sizeof(*t) + 4 + len);
	memcpy(t->key, key, 4 + len);
	t->key_len = 4 + len;
	t->public = (struct queue_tenant){ .uid = uid, .unit = { t->key + 4, len } };
	for (number = 0; number < q->n_numbers && q->numbers[number] != NULL; number++)
		;
	if (number == q->n_numbers) {
		if (q->n_numbers == q->numbers_room) {
			q->numbers_room = q->numbers_room ? q->numbers_room * 2 : 16;
			q->numbers = xrealloc(q->numbers, q->numbers_room, sizeof(q->numbers[0]));
		}
		q->n_numbers++;
	}
	q->numbers[t->number = number] = t;
	HASH_ADD_KEYPTR(hh, q->tenants, t->key, t->key_len, t);
	return t;
}

static void
tenant_leave(struct queue *q, uint32_t number)
{
	struct tenant *t = q->numbers[number];

	if (--t->public.messages > 0)
		return;
	HASH_DEL(q->tenants, t);
	q->numbers[number] = NULL;
	free(t);
}

static struct lane *
lane_get(struct road *road, uint32_t tenant)
{
	struct lane *lane;

	HASH_FIND(hh, road->lanes, &tenant, sizeof(tenant), lane);
	if (lane != NULL)
		return lane;
	lane = xcalloc(1, sizeof(*lane));
	lane->tenant = tenant;
	HASH_ADD(hh, road->lanes, tenant, sizeof(lane->tenant), lane);
	if (road->turn == NULL) {
		road->turn = lane->ring_next = lane->ring_prev = lane;
	} else { /* the newcomer is last in the round */
		lane->ring_next = road->turn;
		lane->ring_prev = road->turn->ring_prev;
		lane->ring_prev->ring_next = lane->ring_next->ring_prev = lane;
	}
	return lane;
}

static void
lane_end(struct road *road, struct lane *lane)
{
	if (lane->ring_next == lane) {
		road->turn = NULL;
	} else {
		lane->ring_prev->ring_next = lane->ring_next;
		lane->ring_next->ring_prev = lane->ring_prev;
		if (road->turn == lane)
			road->turn = lane->ring_next;
	}
	HASH_DEL(road->lanes, lane);
	free(lane);
}

static void
lane_add(struct queue *q, struct queue_entry *e, bool first)
{
	struct road *road = &q->roads[e->upstream];
	struct lane *lane = lane_get(road, e->tenant);

	e->link = e->due_ds = NO_ENTRY;
	if (lane->first == NO_ENTRY) {
		lane->first = lane->last = e->self;
	} else if (first) {
		e->link = lane->first;
		at(q, lane->first)->due_ds = e->self;
		lane->first = e->self;
	} else {
		e->due_ds = lane->last;
		at(q, lane->last)->link = e->self;
		lane->last = e->self;
	}
	if (first)
		road->turn = lane;
	road->count++;
}

/* Out of the middle: an operator's wish, or compaction's. */
static void
lane_remove(struct queue *q, struct queue_entry *e)
{
	struct road *road = &q->roads[e->upstream];
	struct lane *lane = lane_get(road, e->tenant);
	uint32_t before = e->due_ds, after = e->link;

	if (before == NO_ENTRY)
		lane->first = after;
	else
		at(q, before)->link = after;
	if (after == NO_ENTRY)
		lane->last = before;
	else
		at(q, after)->due_ds = before;
	road->count--;
	if (lane->first == NO_ENTRY)
		lane_end(road, lane);
}

/* --- states ----------------------------------------------------------------------------------- */

/* The one writer of ->state: takes the message out of where it stands and counts. */
static void
enter(struct queue *q, struct queue_entry *e, enum queue_state state)
{
	assert(state != QUEUE_FREE || e->state != QUEUE_FREE);
	if (e->state == QUEUE_READY && state != QUEUE_ACTIVE)
		lane_remove(q, e);
	else if (e->state == QUEUE_DEFERRED)
		heap_remove(q, e);
	if (e->state != QUEUE_FREE)
		q->counts[e->state]--;
	e->state = state;
	if (state != QUEUE_FREE)
		q->counts[state]++;
}

struct queue *
queue_new(void)
{
	struct queue *q = xcalloc(1, sizeof(*q));

	hash_grow(q);
	return q;
}

void
queue_free(struct queue *q)
{
	struct tenant *t, *next;

	if (q == NULL)
		return;
	for (unsigned i = 0; i < QUEUE_UPSTREAMS; i++)
		while (q->roads[i].turn != NULL)
			lane_end(&q->roads[i], q->roads[i].turn);
	HASH_ITER(hh, q->tenants, t, next)
	{
		HASH_DEL(q->tenants, t);
		free(t);
	}
	for (size_t i = 0; i < q->n_chunks; i++)
		free(q->chunks[i]);
	free(q->chunks);
	free(q->buckets);
	free(q->heap);
	free(q->numbers);
	free(q);
}

struct queue_entry *
queue_add(struct queue *q, uint64_t id, uint32_t uid, struct span unit, unsigned upstream)
{
	struct queue_entry *e;
	struct tenant *t;
	uint32_t *b;

	assert(upstream < QUEUE_UPSTREAMS);
	if (queue_find(q, id) != NULL)
		return NULL;
	if (q->all >= q->n_buckets)
		hash_grow(q);
	e = entry_new(q);
	e->id = id;
	e->upstream = (uint8_t)upstream;
	t = tenant_get(q, uid, unit);
	t->public.messages++;
	e->tenant = t->number;
	b = bucket(q, id);
	e->hash_next = *b;
	*b = e->self;
	q->all++;
	enter(q, e, QUEUE_HELD);
	return e;
}

struct queue_entry *
queue_find(const struct queue *q, uint64_t id)
{
	for (uint32_t h = *bucket(q, id); h != NO_ENTRY; h = at(q, h)->hash_next)
		if (at(q, h)->id == id)
			return at(q, h);
	return NULL;
}

void
queue_remove(struct queue *q, struct queue_entry *e)
{
	enter(q, e, QUEUE_FREE);
	hash_remove(q, e);
	tenant_leave(q, e->tenant);
	e->link = q->free_list;
	q->free_list = e->self;
	q->all--;
}

void
queue_ready(struct queue *q, struct queue_entry *e)
{
	enter(q, e, QUEUE_READY);
	lane_add(q, e, false);
}

void
queue_ready_first(struct queue *q, struct queue_entry *e)
{
	enter(q, e, QUEUE_READY);
	lane_add(q, e, true);
}

void
queue_defer(struct queue *q, struct queue_entry *e, uint64_t due_ms)
{
	enter(q, e, QUEUE_DEFERRED);
	e->due_ds = (uint32_t)((due_ms + 99) / 100);
	heap_add(q, e);
}

void
queue_hold(struct queue *q, struct queue_entry *e)
{
	enter(q, e, QUEUE_HELD);
}

void
queue_claim(struct queue *q, struct queue_entry *e)
{
	if (e->state == QUEUE_READY)
		enter(q, e, QUEUE_HELD); /* out of its lane */
	enter(q, e, QUEUE_ACTIVE);
}

void
queue_reroute(struct queue *q, struct queue_entry *e, unsigned upstream)
{
	bool was_ready = e->state == QUEUE_READY;

	assert(e->state != QUEUE_ACTIVE && upstream < QUEUE_UPSTREAMS);
	if (was_ready)
		enter(q, e, QUEUE_HELD);
	e->upstream = (uint8_t)upstream;
	if (was_ready)
		queue_ready(q, e);
}

struct queue_entry *
queue_take(struct queue *q, unsigned upstream)
{
	struct road *road = &q->roads[upstream];
	struct lane *lane = road->turn;
	struct queue_entry *e;

	if (lane == NULL)
		return NULL;
	e = at(q, lane->first);
	lane->first = e->link;
	if (lane->first != NO_ENTRY)
		at(q, lane->first)->due_ds = NO_ENTRY;
	road->turn = lane->ring_next;
	road->count--;
	if (lane->first == NO_ENTRY)
		lane_end(road, lane);
	enter(q, e, QUEUE_ACTIVE);
	return e;
}

size_t
queue_wake(struct queue *q, uint64_t now_ms)
{
	size_t n = 0;

	for (; q->n_heap > 0 && queue_next_due_ms(q) <= now_ms; n++)
		queue_ready(q, at(q, q->heap[0]));
	return n;
}

uint64_t
queue_next_due_ms(const struct queue *q)
{
	return q->n_heap > 0 ? queue_due_ms(at(q, q->heap[0])) : UINT64_MAX;
}

uint64_t
queue_due_ms(const struct queue_entry *e)
{
	return (uint64_t)e->due_ds * 100;
}

size_t
queue_count(const struct queue *q, enum queue_state state)
{
	return q->counts[state];
}

size_t
queue_count_ready(const struct queue *q, unsigned upstream)
{
	return q->roads[upstream].count;
}

size_t
queue_count_all(const struct queue *q)
{
	return q->all;
}

const struct queue_tenant *
queue_tenant(const struct queue *q, const struct queue_entry *e)
{
	return &q->numbers[e->tenant]->public;
}

struct queue_entry *
queue_each(const struct queue *q, uint32_t *cursor)
{
	while (*cursor < q->used) {
		struct queue_entry *e = at(q, ++*cursor);

		if (e->state != QUEUE_FREE)
			return e;
	}
	return NULL;
}

size_t
queue_memory_bytes(const struct queue *q)
{
	return sizeof(*q) + q->n_chunks * CHUNK_ENTRIES * sizeof(struct queue_entry) +
	       q->chunks_room * sizeof(q->chunks[0]) + q->n_buckets * sizeof(q->buckets[0]) +
	       q->heap_room * sizeof(q->heap[0]);
}
