/* ctl_test.c - `relayctl test ADDRESS`: a message through the real path, followed step by step, with
 * the dialogue, and at the end what failed and what to change, in plain words. */
#include <stdio.h>
#include <string.h>

#include "ctl/commands.h"
#include "ctl/ctl_socket.h"

static void
on_line(void *arg, const json_t *line)
{
	const struct ctl *ctl = arg;
	const char *event = ctl_get(line, "event");

	if (ctl->is_json)
		ctl_print_json(line);
	else if (strcmp(event, "dialogue") == 0)
		printf("  %s %s\n", ctl_get(line, "direction"), ctl_get(line, "line"));
	else
		printf("%s\n", ctl_get(line, "text"));
	fflush(stdout);
}

static int
print_end(const struct ctl *ctl, const json_t *last)
{
	const char *error = ctl_get(last, "error"), *phase = ctl_get(last, "phase");
	const char *why = ctl_get(last, "why"), *fix = ctl_get(last, "fix");

	if (ctl->is_json) {
		ctl_print_json(last);
		return error[0] != '\0' ? CTL_FAILED : CTL_OK;
	}
	if (error[0] == '\0') {
		printf("OK: %s (%s)\n", ctl_get(last, "text"), ctl_get(last, "id"));
		return CTL_OK;
	}
	fflush(stdout);
	fprintf(stderr, "FAILED%s%s: %s\n", phase[0] != '\0' ? " at " : "", phase, error);
	if (strstr(error, why) == NULL)
		fprintf(stderr, "  why:    %s\n", why);
	if (fix[0] != '\0')
		fprintf(stderr, "  to do:  %s\n", fix);
	return CTL_FAILED;
}

int
ctl_test(const struct ctl *ctl)
{
	json_t *last = NULL, *request = ctl_request(ctl);
	int r, code;

	json_object_set_new(request, "recipient", json_string(ctl->arguments[0]));
	if (ctl->sender != NULL)
		json_object_set_new(request, "sender", json_string(ctl->sender));
	if (ctl->upstream != NULL)
		json_object_set_new(request, "upstream", json_string(ctl->upstream));
	r = ctl_ask(ctl, request, on_line, (void *)(uintptr_t)ctl, &last);
	if (r < 0)
		return ctl_fail_ask(ctl, r);
	code = print_end(ctl, last);
	json_decref(last);
	return code;
}
