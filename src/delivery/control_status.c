/* control_status.c - status, metrics, config: how things are. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/os.h"
#include "delivery/control.h"
#include "delivery/outcome.h"
#include "delivery/report.h"
#include "delivery/report_row.h"
#include "delivery/request.h"
#include "delivery/upstream.h"

static uint64_t
oldest_s(const struct delivery *d)
{
	int64_t now_s = (int64_t)(os_boot_ms() / 1000), born_s = now_s;
	const struct queue_entry *e;
	uint32_t cursor = 0;

	while (
	    (e = queue_each(d->queue, &cursor)) != NULL) /* perhaps a million: no clock in here */
		if (e->born_s < born_s)
			born_s = e->born_s;
	return (uint64_t)(now_s - born_s);
}

static const char *
upstream_state(const struct upstream *u)
{
	if (u->is_waiting)
		return "down";
	switch (u->breaker.state) {
	case BREAKER_OPEN:
		return "down";
	case BREAKER_PROBING:
		return "probing";
	case BREAKER_CLOSED:
		break;
	}
	return u->since_ms == 0 ? "unused" : "up";
}

#define SILENT_MS 2000 /* less is nothing to tell */

/* `silence` is where a text may be made. */
static const char *
upstream_why(const struct upstream *u, char silence[128])
{
	uint64_t silent_ms = 0;
	const char *phrase = upstream_silence(u, &silent_ms);

	if (u->is_waiting)
		return secret_why(u->secret);
	if (phrase != NULL && silent_ms >= SILENT_MS) {
		snprintf(silence, 128, "no answer for %" PRIu64 " s, while %s", silent_ms / 1000,
		    phrase);
		return silence;
	}
	if (u->is_daily && u->why[0] == '\0')
		return "the day's number of messages (`daily`) is reached; the rest waits";
	return u->why;
}

static json_t *
upstream_object(const struct upstream *u)
{
	const struct config_upstream *c = u->config;
	uint64_t boot_ms = os_boot_ms(), probe_ms = 0;
	json_t *o = json_object();
	char silence[128];

	if (u->breaker.state == BREAKER_OPEN &&
	    (u->breaker.retry_at_ms > boot_ms || queue_count_ready(u->d->queue, u->index) > 0))
		probe_ms =
		    os_now_ms() +
		    (u->breaker.retry_at_ms > boot_ms ? u->breaker.retry_at_ms - boot_ms : 0);
	json_object_set_new(o, "name", report_text(span_of(c->name)));
	json_object_set_new(o, "host", report_text(span_of(c->host)));
	json_object_set_new(o, "port", json_integer(c->port));
	json_object_set_new(o, "tls", json_string(config_tls_name(c->tls)));
	json_object_set_new(o, "auth", json_string(config_auth_name(c->auth)));
	json_object_set_new(o, "state", json_string(upstream_state(u)));
	json_object_set_new(o, "since", report_time(u->since_ms));
	json_object_set_new(o, "why", report_text(span_of(upstream_why(u, silence))));
	json_object_set_new(
	    o, "fix", report_text(span_of(u->is_waiting ? secret_fix(u->secret) : u->fix)));
	json_object_set_new(o, "next_probe", report_time(probe_ms));
	json_object_set_new(o, "last_success", report_time(u->last_success_ms));
	json_object_set_new(o, "last_error", report_text(span_of(u->last_error)));
	json_object_set_new(o, "connections", json_integer(u->n_links));
	json_object_set_new(
	    o, "connections_max", json_integer(upstream_connections_max(u, boot_ms)));
	json_object_set_new(
	    o, "queued", json_integer((json_int_t)queue_count_ready(u->d->queue, u->index)));
	json_object_set_new(o, "delivered", json_integer((json_int_t)u->delivered));
	json_object_set_new(o, "rate_per_s", json_real(pace_per_second(&u->pace)));
	json_object_set_new(o, "paced", json_boolean(pace_is_slowed(&u->pace)));
	json_object_set_new(o, "sent_today", json_integer(pace_sent_today(&u->pace)));
	json_object_set_new(o, "daily", json_integer(c->daily));
	return o;
}

static json_t *
processes(const struct delivery *d)
{
	struct shared_page *p = d->page;

	return json_pack("[{s:s, s:i, s:i}, {s:s, s:i, s:i}, {s:s, s:i, s:i}]", "name", "relayd",
	    "pid", (int)p->supervisor_pid, "restarts", 0, "name", "relayd-intake", "pid",
	    (int)p->intake_pid, "restarts", (int)p->intake_restarts, "name", "relayd-delivery",
	    "pid", (int)getpid(), "restarts", (int)p->delivery_restarts);
}

static json_t *
queue_object(const struct delivery *d)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "queued",
	    (json_int_t)queue_count(d->queue, QUEUE_READY), "active",
	    (json_int_t)queue_count(d->queue, QUEUE_ACTIVE), "deferred",
	    (json_int_t)queue_count(d->queue, QUEUE_DEFERRED), "held",
	    (json_int_t)queue_count(d->queue, QUEUE_HELD), "total",
	    (json_int_t)queue_count_all(d->queue), "oldest_s", (json_int_t)oldest_s(d));
}

static int
spool_error(const struct delivery *d)
{
	if (spool_writer_is_failed(d->journal) || spool_writer_is_failed(d->letters))
		return d->spool_error != 0 ? d->spool_error : EIO;
	return (int)d->page->spool_failed;
}

static json_t *
spool_object(const struct delivery *d)
{
	struct report_spool spool = { .min_free_bytes = d->config->spool.min_free_bytes,
		.error = spool_error(d),
		.waiting_ms = spool_writer_waiting_ms(d->journal) };
	char why[REPORT_SPOOL_MAX];
	const char *fix;
	int r = spool_writer_room(d->letters, &spool.room);

	if (r < 0 && spool.error == 0)
		spool.error = -r;
	fix = report_spool_why(&spool, why);
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:b, s:b, s:s, s:s}", "directory",
	    d->config->spool.directory, "free_bytes", (json_int_t)spool.room.free_bytes,
	    "size_bytes", (json_int_t)spool.room.all_bytes, "min_free_bytes",
	    (json_int_t)spool.min_free_bytes, "segments", (json_int_t)mail_segments(d), "failed",
	    spool.error != 0, "full", r == 0 && report_spool_is_full(&spool), "why", why, "fix",
	    fix);
}

/* How much of what was there at the start is still to be read; null: nothing. */
static json_t *
reading(const struct delivery *d)
{
	const struct catalog_summary *found = catalog_summary(d->catalog);

	if (d->is_read)
		return json_null();
	return json_pack("{s:I, s:I}", "segments", (json_int_t)found->segments, "unread",
	    (json_int_t)found->unread);
}

enum request_progress
control_status(struct request *r)
{
	struct delivery *d = r->d;
	struct delivery_counts *c = &d->counts;
	json_t *status = json_object(), *upstreams = json_array();

	json_object_set_new(status, "version", json_string(PACKAGE_VERSION));
	json_object_set_new(status, "hostname", report_text(span_of(d->config->hostname)));
	json_object_set_new(status, "started",
	    report_time(d->page->start_ms != 0 ? d->page->start_ms : d->started_ms));
	json_object_set_new(status, "paused", json_string(delivery_paused(d)));
	json_object_set_new(status, "reading", reading(d));
	json_object_set_new(status, "processes", processes(d));
	json_object_set_new(status, "intake",
	    json_pack("{s:I, s:I, s:I, s:I, s:I, s:b}", "connections",
	        (json_int_t)d->page->connections, "sessions", (json_int_t)d->page->sessions_now,
	        "accepted", (json_int_t)d->page->accepted, "rejected",
	        (json_int_t)d->page->rejected, "bytes", (json_int_t)d->page->accepted_bytes,
	        "spool_failed", d->page->spool_failed != 0));
	json_object_set_new(status, "queue", queue_object(d));
	json_object_set_new(status, "counts",
	    json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "delivered", (json_int_t)c->delivered,
	        "deferred", (json_int_t)c->deferred, "bounced", (json_int_t)c->bounced, "held",
	        (json_int_t)c->held, "removed", (json_int_t)c->removed, "possible_duplicates",
	        (json_int_t)c->possible_duplicates, "dsn", (json_int_t)c->dsn));
	json_object_set_new(status, "spool", spool_object(d));
	for (size_t i = 0; i < d->config->n_upstreams; i++)
		json_array_append_new(upstreams, upstream_object(d->upstreams[i]));
	json_object_set_new(status, "upstreams", upstreams);
	request_say(r, json_pack("{s:o}", "status", status));
	return request_ok(r);
}

static void
metric(FILE *out, const char *name, const char *type, const char *help)
{
	fprintf(out, "# HELP relayd_%s %s\n# TYPE relayd_%s %s\n", name, help, name, type);
}

static void
metrics_of_upstreams(const struct delivery *d, FILE *out)
{
	/* clang-format off */
	static const struct {
		const char *name, *type, *help;
	} rows[] = {
		{ "upstream_up", "gauge", "1: mail may flow; 0: its breaker is open" },
		{ "upstream_connections", "gauge", "connections open now" },
		{ "upstream_queued", "gauge", "messages that wait for their turn" },
		{ "upstream_delivered_total", "counter", "recipients accepted by the upstream" },
		{ "upstream_sessions_total", "counter", "connections opened" },
		{ "upstream_last_success_seconds", "gauge", "when it last accepted a message, since 1970; 0: not yet" },
		{ "upstream_sent_today", "gauge", "messages sent in the last 24 hours" },
		{ "upstream_paced", "gauge", "1: slower than configured, because it said so" },
	};
	/* clang-format on */

	for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
		metric(out, rows[k].name, rows[k].type, rows[k].help);
		for (size_t i = 0; i < d->config->n_upstreams; i++) {
			const struct upstream *u = d->upstreams[i];
			const uint64_t values[] = { u->breaker.state == BREAKER_CLOSED &&
				                        !u->is_waiting,
				u->n_links, queue_count_ready(d->queue, u->index), u->delivered,
				u->sessions, u->last_success_ms / 1000, pace_sent_today(&u->pace),
				pace_is_slowed(&u->pace) };

			fprintf(out, "relayd_%s{upstream=\"", rows[k].name);
			for (const char *c = u->config->name; *c != '\0'; c++) {
				if (*c == '"' || *c == '\\')
					fputc('\\', out);
				fputc(*c, out);
			}
			fprintf(out, "\"} %" PRIu64 "\n", values[k]);
		}
	}
}

static void
metrics_of_queue(const struct delivery *d, FILE *out)
{
	const struct delivery_counts *c = &d->counts;
	struct os_room room = { 0 };
	/* clang-format off */
	const struct {
		const char *name, *label, *type, *help;
		uint64_t value;
	} rows[] = {
		{ "queue_messages", "state=\"queued\"", "gauge", "messages that are not done", queue_count(d->queue, QUEUE_READY) },
		{ "queue_messages", "state=\"active\"", NULL, NULL, queue_count(d->queue, QUEUE_ACTIVE) },
		{ "queue_messages", "state=\"deferred\"", NULL, NULL, queue_count(d->queue, QUEUE_DEFERRED) },
		{ "queue_messages", "state=\"held\"", NULL, NULL, queue_count(d->queue, QUEUE_HELD) },
		{ "queue_oldest_seconds", NULL, "gauge", "age of the oldest message", oldest_s(d) },
		{ "queue_memory_bytes", NULL, "gauge", "memory that the queue takes", queue_memory_bytes(d->queue) },
		{ "recipients_total", "outcome=\"delivered\"", "counter", "what became of recipients since the start", c->delivered },
		{ "recipients_total", "outcome=\"deferred\"", NULL, NULL, c->deferred },
		{ "recipients_total", "outcome=\"bounced\"", NULL, NULL, c->bounced },
		{ "recipients_total", "outcome=\"held\"", NULL, NULL, c->held },
		{ "recipients_total", "outcome=\"removed\"", NULL, NULL, c->removed },
		{ "possible_duplicates_total", NULL, "counter", "recipients that may get a message twice", c->possible_duplicates },
		{ "dsn_total", NULL, "counter", "notifications written", c->dsn },
		{ "intake_connections_total", NULL, "counter", "connections of clients", d->page->connections },
		{ "intake_sessions", NULL, "gauge", "clients connected now", d->page->sessions_now },
		{ "intake_accepted_total", NULL, "counter", "messages accepted", d->page->accepted },
		{ "intake_rejected_total", NULL, "counter", "messages and recipients refused", d->page->rejected },
		{ "intake_accepted_bytes_total", NULL, "counter", "bytes of accepted messages", d->page->accepted_bytes },
		{ "worker_restarts_total", "worker=\"intake\"", "counter", "restarts after a death", d->page->intake_restarts },
		{ "worker_restarts_total", "worker=\"delivery\"", NULL, NULL, d->page->delivery_restarts },
		{ "spool_failed", NULL, "gauge", "1: the spool cannot be written", d->page->spool_failed != 0 || spool_writer_is_failed(d->journal) },
		{ "spool_free_bytes", NULL, "gauge", "room on the file system of the spool", spool_writer_room(d->letters, &room) == 0 ? room.free_bytes : 0 },
		{ "spool_unread_segments", NULL, "gauge", "segments of before the start that are not read yet", catalog_summary(d->catalog)->unread },
		{ "spool_segments", NULL, "gauge", "segments that hold mail", mail_segments(d) },
	};
	/* clang-format on */

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		if (rows[i].type != NULL)
			metric(out, rows[i].name, rows[i].type, rows[i].help);
		fprintf(out, "relayd_%s%s%s%s %" PRIu64 "\n", rows[i].name,
		    rows[i].label != NULL ? "{" : "", rows[i].label != NULL ? rows[i].label : "",
		    rows[i].label != NULL ? "}" : "", rows[i].value);
	}
}

enum request_progress
control_metrics(struct request *r)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (out == NULL)
		return request_error(r, "no memory");
	metrics_of_queue(r->d, out);
	metrics_of_upstreams(r->d, out);
	fclose(out);
	request_say(r, json_pack("{s:o}", "metrics", report_text((struct span){ text, len })));
	free(text);
	return request_ok(r);
}

enum request_progress
control_config(struct request *r)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (out == NULL)
		return request_error(r, "no memory");
	if (config_print(r->d->config, out, true) < 0) {
		fclose(out);
		free(text);
		return request_error(r, "the configuration cannot be printed");
	}
	fclose(out);
	request_say(r, json_pack("{s:o}", "config", report_text((struct span){ text, len })));
	free(text);
	return request_ok(r);
}
