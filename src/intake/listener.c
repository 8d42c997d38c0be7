/* listener.c - see listener.h. */
#include <errno.h>
#include <event2/util.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/loop.h"
#include "intake/listener.h"

#define BACKLOG 4096
#define ACCEPTS_PER_EVENT 64 /* then the sessions get their turn */
#define PAUSE_MS 250

struct listener {
	struct listeners *all;
	const struct config_listen *listen;
	int fd;
	struct event *readable;
};

struct listeners {
	listener_accepted_fn *accepted;
	void *arg;
	int reserve_fd; /* given up for a moment to accept one connection and refuse it in words */
	bool is_paused;
	unsigned paused;
	struct event *pause;
	size_t n;
	struct listener each[];
};

static int
open_reserve(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* The client learns why; so it does not try again at once. */
static void
refuse_one(struct listeners *all, int listen_fd)
{
	static const char text[] = "421 4.3.2 too many open files here, try again later\r\n";
	int fd;

	if (all->reserve_fd < 0)
		return;
	close(all->reserve_fd);
	fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd >= 0) {
		(void)!send(fd, text, sizeof(text) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
		close(fd);
	}
	all->reserve_fd = open_reserve();
}

static void
pause_all(struct listeners *all)
{
	const struct timeval pause = loop_timeval(PAUSE_MS);

	if (all->is_paused)
		return;
	all->is_paused = true;
	all->paused++;
	for (size_t i = 0; i < all->n; i++)
		event_del(all->each[i].readable);
	event_add(all->pause, &pause);
}

void
listeners_resume(struct listeners *all)
{
	if (all == NULL || !all->is_paused)
		return;
	if (all->reserve_fd < 0)
		all->reserve_fd = open_reserve();
	if (all->reserve_fd < 0)
		return; /* still none: the timer comes again */
	for (size_t i = 0; i < all->n; i++)
		if (event_add(all->each[i].readable, NULL) < 0)
			return;
	all->is_paused = false;
	event_del(all->pause);
}

unsigned
listeners_paused(const struct listeners *all)
{
	return all->paused;
}

static void
on_pause_over(evutil_socket_t fd, short what, void *arg)
{
	struct listeners *all = arg;
	const struct timeval pause = loop_timeval(PAUSE_MS);

	(void)fd;
	(void)what;
	listeners_resume(all);
	if (all->is_paused)
		event_add(all->pause, &pause);
}

/* False: nothing more to accept now. */
static bool
accept_one(struct listener *listener)
{
	struct listeners *all = listener->all;
	struct sockaddr_storage peer = { 0 };
	socklen_t len = sizeof(peer);
	int fd;

	fd = accept4(listener->fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd >= 0) {
		all->accepted(all->arg, fd, (struct sockaddr *)&peer, listener->listen);
		return !all->is_paused;
	}
	switch (errno) {
	case EMFILE:
	case ENFILE:
		refuse_one(all, listener->fd);
		pause_all(all);
		return false;
	case ENOBUFS:
	case ENOMEM:
		pause_all(all);
		return false;
	case EAGAIN:
		return false;
	default: /* that connection failed before we saw it: ECONNABORTED, EPROTO, EINTR, ... */
		return true;
	}
}

static void
on_connection(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	for (int i = 0; i < ACCEPTS_PER_EVENT && accept_one(arg); i++)
		;
}

static int
bind_unix(const struct config_listen *listen_on)
{
	const struct sockaddr_un *un = (const void *)&listen_on->sa;
	struct stat st;

	/* what a crash left; never something else */
	if (lstat(un->sun_path, &st) == 0 && S_ISSOCK(st.st_mode))
		unlink(un->sun_path);
	return 0;
}

/* Running alone: what relayd does otherwise. */
static int
bind_one(const struct config_listen *listen_on)
{
	int fd, r, on = 1;

	fd = socket(listen_on->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (listen_on->sa.ss_family == AF_UNIX)
		bind_unix(listen_on);
	else
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (listen_on->sa.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, (const struct sockaddr *)&listen_on->sa, listen_on->sa_len) < 0 ||
	    listen(fd, BACKLOG) < 0)
		goto fail;
	if (listen_on->sa.ss_family == AF_UNIX &&
	    chmod(((const struct sockaddr_un *)(const void *)&listen_on->sa)->sun_path, 0666) < 0)
		goto fail;
	return fd;
fail:
	r = -errno;
	close(fd);
	return r;
}

/* Accepted sockets inherit TCP_NODELAY: one system call less for each client. */
static int
add(struct listeners *all, int fd, const struct config_listen *listen_on, struct event_base *base)
{
	struct listener *listener = &all->each[all->n++];
	int on = 1;

	*listener = (struct listener){ .all = all, .listen = listen_on, .fd = fd };
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || evutil_make_socket_nonblocking(fd) < 0)
		return -EBADF;
	if (listen_on->sa.ss_family != AF_UNIX)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	listener->readable = event_new(base, fd, EV_READ | EV_PERSIST, on_connection, listener);
	if (listener->readable == NULL || event_add(listener->readable, NULL) < 0)
		return -ENOMEM;
	return 0;
}

int
listeners_open(const struct config *config, int first_fd, struct event_base *base,
    listener_accepted_fn *accepted, void *arg, struct listeners **out, char why[256])
{
	struct listeners *all =
	    xcalloc(1, sizeof(*all) + config->n_listen * sizeof(struct listener));
	int r = 0;

	all->accepted = accepted;
	all->arg = arg;
	all->reserve_fd = open_reserve();
	all->pause = evtimer_new(base, on_pause_over, all);
	for (size_t i = 0; r == 0 && i < config->n_listen; i++) {
		const struct config_listen *listen_on = &config->listen[i];
		int fd = first_fd >= 0 ? first_fd + (int)i : bind_one(listen_on);

		if (fd >= 0)
			r = add(all, fd, listen_on, base);
		else if (!listen_on->optional)
			r = fd;
		if (r < 0)
			snprintf(
			    why, 256, "listen \"%.100s\": %s", listen_on->address, strerror(-r));
	}
	if (r < 0) {
		listeners_close(all);
		return r;
	}
	*out = all;
	return 0;
}

void
listeners_close(struct listeners *all)
{
	if (all == NULL)
		return;
	for (size_t i = 0; i < all->n; i++) {
		if (all->each[i].readable != NULL)
			event_free(all->each[i].readable);
		close(all->each[i].fd);
	}
	if (all->pause != NULL)
		event_free(all->pause);
	if (all->reserve_fd >= 0)
		close(all->reserve_fd);
	free(all);
}
