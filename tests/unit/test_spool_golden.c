/* test_spool_golden.c - the format does not change by accident: files that were written once
 * (tests/unit/golden/) are read as they always were, and made again byte for byte. After a change of
 * format on purpose: new version, new files beside these, `test_spool_golden --write DIRECTORY`. */
#include "figures.h"
#include "spool_fixture.h"
#include "spool/journal.h"

#define SEGMENT_NUMBER 1700000000u
#define JOURNAL_NUMBER 1700000001u
#define FILE_BYTES (4 * RECORD_BLOCK)

static const char body[] = "Subject: golden\r\n\r\nThis body never changes.\r\n";

static uint8_t made[FILE_BYTES];
static size_t at;
static uint64_t seq;
static struct record_salt salt;
static struct record_commit commit;

static unsigned long old_files; /* for the figures: how many were read */

static void
begin(enum segment_kind kind, uint32_t number)
{
	struct segment_header h = { .kind = kind,
		.number = number,
		.created_ms = 1700000000000,
		.blocks = FILE_BYTES / RECORD_BLOCK };

	for (size_t i = 0; i < sizeof(h.salt); i++)
		h.salt[i] = (uint8_t)(0xa0 + i);
	memset(made, 0, sizeof(made));
	segment_put_header(&h, made);
	segment_put_header(&h, made + FILE_BYTES - RECORD_BLOCK);
	salt = record_salt_from(h.salt);
	at = RECORD_BLOCK;
	seq = 1;
	commit = (struct record_commit){ .first_seq = 1, .checksum = salt.payload };
}

static void
add(uint8_t type, uint8_t flags, const void *payload, size_t len)
{
	at += fixture_put_record(
	    made + at, salt, type, flags, seq++, payload, (uint32_t)len, &commit.checksum);
	commit.count++;
}

static void
end_group(void)
{
	uint8_t payload[RECORD_COMMIT_BYTES];

	commit.last_seq = seq - 1;
	record_put_commit(&commit, payload);
	add(RECORD_COMMIT, 0, payload, sizeof(payload));
	at = (at + RECORD_BLOCK - 1) / RECORD_BLOCK * RECORD_BLOCK;
	commit = (struct record_commit){ .first_seq = seq, .checksum = salt.payload };
}

static void
make_segment(void)
{
	struct record_revoke revoke = { SEGMENT_NUMBER - 2, 10, 13 };
	struct envelope e = fixture_envelope(queue_id_make(SEGMENT_NUMBER, 1), sizeof(body) - 1);
	uint8_t payload[RECORD_REVOKE_BYTES];
	void *encoded;
	size_t len;

	begin(SEGMENT_INTAKE, SEGMENT_NUMBER);
	record_put_revoke(&revoke, payload);
	add(RECORD_REVOKE, RECORD_CRITICAL, payload, sizeof(payload));
	end_group();
	assert_int_equal(envelope_encode(&e, &encoded, &len), 0);
	add(RECORD_ENVELOPE, 0, encoded, len);
	add(RECORD_BODY, 0, body, sizeof(body) - 1);
	end_group();
	free(encoded);
}

static void
make_journal(void)
{
	struct journal_recipient r[] = {
		{ .index = 0,
		    .state = JOURNAL_DELIVERED,
		    .attempts = 1,
		    .code = 250,
		    .enhanced = SPAN("2.0.0"),
		    .reply = SPAN("queued"),
		    .upstream = SPAN("gmail") },
		{ .index = 1,
		    .state = JOURNAL_DEFERRED,
		    .attempts = 2,
		    .code = 450,
		    .next_attempt_ms = 1700000060000,
		    .enhanced = SPAN("4.2.1"),
		    .reply = SPAN("mailbox busy"),
		    .upstream = SPAN("gmail") },
	};
	struct journal_outcome o = { .id = queue_id_make(SEGMENT_NUMBER, 1),
		.time_ms = 1700000001000,
		.flags = JOURNAL_WARNED,
		.possible_duplicates = 1,
		.moved = { SEGMENT_NUMBER + 1, 4096 },
		.n_all = 2,
		.recipients = r,
		.n_recipients = 2 };
	void *encoded;
	size_t len;

	begin(SEGMENT_JOURNAL, JOURNAL_NUMBER);
	assert_int_equal(journal_encode(&o, &encoded, &len), 0);
	add(RECORD_SNAPSHOT, 0, "", 0);
	add(RECORD_OUTCOME, 0, encoded, len);
	end_group();
	add(RECORD_CLEAN, 0, "", 0);
	end_group();
	free(encoded);
}

static void
put_file(const char *directory, const char *name)
{
	char path[512];
	FILE *out;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	out = fopen(path, "w");
	assert_non_null(out);
	assert_int_equal(fwrite(made, 1, sizeof(made), out), sizeof(made));
	fclose(out);
}

static const char *
golden_directory(void)
{
	static char path[512];
	const char *source = getenv("srcdir");

	snprintf(path, sizeof(path), "%s/tests/unit/golden", source != NULL ? source : ".");
	return path;
}

static void
is_as_it_was(const char *name)
{
	static uint8_t golden[FILE_BYTES + 1];
	char path[600];
	FILE *in;

	snprintf(path, sizeof(path), "%s/%s", golden_directory(), name);
	in = fopen(path, "r");
	assert_non_null(in);
	assert_int_equal(fread(golden, 1, sizeof(golden), in), FILE_BYTES);
	fclose(in);
	assert_memory_equal(golden, made, FILE_BYTES);
	old_files++;
}

static void
the_same_bytes_are_made(void **state)
{
	(void)state;
	make_segment();
	is_as_it_was("intake-1700000000.seg");
	make_journal();
	is_as_it_was("journal-1700000001.log");
}

static int
on_message(void *arg, const struct catalog_message *m)
{
	*(unsigned *)arg += 1;
	assert_int_equal(m->id, queue_id_make(SEGMENT_NUMBER, 1));
	assert_false(m->uncommitted);
	assert_int_equal(m->location.offset, 2 * RECORD_BLOCK);
	assert_int_equal(m->envelope->arrived_ms, 1700000000123);
	assert_int_equal(m->envelope->ret, ENVELOPE_RET_HDRS);
	assert_true(span_equals(m->envelope->envid, SPAN("E1")));
	assert_true(span_equals(m->envelope->recipients[0].address, SPAN("ann@example.org")));
	assert_int_equal(m->envelope->recipients[0].notify, ENVELOPE_NOTIFY_FAILURE);
	assert_non_null(m->outcome);
	assert_int_equal(m->outcome->flags, JOURNAL_WARNED);
	assert_int_equal(m->outcome->moved.segment, SEGMENT_NUMBER + 1);
	assert_int_equal(m->outcome->recipients[1].next_attempt_ms, 1700000060000);
	assert_true(span_equals(m->outcome->recipients[1].reply, SPAN("mailbox busy")));
	return 0;
}

static void
old_files_are_read_as_ever(void **state)
{
	struct catalog_summary sum;
	unsigned messages = 0;
	struct catalog_options options = { .message = on_message, .arg = &messages };

	(void)state;
	options.dirfd = open(golden_directory(), O_RDONLY | O_DIRECTORY);
	assert_true(options.dirfd >= 0);
	assert_int_equal(catalog_replay(&options, &sum), 0);
	assert_int_equal(messages, 1);
	assert_int_equal(sum.corrupt_ranges + sum.torn_ranges, 0);
	close(options.dirfd);
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_same_bytes_are_made),
		cmocka_unit_test(old_files_are_read_as_ever),
	};
	int failed;

	if (argc == 3 && strcmp(argv[1], "--write") == 0) {
		make_segment();
		put_file(argv[2], "intake-1700000000.seg");
		make_journal();
		put_file(argv[2], "journal-1700000001.log");
		return 0;
	}
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	fault_figures("test_spool_golden", "53", "strange_files", old_files);
	return failed;
}
