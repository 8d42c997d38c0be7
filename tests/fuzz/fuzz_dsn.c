/* fuzz_dsn.c - reports about anything. Input: reply text, address, ORCPT, ENVID and the original, with
 * 0xff between them. The report is clean CRLF lines, bounded, and its header is ours alone. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "smtp/dsn_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEADER_LINES 9

static struct span
next(const char **at, const char *end)
{
	const char *stop = *at < end ? memchr(*at, 0xff, (size_t)(end - *at)) : NULL;
	struct span part = { *at, (size_t)((stop != NULL ? stop : end) - *at) };

	*at += part.len + (stop != NULL);
	return part;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *at = (const char *)data, *end = at + size;
	struct upstream_reply reply = { .code = 550 };
	struct span text = next(&at, end);
	struct dsn_recipient r = { .action = size % 3,
		.reply = &reply,
		.remote_mta = "m",
		.address = next(&at, end),
		.orcpt = next(&at, end),
		.last_attempt_ms = 1 };
	struct dsn_message dsn = { .hostname = "h",
		.to = r.address,
		.queue_id = "Q",
		.unique = "U",
		.sender = r.orcpt,
		.envid = next(&at, end),
		.ret = size % 3,
		.utf8 = size % 2 == 0,
		.recipients = &r,
		.n_recipients = 1 };
	unsigned lines = 0;
	bool is_8bit;
	size_t len;
	char *out;

	memcpy(reply.text, text.data, text.len < 511 ? text.len : 511);
	dsn.original = (struct span){ at, (size_t)(end - at) };
	dsn.original_bytes = dsn.original.len;
	dsn_message_build(&dsn, &out, &len, &is_8bit);
	assert(len <= DSN_MESSAGE_MAX);
	for (const char *s = out; memcmp(s, "\r\n", 2) != 0; lines++) {
		s = memchr(s, '\n', len - (size_t)(s - out));
		assert(s != NULL && s[-1] == '\r');
		s++;
	}
	assert(lines == HEADER_LINES);
	free(out);
	return 0;
}
