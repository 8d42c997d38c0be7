/* compaction.c - see compaction.h. Work comes in passes: the emptiest segments are chosen, and one walk
 * over the queue finds their messages. A pass moves about one segment's worth at most, so that even on
 * a full disk it frees more than it has taken before it needs another file. */
#include <errno.h>
#include <stdlib.h>
#include <utlist.h>

#include "base/log.h"
#include "delivery/compaction.h"
#include "delivery/delivery.h"
#include "delivery/outcome.h"

#define LOOK_EVERY_MS 1000
#define REST_MS 10000        /* after a pass that found nothing: its messages are being delivered */
#define WAIT_MOST_MS 3600000 /* between copies that nobody can read: each takes another file */
#define WALK_A_TURN 4096     /* queue entries looked at before the loop turns */
#define READ_A_TURN 16       /* messages read */
#define READ_BYTES_A_TURN (256u << 10)
#define MOVES_AT_ONCE 64 /* on their way to the disk */
#define BYTES_AT_ONCE (1u << 20)

struct move {
	struct delivery *d;
	struct outcome *outcome; /* holds the message; NULL: on its way to the journal */
	struct mail *message;
	struct spool_copy copy;
	bool is_restating; /* it has moved before we came: only the journal is told */
	struct spool_item item;
	struct spool_location from, to;
	uint32_t above; /* the next copy goes into a segment after this one */
	size_t bytes;
	bool is_copied;   /* durable at `to` */
	bool is_met;      /* by the follower: counted at `to` */
	bool is_failed;   /* waits for the writer to work again */
	bool is_in_doubt; /* nobody knows whether there is a copy: one has to come after it */
	struct move *prev, *next;
};

/* Bytes that the follower could not read, of a segment into which copies may still go. */
struct damaged {
	uint32_t segment;
	uint64_t begin, end;
};

struct compaction {
	struct move *moves;
	size_t n_moves, bytes;
	struct damaged *damaged;
	size_t n_damaged;
	uint64_t retry_ms, wait_ms; /* when failed copies are written again */
	bool is_gathering; /* a batch: it goes on until there are enough, then waits for them all */

	/* the pass */
	uint32_t *victims; /* ascending; NULL: no pass */
	size_t n_victims;
	uint32_t cursor;
	bool is_walked; /* over the whole queue */
	uint64_t victims_bytes;
	uint64_t begun, moved, moved_bytes;
	uint64_t next_ms; /* when the next one may begin */

	uint64_t *restate;                         /* IDs */
	size_t n_restate, restate_room, restating; /* restating: on their way to the journal */
};

struct compaction *
compaction_new(void)
{
	return xcalloc(1, sizeof(struct compaction));
}

static struct move *
move_new(struct delivery *d, struct outcome *o)
{
	struct compaction *c = d->compaction;
	struct move *m = xcalloc(1, sizeof(*m));

	m->d = d;
	m->outcome = o;
	m->message = o->message;
	DL_APPEND(c->moves, m);
	c->n_moves++;
	return m;
}

static void
move_free(struct compaction *c, struct move *m)
{
	DL_DELETE(c->moves, m);
	c->n_moves--;
	c->bytes -= m->bytes;
	spool_copy_free(&m->copy);
	free(m);
}

void
compaction_free(struct compaction *c)
{
	if (c == NULL)
		return;
	while (c->moves != NULL) {
		if (c->moves->outcome != NULL)
			outcome_drop(c->moves->outcome);
		move_free(c, c->moves);
	}
	free(c->damaged);
	free(c->victims);
	free(c->restate);
	free(c);
}

/* --- claiming --------------------------------------------------------------------------------- */

/* Reads a message and takes it away from everybody else; its outcome, which changes nothing, remembers
 * where it goes back to. */
static int
claim(struct delivery *d, struct queue_entry *e, struct outcome **out)
{
	bool queued = false, deferred = false;
	struct outcome *o;
	struct mail *m;
	int r;

	r = mail_load(d, e, &m);
	if (r < 0)
		return r;
	for (size_t i = 0; i < m->envelope->n_recipients; i++) {
		queued = queued || m->recipients[i].state == JOURNAL_QUEUED;
		deferred = deferred || m->recipients[i].state == JOURNAL_DEFERRED;
	}
	o = outcome_new(d, m);
	o->is_quiet = o->must_write = true;
	if (e->state == QUEUE_DEFERRED)
		m->due_ms = queue_due_ms(e);
	else if (e->state == QUEUE_READY && !queued)
		m->due_ms = 0; /* its time has come, or an operator said so */
	else if (e->state == QUEUE_HELD)
		o->hold = queued || deferred; /* else its recipients are held, each for itself */
	queue_claim(d->queue, e);
	*out = o;
	return 0;
}

/* Nothing happened. */
static void
unclaim(struct delivery *d, struct outcome *o)
{
	mail_place(d, o->message, o->hold);
	outcome_drop(o);
}

/* --- moving ----------------------------------------------------------------------------------- */

static void
on_moved(struct outcome *o, void *arg)
{
	struct move *m = arg;
	struct compaction *c = m->d->compaction;

	if (m->is_restating) {
		c->restating--;
	} else {
		c->wait_ms = 0;
		c->moved++;
		c->moved_bytes += m->bytes;
		mail_count_out(m->d, m->from.segment, o->message->entry);
	}
	move_free(c, m);
}

static void
tell_journal(struct move *m)
{
	struct outcome *o = m->outcome;

	m->outcome = NULL;
	o->done = on_moved;
	o->arg = m;
	outcome_commit(o);
}

/* When both places hold it, and both are counted, the new one is used. */
static void
change_places(struct move *m)
{
	if (!m->is_copied || !m->is_met)
		return;
	m->message->entry->segment = m->to.segment;
	m->message->entry->offset = m->to.offset;
	tell_journal(m);
}

static void
give_up(struct move *m)
{
	struct delivery *d = m->d;

	unclaim(d, m->outcome);
	move_free(d->compaction, m);
	delivery_kick(d);
}

/* The segment of this message cannot be emptied, so it shall not cost any more writes. */
static void
stays(struct delivery *d, const struct queue_entry *e, int error)
{
	struct compaction *c = d->compaction;
	uint32_t *v = c->victims;

	for (size_t i = 0; i < c->n_victims; i++)
		if (v[i] == e->segment) {
			c->n_victims--;
			memmove(v + i, v + i + 1, (c->n_victims - i) * sizeof(*v));
		}
	if (mail_segment_stays(d, e->segment))
		log_warning("spool.damaged", KV_ID("queue_id", e->id),
		    KV_INT("segment", e->segment), KV_STR("error", strerror(-error)),
		    KV_WHY("a message cannot be moved: its segment stays, however empty it is"),
		    KV_FIX("relayctl remove gives the message up"));
}

static bool
is_same_place(struct spool_location a, struct spool_location b)
{
	return a.segment == b.segment && a.offset == b.offset;
}

/* It stands at `at`. Of several copies the last one counts: no word of the journal's reaches beyond it. */
static void
count_at(struct move *m, struct spool_location at)
{
	struct queue_entry *e = m->message->entry;

	mail_count_in(m->d, at.segment, e);
	if (m->is_met)
		mail_count_out(m->d, m->to.segment, e);
	m->is_met = true;
	m->to = at;
}

static void
on_copied(struct spool_item *item, void *arg)
{
	struct move *m = arg;

	if (item->result == 0) {
		m->is_copied = true;
		if (m->is_met) /* an earlier one perhaps, that can be read after all */
			count_at(m, item->location);
		m->to = item->location;
		change_places(m);
	} else if (item->result == -EIO || m->is_in_doubt) {
		m->is_failed = m->is_in_doubt = true;
	} else {
		if (item->result == -EMSGSIZE) /* segments have become smaller */
			stays(m->d, m->message->entry, -EMSGSIZE);
		give_up(m);
	}
}

static void
write_copy(struct move *m)
{
	m->is_failed = false;
	m->item = (struct spool_item){ 0 };
	spool_item_copy(
	    &m->item, m->above, m->copy.envelope, m->copy.is_large ? NULL : &m->copy.body);
	m->item.done = on_copied;
	m->item.arg = m;
	spool_writer_submit(m->d->letters, &m->item);
}

/* -errno: the message is where it was. */
static int
move_begin(struct delivery *d, struct queue_entry *e)
{
	struct compaction *c = d->compaction;
	struct spool_location from = { e->segment, e->offset };
	struct spool_copy copy;
	struct outcome *o;
	struct move *m;
	int r;

	r = spool_store_copy(d->store, from, &copy);
	if (r < 0)
		return r;
	r = claim(d, e, &o);
	if (r < 0) {
		spool_copy_free(&copy);
		return r;
	}
	m = move_new(d, o);
	m->copy = copy;
	m->from = from;
	m->above = from.segment;
	m->bytes = record_bytes((uint32_t)copy.envelope.len) +
	           (copy.is_large ? 0 : record_bytes((uint32_t)copy.body.iov_len));
	c->bytes += m->bytes;
	c->begun++;
	write_copy(m);
	return 0;
}

bool
compaction_meets(struct delivery *d, const struct catalog_message *found)
{
	struct move *m;

	DL_FOREACH(d->compaction->moves, m)
	{
		if (m->message->entry->id != found->id || m->is_restating)
			continue;
		if (m->is_copied && !is_same_place(found->location, m->to))
			return true; /* there is a later one */
		if (!m->is_met || !is_same_place(found->location, m->to)) {
			count_at(m, found->location);
			change_places(m);
		}
		return true;
	}
	return false;
}

static bool
is_damaged(const struct compaction *c, const struct move *m)
{
	for (size_t i = 0; i < c->n_damaged; i++) {
		const struct damaged *x = &c->damaged[i];

		if (x->segment == m->to.segment && x->begin < m->to.offset + m->bytes &&
		    m->to.offset < x->end)
			return true;
	}
	return false;
}

/* No copy goes into a segment that is not written any more. */
static void
forget_damaged(struct delivery *d)
{
	struct compaction *c = d->compaction;
	size_t n = 0;

	for (size_t i = 0; i < c->n_damaged; i++)
		if (catalog_is_live(d->catalog, c->damaged[i].segment))
			c->damaged[n++] = c->damaged[i];
	c->n_damaged = n;
}

/* Copies that the follower will not meet any more: they cannot be read now, but perhaps after the next
 * start. So others have to come after them, in another file (for this one there may be no hope at all: its
 * first block could not be read), in less and less haste. */
static void
look_for_unmet(struct delivery *d, uint64_t now_ms)
{
	struct compaction *c = d->compaction;
	bool any = false;
	struct move *m;

	DL_FOREACH(c->moves, m)
	{
		if (!m->is_copied || m->is_met ||
		    (!is_damaged(c, m) && !catalog_is_over(d->catalog, m->to.segment)))
			continue;
		m->is_copied = false;
		m->is_failed = m->is_in_doubt = any = true;
		m->above = m->to.segment;
	}
	if (any) {
		c->wait_ms = c->wait_ms == 0 ? LOOK_EVERY_MS : 2 * c->wait_ms;
		if (c->wait_ms > WAIT_MOST_MS)
			c->wait_ms = WAIT_MOST_MS;
		c->retry_ms = now_ms + c->wait_ms;
	}
	if (c->moves == NULL)
		forget_damaged(d);
}

void
compaction_damage(struct delivery *d, const struct spool_damage *damage)
{
	struct compaction *c = d->compaction;

	if (damage->kind != SEGMENT_DELIVERY)
		return;
	c->damaged = xrealloc(c->damaged, c->n_damaged + 1, sizeof(c->damaged[0]));
	c->damaged[c->n_damaged++] = (struct damaged){ damage->number, damage->offset,
		damage->offset + damage->length_bytes };
}

/* --- telling the journal what a crash kept from it --------------------------------------------- */

void
compaction_restate(struct delivery *d, const struct queue_entry *e)
{
	struct compaction *c = d->compaction;

	if (c->n_restate == c->restate_room) {
		c->restate_room = c->restate_room ? 2 * c->restate_room : 64;
		c->restate = xrealloc(c->restate, c->restate_room, sizeof(c->restate[0]));
	}
	c->restate[c->n_restate++] = e->id;
}

bool
compaction_is_restating(const struct delivery *d)
{
	return d->compaction->n_restate + d->compaction->restating > 0;
}

static void
restate(struct delivery *d)
{
	struct compaction *c = d->compaction;
	size_t kept = 0, n = 0;

	for (; n < c->n_restate && c->restating < MOVES_AT_ONCE && n < READ_A_TURN; n++) {
		struct queue_entry *e = queue_find(d->queue, c->restate[n]);
		struct outcome *o;
		struct move *m;

		if (e == NULL)
			continue;               /* done by now, and that said where it stands */
		if (e->state == QUEUE_ACTIVE) { /* what it is about to say will tell as well */
			c->restate[kept++] = e->id;
			continue;
		}
		if (claim(d, e, &o) < 0)
			continue; /* it cannot be read: nothing can be said of it */
		m = move_new(d, o);
		m->is_restating = true;
		c->restating++;
		tell_journal(m);
	}
	if (n > kept)
		memmove(
		    c->restate + kept, c->restate + n, (c->n_restate - n) * sizeof(c->restate[0]));
	c->n_restate -= n - kept;
	if (kept < n && c->n_restate > 0)
		delivery_kick(d);
}

/* --- for operators ----------------------------------------------------------------------------- */

static struct move *
find(const struct delivery *d, const struct queue_entry *e)
{
	struct move *m;

	DL_FOREACH(d->compaction->moves, m)
	{
		if (m->message->entry == e)
			return m;
	}
	return NULL;
}

bool
compaction_is_moving(const struct delivery *d, const struct queue_entry *e)
{
	return find(d, e) != NULL;
}

void
compaction_retry(struct delivery *d, const struct queue_entry *e)
{
	struct move *m = find(d, e);

	if (m != NULL)
		m->message->due_ms = 0;
}

/* --- passes ----------------------------------------------------------------------------------- */

static int
compare_fullness(const void *a, const void *b)
{
	const struct mail_segment *x = a, *y = b;
	uint64_t left = x->live_bytes * y->file_bytes, right = y->live_bytes * x->file_bytes;

	return left < right ? -1 : left > right;
}

static int
compare_numbers(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static void
choose(struct delivery *d, struct mail_segment sum)
{
	struct compaction *c = d->compaction;
	uint64_t moving_bytes = 0, most_bytes = d->config->spool.segment_bytes;
	struct mail_segment *all;
	size_t n;

	all = mail_segments_list(d, &n);
	qsort(all, n, sizeof(*all), compare_fullness);
	c->victims = xcalloc(n, sizeof(c->victims[0]));
	for (size_t i = 0; i < n && sum.file_bytes > 2 * sum.live_bytes; i++) {
		if (2 * all[i].live_bytes > all[i].file_bytes)
			break;
		if (c->n_victims > 0 && moving_bytes + all[i].live_bytes > most_bytes)
			break;
		c->victims[c->n_victims++] = all[i].number;
		moving_bytes += all[i].live_bytes;
		c->victims_bytes += all[i].file_bytes;
		sum.file_bytes -= all[i].file_bytes;
		sum.live_bytes -= all[i].live_bytes;
	}
	free(all);
	qsort(c->victims, c->n_victims, sizeof(c->victims[0]), compare_numbers);
}

static void
pass_end(struct compaction *c, uint64_t now_ms)
{
	if (c->moved > 0)
		log_debug("spool.compacted", KV_INT("segments", (int64_t)c->n_victims),
		    KV_INT("messages", (int64_t)c->moved),
		    KV_INT("bytes_before", (int64_t)c->victims_bytes),
		    KV_INT("bytes_after", (int64_t)c->moved_bytes));
	c->next_ms = now_ms + (c->moved > 0 ? 0 : c->begun > 0 ? LOOK_EVERY_MS : REST_MS);
	free(c->victims);
	c->victims = NULL;
	c->n_victims = 0;
	c->victims_bytes = c->begun = c->moved = c->moved_bytes = 0;
}

/* Is it time, and is there something to win? */
static bool
pass_begin(struct delivery *d, uint64_t now_ms)
{
	struct compaction *c = d->compaction;
	uint64_t slack_bytes = COMPACTION_SLACK * d->config->spool.segment_bytes;
	struct mail_segment sum;

	if (now_ms < c->next_ms)
		return false;
	c->next_ms = now_ms + LOOK_EVERY_MS;
	mail_segments_sum(d, &sum);
	if (sum.file_bytes <= 2 * sum.live_bytes + slack_bytes)
		return false;
	choose(d, sum);
	if (c->n_victims == 0) {
		pass_end(c, now_ms);
		return false;
	}
	c->cursor = 0;
	c->is_walked = false;
	c->is_gathering = true;
	return true;
}

static bool
is_of_victim(const struct compaction *c, const struct queue_entry *e)
{
	return bsearch(&e->segment, c->victims, c->n_victims, sizeof(c->victims[0]),
	           compare_numbers) != NULL;
}

/* A turn's work. */
static void
walk(struct delivery *d)
{
	struct compaction *c = d->compaction;
	size_t before = c->bytes, n = 0;

	for (unsigned i = 0; i < WALK_A_TURN; i++) {
		struct queue_entry *e;
		int r;

		if (c->n_moves >= MOVES_AT_ONCE || c->bytes >= BYTES_AT_ONCE) {
			c->is_gathering = false;
			return; /* the last of them wakes us */
		}
		if (n >= READ_A_TURN || c->bytes >= before + READ_BYTES_A_TURN)
			break;
		e = queue_each(d->queue, &c->cursor);
		if (e == NULL) {
			c->is_walked = true;
			return;
		}
		if (e->state == QUEUE_ACTIVE || e->is_watched || !is_of_victim(c, e))
			continue;
		n++;
		r = move_begin(d, e);
		if (r < 0 && r != -ENOMEM && r != -EMFILE && r != -ENFILE)
			stays(d, e, r);
	}
	delivery_kick(d);
}

static bool
is_possible(const struct delivery *d)
{
	return d->is_read && !d->stopping && !d->is_full && !outcomes_are_failed(d) &&
	       !spool_writer_is_failed(d->letters) && !spool_writer_is_failed(d->journal);
}

void
compaction_pump(struct delivery *d, uint64_t now_ms)
{
	struct compaction *c = d->compaction;
	struct move *m;

	if (!is_possible(d))
		return;
	look_for_unmet(d, now_ms);
	DL_FOREACH(c->moves, m)
	{
		if (m->is_failed && now_ms >= c->retry_ms)
			write_copy(m);
	}
	if (c->n_restate > 0)
		restate(d);
	if (!mail_is_freeing(d) || (c->victims == NULL && !pass_begin(d, now_ms)))
		return;
	if (c->n_moves == 0)
		c->is_gathering = true;
	if (c->is_gathering && !c->is_walked)
		walk(d);
	if (c->is_walked && c->n_moves == 0)
		pass_end(c, now_ms);
}
