/* A message on its way to the spool: a small body waits in memory, a large one stands on disk, one that
 * is dropped leaves nothing, and memory is bounded whatever the clients send (I9). */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "intake/message.h"
#include "spool/envelope.h"
#include "spool/segment.h"
#include "spool/store.h"

struct fixture {
	char directory[40];
	struct config config;
	struct intake intake;
	int shared_fd;
	unsigned done;
	int result;
};

static char filler[LARGE_INLINE_MAX];

static int
set_up(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));
	struct spool_writer_options options = {
		.kind = SEGMENT_INTAKE, .segment_bytes = 2 << 20, .wake_fd = -1
	};

	strcpy(f->directory, "/tmp/relayd-test-message.XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	f->config.hostname = "relay.test";
	f->intake.config = &f->config;
	f->intake.state = INTAKE_SERVING;
	f->intake.spool_fd = open(f->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(segment_prepare_directory(f->intake.spool_fd), 0);
	assert_int_equal(shared_page_create(&f->shared_fd, &f->intake.page), 0);
	options.dirfd = f->intake.spool_fd;
	options.page = f->intake.page;
	assert_int_equal(spool_writer_open(&options, &f->intake.writer), 0);
	memset(filler, 'x', sizeof(filler));
	*state = f;
	return 0;
}

static void
remove_all(const char *path)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", path);
	assert_int_equal(system(command), 0);
}

static int
tear_down(void **state)
{
	struct fixture *f = *state;

	spool_writer_close(f->intake.writer);
	assert_int_equal(f->intake.body_bytes, 0);
	assert_int_equal(f->intake.n_messages, 0);
	shared_page_unmap(f->intake.page);
	close(f->shared_fd);
	close(f->intake.spool_fd);
	remove_all(f->directory);
	free(f);
	return 0;
}

/* Not part of the unit under test. */
void
intake_settle(struct intake *intake)
{
	(void)intake;
}

static unsigned
count_large(const struct fixture *f)
{
	char path[64];
	struct dirent *entry;
	unsigned n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/large", f->directory);
	dir = opendir(path);
	assert_non_null(dir);
	while ((entry = readdir(dir)) != NULL)
		n += entry->d_name[0] != '.';
	closedir(dir);
	return n;
}

static void
on_done(void *arg, int result)
{
	struct fixture *f = arg;

	f->done++;
	f->result = result;
}

static void
wait_for_disk(struct fixture *f)
{
	struct pollfd wait = { .fd = spool_writer_fd(f->intake.writer), .events = POLLIN };

	assert_int_equal(poll(&wait, 1, 10000), 1);
	spool_writer_dispatch(f->intake.writer);
}

static int
commit(struct fixture *f, struct message *message)
{
	static struct smtp_recipient recipients[] = { { .address = { "bob@example.net", 15 },
	    .orcpt = { "rfc822;bob", 10 },
	    .notify = SMTP_NOTIFY_NEVER } };
	static const struct peer peer = { .family = AF_INET6, .uid = 1000, .unit = "a.service" };
	const struct smtp_mail mail = { .sender = { "ann@example.net", 15 },
		.recipients = recipients,
		.n_recipients = 1,
		.header = { .has_header = true } };
	const struct message_origin origin = { .peer = &peer,
		.client = "::1",
		.listener = "[::1]:25",
		.helo = { "client", 6 },
		.esmtp = true };

	return message_commit(message, &mail, &origin, on_done, f);
}

/* What delivery will find. */
static struct envelope *
read_back(struct fixture *f, struct spool_body **body)
{
	struct spool_location at = { .offset = RECORD_BLOCK };
	struct spool_store *store;
	struct envelope *envelope;
	uint32_t *numbers;
	size_t n;

	assert_int_equal(segment_list(f->intake.spool_fd, SEGMENT_NAME_INTAKE, &numbers, &n), 0);
	assert_true(n > 0);
	at.segment = numbers[0];
	free(numbers);
	assert_int_equal(spool_store_open(f->intake.spool_fd, true, &store), 0);
	assert_int_equal(spool_store_envelope(store, at, &envelope), 0);
	assert_int_equal(spool_store_body(store, at, envelope, body), 0);
	spool_store_close(store);
	return envelope;
}

static void
a_small_body_goes_out_with_its_envelope(void **state)
{
	struct fixture *f = *state;
	struct message *message = message_begin(&f->intake, 100);
	struct envelope *envelope;
	struct spool_body *body;
	char text[16] = "";

	assert_int_equal(message_append(message, SPAN("one ")), 0);
	assert_int_equal(message_append(message, SPAN("two\r\n")), 0);
	assert_int_equal(commit(f, message), 0);
	assert_int_equal(f->done, 0); /* nothing is promised before the disk answered (I1) */
	wait_for_disk(f);
	assert_int_equal(f->done, 1);
	assert_int_equal(f->result, 0);
	assert_int_equal(count_large(f), 0);

	envelope = read_back(f, &body);
	assert_int_equal(spool_body_read(body, 0, text, sizeof(text)), 9);
	assert_string_equal(text, "one two\r\n");
	assert_int_equal(envelope->uid, 1000);
	assert_true(span_equals(envelope->unit, SPAN("a.service")));
	assert_true(span_equals(envelope->client, SPAN("::1")));
	assert_int_equal(envelope->recipients[0].notify, ENVELOPE_NOTIFY_NEVER);
	assert_non_null(memmem(envelope->prefix.data, envelope->prefix.len, "[IPv6:::1]", 10));
	assert_non_null(memmem(envelope->prefix.data, envelope->prefix.len, "Message-ID:", 11));
	spool_body_close(body);
	envelope_free(envelope);
}

static void
a_body_over_the_limit_stands_in_its_own_file(void **state)
{
	struct fixture *f = *state;
	struct message *message = message_begin(&f->intake, 0);
	struct envelope *envelope;
	struct spool_body *body;

	assert_int_equal(message_append(message, (struct span){ filler, LARGE_INLINE_MAX }), 0);
	assert_int_equal(count_large(f), 0);
	assert_int_equal(message_append(message, SPAN("y")), 0);
	assert_int_equal(count_large(f), 1);
	assert_int_equal(f->intake.body_bytes, 0);
	assert_int_equal(commit(f, message), 0);
	wait_for_disk(f);
	assert_int_equal(f->result, 0);
	assert_int_equal(count_large(f), 1);
	envelope = read_back(f, &body);
	assert_true(envelope->flags & ENVELOPE_LARGE);
	assert_int_equal(spool_body_bytes(body), LARGE_INLINE_MAX + 1);
	spool_body_close(body);
	envelope_free(envelope);
}

static void
a_dropped_message_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	struct message *message = message_begin(&f->intake, 1 << 30);

	message_drop(message_begin(&f->intake, 0));
	message_drop(NULL);
	for (int i = 0; i < 3; i++)
		assert_int_equal(
		    message_append(message, (struct span){ filler, sizeof(filler) / 2 }), 0);
	assert_int_equal(count_large(f), 1);
	message_drop(message);
	assert_int_equal(count_large(f), 0);
}

static void
a_declared_size_takes_no_memory_before_its_bytes_are_there(void **state)
{
	struct fixture *f = *state;
	struct message *message = message_begin(&f->intake, 1 << 30);

	assert_int_equal(f->intake.body_bytes, 0);
	assert_int_equal(message_append(message, SPAN("x")), 0);
	assert_true(f->intake.body_bytes <= 64 << 10);
	message_drop(message);
}

static void
when_all_bodies_together_are_too_much_the_next_go_to_disk(void **state)
{
	struct fixture *f = *state;
	struct message *messages[INTAKE_BODIES_MAX / LARGE_INLINE_MAX + 2];

	for (size_t i = 0; i < ARRAY_LEN(messages); i++) {
		messages[i] = message_begin(&f->intake, 0);
		assert_int_equal(
		    message_append(messages[i], (struct span){ filler, LARGE_INLINE_MAX }), 0);
	}
	assert_true(f->intake.body_bytes <= INTAKE_BODIES_MAX);
	assert_int_equal(count_large(f), 2);
	for (size_t i = 0; i < ARRAY_LEN(messages); i++)
		message_drop(messages[i]);
	assert_int_equal(count_large(f), 0);
}

static void
a_session_that_lets_go_is_not_called(void **state)
{
	struct fixture *f = *state;
	struct message *message = message_begin(&f->intake, 0);

	assert_int_equal(commit(f, message), 0);
	message_let_go(message);
	wait_for_disk(f);
	assert_int_equal(f->done, 0);
	assert_int_equal(f->intake.page->accepted, 1);
}

int
main(void)
{
#define MESSAGE_TEST(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		MESSAGE_TEST(a_small_body_goes_out_with_its_envelope),
		MESSAGE_TEST(a_body_over_the_limit_stands_in_its_own_file),
		MESSAGE_TEST(a_dropped_message_leaves_nothing),
		MESSAGE_TEST(a_declared_size_takes_no_memory_before_its_bytes_are_there),
		MESSAGE_TEST(when_all_bodies_together_are_too_much_the_next_go_to_disk),
		MESSAGE_TEST(a_session_that_lets_go_is_not_called),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
