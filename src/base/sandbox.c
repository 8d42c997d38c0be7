/* sandbox.c - see sandbox.h. The only file that meets libseccomp; Landlock has no library in Debian
 * 12 and is three system calls. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
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

/* Every system call that a worker may make whatever its arguments; a name that this kernel or machine
 * does not know is skipped. Old and new variants stand together: which one the C library uses is its
 * business. */
/* clang-format off */
static const struct rule {
	const char *name;
	unsigned profiles;
} rules[] = {
	/* the event loop and its clocks */
	{ "epoll_wait", BOTH }, { "epoll_pwait", BOTH }, { "epoll_pwait2", BOTH }, { "epoll_ctl", BOTH },
	{ "epoll_create", BOTH }, { "epoll_create1", BOTH }, { "eventfd2", BOTH }, { "timerfd_create", BOTH },
	{ "timerfd_settime", BOTH }, { "poll", BOTH }, { "ppoll", BOTH },
	{ "clock_gettime", BOTH }, { "clock_getres", BOTH }, { "clock_nanosleep", BOTH }, { "nanosleep", BOTH },
	{ "gettimeofday", BOTH }, { "time", BOTH },
	/* descriptors that are open already */
	{ "read", BOTH }, { "readv", BOTH }, { "pread64", BOTH }, { "preadv", BOTH },
	{ "write", BOTH }, { "writev", BOTH }, { "pwrite64", BOTH }, { "pwritev", BOTH },
	{ "close", BOTH }, { "lseek", BOTH }, { "pipe2", BOTH }, { "dup", CHECKER }, { "dup2", CHECKER },
	/* sockets: intake makes none, and neither of them binds or listens */
	{ "accept", BOTH }, { "accept4", BOTH }, { "recvfrom", BOTH }, { "recvmsg", BOTH },
	{ "getsockname", BOTH }, { "getpeername", BOTH }, { "connect", DELIVERY },
	/* files below the directories that Landlock leaves */
	{ "open", BOTH }, { "openat", BOTH }, { "openat2", BOTH }, { "getdents64", BOTH },
	{ "stat", BOTH }, { "lstat", BOTH }, { "fstat", BOTH }, { "newfstatat", BOTH },
	{ "statx", BOTH }, { "statfs", BOTH }, { "fstatfs", BOTH }, { "access", BOTH }, { "faccessat", BOTH },
	{ "faccessat2", BOTH }, { "readlink", BOTH }, { "readlinkat", BOTH }, { "getcwd", CHECKER }, { "getdents", CHECKER },
	{ "mkdir", BOTH }, { "mkdirat", BOTH }, { "unlink", BOTH }, { "unlinkat", BOTH }, { "rename", BOTH },
	{ "renameat", BOTH }, { "renameat2", BOTH }, { "linkat", BOTH },
	{ "fsync", BOTH }, { "fdatasync", BOTH }, { "ftruncate", BOTH }, { "fallocate", BOTH }, { "fadvise64", BOTH },
	/* memory */
	{ "munmap", BOTH }, { "mremap", BOTH }, { "madvise", BOTH }, { "brk", BOTH }, { "mlock", DELIVERY },
	{ "munlock", DELIVERY }, { "mmap", CHECKER }, { "mprotect", CHECKER }, { "mincore", CHECKER },
	/* threads, signals, the end */
	{ "futex", BOTH }, { "set_robust_list", BOTH }, { "rseq", BOTH }, { "set_tid_address", BOTH },
	{ "sched_yield", BOTH }, { "sched_getaffinity", BOTH }, { "sched_setaffinity", CHECKER }, { "getpriority", CHECKER },
	{ "membarrier", BOTH }, { "gettid", BOTH }, { "getpid", BOTH }, { "getppid", BOTH },
	{ "rt_sigaction", BOTH }, { "rt_sigprocmask", BOTH }, { "rt_sigreturn", BOTH }, { "sigaltstack", BOTH },
	{ "restart_syscall", BOTH }, { "exit", BOTH }, { "exit_group", BOTH }, { "getrandom", BOTH },
	{ "uname", BOTH }, { "sysinfo", BOTH }, { "getrlimit", BOTH }, { "getrusage", BOTH },
	{ "getuid", BOTH }, { "geteuid", BOTH }, { "getgid", BOTH }, { "getegid", BOTH },
	{ "clone3", BOTH }, /* hidden by a filter of its own, see there */
	{ "clone", CHECKER }, { "fork", CHECKER }, { "wait4", CHECKER }, { "waitpid", CHECKER },
	{ "ptrace", CHECKER }, { "process_vm_readv", CHECKER }, { "personality", CHECKER }, { "prctl", CHECKER },
	{ "arch_prctl", CHECKER }, { "prlimit64", CHECKER }, { "tgkill", CHECKER },
};

/* What stands behind a number that only newer headers know. */
#define THREAD 0x00010000u       /* CLONE_THREAD */
#define NAMESPACES 0x7e020000u   /* CLONE_NEW*, all of them */
#define FAST_OPEN 0x20000000u    /* MSG_FASTOPEN: send() that connects */
#define TYPE_OF_SOCKET 0xfu      /* without SOCK_CLOEXEC and SOCK_NONBLOCK */
#define PIDFD_INFO 0xc040ff0bu   /* intake/peer.c: the cgroup of a unix client */
#define OWN_PID (~(uint64_t)0)   /* put in when the filter is made */

/* Comparisons with the n-th argument. The kernel looks at the low half of an int only, so do we. */
#define IS(n, value) { (n), SCMP_CMP_MASKED_EQ, 0xffffffffu, (value) }
#define LACKS(n, bits) { (n), SCMP_CMP_MASKED_EQ, (bits), 0 }
#define HAS_OF(n, bits, value) { (n), SCMP_CMP_MASKED_EQ, (bits), (value) }
#define IS_NULL(n) { (n), SCMP_CMP_EQ, 0, 0 }

/* System calls that may be made with these arguments only; rows of one name are alternatives. */
static const struct limited {
	const char *name;
	unsigned profiles;
	unsigned n;
	struct scmp_arg_cmp args[3];
} limited[] = {
	/* no page becomes executable */
	{ "mmap", BOTH, 1, { LACKS(2, 4 /* PROT_EXEC */) } },
	{ "mprotect", BOTH, 1, { LACKS(2, 4) } },
	/* a thread may be started, a process or a namespace not */
	{ "clone", BOTH, 1, { HAS_OF(0, THREAD | NAMESPACES, THREAD) } },
	/* upstreams and name servers; protocol 0: no SCTP, no raw sockets */
	{ "socket", DELIVERY, 3, { IS(0, AF_INET), HAS_OF(1, TYPE_OF_SOCKET, SOCK_STREAM), IS(2, 0) } },
	{ "socket", DELIVERY, 3, { IS(0, AF_INET6), HAS_OF(1, TYPE_OF_SOCKET, SOCK_STREAM), IS(2, 0) } },
	{ "socket", DELIVERY, 3, { IS(0, AF_INET), HAS_OF(1, TYPE_OF_SOCKET, SOCK_DGRAM), IS(2, 0) } },
	{ "socket", DELIVERY, 3, { IS(0, AF_INET6), HAS_OF(1, TYPE_OF_SOCKET, SOCK_DGRAM), IS(2, 0) } },
	/* Half of a connection only: the listeners are shared with relayd and with whoever serves next,
	 * and one that is shut down becomes a socket that MSG_FASTOPEN connects, without connect(). */
	{ "shutdown", BOTH, 1, { IS(1, SHUT_WR) } },
	/* with an address: to the journal, to name servers */
	{ "sendto", BOTH, 1, { LACKS(3, FAST_OPEN) } },
	{ "sendmsg", BOTH, 1, { LACKS(2, FAST_OPEN) } },
	{ "setsockopt", DELIVERY, 2, { IS(1, IPPROTO_TCP), IS(2, TCP_NODELAY) } },
	{ "setsockopt", DELIVERY, 2, { IS(1, SOL_SOCKET), IS(2, SO_KEEPALIVE) } },
	{ "getsockopt", BOTH, 1, { IS(1, SOL_SOCKET) } },
	/* not F_SETOWN and F_SETSIG: they send signals to others */
	{ "fcntl", BOTH, 1, { IS(1, F_GETFD) } },
	{ "fcntl", BOTH, 1, { IS(1, F_SETFD) } },
	{ "fcntl", BOTH, 1, { IS(1, F_GETFL) } },
	{ "fcntl", BOTH, 1, { IS(1, F_SETFL) } },
	{ "fcntl", BOTH, 1, { IS(1, F_DUPFD_CLOEXEC) } },
	{ "fcntl", BOTH, 1, { IS(1, F_OFD_SETLK) } },
	{ "fcntl", BOTH, 1, { IS(1, F_OFD_GETLK) } },
	/* how much can be read; is it a terminal */
	{ "ioctl", BOTH, 1, { IS(1, FIONREAD) } },
	{ "ioctl", BOTH, 1, { IS(1, TCGETS) } },
	{ "ioctl", INTAKE, 1, { IS(1, PIDFD_INFO) } },
	/* abort(); limits are read, ours, and not changed */
	{ "tgkill", BOTH, 1, { IS(0, OWN_PID) } },
	{ "prlimit64", BOTH, 2, { IS(0, 0), IS_NULL(2) } },
};
/* clang-format on */

/* The kernel's own errors: else all of them are ECANCELED, a want of memory too. */
static int
tell_all(scmp_filter_ctx filter)
{
	return seccomp_attr_set(filter, SCMP_FLTATR_API_SYSRAWRC, 1);
}

#ifndef WITH_SANITIZERS
/* clone3() hides its flags behind a pointer; with ENOSYS the C library falls back to clone(). In a
 * filter of its own, for that is nothing to leave an audit line about. */
static int
hide_clone3(void)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	int r;

	if (filter == NULL)
		return -ENOMEM;
	r = tell_all(filter);
	if (r >= 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (r >= 0)
		r = seccomp_load(filter);
	seccomp_release(filter);
	return r;
}
#endif

static int
allow_one(scmp_filter_ctx filter, const char *name, unsigned n, const struct scmp_arg_cmp *args)
{
	int r, number = seccomp_syscall_resolve_name(name);

	if (number == __NR_SCMP_ERROR)
		return 0;
	r = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, number, n, args);
	return r == -EDOM || r == -EEXIST ? 0 : r; /* not on this machine; allowed already */
}

static int
allow_limited(scmp_filter_ctx filter, const struct limited *row)
{
	struct scmp_arg_cmp args[ARRAY_LEN(row->args)];

	memcpy(args, row->args, sizeof(args));
	for (unsigned i = 0; i < row->n; i++)
		if (args[i].datum_b == OWN_PID)
			args[i].datum_b = (uint64_t)getpid();
	return allow_one(filter, row->name, row->n, args);
}

static int
allow_rules(scmp_filter_ctx filter, enum sandbox_profile profile)
{
	int r = 0;

	for (size_t i = 0; r >= 0 && i < ARRAY_LEN(rules); i++)
		if ((rules[i].profiles & 1u << profile) != 0)
			r = allow_one(filter, rules[i].name, 0, NULL);
	for (size_t i = 0; r >= 0 && i < ARRAY_LEN(limited); i++)
		if ((limited[i].profiles & 1u << profile) != 0)
			r = allow_limited(filter, &limited[i]);
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
		r = tell_all(filter);
	/* calls of a 32-bit program have other numbers: none of ours makes them, not even by mistake */
	if (r >= 0)
		r = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (r >= 0)
		r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* binary tree */
	if (r >= 0)
		r = allow_rules(filter, profile);
#ifndef WITH_SANITIZERS
	if (r >= 0)
		r = hide_clone3();
#endif
	if (r >= 0)
		r = seccomp_load(filter);
	seccomp_release(filter);
	return r;
}

#ifdef HAVE_LINUX_LANDLOCK_H

#define READ (LANDLOCK_ACCESS_FS_READ_FILE)
#define LIST (LANDLOCK_ACCESS_FS_READ_DIR)
#define WRITE                                                                                      \
	(LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE |                          \
	    LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG)
#define ABI_1                                                                                      \
	(READ | LIST | WRITE | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_REMOVE_DIR |        \
	    LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_SOCK |                          \
	    LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |                         \
	    LANDLOCK_ACCESS_FS_MAKE_SYM)
/* What newer kernels know, by number: Debian 12's header ends at ABI 2. */
#define ABI_2_REFER (1ULL << 13)
#define ABI_3_TRUNCATE (1ULL << 14)
#define ABI_4_BIND_TCP (1ULL << 0)
#define ABI_4_CONNECT_TCP (1ULL << 1)
#define ABI_5_IOCTL_DEV (1ULL << 15)
#define ABI_6_ABSTRACT_UNIX (1ULL << 0) /* nobody's but our own abstract sockets ... */
#define ABI_6_SIGNAL (1ULL << 1)        /* ... and processes are reached */
#define RULE_NET_PORT 2
#define ONLY_FILES                                                                                 \
	(READ | LANDLOCK_ACCESS_FS_WRITE_FILE | ABI_3_TRUNCATE) /* what makes sense for a file */

struct
    ruleset { /* struct landlock_ruleset_attr as of ABI 6; older kernels take it if the rest is 0 */
	uint64_t files, net, scoped;
};

struct net_port { /* struct landlock_net_port_attr */
	uint64_t allowed, port;
};

static const uint64_t rights[] = {
	[SANDBOX_READ] = READ,
	[SANDBOX_LIST] = READ | LIST,
	[SANDBOX_WRITE] = READ | LIST | WRITE | ABI_2_REFER | ABI_3_TRUNCATE,
};

static int
allow_open(int ruleset, int fd, enum sandbox_access access, uint64_t handled)
{
	struct landlock_path_beneath_attr rule = { .allowed_access = rights[access],
		.parent_fd = fd };
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	rule.allowed_access &= handled & (S_ISDIR(st.st_mode) ? ~0ULL : ONLY_FILES);
	return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0
	           ? -errno
	           : 0;
}

static int
allow_path(int ruleset, const struct sandbox_path *path, uint64_t handled)
{
	int r, fd = open(path->path, O_PATH | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT || errno == EACCES || errno == ENOTDIR ? 0 : -errno;
	r = allow_open(ruleset, fd, path->access, handled);
	close(fd);
	return r;
}

static int
allow_port(int ruleset, uint16_t port)
{
	struct net_port rule = { .allowed = ABI_4_CONNECT_TCP, .port = port };

	return syscall(SYS_landlock_add_rule, ruleset, RULE_NET_PORT, &rule, 0) < 0 ? -errno : 0;
}

static int
fill_ruleset(int ruleset, const struct ruleset *handled, const struct sandbox_options *options)
{
	int r = 0;

	if (options->writable_fd > 0)
		r = allow_open(ruleset, options->writable_fd, SANDBOX_WRITE, handled->files);
	for (size_t i = 0; r == 0 && i < options->n_paths; i++)
		if (options->paths[i].path != NULL)
			r = allow_path(ruleset, &options->paths[i], handled->files);
#ifdef WITH_SANITIZERS /* they read their own maps and symbols */
	if (r == 0)
		r = allow_path(
		    ruleset, &(struct sandbox_path){ "/", SANDBOX_LIST }, handled->files);
#endif
	for (size_t i = 0; r == 0 && handled->net != 0 && i < options->n_ports; i++)
		r = allow_port(ruleset, options->ports[i]);
	return r;
}

static int
enter_landlock(const struct sandbox_options *options)
{
	struct ruleset handled = { .files = ABI_1 };
	int ruleset, r;
	long abi;

	abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	if (abi < 1)
		return abi < 0 ? -errno : -ENOSYS;
	if (abi >= 2)
		handled.files |= ABI_2_REFER;
	if (abi >= 3)
		handled.files |= ABI_3_TRUNCATE;
	if (abi >= 4)
		handled.net = ABI_4_BIND_TCP | ABI_4_CONNECT_TCP;
	if (abi >= 5)
		handled.files |= ABI_5_IOCTL_DEV;
	if (abi >= 6)
		handled.scoped = ABI_6_ABSTRACT_UNIX | ABI_6_SIGNAL;
	ruleset = (int)syscall(SYS_landlock_create_ruleset, &handled, sizeof(handled), 0);
	if (ruleset < 0)
		return -errno;
	r = fill_ruleset(ruleset, &handled, options);
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

static bool
is_want(int r)
{
	return r == -ENOMEM || r == -EMFILE || r == -ENFILE;
}

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
	if (is_want(landlock) || is_want(filter)) { /* passes: no reason to go without */
		fputs("no memory or descriptors for the sandbox; exiting to be started again\n",
		    stderr);
		exit(71);
	}
	if (landlock == 0 && filter == 0)
		return true;
	snprintf(why, SANDBOX_WHY_MAX, "%s%s%s%s", landlock < 0 ? "Landlock: " : "",
	    landlock < 0 ? strerror(-landlock) : "", filter < 0 ? "; seccomp: " : "",
	    filter < 0 ? strerror(-filter) : "");
	return false;
}
