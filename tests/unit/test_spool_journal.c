/* test_spool_journal.c - envelopes and outcomes as bytes; replay and compaction of journals. */
#include "spool_fixture.h"
#include "spool/journal_compact.h"
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
	assert_int_equal(journal_index_open(f->dirfd, NULL, true, NULL, NULL, &index), 0);
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

/* It was whole when the journals were read. Half of what is known of a message would be told as all of it. */
static void
an_outcome_that_has_changed_since_is_not_left_out(void **state)
{
	struct fixture *f = *state;
	struct journal_recipient r[] = { { .index = 0, .state = JOURNAL_DELIVERED },
		{ .index = 1, .state = JOURNAL_DELIVERED } };
	struct journal_outcome o = {
		.id = queue_id_make(1700000000, 1), .n_all = 3, .n_recipients = 1
	};
	struct journal_outcome *merged;
	struct journal_index *index;
	char name[SEGMENT_NAME_MAX];
	uint32_t *numbers;
	size_t n;
	int fd;

	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	for (size_t i = 0; i < 2; i++) {
		o.recipients = &r[i];
		assert_int_equal(fixture_outcome(f, &o), 0);
	}
	fixture_stop(f);
	assert_int_equal(journal_index_open(f->dirfd, NULL, true, NULL, NULL, &index), 0);
	assert_int_equal(segment_list(f->dirfd, SEGMENT_NAME_JOURNAL, &numbers, &n), 0);
	segment_name(SEGMENT_JOURNAL, numbers[0], name);
	fd = openat(f->dirfd, name, O_WRONLY);
	for (size_t i = 1; i <= 2; i++) { /* each is a group of its own: the older one, then both */
		assert_int_equal(
		    pwrite(fd, "?", 1, (off_t)(i * RECORD_BLOCK + RECORD_HEADER_BYTES + 4)), 1);
		assert_int_equal(journal_index_get(index, o.id, &merged), -EBADMSG);
	}
	close(fd);
	free(numbers);
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
	assert_int_equal(journal_index_open(f->dirfd, NULL, true, NULL, NULL, &index), 0);
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

/* Outcomes of one message that fit in no record together, nor in a file: they are merged with fewer words,
 * and written anew in pieces. */
static void
an_outcome_may_be_bigger_than_a_record(void **state)
{
	enum { PARTS = 12, EACH = 1500 };
	static struct journal_recipient r[EACH];
	static char reply[JOURNAL_REPLY_MAX];
	struct fixture *f = *state;
	uint64_t id;
	struct journal_outcome o = { .n_all = PARTS * EACH, .recipients = r, .n_recipients = EACH };
	struct journal_outcome *merged;
	struct journal_index *index;
	struct spool_writer *intake;

	memset(reply, 'r', sizeof(reply));
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "x", 1, &id, NULL), 0);
	intake = f->writer;
	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	o.id = id;
	for (uint32_t part = 0; part < PARTS; part++) {
		for (uint32_t i = 0; i < EACH; i++)
			r[i] = (struct journal_recipient){ .index = part * EACH + i,
				.state = JOURNAL_DEFERRED,
				.attempts = part + 1,
				.reply = { reply, sizeof(reply) } };
		assert_int_equal(fixture_outcome(f, &o), 0);
	}
	fixture_stop(f);
	assert_true(f->reports[SPOOL_REPORT_COMPACTED] > 0);
	f->writer = intake;
	assert_int_equal(journal_index_open(f->dirfd, NULL, true, NULL, NULL, &index), 0);
	assert_false(journal_index_is_damaged(index));
	assert_int_equal(journal_index_get(index, id, &merged), 0);
	assert_int_equal(merged->n_recipients, PARTS * EACH);
	for (size_t i = 0; i < merged->n_recipients; i++) {
		assert_int_equal(
		    merged->recipients[i].attempts, merged->recipients[i].index / EACH + 1);
		assert_int_equal(merged->recipients[i].state, JOURNAL_DEFERRED);
	}
	journal_free(merged);
	journal_index_close(index);
}

/* Writes so much about one message that the journals are rewritten. */
static void
churn(struct fixture *f, uint64_t id)
{
	enum { AT_ONCE = 900 };
	static struct sent *all[AT_ONCE];
	static char reply[500];
	struct journal_recipient r = { .state = JOURNAL_DEFERRED,
		.reply = { reply, sizeof(reply) } };
	struct journal_outcome o = { .id = id, .n_all = 1, .recipients = &r, .n_recipients = 1 };
	unsigned before = f->reports[SPOOL_REPORT_COMPACTED];

	memset(reply, 'r', sizeof(reply));
	for (int round = 0; round < 40 && f->reports[SPOOL_REPORT_COMPACTED] == before; round++) {
		for (int i = 0; i < AT_ONCE; i++) {
			struct sent *s = all[i] = calloc(1, sizeof(*s));

			assert_int_equal(journal_encode(&o, &s->envelope, &s->envelope_len), 0);
			spool_item_outcome(&s->item, (struct span){ s->envelope, s->envelope_len });
			s->item.done = fixture_on_done;
			s->item.arg = s;
			spool_writer_submit(f->writer, &s->item);
		}
		for (int i = 0; i < AT_ONCE; i++) {
			fixture_await(f, all[i]);
			fixture_free(all[i]);
		}
	}
	assert_int_equal(f->reports[SPOOL_REPORT_COMPACTED], before + 1);
}

/* A message that has moved left copies behind, anywhere between where its ID says and where it stood
 * last: as long as a segment of these is there, what became of it is remembered. */
static void
outcomes_are_kept_while_a_copy_may_be_there(void **state)
{
	static const struct {
		int from,
		    to; /* its ID's segment and where it moved, from a segment that is there */
		bool is_kept;
	} cases[] = {
		{ 0, 0, true },
		{ -10, 0, true },
		{ -10, 10, true }, /* over it: it may have stood there in between */
		{ -10, -2, false },
		{ -10, -10, false }, /* never moved */
		{ 10, 20, false },
	};
	struct fixture *f = *state;
	struct journal_index *index;
	uint64_t here, id[ARRAY_LEN(cases)];
	uint32_t *numbers;
	size_t n;

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "x", 1, &here, NULL), 0);
	fixture_stop(f); /* the one that was ready for the next is gone as well */
	assert_int_equal(segment_list(f->dirfd, SEGMENT_NAME_INTAKE, &numbers, &n), 0);
	assert_int_equal(n, 1);
	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint32_t from = numbers[0] + (uint32_t)cases[i].from;
		uint32_t to = numbers[0] + (uint32_t)cases[i].to;
		struct journal_outcome o = { .id = id[i] = queue_id_make(from, 100 + i),
			.flags = JOURNAL_DONE };

		if (from != to) {
			o.flags |= JOURNAL_MOVED;
			o.moved = (struct spool_location){ to, 4096 };
		}
		assert_int_equal(fixture_outcome(f, &o), 0);
	}
	churn(f, here);
	fixture_stop(f);
	assert_int_equal(journal_index_open(f->dirfd, NULL, true, NULL, NULL, &index), 0);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		if (journal_index_is_done(index, id[i]) != cases[i].is_kept)
			fail_msg("case %zu", i);
	journal_index_close(index);
	free(numbers);
}

/* Lengths and numbers that say more than there is. */
static void
lengths_are_bounded(void **state)
{
	struct journal_recipient r = { .state = JOURNAL_DEFERRED,
		.enhanced = SPAN("4.0.0"),
		.reply = SPAN("later"),
		.upstream = SPAN("u") };
	struct journal_outcome o = { .id = 5, .recipients = &r, .n_recipients = 1 }, *o2;
	struct envelope e = fixture_envelope(7, 3), *e2;
	size_t len, recipient = 20 + 1 + 5 + 2 + 5 + 1 + 1, address = strlen("bob@example.org");
	uint8_t *out;
	void *encoded;

	(void)state;
	assert_int_equal(journal_encode(&o, &encoded, &len), 0);
	out = encoded;
	assert_int_equal(out[len - 2], 1);
	out[len - 2] = 200;
	assert_int_equal(journal_decode((struct span){ encoded, len }, &o2), -EBADMSG);
	out[len - 2] = 1;
	record_put_u32(out + len - recipient, UINT32_MAX);
	assert_int_equal(journal_decode((struct span){ encoded, len }, &o2), -EBADMSG);
	record_put_u32(out + len - recipient, 0);
	assert_int_equal(journal_decode((struct span){ encoded, len }, &o2), 0);
	journal_free(o2);
	free(encoded);

	assert_int_equal(envelope_encode(&e, &encoded, &len), 0);
	out = encoded;
	assert_int_equal(record_get_u16(out + len - address - 2), address);
	record_put_u16(out + len - address - 2, (uint16_t)(address + 1));
	assert_int_equal(envelope_decode((struct span){ encoded, len }, &e2), -EBADMSG);
	free(encoded);
}

/* What it says may be that mail was delivered. */
static void
a_newer_record_in_a_journal_ends_the_start(void **state)
{
	struct fixture *f = *state;
	struct segment_header h;
	struct journal_index *index;
	uint8_t bytes[RECORD_BLOCK];
	uint64_t unused = 0;
	size_t len;
	int fd;

	assert_int_equal(
	    segment_create(f->dirfd, SEGMENT_JOURNAL, SMALL_SEGMENT, NULL, &h, &fd), 0);
	len = fixture_put_record(
	    bytes, record_salt_from(h.salt), 78, RECORD_CRITICAL, 1, "!", 1, &unused);
	assert_int_equal(pwrite(fd, bytes, len, RECORD_BLOCK), len);
	close(fd);
	assert_int_equal(
	    journal_index_open(f->dirfd, NULL, true, NULL, NULL, &index), -EPROTONOSUPPORT);
}

struct written {
	unsigned outcomes;
};

static int
on_put(void *arg, uint8_t type, const void *payload, size_t len)
{
	struct written *w = arg;

	(void)len;
	w->outcomes += type == RECORD_OUTCOME && payload != NULL;
	return 0;
}

/* A message may stand elsewhere than its ID says: while it is there its outcome is needed. */
static void
compaction_knows_where_a_message_has_gone(void **state)
{
	struct fixture *f = *state;
	struct spool_location at;
	struct written w = { 0 };
	uint64_t id, bytes;

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "x", 1, &id, &at), 0);
	fixture_stop(f);
	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	{
		struct journal_outcome here = { .id = id, .flags = JOURNAL_DONE };
		struct journal_outcome moved = {
			.id = queue_id_make(4, 1), .flags = JOURNAL_DONE, .moved = at
		};
		struct journal_outcome copied = { .id = id + 1,
			.flags = JOURNAL_DONE,
			.moved = { at.segment + 10, RECORD_BLOCK } };
		struct journal_outcome gone = { .id = queue_id_make(4, 2),
			.flags = JOURNAL_DONE,
			.moved = { 6, RECORD_BLOCK } };

		assert_int_equal(fixture_outcome(f, &here), 0);
		assert_int_equal(fixture_outcome(f, &moved), 0);
		assert_int_equal(fixture_outcome(f, &copied), 0);
		assert_int_equal(fixture_outcome(f, &gone), 0);
	}
	fixture_stop(f);
	assert_int_equal(journal_compact(f->dirfd, UINT32_MAX, on_put, &w, &bytes), 0);
	assert_int_equal(w.outcomes, 3);
}

/* The bytes stay where they are until someone has looked; and what changed since is not believed. */
static void
a_damaged_journal_is_not_written_anew(void **state)
{
	struct fixture *f = *state;
	struct journal_recipient r = { .state = JOURNAL_DEFERRED, .reply = SPAN("450 later") };
	struct journal_outcome o = {
		.id = queue_id_make(4, 1), .recipients = &r, .n_recipients = 1
	};
	struct journal_outcome *back;
	struct journal_index *index;
	struct written w = { 0 };
	char name[SEGMENT_NAME_MAX], word[5];
	uint32_t *numbers;
	uint64_t bytes;
	size_t n;
	int fd;

	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	assert_int_equal(fixture_outcome(f, &o), 0);
	assert_int_equal(fixture_outcome(f, &o), 0);
	fixture_stop(f);
	assert_int_equal(segment_list(f->dirfd, SEGMENT_NAME_JOURNAL, &numbers, &n), 0);
	segment_name(SEGMENT_JOURNAL, numbers[0], name);
	free(numbers);
	assert_int_equal(journal_index_open(f->dirfd, NULL, true, NULL, NULL, &index), 0);
	fd = openat(f->dirfd, name, O_RDWR);
	assert_int_equal(pread(fd, word, 5, RECORD_BLOCK + RECORD_HEADER_BYTES + 81), 5);
	assert_memory_equal(word, "later", 5);
	assert_int_equal(pwrite(fd, "never", 5, RECORD_BLOCK + RECORD_HEADER_BYTES + 81), 5);
	close(fd);
	assert_int_equal(journal_index_get(index, o.id, &back), -EBADMSG);
	journal_index_close(index);
	assert_int_equal(journal_compact(f->dirfd, UINT32_MAX, on_put, &w, &bytes), -EBADMSG);
	assert_int_equal(w.outcomes, 0);
	assert_int_equal(faccessat(f->dirfd, name, F_OK, 0), 0);
}

/* A delivery that is killed leaves two such files each time. Their numbers are not used again. */
static void
journals_that_hold_nothing_go(void **state)
{
	struct fixture *f = *state;
	struct journal_outcome o = { .id = queue_id_make(4, 1), .flags = JOURNAL_DONE };
	struct segment_header empty[2], next;
	uint32_t *before, *numbers;
	size_t n_before, n;
	int fd;

	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	assert_int_equal(fixture_outcome(f, &o), 0);
	fixture_stop(f);
	assert_int_equal(segment_list(f->dirfd, SEGMENT_NAME_JOURNAL, &before, &n_before), 0);
	assert_int_equal(n_before, 1);
	for (size_t i = 0; i < ARRAY_LEN(empty); i++) {
		assert_int_equal(
		    segment_create(f->dirfd, SEGMENT_JOURNAL, SMALL_SEGMENT, NULL, &empty[i], &fd),
		    0);
		close(fd);
	}
	journal_drop_empty(f->dirfd);
	assert_int_equal(segment_list(f->dirfd, SEGMENT_NAME_JOURNAL, &numbers, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(numbers[0], before[0]);
	assert_int_equal(
	    segment_create(f->dirfd, SEGMENT_JOURNAL, SMALL_SEGMENT, NULL, &next, &fd), 0);
	assert_true(next.number > empty[1].number);
	close(fd);
	free(before);
	free(numbers);
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
		TEST(an_outcome_that_has_changed_since_is_not_left_out),
		TEST(what_is_done_does_not_come_back),
		TEST(compaction_keeps_what_lives),
		TEST(an_outcome_may_be_bigger_than_a_record),
		TEST(outcomes_are_kept_while_a_copy_may_be_there),
		TEST(lengths_are_bounded),
		TEST(a_newer_record_in_a_journal_ends_the_start),
		TEST(compaction_knows_where_a_message_has_gone),
		TEST(a_damaged_journal_is_not_written_anew),
		TEST(journals_that_hold_nothing_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
