/* report.c - see report.h. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "base/queue_id.h"
#include "delivery/report.h"

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

static json_t *
recipient_object(const struct report_recipient *r)
{
	json_t *object = json_object();

	json_object_set_new(object, "recipient", report_text(r->address));
	json_object_set_new(object, "state", json_string(r->state));
	json_object_set_new(object, "attempts", json_integer(r->attempts));
	json_object_set_new(object, "reply", report_text(r->reply));
	return object;
}

json_t *
report_message(const struct report_message *m)
{
	json_t *object = json_object(), *recipients = json_array();
	char id[QUEUE_ID_LEN + 1];

	queue_id_print(m->id, id);
	json_object_set_new(object, "id", json_string(id));
	json_object_set_new(object, "state", json_string(m->state));
	json_object_set_new(object, "sender", report_text(m->sender));
	json_object_set_new(object, "size", json_integer((json_int_t)m->size_bytes));
	json_object_set_new(object, "arrived", report_time(m->arrived_ms));
	json_object_set_new(object, "next_attempt", report_time(m->next_attempt_ms));
	json_object_set_new(object, "uid", m->uid >= 0 ? json_integer(m->uid) : json_null());
	json_object_set_new(object, "unit", report_text(m->unit));
	json_object_set_new(object, "upstream", report_text(m->upstream));
	for (size_t i = 0; i < m->n_recipients; i++)
		json_array_append_new(recipients, recipient_object(&m->recipients[i]));
	json_object_set_new(object, "recipients", recipients);
	return object;
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
