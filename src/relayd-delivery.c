/* relayd-delivery - owns the queue, the schedule, the connections to upstreams, the credentials and
 * the control socket. Started by relayd (--worker), or alone for tests and debugging (-c FILE). */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/worker.h"
#include "delivery/confine.h"
#include "delivery/control.h"
#include "delivery/delivery.h"
#include "delivery/tls.h"
#include "spool/segment.h"

struct program {
	struct worker worker;
	struct loop *loop;
	struct delivery *delivery;
	struct control *control;
	struct shared_page *page;
};

static void
on_stop(void *arg, bool quick)
{
	struct program *p = arg;

	delivery_stop(p->delivery, quick);
}

static void
on_password(void *arg, unsigned upstream, int status, struct span secret)
{
	struct program *p = arg;

	delivery_password(p->delivery, upstream, status, secret);
}

static int
fail(const char *what, int error)
{
	log_error("daemon.failed", KV_WHY(what), KV_STR("error", strerror(-error)));
	return WORKER_EXIT_IO;
}

/* Alone: what the supervisor would have made. */
static int
make_alone(struct program *p)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	struct worker *w = &p->worker;
	int r;

	r = shared_page_create(&w->shared_fd, &p->page);
	if (r < 0)
		return r;
	w->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	w->first_listener_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (w->wake_fd < 0 || w->first_listener_fd < 0)
		return -errno;
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", w->config->control.socket);
	unlink(sun.sun_path);
	if (bind(w->first_listener_fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 ||
	    listen(w->first_listener_fd, 16) < 0)
		return -errno;
	w->spool_fd =
	    open(w->config->spool.directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return w->spool_fd < 0 ? -errno : segment_prepare_directory(w->spool_fd);
}

static void
enter_sandbox(const struct program *p)
{
	char why[SANDBOX_WHY_MAX] = "";

	if (confine(p->worker.config, p->worker.spool_fd, why))
		log_debug("sandbox.entered", KV_STR("program", p->worker.program));
	else
		log_warning("sandbox.limited", KV_STR("program", p->worker.program), KV_WHY(why));
}

static int
run(struct program *p)
{
	struct worker *w = &p->worker;
	struct loop_options loop_options = { .supervisor_fd = w->supervisor_fd,
		.on_stop = on_stop,
		.on_password = on_password,
		.arg = p };
	struct delivery_options options = { 0 };
	int r;

	r = w->is_alone ? make_alone(p) : shared_page_map(w->shared_fd, &p->page);
	if (r < 0)
		return fail("the spool, the shared page or the control socket cannot be used", r);
	r = loop_open(&loop_options, &p->loop);
	if (r < 0)
		return fail("no event loop", r);
	enter_sandbox(p);
	options = (struct delivery_options){ .config = w->config,
		.loop = p->loop,
		.dirfd = w->spool_fd,
		.page = p->page,
		.wake_fd = w->wake_fd };
	r = delivery_open(&options, &p->delivery);
	if (r < 0)
		return WORKER_EXIT_IO; /* told already */
	r = control_open(p->delivery, w->first_listener_fd, &p->control);
	if (r < 0)
		return fail("the control socket cannot be served", r);
	loop_ready(p->loop);
	r = loop_run(p->loop);
	return r < 0 ? fail("the event loop ended", r) : 0;
}

int
main(int argc, char **argv)
{
	struct program p = { 0 };
	bool done = false;
	int status;

	mallopt(
	    M_MMAP_THRESHOLD, 128 << 10); /* what only a start or a compaction needs goes back */
	tls_use_memory();
	status = worker_start(argc, argv, "relayd-delivery", &p.worker, &done);
	if (done)
		return status;
	status = run(&p);
	control_close(p.control);
	delivery_close(p.delivery);
	control_free(p.control);
	loop_close(p.loop);
	shared_page_unmap(p.page);
	worker_end(&p.worker);
	return status;
}
