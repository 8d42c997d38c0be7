/* fuzz_dsn.c - reports about anything. Input: u8 options, then reply text, address, ORCPT, ENVID and the
 * original, with 0xff between them.
 *
 * What must hold: the report is bounded, all CR LF lines without another CR, LF or NUL, and what it says
 * itself (all but the original) holds no control byte; its header, its parts and the fields of its
 * status part are ours alone, whatever the texts in them are; where the way back may be 7-bit, only
 * the address it goes to can be more. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "smtp/dsn_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEADER_LINES = 9, PARTS = 3, UTF8 = 1, SEVEN_BIT = 2, TO_POSTMASTER = 4, OURSELVES = 8 };

static struct span
next(const char **at, const char *end)
{
	const char *stop = *at < end ? memchr(*at, 0xff, (size_t)(end - *at)) : NULL;
	struct span part = { *at, (size_t)((stop != NULL ? stop : end) - *at) };

	*at += part.len + (stop != NULL);
	return part;
}

/* As the spool holds it. */
static struct span
in_crlf_form(struct span in, char *out)
{
	size_t n = 0;

	for (size_t i = 0; i < in.len; i++) {
		if (in.data[i] == '\n')
			out[n++] = '\r';
		out[n++] = in.data[i] == '\r' || in.data[i] == '\0' ? ' ' : in.data[i];
	}
	return (struct span){ out, n };
}

static bool
has_8bit(struct span text)
{
	for (size_t i = 0; i < text.len; i++)
		if ((unsigned char)text.data[i] >= 0x80)
			return true;
	return false;
}

static bool
begins(struct span line, const char *word)
{
	return line.len >= strlen(word) && memcmp(line.data, word, strlen(word)) == 0;
}

/* Takes a line with its CR LF off. */
static struct span
next_line(struct span *rest)
{
	const char *lf = memchr(rest->data, '\n', rest->len);
	struct span line = { rest->data, 0 };

	assert(lf != NULL && lf > rest->data && lf[-1] == '\r');
	line.len = (size_t)(lf - rest->data) - 1;
	*rest = span_skip(*rest, line.len + 2);
	for (size_t i = 0; i < line.len; i++)
		assert(line.data[i] != '\r' && line.data[i] != '\0');
	return line;
}

/* The fields of the status part, and what continues one. */
static bool
is_status_line(struct span line)
{
	static const char *const fields[] = { "Original-Envelope-Id: ", "Reporting-MTA: dns; h",
		"Arrival-Date: ", "X-Relayd-Queue-ID: Q",
		"X-Relayd-Sender: ", "Original-Recipient: ", "Final-Recipient: ", "Action: ",
		"Status: ", "Remote-MTA: dns; m",
		"Diagnostic-Code: ", "Last-Attempt-Date: ", "Will-Retry-Until: ", "Content-T",
		"    ", "=", NULL };

	for (size_t i = 0; fields[i] != NULL; i++)
		if (begins(line, fields[i]))
			return true;
	return line.len == 0;
}

struct counts {
	unsigned boundaries, actions, statuses;
	bool in_header, is_encoded; /* of this part */
};

static void
check_line(struct span line, struct counts *c, const char *boundary, bool seven_bit)
{
	if (begins(line, boundary)) {
		c->boundaries++;
		c->is_encoded = false;
		c->in_header = true;
		assert(line.len == strlen(boundary) + (c->boundaries > PARTS ? 2 : 0));
		return;
	}
	c->in_header = c->in_header && line.len > 0;
	c->is_encoded |=
	    c->in_header && begins(line, "Content-Transfer-Encoding: quoted-printable");
	assert(!seven_bit || c->boundaries == 0 || !has_8bit(line));
	if (c->is_encoded)
		assert(line.len <= 76);
	if (c->boundaries >= PARTS)
		return; /* the original's */
	for (size_t i = 0; i < line.len; i++)
		assert(((unsigned char)line.data[i] >= ' ' || line.data[i] == '\t') &&
		       line.data[i] != 0x7f);
	if (c->boundaries != 2 || c->is_encoded)
		return;
	assert(is_status_line(line));
	c->actions += begins(line, "Action: ");
	c->statuses += begins(line, "Status: ");
}

static void
check_report(struct span report, const struct dsn_message *dsn, bool is_8bit)
{
	struct counts c = { .boundaries = 0 };
	struct span rest = report, line;
	char boundary[80] = "--";
	const char *at;
	unsigned header_lines = 0;

	assert(report.len <= DSN_MESSAGE_MAX && is_8bit == has_8bit(report));
	assert(!dsn->seven_bit || !is_8bit || has_8bit(dsn->to));
	at = memmem(report.data, report.len, "\r\n\tboundary=\"", 13);
	assert(at != NULL);
	memcpy(boundary + 2, at + 13, strcspn(at + 13, "\""));
	while ((line = next_line(&rest)).len > 0)
		header_lines++;
	assert(header_lines == HEADER_LINES);
	while (rest.len > 0)
		check_line(next_line(&rest), &c, boundary, dsn->seven_bit);
	assert(c.boundaries == PARTS + 1);
	assert(c.actions <= 1 && c.actions == c.statuses);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *at = (const char *)data + 1, *end = (const char *)data + size;
	struct upstream_reply reply = { .code = 550 };
	struct dsn_recipient r = { .reply = &reply, .remote_mta = "m", .last_attempt_ms = 1 };
	struct dsn_message dsn = {
		.hostname = "h", .queue_id = "Q", .unique = "U", .recipients = &r, .n_recipients = 1
	};
	struct span text;
	bool is_8bit;
	size_t len;
	char *out, *original;

	if (size < 1)
		return 0;
	r.action = data[0] / 64 % 3;
	dsn.ret = data[0] / 16 % 3;
	dsn.utf8 = (data[0] & UTF8) != 0;
	dsn.seven_bit = (data[0] & SEVEN_BIT) != 0;
	dsn.to_postmaster = (data[0] & TO_POSTMASTER) != 0;
	text = next(&at, end);
	memcpy(reply.text, text.data, text.len < 511 ? text.len : 511);
	if ((data[0] & OURSELVES) != 0) {
		r.remote_mta = NULL;
		r.reply = NULL;
		r.explanation = reply.text;
	}
	r.address = dsn.to = next(&at, end);
	r.orcpt = dsn.sender = next(&at, end);
	dsn.envid = next(&at, end);
	original = malloc(2 * (size_t)(end - at) + 1);
	dsn.original = in_crlf_form((struct span){ at, (size_t)(end - at) }, original);
	dsn.original_bytes = dsn.original.len;
	dsn_message_build(&dsn, &out, &len, &is_8bit);
	check_report((struct span){ out, len }, &dsn, is_8bit);
	free(out);
	free(original);
	return 0;
}
