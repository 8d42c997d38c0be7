/* The worker's end of the channel: heartbeat, stop, passwords; nothing that the other end sends, in
 * any size, does harm (I8). */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/loop.h"
#include "base/worker.h"

struct fixture {
	struct loop *loop;
	int channel[2]; /* [0] is the supervisor's */
	unsigned stops, quick_stops, passwords;
	int status;
	char secret[64];
};

static void
on_stop(void *arg, bool quick)
{
	struct fixture *f = arg;

	f->stops++;
	f->quick_stops += quick ? 1 : 0;
}

static void
on_password(void *arg, unsigned upstream, int status, struct span secret)
{
	struct fixture *f = arg;

	assert_int_equal(upstream, 3);
	assert_true(secret.len < sizeof(f->secret));
	memcpy(f->secret, secret.data, secret.len);
	f->status = status;
	f->passwords++;
}

static int
set_up(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));
	struct loop_options options = { .on_stop = on_stop, .on_password = on_password, .arg = f };

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, f->channel), 0);
	options.supervisor_fd = f->channel[1];
	assert_int_equal(loop_open(&options, &f->loop), 0);
	*state = f;
	return 0;
}

static int
tear_down(void **state)
{
	struct fixture *f = *state;

	loop_close(f->loop);
	if (f->channel[0] >= 0)
		close(f->channel[0]);
	close(f->channel[1]);
	free(f);
	return 0;
}

static void
turn(struct fixture *f)
{
	event_base_loop(loop_base(f->loop), EVLOOP_NONBLOCK);
}

static struct worker_report
next_report(struct fixture *f)
{
	struct worker_report report;

	assert_int_equal(recv(f->channel[0], &report, sizeof(report), 0), sizeof(report));
	return report;
}

static void
ready_is_said_once_then_alive_every_second(void **state)
{
	struct fixture *f = *state;

	loop_ready(f->loop);
	loop_ready(f->loop);
	assert_int_equal(next_report(f).kind, WORKER_READY);
	event_base_loop(loop_base(f->loop), EVLOOP_ONCE);
	assert_int_equal(next_report(f).kind, WORKER_ALIVE);
	loop_want_password(f->loop, 7);
	assert_int_equal(next_report(f).upstream, 7);
}

static void
a_supervisor_that_does_not_read_blocks_nobody(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 10000; i++)
		loop_want_password(f->loop, 1);
	assert_int_equal(next_report(f).kind, WORKER_PASSWORD_WANTED);
}

static void
a_password_is_taken_and_garbage_is_not(void **state)
{
	struct fixture *f = *state;
	struct worker_password password = {
		.kind = WORKER_PASSWORD, .upstream = 3, .len_bytes = 6
	};
	struct worker_password wrong = password;

	memcpy(password.bytes, "secret", 6);
	assert_true(send(f->channel[0], &password, sizeof(password) - 1, 0) > 0); /* cut */
	wrong.len_bytes = WORKER_PASSWORD_MAX + 1;
	assert_true(send(f->channel[0], "x", 1, 0) == 1);
	assert_true(send(f->channel[0], &wrong, sizeof(wrong), 0) > 0);
	wrong.len_bytes = 0;
	wrong.kind = 77;
	assert_true(send(f->channel[0], &wrong, sizeof(wrong), 0) > 0);
	assert_true(send(f->channel[0], &password, sizeof(password), 0) > 0);
	for (int i = 0; i < 5; i++)
		turn(f);
	assert_int_equal(f->passwords, 1);
	assert_string_equal(f->secret, "secret");
	assert_int_equal(f->stops, 0);
}

static void
sigterm_stops_and_the_second_one_is_quick(void **state)
{
	struct fixture *f = *state;

	raise(SIGTERM);
	turn(f);
	assert_int_equal(f->stops, 1);
	assert_int_equal(f->quick_stops, 0);
	raise(SIGTERM);
	turn(f);
	assert_int_equal(f->quick_stops, 1);
	raise(SIGTERM);
	turn(f);
	assert_int_equal(f->stops, 2);
}

static void
a_dead_supervisor_is_a_quick_stop(void **state)
{
	struct fixture *f = *state;

	close(f->channel[0]);
	f->channel[0] = -1;
	turn(f);
	turn(f);
	assert_int_equal(f->stops, 1);
	assert_int_equal(f->quick_stops, 1);
}

int
main(void)
{
#define LOOP_TEST(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		LOOP_TEST(ready_is_said_once_then_alive_every_second),
		LOOP_TEST(a_supervisor_that_does_not_read_blocks_nobody),
		LOOP_TEST(a_password_is_taken_and_garbage_is_not),
		LOOP_TEST(sigterm_stops_and_the_second_one_is_quick),
		LOOP_TEST(a_dead_supervisor_is_a_quick_stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
