/* test_spool_journal.c - envelopes and outcomes as bytes; replay and compaction of journals. */
#include "spool_fixture.h"
#include "spool/journal.h"
#include "spool/tlv.h"

static void
texts_with_line_ends_are_refused(void **state)
{
	static const struct span bad[] = { SPAN("a\nb"), SPAN("a\rb"), SPAN("a\0b"), SPAN("\n") };
	void *out;
	size_t len;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct envelope e = fixture_envelope(1, 0);
		struct envelope_recipient one = { bad[i], { NULL, 0 }, 0 };

		e.sender = bad[i];
		assert_int_equal(envelope_encode(&e, &out, &len), -EINVAL);
		e = fixture_envelope(1, 0);
		e.recipients = &one;
		e.n_recipients = 1;
		assert_int_equal(envelope_encode(&e, &out, &len), -EINVAL);
	}
}

static void
an_envelope_needs_a_recipient(void **state)
{
	struct envelope e = fixture_envelope(1, 0);
	void *out;
	size_t len;

	(void)state;
	e.n_recipients = 0;
	assert_int_equal(envelope_encode(&e, &out, &len), -EINVAL);
}

/* Old readers skip what they do not know, but not what they must not. */
static void
unknown_fields_are_skipped_unless_critical(void **state)
{
	static const struct {
		uint16_t tag;
		int result;
	} cases[] = { { 999, 0 }, { 999 | TLV_CRITICAL, -EPROTONOSUPPORT } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct envelope e = fixture_envelope(7, 3), *back = NULL;
		struct tlv_buffer b = { 0 };
		void *out;
		size_t len;

		assert_int_equal(envelope_encode(&e, &out, &len), 0);
		tlv_add_u32(&b, cases[i].tag, 1);
		out = realloc(out, len + b.len);
		memcpy((char *)out + len, b.data, b.len);
		assert_int_equal(
		    envelope_decode((struct span){ out, len + b.len }, &back), cases[i].result);
		envelope_free(back);
		free(b.data);
		free(out);
	}
}

/* Every cut of an envelope is an error or an envelope, never a crash. */
static void
cut_envelopes_and_outcomes_do_no_harm(void **state)
{
	struct journal_recipient r = { .state = JOURNAL_DEFERRED, .reply = SPAN("450 later") };
	struct journal_outcome o = { .id = 5, .recipients = &r, .n_recipients = 1 }, *o2;
	struct envelope e = fixture_envelope(7, 3), *e2;
	void *out;
	size_t len;

	(void)state;
	assert_int_equal(envelope_encode(&e, &out, &len), 0);
	for (size_t cut = 0; cut < len; cut++) {
		char *exact = malloc(cut + 1);

		memcpy(exact, out, cut);
		if (envelope_decode((struct span){ exact, cut }, &e2) == 0)
			envelope_free(e2);
		free(exact);
	}
	free(out);
	assert_int_equal(journal_encode(&o, &out, &len), 0);
	for (size_t cut = 0; cut < len; cut++) {
		char *exact = malloc(cut + 1);

		memcpy(exact, out, cut);
		if (journal_decode((struct span){ exact, cut }, &o2) == 0)
			journal_free(o2);
		free(exact);
	}
	free(out);
}

static void
an_outcome_comes_back_as_it_was(void **state)
{
	struct journal_recipient r[] = {
		{ .index = 0,
		    .state = JOURNAL_DELIVERED,
		    .attempts = 1,
		    .code = 250,
		    .enhanced = SPAN("2.0.0"),
		    .reply = SPAN("ok"),
		    .upstream = SPAN("gmail") },
		{ .index = 3,
		    .state = JOURNAL_DEFERRED,
		    .attempts = 2,
		    .code = 450,
		    .next_attempt_ms = 1700000060000,
		    .reply = SPAN("come\r\nlater") },
	};
	struct journal_outcome o = { .id = queue_id_make(1700000000, 9),
		.time_ms = 1700000000123,
		.flags = JOURNAL_WARNED | JOURNAL_HOLD,
		.possible_duplicates = 2,
		.moved = { 1700000001, 4096 },
		.n_all = 4,
		.recipients = r,
		.n_recipients = 2 };
	struct journal_outcome *back;
	void *out;
	size_t len;

	(void)state;
	assert_int_equal(journal_encode(&o, &out, &len), 0);
	assert_int_equal(journal_decode((struct span){ out, len }, &back), 0);
	free(out);
	assert_int_equal(back->id, o.id);
	assert_int_equal(back->time_ms, o.time_ms);
	assert_int_equal(back->flags, o.flags);
	assert_int_equal(back->possible_duplicates, 2);
	assert_int_equal(back->moved.segment, 1700000001);
	assert_int_equal(back->moved.offset, 4096);
	assert_int_equal(back->n_recipients, 2);
	assert_int_equal(back->recipients[0].code, 250);
	assert_true(span_equals(back->recipients[0].upstream, SPAN("gmail")));
	assert_int_equal(back->recipients[1].index, 3);
	assert_int_equal(back->recipients[1].next_attempt_ms, 1700000060000);
	assert_true(span_equals(back->recipients[1].reply, SPAN("come  later")));
	journal_free(back);
}

/* Recipients are named piece by piece; the last word about each counts. */
static void
outcomes_of_one_message_are_merged(void **state)
{
	struct fixture *f = *state;
	uint64_t id = queue_id_make(1700000000, 1);
	struct journal_recipient first[] = { { .index = 0, .state = JOURNAL_DELIVERED },
		{ .index = 1, .state = JOURNAL_DEFERRED, .attempts = 1 } };
	struct journal_recipient second[] = { { .index = 1,
	    .state = JOURNAL_DEFERRED,
	    .attempts = 2,
	    .reply = SPAN("450 still not") } };
	struct journal_outcome o = { .id = id, .n_all = 3, .recipients = first, .n_recipients = 2 };
	struct journal_outcome *merged;
	struct journal_index *index;
	bool was_seen;

	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	assert_int_equal(fixture_outcome(f, &o), 0);
	o.recipients = second;
	o.n_recipients = 1;
	o.flags = JOURNAL_WARNED;
	o.possible_duplicates = 1;
	assert_int_equal(fixture_outcome(f, &o), 0);
	fixture_stop(f);
	assert_int_equal(journal_index_open(f->dirfd, true, NULL, NULL, &index), 0);
	assert_int_equal(journal_index_get(index, id, &merged), 0);
	assert_non_null(merged);
	assert_int_equal(merged->n_recipients, 2);
	assert_int_equal(merged->flags, JOURNAL_WARNED);
	assert_int_equal(merged->possible_duplicates, 1);
	for (size_t i = 0; i < 2; i++) {
		const struct journal_recipient *r = &merged->recipients[i];

		assert_int_equal(r->state, r->index == 0 ? JOURNAL_DELIVERED : JOURNAL_DEFERRED);
		assert_int_equal(r->attempts, r->index == 0 ? 0 : 2);
	}
	journal_free(merged);
	assert_int_equal(journal_index_get(index, id + 1, &merged), 0);
	assert_null(merged);
	assert_int_equal(journal_index_was_seen(index, id, &was_seen), 0);
	assert_false(was_seen);
	assert_int_equal(journal_index_was_seen(index, id, &was_seen), 0);
	assert_true(was_seen);
	assert_false(journal_index_is_done(index, id));
	journal_index_close(index);
}

static void
what_is_done_does_not_come_back(void **state)
{
	struct fixture *f = *state;
	struct journal_outcome o = { .flags = JOURNAL_DONE };
	struct spool_writer *intake;
	static struct listed l;
	uint64_t id[3];

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	for (int i = 0; i < 3; i++)
		assert_int_equal(fixture_send(f, "x", 1, &id[i], NULL), 0);
	intake = f->writer;
	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	o.id = id[1];
	assert_int_equal(fixture_outcome(f, &o), 0);
	fixture_stop(f);
	f->writer = intake;
	fixture_list(f, &l, NULL, NULL, false);
	assert_int_equal(l.n, 2);
	assert_false(fixture_lists(&l, id[1]));
	assert_int_equal(l.sum.done, 1);
}

/* Journals are rewritten when little of them lives; what lives is still there, what is of segments that
 * are gone is not. */
static void
compaction_keeps_what_lives(void **state)
{
	enum { MESSAGES = 20, ROUNDS = 900 };
	struct fixture *f = *state;
	char reply[500];
	struct journal_recipient r[2];
	struct journal_outcome *o;
	struct journal_index *index;
	struct spool_writer *intake;
	static struct sent *all[ROUNDS];
	uint64_t id[MESSAGES], early, gone = queue_id_make(4, 1);
	unsigned last[MESSAGES] = { 0 };
	uint32_t *numbers;
	size_t n;

	memset(reply, 'r', sizeof(reply));
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	for (int i = 0; i < MESSAGES; i++)
		assert_int_equal(fixture_send(f, "x", 1, &id[i], NULL), 0);
	assert_int_equal(fixture_send(f, "early", 5, &early, NULL), 0);
	intake = f->writer;
	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	{
		struct journal_outcome once = { .id = early, .flags = JOURNAL_DONE };

		assert_int_equal(fixture_outcome(f, &once), 0);
	}
	for (unsigned round = 1; round <= 12; round++) {
		for (int i = 0; i < ROUNDS; i++) {
			struct journal_outcome out = { .id = i % 30 == 29 ? gone : id[i % MESSAGES],
				.n_all = 2,
				.recipients = r,
				.n_recipients = 2 };
			struct sent *s = all[i] = calloc(1, sizeof(*s));

			last[i % MESSAGES] =
			    i % 30 == 29 ? last[i % MESSAGES] : round * 1000 + (unsigned)i;
			r[0] = (struct journal_recipient){ .index = 0,
				.state = JOURNAL_DEFERRED,
				.attempts = round * 1000 + (unsigned)i,
				.reply = { reply, sizeof(reply) } };
			r[1] = r[0];
			r[1].index = 1;
			assert_int_equal(journal_encode(&out, &s->envelope, &s->envelope_len), 0);
			spool_item_outcome(&s->item, (struct span){ s->envelope, s->envelope_len });
			s->item.done = fixture_on_done;
			s->item.arg = s;
			spool_writer_submit(f->writer, &s->item);
		}
		for (int i = 0; i < ROUNDS; i++) {
			fixture_await(f, all[i]);
			assert_int_equal(all[i]->item.result, 0);
			fixture_free(all[i]);
		}
	}
	fixture_stop(f);
	f->writer = intake;
	assert_true(f->reports[SPOOL_REPORT_COMPACTED] >= 1);
	assert_int_equal(f->reports[SPOOL_REPORT_FAILED], 0);
	assert_int_equal(segment_list(f->dirfd, SEGMENT_NAME_JOURNAL, &numbers, &n), 0);
	assert_true(n < 10);
	free(numbers);
	assert_int_equal(journal_index_open(f->dirfd, true, NULL, NULL, &index), 0);
	assert_true(journal_index_is_done(index, early)); /* said once, before all compactions */
	assert_int_equal(journal_index_get(index, gone, &o), 0);
	journal_free(o); /* may be there still: what came after the last compaction */
	for (int i = 0; i < MESSAGES; i++) {
		assert_int_equal(journal_index_get(index, id[i], &o), 0);
		assert_non_null(o);
		assert_int_equal(o->n_recipients, 2);
		assert_int_equal(o->recipients[0].attempts, last[i]);
		journal_free(o);
	}
	journal_index_close(index);
}

int
main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(texts_with_line_ends_are_refused),
		TEST(an_envelope_needs_a_recipient),
		TEST(unknown_fields_are_skipped_unless_critical),
		TEST(cut_envelopes_and_outcomes_do_no_harm),
		TEST(an_outcome_comes_back_as_it_was),
		TEST(outcomes_of_one_message_are_merged),
		TEST(what_is_done_does_not_come_back),
		TEST(compaction_keeps_what_lives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
