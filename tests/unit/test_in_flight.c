/* I4: what delivery may repeat when it dies is known by name to the next one, or at least as a number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "spool/in_flight.h"

enum { MOST = 100 };

static int
make_page(void **state)
{
	struct shared_page *page;
	int fd;

	assert_int_equal(shared_page_create(&fd, &page), 0);
	close(fd);
	*state = page;
	return 0;
}

static int
drop_page(void **state)
{
	shared_page_unmap(*state);
	return 0;
}

static void
what_was_on_its_way_is_known_to_the_next(void **state)
{
	struct in_flight *first = in_flight_open(*state, MOST), *second;
	uint32_t mark = in_flight_enter(first, 7);

	in_flight_told(first);
	(void)in_flight_enter(first, 9);
	(void)in_flight_enter(first, 8);
	in_flight_leave(first, mark); /* its outcome is durable */
	in_flight_close(first);       /* it dies */

	second = in_flight_open(*state, MOST);
	assert_false(in_flight_was_sent(second, 7));
	assert_true(in_flight_was_sent(second, 8));
	assert_true(in_flight_was_sent(second, 9));
	assert_int_equal(in_flight_unnamed(second, false), 0);
	in_flight_close(second);
}

static void
the_old_marks_outlive_a_second_death_before_they_were_told(void **state)
{
	struct in_flight *f = in_flight_open(*state, MOST);

	(void)in_flight_enter(f, 1);
	in_flight_close(f);
	f = in_flight_open(*state, MOST);
	(void)in_flight_enter(f, 2);
	in_flight_close(f);
	f = in_flight_open(*state, MOST);
	assert_true(in_flight_was_sent(f, 1));
	assert_true(in_flight_was_sent(f, 2));
	in_flight_forget(f);
	(void)in_flight_enter(f, 3);
	in_flight_close(f);
	f = in_flight_open(*state, MOST);
	assert_false(in_flight_was_sent(f, 1));
	assert_true(in_flight_was_sent(f, 3));
	in_flight_close(f);
}

/* Nobody kept the page: the journal alone tells that something may have been on its way. */
static void
without_a_page_it_is_a_number(void **state)
{
	struct in_flight *f = in_flight_open(*state, MOST);

	assert_int_equal(in_flight_unnamed(f, true), 0);
	assert_int_equal(in_flight_unnamed(f, false), MOST);
	in_flight_close(f); /* it dies before it has told that: the next one does */
	f = in_flight_open(*state, MOST);
	assert_int_equal(in_flight_unnamed(f, false), MOST);
	in_flight_told(f);
	assert_int_equal(in_flight_unnamed(f, false), 0);
	in_flight_forget(f);
	assert_int_equal(in_flight_unnamed(f, false), 0);
	in_flight_close(f);
	f = in_flight_open(*state, MOST);
	assert_int_equal(in_flight_unnamed(f, false), 0);
	in_flight_close(f);
}

static void
more_than_there_are_marks_are_counted(void **state)
{
	static uint32_t marks[SHARED_PAGE_MARKS + 3];
	struct in_flight *f = in_flight_open(*state, MOST);

	in_flight_told(f);
	for (uint32_t i = 0; i < ARRAY_LEN(marks); i++)
		marks[i] = in_flight_enter(f, 1000 + i);
	in_flight_leave(f, marks[ARRAY_LEN(marks) - 1]);
	in_flight_close(f);
	f = in_flight_open(*state, MOST);
	assert_int_equal(in_flight_unnamed(f, false), 2);
	for (uint32_t i = 0; i < SHARED_PAGE_MARKS; i++)
		assert_true(in_flight_was_sent(f, 1000 + i));
	in_flight_forget(f);
	in_flight_close(f);
	f = in_flight_open(*state, MOST);
	assert_int_equal(in_flight_unnamed(f, false), 0);
	assert_false(in_flight_was_sent(f, 1000));
	for (uint32_t i = 0; i < SHARED_PAGE_MARKS; i++)
		assert_true(in_flight_enter(f, i + 1) <= SHARED_PAGE_MARKS);
	in_flight_close(f);
}

int
main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, make_page, drop_page)
	const struct CMUnitTest tests[] = {
		TEST(what_was_on_its_way_is_known_to_the_next),
		TEST(the_old_marks_outlive_a_second_death_before_they_were_told),
		TEST(without_a_page_it_is_a_number),
		TEST(more_than_there_are_marks_are_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
