/* ctl_change.c - retry, hold, release, bounce, remove: asked of the one who writes, delivery. Without
 * it nothing is changed. */
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
		fprintf(stderr, "Remove %s from the queue for good? Nobody is told. [y/N] ",
		    ctl_count(ctl->n_arguments, "message"));
	return fgets(answer, sizeof(answer), stdin) != NULL &&
	       (answer[0] == 'y' || answer[0] == 'Y');
}

/* What was told so far: of "all", which may be a million, people want the total. */
struct total {
	const struct ctl *ctl;
	int64_t changed, failed;
	char first[512]; /* of those that failed: which, and why */
};

static void
on_line(void *arg, const json_t *line)
{
	struct total *total = arg;
	const struct ctl *ctl = total->ctl;
	const char *id = ctl_get(line, "id"), *error = ctl_get(line, "error");
	bool is_silent = ctl->is_all && !ctl->is_verbose;

	if (error[0] == '\0')
		total->changed++;
	else if (total->failed++ == 0)
		snprintf(total->first, sizeof(total->first), "%s: %s", id, error);
	if (ctl->is_json)
		ctl_print_json(line);
	else if (error[0] != '\0' && !is_silent)
		ctl_fail("%s: %s", id, error);
	else if (!is_silent)
		printf("%s: %s\n", id, ctl_get(line, "result"));
}

static const char *
done_word(const char *command)
{
	static const struct {
		const char *command, *done;
	} words[] = { { "retry", "to be tried now" }, { "hold", "held" }, { "release", "released" },
		{ "bounce", "bounced" }, { "remove", "removed" } };

	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (strcmp(command, words[i].command) == 0)
			return words[i].done;
	return "changed";
}

/* Of a list of IDs each has had its line. */
static void
print_total(const struct total *total)
{
	const struct ctl *ctl = total->ctl;
	const char *done = done_word(ctl->command);

	if (!ctl->is_all || ctl->is_json)
		return;
	printf("%s %s\n", ctl_count(total->changed, "message"), done);
	if (total->failed > 0)
		ctl_fail("%s not %s%s; the first is %s", ctl_count(total->failed, "message"), done,
		    ctl->is_verbose ? "" : " (-v lists them)", total->first);
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
	struct total total = { .ctl = ctl };
	json_t *last = NULL;
	bool is_counted;
	int r, code;

	if (ctl->is_all == (ctl->n_arguments > 0)) {
		ctl_fail("%s wants queue IDs, or --all", ctl->command);
		return CTL_USAGE;
	}
	if (!are_ids(ctl))
		return CTL_USAGE;
	if (!is_sure(ctl))
		return ctl_fail("nothing was removed (--yes removes without asking)");
	r = ctl_ask(ctl, make_request(ctl), on_line, &total, &last);
	is_counted = r == 0 && json_is_integer(json_object_get(last, "count"));
	if (is_counted)
		total.changed = ctl_number(last, "count");
	if (is_counted || total.changed + total.failed > 0) /* also of an answer that broke off */
		print_total(&total);
	if (r < 0)
		return ctl_fail_ask(ctl, r);
	code = ctl->is_all && !ctl->is_json && total.failed > 0 ? CTL_FAILED : ctl_end(last);
	json_decref(last);
	return code;
}
