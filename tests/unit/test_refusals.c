/* A spool that takes no mail is told, and does not fill the log: few lines, and no refusal is uncounted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "intake/refusals.h"

#define HOUR_MS (60u * 60 * 1000)

struct log {
	unsigned lines;
	uint64_t told; /* refusals that stand in them */
};

/* From `now_ms` on: a refusal every `every_ms`, a look every second. */
static void
refuse(struct refusals *r, struct log *log, uint64_t now_ms, uint64_t for_ms, uint64_t every_ms)
{
	for (uint64_t end_ms = now_ms + for_ms; now_ms < end_ms; now_ms += 10) {
		if (now_ms % every_ms == 0 && refusals_add(r, now_ms)) {
			log->lines++;
			log->told++;
		}
		if (now_ms % 1000 == 0) {
			uint64_t n = refusals_due(r, now_ms);

			log->lines += n > 0;
			log->told += n;
		}
	}
}

static void
eight_hours_are_some_lines_and_all_is_counted(void **state)
{
	struct refusals r = { 0 };
	struct log log = { 0 };

	(void)state;
	refuse(&r, &log, 1000, 8 * HOUR_MS, 10);
	assert_in_range(log.lines, 40, 60);
	assert_int_equal(log.told + r.untold, 8 * HOUR_MS / 10);
	assert_int_equal(refusals_end(&r), 8 * HOUR_MS / 10);
}

static void
the_first_is_told_at_once_and_the_rest_soon(void **state)
{
	struct refusals r = { 0 };

	(void)state;
	assert_true(refusals_add(&r, 1000));
	assert_false(refusals_add(&r, 1001));
	assert_false(refusals_add(&r, 1002));
	assert_int_equal(refusals_due(&r, 1000 + REFUSALS_FIRST_MS - 1), 0);
	assert_int_equal(refusals_due(&r, 1000 + REFUSALS_FIRST_MS), 2);
	assert_int_equal(refusals_due(&r, 1000 + 100 * REFUSALS_FIRST_MS), 0);
}

static void
a_rare_one_has_a_line_of_its_own(void **state)
{
	struct refusals r = { 0 };
	struct log log = { 0 };

	(void)state;
	refuse(&r, &log, 0, 10 * HOUR_MS, HOUR_MS);
	assert_int_equal(log.lines, 10);
	assert_int_equal(log.told, 10);
}

static void
after_the_end_the_next_is_a_first_one(void **state)
{
	struct refusals r = { 0 };

	(void)state;
	assert_int_equal(refusals_end(&r), 0);
	assert_true(refusals_add(&r, 1000));
	assert_false(refusals_add(&r, 1001));
	assert_int_equal(refusals_end(&r), 2);
	assert_int_equal(refusals_due(&r, HOUR_MS), 0);
	assert_true(refusals_add(&r, 1002));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(eight_hours_are_some_lines_and_all_is_counted),
		cmocka_unit_test(the_first_is_told_at_once_and_the_rest_soon),
		cmocka_unit_test(a_rare_one_has_a_line_of_its_own),
		cmocka_unit_test(after_the_end_the_next_is_a_first_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
