/* control_queue.c - queue and show: what waits, and what is known about one message. */
#include <stdlib.h>

#include "base/os.h"
#include "base/queue_id.h"
#include "delivery/control.h"
#include "delivery/report.h"
#include "delivery/request.h"
#include "spool/journal.h"

#define ENTRIES_A_STEP 64
#define HEADERS_MOST 65536
#define PIECE_BYTES                                                                                \
	(48 * 1024) /* of the body: a multiple of 3, so base64 needs no padding inside */

/* --- a message as it is shown ----------------------------------------------------------------- */

static const char *const state_names[] = { [QUEUE_READY] = "queued",
	[QUEUE_ACTIVE] = "active",
	[QUEUE_DEFERRED] = "deferred",
	[QUEUE_HELD] = "held" };

static const char *
recipient_state_name(enum journal_state state)
{
	static const char *const names[] = { [JOURNAL_QUEUED] = "queued",
		[JOURNAL_DEFERRED] = "deferred",
		[JOURNAL_HELD] = "held",
		[JOURNAL_DELIVERED] = "delivered",
		[JOURNAL_BOUNCED] = "bounced",
		[JOURNAL_EXPIRED] = "bounced",
		[JOURNAL_REMOVED] = "removed" };

	return (size_t)state < ARRAY_LEN(names) ? names[state] : "queued";
}

static char *
reply_text(uint16_t code, struct span enhanced, struct span reply)
{
	if (code == 0)
		return xasprintf("%.*s", (int)reply.len, reply.len > 0 ? reply.data : "");
	return xasprintf("%u %.*s%s%.*s", code, (int)enhanced.len,
	    enhanced.len > 0 ? enhanced.data : "", enhanced.len > 0 ? " " : "", (int)reply.len,
	    reply.len > 0 ? reply.data : "");
}

/* The journal is read when the first message with a history is met, not for a queue of new ones. */
static void
find_outcome(
    struct delivery *d, struct journal_index **index, uint64_t id, struct journal_outcome **out)
{
	*out = NULL;
	if (*index == NULL && journal_index_open(d->dirfd, false, NULL, NULL, index) < 0)
		*index = NULL;
	if (*index != NULL && journal_index_get(*index, id, out) < 0)
		*out = NULL;
}

static json_t *
message_object(struct delivery *d, struct mail *m, struct journal_index **index)
{
	const struct queue_entry *e = m->entry;
	size_t n = m->envelope->n_recipients;
	struct report_recipient *list = xcalloc(n, sizeof(*list));
	char **replies = xcalloc(n, sizeof(*replies));
	struct journal_outcome *outcome = NULL;
	uint64_t boot_ms = os_boot_ms();
	struct report_message report = { .id = e->id,
		.state = state_names[e->state],
		.sender = m->envelope->sender,
		.size_bytes = m->envelope->prefix.len + m->envelope->body_bytes,
		.arrived_ms = m->envelope->arrived_ms,
		.uid = m->envelope->uid != ENVELOPE_UID_UNKNOWN ? (int64_t)m->envelope->uid : -1,
		.unit = m->envelope->unit,
		.upstream = span_of(d->config->upstreams[e->upstream].name),
		.recipients = list,
		.n_recipients = n };
	json_t *object;

	if (e->state == QUEUE_DEFERRED)
		report.next_attempt_ms =
		    os_now_ms() + (queue_due_ms(e) > boot_ms ? queue_due_ms(e) - boot_ms : 0);
	else if (e->state == QUEUE_READY)
		report.next_attempt_ms = os_now_ms();
	if (e->attempts > 0 || e->is_mixed || e->state == QUEUE_HELD)
		find_outcome(d, index, e->id, &outcome);
	for (size_t i = 0; i < n; i++)
		list[i] = (struct report_recipient){ .address = m->envelope->recipients[i].address,
			.state = recipient_state_name(m->recipients[i].state),
			.attempts = m->recipients[i].attempts };
	for (size_t k = 0; outcome != NULL && k < outcome->n_recipients; k++) {
		const struct journal_recipient *r = &outcome->recipients[k];

		if (r->index >= n || replies[r->index] != NULL)
			continue;
		replies[r->index] = reply_text(r->code, r->enhanced, r->reply);
		list[r->index].reply = span_of(replies[r->index]);
	}
	object = report_message(&report);
	for (size_t i = 0; i < n; i++)
		free(replies[i]);
	free(replies);
	free(list);
	journal_free(outcome);
	return object;
}

/* --- queue ------------------------------------------------------------------------------------ */

struct listing {
	uint32_t cursor;
	json_int_t count;
	struct journal_index *index;
	int state, upstream; /* -1: any */
	uint64_t id;         /* 0: any */
	const char *sender, *recipient, *unit;
	json_int_t uid; /* -1: any */
};

enum request_progress
control_queue_start(struct request *r)
{
	struct listing *l = xcalloc(1, sizeof(*l));
	const char *state = request_text(r, "state"), *upstream = request_text(r, "upstream");
	const char *id = request_text(r, "id");
	json_t *uid = json_object_get(r->json, "uid");

	r->state = l;
	l->state = l->upstream = -1;
	l->uid = json_is_integer(uid) ? json_integer_value(uid) : -1;
	l->sender = request_text(r, "sender");
	l->recipient = request_text(r, "recipient");
	l->unit = request_text(r, "unit");
	for (size_t i = QUEUE_READY; state != NULL && i < ARRAY_LEN(state_names); i++)
		if (strcmp(state, state_names[i]) == 0)
			l->state = (int)i;
	if (state != NULL && l->state < 0)
		return request_error(r, "no state \"%s\": queued, active, deferred or held", state);
	if (upstream != NULL && (l->upstream = request_upstream(r->d, upstream)) < 0)
		l->upstream = QUEUE_UPSTREAMS; /* one of an older configuration: nothing is there */
	if (id != NULL && !queue_id_parse(span_of(id), &l->id))
		return request_error(r, "\"%s\" is not a queue ID", id);
	return REQUEST_AGAIN;
}

static bool
has_part(struct span text, const char *part)
{
	size_t len = strlen(part);

	for (size_t i = 0; i + len <= text.len; i++)
		if (strncasecmp(text.data + i, part, len) == 0)
			return true;
	return false;
}

static bool
entry_fits(const struct delivery *d, const struct listing *l, const struct queue_entry *e)
{
	const struct queue_tenant *t = queue_tenant(d->queue, e);

	return (l->state < 0 || e->state == (unsigned)l->state) &&
	       (l->upstream < 0 || e->upstream == (unsigned)l->upstream) &&
	       (l->id == 0 || e->id == l->id) && (l->uid < 0 || t->uid == l->uid) &&
	       (l->unit == NULL || has_part(t->unit, l->unit));
}

static bool
envelope_fits(const struct listing *l, const struct envelope *env)
{
	bool fits = l->recipient == NULL;

	for (size_t i = 0; i < env->n_recipients && !fits; i++)
		fits = has_part(env->recipients[i].address, l->recipient);
	if (l->sender != NULL && strcmp(l->sender, "<>") == 0)
		return fits && env->sender.len == 0;
	return fits && (l->sender == NULL || has_part(env->sender, l->sender));
}

enum request_progress
control_queue_step(struct request *r)
{
	struct listing *l = r->state;
	struct queue_entry *e;

	for (unsigned i = 0; i < ENTRIES_A_STEP; i++) {
		struct mail *m;

		e = queue_each(r->d->queue, &l->cursor);
		if (e == NULL) {
			request_say(r, json_pack("{s:b, s:I}", "ok", 1, "count", l->count));
			return REQUEST_DONE;
		}
		if (!entry_fits(r->d, l, e) || mail_load(r->d, e, &m) < 0)
			continue;
		if (envelope_fits(l, m->envelope)) {
			request_say(
			    r, json_pack("{s:o}", "message", message_object(r->d, m, &l->index)));
			l->count++;
		}
		mail_free(m);
	}
	return REQUEST_AGAIN;
}

void
control_queue_end(struct request *r)
{
	struct listing *l = r->state;

	journal_index_close(l->index);
	free(l);
}

/* --- show ------------------------------------------------------------------------------------- */

struct showing {
	struct mail *mail; /* its entry may go away meanwhile: not used after the start */
	struct spool_body *body;
	uint64_t offset;
	struct report_attempt *history;
	size_t n_history, room;
};

static void
add_attempt(void *arg, const struct journal_outcome *o)
{
	struct showing *s = arg;

	for (size_t k = 0; k < o->n_recipients && s->n_history < 10000; k++) {
		const struct journal_recipient *r = &o->recipients[k];

		if (r->index >= s->mail->envelope->n_recipients)
			continue;
		if (s->n_history == s->room) {
			s->room = s->room ? 2 * s->room : 16;
			s->history = xrealloc(s->history, s->room, sizeof(s->history[0]));
		}
		s->history[s->n_history++] = (struct report_attempt){
			.time_ms = o->time_ms,
			.recipient = s->mail->envelope->recipients[r->index].address,
			.state = recipient_state_name(r->state),
			.attempt = r->attempts,
			.reply = span_of(reply_text(r->code, r->enhanced, r->reply)),
			.upstream = span_of(
			    xstrndup(r->upstream.len > 0 ? r->upstream.data : "", r->upstream.len)),
		};
	}
}

static int
read_all(struct showing *s, uint64_t offset, void *buf, size_t len)
{
	struct span prefix = s->mail->envelope->prefix;
	size_t done = 0;

	if (offset < prefix.len) {
		done = prefix.len - (size_t)offset < len ? prefix.len - (size_t)offset : len;
		memcpy(buf, prefix.data + offset, done);
	}
	while (done < len) {
		ssize_t n = spool_body_read(
		    s->body, offset + done - prefix.len, (char *)buf + done, len - done);

		if (n < 0)
			return (int)n;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (int)done;
}

static size_t
headers_of(struct showing *s, char *buf)
{
	int n = read_all(s, 0, buf, HEADERS_MOST);
	char *end;

	if (n <= 0)
		return 0;
	end = memmem(buf, (size_t)n, "\r\n\r\n", 4);
	return end != NULL ? (size_t)(end - buf) + 2 : (size_t)n;
}

static void
say_details(struct request *r, struct showing *s, struct queue_entry *e)
{
	const struct envelope *env = s->mail->envelope;
	struct journal_index *index = NULL;
	char *headers = xcalloc(HEADERS_MOST, 1);
	json_t *object = message_object(r->d, s->mail, &index);
	struct report_details details = { .client = env->client,
		.listener = env->listener,
		.helo = env->helo,
		.envid = env->envid,
		.is_dsn = (env->flags & ENVELOPE_DSN) != 0,
		.possible_duplicates = e->duplicates };

	if (index == NULL && journal_index_open(r->d->dirfd, false, NULL, NULL, &index) < 0)
		index = NULL;
	if (index != NULL)
		(void)!journal_index_history(index, e->id, add_attempt, s);
	details.headers = (struct span){ headers, headers_of(s, headers) };
	details.history = s->history;
	details.n_history = s->n_history;
	report_add_details(object, &details);
	request_say(r, json_pack("{s:o}", "message", object));
	journal_index_close(index);
	free(headers);
}

enum request_progress
control_show_start(struct request *r)
{
	struct showing *s = xcalloc(1, sizeof(*s));
	const char *text = request_text(r, "id");
	struct queue_entry *e;
	uint64_t id;
	int error;

	r->state = s;
	if (text == NULL || !queue_id_parse(span_of(text), &id))
		return request_error(r, "\"%s\" is not a queue ID", text != NULL ? text : "");
	e = queue_find(r->d->queue, id);
	if (e == NULL)
		return request_error(r, "%s is not in the queue", text);
	error = mail_load(r->d, e, &s->mail);
	if (error == 0)
		error = spool_store_body(r->d->store,
		    (struct spool_location){ e->segment, e->offset }, s->mail->envelope, &s->body);
	if (error < 0)
		return request_error(r, "%s cannot be read: %s", text, strerror(-error));
	say_details(r, s, e);
	return json_is_true(json_object_get(r->json, "body")) ? REQUEST_AGAIN : request_ok(r);
}

static size_t
base64(const unsigned char *in, size_t len, char *out)
{
	static const char digits[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t n = 0;

	for (size_t i = 0; i < len; i += 3) {
		unsigned v = (unsigned)in[i] << 16 | (i + 1 < len ? (unsigned)in[i + 1] << 8 : 0) |
		             (i + 2 < len ? in[i + 2] : 0);

		out[n++] = digits[v >> 18];
		out[n++] = digits[v >> 12 & 63];
		out[n++] = i + 1 < len ? digits[v >> 6 & 63] : '=';
		out[n++] = i + 2 < len ? digits[v & 63] : '=';
	}
	return n;
}

enum request_progress
control_show_step(struct request *r)
{
	struct showing *s = r->state;
	unsigned char *piece = xcalloc(PIECE_BYTES, 1);
	char *text = xcalloc(PIECE_BYTES / 3 * 4 + 4, 1);
	int n = read_all(s, s->offset, piece, PIECE_BYTES);

	if (n > 0) {
		request_say(r,
		    json_pack("{s:o}", "data", json_stringn(text, base64(piece, (size_t)n, text))));
		s->offset += (uint64_t)n;
	}
	free(piece);
	free(text);
	if (n < 0)
		return request_error(r, "the body cannot be read: %s", strerror(-n));
	return n > 0 ? REQUEST_AGAIN : request_ok(r);
}

void
control_show_end(struct request *r)
{
	struct showing *s = r->state;
	char *text;

	for (size_t i = 0; i < s->n_history; i++) {
		memcpy(&text, &s->history[i].reply.data, sizeof(text));
		free(text);
		memcpy(&text, &s->history[i].upstream.data, sizeof(text));
		free(text);
	}
	free(s->history);
	spool_body_close(s->body);
	mail_free(s->mail);
	free(s);
}
