/* header.c - see header.h. */
#include <string.h>

#include "smtp/header.h"

/* ---- Watching a message go by ---- */

enum { AT_START, IN_NAME, IN_SPACE, IN_OWN, IN_REST };

/* clang-format off */
static const struct {
	const char *name;
	size_t fact; /* the counter in struct header_facts */
} watched[] = {
	{ "received",   offsetof(struct header_facts, received) },
	{ "from",       offsetof(struct header_facts, from) },
	{ "date",       offsetof(struct header_facts, date) },
	{ "message-id", offsetof(struct header_facts, message_id) },
	{ "bcc",        offsetof(struct header_facts, bcc) },
};
/* clang-format on */

void
header_scan_begin(struct header_scan *h)
{
	*h = (struct header_scan){ .where = AT_START };
}

static bool
is_name_char(char c)
{
	return c > 0x20 && c < 0x7f && c != ':';
}

static void
end_header(struct header_scan *h)
{
	h->is_over = true;
}

/* The second line of a Received field that trace_print() wrote here: "\tby HOST (relayd) ". */
static void
match_own(struct header_scan *h, char c)
{
	const char *const parts[] = { "\tby ", h->own, " (relayd) " };
	size_t i = h->n_matched++;

	for (size_t part = 0; part < ARRAY_LEN(parts); part++) {
		const size_t len = strlen(parts[part]);

		if (i < len) {
			const bool is_last = part + 1 == ARRAY_LEN(parts) && i + 1 == len;

			h->facts.own += c == parts[part][i] && is_last;
			h->where = c == parts[part][i] && !is_last ? IN_OWN : IN_REST;
			if (c == '\n') { /* in no host name: the line is over */
				h->where = AT_START;
				h->cr = false;
			}
			return;
		}
		i -= len;
	}
}

static void
count_field(struct header_scan *h)
{
	const struct span name = { h->name, h->name_len };

	h->facts.has_header = true;
	h->any_line = true;
	h->in_received = span_equals_nocase(name, SPAN("received"));
	if (span_starts_nocase(name, SPAN("resent-")))
		h->facts.resent++;
	for (size_t i = 0; i < ARRAY_LEN(watched); i++)
		if (span_equals_nocase(name, span_of(watched[i].name)))
			++*(unsigned *)(void *)((char *)&h->facts + watched[i].fact);
}

/* The start of a line that is not a field. mbox files begin "From ann Tue ...": the header goes on
 * behind that line. */
static void
take_odd_line(struct header_scan *h, char c)
{
	const struct span name = { h->name, h->name_len };

	if (!h->any_line &&
	    (span_equals(name, SPAN("From ")) || span_equals(name, SPAN(">From ")))) {
		h->facts.has_header = true;
		h->any_line = true;
		h->where = c == '\n' ? AT_START : IN_REST; /* its last byte, if the line is over */
		h->cr = false;
		return;
	}
	end_header(h);
}

/* One byte of the part of a line that tells what it is. */
static void
take_byte(struct header_scan *h, char c)
{
	if (h->where == IN_OWN) {
		match_own(h, c);
		return;
	}
	if (h->where == AT_START) {
		h->name_len = 0;
		if (c == '\r' && !h->cr) {
			h->cr = true;
			return;
		}
		if (c == '\n') {
			h->facts.starts_empty = !h->any_line;
			end_header(h);
			return;
		}
		if (h->cr || ((c == ' ' || c == '\t') && !h->any_line)) {
			end_header(h);
			return;
		}
		if (c == ' ' || c == '\t') { /* a folded line */
			h->where = IN_REST;
			h->n_matched = 0;
			if (h->own != NULL && h->in_received)
				match_own(h, c);
			return;
		}
		h->where = IN_NAME;
	}
	if (c == ':' && h->name_len > 0) {
		while (h->name[h->name_len - 1] == ' ')
			h->name_len--;
		count_field(h);
		h->where = IN_REST;
	} else if (h->where == IN_NAME && is_name_char(c)) {
		if (h->name_len < sizeof(h->name)) /* else longer than any that we look for */
			h->name[h->name_len++] = c;
	} else if ((c == ' ' || c == '\t') && h->name_len > 0) {
		h->where = IN_SPACE; /* "Date : ..." is an old form */
		if (h->name_len < sizeof(h->name) && h->name[h->name_len - 1] != ' ')
			h->name[h->name_len++] = ' ';
	} else {
		take_odd_line(h, c);
	}
}

void
header_scan_take(struct header_scan *h, struct span chunk)
{
	size_t i = 0;

	while (i < chunk.len && !h->is_over) {
		if (h->where == IN_REST) {
			const char *lf = memchr(chunk.data + i, '\n', chunk.len - i);

			if (lf == NULL)
				return;
			i = (size_t)(lf - chunk.data) + 1;
			h->where = AT_START;
			h->cr = false;
			continue;
		}
		take_byte(h, chunk.data[i++]);
	}
}

void
header_scan_finish(struct header_scan *h)
{
	if (!h->is_over && h->where == AT_START && !h->any_line)
		h->facts.starts_empty = true;
	h->is_over = true;
}

/* ---- A header in memory ---- */

/* The length of the line at the start of `text`, its LF included. */
static size_t
line_len(struct span text)
{
	const char *lf = text.len > 0 ? memchr(text.data, '\n', text.len) : NULL;

	return lf != NULL ? (size_t)(lf - text.data) + 1 : text.len;
}

static struct span
without_line_end(struct span text)
{
	if (text.len > 0 && text.data[text.len - 1] == '\n')
		text.len--;
	if (text.len > 0 && text.data[text.len - 1] == '\r')
		text.len--;
	return text;
}

enum header_next
header_next(struct span *rest, struct header_field *field)
{
	const struct span text = *rest;
	const size_t first = line_len(text);
	size_t name = 0, colon, end = first;

	if (without_line_end((struct span){ text.data, first }).len == 0) {
		*rest = span_skip(text, first);
		return HEADER_END;
	}
	while (name < first && is_name_char(text.data[name]))
		name++;
	for (colon = name; colon < first && strchr(" \t", text.data[colon]) != NULL; colon++)
		if (text.data[colon] == '\0')
			break;
	if (name == 0 || colon == first || text.data[colon] != ':')
		return HEADER_BODY;
	while (end < text.len && (text.data[end] == ' ' || text.data[end] == '\t'))
		end += line_len(span_skip(text, end));
	field->name = (struct span){ text.data, name };
	field->raw = (struct span){ text.data, end };
	field->body = without_line_end((struct span){ text.data + colon + 1, end - colon - 1 });
	*rest = span_skip(text, end);
	return HEADER_FIELD;
}

bool
header_is(struct header_field field, const char *name)
{
	return span_equals_nocase(field.name, span_of(name));
}

bool
header_is_bcc(struct header_field field)
{
	return header_is(field, "Bcc") || header_is(field, "Resent-Bcc");
}

bool
header_is_recipient(struct header_field field)
{
	return header_is(field, "To") || header_is(field, "Cc") || header_is(field, "Bcc");
}

bool
header_is_resent_recipient(struct header_field field)
{
	return header_is(field, "Resent-To") || header_is(field, "Resent-Cc") ||
	       header_is(field, "Resent-Bcc");
}
