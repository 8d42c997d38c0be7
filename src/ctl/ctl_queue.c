/* ctl_queue.c - `relayctl queue`: what is not done yet, from delivery or, when that is down, from the
 * spool. The filters are applied by whoever lists. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/commands.h"
#include "ctl/ctl_offline.h"
#include "ctl/ctl_socket.h"
#include "base/os.h"
#include "delivery/report_row.h"

struct listing {
	const struct ctl *ctl;
	json_int_t count;
	bool has_begun; /* something was printed: it is too late to read the spool instead */
	struct report_text text; /* of the spool's messages */
};

/* ---- from delivery ---- */

static void
print_title(struct listing *l)
{
	struct report_text title = { 0 };

	if (l->has_begun)
		return;
	l->has_begun = true;
	report_row_print_title(&title);
	fwrite(title.text, 1, title.len, stdout);
	free(title.text);
}

static void
print_row(struct listing *l, struct span row)
{
	print_title(l);
	ctl_print_lines(row);
	putchar('\n');
}

/* A JSON string. Mostly nothing in it is escaped. */
static int
on_row(void *arg, struct span row)
{
	json_t *text;

	if (row.len >= 2 && row.data[0] == '"' && memchr(row.data, '\\', row.len) == NULL) {
		print_row(arg, (struct span){ row.data + 1, row.len - 2 });
		return 0;
	}
	text = json_loadb(row.data, row.len, JSON_DECODE_ANY, NULL);
	if (!json_is_string(text)) {
		json_decref(text);
		return -EPROTO;
	}
	print_row(arg, span_of(json_string_value(text)));
	json_decref(text);
	return 0;
}

/* JSON has none as such; a terminal would obey them. */
static bool
has_controls(struct span text)
{
	bool has = false;

	for (size_t i = 0; i < text.len; i++)
		has |= (unsigned char)text.data[i] < 0x20;
	return has;
}

static int
on_message(void *arg, struct span message)
{
	if (has_controls(message))
		return -EPROTO;
	((struct listing *)arg)->has_begun = true;
	fwrite(message.data, 1, message.len, stdout);
	putchar('\n');
	return 0;
}

/* ---- from the spool; the filters as delivery has them ---- */

static bool
has_recipient(const struct report_message *m, const char *part)
{
	for (size_t i = 0; i < m->n_recipients; i++)
		if (report_has_part(m->recipients[i].address, part))
			return true;
	return false;
}

static bool
has_sender(const struct report_message *m, const char *part)
{
	return strcmp(part, "<>") == 0 ? m->sender.len == 0 : report_has_part(m->sender, part);
}

static bool
fits(const struct ctl *ctl, const struct report_message *m)
{
	return (ctl->sender == NULL || has_sender(m, ctl->sender)) &&
	       (ctl->recipient == NULL || has_recipient(m, ctl->recipient)) &&
	       (ctl->state == NULL || strcmp(m->state, ctl->state) == 0) &&
	       (ctl->upstream == NULL || span_equals(m->upstream, span_of(ctl->upstream))) &&
	       (ctl->unit == NULL || report_has_part(m->unit, ctl->unit)) &&
	       (ctl->uid == NULL || m->uid == strtol(ctl->uid, NULL, 10));
}

static void
on_spool_message(void *arg, const struct report_message *m)
{
	struct listing *l = arg;

	if (!fits(l->ctl, m))
		return;
	l->text.len = 0;
	if (l->ctl->is_json) {
		report_print(&l->text, m);
		report_put(&l->text, SPAN("\n"));
	} else {
		print_title(l);
		report_row_print(&l->text, m, os_now_ms());
	}
	fwrite(l->text.text, 1, l->text.len, stdout);
	l->count++;
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
	free(l->text.text);
	if (r < 0)
		return ctl_offline_fail(r);
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
	if (!ctl->is_json)
		json_object_set_new(request, "rows", json_true());
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

static int
list_running(struct listing *l, json_t **last)
{
	json_t *request = make_request(l->ctl);

	if (l->ctl->is_json)
		return ctl_ask_list(l->ctl, request, "message", on_message, l, last);
	return ctl_ask_list(l->ctl, request, "row", on_row, l, last);
}

/* The count at the end, and what an operator has to know about it. */
static void
print_end(const struct listing *l, const json_t *last)
{
	if (!l->ctl->is_json && json_is_true(json_object_get(last, "queued")))
		print_down(l->ctl);
	if (!l->ctl->is_json && l->count == 0)
		puts("The queue is empty.");
	else if (!l->ctl->is_json)
		puts(ctl_count(l->count, "message"));
	if (json_is_true(json_object_get(last, "reading")))
		ctl_note("the spool is still being read: there is more in the queue than this");
}

int
ctl_queue(const struct ctl *ctl)
{
	struct listing l = { .ctl = ctl };
	json_t *last = NULL;
	int code, r;

	r = list_running(&l, &last);
	if (r == 0) {
		code = ctl_end(last);
		l.count = ctl_number(last, "count");
	} else if (ctl_is_down(r) && !l.has_begun) {
		code = list_spool(ctl, r, &l);
	} else {
		code = ctl_fail_ask(ctl, r);
	}
	if (code == CTL_OK)
		print_end(&l, last);
	json_decref(last);
	return code;
}
