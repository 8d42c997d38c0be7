/* supervisor.h - relayd's own loop: starts the two workers, watches and restarts them, reloads, stops.
 *
 *   worker dies            it is started again: at once the first time, then after 0.2 s, doubling, to
 *                          30 s; a run of a minute makes it count as the first time again
 *   worker silent 60 s     killed, then as above
 *   SIGHUP                 new config checked and its listeners opened; new intake started; when it is
 *                          READY the old one drains and delivery is told to stop; when delivery has
 *                          ended the new one starts. A config that is no good, or with which intake does
 *                          not start, changes nothing
 *   SIGTERM, SIGINT        both workers drain; killed drain_ms later; a second signal: at once
 *
 * It reads no mail. What it takes from the workers is: READY, ALIVE, and the number of an upstream. */
#ifndef RELAYD_SUPERVISOR_SUPERVISOR_H
#define RELAYD_SUPERVISOR_SUPERVISOR_H

#include <stdbool.h>

#include "base/base.h"

struct supervisor_options {
	const char *config_path;
	const char *directory; /* of the running program; NULL: unknown */
	bool is_verbose;       /* log at debug, whatever the config says */
};

/* Runs until it is told to stop. Returns an exit code of sysexits; what was wrong is on stderr and,
 * once it is open, in the log. */
int supervisor_run(const struct supervisor_options *options) MUST_CHECK;

#endif
