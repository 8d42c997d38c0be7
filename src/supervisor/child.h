/* child.h - one worker process, from its start to its end: its descriptors (base/worker.h), its
 * channel, its signs of life. When to start and stop one is decided in supervisor.c. */
#ifndef RELAYD_SUPERVISOR_CHILD_H
#define RELAYD_SUPERVISOR_CHILD_H

#include <event2/event.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/base.h"
#include "supervisor/generation.h"
#include "supervisor/password.h"

enum child_role { CHILD_INTAKE, CHILD_DELIVERY, CHILD_ROLES };

struct child {
	struct child *next;
	enum child_role role;
	pid_t pid;
	struct generation *generation;
	int channel_fd;
	struct event *channel_event;
	struct password_runner *passwords; /* delivery only; NULL for intake */
	uint64_t started_ms, alive_ms;     /* monotonic: child_now_ms() */
	uint64_t deadline_ms;              /* stopping: SIGKILL then; 0: not stopping */
	uint64_t killed_ms;                /* when, if is_killed */
	bool is_ready;
	bool is_killed; /* by us, because it was silent or late */
	bool was_told;  /* that it does not die of it */

	void (*on_ready)(void *arg, struct child *child); /* once */
	void *arg;
};

struct child_start {
	enum child_role role;
	const char *directory; /* where the programs are looked for first; NULL: only in libexec */
	struct generation *generation;
	int shared_fd, wake_fd;
	int spool_fd;
	int lock_fd; /* the spool's: it lasts as long as any worker */
	struct event_base *base;
	void (*on_ready)(void *arg, struct child *child);
	void *arg;
};

const char *child_program(enum child_role role);

/* Starts a worker. Gives *out, ended by child_free() after the process was reaped. -errno: no
 * process was made. That its program is missing shows as exit code 127. */
int child_start(const struct child_start *start, struct child **out) MUST_CHECK;

/* Asks it to drain; kills it when drain_ms are over (watch.h). A second call can only
 * shorten the time. */
void child_stop(struct child *child, uint64_t drain_ms);
void child_kill(struct child *child);
/* Tells how it ended: as it was told to, or not. */
void child_log_end(const struct child *child, int wait_status);
void child_free(struct child *child);

/* The clock of the signs of life: it does not count the sleep of a suspended machine. */
uint64_t child_now_ms(void);

#endif
