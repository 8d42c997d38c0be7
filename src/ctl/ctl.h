/* ctl.h - what the commands of relayctl share: what was asked on the command line, how a command ends,
 * how things are said. A command is a row in relayctl.c; each runs once and returns an exit code. */
#ifndef RELAYD_CTL_CTL_H
#define RELAYD_CTL_CTL_H

#include <jansson.h>
#include <stdbool.h>

#include "base/base.h"
#include "base/config.h"

enum ctl_exit { CTL_OK = 0, CTL_FAILED = 1, CTL_USAGE = 2 };

struct ctl {
	const char *command;
	const char *config_path; /* NULL: the default one */
	const char *socket_path; /* NULL: as the config says */
	struct config
	    *config; /* NULL: it does not load; only if neither -c nor its spool is needed */
	bool is_json;
	bool is_all, is_sure, is_verbose, wants_body;
	const char *sender, *recipient, *upstream, *state, *unit, *uid;
	char **arguments;
	int n_arguments;
};

/* "relayctl: ..." on stderr; returns CTL_FAILED. */
int ctl_fail(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* The same without the verdict: what a reader of the output has to know. */
void ctl_note(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* One object, one line. */
void ctl_print_json(const json_t *object);
/* Whole lines as they came, but for bytes that a terminal would obey: '?'. */
void ctl_print_lines(struct span text);

/* Strings from a peer never reach a terminal raw: these give text that is safe to print, in one of
 * a few buffers that are used in turn (good for one printf()). NULL and null are "". */
const char *ctl_text(const char *raw);
const char *ctl_get(const json_t *object, const char *key);
int64_t ctl_number(const json_t *object, const char *key);
/* "2 h 4 min", "in 5 min", "3 d ago", "12.3 MiB"; of a missing or null time: "-". */
const char *ctl_age(int64_t seconds);
const char *ctl_when(const json_t *object, const char *key);
const char *ctl_bytes(int64_t bytes);
/* "1 message", "2 messages": of a noun that takes an s. */
const char *ctl_count(int64_t n, const char *noun);

/* The request {"command": ctl->command, ...}; the caller adds fields and drops it. */
json_t *ctl_request(const struct ctl *ctl);

#endif
