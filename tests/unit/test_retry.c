/* When the next attempt is due, and when there is none (durability.md rows 14, 20-28). */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/base.h"
#include "delivery/breaker.h"
#include "delivery/pace.h"
#include "delivery/retry.h"

#define MINUTE 60000u
#define HOUR (60 * MINUTE)
#define DAY (24u * HOUR)

static const struct retry_policy policy = { MINUTE, 4 * HOUR, 5u * DAY, 4 * HOUR };

static void
the_wait_doubles_from_first_to_max(void **state)
{
	static const struct {
		unsigned attempts;
		uint64_t wait_ms;
	} rows[] = { { 1, MINUTE }, { 2, 2 * MINUTE }, { 3, 4 * MINUTE }, { 8, 128 * MINUTE },
		{ 9, 4 * HOUR }, { 10, 4 * HOUR }, { 4000000000u, 4 * HOUR } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		for (uint32_t random = 0; random < 200000; random += 997) {
			uint64_t wait = retry_wait_ms(&policy, rows[i].attempts, random);

			assert_in_range(wait, rows[i].wait_ms - rows[i].wait_ms / 8,
			    rows[i].wait_ms + rows[i].wait_ms / 8);
			assert_true(wait <= policy.max_ms);
		}
}

static void
a_stored_time_is_clamped_whatever_the_clock_did(void **state)
{
	uint64_t year = 365ull * DAY, now = 50 * year;

	(void)state;
	assert_int_equal(retry_resume_ms(&policy, now + 1000, now), 1000);
	assert_int_equal(retry_resume_ms(&policy, now - 1000, now), 0);
	assert_int_equal(retry_resume_ms(&policy, now, now - year), policy.max_ms); /* set back */
	assert_int_equal(retry_resume_ms(&policy, now, now + 10 * year), 0);
	assert_int_equal(retry_age_ms(now, now - year), 0);
	assert_int_equal(retry_age_ms(now - 5, now), 5);
}

static void
age_alone_never_bounces(void **state)
{
	static const struct {
		uint64_t age_ms;
		unsigned attempts;
		bool expired;
	} rows[] = { { 4ull * DAY, 40, false }, { 5ull * DAY, 30, true },
		{ 3650ull * DAY, 1, false }, { 3650ull * DAY, 8, false },
		{ 3650ull * DAY, 9, true } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_int_equal(
		    retry_is_expired(&policy, rows[i].age_ms, rows[i].attempts), rows[i].expired);
	assert_true(retry_is_late(&policy, 4 * HOUR));
	assert_false(retry_is_late(&policy, 4 * HOUR - 1));
	assert_false(retry_is_late(&(struct retry_policy){ .warn_ms = 0 }, DAY));
}

static void
probe(enum breaker_cause cause, const uint64_t pauses[8])
{
	struct breaker b;
	uint64_t now = 1000;

	breaker_init(&b);
	assert_true(breaker_may_try(&b, now));
	assert_true(breaker_fail(&b, cause, false, now, 0));
	for (size_t i = 0; i < 8; i++) {
		assert_int_equal(b.retry_at_ms, now + pauses[i]);
		assert_false(breaker_may_try(&b, now + pauses[i] - 1));
		/* other connections that die of the same change nothing */
		assert_false(breaker_fail(&b, cause, false, now + 1, 0));
		now += pauses[i];
		assert_true(breaker_may_try(&b, now));
		assert_false(breaker_may_try(&b, now));               /* one probe, not two */
		assert_false(breaker_fail(&b, cause, false, now, 0)); /* no news */
	}
	now = b.retry_at_ms;
	assert_true(breaker_may_try(&b, now));
	assert_true(breaker_succeed(&b));
	assert_false(breaker_succeed(&b));
	assert_true(breaker_may_try(&b, now));
}

static void
a_breaker_lets_one_probe_out_at_growing_pauses(void **state)
{
	(void)state;
	probe(BREAKER_NETWORK,
	    (const uint64_t[]){ 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000 });
	probe(BREAKER_OPERATOR,
	    (const uint64_t[]){ 5000, 10000, 20000, 40000, 80000, 160000, 300000, 300000 });
}

static void
a_refused_password_is_left_alone_for_a_quarter_of_an_hour(void **state)
{
	struct breaker b;

	(void)state;
	breaker_init(&b);
	breaker_fail(&b, BREAKER_NETWORK, false, 0, 0);
	/* a worse cause takes over from a milder one, also while it is open */
	assert_true(breaker_fail(&b, BREAKER_PASSWORD, false, 100, 0));
	assert_int_equal(b.retry_at_ms, 100 + 15 * MINUTE);
	assert_false(breaker_fail(&b, BREAKER_NETWORK, false, 200, 0));
	assert_int_equal(b.retry_at_ms, 100 + 15 * MINUTE);
	breaker_nudge(&b, 300); /* the operator wrote a new password */
	assert_true(breaker_may_try(&b, 300));
	breaker_unasked(&b, 400);
	assert_true(breaker_may_try(&b, 400));
	assert_false(breaker_fail(&b, BREAKER_PASSWORD, false, 500, 0));
	assert_int_equal(b.retry_at_ms, 500 + 30 * MINUTE);
}

static void
a_rate_is_kept_and_its_burst_is_a_second(void **state)
{
	struct pace p;
	uint64_t wait = 0;
	unsigned sent = 0;

	(void)state;
	pace_init(&p, 14, 1000, 0, 5000);
	for (uint64_t now = 5000; now < 15000; now++)
		while (pace_take(&p, now, &wait) == PACE_FREE)
			sent++;
	assert_in_range(sent, 150, 154);
	assert_in_range(wait, 1, 72);
}

static void
no_rate_is_no_limit(void **state)
{
	struct pace p;
	uint64_t wait;

	(void)state;
	pace_init(&p, 0, 0, 0, 0);
	for (unsigned i = 0; i < 100000; i++)
		assert_int_equal(pace_take(&p, i / 100, &wait), PACE_FREE);
	assert_false(pace_is_slowed(&p));
}

static void
a_day_has_its_number_and_an_end(void **state)
{
	struct pace p;
	uint64_t wait, now = 0;

	(void)state;
	pace_init(&p, 0, 0, 300, now);
	for (unsigned i = 0; i < 300; i++)
		assert_int_equal(pace_take(&p, now += 1000, &wait), PACE_FREE);
	assert_int_equal(pace_take(&p, now, &wait), PACE_DAILY);
	assert_in_range(wait, 1, HOUR);
	pace_give_back(&p, now);
	assert_int_equal(pace_take(&p, now, &wait), PACE_FREE);
	assert_int_equal(pace_take(&p, now + 23 * (uint64_t)HOUR, &wait), PACE_DAILY);
	assert_int_equal(pace_take(&p, now + 26 * (uint64_t)HOUR, &wait), PACE_FREE);
	assert_int_equal(pace_sent_today(&p), 1);
}

static void
slow_down_halves_the_rate_and_it_recovers(void **state)
{
	struct pace p;
	uint64_t wait, now = 1000;

	(void)state;
	pace_init(&p, 20, 1000, 0, now);
	assert_true(pace_slow(&p, now));
	assert_false(pace_slow(&p, now + 10)); /* the same burst */
	assert_true(pace_per_second(&p) > 9.9 && pace_per_second(&p) < 10.1);
	assert_true(pace_is_slowed(&p));
	assert_int_equal(pace_take(&p, now, &wait), PACE_RATE); /* a breath first */
	assert_true(pace_slow(&p, now + 3000));
	assert_true(pace_per_second(&p) < 5.1);
	for (; now < 3 * MINUTE; now += 100)
		(void)!pace_take(&p, now, &wait);
	assert_false(pace_is_slowed(&p));
}

static void
without_a_rate_the_one_that_was_reached_is_halved(void **state)
{
	struct pace p;
	uint64_t wait, now = 1000;

	(void)state;
	pace_init(&p, 0, 0, 0, now);
	for (; now < 21000; now += 10) /* 100 a second */
		assert_int_equal(pace_take(&p, now, &wait), PACE_FREE);
	assert_true(pace_slow(&p, now));
	assert_true(pace_per_second(&p) > 40 && pace_per_second(&p) < 60);
	for (unsigned i = 0; i < 100; i++) /* never below one a minute: it must find out */
		pace_slow(&p, now += 3000);
	assert_int_equal(pace_take(&p, now + 2 * MINUTE, &wait), PACE_FREE);
	(void)!pace_take(&p, now + 2 * (uint64_t)HOUR, &wait);
	assert_false(pace_is_slowed(&p));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_wait_doubles_from_first_to_max),
		cmocka_unit_test(a_stored_time_is_clamped_whatever_the_clock_did),
		cmocka_unit_test(age_alone_never_bounces),
		cmocka_unit_test(a_breaker_lets_one_probe_out_at_growing_pauses),
		cmocka_unit_test(a_refused_password_is_left_alone_for_a_quarter_of_an_hour),
		cmocka_unit_test(a_rate_is_kept_and_its_burst_is_a_second),
		cmocka_unit_test(no_rate_is_no_limit),
		cmocka_unit_test(a_day_has_its_number_and_an_end),
		cmocka_unit_test(slow_down_halves_the_rate_and_it_recovers),
		cmocka_unit_test(without_a_rate_the_one_that_was_reached_is_halved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
