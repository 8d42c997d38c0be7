/* privileges.c - see privileges.h. */
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "supervisor/privileges.h"

int
privileges_init(
    struct privileges *out, const struct config *config, config_problem_fn *problem, void *arg)
{
	const struct passwd *pw;
	char *text;

	*out = (struct privileges){ .uid = geteuid(), .gid = getegid() };
	if (out->uid != 0 || config->user[0] == '\0')
		return 0;
	pw = getpwnam(config->user);
	if (pw == NULL) {
		text = xasprintf(
		    "%s: user = \"%s\": there is no such user: make it (systemd-sysusers, or "
		    "useradd --system %s), name another, or say user = \"\" to stay root",
		    config->path, config->user, config->user);
		problem(arg, text);
		free(text);
		return -EINVAL;
	}
	*out = (struct privileges){ .uid = pw->pw_uid,
		.gid = pw->pw_gid,
		.name = xstrdup(pw->pw_name),
		.must_drop = pw->pw_uid != 0 };
	return 0;
}

void
privileges_fini(struct privileges *p)
{
	free(p->name);
	p->name = NULL;
}

/* Asks first: under a system call filter (relayd.service) capset() is forbidden, and there is
 * nothing left to drop. */
static int
drop_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct now[2] = { { 0 } }, none[2] = { { 0 } };

	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); /* before Linux 4.3: none */
	if (syscall(SYS_capget, &header, now) == 0 && memcmp(now, none, sizeof(now)) == 0)
		return 0;
	return syscall(SYS_capset, &header, none) < 0 ? -errno : 0;
}

int
privileges_drop(const struct privileges *p)
{
	if (p->must_drop) {
		if (initgroups(p->name, p->gid) < 0 || setresgid(p->gid, p->gid, p->gid) < 0 ||
		    setresuid(p->uid, p->uid, p->uid) < 0)
			return -errno;
		if (setresuid(0, 0, 0) == 0) /* that would be no drop at all */
			return -EPERM;
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return geteuid() != 0 ? drop_capabilities() : 0;
}
