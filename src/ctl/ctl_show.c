/* ctl_show.c - `relayctl show ID`: one message whole: who sent it, what became of it, in the upstream's
 * words, its headers, and with --body every byte as it goes upstream. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/queue_id.h"
#include "ctl/base64.h"
#include "ctl/commands.h"
#include "ctl/ctl_offline.h"
#include "ctl/ctl_socket.h"

struct showing {
	const struct ctl *ctl;
	bool has_message, in_body;
};

static void
print_pair(const char *name, const char *text)
{
	if (text[0] != '\0')
		printf("%-12s %s\n", name, text);
}

static void
print_recipients(const json_t *m)
{
	const json_t *r;
	size_t i;

	puts("\nRecipients");
	json_array_foreach(json_object_get(m, "recipients"), i, r)
	{
		const char *reply = ctl_get(r, "reply");

		printf("  %s: %s, %s%s%s\n", ctl_get(r, "recipient"), ctl_get(r, "state"),
		    ctl_count(ctl_number(r, "attempts"), "attempt"), reply[0] != '\0' ? ": " : "",
		    reply);
	}
}

static void
print_history(const json_t *m)
{
	const json_t *history = json_object_get(m, "history"), *a;
	size_t i;

	if (json_array_size(history) == 0)
		return;
	puts("\nHistory");
	json_array_foreach(history, i, a) printf("  %s  %s  %s by %s, attempt %" PRId64 ": %s\n",
	    ctl_get(a, "time"), ctl_get(a, "recipient"), ctl_get(a, "state"),
	    ctl_get(a, "upstream"), ctl_number(a, "attempt"), ctl_get(a, "reply"));
}

static void
print_lines(const char *text)
{
	while (text != NULL && *text != '\0') {
		size_t len = strcspn(text, "\n");
		struct span line = { text, len > 0 && text[len - 1] == '\r' ? len - 1 : len };
		char safe[4096];

		fputs("  ", stdout);
		while (line.len > 0 && line.data[0] == '\t') { /* a folded line */
			putchar('\t');
			line = span_skip(line, 1);
		}
		log_quote(line, safe, sizeof(safe));
		puts(safe);
		text += len + (text[len] == '\n');
	}
}

static void
print_message(const json_t *m)
{
	const char *sender = ctl_get(m, "sender");
	const char *headers = json_string_value(json_object_get(m, "headers"));
	char text[256];

	print_pair("ID", ctl_get(m, "id"));
	snprintf(text, sizeof(text), "%s%s%s", ctl_get(m, "state"),
	    json_is_string(json_object_get(m, "next_attempt")) ? ", next attempt " : "",
	    json_is_string(json_object_get(m, "next_attempt")) ? ctl_when(m, "next_attempt") : "");
	print_pair("State", text);
	print_pair("Waits for", ctl_get(m, "waits_for"));
	print_pair("Sender", sender[0] != '\0' ? sender : "<>");
	snprintf(
	    text, sizeof(text), "%.40s (%.40s)", ctl_get(m, "arrived"), ctl_when(m, "arrived"));
	print_pair("Arrived", text);
	print_pair("Size", ctl_bytes(ctl_number(m, "size")));
	print_pair("Client", ctl_get(m, "client"));
	print_pair("Listener", ctl_get(m, "listener"));
	print_pair("HELO", ctl_get(m, "helo"));
	if (json_is_integer(json_object_get(m, "uid"))) {
		snprintf(text, sizeof(text), "%" PRId64, ctl_number(m, "uid"));
		print_pair("User ID", text);
	}
	print_pair("Unit", ctl_get(m, "unit"));
	print_pair("Upstream", ctl_get(m, "upstream"));
	print_pair("ENVID", ctl_get(m, "envid"));
	if (json_is_true(json_object_get(m, "dsn")))
		print_pair("Written by", "relayd (a delivery status notification)");
	if (ctl_number(m, "possible_duplicates") > 0) {
		snprintf(text, sizeof(text), "%" PRId64, ctl_number(m, "possible_duplicates"));
		print_pair("May be twice", text);
	}
	print_recipients(m);
	print_history(m);
	if (headers != NULL) {
		puts("\nHeaders");
		print_lines(headers);
	}
}

static void
on_message(void *arg, const json_t *m)
{
	struct showing *s = arg;

	s->has_message = true;
	if (s->ctl->is_json)
		ctl_print_json(m);
	else
		print_message(m);
}

/* Raw into a file or a pipe; on a terminal nothing that could steer it. */
static void
on_bytes(void *arg, struct span bytes)
{
	struct showing *s = arg;

	if (s->ctl->is_json) {
		char *text = base64_encode(bytes);
		json_t *line = json_pack("{s:s}", "data", text);

		ctl_print_json(line);
		json_decref(line);
		free(text);
		return;
	}
	if (!s->in_body)
		puts("\nMessage");
	s->in_body = true;
	if (!isatty(STDOUT_FILENO)) {
		fwrite(bytes.data, 1, bytes.len, stdout);
		return;
	}
	for (size_t i = 0; i < bytes.len; i++) {
		unsigned char c = (unsigned char)bytes.data[i];

		if (c == '\n' || c == '\t' || (c >= ' ' && c != 0x7f))
			putchar(c);
		else if (c != '\r')
			printf("\\x%02x", c);
	}
}

static void
on_line(void *arg, const json_t *line)
{
	const json_t *data = json_object_get(line, "data");
	const json_t *message = json_object_get(line, "message");
	const struct showing *s = arg;
	struct span bytes;

	if (message != NULL)
		on_message(arg, message);
	if (data != NULL && s->ctl->wants_body &&
	    base64_decode(span_of(json_string_value(data)), &bytes)) {
		on_bytes(arg, bytes);
		free((char *)(uintptr_t)bytes.data);
	}
}

static int
show_spool(const struct ctl *ctl, int why, uint64_t id, struct showing *s)
{
	struct ctl_offline offline;
	int r;

	if (ctl_offline_open(ctl, why, &offline) < 0)
		return CTL_FAILED;
	r = ctl_offline_show(&offline, id, on_message, ctl->wants_body ? on_bytes : NULL, s);
	ctl_offline_close(&offline);
	if (r == -ENOENT)
		return ctl_fail("%s is not in the queue; journalctl -u relayd RELAYD_QUEUE_ID=%s "
		                "tells what became of it",
		    ctl->arguments[0], ctl->arguments[0]);
	return r < 0 ? ctl_fail("%s: %s", ctl->arguments[0], strerror(-r)) : CTL_OK;
}

int
ctl_show(const struct ctl *ctl)
{
	struct showing s = { .ctl = ctl };
	json_t *request, *last = NULL;
	uint64_t id;
	int r, code;

	if (!queue_id_parse(span_of(ctl->arguments[0]), &id)) {
		ctl_fail("\"%s\" is not a queue ID: relayctl queue lists them", ctl->arguments[0]);
		return CTL_USAGE;
	}
	request = ctl_request(ctl);
	json_object_set_new(request, "id", json_string(ctl->arguments[0]));
	if (ctl->wants_body)
		json_object_set_new(request, "body", json_true());
	r = ctl_ask(ctl, request, on_line, &s, &last);
	if (r == 0)
		code = ctl_end(last);
	else if (ctl_is_down(r) && !s.has_message)
		code = show_spool(ctl, r, id, &s);
	else
		code = ctl_fail_ask(ctl, r);
	json_decref(last);
	return code;
}
