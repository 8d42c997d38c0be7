/* control_queue.c - queue and show: what waits, and what is known about one message. */
#include <errno.h>
#include <stdlib.h>

#include "base/os.h"
#include "base/queue_id.h"
#include "delivery/control.h"
#include "delivery/history.h"
#include "delivery/report.h"
#include "delivery/report_row.h"
#include "delivery/upstream.h"
#include "delivery/request.h"
#include "spool/journal.h"

#define ENTRIES_A_STEP 64
#define OUTCOMES_A_STEP 512
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

struct shown {
	struct report_message report;
	struct report_recipient *recipients;
	struct journal_outcome *outcome; /* has their replies */
};

static void
shown_fini(struct shown *s)
{
	free(s->recipients);
	journal_free(s->outcome);
}

static void
add_replies(struct shown *s, size_t n)
{
	for (size_t k = 0; s->outcome != NULL && k < s->outcome->n_recipients; k++) {
		const struct journal_recipient *r = &s->outcome->recipients[k];

		if (r->index >= n)
			continue;
		s->recipients[r->index].code = r->code;
		s->recipients[r->index].enhanced = r->enhanced;
		s->recipients[r->index].reply = r->reply;
	}
}

/* Borrows all of the message; ended by shown_fini(). */
static void
shown_init(struct shown *s, struct delivery *d, const struct mail *m)
{
	const struct queue_entry *e = m->entry;
	const struct envelope *env = m->envelope;
	uint64_t boot_ms = os_boot_ms();

	s->recipients = xcalloc(env->n_recipients, sizeof(s->recipients[0]));
	s->report = (struct report_message){ .id = e->id,
		.state = state_names[e->state],
		.sender = env->sender,
		.size_bytes = env->prefix.len + env->body_bytes,
		.arrived_ms = env->arrived_ms,
		.uid = env->uid != ENVELOPE_UID_UNKNOWN ? (int64_t)env->uid : -1,
		.unit = env->unit,
		.upstream = span_of(d->config->upstreams[e->upstream].name),
		.recipients = s->recipients,
		.n_recipients = env->n_recipients };
	if (e->state == QUEUE_DEFERRED)
		s->report.next_attempt_ms =
		    os_now_ms() + (queue_due_ms(e) > boot_ms ? queue_due_ms(e) - boot_ms : 0);
	else if (e->state == QUEUE_READY)
		s->report.next_attempt_ms = os_now_ms();
	for (size_t i = 0; i < env->n_recipients; i++)
		s->recipients[i] = (struct report_recipient){ .address = env->recipients[i].address,
			.state = recipient_state_name(m->recipients[i].state),
			.attempts = m->recipients[i].attempts };
	history_get(d->history, e, &s->outcome);
	add_replies(s, env->n_recipients);
}

/* --- queue ------------------------------------------------------------------------------------ */

struct listing {
	uint32_t cursor;
	json_int_t count;
	struct window window;
	struct report_text text, rows;
	bool is_for_people, has_queued;
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
	l->is_for_people = json_is_true(json_object_get(r->json, "rows"));
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
entry_fits(const struct delivery *d, const struct listing *l, const struct queue_entry *e)
{
	const struct queue_tenant *t = queue_tenant(d->queue, e);

	return (l->state < 0 || e->state == (unsigned)l->state) &&
	       (l->upstream < 0 || e->upstream == (unsigned)l->upstream) &&
	       (l->id == 0 || e->id == l->id) && (l->uid < 0 || t->uid == l->uid) &&
	       (l->unit == NULL || report_has_part(t->unit, l->unit));
}

static bool
envelope_fits(const struct listing *l, const struct envelope *env)
{
	bool fits = l->recipient == NULL;

	for (size_t i = 0; i < env->n_recipients && !fits; i++)
		fits = report_has_part(env->recipients[i].address, l->recipient);
	if (l->sender != NULL && strcmp(l->sender, "<>") == 0)
		return fits && env->sender.len == 0;
	return fits && (l->sender == NULL || report_has_part(env->sender, l->sender));
}

static void
print_rows(struct listing *l, const struct report_message *m)
{
	struct span rows;

	l->rows.len = 0;
	report_row_print(&l->rows, m, os_now_ms());
	rows = (struct span){ l->rows.text, l->rows.len };
	while (rows.len > 0) {
		const char *end = memchr(rows.data, '\n', rows.len);
		size_t len = (size_t)(end - rows.data);

		report_put(&l->text, SPAN("{\"row\":"));
		report_put_string(&l->text, (struct span){ rows.data, len });
		report_put(&l->text, SPAN("}\n"));
		rows = span_skip(rows, len + 1);
	}
}

static void
print_one(struct request *r, struct listing *l, const struct mail *m)
{
	struct shown shown;

	shown_init(&shown, r->d, m);
	if (l->is_for_people) {
		print_rows(l, &shown.report);
	} else {
		report_put(&l->text, SPAN("{\"message\":"));
		report_print(&l->text, &shown.report);
		report_put(&l->text, SPAN("}\n"));
	}
	shown_fini(&shown);
}

static void
list_one(struct request *r, struct listing *l, struct queue_entry *e)
{
	struct mail *m;

	if (!entry_fits(r->d, l, e) || mail_browse(r->d, &l->window, e, &m) < 0)
		return;
	if (envelope_fits(l, m->envelope)) {
		print_one(r, l, m);
		l->has_queued |= e->state == QUEUE_READY;
		l->count++;
	}
	mail_free(m);
}

static enum request_progress
end_list(struct request *r, const struct listing *l)
{
	request_say(r, json_pack("{s:b, s:I, s:b, s:b}", "ok", 1, "count", l->count, "queued",
	                   l->has_queued, "reading", !r->d->is_read));
	return REQUEST_DONE;
}

enum request_progress
control_queue_step(struct request *r)
{
	struct listing *l = r->state;
	struct queue_entry *e = NULL;

	l->text.len = 0;
	for (unsigned i = 0; i < ENTRIES_A_STEP; i++) {
		e = queue_each(r->d->queue, &l->cursor);
		if (e == NULL)
			break;
		list_one(r, l, e);
	}
	request_say_lines(r, (struct span){ l->text.text, l->text.len });
	return e == NULL ? end_list(r, l) : REQUEST_AGAIN;
}

void
control_queue_end(struct request *r)
{
	struct listing *l = r->state;

	window_fini(&l->window);
	free(l->text.text);
	free(l->rows.text);
	free(l);
}

/* --- show ------------------------------------------------------------------------------------- */

struct showing {
	struct mail *mail; /* its entry may go away meanwhile: not used after the start */
	json_t *object;    /* the message; NULL: it was said */
	uint64_t id;
	unsigned duplicates;
	struct journal_scan *scan; /* for its history; NULL: that is read */
	struct spool_body *body;
	uint64_t offset;
	struct report_attempt *history;
	size_t n_history, room;
};

/* The words of an outcome as one text. */
static char *
reply_text(const struct journal_recipient *r)
{
	if (r->code == 0)
		return xstrndup(r->reply.len > 0 ? r->reply.data : "", r->reply.len);
	return xasprintf("%u %.*s%s%.*s", r->code, (int)r->enhanced.len,
	    r->enhanced.len > 0 ? r->enhanced.data : "", r->enhanced.len > 0 ? " " : "",
	    (int)r->reply.len, r->reply.len > 0 ? r->reply.data : "");
}

static void
add_attempt(struct showing *s, const struct journal_outcome *o)
{
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
			.reply = span_of(reply_text(r)),
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

static enum request_progress
say_details(struct request *r, struct showing *s)
{
	const struct envelope *env = s->mail->envelope;
	char *headers = xcalloc(HEADERS_MOST, 1);
	struct report_details details = { .client = env->client,
		.listener = env->listener,
		.helo = env->helo,
		.envid = env->envid,
		.is_dsn = (env->flags & ENVELOPE_DSN) != 0,
		.possible_duplicates = s->duplicates };

	details.headers = (struct span){ headers, headers_of(s, headers) };
	details.history = s->history;
	details.n_history = s->n_history;
	report_add_details(s->object, &details);
	request_say(r, json_pack("{s:o}", "message", s->object));
	s->object = NULL;
	free(headers);
	return json_is_true(json_object_get(r->json, "body")) ? REQUEST_AGAIN : request_ok(r);
}

/* Its turn has come, and yet it does not go. */
static void
add_what_it_waits_for(json_t *object, const struct delivery *d, const struct queue_entry *e)
{
	const struct upstream *u = d->upstreams[e->upstream];
	char *text;

	if (e->state != QUEUE_READY || u->breaker.state == BREAKER_CLOSED)
		return;
	text = xasprintf("upstream %s, which is down: %s", u->config->name, u->why);
	json_object_set_new(object, "waits_for", report_text(span_of(text)));
	free(text);
}

enum request_progress
control_show_start(struct request *r)
{
	struct showing *s = xcalloc(1, sizeof(*s));
	const char *text = request_text(r, "id");
	struct queue_entry *e;
	struct shown shown;
	int error;

	r->state = s;
	if (text == NULL || !queue_id_parse(span_of(text), &s->id))
		return request_error(r, "\"%s\" is not a queue ID", text != NULL ? text : "");
	e = queue_find(r->d->queue, s->id);
	if (e == NULL && !r->d->is_read)
		return request_error(r, "%s is not in the queue%s", text, request_not_yet(r->d));
	if (e == NULL)
		return request_error(r,
		    "%s is not in the queue; journalctl -u relayd RELAYD_QUEUE_ID=%s tells what "
		    "became of it",
		    text, text);
	error = mail_load(r->d, e, &s->mail);
	if (error == 0)
		error = spool_store_body(r->d->store,
		    (struct spool_location){ e->segment, e->offset }, s->mail->envelope, &s->body);
	if (error < 0)
		return request_error(r, "%s cannot be read: %s", text, strerror(-error));
	shown_init(&shown, r->d, s->mail);
	s->object = report_message(&shown.report);
	add_what_it_waits_for(s->object, r->d, e);
	shown_fini(&shown);
	s->duplicates = e->duplicates;
	(void)!journal_scan_open(r->d->dirfd, 0, false, NULL, NULL, &s->scan);
	return REQUEST_AGAIN;
}

/* The history is read before the first line is said, the body after it. */
static enum request_progress
read_history(struct request *r, struct showing *s)
{
	struct journal_outcome *o;
	int n = s->scan != NULL ? journal_scan_next_of(s->scan, s->id, OUTCOMES_A_STEP, &o) : 0;

	if (n == -EAGAIN)
		return REQUEST_AGAIN;
	if (n == 1) {
		add_attempt(s, o);
		journal_free(o);
		return REQUEST_AGAIN;
	}
	return say_details(r, s);
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
	unsigned char *piece;
	char *text;
	int n;

	if (s->object != NULL)
		return read_history(r, s);
	piece = xcalloc(PIECE_BYTES, 1);
	text = xcalloc(PIECE_BYTES / 3 * 4 + 4, 1);
	n = read_all(s, s->offset, piece, PIECE_BYTES);
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
	json_decref(s->object);
	journal_scan_close(s->scan);
	spool_body_close(s->body);
	mail_free(s->mail);
	free(s);
}
