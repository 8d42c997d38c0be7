/* acquire.c - see acquire.h. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "supervisor/acquire.h"

void
acquire_confine(void)
{
	struct rlimit none = { 0, 0 }, files;

	(void)close_range(
	    3, ~0u, CLOSE_RANGE_CLOEXEC); /* what our parent left open; not systemd's */
	umask(077);
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGXFSZ, SIG_IGN);
	(void)setrlimit(RLIMIT_CORE, &none);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max < 65536 ? files.rlim_max : 65536;
		(void)setrlimit(RLIMIT_NOFILE, &files); /* for intake's connections */
	}
}

static void
hide(void)
{
#ifndef WITH_SANITIZERS /* their leak checker looks at its own process */
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
}

int
acquire_exit_code(int r)
{
	switch (-r) {
	case 0:
		return EX_OK;
	case EADDRINUSE:
	case EADDRNOTAVAIL:
	case EBUSY:
		return EX_UNAVAILABLE;
	case EACCES:
	case EPERM:
		return EX_NOPERM;
	case EINVAL:
		return EX_CONFIG;
	case EIO:
	case EROFS:
	case ENOSPC:
	case EDQUOT:
		return EX_IOERR;
	default:
		return EX_OSERR;
	}
}

static void
on_start_problem(void *arg, const char *text)
{
	(void)arg;
	log_error("daemon.failed", KV_WHY(text));
}

int
acquire(struct config *config, struct holdings *held, struct listeners **listeners)
{
	int r = privileges_init(&held->privileges, config, on_start_problem, NULL);

	if (r == 0)
		r = spool_home_open(config, &held->privileges, on_start_problem, NULL, &held->home);
	if (r < 0)
		return r;
	held->passed = listeners_passed(on_start_problem, NULL);
	r = listeners_open(
	    config, &held->privileges, held->passed, NULL, on_start_problem, NULL, listeners);
	if (r < 0)
		return r;
	r = privileges_drop(&held->privileges);
	if (r < 0)
		log_error("daemon.failed", KV_STR("user", held->privileges.name),
		    KV_WHY("cannot give up root's rights"), KV_STR("error", strerror(-r)));
	else
		r = spool_home_prepare(&held->home, config, on_start_problem, NULL);
	if (r < 0)
		listeners_close(*listeners, NULL);
	else
		hide();
	return r;
}

void
acquire_release(struct holdings *held)
{
	listeners_close(held->passed, NULL);
	spool_home_close(&held->home);
	privileges_fini(&held->privileges);
}
