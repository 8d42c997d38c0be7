/* test_growth.c - what a message costs does not grow with those that wait: counted, not timed. Each basic block
 * that delivery and the spool enter is an operation: they are compiled with -fsanitize-coverage=trace-pc
 * here, which calls the function below for each. */
#include "delivery_fixture.h"
#include "delivery/outcome.h"

enum {
	WARM_UP = 64,
	COUNTED = 512,
	FEW = 1000,
	MANY = 1000000,
	TENANTS = 100,
	SECONDS = 30,
	TIMES_PERCENT = 130, /* most that a message among many may cost, beside one among few */
	LATER_MS = 60000,
};

static _Atomic unsigned long operations;

void __sanitizer_cov_trace_pc(void);

void
__sanitizer_cov_trace_pc(void)
{
	atomic_fetch_add_explicit(&operations, 1, memory_order_relaxed);
}

/* --- those that wait ---------------------------------------------------------------------------- */

/* Deferred to any time of the next days, and a part of them held, of many tenants. */
static void
enter_waiting(struct delivery *d, unsigned n)
{
	uint64_t now_ms = os_boot_ms(), dice = 1;

	for (unsigned i = 0; i < n; i++) {
		struct queue_entry *e =
		    queue_add(d->queue, queue_id_make(1 + i / 10000, 1 + i % 10000), i % TENANTS,
		        SPAN("app.service"), 0);

		assert_non_null(e);
		dice = dice * 6364136223846793005u + 1442695040888963407u;
		if (i % 4 != 0)
			queue_defer(d->queue, e, now_ms + 86400000 + (dice >> 33) % 259200000);
	}
}

/* --- those that come and go ---------------------------------------------------------------------- */

struct flow {
	struct running x;
	struct fixture f;
	unsigned waiting;
	unsigned stored; /* outcomes that are durable */
};

static void
turn_until(struct flow *flow, unsigned *what, unsigned n)
{
	uint64_t end_ms = os_boot_ms() + 1000 * SECONDS;

	while (*what < n) {
		struct timeval tick = { .tv_usec = 1000 };

		event_base_loopexit(loop_base(flow->x.loop), &tick);
		event_base_loop(loop_base(flow->x.loop), 0);
		assert_true(os_boot_ms() < end_ms);
	}
}

static void
await_met(struct flow *flow, unsigned n)
{
	uint64_t end_ms = os_boot_ms() + 1000 * SECONDS;

	while (queue_count_all(flow->x.d->queue) < flow->waiting + n) {
		delivery_kick(flow->x.d);
		event_base_loop(loop_base(flow->x.loop), EVLOOP_ONCE);
		assert_true(os_boot_ms() < end_ms);
	}
}

static void
on_stored(struct outcome *o, void *arg)
{
	struct flow *flow = arg;

	(void)o;
	flow->stored++;
}

/* Takes a message as an upstream would, and has this to say of all its recipients. */
static void
end_attempt(struct flow *flow, enum journal_state state)
{
	struct delivery *d = flow->x.d;
	struct queue_entry *e = queue_take(d->queue, 0);
	struct spool_body *body;
	struct outcome *o;
	struct mail *m;

	assert_non_null(e);
	assert_int_equal(mail_load_whole(d, e, &m, &body), 0);
	spool_body_close(body);
	o = outcome_new(d, m);
	o->wait_ms = LATER_MS;
	o->done = on_stored;
	o->arg = flow;
	o->is_quiet = true;
	for (size_t i = 0; i < m->envelope->n_recipients; i++)
		outcome_set(o, i, state, NULL, "");
	outcome_commit(o);
}

/* Each comes in, is tried, waits, is tried again, and goes. */
static void
flow_through(struct flow *flow, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(fixture_send(&flow->f, "hello", 5, NULL, NULL), 0);
	await_met(flow, n);
	for (unsigned i = 0; i < n; i++)
		end_attempt(flow, JOURNAL_DEFERRED);
	turn_until(flow, &flow->stored, n);
	os_disk_wait(2 * LATER_MS);
	assert_int_equal(queue_wake(flow->x.d->queue, os_boot_ms()), n);
	for (unsigned i = 0; i < n; i++)
		end_attempt(flow, JOURNAL_DELIVERED);
	turn_until(flow, &flow->stored, 2 * n);
	flow->stored = 0;
	assert_int_equal(queue_count_all(flow->x.d->queue), flow->waiting);
}

/* Operations for each message, among so many. */
static unsigned long
cost_among(unsigned waiting)
{
	struct os_disk *disk = os_disk_new();
	struct flow flow = { .f = { .dirfd = os_disk_root(disk) }, .waiting = waiting };
	struct spool_writer_options intake = { .dirfd = flow.f.dirfd,
		.kind = SEGMENT_INTAKE,
		.segment_bytes = SMALL_SEGMENT,
		.report = fixture_on_report,
		.report_arg = &flow.f };
	unsigned long before, cost;

	os_disk_heal(disk);
	assert_int_equal(segment_prepare_directory(flow.f.dirfd), 0);
	assert_int_equal(running_begin(&flow.x, flow.f.dirfd, SMALL_SEGMENT), 0);
	intake.page = flow.x.page;
	intake.wake_fd = flow.x.wake_fd;
	assert_int_equal(spool_writer_open(&intake, &flow.f.writer), 0);
	enter_waiting(flow.x.d, waiting);
	flow_through(&flow, WARM_UP);
	before = atomic_load(&operations);
	flow_through(&flow, COUNTED);
	cost = (atomic_load(&operations) - before) / COUNTED;
	fixture_stop(&flow.f);
	running_end(&flow.x);
	os_disk_free(disk);
	return cost;
}

static void
a_message_costs_the_same_among_a_million(void **state)
{
	unsigned long few = cost_among(FEW), many = cost_among(MANY);

	(void)state;
	print_message(
	    "operations for a message: %lu among %d, %lu among %d\n", few, FEW, many, MANY);
	assert_true(few > COUNTED / 10); /* they are counted at all */
	assert_true(many * 100 <= few * TIMES_PERCENT);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_message_costs_the_same_among_a_million),
	};

	log_open("test_growth", LOG_TO_STDERR, LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
