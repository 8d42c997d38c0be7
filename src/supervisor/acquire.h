/* acquire.h - what relayd takes hold of before it starts a worker: the user it becomes, the spool's
 * lock, the sockets. Everything that may need root happens here, in the order in which it may fail
 * with the clearest words; afterwards nothing of ours is root. */
#ifndef RELAYD_SUPERVISOR_ACQUIRE_H
#define RELAYD_SUPERVISOR_ACQUIRE_H

#include "base/base.h"
#include "base/config.h"
#include "supervisor/listeners.h"
#include "supervisor/privileges.h"
#include "supervisor/spool_home.h"

struct holdings {
	struct privileges privileges;
	struct spool_home home;
	struct listeners *passed; /* what systemd gave */
};
#define HOLDINGS_NONE                                                                              \
	{                                                                                          \
		.home = {.dir_fd = -1, .lock_fd = -1 }                                             \
	}

/* First thing: no core may hold a secret, no new file is for others, nothing that our parent left open
 * goes to a worker. */
void acquire_confine(void);

/* Fills *held (acquire_release() it also after a failure) and gives the listeners that config wants.
 * -errno: why was told to the log. Nobody may look into us afterwards. */
int acquire(struct config *config, struct holdings *held, struct listeners **listeners) MUST_CHECK;
void acquire_release(struct holdings *held);

/* What -errno is as an exit code of sysexits. */
int acquire_exit_code(int r);

#endif
