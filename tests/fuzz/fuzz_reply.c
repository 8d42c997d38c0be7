/* fuzz_reply.c - the parser of upstreams' replies: what it makes of bytes does not hang on the slices, is
 * what RFC 5321 4.2 says, and its bounds hold (C2). The words it hands on are fit to be shown; a cut
 * status code ("5.7.2", "5.7.", "5..2", "250 2") is none, and is never read past its end
 * (CVE-2026-43964). Input: u8 length of the slices (0: whole), then bytes. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "smtp/address.h"
#include "smtp/reply.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LINES = 4096 };

/* What a parser said, line by line. */
struct heard {
	struct {
		int code;
		bool is_last;
		size_t len;
		uint64_t hash;
	} lines[LINES];
	size_t n;
	bool is_bad;
};

static uint64_t
hash(struct span text)
{
	uint64_t h = 1469598103934665603u;

	for (size_t i = 0; i < text.len; i++)
		h = (h ^ (unsigned char)text.data[i]) * 1099511628211u;
	return h;
}

static void
note(struct heard *h, int code, bool is_last, struct span text)
{
	if (h->n == LINES)
		return;
	h->lines[h->n].code = code;
	h->lines[h->n].is_last = is_last;
	h->lines[h->n].len = text.len;
	h->lines[h->n++].hash = hash(text);
}

/* ---- Reading it another way: the whole input, line by line ---- */

static bool
is_code(struct span line)
{
	return line.len >= 3 && line.data[0] >= '2' && line.data[0] <= '5' &&
	       (unsigned)(line.data[1] - '0') < 10 && (unsigned)(line.data[2] - '0') < 10 &&
	       (line.len == 3 || line.data[3] == ' ' || line.data[3] == '-');
}

static void
read_plainly(struct span in, struct heard *h)
{
	size_t bytes = 0;
	unsigned lines = 0;
	int begun = 0;

	while (in.len > 0 && !h->is_bad) {
		const char *lf = memchr(in.data, '\n', in.len);
		struct span line = { in.data, lf != NULL ? (size_t)(lf - in.data) : in.len };
		const size_t raw = line.len;
		int code;

		bytes += raw;
		if (raw > SMTP_REPLY_LINE_MAX || bytes > SMTP_REPLY_BYTES_MAX) {
			h->is_bad = true;
			return;
		}
		if (lf == NULL)
			return;
		in = span_skip(in, raw + 1);
		line.len -= raw > 0 && line.data[raw - 1] == '\r';
		code = is_code(line) ? (line.data[0] - '0') * 100 + (line.data[1] - '0') * 10 +
		                           line.data[2] - '0'
		                     : 0;
		if (code == 0 || (begun != 0 && begun != code) || ++lines > SMTP_REPLY_LINES_MAX) {
			h->is_bad = true;
			return;
		}
		begun = line.len > 3 && line.data[3] == '-' ? code : 0;
		note(h, code, begun == 0,
		    line.len > 4 ? span_skip(line, 4) : (struct span){ "", 0 });
		if (begun == 0)
			lines = 0, bytes = 0;
	}
}

/* ---- The parser ---- */

static void
check_words(const struct upstream_reply *reply)
{
	const size_t len = strlen(reply->text);

	assert(len < sizeof(reply->text));
	assert(address_is_utf8((struct span){ reply->text, len }));
	assert(strlen(reply->enhanced) < sizeof(reply->enhanced));
	for (const char *c = reply->enhanced; *c != '\0'; c++)
		assert(*c == '.' || (*c >= '0' && *c <= '9'));
}

static void
read_slices(struct span in, size_t slice, struct heard *h)
{
	static struct smtp_reply_parser p;
	struct upstream_reply reply = { .code = 0 };
	bool is_first = true;

	smtp_reply_init(&p);
	while (in.len > 0 && !h->is_bad) {
		/* in a block of its own, so that one byte too much is seen */
		const size_t n = slice > 0 && slice < in.len ? slice : in.len;
		char *bytes = malloc(n);
		struct span left = { bytes, n };

		memcpy(bytes, in.data, n);
		while (left.len > 0 && !h->is_bad) {
			size_t used;
			const enum smtp_reply_event event = smtp_reply_input(&p, left, &used);

			assert(used <= left.len && (used > 0 || event == SMTP_REPLY_BAD));
			left = span_skip(left, used);
			h->is_bad = event == SMTP_REPLY_BAD;
			assert(h->is_bad == (p.problem != NULL));
			if (event != SMTP_REPLY_LINE)
				continue;
			note(h, p.code, p.is_last, p.line);
			smtp_reply_collect(&reply, &p, is_first);
			check_words(&reply);
			assert(reply.code == p.code);
			is_first = p.is_last;
		}
		free(bytes);
		in = span_skip(in, n);
	}
}

/* ---- Status codes ---- */

/* RFC 3463 2: class "." subject "." detail, the class that of the reply. Its length; 0: none. */
static size_t
enhanced_len(struct span text, int code)
{
	size_t at = 0;

	if (code / 100 != 2 && code / 100 != 4 && code / 100 != 5)
		return 0;
	for (unsigned part = 0; part < 3; part++) {
		const size_t start = at;

		while (at < text.len && text.data[at] >= '0' && text.data[at] <= '9')
			at++;
		if (at == start || at - start > (part == 0 ? 1 : 3))
			return 0;
		if (part < 2 && (at >= text.len || text.data[at++] != '.'))
			return 0;
	}
	if (text.data[0] - '0' != code / 100)
		return 0;
	return at == text.len || text.data[at] == ' ' || text.data[at] == '\t' ? at : 0;
}

static void
check_enhanced(struct span in)
{
	char *bytes = malloc(in.len > 0 ? in.len : 1);
	char out[12];

	if (in.len > 0)
		memcpy(bytes, in.data, in.len);
	for (int code = 250; code < 600; code += 100) {
		const size_t len = smtp_reply_enhanced((struct span){ bytes, in.len }, code, out);

		assert(len == enhanced_len(in, code) && strlen(out) == len);
		assert(len == 0 || memcmp(out, in.data, len) == 0);
	}
	free(bytes);
}

static void
check_clean(struct span in)
{
	char out[40];

	for (size_t room = 1; room <= sizeof(out); room += 13) {
		const size_t len = smtp_reply_clean(in, out, room);

		assert(len < room && out[len] == '\0');
		assert(address_is_utf8((struct span){ out, len }));
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct heard plain, whole, sliced;
	const struct span in = { (const char *)data + 1, size - 1 };

	if (size < 1)
		return 0;
	plain.n = whole.n = sliced.n = 0;
	plain.is_bad = whole.is_bad = sliced.is_bad = false;
	read_plainly(in, &plain);
	read_slices(in, 0, &whole);
	read_slices(in, data[0], &sliced);
	assert(plain.is_bad == whole.is_bad && plain.is_bad == sliced.is_bad);
	assert(plain.n == whole.n && plain.n == sliced.n);
	for (size_t i = 0; i < plain.n; i++) {
		assert(memcmp(&plain.lines[i], &whole.lines[i], sizeof(plain.lines[i])) == 0);
		assert(memcmp(&plain.lines[i], &sliced.lines[i], sizeof(plain.lines[i])) == 0);
	}
	check_enhanced(in);
	check_clean(in);
	return 0;
}
