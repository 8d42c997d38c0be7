/* ctl_queue.c - `relayctl queue`: what is not done yet, from delivery or, when that is down, from the
 * spool. The filters are applied by whoever lists. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/commands.h"
#include "ctl/ctl_offline.h"
#include "ctl/ctl_socket.h"

struct listing {
	const struct ctl *ctl;
	unsigned long n;
	bool has_queued;
};

static void
print_row(const json_t *m)
{
	const json_t *recipients = json_object_get(m, "recipients"), *r;
	const char *sender = ctl_get(m, "sender");
	size_t i;

	printf("%-13s  %-8s  %9s  %-12s  %-12s  %s\n", ctl_get(m, "id"), ctl_get(m, "state"),
	    ctl_bytes(ctl_number(m, "size")), ctl_when(m, "arrived"),
	    strcmp(ctl_get(m, "state"), "queued") == 0 ? "now" : ctl_when(m, "next_attempt"),
	    sender[0] != '\0' ? sender : "<>");
	json_array_foreach(recipients, i, r)
	{
		const char *reply = ctl_get(r, "reply");

		printf("               -> %s", ctl_get(r, "recipient"));
		if (strcmp(ctl_get(r, "state"), ctl_get(m, "state")) != 0)
			printf("  [%s]", ctl_get(r, "state"));
		printf("%s%s\n", reply[0] != '\0' ? "  " : "", reply);
	}
}

static void
on_message(void *arg, const json_t *m)
{
	struct listing *l = arg;

	if (l->ctl->is_json) {
		ctl_print_json(m);
	} else {
		if (l->n == 0)
			printf("%-13s  %-8s  %9s  %-12s  %-12s  %s\n", "ID", "STATE", "SIZE",
			    "ARRIVED", "NEXT TRY", "SENDER -> RECIPIENTS");
		print_row(m);
	}
	l->has_queued |= strcmp(ctl_get(m, "state"), "queued") == 0;
	l->n++;
}

static void
on_line(void *arg, const json_t *line)
{
	const json_t *m = json_object_get(line, "message");

	if (m != NULL)
		on_message(arg, m);
}

/* ---- the filters, as delivery has them ---- */

static bool
has_part(const json_t *object, const char *key, const char *part)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text != NULL && strcasestr(text, part) != NULL;
}

static bool
has_recipient(const json_t *m, const char *part)
{
	const json_t *r;
	size_t i;

	json_array_foreach(
	    json_object_get(m, "recipients"), i, r) if (has_part(r, "recipient", part)) return true;
	return false;
}

static bool
is_equal(const json_t *object, const char *key, const char *wanted)
{
	const json_t *value = json_object_get(object, key);
	char number[32];

	if (json_is_integer(value)) {
		snprintf(
		    number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
		return strcmp(number, wanted) == 0;
	}
	return json_is_string(value) && strcmp(json_string_value(value), wanted) == 0;
}

static void
on_spool_message(void *arg, const json_t *m)
{
	struct listing *l = arg;
	const struct ctl *ctl = l->ctl;

	if ((ctl->sender == NULL || has_part(m, "sender", ctl->sender)) &&
	    (ctl->recipient == NULL || has_recipient(m, ctl->recipient)) &&
	    (ctl->state == NULL || is_equal(m, "state", ctl->state)) &&
	    (ctl->upstream == NULL || is_equal(m, "upstream", ctl->upstream)) &&
	    (ctl->unit == NULL || is_equal(m, "unit", ctl->unit)) &&
	    (ctl->uid == NULL || is_equal(m, "uid", ctl->uid)))
		on_message(arg, m);
}

static int
list_spool(const struct ctl *ctl, int why, struct listing *l)
{
	struct ctl_offline offline;
	int r;

	if (ctl_offline_open(ctl, why, &offline) < 0)
		return CTL_FAILED;
	r = ctl_offline_queue(&offline, on_spool_message, l);
	ctl_offline_close(&offline);
	if (r < 0)
		return ctl_fail("the spool cannot be read: %s", strerror(-r));
	return CTL_OK;
}

static json_t *
make_request(const struct ctl *ctl)
{
	const struct {
		const char *key, *value;
	} filters[] = { { "sender", ctl->sender }, { "recipient", ctl->recipient },
		{ "upstream", ctl->upstream }, { "state", ctl->state }, { "unit", ctl->unit } };
	json_t *request = ctl_request(ctl);

	for (size_t i = 0; i < ARRAY_LEN(filters); i++)
		if (filters[i].value != NULL)
			json_object_set_new(request, filters[i].key, json_string(filters[i].value));
	if (ctl->uid != NULL)
		json_object_set_new(request, "uid", json_integer(strtol(ctl->uid, NULL, 10)));
	return request;
}

/* "now" is not the whole truth about mail whose upstream is down. */
static void
on_status(void *arg, const json_t *line)
{
	const json_t *u;
	size_t i;

	(void)arg;
	json_array_foreach(json_object_get(json_object_get(line, "status"), "upstreams"), i, u)
	{
		if (strcmp(ctl_get(u, "state"), "down") == 0)
			printf("Mail for upstream %s waits until it is up again: %s\n",
			    ctl_get(u, "name"), ctl_get(u, "why"));
	}
}

static void
print_down(const struct ctl *ctl)
{
	json_t *last = NULL;

	(void)!ctl_ask(ctl, json_pack("{s:s}", "command", "status"), on_status, NULL, &last);
	json_decref(last);
}

int
ctl_queue(const struct ctl *ctl)
{
	struct listing l = { .ctl = ctl };
	json_t *last = NULL;
	int code, r = ctl_ask(ctl, make_request(ctl), on_line, &l, &last);

	if (r == 0) {
		code = ctl_end(last);
		if (code == CTL_OK && l.has_queued && !ctl->is_json)
			print_down(ctl);
	} else if (ctl_is_down(r) && l.n == 0) {
		code = list_spool(ctl, r, &l);
	} else {
		code = ctl_fail_ask(ctl, r);
	}
	json_decref(last);
	if (code == CTL_OK && !ctl->is_json) {
		if (l.n == 0)
			puts("The queue is empty.");
		else
			printf("%lu message%s\n", l.n, l.n == 1 ? "" : "s");
	}
	return code;
}
