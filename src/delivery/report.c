/* report.c - see report.h. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "base/queue_id.h"
#include "delivery/report.h"

bool
report_has_part(struct span text, const char *part)
{
	size_t len = strlen(part);

	for (size_t i = 0; i + len <= text.len; i++)
		if (strncasecmp(text.data + i, part, len) == 0)
			return true;
	return false;
}

/* --- text ------------------------------------------------------------------------------------- */

void
report_put(struct report_text *out, struct span bytes)
{
	if (out->len + bytes.len > out->room) {
		out->room = 2 * (out->len + bytes.len) + 1024;
		out->text = xrealloc(out->text, out->room, 1);
	}
	if (bytes.len > 0)
		memcpy(out->text + out->len, bytes.data, bytes.len);
	out->len += bytes.len;
}

/* Nothing in it has to be escaped, and it is UTF-8. */
static bool
is_plain(struct span text)
{
	for (size_t i = 0; i < text.len; i++) {
		unsigned char c = (unsigned char)text.data[i];

		if (c < ' ' || c > '~' || c == '"' || c == '\\')
			return false;
	}
	return true;
}

/* Any bytes between the quotes of a string. */
static void
put_inside(struct report_text *out, struct span text)
{
	json_t *string;
	char *escaped;

	if (is_plain(text)) {
		report_put(out, text);
		return;
	}
	string = report_text(text);
	escaped = json_dumps(string, JSON_ENCODE_ANY);
	if (escaped != NULL)
		report_put(out, (struct span){ escaped + 1, strlen(escaped) - 2 });
	free(escaped);
	json_decref(string);
}

void
report_put_string(struct report_text *out, struct span text)
{
	report_put(out, SPAN("\""));
	put_inside(out, text);
	report_put(out, SPAN("\""));
}

static void
put_number(struct report_text *out, uint64_t n)
{
	char digits[20];
	size_t at = sizeof(digits);

	do
		digits[--at] = (char)('0' + n % 10);
	while ((n /= 10) > 0);
	report_put(out, (struct span){ digits + at, sizeof(digits) - at });
}

static void
put_time(struct report_text *out, uint64_t time_ms)
{
	char text[REPORT_TIME_MAX];

	if (time_ms == 0) {
		report_put(out, SPAN("null"));
		return;
	}
	report_time_print(time_ms, text);
	report_put_string(out, span_of(text));
}

static void
put_reply(struct report_text *out, const struct report_recipient *r)
{
	report_put(out, SPAN("\""));
	if (r->code > 0) {
		put_number(out, r->code);
		report_put(out, SPAN(" "));
		put_inside(out, r->enhanced);
		if (r->enhanced.len > 0)
			report_put(out, SPAN(" "));
	}
	put_inside(out, r->reply);
	report_put(out, SPAN("\""));
}

static void
put_recipient(struct report_text *out, const struct report_recipient *r)
{
	report_put(out, SPAN("{\"recipient\":"));
	report_put_string(out, r->address);
	report_put(out, SPAN(",\"state\":"));
	report_put_string(out, span_of(r->state));
	report_put(out, SPAN(",\"attempts\":"));
	put_number(out, r->attempts);
	report_put(out, SPAN(",\"reply\":"));
	put_reply(out, r);
	report_put(out, SPAN("}"));
}

void
report_print(struct report_text *out, const struct report_message *m)
{
	char id[QUEUE_ID_LEN + 1];

	queue_id_print(m->id, id);
	report_put(out, SPAN("{\"id\":"));
	report_put_string(out, span_of(id));
	report_put(out, SPAN(",\"state\":"));
	report_put_string(out, span_of(m->state));
	report_put(out, SPAN(",\"sender\":"));
	report_put_string(out, m->sender);
	report_put(out, SPAN(",\"size\":"));
	put_number(out, m->size_bytes);
	report_put(out, SPAN(",\"arrived\":"));
	put_time(out, m->arrived_ms);
	report_put(out, SPAN(",\"next_attempt\":"));
	put_time(out, m->next_attempt_ms);
	report_put(out, SPAN(",\"uid\":"));
	if (m->uid >= 0)
		put_number(out, (uint64_t)m->uid);
	else
		report_put(out, SPAN("null"));
	report_put(out, SPAN(",\"unit\":"));
	report_put_string(out, m->unit);
	report_put(out, SPAN(",\"upstream\":"));
	report_put_string(out, m->upstream);
	report_put(out, SPAN(",\"recipients\":["));
	for (size_t i = 0; i < m->n_recipients; i++) {
		if (i > 0)
			report_put(out, SPAN(","));
		put_recipient(out, &m->recipients[i]);
	}
	report_put(out, SPAN("]}"));
}

/* --- objects ---------------------------------------------------------------------------------- */

json_t *
report_text(struct span text)
{
	json_t *string = json_stringn(text.len > 0 ? text.data : "", text.len);
	char *quoted;
	size_t len;

	if (string != NULL)
		return string;
	quoted = xcalloc(4 * text.len + 1, 1); /* not UTF-8: \xNN, at most four for one */
	len = log_quote(text, quoted, 4 * text.len + 1);
	string = json_stringn(quoted, len);
	free(quoted);
	return string != NULL ? string : json_string("?");
}

void
report_time_print(uint64_t time_ms, char out[REPORT_TIME_MAX])
{
	time_t seconds = (time_t)(time_ms / 1000);
	struct tm tm;

	if (gmtime_r(&seconds, &tm) == NULL ||
	    strftime(out, REPORT_TIME_MAX, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		snprintf(out, REPORT_TIME_MAX, "%s", "1970-01-01T00:00:00Z");
}

json_t *
report_time(uint64_t time_ms)
{
	char text[REPORT_TIME_MAX];

	if (time_ms == 0)
		return json_null();
	report_time_print(time_ms, text);
	return json_string(text);
}

json_t *
report_message(const struct report_message *m)
{
	struct report_text text = { 0 };
	json_t *object;

	report_print(&text, m);
	object = json_loadb(text.text, text.len, JSON_ALLOW_NUL, NULL);
	free(text.text);
	return object != NULL ? object : json_object();
}

static json_t *
attempt_object(const struct report_attempt *a)
{
	json_t *object = json_object();

	json_object_set_new(object, "time", report_time(a->time_ms));
	json_object_set_new(object, "recipient", report_text(a->recipient));
	json_object_set_new(object, "state", json_string(a->state));
	json_object_set_new(object, "attempt", json_integer(a->attempt));
	json_object_set_new(object, "reply", report_text(a->reply));
	json_object_set_new(object, "upstream", report_text(a->upstream));
	return object;
}

void
report_add_details(json_t *object, const struct report_details *d)
{
	json_t *history = json_array();

	json_object_set_new(object, "client", report_text(d->client));
	json_object_set_new(object, "listener", report_text(d->listener));
	json_object_set_new(object, "helo", report_text(d->helo));
	json_object_set_new(object, "envid", report_text(d->envid));
	json_object_set_new(object, "dsn", json_boolean(d->is_dsn));
	json_object_set_new(
	    object, "possible_duplicates", json_integer((json_int_t)d->possible_duplicates));
	json_object_set_new(object, "headers", report_text(d->headers));
	for (size_t i = 0; i < d->n_history; i++)
		json_array_append_new(history, attempt_object(&d->history[i]));
	json_object_set_new(object, "history", history);
}
