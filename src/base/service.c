/* service.c - see service.h. */
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "base/service.h"

static void
find_groups(struct service *s)
{
	s->groups[0] = s->gid;
	s->n_groups = 1;
	if (s->is_caller) {
		int n = getgroups(SERVICE_GROUPS_MAX - 1, s->groups + 1);

		s->n_groups += n > 0 ? n : 0;
		return;
	}
	s->n_groups = SERVICE_GROUPS_MAX;
	if (getgrouplist(s->name, s->gid, s->groups, &s->n_groups) < 0)
		s->n_groups = SERVICE_GROUPS_MAX;
}

/* The user of the file also where we are not root and could not become that one: somebody who looks
 * after a service has an account of his own, and what he may read says nothing about the service. */
void
service_find(const struct config *config, struct service *out)
{
	const struct passwd *pw;

	*out = (struct service){ .uid = geteuid(), .gid = getegid() };
	pw = config->user[0] != '\0' ? getpwnam(config->user) : getpwuid(out->uid);
	if (pw == NULL && config->user[0] != '\0')
		return;
	out->is_known = true;
	out->is_caller = pw == NULL || pw->pw_uid == out->uid;
	if (!out->is_caller) {
		out->uid = pw->pw_uid;
		out->gid = pw->pw_gid;
	}
	if (pw != NULL)
		snprintf(out->name, sizeof(out->name), "%s", pw->pw_name);
	else
		snprintf(out->name, sizeof(out->name), "%u", (unsigned)out->uid);
	find_groups(out);
}

bool
service_has_group(const struct service *service, gid_t gid)
{
	for (int i = 0; i < service->n_groups; i++)
		if (service->groups[i] == gid)
			return true;
	return false;
}

bool
service_may(const struct service *service, const struct stat *st, unsigned want)
{
	unsigned bits = st->st_mode & 7;

	if (!service->is_known || service->uid == 0)
		return true;
	if (st->st_uid == service->uid)
		bits = st->st_mode >> 6 & 7;
	else if (service_has_group(service, st->st_gid))
		bits = st->st_mode >> 3 & 7;
	return (bits & want) == want;
}

char *
service_closed_directory(const struct service *service, const char *path)
{
	struct stat st;

	for (const char *p = strchr(path + 1, '/'); p != NULL; p = strchr(p + 1, '/')) {
		char *directory = xstrndup(path, (size_t)(p - path));

		if (stat(directory, &st) == 0 && !service_may(service, &st, 1))
			return directory;
		free(directory);
	}
	return NULL;
}
