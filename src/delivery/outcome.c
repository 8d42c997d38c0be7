/* outcome.c - see outcome.h. */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/os.h"
#include "delivery/delivery.h"
#include "delivery/history.h"
#include "delivery/notify.h"
#include "delivery/outcome.h"

struct outcomes {
	size_t waiting;
	struct outcome *failed;
};

struct outcomes *
outcomes_new(struct delivery *d)
{
	(void)d;
	return xcalloc(1, sizeof(struct outcomes));
}

static void
outcome_free(struct outcome *o)
{
	for (size_t i = 0; i < o->message->envelope->n_recipients; i++)
		free(o->changes[i].text);
	free(o->changes);
	free(o->payload);
	in_flight_leave(o->d->in_flight, o->flight);
	mail_free(o->message);
	free(o);
}

void
outcome_drop(struct outcome *o)
{
	outcome_free(o);
}

void
outcomes_free(struct outcomes *all)
{
	struct outcome *o;

	while (all != NULL && (o = all->failed) != NULL) {
		all->failed = o->next;
		o->flight = 0; /* the mark stays: it is not stored, and may be sent again */
		notify_drop(o);
		outcome_free(o);
	}
	free(all);
}

struct outcome *
outcome_new(struct delivery *d, struct mail *m)
{
	struct outcome *o = xcalloc(1, sizeof(*o));

	o->d = d;
	o->message = m;
	o->changes = xcalloc(m->envelope->n_recipients, sizeof(o->changes[0]));
	o->now_ms = os_now_ms();
	o->upstream = "";
	return o;
}

void
outcome_set(struct outcome *o, size_t i, enum journal_state state,
    const struct upstream_reply *reply, const char *fix)
{
	struct outcome_change *c = &o->changes[i];

	free(c->text);
	*c = (struct outcome_change){ .is_set = true, .state = (uint8_t)state, .fix = fix };
	if (reply == NULL)
		return;
	c->stage = reply->stage;
	c->code = (uint16_t)reply->code;
	memcpy(c->enhanced, reply->enhanced, sizeof(c->enhanced));
	c->text = xstrdup(reply->text);
}

/* --- the journal ------------------------------------------------------------------------------ */

static unsigned
attempts_after(const struct outcome *o, size_t i)
{
	const struct outcome_change *c = &o->changes[i];
	unsigned attempts = o->message->recipients[i].attempts;

	/* what did not count as an attempt leaves the recipient QUEUED */
	if (c->is_set &&
	    (c->state == JOURNAL_DEFERRED || c->state == JOURNAL_DELIVERED ||
	        ((c->state == JOURNAL_BOUNCED || c->state == JOURNAL_EXPIRED) && !c->is_operators)))
		attempts++;
	return attempts < UINT16_MAX ? attempts : UINT16_MAX;
}

static bool
is_done_after(const struct outcome *o)
{
	for (size_t i = 0; i < o->message->envelope->n_recipients; i++)
		if (!journal_state_is_final(o->changes[i].is_set ? o->changes[i].state
		                                                 : o->message->recipients[i].state))
			return false;
	return true;
}

static int
encode(struct outcome *o, size_t *len)
{
	const struct queue_entry *e = o->message->entry;
	size_t n = o->message->envelope->n_recipients;
	struct journal_recipient *list = xcalloc(n, sizeof(*list));
	struct journal_outcome record = { .id = e->id,
		.time_ms = o->now_ms,
		.possible_duplicates = e->duplicates + o->duplicates,
		.n_all = (uint32_t)n,
		.recipients = list };
	int r;

	for (size_t i = 0; i < n; i++) {
		const struct outcome_change *c = &o->changes[i];

		if (!c->is_set)
			continue;
		list[record.n_recipients++] = (struct journal_recipient){
			.index = (uint32_t)i,
			.state = c->state,
			.attempts = attempts_after(o, i),
			.next_attempt_ms =
			    c->state == JOURNAL_DEFERRED ? o->now_ms + o->wait_ms : 0,
			.code = c->code,
			.enhanced = span_of(c->enhanced),
			.reply = span_of(c->text),
			.upstream = span_of(o->upstream),
		};
	}
	if (is_done_after(o))
		record.flags |= JOURNAL_DONE;
	if (o->hold)
		record.flags |= JOURNAL_HOLD;
	if (o->warn || e->is_warned)
		record.flags |= JOURNAL_WARNED;
	/* Compaction of journals must know which segments have to be gone before this is forgotten (I3). */
	if (mail_is_elsewhere(e)) {
		record.flags |= JOURNAL_MOVED;
		record.moved = (struct spool_location){ e->segment, e->offset };
	}
	o->is_complete = record.n_recipients == n;
	r = journal_encode(&record, &o->payload, len);
	free(list);
	return r;
}

static void apply(struct outcome *o);

void
outcome_wait(struct outcome *o)
{
	void (*stalled)(struct outcome *, void *) = o->stalled;

	o->next = o->d->outcomes->failed;
	o->d->outcomes->failed = o;
	o->stalled = NULL;
	if (stalled != NULL)
		stalled(o, o->arg);
}

/* It is too big for one record: its words get shorter, so that what happened can be kept. False: they
 * are gone already. */
static bool
shorten(struct outcome *o)
{
	bool any = false;

	for (size_t i = 0; i < o->message->envelope->n_recipients; i++) {
		char *text = o->changes[i].text;
		size_t len = text != NULL ? strlen(text) : 0, half = len / 2;

		while (half > 0 && ((unsigned char)text[half] & 0xc0) == 0x80)
			half--; /* no half of a character */
		if (len > 0)
			text[half] = '\0';
		any = any || len > 0;
	}
	return any;
}

static void
on_written(struct spool_item *item, void *arg)
{
	struct outcome *o = arg;

	free(o->payload);
	o->payload = NULL;
	if (item->result == -EMSGSIZE && shorten(o)) {
		outcome_journal(o);
		return;
	}
	if (item->result < 0) { /* a fact waits until it can be written */
		outcome_wait(o);
		return;
	}
	o->d->outcomes->waiting--;
	history_note(o->d->history, o->message->entry, item->location, o->is_complete);
	apply(o);
}

void
outcome_journal(struct outcome *o)
{
	size_t len = 0;
	int r;

	do {
		r = encode(o, &len);
	} while (r == -EMSGSIZE && shorten(o));
	if (r < 0) { /* no memory for a large one: later */
		o->payload = NULL;
		outcome_wait(o);
		return;
	}
	o->item = (struct spool_item){ .done = on_written, .arg = o };
	spool_item_outcome(&o->item, (struct span){ o->payload, len });
	o->item.done = on_written;
	o->item.arg = o;
	spool_writer_submit(o->d->journal, &o->item);
}

/* Its letters first, then the journal. Or later, when the spool works. */
static void
proceed(struct outcome *o)
{
	if (!o->is_prepared && notify_prepare(o) < 0) {
		outcome_wait(o);
		return;
	}
	o->is_prepared = true;
	if (o->letters != NULL &&
	    o->flight == 0) /* they are durable before it is: sent twice then */
		o->flight = in_flight_enter(o->d->in_flight, o->message->entry->id);
	if (!notify_send(o)) /* else it calls outcome_journal() when its letters are durable */
		outcome_journal(o);
}

void
outcome_commit(struct outcome *o)
{
	bool any = o->hold || o->warn || o->must_write || o->duplicates > 0;

	for (size_t i = 0; i < o->message->envelope->n_recipients; i++)
		any = any || o->changes[i].is_set;
	if (!any) {
		apply(o);
		return;
	}
	o->d->outcomes->waiting++;
	proceed(o);
}

size_t
outcomes_waiting(const struct delivery *d)
{
	return d->outcomes->waiting;
}

bool
outcomes_are_failed(const struct delivery *d)
{
	return d->outcomes->failed != NULL;
}

void
outcomes_pump(struct delivery *d)
{
	struct outcome *list = d->outcomes->failed, *o;

	if (list == NULL || spool_writer_is_failed(d->journal) ||
	    spool_writer_is_failed(d->letters))
		return;
	d->outcomes->failed = NULL;
	while ((o = list) != NULL) {
		list = o->next;
		proceed(o);
	}
}

/* --- taking effect ---------------------------------------------------------------------------- */

static void
tell(const struct outcome *o, size_t i)
{
	const struct outcome_change *c = &o->changes[i];
	const struct envelope *env = o->message->envelope;
	struct delivery_counts *counts = &o->d->counts;
	char reply[SMTP_REPLY_TEXT_MAX + 24];
	struct log_field fields[16];
	size_t n = 0;
	const char *event = "message.deferred";
	enum log_level level = LOG_INFO;
	uint64_t *count = &counts->deferred;

	if (c->state == JOURNAL_QUEUED)
		return; /* released: whoever did it tells of the message as a whole (control_change.c) */
	switch (c->state) {
	case JOURNAL_DEFERRED:
		level = c->is_operators ? LOG_ERROR : LOG_INFO;
		break;
	case JOURNAL_HELD:
		event = "message.held";
		level = LOG_ERROR;
		count = &counts->held;
		break;
	case JOURNAL_DELIVERED:
		event = "message.delivered";
		count = &counts->delivered;
		break;
	case JOURNAL_BOUNCED:
	case JOURNAL_EXPIRED:
		event = "message.bounced";
		level = LOG_WARNING;
		count = &counts->bounced;
		break;
	case JOURNAL_REMOVED:
		event = "message.removed";
		count = &counts->removed;
		break;
	}
	++*count;
	if (!log_is_on(level))
		return;
	if (c->code > 0)
		snprintf(reply, sizeof(reply), "%d %s%s%s", c->code, c->enhanced,
		    c->enhanced[0] != '\0' ? " " : "", c->text != NULL ? c->text : "");
	else
		snprintf(reply, sizeof(reply), "%s", c->text != NULL ? c->text : "");
	fields[n++] = KV_ID("queue_id", o->message->entry->id);
	fields[n++] = env->sender.len > 0 ? KV_SPAN("sender", env->sender) : KV_STR("sender", "<>");
	fields[n++] = KV_SPAN("recipient", env->recipients[i].address);
	fields[n++] = KV_STR("upstream", o->upstream);
	fields[n++] =
	    KV_STR("stage", c->stage != SMTP_STAGE_NONE ? smtp_stage_name(c->stage) : NULL);
	fields[n++] = KV_STR("reply", reply);
	fields[n++] = KV_INT("attempts", attempts_after(o, i));
	if (env->uid != ENVELOPE_UID_UNKNOWN)
		fields[n++] = KV_INT("uid", env->uid);
	fields[n++] = KV_SPAN("unit", env->unit);
	fields[n++] = KV_MS("delay", delivery_age_ms(o->d, o->message->entry));
	if (c->state == JOURNAL_DEFERRED)
		fields[n++] = KV_MS("next", o->wait_ms);
	fields[n++] = KV_FIX(c->fix);
	fields[n] = (struct log_field){ .type = LOG_FIELD_END };
	log_event(level, event, fields);
}

/* Durable: now it is so. */
static void
apply(struct outcome *o)
{
	struct delivery *d = o->d;
	struct mail *m = o->message;
	bool done;

	for (size_t i = 0; i < m->envelope->n_recipients; i++) {
		if (!o->changes[i].is_set)
			continue;
		tell(o, i);
		m->recipients[i].attempts = (uint16_t)attempts_after(o, i);
		m->recipients[i].state = o->changes[i].state;
		if (o->changes[i].state == JOURNAL_DEFERRED)
			m->due_ms = os_boot_ms() + o->wait_ms;
	}
	if (o->duplicates > 0) {
		d->counts.possible_duplicates += o->duplicates;
		m->entry->duplicates = (uint8_t)(m->entry->duplicates + o->duplicates < UINT8_MAX
		                                     ? m->entry->duplicates + o->duplicates
		                                     : UINT8_MAX);
	}
	m->entry->is_warned = m->entry->is_warned || o->warn;
	done = mail_is_done(m);
	if (done) {
		d->counts.messages++;
		mail_leave(d, m->entry);
	} else {
		mail_store(d, m);
		mail_place(d, m, o->hold);
	}
	if (o->done != NULL)
		o->done(o, o->arg);
	outcome_free(o);
	delivery_kick(d);
}
