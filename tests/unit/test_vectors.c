/* test_vectors.c - SMTP smuggling (I12): each row of tests/dialogues/end-of-data.vectors, in DATA and in BDAT,
 * followed by commands of the smuggler's, cut in every way. One message, one answer, the bytes that the row says,
 * nothing of the smuggled is done, and the session takes a second message as if nothing had been. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "figures.h"
#include "smtp/server.h"

enum { ROWS_MAX = 64, VECTOR_MAX = 24, TEXT_MAX = 4096 };

struct text {
	char data[TEXT_MAX];
	size_t len;
};

static struct row {
	char shown[80];
	char sent[VECTOR_MAX], in_data[VECTOR_MAX], in_bdat[VECTOR_MAX];
	size_t sent_len, in_data_len, in_bdat_len;
	bool is_bare, is_nul;
} rows[ROWS_MAX];
static size_t n_rows;
static unsigned long dialogues;

static const char *const before[] = {
	"Subject: x\r\n\r\nhello",     /* in a line of the body */
	"Subject: x\r\n\r\nhello\r\n", /* at the start of one */
	"Subject: x",                  /* in the header */
	"",                            /* behind the 354 */
};

static const char *const smuggled[] = {
	"MAIL FROM:<evil@example.com>\r\nRCPT TO:<evil@example.com>\r\nDATA\r\nSubject: "
	"evil\r\n\r\nevil",
	"MAIL FROM:<evil@example.com>\r\nRCPT TO:<evil@example.com>\r\nBDAT 4 LAST\r\nevil",
	"RSET\r\nEHLO evil\r\nMAIL FROM:<evil@example.com>\r\nRCPT "
	"TO:<evil@example.com>\r\nDATA\r\nevil",
	"QUIT",
};

/* Each skipped chunk is an error of the client's: here there may be many. */
#define OPTIONS(on_nul, on_line_end)                                                               \
	{                                                                                          \
		.hostname = "relay.example.com", .max_errors = 10000, .nul = SMTP_NUL_##on_nul,    \
		.line_end = SMTP_LINE_END_##on_line_end                                            \
	}
static const struct smtp_server_options all_options[] = {
	OPTIONS(SPACE, NORMALIZE),
	OPTIONS(REJECT, NORMALIZE),
	OPTIONS(SPACE, REJECT),
	OPTIONS(REJECT, REJECT),
};

/* ---- The rows ---- */

static size_t
unescape(const char *in, char out[VECTOR_MAX])
{
	static const char from[] = "rnt0s", to[] = "\r\n\t\0 ";
	size_t n = 0;

	while (*in != '\0') {
		const char *known;

		assert_true(n < VECTOR_MAX);
		if (*in != '\\') {
			out[n++] = *in++;
		} else if (in[1] == 'x') {
			const char hex[] = { in[2], in[3], '\0' };

			out[n++] = (char)strtoul(hex, NULL, 16);
			in += 4;
		} else {
			known = strchr(from, in[1]);
			assert_true(known != NULL && in[1] != '\0');
			out[n++] = to[known - from];
			in += 2;
		}
	}
	return n;
}

static int
read_rows(void **state)
{
	const char *srcdir = getenv("srcdir");
	char path[4096], line[512];
	FILE *f;

	(void)state;
	snprintf(path, sizeof(path), "%s/tests/dialogues/end-of-data.vectors",
	    srcdir != NULL ? srcdir : ".");
	f = fopen(path, "re");
	if (f == NULL)
		return -1;
	while (fgets(line, sizeof(line), f) != NULL) {
		char word[4][80];
		struct row *row = &rows[n_rows];

		if (line[0] == '#')
			continue;
		if (n_rows == ROWS_MAX ||
		    sscanf(line, "%79s %79s %79s %79s", word[0], word[1], word[2], word[3]) != 4)
			return -1;
		memcpy(row->shown, word[0], sizeof(row->shown));
		row->sent_len = unescape(word[0], row->sent);
		row->in_data_len = unescape(word[1], row->in_data);
		row->in_bdat_len = unescape(word[2], row->in_bdat);
		row->is_bare = strcmp(word[3], "bare") == 0 || strcmp(word[3], "both") == 0;
		row->is_nul = strcmp(word[3], "nul") == 0 || strcmp(word[3], "both") == 0;
		n_rows++;
	}
	fclose(f);
	return n_rows >= 14 ? 0 : -1;
}

/* ---- One session ---- */

/* How the bytes arrive: whole, byte by byte, or in two pieces. */
struct cut {
	size_t at;
	bool single;
	bool more; /* more is there already, as the caller knows */
};

struct talk {
	struct smtp_server server;
	struct text replies, body, kept;
	unsigned committed;
	char recipient;
	bool closed;
};

static void
add(struct text *to, const void *data, size_t len)
{
	assert_true(to->len + len <= sizeof(to->data));
	if (len > 0)
		memcpy(to->data + to->len, data, len);
	to->len += len;
}

static void
add_string(struct text *to, const char *string)
{
	add(to, string, strlen(string));
}

static void
take_message(struct talk *t)
{
	const struct smtp_mail *mail = &t->server.mail;

	assert_int_equal(mail->n_recipients, 1);
	t->recipient = mail->recipients[0].address.data[0];
	t->kept = t->body;
	t->committed++;
	smtp_server_committed(&t->server, 0, "0000000000001");
}

static void
pump(struct talk *t, struct span in, bool more)
{
	enum smtp_server_action action;

	do {
		size_t used;

		action = smtp_server_input(&t->server, in, more, &used);
		in = span_skip(in, used);
		if (action == SMTP_SERVER_REPLY)
			add(&t->replies, t->server.reply.data, 4);
		else if (action == SMTP_SERVER_BEGIN)
			t->body.len = 0;
		else if (action == SMTP_SERVER_BODY)
			add(&t->body, t->server.chunk.data, t->server.chunk.len);
		else if (action == SMTP_SERVER_COMMIT)
			take_message(t);
		else if (action == SMTP_SERVER_CLOSE)
			t->closed = true;
	} while (action != SMTP_SERVER_MORE && action != SMTP_SERVER_CLOSE);
}

static void
send_cut(struct talk *t, const struct text *text, const struct cut *cut)
{
	size_t done = 0;

	while (done < text->len && !t->closed) {
		size_t n = text->len - done;

		if (cut->single)
			n = 1;
		else if (done < cut->at && cut->at < text->len)
			n = cut->at;
		pump(t, (struct span){ text->data + done, n }, cut->more && done + n < text->len);
		done += n;
	}
}

static void
say(struct talk *t, const char *line)
{
	pump(t, span_of(line), false);
}

static void
begin(struct talk *t, const struct smtp_server_options *options)
{
	t->replies.len = t->body.len = t->kept.len = 0;
	t->committed = 0;
	t->closed = false;
	smtp_server_init(&t->server, options);
	say(t, "");
	say(t, "EHLO x\r\n");
	say(t, "MAIL FROM:<a@example.com>\r\n");
	say(t, "RCPT TO:<b@example.com>\r\n");
	t->replies.len = 0;
}

/* The next message finds a session without anything of the last one in it. */
static void
second_message_is_normal(struct talk *t)
{
	static const char text[] = "Subject: second\r\n\r\nsecond\r\n";
	const unsigned before_it = t->committed;

	t->replies.len = 0;
	say(t, "MAIL FROM:<a@example.com>\r\n");
	say(t, "RCPT TO:<c@example.com>\r\n");
	say(t, "DATA\r\n");
	say(t, text);
	say(t, ".\r\n");
	say(t, "QUIT\r\n");
	assert_int_equal(t->replies.len, 20);
	assert_memory_equal(t->replies.data, "250 250 354 250 221 ", 20);
	assert_int_equal(t->committed, before_it + 1);
	assert_int_equal(t->recipient, 'c');
	assert_int_equal(t->kept.len, sizeof(text) - 1);
	assert_memory_equal(t->kept.data, text, sizeof(text) - 1);
	assert_true(t->closed);
	smtp_server_fini(&t->server);
}

static bool
is_refused(const struct row *row, const struct smtp_server_options *options)
{
	return (row->is_nul && options->nul == SMTP_NUL_REJECT) ||
	       (row->is_bare && options->line_end == SMTP_LINE_END_REJECT);
}

static void
check_message(const struct talk *t, const struct row *row, const struct text *want)
{
	if (t->committed == 1 && t->recipient == 'b' && t->kept.len == want->len &&
	    memcmp(t->kept.data, want->data, want->len) == 0)
		return;
	print_error("%s: %u messages, the last has %zu bytes, not %zu:\n%.*s\n", row->shown,
	    t->committed, t->kept.len, want->len, (int)t->kept.len, t->kept.data);
	fail();
}

/* ---- DATA ---- */

static void
check_data(const struct row *row, const struct smtp_server_options *options,
    const struct text *sent, const struct text *want, const struct cut *cut)
{
	static struct talk t;

	begin(&t, options);
	say(&t, "DATA\r\n");
	send_cut(&t, sent, cut);
	assert_int_equal(t.replies.len, 8); /* 354, and one answer */
	assert_memory_equal(t.replies.data, is_refused(row, options) ? "354 550 " : "354 250 ", 8);
	if (is_refused(row, options))
		assert_int_equal(t.committed, 0);
	else
		check_message(&t, row, want);
	second_message_is_normal(&t);
	dialogues++;
}

static void
compose(const struct row *row, const char *prefix, const char *commands, bool bdat,
    struct text *sent, struct text *want)
{
	sent->len = want->len = 0;
	add_string(sent, prefix);
	add_string(want, prefix);
	for (unsigned i = 0; i < 2; i++) {
		add(sent, row->sent, row->sent_len);
		add_string(sent, commands);
		if (bdat)
			add(want, row->in_bdat, row->in_bdat_len);
		else
			add(want, row->in_data, row->in_data_len);
		add_string(want, commands);
	}
	add_string(sent, bdat ? "\r\n.\r\nQUIT" : "\r\n.\r\n");
	add_string(want, bdat ? "\r\n.\r\nQUIT\r\n" : "\r\n"); /* B6: a last line gets its end */
}

/* In the short run each text before goes with one of the smuggled, in the long run with each. */
static bool
is_wanted(size_t prefix, size_t commands)
{
	return prefix == commands || fault_is_long();
}

static void
cut_data_everywhere(const struct row *row, const char *prefix, const char *commands)
{
	struct text sent, want;

	compose(row, prefix, commands, false, &sent, &want);
	for (size_t o = 0; o < ARRAY_LEN(all_options); o++) {
		const struct smtp_server_options *options = &all_options[o];

		check_data(row, options, &sent, &want, &(struct cut){ .single = true });
		for (size_t at = 0; at < sent.len; at++)
			check_data(row, options, &sent, &want, &(struct cut){ .at = at });
	}
}

static void
no_vector_ends_data(void **state)
{
	(void)state;
	for (size_t r = 0; r < n_rows; r++)
		for (size_t p = 0; p < ARRAY_LEN(before); p++)
			for (size_t c = 0; c < ARRAY_LEN(smuggled); c++)
				if (is_wanted(p, c))
					cut_data_everywhere(&rows[r], before[p], smuggled[c]);
}

/* ---- BDAT ---- */

/* Chunks of this many bytes, the first perhaps of another length; the last empty. */
static void
add_chunks(const struct text *content, size_t first, size_t each, struct text *flight)
{
	char command[40];
	size_t done = 0, n = first;

	flight->len = 0;
	while (done < content->len) {
		n = n < content->len - done ? n : content->len - done;
		snprintf(command, sizeof(command), "BDAT %zu\r\n", n);
		add_string(flight, command);
		add(flight, content->data + done, n);
		done += n;
		n = each;
	}
	add_string(flight, "BDAT 0 LAST\r\n");
}

/* One answer to each chunk: 250, until one is refused; then those that follow are skipped. */
static void
check_chunk_replies(const struct talk *t, unsigned chunks, bool refused)
{
	unsigned found[3] = { 0, 0, 0 };

	assert_int_equal(t->replies.len, 4 * chunks);
	for (unsigned i = 0; i < chunks; i++) {
		const char *code = t->replies.data + 4 * (size_t)i;

		if (memcmp(code, "250 ", 4) == 0)
			assert_true(found[1] == 0);
		else if (memcmp(code, "550 ", 4) == 0)
			assert_true(found[1] == 0);
		else
			assert_true(found[1] == 1 && memcmp(code, "551 ", 4) == 0);
		found[code[2] == '0' ? code[0] == '5' : 2]++;
	}
	assert_int_equal(found[1], refused);
}

static void
check_bdat(const struct row *row, const struct smtp_server_options *options,
    const struct text *flight, unsigned chunks, const struct text *want, const struct cut *cut)
{
	static struct talk t;
	const bool refused = is_refused(row, options);

	begin(&t, options);
	send_cut(&t, flight, cut);
	check_chunk_replies(&t, chunks, refused);
	if (refused)
		assert_int_equal(t.committed, 0);
	else
		check_message(&t, row, want);
	second_message_is_normal(&t);
	dialogues++;
}

static void
one_chunk(const struct row *row, const struct smtp_server_options *options,
    const struct text *content, const struct text *want)
{
	struct text flight = { .len = 0 };
	char command[40];

	snprintf(command, sizeof(command), "BDAT %zu LAST\r\n", content->len);
	add_string(&flight, command);
	add(&flight, content->data, content->len);
	check_bdat(row, options, &flight, 1, want, &(struct cut){ .single = true });
	for (size_t at = 0; at < flight.len; at++)
		check_bdat(row, options, &flight, 1, want, &(struct cut){ .at = at });
}

/* The chunk ends at every byte. In the long run the flight is cut at every byte as well. */
static void
two_chunks(const struct row *row, const struct smtp_server_options *options,
    const struct text *content, const struct text *want)
{
	const bool is_long = fault_is_long();
	struct text flight;

	for (size_t first = 1; first < content->len; first++) {
		add_chunks(content, first, content->len, &flight);
		check_bdat(row, options, &flight, 3, want, &(struct cut){ .single = true });
		for (size_t at = 0; is_long && at < flight.len; at++)
			check_bdat(row, options, &flight, 3, want, &(struct cut){ .at = at });
	}
}

static void
each_byte_a_chunk(const struct row *row, const struct smtp_server_options *options,
    const struct text *content, const struct text *want)
{
	const unsigned chunks = (unsigned)content->len + 1;
	struct text flight;

	add_chunks(content, 1, 1, &flight);
	check_bdat(row, options, &flight, chunks, want, &(struct cut){ .at = 0 });
	check_bdat(row, options, &flight, chunks, want, &(struct cut){ .single = true });
}

static void
no_vector_ends_a_chunk(void **state)
{
	(void)state;
	for (size_t r = 0; r < n_rows; r++)
		for (size_t p = 0; p < ARRAY_LEN(before); p++) {
			struct text content, want;

			compose(&rows[r], before[p], smuggled[p], true, &content, &want);
			for (size_t o = 0; o < ARRAY_LEN(all_options); o++) {
				one_chunk(&rows[r], &all_options[o], &content, &want);
				if (p != 0)
					continue;
				two_chunks(&rows[r], &all_options[o], &content, &want);
				each_byte_a_chunk(&rows[r], &all_options[o], &content, &want);
			}
		}
}

/* ---- And were the end wrong, D10 would stop it ---- */

/* A client that does not wait for its 354 is a smuggler's victim: its DATA is not taken. */
static void
what_follows_the_true_end_cannot_bring_its_own_data(void **state)
{
	struct talk *t = calloc(1, sizeof(*t));
	struct text flight = { .len = 0 };

	(void)state;
	add_string(&flight, "Subject: x\r\n\r\nhello\r\n.\r\n");
	add_string(&flight, smuggled[0]);
	add_string(&flight, "\r\n.\r\nQUIT\r\n");
	for (size_t at = 0; at < flight.len; at++) {
		const struct cut cut = { .at = at, .more = true };

		begin(t, &all_options[0]);
		say(t, "DATA\r\n");
		send_cut(t, &flight, &cut);
		assert_int_equal(t->committed, 1);
		assert_int_equal(t->recipient, 'b');
		assert_true(t->closed);
		assert_int_equal(t->replies.len, 20);
		assert_memory_equal(t->replies.data, "354 250 250 250 554 ", 20);
		smtp_server_fini(&t->server);
	}
	free(t);
}

static int
tell_figures(void **state)
{
	(void)state;
	fault_figures("test_vectors", "39", "hostile_dialogues", dialogues);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_vector_ends_data),
		cmocka_unit_test(no_vector_ends_a_chunk),
		cmocka_unit_test(what_follows_the_true_end_cannot_bring_its_own_data),
	};

	return cmocka_run_group_tests(tests, read_rows, tell_figures);
}
