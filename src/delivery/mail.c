/* mail.c - see mail.h. */
#include <errno.h>
#include <stdlib.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/os.h"
#include "delivery/delivery.h"
#include "delivery/mail.h"

struct place { /* a segment */
	uint32_t number;
	bool is_read;  /* to its end */
	uint64_t left; /* messages that are not done */
	UT_hash_handle hh;
};

struct mixed { /* a message whose recipients differ */
	uint64_t id;
	uint64_t due_ms;
	size_t n;
	UT_hash_handle hh;
	struct mail_recipient recipients[];
};

struct mail_places {
	struct place *places;
	struct mixed *mixed;
	bool may_free; /* everything on disk was read, and nothing in it is of a newer version */
};

struct mail_places *
mail_places_new(void)
{
	return xcalloc(1, sizeof(struct mail_places));
}

void
mail_places_free(struct mail_places *places)
{
	struct place *p, *next;
	struct mixed *x, *next_mixed;

	if (places == NULL)
		return;
	HASH_ITER(hh, places->places, p, next)
	{
		HASH_DEL(places->places, p);
		free(p);
	}
	HASH_ITER(hh, places->mixed, x, next_mixed)
	{
		HASH_DEL(places->mixed, x);
		free(x);
	}
	free(places);
}

/* --- segments --------------------------------------------------------------------------------- */

static struct place *
place_get(struct mail_places *places, uint32_t number)
{
	struct place *p;

	HASH_FIND(hh, places->places, &number, sizeof(number), p);
	if (p == NULL) {
		p = xcalloc(1, sizeof(*p));
		p->number = number;
		HASH_ADD(hh, places->places, number, sizeof(p->number), p);
	}
	return p;
}

static void
place_free_if_done(struct delivery *d, struct place *p)
{
	int r;

	if (p->left > 0 || !p->is_read || !d->places->may_free)
		return;
	r = spool_store_free_segment(d->store, p->number);
	if (r < 0 && r != -EBUSY && r != -ENOENT)
		log_warning("spool.damaged", KV_INT("segment", p->number),
		    KV_STR("error", strerror(-r)),
		    KV_WHY("a segment whose messages are all done cannot be removed"));
	HASH_DEL(d->places->places, p);
	free(p);
}

void
mail_segment_read(struct delivery *d, const struct catalog_segment *s)
{
	struct place *p = place_get(d->places, s->number);

	p->is_read = s->state != SHARED_SLOT_LIVE;
	place_free_if_done(d, p);
}

void
mail_may_free(struct delivery *d)
{
	struct place *p, *next;

	d->places->may_free = true;
	HASH_ITER(hh, d->places->places, p, next)
	{
		place_free_if_done(d, p);
	}
}

size_t
mail_segments(const struct delivery *d)
{
	return HASH_COUNT(d->places->places);
}

/* --- recipients' states ----------------------------------------------------------------------- */

static struct mixed *
mixed_find(const struct delivery *d, uint64_t id)
{
	struct mixed *x;

	HASH_FIND(hh, d->places->mixed, &id, sizeof(id), x);
	return x;
}

static void
mixed_drop(struct delivery *d, struct queue_entry *e)
{
	struct mixed *x = e->is_mixed ? mixed_find(d, e->id) : NULL;

	e->is_mixed = false;
	if (x == NULL)
		return;
	HASH_DEL(d->places->mixed, x);
	free(x);
}

static void
store_states(struct delivery *d, struct queue_entry *e, const struct mail_recipient *r, size_t n,
    uint64_t due_ms)
{
	bool alike = true;
	struct mixed *x;

	for (size_t i = 0; i < n; i++)
		alike = alike && !journal_state_is_final(r[i].state) &&
		        r[i].attempts == r[0].attempts && r[i].state == r[0].state &&
		        r[i].state != JOURNAL_HELD;
	mixed_drop(d, e);
	e->attempts = n > 0 ? r[0].attempts : 0;
	if (alike)
		return;
	x = xcalloc(1, sizeof(*x) + n * sizeof(*r));
	x->id = e->id;
	x->n = n;
	x->due_ms = due_ms;
	memcpy(x->recipients, r, n * sizeof(*r));
	HASH_ADD(hh, d->places->mixed, id, sizeof(x->id), x);
	e->is_mixed = true;
}

void
mail_store(struct delivery *d, struct mail *m)
{
	store_states(d, m->entry, m->recipients, m->envelope->n_recipients, m->due_ms);
}

void
mail_place(struct delivery *d, struct mail *m, bool hold)
{
	bool queued = false, deferred = false;

	for (size_t i = 0; i < m->envelope->n_recipients; i++) {
		queued = queued || m->recipients[i].state == JOURNAL_QUEUED;
		deferred = deferred || m->recipients[i].state == JOURNAL_DEFERRED;
	}
	if (hold || m->entry->is_watched || (!queued && !deferred))
		queue_hold(d->queue, m->entry);
	else if (queued || m->due_ms == 0)
		queue_ready(d->queue, m->entry);
	else
		queue_defer(d->queue, m->entry, m->due_ms);
}

int
mail_load(struct delivery *d, struct queue_entry *e, struct mail **out)
{
	struct envelope *envelope;
	struct mixed *x = e->is_mixed ? mixed_find(d, e->id) : NULL;
	struct mail *m;
	int r;

	r = spool_store_envelope(
	    d->store, (struct spool_location){ e->segment, e->offset }, &envelope);
	if (r < 0)
		return r;
	if (envelope->id != e->id || (x != NULL && x->n != envelope->n_recipients)) {
		envelope_free(envelope);
		return -EBADMSG;
	}
	m = xcalloc(1, sizeof(*m));
	m->entry = e;
	m->envelope = envelope;
	m->due_ms = x != NULL ? x->due_ms : 0;
	m->recipients = xcalloc(envelope->n_recipients, sizeof(m->recipients[0]));
	for (size_t i = 0; i < envelope->n_recipients; i++)
		m->recipients[i] = x != NULL ? x->recipients[i]
		                             : (struct mail_recipient){
			                               .state = e->attempts > 0 ? JOURNAL_DEFERRED
			                                                        : JOURNAL_QUEUED,
			                               .attempts = e->attempts,
		                               };
	*out = m;
	return 0;
}

void
mail_free(struct mail *m)
{
	if (m == NULL)
		return;
	envelope_free(m->envelope);
	free(m->recipients);
	free(m);
}

bool
mail_is_done(const struct mail *m)
{
	for (size_t i = 0; i < m->envelope->n_recipients; i++)
		if (!journal_state_is_final(m->recipients[i].state))
			return false;
	return true;
}

/* --- coming and going ------------------------------------------------------------------------- */

/* What the journal says of it: states, and when it is due. */
static uint64_t
take_outcome(struct delivery *d, struct queue_entry *e, const struct catalog_message *found,
    uint64_t wall_ms, uint64_t boot_ms)
{
	const struct journal_outcome *o = found->outcome;
	size_t n = found->envelope->n_recipients;
	struct mail_recipient *states = xcalloc(n, sizeof(*states));
	uint64_t due_ms = UINT64_MAX, deferred_ms;

	for (size_t k = 0; k < o->n_recipients; k++) {
		const struct journal_recipient *r = &o->recipients[k];

		if (r->index >= n)
			continue;
		states[r->index].state = (uint8_t)r->state;
		states[r->index].attempts =
		    (uint16_t)(r->attempts < UINT16_MAX ? r->attempts : UINT16_MAX);
		if (r->state == JOURNAL_DEFERRED && r->next_attempt_ms < due_ms)
			due_ms = r->next_attempt_ms;
	}
	deferred_ms =
	    due_ms != UINT64_MAX ? boot_ms + retry_resume_ms(&d->retry, due_ms, wall_ms) : 0;
	for (size_t i = 0; i < n; i++)
		if (states[i].state == JOURNAL_QUEUED)
			due_ms = 0;
	e->duplicates =
	    (uint8_t)(o->possible_duplicates < UINT8_MAX ? o->possible_duplicates : UINT8_MAX);
	e->is_warned = (o->flags & JOURNAL_WARNED) != 0;
	store_states(d, e, states, n, deferred_ms);
	free(states);
	return due_ms;
}

void
mail_enter(struct delivery *d, const struct catalog_message *found)
{
	const struct envelope *env = found->envelope;
	uint64_t wall_ms = os_now_ms(), boot_ms = os_boot_ms(), due_ms = 0;
	struct queue_entry *e;
	int64_t born_s;

	e = queue_add(d->queue, found->id, env->uid, env->unit, delivery_route(d, env));
	if (e == NULL)
		return; /* a second copy (compaction was cut short) */
	e->segment = found->location.segment;
	e->offset = found->location.offset;
	e->is_large = (env->flags & ENVELOPE_LARGE) != 0;
	born_s = ((int64_t)boot_ms - (int64_t)retry_age_ms(env->arrived_ms, wall_ms)) / 1000;
	e->born_s = born_s > INT32_MIN ? (int32_t)born_s : INT32_MIN;
	place_get(d->places, e->segment)->left++;
	if (found->outcome != NULL)
		due_ms = take_outcome(d, e, found, wall_ms, boot_ms);
	if (d->claim != NULL && d->claim(d->claim_arg, e))
		return;
	if (found->uncommitted) {
		d->counts.possible_duplicates++;
		log_warning("message.repeated", KV_ID("queue_id", e->id),
		    KV_WHY("found in a group that no client may have had an answer for: it may "
		           "have been submitted again"));
	}
	if (found->outcome != NULL && (found->outcome->flags & JOURNAL_HOLD) != 0)
		return; /* as queue_add() left it: HELD */
	if (due_ms == UINT64_MAX)
		return; /* every open recipient is held */
	due_ms = retry_resume_ms(&d->retry, due_ms, wall_ms);
	if (due_ms == 0)
		queue_ready(d->queue, e);
	else
		queue_defer(d->queue, e, boot_ms + due_ms);
}

void
mail_leave(struct delivery *d, struct queue_entry *e)
{
	struct place *p = place_get(d->places, e->segment);
	int r;

	if (e->is_large) {
		r = spool_store_free_large(d->store, e->id);
		if (r < 0)
			log_warning("spool.damaged", KV_ID("queue_id", e->id),
			    KV_STR("error", strerror(-r)),
			    KV_WHY("the body of a message that is done cannot be removed"));
	}
	mixed_drop(d, e);
	queue_remove(d->queue, e);
	if (p->left > 0)
		p->left--;
	place_free_if_done(d, p);
}
