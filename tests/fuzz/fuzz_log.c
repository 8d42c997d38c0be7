/* Whatever a value holds: escaped text is printable, has no control byte, is valid in every target,
 * and says where the value was cut. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "base/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check_printable(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		assert((unsigned char)text[i] >= 0x20 && text[i] != 0x7f);
}

/* Every quote of a JSON line is escaped or ends a string: outside of strings stand no quotes. */
static void
check_json(const char *line, size_t len)
{
	bool in_string = false;

	assert(len > 2 && line[0] == '{' && line[len - 2] == '}' && line[len - 1] == '\n');
	check_printable(line, len - 1);
	for (size_t i = 0; i < len; i++) {
		if (in_string && line[i] == '\\') {
			i++;
			assert(line[i] == '"' || line[i] == '\\');
		} else if (line[i] == '"') {
			in_string = !in_string;
		}
	}
	assert(!in_string);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int fds[2] = { -1, -1 };
	static int kept_stderr;
	struct span in = { (const char *)data, size };
	char out[600], line[65536];
	size_t limit = size > 0 ? data[0] * 2 : sizeof(out);
	ssize_t len;

	if (fds[0] < 0) {
		assert(pipe(fds) == 0);
		kept_stderr = dup(STDERR_FILENO);
	}
	len = (ssize_t)log_quote(in, out, limit);
	assert(limit == 0 || (size_t)len < limit);
	check_printable(out, (size_t)len);
	dup2(fds[1], STDERR_FILENO);
	log_open("fuzz", LOG_TO_JSON, LOG_INFO);
	log_info("message.accepted", KV_SPAN("sender", in), KV_INT("size", (int64_t)size));
	dup2(kept_stderr, STDERR_FILENO);
	len = read(fds[0], line, sizeof(line));
	assert(len > 0);
	check_json(line, (size_t)len);
	return 0;
}
