/* test_spool_faults.c - I1, I5, I6 while the operating system fails. For each kind of call, the Nth fails,
 * once or from then on, N = 1, 2, ... until the scenario runs through without a fault. */
#include "os_fault.h"
#include "spool_fixture.h"

enum { MESSAGES = 8 };

/* What was said about each message. */
struct told {
	uint64_t id[MESSAGES];
	int result[MESSAGES];
};

/* Sends some groups, over the end of a segment; returns false if not even the start worked. */
static bool
run_scenario(struct fixture *f, struct told *told)
{
	static char body[200000];

	memset(body, 'b', sizeof(body));
	if (fixture_try_writer(f, SEGMENT_INTAKE, NULL) < 0)
		return false;
	for (int i = 0; i < MESSAGES; i++)
		told->result[i] = fixture_send(f, body, i % 2 ? 200000 : 1000, &told->id[i], NULL);
	fixture_stop(f);
	return true;
}

static void
check_promises(struct fixture *f, const struct told *told)
{
	static struct listed l;

	fixture_list(f, &l, NULL, NULL, false);
	for (int i = 0; i < MESSAGES; i++) {
		if (told->result[i] == 0) /* I1 */
			assert_true(fixture_lists(&l, told->id[i]));
		else if (told->result[i] == -EAGAIN) /* I6 */
			assert_false(fixture_lists(&l, told->id[i]));
		else
			assert_int_equal(told->result[i], -EIO);
	}
	assert_int_equal(l.sum.corrupt_ranges, 0);
	assert_int_equal(os_fault_violations(), 0); /* I5 */
}

static void
fixture_clean(struct fixture *f)
{
	fixture_empty(f->dirfd, "large");
	fixture_empty(f->dirfd, "quarantine");
	fixture_empty(f->dirfd, ".");
}

static void
promises_hold_whatever_call_fails(void **state)
{
	static const struct {
		enum os_fault_call call;
		int error;
		bool sticky;
	} faults[] = {
		{ OS_FAULT_OPEN, EMFILE, false },
		{ OS_FAULT_WRITE, EIO, false },
		{ OS_FAULT_WRITE, ENOSPC, true },
		{ OS_FAULT_SHORT_WRITE, 1, true },
		{ OS_FAULT_FDATASYNC, EIO, false },
		{ OS_FAULT_FDATASYNC, EIO, true },
		{ OS_FAULT_FSYNC, EIO, false },
		{ OS_FAULT_FSYNC, ENOSPC, true },
		{ OS_FAULT_ALLOCATE, ENOSPC, false },
		{ OS_FAULT_ALLOCATE, ENOSPC, true },
		{ OS_FAULT_RENAME, EROFS, true },
	};
	struct fixture *f = *state;

	for (size_t k = 0; k < ARRAY_LEN(faults); k++) {
		bool more = true;

		for (unsigned n = 1; more && n < 40; n++) {
			struct told told = { { 0 }, { 0 } };
			bool started;

			os_fault_set(faults[k].call, n, faults[k].error, faults[k].sticky);
			started = run_scenario(f, &told);
			more = os_fault_has_happened();
			os_fault_clear();
			if (started)
				check_promises(f, &told);
			fixture_clean(f);
		}
	}
}

static void
a_failed_sync_is_revoked_and_the_next_segment_is_used(void **state)
{
	struct fixture *f = *state;
	struct spool_location before, after;
	struct spool_store *store;
	uint64_t good, refused, later;
	static struct listed l;

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "good", 4, &good, &before), 0);
	os_fault_set(OS_FAULT_FDATASYNC, 1, EIO, false);
	assert_int_equal(fixture_send(f, "refused", 7, &refused, NULL), -EAGAIN);
	assert_int_equal(os_fault_count(OS_FAULT_FDATASYNC), 2); /* the group, the REVOKE */
	assert_false(spool_writer_is_failed(f->writer));
	assert_int_equal(f->reports[SPOOL_REPORT_FAILED], 1);
	assert_int_equal(f->last_report.error, EIO);
	assert_int_equal(f->last_report.revoked, 1);
	assert_string_equal(f->last_report.operation, "sync");
	assert_int_equal(fixture_send(f, "later", 5, &later, &after), 0);
	assert_true(after.segment > before.segment);
	os_fault_clear();

	/* All its bytes are in the file, and yet it never comes back. */
	assert_int_equal(spool_store_open(f->dirfd, false, &store), 0);
	fixture_list(f, &l, store, NULL, true);
	assert_int_equal(l.n, 2);
	assert_true(fixture_lists(&l, good));
	assert_true(fixture_lists(&l, later));
	assert_int_equal(l.sum.revoked, 1);

	/* What holds the REVOKE stays as long as what it revokes, and goes with it. */
	fixture_stop(f);
	assert_int_equal(spool_store_free_segment(store, after.segment), -EBUSY);
	fixture_list(f, &l, NULL, NULL, false);
	assert_false(fixture_lists(&l, refused));
	assert_int_equal(spool_store_free_segment(store, before.segment), 0);
	fixture_list(f, &l, NULL, NULL, false);
	assert_int_equal(l.n, 0);
	assert_int_equal(l.n_segments, 0);
	spool_store_close(store);
	assert_int_equal(os_fault_violations(), 0);
}

static void
when_it_cannot_be_revoked_nothing_is_said(void **state)
{
	struct fixture *f = *state;
	uint64_t id;

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	os_fault_set(OS_FAULT_FDATASYNC, 1, EIO, true);
	assert_int_equal(fixture_send(f, "x", 1, &id, NULL), -EIO);
	os_fault_clear();
	assert_int_equal(os_fault_violations(), 0);
}

static void
a_failed_writer_refuses_and_comes_back_by_itself(void **state)
{
	struct fixture *f = *state;
	struct shared_page *page;
	int fd;

	assert_int_equal(shared_page_create(&fd, &page), 0);
	fixture_writer(f, SEGMENT_INTAKE, page);
	os_fault_set(OS_FAULT_ALLOCATE, 1, ENOSPC, true);
	while (fixture_send(f, "sync fails", 10, NULL, NULL) == 0)
		os_fault_set(OS_FAULT_FDATASYNC, 1, EIO, true);
	os_fault_set(OS_FAULT_ALLOCATE, 1, ENOSPC, true);
	for (int i = 0; i < 100 && !spool_writer_is_failed(f->writer); i++) {
		usleep(10000);
		if (i % 10 == 0)
			assert_int_not_equal(fixture_send(f, "x", 1, NULL, NULL), 1);
	}
	if (spool_writer_is_failed(f->writer)) {
		assert_int_equal(atomic_load(&page->spool_failed), 1);
		assert_int_equal(fixture_send(f, "full", 4, NULL, NULL), -EAGAIN);
		assert_true(f->reports[SPOOL_REPORT_DOWN] >= 1);
	}
	os_fault_clear();
	for (int i = 0; i < 500 && spool_writer_is_failed(f->writer); i++)
		usleep(10000);
	assert_false(spool_writer_is_failed(f->writer));
	assert_int_equal(atomic_load(&page->spool_failed), 0);
	assert_int_equal(fixture_send(f, "well", 4, NULL, NULL), 0);
	fixture_stop(f);
	assert_int_equal(os_fault_violations(), 0);
	shared_page_unmap(page);
	close(fd);
}

static void
an_outcome_is_written_again_in_the_next_journal(void **state)
{
	struct journal_outcome o = { .id = queue_id_make(1000, 1), .flags = JOURNAL_DONE };
	struct fixture *f = *state;
	struct journal_index *index;

	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	os_fault_set(OS_FAULT_FDATASYNC, 1, EIO, false);
	assert_int_equal(fixture_outcome(f, &o), 0);
	os_fault_clear();
	fixture_stop(f);
	assert_int_equal(journal_index_open(f->dirfd, true, NULL, NULL, &index), 0);
	assert_true(journal_index_is_done(index, o.id));
	journal_index_close(index);
	assert_int_equal(os_fault_violations(), 0);
}

/* Errors while recovering: what can be read is given, and it ends. */
static void
recovery_survives_failing_calls(void **state)
{
	static const enum os_fault_call calls[] = { OS_FAULT_OPEN, OS_FAULT_READ, OS_FAULT_FSYNC,
		OS_FAULT_MEMORY };
	struct fixture *f = *state;
	static struct listed l;

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	for (int i = 0; i < 5; i++)
		assert_int_equal(fixture_send(f, "x", 1, NULL, NULL), 0);
	fixture_stop(f);
	for (size_t k = 0; k < ARRAY_LEN(calls); k++) {
		bool more = true;

		for (unsigned n = 1; more && n < 200; n++) {
			struct catalog_options options = { .dirfd = f->dirfd,
				.distrust = true,
				.message = fixture_on_message,
				.damage = fixture_on_damage,
				.arg = &l };
			int r;

			memset(&l, 0, sizeof(l));
			os_fault_set(calls[k], n, calls[k] == OS_FAULT_OPEN ? EMFILE : EIO, false);
			r = catalog_replay(&options, &l.sum);
			more = os_fault_has_happened();
			os_fault_clear();
			/* never quietly less: a failure, a report, or everything */
			assert_true(r < 0 || l.n == 5 || l.sum.corrupt_ranges > 0);
		}
	}
	fixture_list(f, &l, NULL, NULL, false);
	assert_int_equal(l.n, 5);
}

/* F8: what the page cache says about files of a dead process is not believed. */
static void
recovery_syncs_and_forgets_before_it_reads(void **state)
{
	struct fixture *f = *state;
	static struct listed l;

	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	fixture_stop(f);
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "x", 1, NULL, NULL), 0);
	fixture_stop(f);
	os_fault_clear();
	fixture_list(f, &l, NULL, NULL, false);
	assert_int_equal(l.n, 1);
	assert_int_equal(os_fault_count(OS_FAULT_FSYNC), 2);
	assert_int_equal(os_fault_count(OS_FAULT_DROP_CACHE), 2);
}

int
main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(promises_hold_whatever_call_fails),
		TEST(a_failed_sync_is_revoked_and_the_next_segment_is_used),
		TEST(when_it_cannot_be_revoked_nothing_is_said),
		TEST(a_failed_writer_refuses_and_comes_back_by_itself),
		TEST(an_outcome_is_written_again_in_the_next_journal),
		TEST(recovery_survives_failing_calls),
		TEST(recovery_syncs_and_forgets_before_it_reads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
