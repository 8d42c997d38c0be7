/* control_change.c - retry, hold, release, bounce, remove: an operator changes the queue. What has to
 * outlast a restart is durable before it is answered. */
#include <stdlib.h>

#include "base/log.h"
#include "base/queue_id.h"
#include "delivery/compaction.h"
#include "delivery/control.h"
#include "delivery/outcome.h"
#include "delivery/request.h"
#include "delivery/upstream.h"

#define CHANGES_AT_ONCE 64 /* on their way to the disk */
#define LINES_MOST 1000    /* of one request in the log at info: a million would bury all else */

struct changing {
	const struct verb *verb;
	bool all;
	uint32_t cursor;
	uint64_t
	    first_letter; /* with "all": what delivery itself wrote from this ID on is not meant */
	size_t next;      /* index into the list of IDs */
	json_int_t changed, failed;
	unsigned lines; /* in the log */
	bool has_begun, is_finished;
};

/* Begins the change: NULL if it is under way or done (*later: its line comes when it is durable), else
 * why not. */
typedef const char *change_fn(struct request *r, struct queue_entry *e, bool *later);

struct verb {
	const char *name;
	const char *result;
	change_fn *change;
	unsigned states; /* of messages that "all" means */
	bool is_stored;  /* it outlasts a restart: without the disk there is none */
	/* for the log, a line for each message; NULL: there is one for each recipient (outcome.c), or
	 * nothing became of it yet */
	const char *event, *why;
};

/* --- the changes ------------------------------------------------------------------------------ */

struct promise {                 /* a line that is owed */
	struct request *request; /* NULL: it was told that it has to wait */
	const struct verb *verb;
	struct request_asker asker;
	enum log_level level;
	uint64_t id;
};

static void
say_result(struct request *r, uint64_t id, const char *result, const char *error)
{
	struct changing *c = r->state;
	char text[QUEUE_ID_LEN + 1];

	queue_id_print(id, text);
	if (error == NULL)
		c->changed++;
	else
		c->failed++;
	request_say(r, json_pack("{s:s, s:s}", "id", text, error != NULL ? "error" : "result",
	                   error != NULL ? error : result));
}

static void
tell(const struct promise *p, const struct envelope *env)
{
	if (p->verb->event == NULL)
		return;
	log_event(p->level, p->verb->event,
	    LOG_FIELDS(KV_ID("queue_id", p->id),
	        env->sender.len > 0 ? KV_SPAN("sender", env->sender) : KV_STR("sender", "<>"),
	        KV_INT("recipients", (int64_t)env->n_recipients), KV_INT("uid", p->asker.uid),
	        KV_INT("pid", p->asker.pid), KV_WHY(p->verb->why)));
}

static bool
has_held(const struct mail *m)
{
	for (size_t i = 0; i < m->envelope->n_recipients; i++)
		if (m->recipients[i].state == JOURNAL_HELD)
			return true;
	return false;
}

static void
keep_promise(struct promise *promise, const char *error)
{
	struct request *r = promise->request;

	promise->request = NULL;
	if (r == NULL)
		return;
	say_result(r, promise->id, promise->verb->result, error);
	if (request_returned(r))
		request_wake(r);
}

static void
on_durable(struct outcome *o, void *arg)
{
	struct promise *promise = arg;

	tell(promise, o->message->envelope);
	keep_promise(promise,
	    strcmp(promise->verb->name, "bounce") == 0 && has_held(o->message)
	        ? "nobody can be told: it is held; \"relayctl remove\" gives it up silently"
	        : NULL);
	free(promise);
}

/* Who asked is not kept waiting for somebody to make room. */
static void
on_stalled(struct outcome *o, void *arg)
{
	(void)o;
	keep_promise(arg, "the spool cannot be written: it will be done as soon as it can be");
}

/* A change of all its open recipients, or of none (hold and release of the message itself). */
static const char *
commit(struct request *r, struct queue_entry *e, int state, const char *text, bool hold)
{
	struct upstream_reply words = { .stage = SMTP_STAGE_NONE };
	struct changing *c = r->state;
	struct promise *promise;
	struct outcome *o;
	struct mail *m;

	if (mail_load(r->d, e, &m) < 0)
		return "its envelope cannot be read";
	snprintf(words.text, sizeof(words.text), "%s", text);
	queue_claim(r->d->queue, e); /* nobody else takes it meanwhile */
	o = outcome_new(r->d, m);
	o->hold = hold;
	o->must_write = true;
	o->is_quiet = state == JOURNAL_REMOVED;
	for (size_t i = 0; i < m->envelope->n_recipients; i++) {
		enum journal_state was = m->recipients[i].state;

		if (state < 0 || journal_state_is_final(was) ||
		    (state == JOURNAL_QUEUED && was != JOURNAL_HELD))
			continue;
		outcome_set(o, i, (enum journal_state)state, &words, "");
		o->changes[i].is_operators = true;
	}
	promise = xcalloc(1, sizeof(*promise));
	*promise = (struct promise){ .request = r,
		.verb = c->verb,
		.asker = r->asker,
		.level = c->lines++ < LINES_MOST ? LOG_INFO : LOG_DEBUG,
		.id = e->id };
	r->pending++;
	o->done = on_durable;
	o->stalled = on_stalled;
	o->arg = promise;
	outcome_commit(o);
	return NULL;
}

static const char *
change_retry(struct request *r, struct queue_entry *e, bool *later)
{
	*later = false;
	if (e->state == QUEUE_HELD)
		return "it is held: release it";
	if (e->state == QUEUE_DEFERRED)
		queue_ready(r->d->queue, e);
	else
		compaction_retry(r->d, e);
	return NULL;
}

static const char *
change_hold(struct request *r, struct queue_entry *e, bool *later)
{
	*later = true;
	return commit(r, e, -1, "", true);
}

static const char *
change_release(struct request *r, struct queue_entry *e, bool *later)
{
	*later = true;
	if (e->state != QUEUE_HELD)
		return "it is not held";
	return commit(r, e, JOURNAL_QUEUED, "released by an operator", false);
}

static const char *
change_bounce(struct request *r, struct queue_entry *e, bool *later)
{
	*later = true;
	return commit(r, e, JOURNAL_BOUNCED, "given up by an operator", false);
}

static const char *
change_remove(struct request *r, struct queue_entry *e, bool *later)
{
	*later = true;
	return commit(r, e, JOURNAL_REMOVED, "removed by an operator", false);
}

#define IN(state) (1u << (state))
#define WAITING (IN(QUEUE_READY) | IN(QUEUE_DEFERRED))

/* clang-format off */
static const struct verb verbs[] = {
	{ "retry",   "queued",   change_retry,   WAITING,                  false, NULL,               NULL },
	{ "hold",    "held",     change_hold,    WAITING,                  true,  "message.held",     "an operator held it by relayctl" },
	{ "release", "released", change_release, IN(QUEUE_HELD),           true,  "message.released", "an operator released it by relayctl" },
	{ "bounce",  "bounced",  change_bounce,  WAITING | IN(QUEUE_HELD), true,  NULL,               NULL },
	{ "remove",  "removed",  change_remove,  WAITING | IN(QUEUE_HELD), true,  NULL,               NULL },
};
/* clang-format on */

static void
on_removed(struct outcome *o, void *arg)
{
	(void)o;
	(void)arg;
}

bool
control_remove(struct delivery *d, struct queue_entry *e)
{
	struct outcome *o;
	struct mail *m;

	if (e->state == QUEUE_ACTIVE || mail_load(d, e, &m) < 0)
		return false;
	e->is_watched = false;
	queue_claim(d->queue, e);
	o = outcome_new(d, m);
	o->is_quiet = true;
	o->done = on_removed;
	for (size_t i = 0; i < m->envelope->n_recipients; i++)
		if (!journal_state_is_final(m->recipients[i].state))
			outcome_set(o, i, JOURNAL_REMOVED, NULL, "");
	outcome_commit(o);
	return true;
}

/* --- which messages --------------------------------------------------------------------------- */

static const char spool_is_failed[] = "the spool cannot be written: \"relayctl status\" says why";

static const char *
why_not_now(const struct request *r, const struct queue_entry *e)
{
	const struct changing *c = r->state;

	if (!c->verb->is_stored)
		return NULL;
	if (e->state == QUEUE_ACTIVE)
		return "it is being worked on right now: try again";
	if (spool_writer_is_failed(r->d->journal))
		return spool_is_failed;
	return NULL;
}

static void
change_one(struct request *r, struct queue_entry *e)
{
	struct changing *c = r->state;
	uint64_t id = e->id;
	const char *error = why_not_now(r, e);
	bool later = true;

	if (error == NULL)
		error = c->verb->change(r, e, &later);
	if (error != NULL || !later)
		say_result(r, id, c->verb->result, error);
}

static void
change_named(struct request *r, json_t *name)
{
	struct changing *c = r->state;
	const char *text = json_string_value(name);
	struct queue_entry *e;
	char error[128];
	uint64_t id;

	if (text != NULL && queue_id_parse(span_of(text), &id) &&
	    (e = queue_find(r->d->queue, id)) != NULL) {
		change_one(r, e);
		return;
	}
	c->failed++;
	snprintf(error, sizeof(error), "it is not in the queue%s", request_not_yet(r->d));
	request_say(r, json_pack("{s:s, s:s}", "id", text != NULL ? text : "", "error", error));
}

enum request_progress
control_change_start(struct request *r)
{
	struct changing *c = xcalloc(1, sizeof(*c));
	json_t *ids = json_object_get(r->json, "id");

	r->state = c;
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		if (strcmp(verbs[i].name, r->command->name) == 0)
			c->verb = &verbs[i];
	c->all = json_is_true(json_object_get(r->json, "all"));
	if (!c->all && !json_is_string(ids) && !json_is_array(ids))
		return request_error(r, "which messages? \"id\" or \"all\"");
	if (c->all && !r->d->is_read) /* some of all is not what was asked for */
		return request_error(r,
		    "the spool is still being read, so not all messages are known: "
		    "try again when \"relayctl status\" does not say so");
	if (request_is_deserted(r)) {
		c->has_begun = true; /* the log tells of it */
		return REQUEST_DONE;
	}
	if (strcmp(c->verb->name, "retry") == 0 && c->all)
		for (size_t i = 0; i < r->d->config->n_upstreams; i++)
			upstream_nudge(r->d->upstreams[i]);
	c->first_letter = spool_writer_next_id(r->d->letters);
	if (c->all && c->verb->is_stored && c->first_letter == 0)
		return request_error(r, spool_is_failed);
	if (c->first_letter == 0)
		c->first_letter = UINT64_MAX;
	c->has_begun = true;
	return REQUEST_AGAIN;
}

/* What became of those that were meant ("bounce" writes to their senders), not one of them. */
static bool
is_letter_since(const struct changing *c, const struct queue_entry *e)
{
	return segment_kind_of((uint32_t)(e->id >> 24)) == SEGMENT_DELIVERY &&
	       e->id >= c->first_letter;
}

/* A message that is being moved was waiting a moment ago: it is meant as well. */
static struct queue_entry *
next_of_all(struct request *r)
{
	struct changing *c = r->state;
	struct queue_entry *e;

	while ((e = queue_each(r->d->queue, &c->cursor)) != NULL)
		if (((c->verb->states & IN(e->state)) != 0 || compaction_is_moving(r->d, e)) &&
		    !e->is_watched && !is_letter_since(c, e))
			return e;
	return NULL;
}

static size_t
count_ids(const struct request *r)
{
	json_t *ids = json_object_get(r->json, "id");

	return json_is_array(ids) ? json_array_size(ids) : 1;
}

static json_t *
id_at(const struct request *r, size_t i)
{
	json_t *ids = json_object_get(r->json, "id");

	return json_is_array(ids) ? json_array_get(ids, i) : ids;
}

/* Those that were named, as far as a line of the log has room. */
static void
print_ids(const struct request *r, char out[LOG_VALUE_MAX])
{
	size_t len = 0;
	uint64_t id;

	out[0] = '\0';
	for (size_t i = 0; i < count_ids(r); i++) {
		const char *name = json_string_value(id_at(r, i));

		if (name == NULL || !queue_id_parse(span_of(name), &id))
			continue;
		if (len + QUEUE_ID_LEN + sizeof(" ...") + 1 > LOG_VALUE_MAX) {
			strcpy(out + len, " ...");
			return;
		}
		if (len > 0)
			out[len++] = ' ';
		queue_id_print(id, out + len);
		len += QUEUE_ID_LEN;
	}
}

static void
log_performed(const struct request *r, const char *why)
{
	const struct changing *c = r->state;
	char ids[LOG_VALUE_MAX] = "all";
	bool is_one = !c->all && count_ids(r) == 1;

	if (!c->all)
		print_ids(r, ids);
	log_info("control.performed", KV_STR("command", c->verb->name),
	    KV_STR("queue_id", is_one ? ids : NULL), KV_STR("queue_ids", is_one ? NULL : ids),
	    KV_INT("changed", c->changed), KV_INT("failed", c->failed), KV_INT("uid", r->asker.uid),
	    KV_INT("pid", r->asker.pid), KV_WHY(why));
}

static enum request_progress
finish(struct request *r)
{
	struct changing *c = r->state;

	c->is_finished = true;
	log_performed(r, NULL);
	delivery_kick(r->d);
	if (c->failed == 0)
		request_say(r, json_pack("{s:b, s:I}", "ok", 1, "count", c->changed));
	else
		request_say(r, json_pack("{s:s, s:I, s:I}", "error",
		                   c->changed == 0 ? "no message was changed"
		                                   : "not all messages were changed",
		                   "count", c->changed, "failed", c->failed));
	return REQUEST_DONE;
}

enum request_progress
control_change_step(struct request *r)
{
	struct changing *c = r->state;

	for (unsigned i = 0; i < CHANGES_AT_ONCE && r->pending < CHANGES_AT_ONCE; i++) {
		struct queue_entry *e = c->all ? next_of_all(r) : NULL;

		if (c->all ? e == NULL : c->next >= count_ids(r))
			return r->pending > 0 ? REQUEST_WAIT : finish(r);
		if (c->all)
			change_one(r, e);
		else
			change_named(r, id_at(r, c->next++));
	}
	return r->pending >= CHANGES_AT_ONCE ? REQUEST_WAIT : REQUEST_AGAIN;
}

void
control_change_end(struct request *r)
{
	const struct changing *c = r->state;

	if (c->has_begun && !c->is_finished)
		log_performed(r, "relayctl went away before all was done: the rest is as it was");
	free(r->state);
}
