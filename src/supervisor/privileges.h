/* privileges.h - from root to the service's user, once and for good. */
#ifndef RELAYD_SUPERVISOR_PRIVILEGES_H
#define RELAYD_SUPERVISOR_PRIVILEGES_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/base.h"
#include "base/config.h"

struct privileges {
	uid_t uid; /* who relayd and its workers run as */
	gid_t gid;
	char *name;     /* NULL: we stay who we are */
	bool must_drop; /* we are root and shall not stay it */
};

/* Who config->user makes us. -EINVAL after telling that there is no such user. Gives *out, ended by
 * privileges_fini(). */
int privileges_init(struct privileges *out, const struct config *config, config_problem_fn *problem,
    void *arg) MUST_CHECK;
void privileges_fini(struct privileges *p);

/* Afterwards no process of ours is root or has a capability, and none can get one back (a container
 * started with user = "" as uid 0 stays uid 0). -errno: nothing may go on. */
int privileges_drop(const struct privileges *p) MUST_CHECK;

#endif
