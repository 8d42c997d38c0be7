/* ctl_status.c - `relayctl status`: one screen that says whether mail flows, and if not, why. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/os.h"
#include "ctl/commands.h"
#include "ctl/ctl_offline.h"
#include "ctl/ctl_socket.h"
#include "delivery/report_row.h"

/* ---- for people ---- */

static void
print_processes(const json_t *status)
{
	const json_t *p;
	size_t i;

	puts("\nProcesses");
	json_array_foreach(json_object_get(status, "processes"), i, p)
	{
		if (ctl_number(p, "pid") > 0)
			printf("  %-16s pid %" PRId64, ctl_get(p, "name"), ctl_number(p, "pid"));
		else
			printf("  %-16s DOES NOT RUN", ctl_get(p, "name"));
		if (ctl_number(p, "restarts") > 0)
			printf(", started again %s after it died",
			    ctl_count(ctl_number(p, "restarts"), "time"));
		putchar('\n');
	}
}

static void
print_queue(const json_t *status)
{
	const json_t *queue = json_object_get(status, "queue");
	int64_t total = ctl_number(queue, "total");

	printf("\nQueue       %s", ctl_count(total, "message"));
	if (total > 0)
		printf(": %" PRId64 " queued, %" PRId64 " active, %" PRId64 " deferred, %" PRId64
		       " held; the oldest %s",
		    ctl_number(queue, "queued"), ctl_number(queue, "active"),
		    ctl_number(queue, "deferred"), ctl_number(queue, "held"),
		    ctl_age(ctl_number(queue, "oldest_s")));
	putchar('\n');
}

static void
print_counts(const json_t *status)
{
	const json_t *intake = json_object_get(status, "intake");
	const json_t *counts = json_object_get(status, "counts");

	if (intake != NULL)
		printf("Accepted    %s, %s; refused %" PRId64 "; %s now, %" PRId64
		       " since the start\n",
		    ctl_count(ctl_number(intake, "accepted"), "message"),
		    ctl_bytes(ctl_number(intake, "bytes")), ctl_number(intake, "rejected"),
		    ctl_count(ctl_number(intake, "sessions"), "session"),
		    ctl_number(intake, "connections"));
	if (counts != NULL)
		printf("Recipients  %" PRId64 " delivered, %" PRId64 " bounced, %s deferred; %s\n",
		    ctl_number(counts, "delivered"), ctl_number(counts, "bounced"),
		    ctl_count(ctl_number(counts, "deferred"), "time"),
		    ctl_count(ctl_number(counts, "possible_duplicates"), "possible duplicate"));
}

static void
print_spool(const json_t *status)
{
	const json_t *spool = json_object_get(status, "spool");
	const json_t *intake = json_object_get(status, "intake");
	const char *why = ctl_get(spool, "why"), *fix = ctl_get(spool, "fix");

	if (spool == NULL)
		return;
	printf("Spool       %s: %s free", ctl_get(spool, "directory"),
	    ctl_bytes(ctl_number(spool, "free_bytes")));
	if (ctl_number(spool, "size_bytes") > 0)
		printf(" of %s", ctl_bytes(ctl_number(spool, "size_bytes")));
	if (json_is_true(json_object_get(spool, "full")) ||
	    json_is_true(json_object_get(intake, "spool_failed")))
		fputs(" - NEW MAIL IS REFUSED", stdout);
	else if (why[0] != '\0')
		fputs(" - IT DOES NOT WORK", stdout);
	putchar('\n');
	if (why[0] != '\0')
		printf("            why:   %s\n", why);
	if (fix[0] != '\0')
		printf("            to do: %s\n", fix);
}

static void
print_upstream(const json_t *u)
{
	const char *state = ctl_get(u, "state"), *since = ctl_when(u, "since");
	const char *why = ctl_get(u, "why"), *fix = ctl_get(u, "fix");
	char where[300];

	snprintf(where, sizeof(where), "%s:%" PRId64, ctl_get(u, "host"), ctl_number(u, "port"));
	printf("  %-12s %-32s %s", ctl_get(u, "name"), where,
	    strcmp(state, "down") == 0 ? "DOWN" : state);
	if (strcmp(since, "-") != 0)
		printf(" since %s", since);
	printf("\n               last success %s, %" PRId64 " delivered, %" PRId64
	       " of %s, %" PRId64 " waiting%s\n",
	    ctl_when(u, "last_success"), ctl_number(u, "delivered"), ctl_number(u, "connections"),
	    ctl_count(ctl_number(u, "connections_max"), "connection"), ctl_number(u, "queued"),
	    json_is_true(json_object_get(u, "paced")) ? ", slowed down by the upstream" : "");
	if (why[0] != '\0')
		printf("               why:   %s\n", why);
	if (fix[0] != '\0')
		printf("               to do: %s\n", fix);
	if (json_is_string(json_object_get(u, "next_probe")))
		printf("               next probe %s\n", ctl_when(u, "next_probe"));
	else if (strcmp(state, "down") == 0 && ctl_number(u, "queued") == 0)
		puts("               next probe when there is mail to try it with");
}

static void
print_status(const json_t *status)
{
	const json_t *upstreams = json_object_get(status, "upstreams"), *u;
	const char *paused = ctl_get(status, "paused"), *started = ctl_when(status, "started");
	size_t i;

	printf("relayd %s on %s", ctl_get(status, "version"), ctl_get(status, "hostname"));
	if (strcmp(started, "-") != 0)
		printf(", started %s", started);
	putchar('\n');
	if (paused[0] != '\0')
		printf("DELIVERY WAITS: %s\n", paused);
	if (json_is_object(json_object_get(status, "reading")))
		printf("THE SPOOL IS STILL BEING READ: %" PRId64
		       " of %s to come; what is known of the queue is under way\n",
		    ctl_number(json_object_get(status, "reading"), "unread"),
		    ctl_count(
		        ctl_number(json_object_get(status, "reading"), "segments"), "segment"));
	if (json_array_size(json_object_get(status, "processes")) > 0)
		print_processes(status);
	print_queue(status);
	print_counts(status);
	print_spool(status);
	if (json_array_size(upstreams) > 0)
		puts("\nUpstreams");
	json_array_foreach(upstreams, i, u) print_upstream(u);
}

static void
give_status(const struct ctl *ctl, const json_t *status)
{
	if (ctl->is_json)
		ctl_print_json(status);
	else
		print_status(status);
}

/* ---- from the daemon ---- */

struct answer {
	const struct ctl *ctl;
	bool was_given;
};

static void
on_line(void *arg, const json_t *line)
{
	struct answer *answer = arg;
	json_t *status = json_object_get(line, "status");

	if (status == NULL)
		return;
	answer->was_given = true;
	json_object_set_new(status, "running", json_true());
	give_status(answer->ctl, status);
}

/* ---- from the spool ---- */

struct count {
	json_int_t queued, deferred, held, total, oldest_s;
};

static void
on_message(void *arg, const struct report_message *m)
{
	struct count *count = arg;
	json_int_t age_s = (json_int_t)(os_now_ms() / 1000) - (json_int_t)(m->arrived_ms / 1000);

	count->total++;
	if (strcmp(m->state, "held") == 0)
		count->held++;
	else if (strcmp(m->state, "deferred") == 0)
		count->deferred++;
	else
		count->queued++;
	if (age_s > count->oldest_s)
		count->oldest_s = age_s;
}

static json_t *
make_status(
    const struct ctl *ctl, const char *why, const struct count *c, const struct os_room *room)
{
	const struct report_spool spool = { .room = *room,
		.min_free_bytes = ctl->config->spool.min_free_bytes };
	char matter[REPORT_SPOOL_MAX];
	const char *fix = report_spool_why(&spool, matter);

	return json_pack("{s:b, s:s, s:s, s:n, s:s, s:[], s:{s:I, s:i, s:I, s:I, s:I, s:I}, "
	                 "s:{s:s, s:I, s:I, s:I, s:b, s:s, s:s}, s:[]}",
	    "running", 0, "version", PACKAGE_VERSION, "hostname", ctl->config->hostname, "started",
	    "paused", why, "processes", "queue", "queued", c->queued, "active", 0, "deferred",
	    c->deferred, "held", c->held, "total", c->total, "oldest_s", c->oldest_s, "spool",
	    "directory", ctl->config->spool.directory, "free_bytes", (json_int_t)room->free_bytes,
	    "size_bytes", (json_int_t)room->all_bytes, "min_free_bytes",
	    (json_int_t)spool.min_free_bytes, "full", report_spool_is_full(&spool), "why", matter,
	    "fix", fix, "upstreams");
}

static int
status_of_spool(const struct ctl *ctl, int why)
{
	struct ctl_offline offline;
	struct count count = { 0 };
	struct os_room room = { 0 };
	json_t *status;
	int r;

	if (ctl_offline_open(ctl, why, &offline) < 0)
		return CTL_FAILED;
	r = ctl_offline_queue(&offline, on_message, &count);
	if (r == 0)
		r = os_room(offline.dir_fd, &room);
	ctl_offline_close(&offline);
	if (r < 0)
		return ctl_offline_fail(r);
	status = make_status(ctl, offline.why, &count, &room);
	give_status(ctl, status);
	json_decref(status);
	return CTL_OK;
}

int
ctl_status(const struct ctl *ctl)
{
	struct answer answer = { .ctl = ctl };
	json_t *last = NULL;
	int code, r = ctl_ask(ctl, ctl_request(ctl), on_line, &answer, &last);

	if (r == 0)
		code = ctl_end(last);
	else if (ctl_is_down(r) && !answer.was_given)
		code = status_of_spool(ctl, r);
	else
		code = ctl_fail_ask(ctl, r);
	json_decref(last);
	return code;
}
