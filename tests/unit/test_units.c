/* Numbers with units, addresses with ports, networks, queue IDs: what is taken, and what is not. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <netinet/in.h>

#include "base/base.h"
#include "base/netaddr.h"
#include "base/queue_id.h"
#include "base/units.h"

#define K 1024u
#define M (1024u * 1024)
#define G (1024ull * 1024 * 1024)
#define DAY (86400ull * 1000)

static void
sizes_take_k_m_g(void **state)
{
	static const struct {
		const char *text;
		int r;
		uint64_t bytes;
		const char *printed;
	} rows[] = {
		{ "0", 0, 0, "0" },
		{ "1", 0, 1, "1" },
		{ "1000", 0, 1000, "1000" },
		{ "64M", 0, 64 * M, "64M" },
		{ "512k", 0, 512 * K, "512K" },
		{ "2G", 0, 2 * G, "2G" },
		{ "1536K", 0, 1536 * K, "1536K" },
		{ "2048K", 0, 2 * M, "2M" },
		{ "", -EINVAL, 0, NULL },
		{ "M", -EINVAL, 0, NULL },
		{ "64 M", -EINVAL, 0, NULL },
		{ "64MB", -EINVAL, 0, NULL },
		{ "64T", -EINVAL, 0, NULL },
		{ "-1", -EINVAL, 0, NULL },
		{ "+1", -EINVAL, 0, NULL },
		{ "0x10", -EINVAL, 0, NULL },
		{ "18446744073709551616", -ERANGE, 0, NULL },
		{ "9999999999G", -ERANGE, 0, NULL },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint64_t bytes = 42;
		char text[UNITS_TEXT_MAX];

		assert_int_equal(units_parse_bytes(rows[i].text, &bytes), rows[i].r);
		assert_int_equal(bytes, rows[i].r == 0 ? rows[i].bytes : 42);
		if (rows[i].r < 0)
			continue;
		units_print_bytes(bytes, text);
		assert_string_equal(text, rows[i].printed);
	}
}

static void
durations_need_a_unit(void **state)
{
	static const struct {
		const char *text;
		int r;
		uint64_t ms;
		const char *printed;
	} rows[] = {
		{ "0", 0, 0, "0" },
		{ "0s", 0, 0, "0" },
		{ "1ms", 0, 1, "1ms" },
		{ "1500ms", 0, 1500, "1500ms" },
		{ "30s", 0, 30000, "30s" },
		{ "90s", 0, 90000, "90s" },
		{ "1m", 0, 60000, "1m" },
		{ "4h", 0, DAY / 6, "4h" },
		{ "5d", 0, 5 * DAY, "5d" },
		{ "1h30m", 0, 5400000, "90m" },
		{ "24h", 0, DAY, "1d" },
		{ "5", -EINVAL, 0, NULL },
		{ "5 m", -EINVAL, 0, NULL },
		{ "m", -EINVAL, 0, NULL },
		{ "", -EINVAL, 0, NULL },
		{ "1w", -EINVAL, 0, NULL },
		{ "1h30", -EINVAL, 0, NULL },
		{ "-1s", -EINVAL, 0, NULL },
		{ "1.5h", -EINVAL, 0, NULL },
		{ "999999999999999d", -ERANGE, 0, NULL },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint64_t ms = 42;
		char text[UNITS_TEXT_MAX];

		assert_int_equal(units_parse_ms(rows[i].text, &ms), rows[i].r);
		assert_int_equal(ms, rows[i].r == 0 ? rows[i].ms : 42);
		if (rows[i].r < 0)
			continue;
		units_print_ms(ms, text);
		assert_string_equal(text, rows[i].printed);
	}
}

static void
rates_are_a_number_in_a_time(void **state)
{
	static const struct {
		const char *text;
		int r;
		struct config_rate rate;
		const char *printed;
	} rows[] = {
		{ "14/s", 0, { 14, 1000 }, "14/s" },
		{ "30/m", 0, { 30, 60000 }, "30/m" },
		{ "500/h", 0, { 500, 3600000 }, "500/h" },
		{ "0", 0, { 0, 0 }, "0" },
		{ "0/s", 0, { 0, 0 }, "0" },
		{ "14", -EINVAL, { 0, 0 }, NULL },
		{ "14/d", -EINVAL, { 0, 0 }, NULL },
		{ "14/", -EINVAL, { 0, 0 }, NULL },
		{ "/s", -EINVAL, { 0, 0 }, NULL },
		{ "14/sec", -EINVAL, { 0, 0 }, NULL },
		{ "5000000000/s", -ERANGE, { 0, 0 }, NULL },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct config_rate rate = { 42, 42 };
		char text[UNITS_TEXT_MAX];

		assert_int_equal(units_parse_rate(rows[i].text, &rate), rows[i].r);
		assert_int_equal(rate.count, rows[i].r == 0 ? rows[i].rate.count : 42);
		assert_int_equal(rate.per_ms, rows[i].r == 0 ? rows[i].rate.per_ms : 42);
		if (rows[i].r < 0)
			continue;
		units_print_rate(rate, text);
		assert_string_equal(text, rows[i].printed);
	}
}

static void
a_listener_is_an_address_with_a_port_or_a_path(void **state)
{
	static const char long_path[] =
	    "unix:/123456789/123456789/123456789/123456789/123456789/123456789/123456789/123456789"
	    "/123456789/123456789/1234567";
	static const struct {
		const char *text;
		int r;
		int family;
		const char *printed;
	} rows[] = {
		{ "127.0.0.1:25", 0, AF_INET, "127.0.0.1:25" },
		{ "0.0.0.0:65535", 0, AF_INET, "0.0.0.0:65535" },
		{ "[::1]:587", 0, AF_INET6, "[::1]:587" },
		{ "[0:0::0:1]:587", 0, AF_INET6, "[::1]:587" },
		{ "unix:/run/relayd/submit", 0, AF_UNIX, "unix" },
		{ "127.0.0.1", -EINVAL, 0, NULL },
		{ "127.0.0.1:", -EINVAL, 0, NULL },
		{ "127.0.0.1:0", -EINVAL, 0, NULL },
		{ "127.0.0.1:65536", -EINVAL, 0, NULL },
		{ "127.0.0.1:25x", -EINVAL, 0, NULL },
		{ "[127.0.0.1]:25", -EINVAL, 0, NULL },
		{ "::1:25", -EINVAL, 0, NULL },
		{ "[::1]", -EINVAL, 0, NULL },
		{ "localhost:25", -EINVAL, 0, NULL },
		{ ":25", -EINVAL, 0, NULL },
		{ "", -EINVAL, 0, NULL },
		{ "unix:", -EINVAL, 0, NULL },
		{ "unix:submit", -EINVAL, 0, NULL },
		{ long_path, -ENAMETOOLONG, 0, NULL },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct sockaddr_storage sa = { 0 };
		socklen_t len = 0;
		char text[NETADDR_TEXT_MAX];

		assert_int_equal(netaddr_parse(rows[i].text, &sa, &len), rows[i].r);
		if (rows[i].r < 0)
			continue;
		assert_int_equal(sa.ss_family, rows[i].family);
		assert_true(len > 0);
		netaddr_print_port((struct sockaddr *)&sa, text);
		assert_string_equal(text, rows[i].printed);
	}
}

static void
a_network_has_no_bits_behind_its_prefix(void **state)
{
	static const struct {
		const char *text;
		int r;
		unsigned prefix_bits;
	} rows[] = {
		{ "127.0.0.0/8", 0, 8 },
		{ "10.1.2.3", 0, 32 },
		{ "0.0.0.0/0", 0, 0 },
		{ "::1", 0, 128 },
		{ "fe80::/10", 0, 10 },
		{ "10.0.0.1/8", -EINVAL, 0 },
		{ "10.0.0.0/33", -EINVAL, 0 },
		{ "::/129", -EINVAL, 0 },
		{ "10.0.0.0/", -EINVAL, 0 },
		{ "10.0.0", -EINVAL, 0 },
		{ "localhost", -EINVAL, 0 },
		{ "", -EINVAL, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct config_cidr network = { .text = "" };

		assert_int_equal(netaddr_parse_network(rows[i].text, &network), rows[i].r);
		if (rows[i].r == 0)
			assert_int_equal(network.prefix_bits, rows[i].prefix_bits);
	}
}

static void
an_address_is_in_its_networks_also_in_ipv6_dress(void **state)
{
	static const struct {
		const char *address, *network;
		bool is_in;
	} rows[] = {
		{ "127.0.0.1:1", "127.0.0.0/8", true },
		{ "128.0.0.1:1", "127.0.0.0/8", false },
		{ "10.1.2.3:1", "10.1.2.0/23", true },
		{ "10.1.4.3:1", "10.1.2.0/23", false },
		{ "10.1.2.3:1", "0.0.0.0/0", true },
		{ "[::1]:1", "::1", true },
		{ "[::2]:1", "::1", false },
		{ "[::1]:1", "0.0.0.0/0", false },
		{ "[::ffff:127.0.0.9]:1", "127.0.0.0/8", true },
		{ "[::ffff:127.0.0.9]:1", "::/0", false },
		{ "[fe81::1]:1", "fe80::/10", true },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct sockaddr_storage sa;
		struct config_cidr network = { .text = "" };
		socklen_t len;

		assert_int_equal(netaddr_parse(rows[i].address, &sa, &len), 0);
		assert_int_equal(netaddr_parse_network(rows[i].network, &network), 0);
		assert_int_equal(netaddr_is_in((struct sockaddr *)&sa, &network), rows[i].is_in);
	}
}

static void
a_queue_id_reads_back_in_any_case(void **state)
{
	static const struct {
		uint64_t id;
		const char *text;
	} rows[] = {
		{ 0, "0000000000000" },
		{ 31, "000000000000Z" },
		{ 0x00ffffffffffffff, "01ZZZZZZZZZZZ" },
	};
	char text[QUEUE_ID_LEN + 1];
	uint64_t id;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		queue_id_print(rows[i].id, text);
		assert_string_equal(text, rows[i].text);
		assert_true(queue_id_parse(span_of(text), &id));
		assert_int_equal(id, rows[i].id);
	}
	queue_id_print(queue_id_make(0x69240000, 0xabcdef), text);
	assert_true(queue_id_parse(span_of(text), &id));
	assert_int_equal(id, 0x0069240000abcdef);
	for (char *p = text; *p != '\0'; p++)
		*p = (char)(*p >= 'A' ? *p | 0x20 : *p);
	assert_true(queue_id_parse(span_of(text), &id));
	assert_int_equal(id, 0x0069240000abcdef);
}

static void
what_is_no_queue_id_is_refused(void **state)
{
	static const struct span rows[] = { SPAN(""), SPAN("000000000000"), SPAN("00000000000000"),
		SPAN("000000000000I"), SPAN("000000000000L"), SPAN("000000000000O"),
		SPAN("000000000000U"), SPAN("1000000000000"), SPAN("000000000000-"),
		SPAN("000000\000000000"), SPAN("00000000000 0") };
	uint64_t id = 42;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_false(queue_id_parse(rows[i], &id));
	assert_int_equal(id, 42);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_take_k_m_g),
		cmocka_unit_test(durations_need_a_unit),
		cmocka_unit_test(rates_are_a_number_in_a_time),
		cmocka_unit_test(a_listener_is_an_address_with_a_port_or_a_path),
		cmocka_unit_test(a_network_has_no_bits_behind_its_prefix),
		cmocka_unit_test(an_address_is_in_its_networks_also_in_ipv6_dress),
		cmocka_unit_test(a_queue_id_reads_back_in_any_case),
		cmocka_unit_test(what_is_no_queue_id_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
