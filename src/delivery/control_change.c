/* control_change.c - retry, hold, release, bounce, remove: an operator changes the queue. What has to
 * outlast a restart is durable before it is answered. */
#include <stdlib.h>

#include "base/log.h"
#include "base/queue_id.h"
#include "delivery/control.h"
#include "delivery/outcome.h"
#include "delivery/request.h"
#include "delivery/upstream.h"

#define CHANGES_AT_ONCE 64 /* on their way to the disk */

struct changing {
	const struct verb *verb;
	bool all;
	uint32_t cursor;
	size_t next; /* index into the list of IDs */
	json_int_t changed, failed;
};

/* Begins the change: NULL if it is under way or done (*later: its line comes when it is durable), else
 * why not. */
typedef const char *change_fn(struct request *r, struct queue_entry *e, bool *later);

struct verb {
	const char *name;
	const char *result;
	change_fn *change;
	unsigned states; /* of messages that "all" means */
};

/* --- the changes ------------------------------------------------------------------------------ */

struct promise { /* a line that is owed */
	struct request *request;
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
on_durable(struct outcome *o, void *arg)
{
	struct promise *promise = arg;
	struct request *r = promise->request;
	const struct verb *verb = ((struct changing *)r->state)->verb;
	bool given_up = true;

	for (size_t i = 0; i < o->message->envelope->n_recipients; i++)
		given_up = given_up && o->message->recipients[i].state != JOURNAL_HELD;
	say_result(r, promise->id, verb->result,
	    strcmp(verb->name, "bounce") == 0 && !given_up
	        ? "nobody can be told: it is held; \"relayctl remove\" gives it up silently"
	        : NULL);
	free(promise);
	if (request_returned(r))
		request_wake(r);
}

/* A change of all its open recipients, or of none (hold and release of the message itself). */
static const char *
commit(struct request *r, struct queue_entry *e, int state, const char *text, bool hold)
{
	struct upstream_reply words = { .stage = SMTP_STAGE_NONE };
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
	promise->request = r;
	promise->id = e->id;
	r->pending++;
	o->done = on_durable;
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
	{ "retry",   "queued",   change_retry,   WAITING },
	{ "hold",    "held",     change_hold,    WAITING },
	{ "release", "released", change_release, IN(QUEUE_HELD) },
	{ "bounce",  "bounced",  change_bounce,  WAITING | IN(QUEUE_HELD) },
	{ "remove",  "removed",  change_remove,  WAITING | IN(QUEUE_HELD) },
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

static void
change_one(struct request *r, struct queue_entry *e)
{
	struct changing *c = r->state;
	uint64_t id = e->id;
	const char *error;
	bool later = true;

	if (e->state == QUEUE_ACTIVE && strcmp(c->verb->name, "retry") != 0)
		error = "it is being worked on right now: try again";
	else
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
	uint64_t id;

	if (text != NULL && queue_id_parse(span_of(text), &id) &&
	    (e = queue_find(r->d->queue, id)) != NULL) {
		change_one(r, e);
		return;
	}
	c->failed++;
	request_say(r, json_pack("{s:s, s:s}", "id", text != NULL ? text : "", "error",
	                   "it is not in the queue"));
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
	if (strcmp(c->verb->name, "retry") == 0 && c->all)
		for (size_t i = 0; i < r->d->config->n_upstreams; i++)
			upstream_nudge(r->d->upstreams[i]);
	return REQUEST_AGAIN;
}

static struct queue_entry *
next_of_all(struct request *r)
{
	struct changing *c = r->state;
	struct queue_entry *e;

	while ((e = queue_each(r->d->queue, &c->cursor)) != NULL)
		if ((c->verb->states & IN(e->state)) != 0 && !e->is_watched)
			return e;
	return NULL;
}

static enum request_progress
finish(struct request *r)
{
	struct changing *c = r->state;

	log_info("control.performed", KV_STR("command", c->verb->name),
	    KV_INT("changed", c->changed), KV_INT("failed", c->failed));
	delivery_kick(r->d);
	if (c->failed == 0)
		request_say(r, json_pack("{s:b, s:I}", "ok", 1, "count", c->changed));
	else
		request_say(r, json_pack("{s:s, s:I}", "error",
		                   c->changed == 0 ? "no message was changed"
		                                   : "not all messages were changed",
		                   "count", c->changed));
	return REQUEST_DONE;
}

enum request_progress
control_change_step(struct request *r)
{
	struct changing *c = r->state;
	json_t *ids = json_object_get(r->json, "id");
	size_t n_ids = json_is_array(ids) ? json_array_size(ids) : 1;

	for (unsigned i = 0; i < CHANGES_AT_ONCE && r->pending < CHANGES_AT_ONCE; i++) {
		struct queue_entry *e = c->all ? next_of_all(r) : NULL;

		if (c->all ? e == NULL : c->next >= n_ids)
			return r->pending > 0 ? REQUEST_WAIT : finish(r);
		if (c->all)
			change_one(r, e);
		else
			change_named(r,
			    json_is_array(ids) ? json_array_get(ids, c->next++) : (c->next++, ids));
	}
	return r->pending >= CHANGES_AT_ONCE ? REQUEST_WAIT : REQUEST_AGAIN;
}

void
control_change_end(struct request *r)
{
	free(r->state);
}
