/* units.c - see units.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/units.h"

struct unit {
	const char *name;
	uint64_t factor;
};

/* Each table ends in a row without a name, the largest unit stands first. */
static const struct unit sizes[] = {
	{ "G", 1024 * 1024 * 1024 },
	{ "M", 1024 * 1024 },
	{ "K", 1024 },
	{ NULL, 1 },
};
static const struct unit times[] = {
	{ "d", 86400 * 1000 },
	{ "h", 3600 * 1000 },
	{ "ms", 1 }, /* before m: the longer name first */
	{ "m", 60 * 1000 },
	{ "s", 1000 },
	{ NULL, 0 },
};
static const struct unit paces[] = {
	{ "/h", 3600 * 1000 },
	{ "/m", 60 * 1000 },
	{ "/s", 1000 },
	{ NULL, 0 },
};

/* Digits at *text; moves it behind them. */
static int
take_number(const char **text, uint64_t *out)
{
	const char *p = *text;
	uint64_t number = 0;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(number, 10, &number) ||
		    __builtin_add_overflow(number, (uint64_t)(*p - '0'), &number))
			return -ERANGE;
	*text = p;
	*out = number;
	return 0;
}

/* The unit that *text begins with, upper or lower case; moves it behind that. */
static const struct unit *
take_unit(const char **text, const struct unit *units)
{
	for (; units->name != NULL; units++) {
		size_t len = strlen(units->name);

		if (strncasecmp(*text, units->name, len) == 0) {
			*text += len;
			return units;
		}
	}
	return NULL;
}

int
units_parse_count(const char *text, unsigned *out)
{
	uint64_t number;
	int r = take_number(&text, &number);

	if (r < 0)
		return r;
	if (*text != '\0')
		return -EINVAL;
	if (number > UINT32_MAX)
		return -ERANGE;
	*out = (unsigned)number;
	return 0;
}

int
units_parse_bytes(const char *text, uint64_t *out)
{
	const struct unit *unit;
	uint64_t number;
	int r = take_number(&text, &number);

	if (r < 0)
		return r;
	unit = take_unit(&text, sizes);
	if (*text != '\0')
		return -EINVAL;
	if (unit != NULL && __builtin_mul_overflow(number, unit->factor, &number))
		return -ERANGE;
	if (number > INT64_MAX)
		return -ERANGE;
	*out = number;
	return 0;
}

int
units_parse_ms(const char *text, uint64_t *out)
{
	uint64_t total = 0;

	if (strcmp(text, "0") == 0) {
		*out = 0;
		return 0;
	}
	do {
		const struct unit *unit;
		uint64_t number;
		int r = take_number(&text, &number);

		if (r < 0)
			return r;
		unit = take_unit(&text, times);
		if (unit == NULL)
			return -EINVAL;
		if (__builtin_mul_overflow(number, unit->factor, &number) ||
		    __builtin_add_overflow(total, number, &total) || total > INT64_MAX)
			return -ERANGE;
	} while (*text != '\0');
	*out = total;
	return 0;
}

int
units_parse_rate(const char *text, struct config_rate *out)
{
	const struct unit *unit;
	uint64_t count;
	int r;

	if (strcmp(text, "0") == 0) {
		*out = (struct config_rate){ 0, 0 };
		return 0;
	}
	r = take_number(&text, &count);
	if (r < 0)
		return r;
	unit = take_unit(&text, paces);
	if (unit == NULL || *text != '\0')
		return -EINVAL;
	if (count > UINT32_MAX)
		return -ERANGE;
	*out = count > 0 ? (struct config_rate){ (unsigned)count, unit->factor }
	                 : (struct config_rate){ 0, 0 };
	return 0;
}

static void
print_largest(uint64_t number, const struct unit *units, char out[UNITS_TEXT_MAX])
{
	while (units->name != NULL && (number == 0 || number % units->factor != 0))
		units++;
	if (units->name == NULL)
		snprintf(out, UNITS_TEXT_MAX, "%" PRIu64, number);
	else
		snprintf(out, UNITS_TEXT_MAX, "%" PRIu64 "%s", number / units->factor, units->name);
}

void
units_print_bytes(uint64_t bytes, char out[UNITS_TEXT_MAX])
{
	print_largest(bytes, sizes, out);
}

void
units_print_ms(uint64_t ms, char out[UNITS_TEXT_MAX])
{
	static const struct unit by_size[] = { { "d", 86400 * 1000 }, { "h", 3600 * 1000 },
		{ "m", 60 * 1000 }, { "s", 1000 }, { "ms", 1 }, { NULL, 0 } };

	print_largest(ms, by_size, out);
}

void
units_print_rate(struct config_rate rate, char out[UNITS_TEXT_MAX])
{
	for (const struct unit *unit = paces; unit->name != NULL; unit++)
		if (rate.count > 0 && unit->factor == rate.per_ms) {
			snprintf(out, UNITS_TEXT_MAX, "%u%s", rate.count, unit->name);
			return;
		}
	snprintf(out, UNITS_TEXT_MAX, "0");
}
