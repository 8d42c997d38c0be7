/* data.c - see data.h for the rules and the table. */
#include <string.h>

#include "smtp/data.h"

enum class { CLASS_CR, CLASS_LF, CLASS_DOT, CLASS_OTHER };

enum act {
	PASS,  /* the byte (and a held CR) goes out as it is */
	HOLD,  /* a CR: wait for what follows */
	SKIP,  /* the byte (and a held CR) is left out */
	SPACE, /* the held CR goes out as a space; the byte is looked at again */
	CRLF,  /* a bare LF goes out as CR LF */
	END,
};

/* clang-format off */
static const struct {
	unsigned char next[4], act[4];
} steps[] = {
	/*                      CR                LF         "."             other          CR     LF    "."    other */
	[DATA_LINE] =        { { DATA_CR,          DATA_BARE, DATA_LINE_DOT, DATA_TEXT }, { HOLD,  CRLF, SKIP,  PASS } },
	[DATA_LINE_DOT] =    { { DATA_LINE_DOT_CR, DATA_BARE, DATA_TEXT,     DATA_TEXT }, { HOLD,  SKIP, PASS,  PASS } },
	[DATA_LINE_DOT_CR] = { { DATA_TEXT,        DATA_LINE, DATA_TEXT,     DATA_TEXT }, { SPACE, END,  SPACE, SPACE } },
	[DATA_BARE] =        { { DATA_CR,          DATA_BARE, DATA_BARE_DOT, DATA_TEXT }, { HOLD,  CRLF, SKIP,  PASS } },
	[DATA_BARE_DOT] =    { { DATA_BARE_DOT_CR, DATA_BARE, DATA_TEXT,     DATA_TEXT }, { HOLD,  SKIP, PASS,  PASS } },
	[DATA_BARE_DOT_CR] = { { DATA_TEXT,        DATA_LINE, DATA_TEXT,     DATA_TEXT }, { SPACE, SKIP, SPACE, SPACE } },
	[DATA_TEXT] =        { { DATA_CR,          DATA_BARE, DATA_TEXT,     DATA_TEXT }, { HOLD,  CRLF, PASS,  PASS } },
	[DATA_CR] =          { { DATA_TEXT,        DATA_LINE, DATA_TEXT,     DATA_TEXT }, { SPACE, PASS, SPACE, SPACE } },
};
/* clang-format on */

void
data_begin(struct data *d, bool dots, bool nul_space)
{
	*d = (struct data){ .state = DATA_LINE, .dots = dots, .nul_space = nul_space };
}

static enum class class_of(const struct data *d, char c) {
	switch (c){
		case '\r' : return CLASS_CR; case '\n' : return CLASS_LF;
		case '.' : return d->dots ? CLASS_DOT : CLASS_OTHER;
		default : return CLASS_OTHER;
	}
}

/* How many bytes from `p` on are nothing but text inside a line: most of all mail, so eight at a time.
 * A byte under 0x0e (CR, LF, NUL, also TAB) ends the fast part, and the first 8-bit byte does. */
static size_t
plain_run(struct data *d, const char *p, size_t len)
{
	static const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
	const uint64_t eight_bit = d->has_8bit ? 0 : highs;
	size_t i = 0;

	while (i < len) {
		uint64_t w;

		while (len - i >= sizeof(w)) {
			memcpy(&w, p + i, sizeof(w));
			if (((w - 0x0e * ones) & ~w & highs) != 0 || (w & eight_bit) != 0)
				break;
			i += sizeof(w);
		}
		for (size_t end = len - i < sizeof(w) ? len : i + sizeof(w); i < end; i++) {
			if (p[i] == '\r' || p[i] == '\n' || p[i] == '\0')
				return i;
			if (((unsigned char)p[i] & 0x80) != 0 && !d->has_8bit) {
				d->has_8bit = true;
				return i; /* go on with the cheaper question */
			}
		}
	}
	return i;
}

static void
note(struct data *d, char c, enum act act)
{
	d->has_8bit |= ((unsigned char)c & 0x80) != 0;
	d->has_nul |= c == '\0';
	d->has_bare_cr |= act == SPACE;
	d->has_bare_lf |=
	    c == '\n' && (act == CRLF || (act == SKIP && d->state != DATA_BARE_DOT_CR));
}

/* What goes out instead of the byte `c`, or nothing. */
static struct span
replacement(const struct data *d, char c, enum act act, bool cr_is_gone)
{
	if (act == SPACE || (act == PASS && c == '\0' && d->nul_space))
		return SPAN(" ");
	if (act == CRLF || (act == PASS && cr_is_gone))
		return SPAN("\r\n"); /* the CR came at the end of an earlier input */
	return (struct span){ NULL, 0 };
}

/* in[start .. end) is the run that goes out as it is. While it is not empty, end is i, or i - 1 when
 * in[i - 1] is a held CR. Whatever cannot join the run waits, unused, until the run is given. */
enum data_event
data_take(struct data *d, struct span in, size_t *used, struct span *chunk)
{
	size_t start = 0, end = 0, i = 0;

	while (i < in.len) {
		if (d->state == DATA_TEXT) {
			const size_t n = plain_run(d, in.data + i, in.len - i);

			start = start == end ? i : start;
			end = i += n;
			if (i == in.len)
				break;
		}
		const char c = in.data[i];
		const enum class class = class_of(d, c);
		const enum act act = steps[d->state].act[class];
		const bool holds_cr = d->state == DATA_CR;
		const struct span instead = replacement(d, c, act, holds_cr && i == 0);

		if (start != end && (instead.len > 0 || act == SKIP))
			break;
		note(d, c, act);
		d->state = steps[d->state].next[class];
		i += act != SPACE;
		if (act == END) {
			*used = i;
			return DATA_END;
		}
		if (instead.len > 0) {
			*used = i;
			*chunk = instead;
			return DATA_CHUNK;
		}
		if (act == PASS) {
			start = start == end ? i - 1 - holds_cr : start;
			end = i;
		}
	}
	*used = i;
	*chunk = (struct span){ in.data + start, end - start };
	return start == end ? DATA_MORE : DATA_CHUNK;
}

struct span
data_finish(struct data *d)
{
	const enum data_state state = d->state;

	d->state = DATA_LINE;
	if (state == DATA_TEXT)
		return SPAN("\r\n");
	if (state == DATA_CR) {
		d->has_bare_cr = true;
		return SPAN(" \r\n");
	}
	return SPAN("");
}
