/* What a log line looks like, what it never holds, and that writing it never waits. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "base/events.h"
#include "base/log.h"

/* ---- stderr in our hands ---- */

static int kept_stderr = -1;
static char seen[65536];

/* Puts `fd` in stderr's place. */
static void
take_stderr(int fd)
{
	kept_stderr = dup(STDERR_FILENO);
	assert_true(kept_stderr >= 0);
	assert_int_equal(dup2(fd, STDERR_FILENO), STDERR_FILENO);
}

static void
give_stderr(void)
{
	dup2(kept_stderr, STDERR_FILENO);
	close(kept_stderr);
	log_open("test", LOG_TO_STDERR, LOG_ERROR);
}

static const char *
read_seen(int fd)
{
	ssize_t n = read(fd, seen, sizeof(seen) - 1);

	seen[n > 0 ? n : 0] = '\0';
	return seen;
}

/* Logs one event to `target`, returns the line. */
static const char *
line_of(
    enum log_target target, enum log_level level, const char *event, const struct log_field *fields)
{
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	take_stderr(fds[1]);
	log_open("relayd-test", target, LOG_INFO);
	log_event(level, event, fields);
	give_stderr();
	close(fds[1]);
	read_seen(fds[0]);
	close(fds[0]);
	return seen;
}

/* ---- escaping ---- */

static void
quoting_escapes_what_a_terminal_or_a_parser_would_obey(void **state)
{
	static const struct {
		struct span in;
		const char *out;
	} rows[] = {
		{ SPAN(""), "" }, { SPAN("plain text 250 ok"), "plain text 250 ok" },
		{ SPAN("caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x93\xa7"),
		    "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x93\xa7" },
		{ SPAN("a\\b"), "a\\\\b" }, { SPAN("say \"hi\""), "say \"hi\"" },
		{ SPAN("line\r\nrelayd[1]: fake"), "line\\x0d\\x0arelayd[1]: fake" },
		{ SPAN("\x1b[2J\x07\x7f\t"), "\\x1b[2J\\x07\\x7f\\x09" },
		{ SPAN("nul\0byte"), "nul\\x00byte" }, { SPAN("\xff\xfe"), "\\xff\\xfe" },
		{ SPAN("\xc0\xaf"), "\\xc0\\xaf" },                   /* overlong */
		{ SPAN("\xe0\x80\xaf"), "\\xe0\\x80\\xaf" },          /* overlong */
		{ SPAN("\xf0\x80\x80\xaf"), "\\xf0\\x80\\x80\\xaf" }, /* overlong */
		{ SPAN("\xed\xa0\x80"), "\\xed\\xa0\\x80" },          /* surrogate */
		{ SPAN("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80" }, /* above U+10FFFF */
		{ SPAN("\xe2\x82"), "\\xe2\\x82" },                   /* cut off */
		{ SPAN("\xe2\x82Z"), "\\xe2\\x82Z" },                 /* cut off */
		{ SPAN("\xc2\x9b"
		       "31m"),
		    "\\xc2\\x9b"
		    "31m" }, /* C1: CSI */
		{ SPAN("\xe2\x80\xae"
		       "gpj.exe"),
		    "\\xe2\\x80\\xae"
		    "gpj.exe" },                             /* right to left */
		{ SPAN("\xe2\x80\xa8"), "\\xe2\\x80\\xa8" }, /* line separator */
		{ SPAN("a\xe2\x80\x8b"
		       "b"),
		    "a\\xe2\\x80\\x8b"
		    "b" },                                   /* zero width */
		{ SPAN("\xef\xbb\xbf"), "\\xef\\xbb\\xbf" }, /* byte order mark */
		{ SPAN("\xc2\xa0"), "\\xc2\\xa0" },          /* no-break space */
		{ SPAN("\xe3\x80\x80"), "\\xe3\\x80\\x80" }, /* ideographic space */
		{ SPAN("\xe3\x85\xa4"), "\\xe3\\x85\\xa4" }, /* Hangul filler */
		{ SPAN("\xf4\x8f\xbf\xbf"),
		    "\\xf4\\x8f\\xbf\\xbf" }, /* the last one, no character */
		{ SPAN("\xf0\x9f\xbf\xbe"), "\\xf0\\x9f\\xbf\\xbe" }, /* no character either */
		{ SPAN("\xef\xbf\xbd"), "\xef\xbf\xbd" }, /* the replacement character */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char out[256];
		size_t len = log_quote(rows[i].in, out, sizeof(out));

		assert_string_equal(out, rows[i].out);
		assert_int_equal(len, strlen(rows[i].out));
	}
}

static void
quoting_any_bytes_gives_printable_text_that_fits(void **state)
{
	char in[64], out[200];
	uint32_t random = 1;

	(void)state;
	for (unsigned round = 0; round < 20000; round++) {
		size_t size = round % sizeof(out), len;

		for (size_t i = 0; i < sizeof(in); i++) {
			random = random * 1664525 + 1013904223;
			in[i] = (char)(random >> 24);
		}
		memset(out, '!', sizeof(out));
		len = log_quote((struct span){ in, round % sizeof(in) }, out, size);
		assert_int_equal(len, size > 0 ? strlen(out) : 0);
		for (size_t i = 0; size > 0 && out[i] != '\0'; i++)
			assert_true((unsigned char)out[i] >= 0x20 && out[i] != 0x7f);
		assert_int_equal(out[size], '!');
	}
}

static void
quoting_what_is_too_long_ends_in_dots(void **state)
{
	static const struct {
		const char *in;
		size_t size;
		const char *out;
	} rows[] = {
		{ "0123456789", 11, "0123456789" }, { "0123456789", 10, "012345..." },
		{ "0123456789", 4, "..." }, { "0123456789", 3, "" }, { "0123456789", 1, "" },
		{ "\r\n\r\n", 12, "\\x0d\\x0a..." },
		{ "\xc3\xa9\xc3\xa9\xc3\xa9", 6, "\xc3\xa9..." }, /* no half characters */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char out[64];

		log_quote(span_of(rows[i].in), out, rows[i].size);
		assert_string_equal(out, rows[i].out);
	}
}

/* ---- lines ---- */

static void
a_readable_line_has_time_level_program_event_and_fields(void **state)
{
	const char *line = line_of(LOG_TO_STDERR, LOG_INFO, "message.delivered",
	    LOG_FIELDS(KV_ID("queue_id", 31), KV_STR("reply", "250 2.0.0 \"ok\"\r\n"),
	        KV_STR("upstream", "gmail"), KV_STR("unit", ""), KV_STR("helo", NULL),
	        KV_MS("delay", 1234), KV_INT("uid", -1)));

	(void)state;
	assert_non_null(strstr(line,
	    "]: message.delivered queue_id=000000000000Z reply=\"250 2.0.0 \\\"ok\\\"\\x0d\\x0a\" "
	    "upstream=gmail delay=1.234s uid=-1\n"));
	assert_non_null(strstr(line, "Z info relayd-test["));
	assert_int_equal(line[4], '-');
	assert_int_equal(line[10], 'T');
}

/* What could be taken for another field, or for the end of a value, stands in quotes: each such byte alone. */
static void
a_value_forges_no_field(void **state)
{
	static const struct {
		const char *value, *shown;
	} rows[] = { { "plain-1.2:3", " reply=plain-1.2:3\n" },
		{ "two words", " reply=\"two words\"\n" }, { "uid=0", " reply=\"uid=0\"\n" },
		{ "a\"b", " reply=\"a\\\"b\"\n" }, { "a\\b", " reply=\"a\\\\b\"\n" } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const char *line = line_of(LOG_TO_STDERR, LOG_INFO, "message.delivered",
		    LOG_FIELDS(KV_STR("reply", rows[i].value)));

		if (strstr(line, rows[i].shown) == NULL)
			fail_msg("%s", line);
	}
}

static void
a_json_line_is_one_object(void **state)
{
	const char *line = line_of(LOG_TO_JSON, LOG_ERROR, "upstream.down",
	    LOG_FIELDS(KV_STR("why", "say \"no\"\n\xff\\"), KV_MS("delay", -50),
	        KV_ID("queue_id", 0), KV_INT("code", 535)));

	(void)state;
	assert_int_equal(strncmp(line, "{\"time\":\"20", 11), 0);
	assert_non_null(strstr(line, "\"level\":\"error\",\"program\":\"relayd-test\",\"pid\":"));
	assert_non_null(strstr(line, "\"event\":\"upstream.down\",\"why\":\"say "
	                             "\\\"no\\\"\\\\x0a\\\\xff\\\\\\\\\",\"delay\":-0.050,"
	                             "\"queue_id\":\"0000000000000\",\"code\":535}\n"));
}

/* A journal of ours: logs one event to it and returns the datagram. */
static const char *
datagram_of(enum log_level level, const char *event, const struct log_field *fields)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);

	snprintf(un.sun_path, sizeof(un.sun_path), "test_log.%d.socket", getpid());
	unlink(un.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	log_use_journal(un.sun_path);
	log_open("relayd-test", LOG_TO_JOURNAL, LOG_INFO);
	log_event(level, event, fields);
	read_seen(fd);
	close(fd);
	unlink(un.sun_path);
	return seen;
}

static void
a_journal_entry_has_one_field_for_each_key(void **state)
{
	const char *entry = datagram_of(LOG_ERROR, "upstream.down",
	    LOG_FIELDS(KV_STR("upstream", "gmail"), KV_STR("reply", "535 no\nPRIORITY=7"),
	        KV_MS("delay", 1234), KV_ID("queue_id", 31), KV_STR("unit", "")));
	char id[64];

	(void)state;
	snprintf(id, sizeof(id), "\nMESSAGE_ID=%s\n", events_find("upstream.down")->uuid);
	assert_non_null(strstr(entry, id));
	assert_string_equal(strstr(entry, "RELAYD_EVENT="),
	    "RELAYD_EVENT=upstream.down\nRELAYD_UPSTREAM=gmail\nRELAYD_REPLY=535 "
	    "no\\x0aPRIORITY=7\n"
	    "RELAYD_DELAY=1.234\nRELAYD_QUEUE_ID=000000000000Z\n\n");
	assert_int_equal(strncmp(entry, "MESSAGE=upstream.down upstream=gmail ", 37), 0);
	assert_non_null(strstr(entry, "\nPRIORITY=3\nSYSLOG_IDENTIFIER=relayd-test\n"));
}

static void
without_a_journal_lines_go_to_stderr(void **state)
{
	const char *line;

	(void)state;
	log_use_journal("/nonexistent/socket");
	line = line_of(LOG_TO_JOURNAL, LOG_INFO, "daemon.started", LOG_FIELDS());
	assert_non_null(strstr(line, "]: daemon.started\n"));
}

static void
a_line_below_the_level_is_not_written(void **state)
{
	(void)state;
	assert_string_equal(line_of(LOG_TO_STDERR, LOG_DEBUG, "session.opened", LOG_FIELDS()), "");
	log_open("test", LOG_TO_STDERR, LOG_WARNING);
	assert_true(log_is_on(LOG_ERROR));
	assert_true(log_is_on(LOG_WARNING));
	assert_false(log_is_on(LOG_INFO));
}

static void
values_and_lines_are_bounded(void **state)
{
	static char big[100000];
	struct log_field fields[64];
	const char *line;

	(void)state;
	memset(big, '\n', sizeof(big));
	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		fields[i] = KV_SPAN("reply", ((struct span){ big, sizeof(big) }));
	fields[ARRAY_LEN(fields) - 1] = (struct log_field){ .type = LOG_FIELD_END };
	line = line_of(LOG_TO_STDERR, LOG_INFO, "message.deferred", fields);
	assert_true(strlen(line) < 32768);
	assert_int_equal(line[strlen(line) - 1], '\n');
	line = line_of(LOG_TO_JSON, LOG_INFO, "message.deferred", fields);
	assert_true(strlen(line) < 32768);
	assert_string_equal(line + strlen(line) - 3, "\"}\n");
}

static unsigned
count_lines(const char *text, const char *word)
{
	unsigned n = 0;

	for (text = strstr(text, word); text != NULL; text = strstr(text + 1, word))
		n++;
	return n;
}

/* A reader that does not read: the lines are counted and told when it reads again. */
static void
a_full_pipe_does_not_stop_us(int fds[2])
{
	unsigned arrived = 0, lines = 3000;
	char *told;

	take_stderr(fds[1]);
	log_open("relayd-test", LOG_TO_STDERR, LOG_INFO);
	for (unsigned i = 0; i < lines; i++)
		log_info("message.delivered", KV_INT("n", i),
		    KV_STR("reply", "a line of some length, so that a "
		                    "pipe or a socket is full after a while"));
	while (read_seen(fds[0])[0] != '\0') {
		struct pollfd more = { .fd = fds[0], .events = POLLIN };

		arrived += count_lines(seen, "message.delivered");
		if (poll(&more, 1, 0) != 1)
			break;
	}
	log_info("message.accepted");
	give_stderr();
	assert_true(arrived < lines);
	told = strstr(read_seen(fds[0]), "log.dropped lines=");
	assert_non_null(told);
	/* read() may cut a line in two, and a line may have gone out in part: count with care */
	assert_in_range(atoi(told + 18) + arrived, lines - 70, lines);
	assert_non_null(strstr(seen, "]: message.accepted\n"));
	close(fds[0]);
	close(fds[1]);
}

static void
a_full_pipe_loses_lines_and_counts_them(void **state)
{
	int fds[2];

	(void)state;
	assert_int_equal(pipe(fds), 0);
	a_full_pipe_does_not_stop_us(fds);
}

static void
a_full_socket_loses_lines_and_counts_them(void **state)
{
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	a_full_pipe_does_not_stop_us(fds);
}

static void
a_closed_pipe_does_not_end_us(void **state)
{
	int fds[2];

	(void)state;
	signal(SIGPIPE, SIG_IGN); /* as every program of relayd does */
	assert_int_equal(pipe(fds), 0);
	close(fds[0]);
	take_stderr(fds[1]);
	log_open("relayd-test", LOG_TO_STDERR, LOG_INFO);
	log_info("message.delivered");
	give_stderr();
	close(fds[1]);
}

/* ---- the catalog ---- */

static bool
is_uuid(const char *text)
{
	return strlen(text) == 32 && strspn(text, "0123456789abcdef") == 32;
}

static void
the_catalog_is_sorted_and_complete(void **state)
{
	(void)state;
	for (const struct event *e = events; e->name != NULL; e++) {
		assert_ptr_equal(events_find(e->name), e);
		assert_true(is_uuid(e->uuid));
		assert_non_null(strchr(e->name, '.'));
		assert_int_equal(e->meaning[strlen(e->meaning) - 1], '.');
		assert_int_equal(e->action[strlen(e->action) - 1], '.');
		for (const struct event *other = events; other < e; other++) {
			assert_true(strcmp(other->name, e->name) < 0);
			assert_string_not_equal(other->uuid, e->uuid);
		}
	}
	assert_null(events_find("message.invented"));
	assert_null(events_find(""));
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(quoting_escapes_what_a_terminal_or_a_parser_would_obey),
		cmocka_unit_test(quoting_any_bytes_gives_printable_text_that_fits),
		cmocka_unit_test(quoting_what_is_too_long_ends_in_dots),
		cmocka_unit_test(a_readable_line_has_time_level_program_event_and_fields),
		cmocka_unit_test(a_value_forges_no_field),
		cmocka_unit_test(a_json_line_is_one_object),
		cmocka_unit_test(a_journal_entry_has_one_field_for_each_key),
		cmocka_unit_test(without_a_journal_lines_go_to_stderr),
		cmocka_unit_test(a_line_below_the_level_is_not_written),
		cmocka_unit_test(values_and_lines_are_bounded),
		cmocka_unit_test(a_full_pipe_loses_lines_and_counts_them),
		cmocka_unit_test(a_full_socket_loses_lines_and_counts_them),
		cmocka_unit_test(a_closed_pipe_does_not_end_us),
		cmocka_unit_test(the_catalog_is_sorted_and_complete),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
