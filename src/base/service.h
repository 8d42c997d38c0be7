/* service.h - whom relayd runs as, and what that one may do: so that a check sees things as the service
 * will see them, whoever makes it. */
#ifndef RELAYD_BASE_SERVICE_H
#define RELAYD_BASE_SERVICE_H

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/config.h"

#define SERVICE_GROUPS_MAX 64

struct service {
	bool is_known; /* false: the configuration names a user who is not there; may do anything */
	bool is_caller; /* it is us: what we cannot look at it cannot use */
	uid_t uid;
	gid_t gid;
	gid_t groups[SERVICE_GROUPS_MAX];
	int n_groups;
	char name[64]; /* for advice; the number of one without a name */
};

void service_find(const struct config *config, struct service *out);

bool service_has_group(const struct service *service, gid_t gid);

/* May the service do `want` (4 read, 2 write, 1 search) to it? By its mode alone. */
bool service_may(const struct service *service, const struct stat *st, unsigned want);

/* The first directory on the way to `path` that the service may not search; NULL: none. Gives it. */
char *service_closed_directory(const struct service *service, const char *path);

#endif
