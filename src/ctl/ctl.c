/* ctl.c - see ctl.h. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "ctl/ctl.h"

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
	int64_t s = seconds < 0 ? 0 : seconds;

	if (s < 60)
		snprintf(out, TEXT_MAX, "%" PRId64 " s", s);
	else if (s < 3600)
		snprintf(out, TEXT_MAX, "%" PRId64 " min", s / 60);
	else if (s < 86400)
		snprintf(out, TEXT_MAX, "%" PRId64 " h %" PRId64 " min", s / 3600, s % 3600 / 60);
	else
		snprintf(out, TEXT_MAX, "%" PRId64 " d %" PRId64 " h", s / 86400, s % 86400 / 3600);
	return out;
}

const char *
ctl_when(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));
	char *out = next_buffer();
	struct tm tm = { 0 };
	int64_t distance;

	if (text == NULL || strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) == NULL)
		return "-";
	distance = (int64_t)timegm(&tm) - (int64_t)time(NULL);
	if (distance > 0)
		snprintf(out, TEXT_MAX, "in %s", ctl_age(distance));
	else
		snprintf(out, TEXT_MAX, "%s ago", ctl_age(-distance));
	return out;
}

const char *
ctl_bytes(int64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	char *out = next_buffer();
	double n = (double)bytes;
	size_t unit = 0;

	while (n >= 1024 && unit + 1 < ARRAY_LEN(units)) {
		n /= 1024;
		unit++;
	}
	snprintf(out, TEXT_MAX, unit == 0 || n >= 100 ? "%.0f %s" : "%.1f %s", n, units[unit]);
	return out;
}

json_t *
ctl_request(const struct ctl *ctl)
{
	return json_pack("{s:s}", "command", ctl->command);
}
