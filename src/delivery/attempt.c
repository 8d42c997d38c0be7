/* attempt.c - see attempt.h. */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/os.h"
#include "delivery/attempt.h"
#include "delivery/delivery.h"
#include "delivery/outcome.h"
#include "delivery/upstream.h"

static int
read_bytes(struct attempt *a, uint64_t offset, void *buf, size_t len)
{
	struct span prefix = a->outcome->message->envelope->prefix;
	ssize_t n;

	if (offset < prefix.len) {
		if (len > prefix.len - offset)
			len = prefix.len - (size_t)offset;
		memcpy(buf, prefix.data + offset, len);
		return (int)len;
	}
	n = spool_body_read(a->body, offset - prefix.len, buf, len);
	return n == 0 ? -EBADMSG : (int)n; /* shorter than its envelope says */
}

static int
read_message(struct delivery_job *job, uint64_t offset, void *buf, size_t len)
{
	struct attempt *a = job->arg;
	struct outcome *o = a->outcome;
	int n = read_bytes(a, offset, buf, len);

	/* With its last byte it can be accepted: from here on a crash may repeat it (I4). */
	if (n > 0 && offset + (uint64_t)n == job->envelope.bytes && o->flight == 0)
		o->flight = in_flight_enter(a->d->in_flight, job->id);
	return n;
}

/* The message cannot be read. Damage does not mend itself: held, and told. The rest waits. */
static void
put_away(struct delivery *d, struct queue_entry *e, int error)
{
	bool is_lost = error == -EBADMSG || error == -ENOENT || error == -EPROTONOSUPPORT;

	if (!is_lost) {
		queue_defer(d->queue, e, os_boot_ms() + d->retry.first_ms);
		log_warning("message.deferred", KV_ID("queue_id", e->id),
		    KV_STR("error", strerror(-error)), KV_WHY("its bytes cannot be read now"));
		return;
	}
	queue_hold(d->queue, e);
	d->counts.held++;
	log_error("message.held", KV_ID("queue_id", e->id), KV_STR("error", strerror(-error)),
	    KV_WHY(error == -EPROTONOSUPPORT ? "it was written by a newer relayd"
	                                     : "its bytes in the spool are damaged"),
	    KV_FIX("see quarantine/ in the spool directory; relayctl remove gives it up"));
}

static unsigned
smtp_notify_of(uint8_t notify)
{
	return (notify & ENVELOPE_NOTIFY_NEVER ? SMTP_ENVELOPE_NOTIFY_NEVER : 0u) |
	       (notify & ENVELOPE_NOTIFY_SUCCESS ? SMTP_ENVELOPE_NOTIFY_SUCCESS : 0u) |
	       (notify & ENVELOPE_NOTIFY_FAILURE ? SMTP_ENVELOPE_NOTIFY_FAILURE : 0u) |
	       (notify & ENVELOPE_NOTIFY_DELAY ? SMTP_ENVELOPE_NOTIFY_DELAY : 0u);
}

static void
pick_recipients(struct attempt *a, unsigned most)
{
	const struct mail *m = a->outcome->message;
	size_t n = m->envelope->n_recipients, picked = 0;
	bool queued = false;

	for (size_t i = 0; i < n; i++)
		queued = queued || m->recipients[i].state == JOURNAL_QUEUED;
	for (size_t i = 0; i < n && (most == 0 || picked < most); i++) {
		const struct envelope_recipient *r = &m->envelope->recipients[i];

		if (m->recipients[i].state != (queued ? JOURNAL_QUEUED : JOURNAL_DEFERRED))
			continue;
		a->recipients[picked++] = (struct smtp_envelope_recipient){ .address = r->address,
			.notify = smtp_notify_of(r->notify),
			.orcpt = r->orcpt,
			.index = (unsigned)i };
	}
	a->job.envelope.recipients = a->recipients;
	a->job.envelope.n_recipients = picked;
}

static void
attempt_free(struct attempt *a)
{
	spool_body_close(a->body);
	free(a->recipients);
	free(a->split);
	free(a);
}

static struct attempt *
attempt_make(struct delivery *d, struct upstream *u, struct mail *m, unsigned most)
{
	const struct envelope *env = m->envelope;
	struct attempt *a = xcalloc(1, sizeof(*a));

	a->d = d;
	a->u = u;
	a->outcome = outcome_new(d, m);
	a->outcome->upstream = u->config->name;
	a->recipients = xcalloc(env->n_recipients, sizeof(a->recipients[0]));
	a->split = xcalloc(env->n_recipients, sizeof(a->split[0]));
	a->job = (struct delivery_job){
		.id = env->id,
		.envelope = { .sender = env->sender,
		    .flags = ((env->flags & ENVELOPE_8BIT) != 0 ? SMTP_ENVELOPE_8BIT : 0) |
		             ((env->flags & ENVELOPE_SMTPUTF8) != 0 ? SMTP_ENVELOPE_UTF8 : 0),
		    .ret = env->ret == ENVELOPE_RET_FULL   ? SMTP_ENVELOPE_RET_FULL
		           : env->ret == ENVELOPE_RET_HDRS ? SMTP_ENVELOPE_RET_HDRS
		                                           : SMTP_ENVELOPE_RET_NONE,
		    .envid = env->envid,
		    .bytes = env->prefix.len + env->body_bytes },
		.read = read_message,
		.arg = a,
	};
	pick_recipients(a, most);
	return a;
}

bool
attempt_new(struct delivery *d, struct upstream *u, struct queue_entry *e, unsigned recipients_max,
    struct attempt **out)
{
	struct spool_body *body;
	struct mail *m;
	struct attempt *a;
	int r;

	r = mail_load_whole(d, e, &m, &body);
	if (r < 0) {
		put_away(d, e, r);
		return false;
	}
	a = attempt_make(d, u, m, recipients_max);
	a->body = body;
	if (a->job.envelope.n_recipients == 0) { /* nobody left who may be tried: held ones */
		attempt_end(a);
		return false;
	}
	*out = a;
	return true;
}

struct delivery_job *
attempt_job(struct attempt *a)
{
	return &a->job;
}

struct queue_entry *
attempt_entry(struct attempt *a)
{
	return a->outcome->message->entry;
}

bool
attempt_is_returned(const struct attempt *a)
{
	return a->is_returned;
}

/* Waits, or is given up for its age. What an operator can mend is never given up. */
static void
defer(struct attempt *a, size_t index, const struct upstream_reply *reply, const struct failure *f)
{
	struct outcome *o = a->outcome;
	struct delivery *d = a->d;
	unsigned attempts = o->message->recipients[index].attempts + 1u;
	uint64_t age_ms = delivery_age_ms(d, o->message->entry);

	if (f->class != FAILURE_OPERATOR && retry_is_expired(&d->retry, age_ms, attempts)) {
		outcome_set(o, index, JOURNAL_EXPIRED, reply, "");
		return;
	}
	outcome_set(o, index, JOURNAL_DEFERRED, reply, f->fix);
	o->changes[index].is_operators = f->class == FAILURE_OPERATOR;
	if (o->wait_ms == 0)
		o->wait_ms = retry_wait_ms(&d->retry, attempts, delivery_random());
	if (!o->message->entry->is_warned && o->message->envelope->sender.len > 0 &&
	    retry_is_late(&d->retry, age_ms))
		o->warn = true;
}

static void
refused(struct attempt *a, size_t i, const struct upstream_reply *reply, const struct failure *f)
{
	size_t index = a->recipients[i].index;

	if (f->scope == FAILURE_OF_UPSTREAM || f->class == FAILURE_PACE)
		a->is_returned = a->is_returned || reply->code == 421; /* no attempt is lost */
	else if (f->is_split)
		a->split[i] = true;
	else if (f->class == FAILURE_PERMANENT)
		outcome_set(a->outcome, index, JOURNAL_BOUNCED, reply, f->fix);
	else
		defer(a, index, reply, f);
}

void
attempt_verdict(struct attempt *a, size_t i, const struct upstream_reply *reply,
    enum verdict verdict, bool passes_dsn, struct failure *f)
{
	static const struct failure temporary = { .class = FAILURE_TEMPORARY, .fix = "" };
	struct outcome *o = a->outcome;
	size_t index = a->recipients[i].index;
	struct upstream_reply lost = { .stage = SMTP_STAGE_END };

	switch (verdict) {
	case VERDICT_ACCEPTED:
		outcome_set(o, index, JOURNAL_DELIVERED, reply, "");
		o->changes[index].is_relayed = !passes_dsn;
		a->accepted++;
		break;
	case VERDICT_REPLY:
	case VERDICT_LOCAL:
		*f = classify(reply);
		if (verdict == VERDICT_LOCAL && f->class != FAILURE_PERMANENT)
			*f = temporary;
		refused(a, i, reply, f);
		break;
	case VERDICT_UNSENT:
		a->is_returned = true;
		break;
	case VERDICT_UNKNOWN:
		snprintf(lost.text, sizeof(lost.text),
		    "the connection was lost after the end of data and before the reply: it may "
		    "have been delivered");
		o->duplicates++;
		log_warning("message.repeated", KV_ID("queue_id", o->message->entry->id),
		    KV_SPAN("recipient", a->recipients[i].address),
		    KV_STR("upstream", a->u->config->name), KV_WHY(lost.text));
		defer(a, index, &lost, &temporary);
		break;
	}
}

void
attempt_blame(struct attempt *a, enum smtp_stage stage, const char *why)
{
	static const struct failure temporary = { .class = FAILURE_TEMPORARY, .fix = "" };
	struct upstream_reply reply = { .stage = stage };

	snprintf(reply.text, sizeof(reply.text), "connections end on this message: %.400s", why);
	attempt_entry(a)->suspect = 0;
	for (size_t i = 0; i < a->job.envelope.n_recipients; i++)
		if (!a->outcome->changes[a->recipients[i].index].is_set)
			defer(a, a->recipients[i].index, &reply, &temporary);
}

void
attempt_end(struct attempt *a)
{
	static const struct failure temporary = { .class = FAILURE_TEMPORARY, .fix = "" };
	struct outcome *o = a->outcome;
	struct upstream_reply reply = {
		.stage = SMTP_STAGE_RCPT, .code = 452, .enhanced = "4.5.3"
	};

	snprintf(reply.text, sizeof(reply.text), "too many recipients");
	for (size_t i = 0; i < a->job.envelope.n_recipients; i++)
		if (a->split[i] && a->accepted == 0) /* none got through: that is no split */
			defer(a, a->recipients[i].index, &reply, &temporary);
	if (!a->is_returned)
		attempt_entry(a)->suspect = 0;
	attempt_free(a);
	outcome_commit(o);
}

void
attempt_cancel(struct attempt *a)
{
	struct queue_entry *e = attempt_entry(a);
	struct delivery *d = a->d;

	outcome_drop(a->outcome);
	attempt_free(a);
	queue_ready_first(d->queue, e);
}
