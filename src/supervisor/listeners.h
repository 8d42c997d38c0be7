/* listeners.h - the sockets that clients come to, and the control socket: taken from systemd, taken
 * over from the configuration before, or bound here. Sockets are matched by address; their names in
 * the unit file do not matter. A socket that lives on is the same kernel object, so that a reload or
 * a restart of a worker refuses no connection. */
#ifndef RELAYD_SUPERVISOR_LISTENERS_H
#define RELAYD_SUPERVISOR_LISTENERS_H

#include "base/base.h"
#include "base/config.h"
#include "supervisor/privileges.h"

#define LISTENERS_BACKLOG 4096 /* the kernel cuts it to net.core.somaxconn */

struct listener {
	int fd;
	bool is_passed; /* systemd's: its name in the file system is not ours to remove */
	struct sockaddr_storage sa;
	socklen_t sa_len;
	ino_t inode; /* of the name of a unix socket that we have bound; else 0 */
};

struct listeners {
	struct listener *items; /* for clients: one for each config->listen[], in order */
	size_t n;
	struct listener control;
};

/* The sockets that systemd passed in (maybe none), control.fd = -1. Call once. */
struct listeners *listeners_passed(config_problem_fn *problem, void *arg);

/* Opens what config wants. `passed` and `old` (NULL: none) are borrowed, their sockets duplicated.
 * An optional listener (the default ones are) that cannot be opened is taken out of config->listen,
 * with a warning, as long as one port is left. Tells every problem; -EADDRINUSE, -EACCES, ...: nothing was opened. */
int listeners_open(struct config *config, const struct privileges *p,
    const struct listeners *passed, const struct listeners *old, config_problem_fn *problem,
    void *arg, struct listeners **out) MUST_CHECK;

/* Whoever has come to a passed socket that neither `now` nor `next` (NULL: none) names gets a 421 and the
 * end: we cannot close it, systemd has it open, and it would be silent for ever. Never waits. */
void listeners_refuse(
    const struct listeners *passed, const struct listeners *now, const struct listeners *next);

/* Closes all, and removes the names of unix sockets that are ours and not in `successor` (NULL is
 * fine for both). */
void listeners_close(struct listeners *l, const struct listeners *successor);

#endif
