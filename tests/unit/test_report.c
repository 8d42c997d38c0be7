/* What scripts may rely on: the names in `queue --json`, whatever bytes the message brings. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/base.h"
#include "base/queue_id.h"
#include "delivery/report.h"
#include "delivery/report_row.h"

static const char *
text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	assert_non_null(text);
	return text;
}

static void
a_message_has_the_promised_names(void **state)
{
	static const char *const names[] = { "id", "state", "sender", "size", "arrived",
		"next_attempt", "uid", "unit", "upstream", "recipients" };
	static const char *const recipient_names[] = { "recipient", "state", "attempts", "reply" };
	const struct report_recipient recipients[] = {
		{ SPAN("c@example.org"), "deferred", 2, 450, SPAN("4.2.1"), SPAN("busy") },
		{ SPAN("d@example.org"), "delivered", 1, 250, { NULL, 0 }, SPAN("ok") },
	};
	const struct report_message m = { .id = queue_id_make(1700000000, 7),
		.state = "deferred",
		.sender = SPAN("a@example.org"),
		.size_bytes = 1234,
		.arrived_ms = 1795487224000,
		.next_attempt_ms = 1795487284999,
		.uid = 33,
		.unit = SPAN("apache2.service"),
		.upstream = SPAN("gmail"),
		.recipients = recipients,
		.n_recipients = 2 };
	json_t *object = report_message(&m), *list = json_object_get(object, "recipients");

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		assert_non_null(json_object_get(object, names[i]));
	assert_int_equal(json_object_size(object), ARRAY_LEN(names));
	assert_int_equal(strlen(text_of(object, "id")), QUEUE_ID_LEN);
	assert_string_equal(text_of(object, "arrived"), "2026-11-24T02:27:04Z");
	assert_string_equal(text_of(object, "next_attempt"), "2026-11-24T02:28:04Z");
	assert_int_equal(json_integer_value(json_object_get(object, "size")), 1234);
	assert_int_equal(json_integer_value(json_object_get(object, "uid")), 33);
	assert_int_equal(json_array_size(list), 2);
	for (size_t i = 0; i < ARRAY_LEN(recipient_names); i++)
		assert_non_null(json_object_get(json_array_get(list, 0), recipient_names[i]));
	assert_string_equal(text_of(json_array_get(list, 0), "reply"), "450 4.2.1 busy");
	json_decref(object);
}

static void
what_is_unknown_is_null_or_empty(void **state)
{
	const struct report_message m = { .state = "queued", .uid = -1 };
	json_t *object = report_message(&m);

	(void)state;
	assert_true(json_is_null(json_object_get(object, "uid")));
	assert_true(json_is_null(json_object_get(object, "next_attempt")));
	assert_string_equal(text_of(object, "sender"), "");
	assert_string_equal(text_of(object, "unit"), "");
	assert_true(json_is_array(json_object_get(object, "recipients")));
	json_decref(object);
}

static void
any_bytes_become_a_string(void **state)
{
	static const struct span rows[] = { { "\xff\xfe", 2 }, { "a\0b", 3 }, { "\x1b[31m", 5 },
		{ "\xc3", 1 }, { "gr\xc3\xbc\xc3\x9f", 6 }, { "\"\\", 2 }, { NULL, 0 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		json_t *string = report_text(rows[i]);
		char *line = json_dumps(string, JSON_ENCODE_ANY);

		assert_non_null(line);
		assert_null(strchr(line, '\n'));
		assert_null(strchr(line, '\x1b'));
		free(line);
		json_decref(string);
	}
}

/* The line of a list is made without objects: what a peer has said must not get out of its string. */
static void
a_line_is_one_line_of_json(void **state)
{
	static const struct span said[] = { { "\xff\xfe", 2 }, { "a\0b", 3 }, { "\x1b[31m\n{}", 8 },
		{ "gr\xc3\xbc\xc3\x9f", 6 }, { "\",\"id\":\"\\", 9 }, { NULL, 0 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(said); i++) {
		const struct report_recipient r = { said[i], "held", 1, 550, said[i], said[i] };
		const struct report_message m = { .state = "held",
			.sender = said[i],
			.unit = said[i],
			.upstream = said[i],
			.uid = -1,
			.recipients = &r,
			.n_recipients = 1 };
		struct report_text line = { 0 };
		json_t *object, *string = report_text(said[i]);

		report_print(&line, &m);
		assert_null(memchr(line.text, '\n', line.len));
		assert_null(memchr(line.text, '\x1b', line.len));
		object = json_loadb(line.text, line.len, JSON_ALLOW_NUL, NULL);
		assert_int_equal(json_object_size(object), 10);
		assert_true(json_equal(json_object_get(object, "sender"), string));
		assert_true(json_equal(json_object_get(object, "unit"), string));
		json_decref(string);
		json_decref(object);
		free(line.text);
	}
}

static void
a_row_is_for_people(void **state)
{
	static const struct report_recipient to[] = {
		{ SPAN("c@example.org"), "deferred", 2, 450, SPAN("4.2.1"), SPAN("busy\x1b[2J\n") },
		{ SPAN("d@example.org"), "delivered", 1, 250, { NULL, 0 }, SPAN("ok") },
		{ SPAN("e@example.org"), "deferred", 1, 0, { NULL, 0 }, SPAN("no connection") },
		{ SPAN("f@example.org"), "deferred", 0, 0, { NULL, 0 }, { NULL, 0 } },
	};
	static const char wanted[] =
	    "00TR4ZW900007  deferred    1.2 KiB  2 min ago     in 1 h 1 min  <>\n"
	    "               -> c@example.org  450 4.2.1 busy\\x1b[2J\\x0a\n"
	    "               -> d@example.org  [delivered]  250 ok\n"
	    "               -> e@example.org  no connection\n"
	    "               -> f@example.org\n";
	const uint64_t now_ms = 1795487224000;
	struct report_message m = { .state = "deferred",
		.size_bytes = 1234,
		.arrived_ms = now_ms - 120000,
		.next_attempt_ms = now_ms + 3660000,
		.recipients = to,
		.n_recipients = ARRAY_LEN(to) };
	struct report_text text = { 0 };

	(void)state;
	assert_true(queue_id_parse(span_of("00TR4ZW900007"), &m.id));
	report_row_print(&text, &m, now_ms);
	report_put(&text, (struct span){ "", 1 });
	assert_string_equal(text.text, wanted);
	text.len = 0;
	m.state = "queued";
	m.n_recipients = 0;
	m.sender = SPAN("a@example.org");
	report_row_print(&text, &m, now_ms);
	report_put(&text, (struct span){ "", 1 });
	assert_non_null(strstr(text.text, "  now           a@example.org\n"));
	free(text.text);
}

static void
details_are_added_beside(void **state)
{
	const struct report_attempt history[] = { { .time_ms = 1795487224000,
	    .recipient = SPAN("c@example.org"),
	    .state = "deferred",
	    .attempt = 1,
	    .reply = SPAN("450 busy"),
	    .upstream = SPAN("gmail") } };
	const struct report_details details = { .client = SPAN("127.0.0.1"),
		.headers = SPAN("Subject: x\r\n"),
		.history = history,
		.n_history = 1 };
	const struct report_message m = { .state = "queued", .uid = -1 };
	json_t *object = report_message(&m);

	(void)state;
	report_add_details(object, &details);
	assert_string_equal(text_of(object, "headers"), "Subject: x\r\n");
	assert_string_equal(
	    text_of(json_array_get(json_object_get(object, "history"), 0), "reply"), "450 busy");
	json_decref(object);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_message_has_the_promised_names),
		cmocka_unit_test(what_is_unknown_is_null_or_empty),
		cmocka_unit_test(any_bytes_become_a_string),
		cmocka_unit_test(a_line_is_one_line_of_json),
		cmocka_unit_test(a_row_is_for_people),
		cmocka_unit_test(details_are_added_beside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
