/* ctl_config.c - `relayctl config` (what is in force, secrets masked) and `relayctl metrics`. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/commands.h"
#include "ctl/ctl_socket.h"

struct text {
	const struct ctl *ctl;
	const char *key;
	bool was_given;
};

static void
on_line(void *arg, const json_t *line)
{
	struct text *t = arg;
	const char *text = json_string_value(json_object_get(line, t->key));

	if (text == NULL)
		return;
	t->was_given = true;
	if (t->ctl->is_json)
		ctl_print_json(line);
	else
		ctl_print_lines(span_of(text));
}

/* What the file would put in force. */
static int
print_file(const struct ctl *ctl)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out;
	json_t *line;

	if (ctl->config == NULL)
		return ctl_fail("relayd does not run, and there is no config that loads");
	ctl_note("relayd does not run; this is what %s would put in force", ctl->config->path);
	if (!ctl->is_json)
		return config_print(ctl->config, stdout, true) < 0 ? CTL_FAILED : CTL_OK;
	out = open_memstream(&text, &len);
	if (out == NULL || config_print(ctl->config, out, true) < 0 || fclose(out) != 0)
		return ctl_fail("out of memory");
	line = json_pack("{s:s}", "config", text);
	ctl_print_json(line);
	json_decref(line);
	free(text);
	return CTL_OK;
}

static int
ask(const struct ctl *ctl, struct text *t, bool *is_down)
{
	json_t *last = NULL;
	int code, r = ctl_ask(ctl, ctl_request(ctl), on_line, t, &last);

	*is_down = r < 0 && ctl_is_down(r) && !t->was_given;
	if (r < 0)
		return *is_down && strcmp(t->key, "config") == 0 ? CTL_FAILED
		                                                 : ctl_fail_ask(ctl, r);
	code = ctl_end(last);
	json_decref(last);
	return code;
}

int
ctl_config(const struct ctl *ctl)
{
	struct text t = { ctl, "config", false };
	bool is_down;
	int code = ask(ctl, &t, &is_down);

	return is_down ? print_file(ctl) : code;
}

int
ctl_metrics(const struct ctl *ctl)
{
	struct text t = { ctl, "metrics", false };
	bool is_down;

	return ask(ctl, &t, &is_down);
}
