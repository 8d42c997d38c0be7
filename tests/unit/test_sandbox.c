/* In the sandbox a worker reaches what was named and nothing else. Each test is a child: there is no
 * way back. A kernel without Landlock or seccomp makes the tests skip, and say so. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/sandbox.h"

#define LIMITED 77

static const uint16_t port = 25; /* the only one of other hosts in these tests */
static char directory[] = "/tmp/relayd-test-sandbox.XXXXXX";
static bool has_ports; /* the kernel's Landlock knows them */

static int
in_sandbox(enum sandbox_profile profile, const char *mode, int (*try)(void))
{
	const struct sandbox_path paths[] = { { directory, SANDBOX_WRITE },
		{ "/proc", SANDBOX_READ }, { "/does/not/exist", SANDBOX_READ },
		{ NULL, SANDBOX_READ } };
	const struct sandbox_options options = { .profile = profile,
		.paths = paths,
		.n_paths = ARRAY_LEN(paths),
		.ports = &port,
		.n_ports = 1 };
	char why[SANDBOX_WHY_MAX];
	int status;
	pid_t child;

	fflush(NULL);
	child = fork();
	if (child == 0) {
		setenv("RELAYD_SANDBOX", mode, 1);
		_exit(sandbox_enter(&options, why) ? try() : LIMITED);
	}
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == LIMITED) {
		print_message("the kernel has no full sandbox\n");
		skip();
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void *
thread(void *arg)
{
	return arg;
}

/* Each returns 0, or the number of what was not as it must be. */
static int
try_what_is_allowed(void)
{
	char name[64];
	pthread_t t;
	int fd;

	snprintf(name, sizeof(name), "%s/file", directory);
	fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, "x", 1) != 1 || fdatasync(fd) < 0 || close(fd) < 0)
		return 1;
	if (unlink(name) < 0)
		return 2;
	if (pthread_create(&t, NULL, thread, NULL) != 0 || pthread_join(t, NULL) != 0)
		return 3;
	return open("/proc/self/cgroup", O_RDONLY) < 0 ? 4 : 0;
}

#ifndef WITH_SANITIZERS /* they need more */
static int
try_what_is_not(void)
{
	if (open("/etc/passwd", O_RDONLY) >= 0 || errno != EACCES)
		return 1;
	if (open("/proc/self/newfile", O_WRONLY | O_CREAT, 0600) >= 0)
		return 2;
	if (open("/proc", O_RDONLY | O_DIRECTORY) >= 0 || errno != EACCES)
		return 3;
	if (socket(AF_UNIX, SOCK_DGRAM, 0) >= 0 || errno != EPERM)
		return 4;
	if (fork() >= 0 || errno != EPERM)
		return 5;
	if (mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
	    MAP_FAILED)
		return 6;
	if (fcntl(0, F_SETOWN, 1) >= 0 || errno != EPERM)
		return 7;
	if (kill(getpid(), 0) >= 0 || raise(0) != 0)
		return 8;
	return execl("/bin/true", "true", (char *)NULL) == 0 || errno != EPERM ? 9 : 0;
}

static int
connect_to(uint16_t to)
{
	struct sockaddr_in sa = { .sin_family = AF_INET,
		.sin_port = htons(to),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	return fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ? -errno : 0;
}

static int
try_sockets_of_delivery(void)
{
	struct sockaddr_in sa = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), r = connect_to(port);

	if (fd < 0 || (r != 0 && r != -ECONNREFUSED))
		return 1;
	if (has_ports && connect_to(port + 1) != -EACCES)
		return 2;
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) >= 0 || errno != EPERM)
		return 3;
	if (listen(fd, 1) >= 0 || errno != EPERM || shutdown(fd, SHUT_RDWR) >= 0 || errno != EPERM)
		return 4;
	if (sendto(fd, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&sa, sizeof(sa)) >= 0 ||
	    errno != EPERM)
		return 5;
	if (socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) >= 0 || errno != EPERM)
		return 6;
	return fork() >= 0 ? 7 : 0;
}

static void
intake_reaches_nothing_else(void **state)
{
	(void)state;
	assert_int_equal(in_sandbox(SANDBOX_INTAKE, "", try_what_is_not), 0);
}

static void
delivery_may_connect_but_not_execute(void **state)
{
	(void)state;
	assert_int_equal(in_sandbox(SANDBOX_DELIVERY, "", try_sockets_of_delivery), 0);
}

static void
a_violation_kills_in_kill_mode(void **state)
{
	(void)state;
	assert_int_equal(in_sandbox(SANDBOX_INTAKE, "kill", try_what_is_not), -SIGSYS);
}
#endif

static void
both_reach_what_was_named(void **state)
{
	(void)state;
	assert_int_equal(in_sandbox(SANDBOX_INTAKE, "kill", try_what_is_allowed), 0);
	assert_int_equal(in_sandbox(SANDBOX_DELIVERY, "kill", try_what_is_allowed), 0);
}

static int
set_up(void **state)
{
	(void)state;
	has_ports = syscall(SYS_landlock_create_ruleset, NULL, 0, 1) >= 4; /* the kernel's ABI */
	return mkdtemp(directory) != NULL ? 0 : -1;
}

static int
tear_down(void **state)
{
	(void)state;
	return rmdir(directory);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_reach_what_was_named),
#ifndef WITH_SANITIZERS
		cmocka_unit_test(intake_reaches_nothing_else),
		cmocka_unit_test(delivery_may_connect_but_not_execute),
		cmocka_unit_test(a_violation_kills_in_kill_mode),
#endif
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
