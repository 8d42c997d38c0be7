/* test_reading.c - delivery itself, without a network, while the spool is still being read: what must not
 * happen before all of it was. */
#include "delivery_fixture.h"
#include "delivery/compaction.h"

enum {
	MESSAGES = 1200, /* several steps */
	SECONDS = 30,
	READS_MOST = 400,
};

static struct os_disk *disk;

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	disk = os_disk_new();
	f->dirfd = os_disk_root(disk);
	assert_int_equal(segment_prepare_directory(f->dirfd), 0);
	*state = f;
	return 0;
}

static int
teardown(void **state)
{
	free(*state);
	os_disk_free(disk);
	return 0;
}

static void
turn(struct running *x)
{
	event_base_loop(loop_base(x->loop), EVLOOP_ONCE);
}

static size_t
count(int dirfd, enum segment_name_kind kind)
{
	uint32_t *numbers = NULL;
	size_t n = 0;

	assert_int_equal(segment_list(dirfd, kind, &numbers, &n), 0);
	free(numbers);
	return n;
}

static size_t
segments(int dirfd)
{
	return count(dirfd, SEGMENT_NAME_INTAKE);
}

/* Messages, one that was refused, and the file that says so. */
static void
fill(struct fixture *f, uint64_t *refused)
{
	os_disk_fail_luck(disk, (struct os_luck){ OS_LUCK_ALL, 0 });
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	for (unsigned i = 0; i < MESSAGES; i++)
		assert_int_equal(fixture_send(f, "good", 4, NULL, NULL), 0);
	os_disk_fail(disk, OS_CALL_FDATASYNC, 1, EIO, false);
	assert_int_equal(fixture_send(f, "refused", 7, refused, NULL), -EAGAIN);
	os_disk_heal(disk);
	fixture_stop(f);
}

/* Reads to the end, or until it gives up because what it has given may be refused mail. */
static bool
read_unsurely(struct running *x, uint64_t refused)
{
	bool was_unsure = false;

	for (unsigned i = 0; i < SECONDS * 1000 && !x->d->is_read && !x->d->stopping; i++) {
		turn(x);
		if (!catalog_is_unsure(x->d->catalog))
			continue;
		was_unsure = true;
		assert_true(x->d->is_full);
		assert_string_not_equal(delivery_paused(x->d), "");
		assert_int_equal(queue_count(x->d->queue, QUEUE_ACTIVE), 0);
	}
	assert_true(x->d->is_read || x->d->stopping);
	assert_true(x->d->stopping || queue_find(x->d->queue, refused) == NULL);
	return was_unsure;
}

/* I6: what cannot be read may hold a REVOKE, and be readable a moment later. */
static void
nothing_leaves_while_a_revocation_may_be_unread(void **state)
{
	struct fixture *f = *state;
	unsigned unsure = 0, late = 0;
	bool has_failed = true;
	uint64_t refused;

	fill(f, &refused);
	for (unsigned n = 1; has_failed && n <= READS_MOST; n++) {
		struct os_disk *image = os_disk_kill(disk);
		struct running x;
		bool is_open;

		os_disk_fail(image, OS_CALL_READ, n, EIO, true);
		is_open = running_begin(&x, os_disk_root(image), SMALL_SEGMENT) == 0;
		has_failed = os_disk_has_failed(image);
		os_disk_heal(image);
		if (is_open) {
			unsure += read_unsurely(&x, refused);
			late += x.d->stopping;
		}
		running_end(&x);
		os_disk_free(image);
	}
	assert_true(unsure > 1);
	assert_true(late > 0);
}

/* What is done meanwhile stays where it is until all is read: a copy may stand in what comes. */
static void
nothing_is_freed_before_all_is_read(void **state)
{
	struct fixture *f = *state;
	struct running x;
	uint64_t refused;
	size_t n, seen = 0;

	fill(f, &refused);
	n = segments(f->dirfd);
	assert_true(n > 2);
	assert_int_equal(running_begin(&x, f->dirfd, SMALL_SEGMENT), 0);
	while (!x.d->is_read) {
		struct queue_entry *e;
		uint32_t cursor = 0;

		turn(&x);
		if (x.d->is_read)
			break;
		while ((e = queue_each(x.d->queue, &cursor)) != NULL) {
			mail_leave(x.d, e); /* as if it were delivered */
			seen++;
		}
		assert_int_equal(segments(f->dirfd), n);
	}
	assert_true(seen > 0 && seen < MESSAGES);
	assert_int_equal(queue_count_all(x.d->queue), MESSAGES - seen);
	for (unsigned i = 0; i < SECONDS * 1000 && segments(f->dirfd) == n; i++)
		turn(&x);
	assert_true(segments(f->dirfd) < n);
	running_end(&x);
}

static void
remove_free_files(int dirfd)
{
	char name[SEGMENT_NAME_MAX];
	uint32_t *numbers = NULL;
	size_t n = 0;

	assert_int_equal(segment_list(dirfd, SEGMENT_NAME_FREE, &numbers, &n), 0);
	for (size_t i = 0; i < n; i++) {
		segment_free_name(numbers[i], name);
		assert_int_equal(os_unlink(dirfd, name), 0);
	}
	free(numbers);
}

/* What a delivery leaves that is killed as soon as it has opened. */
static void
leave_an_empty_journal(int dirfd)
{
	struct segment_header header;
	int fd;

	assert_int_equal(
	    segment_create(dirfd, SEGMENT_JOURNAL, SMALL_SEGMENT, NULL, &header, &fd), 0);
	os_close(fd);
}

/* A disk that is full of what was delivered already: delivery has no room for a file of its own, and makes
 * it. */
static void
without_room_it_frees_what_is_done_and_then_begins(void **state)
{
	struct journal_outcome done = { .flags = JOURNAL_DONE };
	struct fixture *f = *state;
	struct running x;
	uint64_t ids[8];

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	for (size_t i = 0; i < ARRAY_LEN(ids); i++)
		assert_int_equal(fixture_send(f, "good", 4, &ids[i], NULL), 0);
	fixture_stop(f);
	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
		done.id = ids[i];
		assert_int_equal(fixture_outcome(f, &done), 0);
	}
	fixture_stop(f);
	for (int i = 0; i < 5; i++)
		leave_an_empty_journal(f->dirfd);
	remove_free_files(f->dirfd);
	assert_int_equal(segments(f->dirfd), 1);
	os_disk_fail(disk, OS_CALL_ALLOCATE, 1, ENOSPC, true);
	assert_int_equal(running_begin(&x, f->dirfd, SMALL_SEGMENT), 0);
	assert_string_not_equal(delivery_paused(x.d), "");
	assert_int_equal(
	    count(f->dirfd, SEGMENT_NAME_JOURNAL), 1); /* the one that says something */
	for (unsigned i = 0; i < SECONDS * 1000 && segments(f->dirfd) > 0; i++)
		turn(&x);
	assert_int_equal(segments(f->dirfd), 0);
	os_disk_heal(disk);
	for (unsigned i = 0; i < SECONDS * 1000 && spool_writer_is_failed(x.d->journal); i++)
		turn(&x);
	assert_string_equal(delivery_paused(x.d), "");
	running_end(&x);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
		    nothing_leaves_while_a_revocation_may_be_unread, setup, teardown),
		cmocka_unit_test_setup_teardown(
		    nothing_is_freed_before_all_is_read, setup, teardown),
		cmocka_unit_test_setup_teardown(
		    without_room_it_frees_what_is_done_and_then_begins, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
