/* Connections are counted by uid where it is known, else by address; an end is an end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "intake/tally.h"

static struct peer
peer_from(uint32_t uid, uint8_t last_byte)
{
	return (struct peer){
		.family = AF_INET, .uid = uid, .address = { 127, 0, 0, last_byte }, .unit = ""
	};
}

static void
a_uid_is_one_client_whatever_its_address(void **state)
{
	struct tally *tally = NULL;
	struct peer one = peer_from(1000, 1), two = peer_from(1000, 2), other = peer_from(1001, 1);

	(void)state;
	assert_int_equal(tally_add(&tally, &one), 1);
	assert_int_equal(tally_add(&tally, &two), 2);
	assert_int_equal(tally_add(&tally, &other), 1);
	tally_drop(&tally, &one);
	assert_int_equal(tally_add(&tally, &two), 2);
	tally_drop(&tally, &two);
	tally_drop(&tally, &two);
	tally_drop(&tally, &other);
	assert_null(tally);
}

static void
without_a_uid_the_address_is_the_client(void **state)
{
	struct tally *tally = NULL;
	struct peer one = peer_from(PEER_UID_UNKNOWN, 1), two = peer_from(PEER_UID_UNKNOWN, 2);
	struct peer six = { .family = AF_INET6, .uid = PEER_UID_UNKNOWN, .unit = "" };

	(void)state;
	one.port = 1;
	assert_int_equal(tally_add(&tally, &one), 1);
	one.port = 2; /* the port is another with each connection */
	assert_int_equal(tally_add(&tally, &one), 2);
	assert_int_equal(tally_add(&tally, &two), 1);
	assert_int_equal(tally_add(&tally, &six), 1);
	tally_drop(&tally, &six);
	tally_drop(&tally, &two);
	tally_drop(&tally, &one);
	tally_drop(&tally, &one);
	assert_null(tally);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_uid_is_one_client_whatever_its_address),
		cmocka_unit_test(without_a_uid_the_address_is_the_client),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
