/* loop.c - see loop.h. Signals come through libevent (its handler only writes to a socket pair), so
 * no code of ours ever runs inside a signal handler. */
#include <assert.h>
#include <errno.h>
#include <event2/event_struct.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/loop.h"
#include "base/os.h"
#include "base/worker.h"

struct loop {
	struct loop_options options;
	struct event_base *base;
	struct event *on_term, *on_int, *on_second, *on_channel;
	bool is_stopping, is_quick;
};

uint64_t
loop_now_ms(void)
{
	return os_boot_ms();
}

uint64_t
loop_realtime_ms(void)
{
	return os_now_ms();
}

/* A full channel means that the supervisor does not read: the next heartbeat will tell it. */
static void
report(struct loop *loop, enum worker_message_kind kind, unsigned upstream)
{
	const struct worker_report message = { .kind = kind, .upstream = upstream };

	if (loop->options.supervisor_fd >= 0 &&
	    send(loop->options.supervisor_fd, &message, sizeof(message),
	        MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
}

static void
stop(struct loop *loop, bool quick)
{
	quick = quick || loop->is_stopping; /* asked twice */
	if (loop->is_quick)
		return;
	loop->is_stopping = true;
	loop->is_quick = quick;
	loop->options.on_stop(loop->options.arg, quick);
}

static void
on_signal(evutil_socket_t signal_number, short what, void *arg)
{
	(void)signal_number;
	(void)what;
	stop(arg, false);
}

static void
on_second(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	report(arg, WORKER_ALIVE, 0);
}

static void
take_password(struct loop *loop, const struct worker_password *password)
{
	if (loop->options.on_password == NULL || password->kind != WORKER_PASSWORD ||
	    password->len_bytes > sizeof(password->bytes))
		return;
	loop->options.on_password(loop->options.arg, password->upstream, password->status,
	    (struct span){ password->bytes, password->len_bytes });
}

static void
on_channel(evutil_socket_t fd, short what, void *arg)
{
	struct loop *loop = arg;
	struct worker_password password;
	ssize_t n;

	(void)what;
	n = recv(fd, &password, sizeof(password), MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		event_del(loop->on_channel);
		stop(loop, true);
	} else if (n == (ssize_t)sizeof(password)) {
		take_password(loop, &password);
	}
	wipe(&password, sizeof(password));
}

static struct event *
listen_to(struct loop *loop, evutil_socket_t fd, short what, event_callback_fn callback)
{
	struct event *event = event_new(loop->base, fd, what, callback, loop);

	if (event != NULL && event_add(event, NULL) == 0)
		return event;
	if (event != NULL)
		event_free(event);
	return NULL;
}

static void *
allocate(size_t size_bytes)
{
	return xrealloc(NULL, size_bytes, 1);
}

static void *
reallocate(void *old, size_t size_bytes)
{
	return xrealloc(old, size_bytes, 1);
}

void
loop_use_memory(void)
{
	event_set_mem_functions(allocate, reallocate, free);
}

static struct event_base *
make_base(void)
{
	struct event_config *config = event_config_new();
	struct event_base *base;

	if (config == NULL)
		return NULL;
	event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK); /* one thread owns the loop */
	base = event_base_new_with_config(config);
	event_config_free(config);
	return base;
}

int
loop_open(const struct loop_options *options, struct loop **out)
{
	struct loop *loop = xcalloc(1, sizeof(*loop));
	bool is_alone = options->supervisor_fd < 0;

	loop->options = *options;
	loop->base = make_base();
	if (loop->base == NULL)
		goto fail;
	loop->on_term = listen_to(loop, SIGTERM, EV_SIGNAL | EV_PERSIST, on_signal);
	if (loop->on_term == NULL)
		goto fail;
	/* ^C on a terminal reaches the whole group: below a supervisor it is the supervisor's */
	loop->on_int = is_alone ? listen_to(loop, SIGINT, EV_SIGNAL | EV_PERSIST, on_signal) : NULL;
	if (!is_alone) {
		signal(SIGINT, SIG_IGN);
		loop->on_channel =
		    listen_to(loop, options->supervisor_fd, EV_READ | EV_PERSIST, on_channel);
		if (loop->on_channel == NULL)
			goto fail;
	}
	*out = loop;
	return 0;
fail:
	loop_close(loop);
	return -ENOMEM;
}

static void
drop(struct event *event)
{
	if (event != NULL)
		event_free(event);
}

void
loop_close(struct loop *loop)
{
	if (loop == NULL)
		return;
	drop(loop->on_term);
	drop(loop->on_int);
	drop(loop->on_second);
	drop(loop->on_channel);
	if (loop->base != NULL)
		event_base_free(loop->base);
	free(loop);
}

struct event_base *
loop_base(struct loop *loop)
{
	return loop->base;
}

void
loop_ready(struct loop *loop)
{
	const struct timeval second = loop_timeval(WORKER_ALIVE_EVERY_MS);

	if (loop->options.supervisor_fd < 0 || loop->on_second != NULL)
		return;
	report(loop, WORKER_READY, 0);
	loop->on_second = event_new(loop->base, -1, EV_PERSIST, on_second, loop);
	if (loop->on_second != NULL)
		event_add(loop->on_second, &second);
}

void
loop_want_password(struct loop *loop, unsigned upstream)
{
	report(loop, WORKER_PASSWORD_WANTED, upstream);
}

int
loop_run(struct loop *loop)
{
	return event_base_dispatch(loop->base) < 0 ? -EIO : 0;
}

void
loop_end(struct loop *loop)
{
	event_base_loopbreak(loop->base);
}
