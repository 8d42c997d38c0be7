/* notify.c - see notify.h. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/os.h"
#include "base/queue_id.h"
#include "delivery/delivery.h"
#include "delivery/notify.h"
#include "smtp/dsn_message.h"

#define HOUR_MS (60 * 60 * 1000)

struct notify {
	double tokens; /* DSNs that may be written now */
	uint64_t filled_ms, told_ms;
};

struct notify *
notify_new(struct delivery *d)
{
	struct notify *n = xcalloc(1, sizeof(*n));

	n->tokens = d->config->limits.dsn_per_hour;
	n->filled_ms = os_boot_ms();
	return n;
}

void
notify_free(struct notify *n)
{
	free(n);
}

static bool
may_write(struct delivery *d, uint64_t id)
{
	struct notify *n = d->notify;
	double most = d->config->limits.dsn_per_hour;
	uint64_t now_ms = os_boot_ms();

	n->tokens += (double)(now_ms - n->filled_ms) * most / HOUR_MS;
	n->filled_ms = now_ms;
	if (n->tokens > most)
		n->tokens = most;
	if (n->tokens >= 1) {
		n->tokens -= 1;
		return true;
	}
	if (n->told_ms == 0 || now_ms - n->told_ms > HOUR_MS) {
		n->told_ms = now_ms;
		log_warning("dsn.limited", KV_ID("queue_id", id),
		    KV_INT("limit", d->config->limits.dsn_per_hour),
		    KV_WHY(
		        "too many DSNs in an hour: this message and those that fail after it are "
		        "held, and stay held until somebody decides"),
		    KV_FIX(
		        "relayctl queue --state held shows what fails; then relayctl release tries "
		        "it again, bounce tells its sender (as far as limits { dsn-per-hour } "
		        "allows: raise it), remove tells nobody"));
	}
	return false;
}

/* --- letters ---------------------------------------------------------------------------------- */

int
notify_compose(struct delivery *d, struct span sender, struct span recipient, char *text,
    size_t len, bool is_8bit, bool is_utf8, bool is_dsn, struct letter **out)
{
	struct envelope_recipient to = { .address = recipient };
	struct envelope env = { .arrived_ms = os_now_ms(),
		.uid = geteuid(),
		.sender = sender,
		.client = SPAN("relayd"),
		.listener = SPAN("delivery"),
		.body_bytes = len,
		.recipients = &to,
		.n_recipients = 1 };
	struct letter *letter = xcalloc(1, sizeof(*letter));
	size_t envelope_len;
	int r;

	letter->d = d;
	letter->text = text;
	letter->id = env.id = spool_writer_next_id(d->letters);
	if (env.id == 0) {
		notify_letter_free(letter);
		return -ENOSPC;
	}
	env.flags = (is_dsn ? ENVELOPE_DSN : 0) |
	            (is_8bit ? ENVELOPE_8BITMIME | ENVELOPE_8BIT : 0) |
	            (is_utf8 ? ENVELOPE_SMTPUTF8 : 0);
	r = envelope_encode(&env, &letter->envelope, &envelope_len);
	if (r < 0) {
		notify_letter_free(letter);
		return r;
	}
	letter->body = (struct iovec){ .iov_base = text, .iov_len = len };
	letter->envelope_len = envelope_len;
	*out = letter;
	return 0;
}

void
notify_letter_free(struct letter *letter)
{
	if (letter == NULL)
		return;
	free(letter->envelope);
	free(letter->text);
	free(letter);
}

static void
on_written(struct spool_item *item, void *arg)
{
	struct letter *letter = arg;
	struct outcome *o = letter->outcome;
	int result = item->result;

	if (o == NULL) {
		letter->done(letter, result);
		return;
	}
	if (result < 0) {
		if (result == -EIO)
			letter->d->counts.possible_duplicates++; /* it may be there: twice then */
		outcome_wait(o);
		return;
	}
	o->letters = NULL;
	letter->d->counts.dsn++;
	notify_letter_free(letter);
	outcome_journal(o);
}

void
notify_submit(struct letter *letter)
{
	letter->item = (struct spool_item){ 0 };
	spool_item_message(&letter->item, (struct span){ letter->envelope, letter->envelope_len },
	    &letter->body, 1, NULL);
	letter->item.done = on_written;
	letter->item.arg = letter;
	spool_writer_submit(letter->d->letters, &letter->item);
}

bool
notify_send(struct outcome *o)
{
	if (o->letters == NULL)
		return false;
	notify_submit(o->letters);
	return true;
}

void
notify_drop(struct outcome *o)
{
	notify_letter_free(o->letters);
	o->letters = NULL;
}

/* --- deciding --------------------------------------------------------------------------------- */

static bool
is_failure(const struct outcome_change *c)
{
	return c->is_set && (c->state == JOURNAL_BOUNCED || c->state == JOURNAL_EXPIRED);
}

/* Does this recipient's sender want to hear of it? */
static bool
is_wanted(const struct outcome *o, size_t i)
{
	const struct outcome_change *c = &o->changes[i];
	uint8_t notify = o->message->envelope->recipients[i].notify;

	if (is_failure(c))
		return notify == 0 || (notify & ENVELOPE_NOTIFY_FAILURE) != 0;
	if (c->is_set && c->state == JOURNAL_DELIVERED)
		return c->is_relayed && (notify & ENVELOPE_NOTIFY_SUCCESS) != 0;
	if (c->is_set && c->state == JOURNAL_DEFERRED && o->warn)
		return notify == 0 || (notify & ENVELOPE_NOTIFY_DELAY) != 0;
	return false;
}

static void
hold_failures(struct outcome *o, const char *why)
{
	for (size_t i = 0; i < o->message->envelope->n_recipients; i++) {
		struct outcome_change *c = &o->changes[i];
		char *text;

		if (!is_failure(c) || !is_wanted(o, i))
			continue;
		text = xasprintf("%s (%s)", c->text != NULL ? c->text : "failed", why);
		free(c->text);
		c->text = text;
		c->state = JOURNAL_HELD;
		c->fix = "relayctl show tells all of it; when the cause is mended, relayctl "
		         "release tries it "
		         "again; relayctl remove gives it up, and nobody is told";
	}
}

/* The start of the message as it was sent: header lines, and the body if it is short. */
static char *
read_original(struct outcome *o, size_t *len)
{
	const struct envelope *env = o->message->envelope;
	size_t prefix = env->prefix.len < DSN_ORIGINAL_MAX ? env->prefix.len : DSN_ORIGINAL_MAX;
	char *text = xcalloc(DSN_ORIGINAL_MAX, 1);
	struct spool_body *body;
	ssize_t n = 1;

	if (prefix > 0)
		memcpy(text, env->prefix.data, prefix);
	*len = prefix;
	if (spool_store_body(o->d->store,
	        (struct spool_location){ o->message->entry->segment, o->message->entry->offset },
	        env, &body) < 0)
		return text;
	while (n > 0 && *len < DSN_ORIGINAL_MAX) {
		n = spool_body_read(body, *len - prefix, text + *len, DSN_ORIGINAL_MAX - *len);
		if (n > 0)
			*len += (size_t)n;
	}
	spool_body_close(body);
	return text;
}

static void
describe(struct outcome *o, size_t i, struct upstream_reply *reply, struct dsn_recipient *out)
{
	const struct outcome_change *c = &o->changes[i];
	const struct envelope_recipient *r = &o->message->envelope->recipients[i];
	bool expired = c->state == JOURNAL_EXPIRED;

	*reply = (struct upstream_reply){ .stage = c->stage, .code = c->code };
	memcpy(reply->enhanced, c->enhanced, sizeof(reply->enhanced));
	snprintf(reply->text, sizeof(reply->text), "%s", c->text != NULL ? c->text : "");
	*out = (struct dsn_recipient){
		.action = is_failure(c)                   ? DSN_FAILED
		          : c->state == JOURNAL_DELIVERED ? DSN_RELAYED
		                                          : DSN_DELAYED,
		.address = r->address,
		.orcpt = r->orcpt,
		.status = expired           ? "4.4.7"
		          : c->is_operators ? "5.7.0"
		                            : NULL,
		.remote_mta = c->code > 0 && o->upstream[0] != '\0'
		                  ? o->d->config->upstreams[o->message->entry->upstream].host
		                  : NULL,
		.reply = reply,
		.explanation = expired ? "It could not be delivered in time and is given up."
		               : c->is_operators ? "An operator of the relay gave it up."
		                                 : NULL,
		.last_attempt_ms = (int64_t)o->now_ms,
	};
	if (out->action == DSN_DELAYED)
		out->retry_until_ms =
		    (int64_t)(o->message->envelope->arrived_ms + o->d->retry.expire_ms);
}

/* Where a message failed for its 8-bit text or its UTF-8 addresses, a report with these in it would too. */
static bool
is_seven_bit_way(const struct upstream_reply *reply)
{
	return strcmp(reply->enhanced, "5.6.3") == 0 || strcmp(reply->enhanced, "5.6.7") == 0;
}

static int
build(struct outcome *o, struct span to, bool to_postmaster, struct letter **out)
{
	const struct envelope *env = o->message->envelope;
	struct dsn_recipient *list = xcalloc(env->n_recipients, sizeof(*list));
	struct upstream_reply *replies = xcalloc(env->n_recipients, sizeof(*replies));
	char id[QUEUE_ID_LEN + 1], unique[64], *original, *text;
	struct dsn_message dsn = { .hostname = o->d->config->hostname,
		.to = to,
		.queue_id = id,
		.unique = unique,
		.now_ms = (int64_t)o->now_ms,
		.arrived_ms = (int64_t)env->arrived_ms,
		.sender = env->sender,
		.envid = env->envid,
		.ret = env->ret == ENVELOPE_RET_FULL   ? SMTP_ENVELOPE_RET_FULL
		       : env->ret == ENVELOPE_RET_HDRS ? SMTP_ENVELOPE_RET_HDRS
		                                       : SMTP_ENVELOPE_RET_NONE,
		.utf8 = (env->flags & ENVELOPE_SMTPUTF8) != 0,
		.to_postmaster = to_postmaster,
		.recipients = list,
		.original_bytes = env->prefix.len + env->body_bytes };
	size_t original_len, len;
	bool is_8bit;
	int r;

	queue_id_print(o->message->entry->id, id);
	snprintf(unique, sizeof(unique), "%s.%llx.%x", id, (unsigned long long)o->now_ms,
	    (unsigned)delivery_random());
	for (size_t i = 0; i < env->n_recipients; i++)
		if (is_wanted(o, i) && (!to_postmaster || is_failure(&o->changes[i]))) {
			describe(o, i, &replies[dsn.n_recipients], &list[dsn.n_recipients]);
			dsn.seven_bit |= is_seven_bit_way(&replies[dsn.n_recipients]);
			dsn.n_recipients++;
		}
	original = read_original(o, &original_len);
	dsn.original = (struct span){ original, original_len };
	dsn_message_build(&dsn, &text, &len, &is_8bit);
	r = notify_compose(o->d, (struct span){ NULL, 0 }, to, text, len, is_8bit,
	    dsn.utf8 && (is_8bit || !dsn.seven_bit), true, out);
	free(original);
	free(replies);
	free(list);
	return r;
}

int
notify_prepare(struct outcome *o)
{
	const struct envelope *env = o->message->envelope;
	const struct config *config = o->d->config;
	struct span to = env->sender;
	bool any = false, failure = false, to_postmaster = false;
	uint64_t id = o->message->entry->id;
	int r;

	if (o->is_quiet)
		return 0;
	for (size_t i = 0; i < env->n_recipients; i++) {
		any = any || is_wanted(o, i);
		failure = failure || (is_wanted(o, i) && is_failure(&o->changes[i]));
	}
	if (!any || (env->sender.len == 0 && !failure))
		return 0;
	if (env->sender.len == 0) {
		to = span_of(config->postmaster);
		to_postmaster = true;
		if (to.len == 0) {
			hold_failures(o, "it has no sender, and no postmaster is set to tell");
			return 0;
		}
		for (size_t i = 0; i < env->n_recipients; i++)
			/* whoever wrote it: a notice of ours may have come back by SMTP */
			if (span_equals_nocase(env->recipients[i].address, to)) {
				hold_failures(o, "a notice to the postmaster failed");
				return 0;
			}
	}
	if (!may_write(o->d, id)) {
		hold_failures(o, "too many DSNs were sent in the last hour");
		return 0;
	}
	r = build(o, to, to_postmaster, &o->letters);
	if (r < 0) {
		o->letters = NULL;
		if (r == -ENOSPC)
			return r;
		hold_failures(o, "the DSN could not be written");
		return 0;
	}
	o->letters->outcome = o;
	if (o->warn)
		log_info("message.warned", KV_ID("queue_id", id), KV_SPAN("sender", env->sender),
		    KV_MS("delay", delivery_age_ms(o->d, o->message->entry)));
	log_info("dsn.sent", KV_ID("queue_id", o->letters->id), KV_ID("about", id),
	    KV_SPAN("recipient", to),
	    KV_STR("kind", failure   ? "failed"
	                   : o->warn ? "delayed"
	                             : "relayed"));
	return 0;
}
