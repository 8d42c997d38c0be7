/* ctl_change.c - retry, hold, release, bounce, remove: asked of the one who writes, delivery. Without
 * it nothing is changed. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/queue_id.h"
#include "ctl/commands.h"
#include "ctl/ctl_socket.h"

static bool
are_ids(const struct ctl *ctl)
{
	uint64_t id;

	for (int i = 0; i < ctl->n_arguments; i++)
		if (!queue_id_parse(span_of(ctl->arguments[i]), &id)) {
			ctl_fail("\"%s\" is not a queue ID: relayctl queue lists them",
			    ctl->arguments[i]);
			return false;
		}
	return true;
}

/* What cannot be undone is asked for; a script says --yes. */
static bool
is_sure(const struct ctl *ctl)
{
	char answer[16];

	if (strcmp(ctl->command, "remove") != 0 || ctl->is_sure)
		return true;
	if (ctl->is_all)
		fputs(
		    "Remove ALL messages from the queue for good? Nobody is told. [y/N] ", stderr);
	else
		fprintf(stderr,
		    "Remove %d message%s from the queue for good? Nobody is told. [y/N] ",
		    ctl->n_arguments, ctl->n_arguments == 1 ? "" : "s");
	return fgets(answer, sizeof(answer), stdin) != NULL &&
	       (answer[0] == 'y' || answer[0] == 'Y');
}

static void
on_line(void *arg, const json_t *line)
{
	const struct ctl *ctl = arg;
	const char *error = ctl_get(line, "error");

	if (ctl->is_json)
		ctl_print_json(line);
	else if (error[0] != '\0')
		ctl_fail("%s: %s", ctl_get(line, "id"), error);
	else
		printf("%s: %s\n", ctl_get(line, "id"), ctl_get(line, "result"));
}

static json_t *
make_request(const struct ctl *ctl)
{
	json_t *request = ctl_request(ctl), *ids;

	if (ctl->is_all) {
		json_object_set_new(request, "all", json_true());
		return request;
	}
	ids = json_array();
	for (int i = 0; i < ctl->n_arguments; i++)
		json_array_append_new(ids, json_string(ctl->arguments[i]));
	json_object_set_new(request, "id", ids);
	return request;
}

int
ctl_change(const struct ctl *ctl)
{
	json_t *last = NULL;
	int r, code;

	if (ctl->is_all == (ctl->n_arguments > 0)) {
		ctl_fail("%s wants queue IDs, or --all", ctl->command);
		return CTL_USAGE;
	}
	if (!are_ids(ctl))
		return CTL_USAGE;
	if (!is_sure(ctl))
		return ctl_fail("nothing was removed (--yes removes without asking)");
	r = ctl_ask(ctl, make_request(ctl), on_line, (void *)(uintptr_t)ctl, &last);
	if (r < 0)
		return ctl_fail_ask(ctl, r);
	code = ctl_end(last);
	if (code == CTL_OK && ctl->is_all && !ctl->is_json)
		printf("%" PRId64 " messages\n", ctl_number(last, "count"));
	json_decref(last);
	return code;
}
