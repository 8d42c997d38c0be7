/* loop.h - the event loop of a worker: libevent's base, the signals, the heartbeat to the supervisor
 * and what the supervisor says. One per process. Knows no mail. */
#ifndef RELAYD_BASE_LOOP_H
#define RELAYD_BASE_LOOP_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "base/span.h"

struct loop;

struct loop_options {
	int supervisor_fd; /* borrowed until loop_close(); -1: alone, nobody to report to */

	/* SIGTERM (alone also SIGINT) came: finish what is in flight within config->drain_ms, then
	 * loop_end(). quick: the supervisor died or it is the second signal: end as soon as what
	 * is durable or in doubt is settled. May be called a second time with quick = true. */
	void (*on_stop)(void *arg, bool quick);

	/* A password-command ran (delivery only; may be NULL). status as in struct worker_password;
	 * `secret` is wiped when the callback returns. */
	void (*on_password)(void *arg, unsigned upstream, int status, struct span secret);
	void *arg;
};

/* Before anything else of libevent: where there is no memory the process ends as in xcalloc(). What
 * libevent allocates is small and bounded, and half of its functions cannot say that it failed. */
void loop_use_memory(void);

/* Makes the base (epoll) and takes the signals. Gives *out. -errno: no base. */
int loop_open(const struct loop_options *options, struct loop **out) MUST_CHECK;
void loop_close(struct loop *loop); /* NULL is fine; frees the base: events go first */

struct event_base *loop_base(struct loop *loop); /* borrowed */

/* Tells the supervisor READY, then ALIVE every second for as long as the loop turns. */
void loop_ready(struct loop *loop);
void loop_want_password(struct loop *loop, unsigned upstream);

int loop_run(struct loop *loop); /* until loop_end(): 0; -errno if libevent gives up */
void loop_end(struct loop *loop);

/* Monotonic milliseconds (CLOCK_BOOTTIME: counts a suspended machine's sleep too), the clock of
 * every deadline. Realtime in milliseconds since 1970 for what people read. */
uint64_t loop_now_ms(void);
uint64_t loop_realtime_ms(void);

/* A timeval for libevent. */
static inline struct timeval
loop_timeval(uint64_t ms)
{
	return (struct timeval){ .tv_sec = (time_t)(ms / 1000),
		.tv_usec = (suseconds_t)(ms % 1000 * 1000) };
}

#endif
