/* test_spool_power.c - the power is cut before and after each sync, with every kind of luck. What was
 * answered 0 by then is there (I1); what was revoked is not (I6); what is done does not come back (I3); and
 * no cut is ever called corruption. */
#include <stdatomic.h>

#include "os_power.h"
#include "spool_fixture.h"

enum { MESSAGES = 24 };

static struct scenario {
	struct fixture *f;
	int image; /* directory */
	char image_path[FIXTURE_PATH_MAX];
	uint64_t id[MESSAGES];
	atomic_int result[MESSAGES]; /* 1: not answered yet */
	atomic_int done[MESSAGES];   /* 1: its DONE is on the way, 2: it is durable */
	unsigned cuts, syncs, every; /* cut at every n-th sync (and at the end) */
} s;

/* The check runs in the writer's threads: cmocka's assertions have no way out of there. */
#define must(condition)                                                                            \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);            \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static void
check_image(const struct listed *l)
{
	for (size_t i = 0; i < l->n_damage && l->sum.corrupt_ranges > 0; i++)
		fprintf(stderr, "%s: range %d, %llu bytes at %llu\n", l->damage[i].file,
		    (int)l->damage[i].range, (unsigned long long)l->damage[i].length_bytes,
		    (unsigned long long)l->damage[i].offset);
	must(l->sum.corrupt_ranges == 0);
	for (int i = 0; i < MESSAGES; i++) {
		bool listed = fixture_lists(l, s.id[i]);

		if (s.id[i] == 0)
			continue;
		if (atomic_load(&s.done[i]) == 1)
			continue;
		if (atomic_load(&s.done[i]) == 2)
			must(!listed);
		else if (atomic_load(&s.result[i]) == 0)
			must(listed);
		else if (atomic_load(&s.result[i]) == -EAGAIN)
			must(!listed);
	}
}

static void
on_sync(void *arg)
{
	static struct listed l;

	if (arg != NULL && ++s.syncs % s.every != 0)
		return;
	for (unsigned k = 0; k < 6; k++) {
		struct fixture f = { .dirfd = s.image };
		enum os_power_luck luck =
		    k < OS_POWER_CHANCE ? (enum os_power_luck)k : OS_POWER_CHANCE;

		os_power_image(luck, ++s.cuts * 7919, s.image);
		fixture_list(&f, &l, NULL, NULL, true);
		check_image(&l);
		fixture_empty(s.image, "large");
		fixture_empty(s.image, "quarantine");
		fixture_empty(s.image, ".");
	}
}

static void
begin(struct fixture *f, unsigned every)
{
	memset(&s, 0, sizeof(s));
	s.every = every;
	for (int i = 0; i < MESSAGES; i++)
		atomic_store(&s.result[i], 1);
	s.f = f;
	fixture_make_directory(s.image_path);
	s.image = open(s.image_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(segment_prepare_directory(s.image), 0);
	os_power_watch(f->dirfd, on_sync, f);
}

static void
end(void)
{
	os_power_stop();
	on_sync(NULL);
	unlinkat(s.image, "large", AT_REMOVEDIR);
	unlinkat(s.image, "quarantine", AT_REMOVEDIR);
	close(s.image);
	rmdir(s.image_path);
}

static void
send_some(struct fixture *f, int first, int last, size_t len)
{
	struct sent *sent[MESSAGES];
	char *body = malloc(len);

	memset(body, 'p', len);
	for (int i = first; i < last; i++) {
		sent[i] = fixture_message(f, body, len);
		s.id[i] = sent[i]->id;
	}
	for (int i = first; i < last; i++)
		spool_writer_submit(f->writer, &sent[i]->item);
	for (int i = first; i < last; i++) {
		fixture_await(f, sent[i]);
		atomic_store(&s.result[i], sent[i]->item.result);
		fixture_free(sent[i]);
	}
	free(body);
}

static void
send_large(struct fixture *f, int i)
{
	struct sent *sent = calloc(1, sizeof(*sent));
	static char piece[70000];
	struct envelope e;
	struct large *l;

	s.id[i] = sent->id = spool_writer_next_id(f->writer);
	assert_int_equal(large_create(f->dirfd, sent->id, &l), 0);
	for (int k = 0; k < 5; k++)
		assert_int_equal(large_append(l, (struct span){ piece, sizeof(piece) }), 0);
	e = fixture_envelope(sent->id, large_bytes(l));
	e.flags |= ENVELOPE_LARGE;
	e.body_checksum = large_checksum(l);
	assert_int_equal(envelope_encode(&e, &sent->envelope, &sent->envelope_len), 0);
	spool_item_message(
	    &sent->item, (struct span){ sent->envelope, sent->envelope_len }, NULL, 0, l);
	sent->item.done = fixture_on_done;
	sent->item.arg = sent;
	spool_writer_submit(f->writer, &sent->item);
	fixture_await(f, sent);
	atomic_store(&s.result[i], sent->item.result);
	fixture_free(sent);
}

static void
a_cut_while_messages_come_in(void **state)
{
	struct fixture *f = *state;

	begin(f, 1);
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	for (int i = 0; i < 12; i += 3)
		send_some(f, i, i + 3, 3000);
	send_some(f, 12, 20, 200000); /* over the end of a segment */
	send_large(f, 20);
	send_some(f, 21, 24, 10);
	fixture_stop(f);
	end();
	assert_true(s.cuts > 100);
}

static void
a_cut_while_a_group_is_revoked(void **state)
{
	struct fixture *f = *state;

	for (unsigned n = 1; n <= 4; n++) {
		begin(f, 1);
		fixture_writer(f, SEGMENT_INTAKE, NULL);
		os_power_fail_sync(n);
		for (int i = 0; i < 4; i++)
			send_some(f, i, i + 1, 500);
		send_large(f, 4);
		send_some(f, 5, 8, 500);
		fixture_stop(f);
		end();
		fixture_empty(f->dirfd, "large");
		fixture_empty(f->dirfd, ".");
	}
}

static void
a_cut_while_mail_is_delivered_and_freed(void **state)
{
	struct fixture *f = *state;
	struct spool_writer *intake;
	struct spool_store *store;
	uint32_t *numbers;
	size_t n;

	begin(f, 2);
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	send_some(f, 0, 12, 100000);
	intake = f->writer;
	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	for (int i = 0; i < 12; i++) {
		struct journal_outcome o = { .id = s.id[i], .flags = JOURNAL_DONE };

		atomic_store(&s.done[i], 1);
		assert_int_equal(fixture_outcome(f, &o), 0);
		atomic_store(&s.done[i], 2);
	}
	spool_writer_close(intake);
	assert_int_equal(spool_store_open(f->dirfd, false, &store), 0);
	assert_int_equal(segment_list(f->dirfd, SEGMENT_NAME_INTAKE, &numbers, &n), 0);
	assert_true(n >= 2);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(spool_store_free_segment(store, numbers[i]), 0);
	free(numbers);
	spool_store_close(store);
	intake = f->writer;
	fixture_writer(f, SEGMENT_INTAKE, NULL); /* recycles */
	send_some(f, 12, 16, 100);
	fixture_stop(f);
	f->writer = intake;
	fixture_stop(f);
	end();
}

static void
a_cut_while_journals_are_rewritten(void **state)
{
	enum { ROUNDS = 14, AT_ONCE = 600 };
	struct fixture *f = *state;
	struct spool_writer *intake;
	static struct sent *all[AT_ONCE];
	static char reply[512];

	memset(reply, 'r', sizeof(reply));
	begin(f, 4);
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	send_some(f, 0, 8, 10);
	intake = f->writer;
	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	for (int i = 0; i < 4; i++) {
		struct journal_outcome o = { .id = s.id[i], .flags = JOURNAL_DONE };

		atomic_store(&s.done[i], 1);
		assert_int_equal(fixture_outcome(f, &o), 0);
		atomic_store(&s.done[i], 2);
	}
	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < AT_ONCE; i++) {
			struct journal_recipient r = { .state = JOURNAL_DEFERRED,
				.reply = { reply, sizeof(reply) } };
			struct journal_outcome o = { .id = s.id[4 + i % 4],
				.n_all = 2,
				.recipients = &r,
				.n_recipients = 1 };
			struct sent *sent = all[i] = calloc(1, sizeof(*sent));

			assert_int_equal(
			    journal_encode(&o, &sent->envelope, &sent->envelope_len), 0);
			spool_item_outcome(
			    &sent->item, (struct span){ sent->envelope, sent->envelope_len });
			sent->item.done = fixture_on_done;
			sent->item.arg = sent;
			spool_writer_submit(f->writer, &sent->item);
		}
		for (int i = 0; i < AT_ONCE; i++) {
			fixture_await(f, all[i]);
			assert_int_equal(all[i]->item.result, 0);
			fixture_free(all[i]);
		}
	}
	assert_true(f->reports[SPOOL_REPORT_COMPACTED] >= 1);
	fixture_stop(f);
	f->writer = intake;
	fixture_stop(f);
	end();
}

int
main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_cut_while_messages_come_in),
		TEST(a_cut_while_a_group_is_revoked),
		TEST(a_cut_while_mail_is_delivered_and_freed),
		TEST(a_cut_while_journals_are_rewritten),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
