/* mail.c - see mail.h. */
#include <errno.h>
#include <stdlib.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/os.h"
#include "delivery/compaction.h"
#include "delivery/delivery.h"
#include "delivery/history.h"
#include "delivery/mail.h"

#define BYTES_UNIT 128u /* of queue_entry.bytes_128 */
#define FREE_AT_ONCE 4u /* segments, before the loop turns: each syncs the directory */

struct place { /* a segment */
	uint32_t number;
	bool is_read;        /* to its end */
	bool stays;          /* something in it cannot be moved */
	bool is_done;        /* in the list of those to be freed */
	bool is_missing;     /* told */
	uint64_t left;       /* messages that are not done */
	uint64_t live_bytes; /* their records */
	uint64_t file_bytes; /* 0: not known (not read, or its header is damaged) */
	struct place *next_done;
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
	struct place *done; /* nothing is left in them */
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
place_free(struct delivery *d, struct place *p)
{
	int r;

	r = spool_store_free_segment(d->store, p->number);
	if (r < 0 && r != -EBUSY && r != -ENOENT)
		log_warning("spool.damaged", KV_INT("segment", p->number),
		    KV_STR("error", strerror(-r)),
		    KV_WHY("a segment whose messages are all done cannot be removed"));
	HASH_DEL(d->places->places, p);
	free(p);
}

/* Nothing can come into a segment that was read to its end. */
static void
place_look(struct delivery *d, struct place *p)
{
	if (p->left > 0 || !p->is_read || p->is_done)
		return;
	p->is_done = true;
	p->next_done = d->places->done;
	d->places->done = p;
	delivery_kick(d);
}

void
mail_pump(struct delivery *d)
{
	struct place *p;

	if (!mail_is_freeing(d))
		return;
	for (unsigned i = 0; i < FREE_AT_ONCE && (p = d->places->done) != NULL; i++) {
		d->places->done = p->next_done;
		place_free(d, p);
	}
	if (d->places->done != NULL)
		delivery_kick(d);
}

static void
tell_missing(struct delivery *d, struct place *p)
{
	char name[SEGMENT_NAME_MAX];

	p->is_missing = true;
	segment_name(segment_kind_of(p->number), p->number, name);
	log_error("spool.lost", KV_STR("directory", d->config->spool.directory),
	    KV_STR("file", name), KV_INT("messages", (int64_t)p->left),
	    KV_WHY("somebody removed it, and it held mail that was accepted: what has not gone "
	           "out by the next restart is lost"),
	    KV_FIX("put it back, do not restart relayd before, and keep others away from the "
	           "spool; relayctl queue names the messages"));
}

void
mail_look_for_removed(struct delivery *d)
{
	struct place *p, *next;

	HASH_ITER(hh, d->places->places, p, next)
	{
		if (p->left > 0 && !p->is_missing && !spool_store_is_there(d->store, p->number))
			tell_missing(d, p);
	}
}

void
mail_segment_read(struct delivery *d, const struct catalog_segment *s)
{
	struct place *p = place_get(d->places, s->number);

	p->is_read = true;
	if (p->left > 0 && spool_store_file_bytes(d->store, p->number, &p->file_bytes) < 0)
		p->file_bytes = 0;
	place_look(d, p);
}

void
mail_may_free(struct delivery *d)
{
	d->places->may_free = true;
	delivery_kick(d);
}

bool
mail_is_freeing(const struct delivery *d)
{
	return d->places->may_free && !compaction_is_restating(d);
}

void
mail_count_in(struct delivery *d, uint32_t segment, const struct queue_entry *e)
{
	struct place *p = place_get(d->places, segment);

	p->left++;
	p->live_bytes += (uint64_t)e->bytes_128 * BYTES_UNIT;
}

void
mail_count_out(struct delivery *d, uint32_t segment, const struct queue_entry *e)
{
	struct place *p = place_get(d->places, segment);
	uint64_t bytes = (uint64_t)e->bytes_128 * BYTES_UNIT;

	if (p->left > 0)
		p->left--;
	p->live_bytes -= bytes < p->live_bytes ? bytes : p->live_bytes;
	place_look(d, p);
}

static bool
place_may_go(const struct delivery *d, const struct place *p)
{
	return p->is_read && p->left > 0 && p->file_bytes > 0 && !p->stays &&
	       !spool_store_is_kept(d->store, p->number);
}

void
mail_segments_sum(const struct delivery *d, struct mail_segment *sum)
{
	struct place *p, *next;

	*sum = (struct mail_segment){ 0 };
	HASH_ITER(hh, d->places->places, p, next)
	{
		if (!place_may_go(d, p))
			continue;
		sum->file_bytes += p->file_bytes;
		sum->live_bytes += p->live_bytes;
	}
}

struct mail_segment *
mail_segments_list(const struct delivery *d, size_t *n)
{
	struct mail_segment *list = xcalloc(mail_segments(d) + 1, sizeof(*list));
	struct place *p, *next;

	*n = 0;
	HASH_ITER(hh, d->places->places, p, next)
	{
		if (place_may_go(d, p))
			list[(*n)++] =
			    (struct mail_segment){ p->number, p->file_bytes, p->live_bytes };
	}
	return list;
}

bool
mail_segment_stays(struct delivery *d, uint32_t segment)
{
	struct place *p = place_get(d->places, segment);
	bool is_new = !p->stays;

	p->stays = true;
	return is_new;
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

/* Takes the envelope. */
static int
make(struct delivery *d, struct queue_entry *e, struct envelope *envelope, struct mail **out)
{
	struct mixed *x = e->is_mixed ? mixed_find(d, e->id) : NULL;
	struct mail *m;

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

int
mail_load(struct delivery *d, struct queue_entry *e, struct mail **out)
{
	struct envelope *envelope;
	int r;

	r = spool_store_envelope(
	    d->store, (struct spool_location){ e->segment, e->offset }, &envelope);
	return r < 0 ? r : make(d, e, envelope, out);
}

int
mail_load_whole(
    struct delivery *d, struct queue_entry *e, struct mail **out, struct spool_body **body)
{
	struct envelope *envelope;
	int r;

	r = spool_store_message(d->store, (struct spool_location){ e->segment, e->offset },
	    (size_t)e->bytes_128 * BYTES_UNIT, &envelope, body);
	if (r < 0)
		return r;
	r = make(d, e, envelope, out);
	if (r < 0)
		spool_body_close(*body);
	return r;
}

int
mail_browse(struct delivery *d, struct window *window, struct queue_entry *e, struct mail **out)
{
	struct envelope *envelope;
	int r;

	r = spool_store_browse(
	    d->store, window, (struct spool_location){ e->segment, e->offset }, &envelope);
	return r < 0 ? r : make(d, e, envelope, out);
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

/* Delivery died after the message had left, perhaps, and before its outcome was durable. */
static void
foretell(struct delivery *d, struct queue_entry *e, const struct catalog_message *found)
{
	const struct envelope *env = found->envelope;
	struct mixed *x = e->is_mixed ? mixed_find(d, e->id) : NULL;

	for (size_t i = 0; i < env->n_recipients; i++) {
		if (x != NULL && i < x->n && journal_state_is_final(x->recipients[i].state))
			continue;
		d->counts.possible_duplicates++;
		e->duplicates += e->duplicates < UINT8_MAX;
		log_warning("message.repeated", KV_ID("queue_id", e->id),
		    KV_SPAN("recipient", env->recipients[i].address),
		    KV_WHY("delivery ended after the message was sent and before the answer was "
		           "stored: it may be sent twice"));
	}
}

void
mail_enter(struct delivery *d, const struct catalog_message *found)
{
	const struct envelope *env = found->envelope;
	uint64_t wall_ms = os_now_ms(), boot_ms = os_boot_ms(), due_ms = 0;
	uint32_t units = (found->bytes + BYTES_UNIT - 1) / BYTES_UNIT;
	struct queue_entry *e;
	int64_t born_s;

	if (compaction_meets(d, found))
		return;
	e = queue_add(d->queue, found->id, env->uid, env->unit, delivery_route(d, env));
	if (e == NULL)
		return; /* a second copy (compaction was cut short) */
	e->segment = found->location.segment;
	e->offset = found->location.offset;
	e->bytes_128 = (uint16_t)(units < UINT16_MAX ? units : UINT16_MAX);
	e->is_large = (env->flags & ENVELOPE_LARGE) != 0;
	born_s = ((int64_t)boot_ms - (int64_t)retry_age_ms(env->arrived_ms, wall_ms)) / 1000;
	e->born_s = born_s > INT32_MIN ? (int32_t)born_s : INT32_MIN;
	mail_count_in(d, e->segment, e);
	history_enter(d->history, e, found->place);
	if (found->outcome != NULL) {
		due_ms = take_outcome(d, e, found, wall_ms, boot_ms);
		if (mail_is_elsewhere(e) && found->outcome->moved.segment != e->segment)
			compaction_restate(d, e);
	}
	if (d->claim != NULL && d->claim(d->claim_arg, e))
		return;
	if (in_flight_was_sent(d->in_flight, e->id))
		foretell(d, e, found);
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
	int r;

	if (e->is_large) {
		r = spool_store_free_large(d->store, e->id);
		if (r < 0)
			log_warning("spool.damaged", KV_ID("queue_id", e->id),
			    KV_STR("error", strerror(-r)),
			    KV_WHY("the body of a message that is done cannot be removed"));
	}
	mixed_drop(d, e);
	history_leave(d->history, e);
	mail_count_out(d, e->segment, e);
	queue_remove(d->queue, e);
}
