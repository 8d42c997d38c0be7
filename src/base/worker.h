/* worker.h - what the supervisor and its two workers agree on: descriptors at fixed places, the
 * messages of their channel, exit codes; and how a worker starts, below the supervisor or alone.
 *
 *   relayd-intake --worker     descriptors as below, started by relayd
 *   relayd-intake -c FILE      alone, for tests and debugging: reads FILE, makes its own page,
 *                              wake-up and listeners; -c works the same for relayd-delivery
 *
 * The channel is a SOCK_SEQPACKET pair; each message is one of the two structs below, whole. A
 * message of another size or kind is ignored (and counted by nobody: both ends are one package).
 * EOF on the channel = the other end died. */
#ifndef RELAYD_BASE_WORKER_H
#define RELAYD_BASE_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/config.h"

/* What a worker finds open beside 0, 1 and 2; nothing else is. The supervisor gives them without
 * close-on-exec; worker_start() sets it. */
enum worker_fd {
	WORKER_FD_CONFIG = 3,         /* sealed memfd: config_print()'s canonical text */
	WORKER_FD_SHARED = 4,         /* memfd: struct shared_page (spool/shared_page.h) */
	WORKER_FD_WAKE = 5,           /* eventfd: intake -> delivery "look at the page" */
	WORKER_FD_SUPERVISOR = 6,     /* this end of the channel */
	WORKER_FD_SPOOL = 7,          /* the spool directory, whatever stands at its name by now */
	WORKER_FD_FIRST_LISTENER = 8, /* intake: one for each config->listen[], in order;
	                               * delivery: the control listener. Behind them all stands the
	                               * spool's lock: held open, so that no other relayd takes the
	                               * spool while a worker of a killed one still writes it */
};

enum worker_message_kind {
	WORKER_READY = 1,       /* worker -> supervisor: serves; once */
	WORKER_ALIVE,           /* worker -> supervisor: every second, from the event loop */
	WORKER_PASSWORD_WANTED, /* delivery -> supervisor: run upstream's password-command again */
	WORKER_PASSWORD,        /* supervisor -> delivery: a struct worker_password */
};

#define WORKER_ALIVE_EVERY_MS 1000
#define WORKER_PASSWORD_MAX 8192

struct worker_report {
	uint32_t kind;     /* READY, ALIVE or PASSWORD_WANTED */
	uint32_t upstream; /* index into config->upstreams; else 0 */
};

struct worker_password {
	uint32_t kind;     /* WORKER_PASSWORD */
	uint32_t upstream; /* index into config->upstreams */
	int32_t status;    /* 0: bytes hold it; > 0: the command's exit code; < 0: -errno
	                    * (-ETIMEDOUT: killed at its deadline, -E2BIG: more than fits) */
	uint32_t len_bytes;
	char bytes[WORKER_PASSWORD_MAX]; /* the command's stdout without the last newline */
};

/* Exit codes of workers (sysexits): 0 after a drain; these mean that a restart will not help soon,
 * the supervisor waits longer after them. */
enum worker_exit {
	WORKER_EXIT_USAGE = 64,
	WORKER_EXIT_UNAVAILABLE = 69, /* a listener cannot be bound */
	WORKER_EXIT_STARVED = 71,     /* no memory or descriptors */
	WORKER_EXIT_IO = 74,          /* the spool cannot be used */
	WORKER_EXIT_CONFIG = 78,      /* the config does not load */
};

struct worker {
	const char *program; /* "relayd-intake" */
	struct config *config;
	bool is_alone; /* started with -c: the descriptors below are -1 */
	int shared_fd; /* worker owns all of them until worker_end() */
	int wake_fd;
	int supervisor_fd;
	int spool_fd;
	int first_listener_fd;
};

/* First thing in a worker's main(): opens 0, 1, 2 where they are closed, resets signals (SIGPIPE,
 * SIGXFSZ, SIGHUP ignored), umask 077, not dumpable (no core holds mail or secrets), reads the
 * arguments, loads the config, opens the log. *done: main() has to return the result, an exit code
 * (what was wrong is said on stderr). Else *out is given, ended by worker_end(). */
int worker_start(
    int argc, char **argv, const char *program, struct worker *out, bool *done) MUST_CHECK;
void worker_end(struct worker *worker);

#endif
