/* worker.c - see worker.h. How both workers begin. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/loop.h"
#include "base/worker.h"

static void
tell_problem(void *arg, const char *text)
{
	(void)arg;
	fprintf(stderr, "%s%s\n", log_mark(LOG_ERROR), text);
}

/* A descriptor that we open must never become 0, 1 or 2: something printed would go into it. */
static void
fill_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

static void
reset_signals(void)
{
	static const int ignored[] = { SIGPIPE, SIGXFSZ, SIGHUP, SIGUSR1, SIGUSR2 };
	sigset_t none;

	for (size_t i = 0; i < ARRAY_LEN(ignored); i++)
		signal(ignored[i], SIG_IGN);
	signal(SIGTERM, SIG_DFL);
	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void
take_descriptors(struct worker *worker)
{
	for (int fd = WORKER_FD_CONFIG; fd <= WORKER_FD_SPOOL; fd++)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
	worker->shared_fd = WORKER_FD_SHARED;
	worker->wake_fd = WORKER_FD_WAKE;
	worker->supervisor_fd = WORKER_FD_SUPERVISOR;
	worker->spool_fd = WORKER_FD_SPOOL;
	worker->first_listener_fd = WORKER_FD_FIRST_LISTENER;
}

static int
usage(const char *program, FILE *out, int code)
{
	fprintf(out,
	    "usage: %s --worker | -c FILE\n"
	    "  started by relayd(8) with --worker; -c FILE runs it alone, for tests\n",
	    program);
	return code;
}

static int
load(struct worker *worker, const char *path)
{
	int r;

	if (path != NULL) {
		r = config_load(path, tell_problem, NULL, &worker->config);
	} else {
		r = config_load_fd(WORKER_FD_CONFIG, tell_problem, NULL, &worker->config);
		close(WORKER_FD_CONFIG);
	}
	if (r < 0) {
		fprintf(stderr, "%s%s: the configuration does not load: %s\n", log_mark(LOG_ERROR),
		    worker->program, strerror(-r));
		return config_is_starved(r) ? WORKER_EXIT_STARVED : WORKER_EXIT_CONFIG;
	}
	return 0;
}

int
worker_start(int argc, char **argv, const char *program, struct worker *out, bool *done)
{
	static const struct option long_options[] = { { "worker", no_argument, NULL, 'w' },
		{ "config", required_argument, NULL, 'c' }, { "version", no_argument, NULL, 'V' },
		{ "help", no_argument, NULL, 'h' }, { NULL, 0, NULL, 0 } };
	struct worker worker = { .program = program,
		.is_alone = true,
		.shared_fd = -1,
		.wake_fd = -1,
		.supervisor_fd = -1,
		.spool_fd = -1,
		.first_listener_fd = -1 };
	const char *path = NULL;
	int option, r;

	fill_standard_descriptors();
	reset_signals();
	loop_use_memory();
	umask(077);
	*done = true;
	while ((option = getopt_long(argc, argv, "c:Vh", long_options, NULL)) != -1)
		switch (option) {
		case 'w':
			worker.is_alone = false;
			break;
		case 'c':
			path = optarg;
			break;
		case 'V':
			printf("%s %s\n", program, PACKAGE_VERSION);
			return 0;
		case 'h':
			return usage(program, stdout, 0);
		default:
			return usage(program, stderr, WORKER_EXIT_USAGE);
		}
	if (optind != argc || worker.is_alone != (path != NULL))
		return usage(program, stderr, WORKER_EXIT_USAGE);
#ifndef WITH_SANITIZERS /* their leak checker looks at its own process */
	prctl(PR_SET_DUMPABLE, 0);
#endif
	if (!worker.is_alone)
		take_descriptors(&worker);
	r = load(&worker, path);
	if (r != 0)
		return r;
	log_open(program, worker.config->log.target, worker.config->log.level);
	*done = false;
	*out = worker;
	return 0;
}

static void
close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

void
worker_end(struct worker *worker)
{
	close_if_open(worker->shared_fd);
	close_if_open(worker->wake_fd);
	close_if_open(worker->supervisor_fd);
	close_if_open(worker->spool_fd);
	config_free(worker->config);
	worker->config = NULL;
}
