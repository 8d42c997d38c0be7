/* relayd-intake.c - the worker that speaks SMTP to local clients and writes the spool. It holds no
 * secret, opens no outbound connection, executes nothing, and is not linked with OpenSSL. Started by
 * relayd(8); with -c FILE it runs alone. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/sandbox.h"
#include "base/worker.h"
#include "intake/intake.h"
#include "intake/peer.h"
#include "spool/segment.h"

struct program {
	struct worker worker;
	struct loop *loop;
	struct shared_page *page;
	struct peer_finder *finder;
	struct intake *intake;
};

static void
on_stop(void *arg, bool quick)
{
	struct program *program = arg;

	intake_stop(program->intake, quick);
}

/* Alone, what relayd does otherwise: a directory, a page and a wake-up that nobody listens to. */
static int
prepare_alone(struct program *program)
{
	int r = 0;

	if (mkdir(program->worker.config->spool.directory, 0700) < 0 && errno != EEXIST)
		return -errno;
	program->worker.spool_fd = open(program->worker.config->spool.directory,
	    O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (program->worker.spool_fd < 0)
		return -errno;
	r = segment_prepare_directory(program->worker.spool_fd);
	if (r == 0)
		r = shared_page_create(&program->worker.shared_fd, &program->page);
	if (r < 0)
		return r;
	program->worker.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return program->worker.wake_fd >= 0 ? 0 : -errno;
}

static int
prepare(struct program *program)
{
	if (program->worker.is_alone)
		return prepare_alone(program);
	return shared_page_map(program->worker.shared_fd, &program->page);
}

/* The spool is one directory: delivery's segments and journal lie in reach too. */
static void
confine(const struct program *program)
{
	const struct sandbox_path paths[] = {
		{ "/sys/fs/cgroup", SANDBOX_LIST }, /* peer.c: names of units */
		{ "/proc", SANDBOX_READ },          /* peer.c: the cgroup of a unix client */
		{ "/dev/null", SANDBOX_READ },      /* listener.c: the reserved descriptor */
	};
	const struct sandbox_options options = { .profile = SANDBOX_INTAKE,
		.paths = paths,
		.n_paths = ARRAY_LEN(paths),
		.writable_fd = program->worker.spool_fd };
	char why[SANDBOX_WHY_MAX];

	tzset();
	if (sandbox_enter(&options, why))
		log_debug("sandbox.entered", KV_STR("program", program->worker.program));
	else
		log_warning(
		    "sandbox.limited", KV_STR("program", program->worker.program), KV_WHY(why));
}

static int
serve(struct program *program)
{
	const struct loop_options loop_options = {
		.supervisor_fd = program->worker.supervisor_fd, .on_stop = on_stop, .arg = program
	};
	struct intake_options options = { .config = program->worker.config,
		.page = program->page,
		.first_listener_fd = program->worker.first_listener_fd };
	int r;

	if (loop_open(&loop_options, &program->loop) < 0)
		return WORKER_EXIT_IO;
	program->finder = peer_finder_open();
	options.loop = program->loop;
	options.finder = program->finder;
	r = intake_open(&options, &program->intake);
	if (r < 0)
		return WORKER_EXIT_UNAVAILABLE;
	confine(program);
	r = intake_start(program->intake, program->worker.spool_fd, program->worker.wake_fd);
	if (r < 0)
		return WORKER_EXIT_IO;
	loop_ready(program->loop);
	return loop_run(program->loop) < 0 ? WORKER_EXIT_IO : 0;
}

static void
end(struct program *program)
{
	intake_close(program->intake);
	peer_finder_close(program->finder);
	loop_close(program->loop);
	shared_page_unmap(program->page);
	worker_end(&program->worker);
}

int
main(int argc, char **argv)
{
	struct program program = { 0 };
	bool done;
	int r;

	mallopt(M_ARENA_MAX, 1); /* the spool's thread allocates little */
	r = worker_start(argc, argv, "relayd-intake", &program.worker, &done);
	if (done)
		return r;
	r = prepare(&program);
	if (r < 0) {
		log_error("spool.failed",
		    KV_STR("directory", program.worker.config->spool.directory),
		    KV_STR("error", strerror(-r)), KV_WHY("it cannot be opened: no mail is taken"),
		    KV_FIX("mend what the error says; it is tried again"));
		r = WORKER_EXIT_IO;
	} else {
		r = serve(&program);
	}
	end(&program);
	return r;
}
