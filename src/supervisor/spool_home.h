/* spool_home.h - the spool directory before anybody uses it: made if missing, checked for its owner,
 * its mode and what it lies on, and locked. What is in it belongs to spool/. */
#ifndef RELAYD_SUPERVISOR_SPOOL_HOME_H
#define RELAYD_SUPERVISOR_SPOOL_HOME_H

#include "base/base.h"
#include "base/config.h"
#include "supervisor/privileges.h"

struct spool_home {
	int dir_fd;
	int lock_fd; /* the lock is held as long as it is open */
};

/* Gives *out (ended by spool_home_close()). On failure tells why and what to do; -EBUSY: another
 * relayd holds the spool (its pid is told), else -errno. Works before privileges_drop(). Doubts
 * that do not forbid to start (tmpfs, overlay, NFS) go to the log. */
int spool_home_open(const struct config *config, const struct privileges *p,
    config_problem_fn *problem, void *arg, struct spool_home *out) MUST_CHECK;
/* Once privileges are dropped, before any worker runs: what must be there is made, what a crash left
 * half made goes away. -errno after telling. */
int spool_home_prepare(const struct spool_home *home, const struct config *config,
    config_problem_fn *problem, void *arg) MUST_CHECK;
void spool_home_close(struct spool_home *home);

#endif
