/* sandbox.c - see sandbox.h. The only file that meets libseccomp; Landlock has no library in Debian
 * 12 and is three system calls. */
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef HAVE_LINUX_LANDLOCK_H
#include <linux/landlock.h>
#endif

#include "base/sandbox.h"

#define INTAKE (1u << SANDBOX_INTAKE)
#define DELIVERY (1u << SANDBOX_DELIVERY)
#define BOTH (INTAKE | DELIVERY)
#ifdef WITH_SANITIZERS
#define CHECKER BOTH /* what AddressSanitizer and its leak checker need */
#else
#define CHECKER 0u
#endif

/* Every system call that a worker may make; a name that this kernel or machine does not know is
 * skipped. Old and new variants stand together: which one the C library uses is its business. */
/* clang-format off */
static const struct rule {
	const char *name;
	unsigned profiles;
} rules[] = {
	/* the event loop and its clocks */
	{ "epoll_wait", BOTH }, { "epoll_pwait", BOTH }, { "epoll_pwait2", BOTH }, { "epoll_ctl", BOTH },
	{ "epoll_create", BOTH }, { "epoll_create1", BOTH }, { "eventfd2", BOTH }, { "timerfd_create", BOTH },
	{ "timerfd_settime", BOTH }, { "poll", BOTH }, { "ppoll", BOTH }, { "select", DELIVERY },
	{ "clock_gettime", BOTH }, { "clock_getres", BOTH }, { "clock_nanosleep", BOTH }, { "nanosleep", BOTH },
	{ "gettimeofday", BOTH }, { "time", BOTH },
	/* descriptors that are open already */
	{ "read", BOTH }, { "readv", BOTH }, { "pread64", BOTH }, { "preadv", BOTH }, { "preadv2", BOTH },
	{ "write", BOTH }, { "writev", BOTH }, { "pwrite64", BOTH }, { "pwritev", BOTH }, { "pwritev2", BOTH },
	{ "close", BOTH }, { "fcntl", BOTH }, { "dup", BOTH }, { "dup2", BOTH }, { "dup3", BOTH }, { "lseek", BOTH },
	{ "ioctl", BOTH }, { "pipe2", BOTH },
	/* sockets: intake makes none but the logger's and the one that asks who a client is */
	{ "accept", BOTH }, { "accept4", BOTH }, { "shutdown", BOTH }, { "recvfrom", BOTH }, { "recvmsg", BOTH },
	{ "sendto", BOTH }, { "sendmsg", BOTH }, { "sendmmsg", DELIVERY }, { "recvmmsg", DELIVERY },
	{ "getsockopt", BOTH }, { "setsockopt", BOTH }, { "getsockname", BOTH }, { "getpeername", BOTH },
	{ "socket", DELIVERY }, { "socketpair", DELIVERY }, { "connect", DELIVERY }, { "bind", DELIVERY },
	/* files below the directories that Landlock leaves */
	{ "open", BOTH }, { "openat", BOTH }, { "openat2", BOTH }, { "creat", BOTH }, { "getdents64", BOTH },
	{ "getdents", BOTH }, { "stat", BOTH }, { "lstat", BOTH }, { "fstat", BOTH }, { "newfstatat", BOTH },
	{ "statx", BOTH }, { "statfs", BOTH }, { "fstatfs", BOTH }, { "access", BOTH }, { "faccessat", BOTH },
	{ "faccessat2", BOTH }, { "readlink", BOTH }, { "readlinkat", BOTH }, { "getcwd", BOTH },
	{ "mkdir", BOTH }, { "mkdirat", BOTH }, { "unlink", BOTH }, { "unlinkat", BOTH }, { "rename", BOTH },
	{ "renameat", BOTH }, { "renameat2", BOTH }, { "link", BOTH }, { "linkat", BOTH },
	{ "fsync", BOTH }, { "fdatasync", BOTH }, { "sync_file_range", BOTH }, { "ftruncate", BOTH },
	{ "fallocate", BOTH }, { "fadvise64", BOTH }, { "flock", BOTH }, { "fchmod", BOTH }, { "copy_file_range", BOTH },
	/* memory */
	{ "mmap", BOTH }, { "munmap", BOTH }, { "mremap", BOTH }, { "mprotect", BOTH }, { "madvise", BOTH },
	{ "brk", BOTH }, { "mlock", BOTH }, { "munlock", BOTH }, { "mincore", CHECKER },
	/* threads, signals, the end */
	{ "futex", BOTH }, { "set_robust_list", BOTH }, { "rseq", BOTH }, { "set_tid_address", BOTH },
	{ "sched_yield", BOTH }, { "sched_getaffinity", BOTH }, { "sched_setaffinity", CHECKER }, { "getpriority", CHECKER },
	{ "membarrier", BOTH }, { "gettid", BOTH },
	{ "getpid", BOTH }, { "getppid", BOTH }, { "tgkill", BOTH }, { "rt_sigaction", BOTH }, { "rt_sigprocmask", BOTH },
	{ "rt_sigreturn", BOTH }, { "rt_sigtimedwait", BOTH }, { "sigaltstack", BOTH }, { "restart_syscall", BOTH },
	{ "exit", BOTH }, { "exit_group", BOTH }, { "getrandom", BOTH }, { "uname", BOTH }, { "sysinfo", BOTH },
	{ "getuid", BOTH }, { "geteuid", BOTH }, { "getgid", BOTH }, { "getegid", BOTH }, { "getrusage", BOTH },
	{ "prlimit64", BOTH }, { "getrlimit", BOTH }, { "prctl", BOTH }, { "arch_prctl", BOTH }, { "umask", BOTH },
	{ "clone", CHECKER }, { "clone3", BOTH }, { "fork", CHECKER }, { "wait4", CHECKER }, { "waitpid", CHECKER }, { "ptrace", CHECKER },
	{ "personality", CHECKER }, { "process_vm_readv", CHECKER },
};
/* clang-format on */

#ifndef WITH_SANITIZERS
/* A thread may be started, a process not: clone() with CLONE_THREAD only. */
static int
allow_threads(scmp_filter_ctx filter)
{
	const unsigned clone_thread = 0x00010000;

	return seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
	    SCMP_A0(SCMP_CMP_MASKED_EQ, clone_thread, clone_thread));
}

/* clone3() hides its flags behind a pointer; with ENOSYS the C library falls back to clone(). In a
 * filter of its own, for that is nothing to leave an audit line about. */
static int
hide_clone3(void)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	int r;

	if (filter == NULL)
		return -ENOMEM;
	r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (r >= 0)
		r = seccomp_load(filter);
	seccomp_release(filter);
	return r;
}
#endif

/* The logger makes its AF_UNIX datagram socket when it writes its first line and names the journal
 * in sendmsg(). Intake has no connect(): not even its accepted sockets can be turned around. */
static int
allow_journal(scmp_filter_ctx filter)
{
	return seccomp_rule_add(
	    filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, 1 /* AF_UNIX */, 0));
}

/* No page may be made executable, in no process of ours. */
static int
allow_rules(scmp_filter_ctx filter, enum sandbox_profile profile)
{
	int r = 0;

	for (size_t i = 0; r >= 0 && i < ARRAY_LEN(rules); i++) {
		int number;

		if ((rules[i].profiles & 1u << profile) == 0)
			continue;
		number = seccomp_syscall_resolve_name(rules[i].name);
		if (number == __NR_SCMP_ERROR)
			continue;
#ifndef WITH_SANITIZERS
		if (number == SCMP_SYS(mmap) || number == SCMP_SYS(mprotect)) {
			r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 1,
			    SCMP_A2(SCMP_CMP_MASKED_EQ, 4 /* PROT_EXEC */, 0));
			continue;
		}
#endif
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0);
		if (r == -EDOM) /* not on this machine */
			r = 0;
	}
	return r;
}

static int
enter_seccomp(enum sandbox_profile profile, bool kill)
{
	scmp_filter_ctx filter;
	int r;

	filter = seccomp_init(kill ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(EPERM));
	if (filter == NULL)
		return -ENOMEM;
	/* the audit line for a call that was refused */
	r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_LOG, 1);
	if (r == -EOPNOTSUPP)
		r = 0;
	if (r >= 0)
		r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* binary tree */
	if (r >= 0)
		r = allow_rules(filter, profile);
#ifndef WITH_SANITIZERS
	if (r >= 0)
		r = allow_threads(filter);
	if (r >= 0)
		r = hide_clone3();
#endif
	if (r >= 0 && profile == SANDBOX_INTAKE)
		r = allow_journal(filter);
	if (r >= 0)
		r = seccomp_load(filter);
	seccomp_release(filter);
	return r;
}

#ifdef HAVE_LINUX_LANDLOCK_H

#define FILE_READ (LANDLOCK_ACCESS_FS_READ_FILE)
#define READ (FILE_READ | LANDLOCK_ACCESS_FS_READ_DIR)
#define FILE_WRITE (LANDLOCK_ACCESS_FS_WRITE_FILE)
#define WRITE                                                                                      \
	(FILE_WRITE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |             \
	    LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |                            \
	    LANDLOCK_ACCESS_FS_MAKE_SOCK)
#define ABI_1                                                                                      \
	(READ | WRITE | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR |                \
	    LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |                         \
	    LANDLOCK_ACCESS_FS_MAKE_SYM)
/* rights of newer kernels, by number: Debian 12's header ends at ABI 2 */
#define ABI_2_REFER (1ULL << 13)
#define ABI_3_TRUNCATE (1ULL << 14)

static int
allow_path(int ruleset, const struct sandbox_path *path, uint64_t handled)
{
	struct landlock_path_beneath_attr rule = { 0 };
	struct stat st;
	int fd, r;

	fd = open(path->path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT || errno == EACCES || errno == ENOTDIR ? 0 : -errno;
	if (fstat(fd, &st) < 0) {
		r = -errno;
		goto out;
	}
	rule.parent_fd = fd;
	if (S_ISDIR(st.st_mode))
		rule.allowed_access =
		    READ | (path->may_write ? WRITE | ABI_2_REFER | ABI_3_TRUNCATE : 0);
	else
		rule.allowed_access =
		    FILE_READ | (path->may_write ? FILE_WRITE | ABI_3_TRUNCATE : 0);
	rule.allowed_access &= handled;
	r = (int)syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
	r = r < 0 ? -errno : 0;
out:
	close(fd);
	return r;
}

static int
enter_landlock(const struct sandbox_options *options)
{
	struct landlock_ruleset_attr attr = { .handled_access_fs = ABI_1 };
	long abi;
	int ruleset, r = 0;

	abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	if (abi < 1)
		return abi < 0 ? -errno : -ENOSYS;
	if (abi >= 2)
		attr.handled_access_fs |= ABI_2_REFER;
	if (abi >= 3)
		attr.handled_access_fs |= ABI_3_TRUNCATE;
	ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
	if (ruleset < 0)
		return -errno;
	for (size_t i = 0; r == 0 && i < options->n_paths; i++)
		if (options->paths[i].path != NULL)
			r = allow_path(ruleset, &options->paths[i], attr.handled_access_fs);
#ifdef WITH_SANITIZERS /* they read their own maps and symbols */
	if (r == 0)
		r = allow_path(
		    ruleset, &(struct sandbox_path){ "/", false }, attr.handled_access_fs);
#endif
	if (r == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		r = -errno;
	close(ruleset);
	return r;
}

#else

static int
enter_landlock(const struct sandbox_options *options)
{
	(void)options;
	return -ENOSYS;
}

#endif

bool
sandbox_enter(const struct sandbox_options *options, char why[SANDBOX_WHY_MAX])
{
	const char *mode = getenv("RELAYD_SANDBOX");
	int landlock, filter;

	if (mode != NULL && strcmp(mode, "off") == 0) {
		snprintf(why, SANDBOX_WHY_MAX, "RELAYD_SANDBOX=off in the environment");
		return false;
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
		snprintf(why, SANDBOX_WHY_MAX, "no_new_privs: %s", strerror(errno));
		return false;
	}
	landlock = enter_landlock(options);
	filter = enter_seccomp(options->profile, mode != NULL && strcmp(mode, "kill") == 0);
	if (landlock == 0 && filter == 0)
		return true;
	snprintf(why, SANDBOX_WHY_MAX, "%s%s%s%s", landlock < 0 ? "Landlock: " : "",
	    landlock < 0 ? strerror(-landlock) : "", filter < 0 ? "; seccomp: " : "",
	    filter < 0 ? strerror(-filter) : "");
	return false;
}
