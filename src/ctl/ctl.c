/* ctl.c - see ctl.h. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/os.h"
#include "ctl/ctl.h"
#include "delivery/report_row.h"

#define TEXTS 16
#define TEXT_MAX 2048

static char *
next_buffer(void)
{
	static char buffers[TEXTS][TEXT_MAX];
	static unsigned next;

	return buffers[next++ % TEXTS];
}

static void say(const char *fmt, va_list args) PRINTF_LIKE(1, 0);

static void
say(const char *fmt, va_list args)
{
	char text[TEXT_MAX];

	vsnprintf(text, sizeof(text), fmt, args);
	fflush(stdout);
	fprintf(stderr, "relayctl: %s\n", text);
}

int
ctl_fail(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say(fmt, args);
	va_end(args);
	return CTL_FAILED;
}

void
ctl_note(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say(fmt, args);
	va_end(args);
}

void
ctl_print_json(const json_t *object)
{
	json_dumpf(object, stdout, JSON_COMPACT);
	putchar('\n');
}

static size_t
clean_length(struct span text)
{
	size_t n = 0;

	while (n < text.len && ((text.data[n] >= ' ' && text.data[n] <= '~') ||
	                           text.data[n] == '\n' || text.data[n] == '\t'))
		n++;
	return n;
}

/* How many bytes make the control that it begins with; 0: it does not. */
static size_t
control_length(struct span text)
{
	const unsigned char u = (unsigned char)text.data[0];
	const unsigned char next = text.len > 1 ? (unsigned char)text.data[1] : 0;

	if (u == 0xc2 && next >= 0x80 && next < 0xa0) /* those above ASCII */
		return 2;
	return u < 0x20 || u == 0x7f ? 1 : 0;
}

void
ctl_print_lines(struct span text)
{
	while (text.len > 0) {
		size_t n = clean_length(text);

		fwrite(text.data, 1, n, stdout);
		text = span_skip(text, n);
		if (text.len == 0)
			break;
		n = control_length(text);
		putchar(n > 0 ? '?' : text.data[0]);
		text = span_skip(text, n > 0 ? n : 1);
	}
}

const char *
ctl_text(const char *raw)
{
	char *out = next_buffer();

	log_quote(span_of(raw), out, TEXT_MAX);
	return out;
}

const char *
ctl_get(const json_t *object, const char *key)
{
	return ctl_text(json_string_value(json_object_get(object, key)));
}

int64_t
ctl_number(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

const char *
ctl_age(int64_t seconds)
{
	char *out = next_buffer();

	report_row_age(seconds, out);
	return out;
}

const char *
ctl_when(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));
	char *out = next_buffer();
	struct tm tm = { 0 };

	if (text == NULL || strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) == NULL)
		return "-";
	report_row_when((int64_t)timegm(&tm) - (int64_t)(os_now_ms() / 1000), out);
	return out;
}

const char *
ctl_bytes(int64_t bytes)
{
	char *out = next_buffer();

	report_row_bytes(bytes, out);
	return out;
}

const char *
ctl_count(int64_t n, const char *noun)
{
	char *out = next_buffer();

	snprintf(out, TEXT_MAX, "%" PRId64 " %s%s", n, noun, n == 1 ? "" : "s");
	return out;
}

json_t *
ctl_request(const struct ctl *ctl)
{
	return json_pack("{s:s}", "command", ctl->command);
}
