/* Whose turn it is, in how many bytes. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/base.h"
#include "delivery/queue.h"

static void
a_million_messages_cost_64_bytes_each(void **state)
{
	static const size_t sizes[] = { 600000, 1000000, 1100000 };

	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
		struct queue *q = queue_new();

		for (size_t i = 0; i < sizes[k]; i++) {
			struct queue_entry *e = queue_add(q, i + 1, 1, SPAN("a.service"), 0);

			assert_non_null(e);
			queue_defer(q, e, (i * 7919) % 1000003);
		}
		assert_true(queue_memory_bytes(q) <= 64 * sizes[k] + 65536);
		queue_free(q);
	}
}

static void
due_messages_come_in_order_and_then_first_in_first_out(void **state)
{
	struct queue *q = queue_new();
	uint32_t random = 1;
	uint64_t last = 0;

	(void)state;
	for (uint64_t id = 1; id <= 5000; id++) {
		struct queue_entry *e = queue_add(q, id, 1, SPAN(""), 3);

		random = random * 1664525 + 1013904223;
		queue_defer(q, e, (random >> 8) % 1000000);
	}
	for (uint64_t id = 1; id <= 5000; id += 3) /* out of the middle */
		queue_remove(q, queue_find(q, id));
	assert_int_equal(queue_count(q, QUEUE_DEFERRED), 5000 - 1667);
	while (queue_next_due_ms(q) != UINT64_MAX) {
		uint64_t due = queue_next_due_ms(q);

		assert_true(due >= last);
		assert_int_equal(queue_wake(q, due - 1), 0);
		assert_true(queue_wake(q, due) >= 1);
		last = due;
	}
	assert_int_equal(queue_count_ready(q, 3), 5000 - 1667);
	queue_free(q);
}

static void
ten_thousand_newsletters_do_not_delay_a_password_reset(void **state)
{
	struct queue *q = queue_new();
	unsigned turns = 0;

	(void)state;
	for (uint64_t id = 1; id <= 10000; id++)
		queue_ready(q, queue_add(q, id, 33, SPAN("newsletter.service"), 0));
	queue_ready(q, queue_add(q, 20000, 33, SPAN("shop.service"), 0));
	queue_ready(q, queue_add(q, 20001, 0, SPAN(""), 0));
	queue_ready(q, queue_add(q, 20002, 33, SPAN("shop.service"), 1)); /* elsewhere */
	for (bool reset = false; !reset; turns++)
		reset = queue_take(q, 0)->id == 20000;
	assert_true(turns <= 3);
	assert_int_equal(queue_take(q, 1)->id, 20002);
	assert_null(queue_take(q, 1));
	queue_free(q);
}

static void
an_id_is_there_once_and_gone_after_removal(void **state)
{
	struct queue *q = queue_new();
	struct queue_entry *e = queue_add(q, 7, 1, SPAN("x"), 0), *f;

	(void)state;
	assert_null(queue_add(q, 7, 1, SPAN("x"), 0));
	queue_ready(q, e);
	f = queue_add(q, 8, 1, SPAN("x"), 0);
	queue_ready(q, f);
	assert_ptr_equal(queue_take(q, 0), e);
	queue_ready_first(q, e);
	assert_ptr_equal(queue_take(q, 0), e);
	queue_defer(q, e, 1000);
	queue_hold(q, e);
	assert_int_equal(queue_count(q, QUEUE_HELD), 1);
	assert_int_equal(queue_wake(q, 5000), 0);
	queue_remove(q, e);
	assert_null(queue_find(q, 7));
	queue_reroute(q, f, 9);
	assert_null(queue_take(q, 0));
	assert_ptr_equal(queue_take(q, 9), f);
	assert_int_equal(queue_count_all(q), 1);
	queue_free(q);
}

/* Everything that is READY comes out of the lanes of its upstream, once. */
static void
take_all(struct queue *q, unsigned upstream, enum queue_state *model)
{
	size_t n = queue_count_ready(q, upstream);
	struct queue_entry *e;

	for (; (e = queue_take(q, upstream)) != NULL; n--) {
		assert_int_equal(model[e->id - 1], QUEUE_READY);
		model[e->id - 1] = QUEUE_ACTIVE;
	}
	assert_int_equal(n, 0);
}

/* A model beside it: random calls, then every count and every order must agree. */
static void
it_agrees_with_a_simple_model(void **state)
{
	enum { IDS = 64 };
	static enum queue_state model[IDS];
	struct queue *q = queue_new();

	(void)state;
	srandom(20261124);
	for (unsigned step = 0; step < 200000; step++) {
		unsigned id = (unsigned)random() % IDS, seen = 0;
		struct queue_entry *e = queue_find(q, id + 1);
		uint32_t cursor = 0;

		assert_int_equal(e != NULL, model[id] != QUEUE_FREE);
		if (e == NULL) {
			e = queue_add(q, id + 1, id % 3, SPAN("u"), id % 2);
			model[id] = QUEUE_HELD;
		}
		switch (random() % 9) {
		case 0:
			queue_ready(q, e);
			model[id] = QUEUE_READY;
			break;
		case 1:
			queue_defer(q, e, (uint64_t)random() % 100000);
			model[id] = QUEUE_DEFERRED;
			break;
		case 2:
			queue_hold(q, e);
			model[id] = QUEUE_HELD;
			break;
		case 3:
			queue_remove(q, e);
			model[id] = QUEUE_FREE;
			break;
		case 4:
			e = queue_take(q, id % 2);
			if (e != NULL) {
				assert_int_equal(model[e->id - 1], QUEUE_READY);
				model[e->id - 1] = QUEUE_ACTIVE;
			}
			break;
		case 5:
			queue_wake(q, (uint64_t)random() % 30000);
			for (unsigned i = 0; i < IDS; i++)
				if ((e = queue_find(q, i + 1)) != NULL &&
				    model[i] == QUEUE_DEFERRED)
					model[i] = e->state;
			break;
		case 6:
			queue_claim(q, e);
			model[id] = QUEUE_ACTIVE;
			break;
		case 7:
			queue_ready_first(q, e);
			model[id] = QUEUE_READY;
			break;
		case 8:
			if (e->state != QUEUE_ACTIVE)
				queue_reroute(q, e, (id + 1) % 2);
			break;
		}
		while (step % 16 == 0 && (e = queue_each(q, &cursor)) != NULL) {
			assert_int_equal(e->state, model[e->id - 1]);
			seen++;
		}
		if (step % 16 == 0)
			assert_int_equal(seen, queue_count_all(q));
		for (unsigned u = 0; step % 1024 == 0 && u < 2; u++)
			take_all(q, u, model);
	}
	queue_free(q);
}

/* Compaction takes what waits out of lanes of any length. */
static void
a_long_lane_gives_up_any_message_at_once(void **state)
{
	enum { LONG = 300000 };
	struct queue *q = queue_new();
	struct queue_entry *e;

	(void)state;
	for (uint64_t id = 1; id <= LONG; id++)
		queue_ready(q, queue_add(q, id, 1, SPAN("u"), 0));
	for (uint64_t id = LONG; id > 0; id--) /* a walk for each would take minutes */
		if (id % 3 != 0) {
			queue_claim(q, queue_find(q, id));
			queue_hold(q, queue_find(q, id));
		}
	assert_int_equal(queue_count_ready(q, 0), LONG / 3);
	for (uint64_t id = 3; id <= LONG; id += 3) {
		e = queue_take(q, 0);
		assert_non_null(e);
		assert_int_equal(e->id, id);
	}
	assert_null(queue_take(q, 0));
	queue_free(q);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_million_messages_cost_64_bytes_each),
		cmocka_unit_test(due_messages_come_in_order_and_then_first_in_first_out),
		cmocka_unit_test(ten_thousand_newsletters_do_not_delay_a_password_reset),
		cmocka_unit_test(an_id_is_there_once_and_gone_after_removal),
		cmocka_unit_test(it_agrees_with_a_simple_model),
		cmocka_unit_test(a_long_lane_gives_up_any_message_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
