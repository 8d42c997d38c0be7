/* test_syntax.c - header fields, addresses, xtext and the lines that relayd adds. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "smtp/address.h"
#include "smtp/header.h"
#include "smtp/trace.h"

/* ---- Facts about a header, whatever the chunks ---- */

static void
header_facts(void **state)
{
	static const struct {
		const char *text;
		struct header_facts want;
	} cases[] = {
		{ "", { .starts_empty = true } },
		{ "\r\nDate: x\r\n", { .starts_empty = true } },
		{ "\nDate: x\r\n", { .starts_empty = true } },
		{ "Date: x\r\n\r\nDate: y\r\n", { .date = 1, .has_header = true } },
		{ "DATE : x\r\nmessage-id:y", { .date = 1, .message_id = 1, .has_header = true } },
		{ "Subject: x\r\n Date: y\r\n\tReceived: z\r\nReceived: a\r\nReceived: b\r\n",
		    { .received = 2, .has_header = true } },
		{ "Resent-Date: x\r\nFrom: y\r\nBcc: z\r\n",
		    { .resent = 1, .from = 1, .bcc = 1, .has_header = true } },
		{ "hello world\r\nDate: x\r\n", { .has_header = false } },
		{ "hello\r\nDate: x\r\n", { .has_header = false } },
		{ "hello", { .has_header = false } },
		{ " Date: x\r\nDate: y\r\n", { .has_header = false } },
		{ ": x\r\n", { .has_header = false } },
		{ "From ann Tue\r\nDate: x\r\n", { .date = 1, .has_header = true } },
		{ "Subject: x\r\nfrom ann\r\nDate: x\r\n", { .has_header = true } },
		{ "Date-and-a-name-that-is-longer-than-all: x\r\nDateX: y\r\nDat: z\r\n",
		    { .has_header = true } },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		for (size_t piece = 1; piece <= strlen(cases[i].text) + 1; piece++) {
			const struct header_facts *want = &cases[i].want;
			struct span rest = span_of(cases[i].text);
			struct header_scan h;

			header_scan_begin(&h);
			while (rest.len > 0) {
				const size_t n = rest.len < piece ? rest.len : piece;

				header_scan_take(&h, (struct span){ rest.data, n });
				rest = span_skip(rest, n);
			}
			header_scan_finish(&h);
			assert_int_equal(h.facts.received, want->received);
			assert_int_equal(h.facts.from, want->from);
			assert_int_equal(h.facts.date, want->date);
			assert_int_equal(h.facts.message_id, want->message_id);
			assert_int_equal(h.facts.bcc, want->bcc);
			assert_int_equal(h.facts.resent, want->resent);
			assert_int_equal(h.facts.has_header, want->has_header);
			assert_int_equal(h.facts.starts_empty, want->starts_empty);
		}
}

/* A loop through this host is seen by the lines that it wrote itself, not by those of others. */
static void
own_received_lines(void **state)
{
	const struct header_facts none = { .date = 1, .message_id = 1, .has_header = true };
	struct trace t = {
		.client = "uid 1", .hostname = "r.org", .queue_id = "1", .header = &none
	};
	char text[5 * TRACE_MAX] = "Subject: x\r\n\tby r.org (relayd) with\r\n"
	                           "Received: x\r\n\tby\nReceived: y\r\n";
	size_t len = strlen(text);

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		t.hostname = i == 2 ? "other.org" : "r.org";
		len += trace_print(&t, text + len);
	}
	for (size_t piece = 1; piece < 200; piece += 7) {
		struct header_scan h;

		header_scan_begin(&h);
		h.own = "r.org";
		for (size_t at = 0; at < len; at += piece)
			header_scan_take(
			    &h, (struct span){ text + at, len - at < piece ? len - at : piece });
		assert_int_equal(h.facts.received, 6);
		assert_int_equal(h.facts.own, 3);
	}
}

static void
header_fields_one_by_one(void **state)
{
	struct span rest = SPAN("To: a\n b\r\nbCC :\r\n c@x.org\r\n\r\nBcc: body\r\n");
	struct header_field field;

	(void)state;
	assert_int_equal(header_next(&rest, &field), HEADER_FIELD);
	assert_true(header_is(field, "to") && header_is_recipient(field) && !header_is_bcc(field));
	assert_true(span_equals(field.body, SPAN(" a\n b")));
	assert_int_equal(header_next(&rest, &field), HEADER_FIELD);
	assert_true(header_is_bcc(field) && header_is_recipient(field));
	assert_true(span_equals(field.raw, SPAN("bCC :\r\n c@x.org\r\n")));
	assert_int_equal(header_next(&rest, &field), HEADER_END);
	assert_true(span_equals(rest, SPAN("Bcc: body\r\n")));
	rest = SPAN("no field\n");
	assert_int_equal(header_next(&rest, &field), HEADER_BODY);
	rest = SPAN("");
	assert_int_equal(header_next(&rest, &field), HEADER_END);
}

/* ---- Address lists ---- */

static int
collect(void *arg, struct span address)
{
	char *out = arg;
	const size_t len = strlen(out);

	snprintf(out + len, 1000 - len, "[%.*s]", (int)address.len, address.data);
	return 0;
}

static void
address_lists(void **state)
{
	static const struct {
		const char *text, *want;
		int result;
	} cases[] = {
		{ "", "", 0 },
		{ " , ,, ", "", 0 },
		{ "a@x.org", "[a@x.org]", 0 },
		{ "a@x.org, b@x.org;c@x.org", "[a@x.org][b@x.org][c@x.org]", 0 },
		{ "Ann Lee <a@x.org>", "[a@x.org]", 0 },
		{ "\"Lee, Ann <z@z.org>\" <a@x.org>", "[a@x.org]", 0 },
		{ "a@x.org (Ann, (nested \\) comment)) , b@x.org", "[a@x.org][b@x.org]", 0 },
		{ "(only a comment)", "", 0 },
		{ "Ann\r\n\t<a@x.org\r\n >", "[a@x.org]", 0 },
		{ "a @ x . org", "[a@x.org]", 0 },
		{ "friends: a@x.org, B <b@x.org>;, c@x.org", "[a@x.org][b@x.org][c@x.org]", 0 },
		{ "undisclosed-recipients:;", "", 0 },
		{ "<@r.org,@s.org:a@x.org>", "[a@x.org]", 0 },
		{ "\"a b\\\"c\"@x.org", "[\"a b\\\"c\"@x.org]", 0 },
		{ "a@[IPv6:::1], b@[127.0.0.1]", "[a@[IPv6:::1]][b@[127.0.0.1]]", 0 },
		{ "root", "[root]", 0 },
		{ "\xc3\xa4@x.org", "[\xc3\xa4@x.org]", 0 },
		{ "<>", "", 0 },
		{ "=?utf-8?q?J=C3=B6rg?= <j@x.org>", "[j@x.org]", 0 },
		{ "A. N. Other, Jr <a@x.org>", "[A.N.Other][a@x.org]", 0 }, /* as sendmail does */
		{ "ann lee", "", -EINVAL },
		{ "a@x.org b@x.org", "", -EINVAL },
		{ "a@@x.org", "", -EINVAL },
		{ "<a@x.org", "", -EINVAL },
		{ "<a@x.org> <b@x.org>", "", -EINVAL },
		{ "\"a@x.org", "", -EINVAL },
		{ "a@x.org (open", "", -EINVAL },
		{ "a@x.org\\", "", -EINVAL },
		{ "a@x.org, b@", "[a@x.org]", -EINVAL },
		{ "a@x.org>", "", -EINVAL },
		{ "a@[x", "", -EINVAL },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char got[1000] = "";
		const int r = header_addresses(span_of(cases[i].text), collect, got);

		if (r != cases[i].result || strcmp(got, cases[i].want) != 0)
			fail_msg("%s: gave %s (%d)", cases[i].text, got, r);
	}
}

static void
a_long_address_is_said_to_be_long(void **state)
{
	char text[2000], got[1000] = "";

	(void)state;
	memset(text, 'a', sizeof(text));
	memcpy(text + sizeof(text) - 7, "@x.org", 7);
	assert_int_equal(header_addresses(span_of(text), collect, got), -E2BIG);
}

/* ---- Paths ---- */

static void
paths(void **state)
{
	static const struct {
		const char *text;
		enum address_result result;
		const char *local, *domain;
		size_t used;
	} cases[] = {
		{ "<a@x.org> SIZE=1", ADDRESS_OK, "a", "x.org", 9 },
		{ "<>", ADDRESS_OK, "", "", 2 },
		{ "<root>", ADDRESS_OK, "root", "", 6 },
		{ "a@x.org SIZE=1", ADDRESS_OK, "a", "x.org", 7 },
		{ "<@r.org:a@x.org>", ADDRESS_OK, "a", "x.org", 16 },
		{ "<@r.org:>", ADDRESS_SYNTAX, NULL, NULL, 0 },
		{ "<@r.org a@x.org>", ADDRESS_SYNTAX, NULL, NULL, 0 },
		{ "< a@x.org>", ADDRESS_SYNTAX, NULL, NULL, 0 },
		{ "<a@x.org >", ADDRESS_SYNTAX, NULL, NULL, 0 },
		{ "<\"a\\\"@x.org>", ADDRESS_SYNTAX, NULL, NULL, 0 },
		{ "<\"\"@x.org>", ADDRESS_OK, "\"\"", "x.org", 10 },
		{ "<\"a\tb\"@x.org>", ADDRESS_SYNTAX, NULL, NULL, 0 },
		{ "<a@x_y.org>", ADDRESS_OK, "a", "x_y.org", 11 },
		{ "<a@[]>", ADDRESS_SYNTAX, NULL, NULL, 0 },
		{ "<a\x80@x.org>", ADDRESS_BAD_UTF8, NULL, NULL, 0 },
		{ "<", ADDRESS_SYNTAX, NULL, NULL, 0 },
		{ "<@", ADDRESS_SYNTAX, NULL, NULL, 0 },
		{ "", ADDRESS_SYNTAX, NULL, NULL, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct address a = { .is_utf8 = false };
		size_t used = 0;
		const enum address_result r = address_parse_path(span_of(cases[i].text), &a, &used);

		if (r != cases[i].result)
			fail_msg("%s: %d", cases[i].text, (int)r);
		assert_int_equal(used, cases[i].used);
		if (r != ADDRESS_OK)
			continue;
		assert_true(span_equals(a.local, span_of(cases[i].local)));
		assert_true(span_equals(a.domain, span_of(cases[i].domain)));
	}
}

/* ---- xtext ---- */

static void
xtext_round_trip(void **state)
{
	char text[256], coded[1024], back[256];
	size_t n = 0;

	(void)state;
	for (int c = 0x20; c < 256; c++)
		if (c != 0x7f)
			text[n++] = (char)c;
	const long len = xtext_encode((struct span){ text, n }, coded, sizeof(coded));

	assert_true(len > 0);
	for (long i = 0; i < len; i++)
		assert_in_range((unsigned char)coded[i], 0x21, 0x7e);
	assert_int_equal(xtext_decode((struct span){ coded, (size_t)len }, back, sizeof(back)), n);
	assert_memory_equal(back, text, n);
	assert_int_equal(xtext_encode((struct span){ text, n }, coded, 10), -1);
	assert_int_equal(xtext_decode((struct span){ coded, (size_t)len }, back, 10), -1);
}

static void
xtext_that_would_inject_is_refused(void **state)
{
	static const char *const bad[] = { "a+0A", "a+0D", "a+00", "+7F", "a+", "a+4", "a+4g",
		"a+4a", "a=b", "a b", "a\tb", "\x80", "+1B" };
	char out[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(xtext_decode(span_of(bad[i]), out, sizeof(out)), -1);
	assert_int_equal(xtext_decode(SPAN("+2B+3D"), out, sizeof(out)), 2);
}

/* ---- Trace ---- */

static void
dates(void **state)
{
	static const struct {
		int64_t time_s;
		const char *want;
	} cases[] = {
		{ 0, "Thu, 01 Jan 1970 00:00:00 +0000" },
		{ 951782399, "Mon, 28 Feb 2000 23:59:59 +0000" },
		{ 951782400, "Tue, 29 Feb 2000 00:00:00 +0000" },
		{ 1795487236, "Tue, 24 Nov 2026 02:27:16 +0000" },
		{ 4107542400, "Mon, 01 Mar 2100 00:00:00 +0000" },
		{ -5, "Thu, 01 Jan 1970 00:00:00 +0000" },
		{ INT64_MAX, "Fri, 31 Dec 9999 23:59:59 +0000" },
	};
	char out[TRACE_DATE_LEN + 1];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		trace_date(cases[i].time_s, out);
		assert_string_equal(out, cases[i].want);
	}
}

static void
trace_lines(void **state)
{
	struct header_facts facts = { .date = 1, .message_id = 1, .has_header = true };
	struct trace t = { .helo = SPAN("app\r\nX: y"),
		.client = "[127.0.0.1]",
		.hostname = "relay.example.com",
		.queue_id = "0ABC",
		.esmtp = true,
		.recipient = SPAN("b@x.org"),
		.header = &facts };
	char out[TRACE_MAX];
	size_t n;

	(void)state;
	n = trace_print(&t, out);
	assert_int_equal(n, strlen(out));
	assert_string_equal(out, "Received: from app??X:?y ([127.0.0.1])\r\n"
	                         "\tby relay.example.com (relayd) with ESMTP id 0ABC\r\n"
	                         "\tfor <b@x.org>;\r\n"
	                         "\tThu, 01 Jan 1970 00:00:00 +0000\r\n");
	facts = (struct header_facts){ .has_header = false };
	t = (struct trace){ .client = "uid 1000",
		.hostname = "r.org",
		.queue_id = "0ABC",
		.smtputf8 = true,
		.header = &facts };
	trace_print(&t, out);
	assert_string_equal(out, "Received: from unknown (uid 1000)\r\n"
	                         "\tby r.org (relayd) with UTF8SMTP id 0ABC;\r\n"
	                         "\tThu, 01 Jan 1970 00:00:00 +0000\r\n"
	                         "Date: Thu, 01 Jan 1970 00:00:00 +0000\r\n"
	                         "Message-ID: <0ABC.0@r.org>\r\n"
	                         "\r\n");
	facts.starts_empty = true; /* the message brings its own empty line */
	trace_print(&t, out);
	assert_non_null(strstr(out, "@r.org>\r\n"));
	assert_null(strstr(out, "\r\n\r\n"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(header_facts),
		cmocka_unit_test(own_received_lines),
		cmocka_unit_test(header_fields_one_by_one),
		cmocka_unit_test(address_lists),
		cmocka_unit_test(a_long_address_is_said_to_be_long),
		cmocka_unit_test(paths),
		cmocka_unit_test(xtext_round_trip),
		cmocka_unit_test(xtext_that_would_inject_is_refused),
		cmocka_unit_test(dates),
		cmocka_unit_test(trace_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
