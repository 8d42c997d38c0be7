/* header.c - see header.h. */
#include <errno.h>
#include <string.h>

#include "smtp/address.h"
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

/* ---- Address lists ----
 * Words and specials are collected until a ',' or ';' (or the end of the text) ends a mailbox. What
 * stands in <> is the address; without <>, all words together are ("ann @ example.org" is an old
 * form of one address; two words without an '@' between them are none). ':' outside of <> ends a
 * group's name. */

struct list {
	struct span in;
	size_t at;
	char text[ADDRESS_MAX + 1];
	size_t len;
	bool has_angle, in_angle; /* <...> was met; we are in one */
	bool is_gap;              /* white space or a comment since the last word */
	bool is_bad, is_long, is_empty;
};

static void
list_clear(struct list *l)
{
	l->len = 0;
	l->has_angle = l->in_angle = l->is_gap = l->is_bad = l->is_long = false;
	l->is_empty = true;
}

static void
list_add(struct list *l, char c)
{
	if (l->len == ADDRESS_MAX)
		l->is_long = true;
	else
		l->text[l->len++] = c;
}

/* Comments nest, and a backslash quotes. False: it never ends. */
static bool
skip_comment(struct list *l)
{
	unsigned depth = 0;

	for (; l->at < l->in.len; l->at++) {
		const char c = l->in.data[l->at];

		if (c == '\\')
			l->at++;
		else if (c == '(')
			depth++;
		else if (c == ')' && --depth == 0) {
			l->at++;
			return true;
		}
	}
	l->at = l->in.len;
	return false;
}

/* A quoted string, kept with its quotes where it belongs to the address, line breaks left out. */
static bool
take_quoted(struct list *l, bool keep)
{
	if (keep)
		list_add(l, '"');
	for (l->at++; l->at < l->in.len; l->at++) {
		const char c = l->in.data[l->at];

		if (c == '\r' || c == '\n')
			continue;
		if (keep)
			list_add(l, c);
		if (c == '"') {
			l->at++;
			return true;
		}
		if (c == '\\' && ++l->at < l->in.len && keep)
			list_add(l, l->in.data[l->at]);
	}
	l->at = l->in.len;
	return false;
}

/* [127.0.0.1], [IPv6:::1]: the colon in it ends no group's name. */
static void
take_literal(struct list *l)
{
	const bool keep = l->in_angle || !l->has_angle;

	l->is_empty = l->is_gap = false;
	while (l->at < l->in.len && strchr("\r\n,;<>", l->in.data[l->at]) == NULL) {
		const char c = l->in.data[l->at++];

		if (keep)
			list_add(l, c);
		if (c == ']')
			break;
	}
}

static bool
joins_words(char c)
{
	return c == '.' || c == '@';
}

static void
take_word(struct list *l, char c)
{
	const bool keep = l->in_angle || !l->has_angle;
	/* "Ann Lee" without <> is a name and not an address. */
	const bool apart =
	    l->is_gap && l->len > 0 && !joins_words(c) && !joins_words(l->text[l->len - 1]);

	l->is_empty = l->is_gap = false;
	if (apart && keep)
		list_add(
		    l, ' '); /* no address has a bare space: it will be refused, or was a name */
	if (c == '"') {
		l->is_bad |= !take_quoted(l, keep);
		return;
	}
	if (keep)
		list_add(l, c);
	l->at++;
}

static void
open_angle(struct list *l)
{
	l->is_bad = l->has_angle; /* a second one; what came before was a name, whatever it held */
	l->has_angle = l->in_angle = true;
	l->is_empty = l->is_gap = l->is_long = false;
	l->len = 0;
	l->at++;
}

/* What was collected is a mailbox, or nothing. */
static int
end_mailbox(struct list *l, header_address_fn *found, void *arg)
{
	struct span text = { l->text, l->len };
	const bool is_nothing = l->is_empty || (l->has_angle && !l->in_angle && l->len == 0);
	const bool is_bad = l->is_bad || l->in_angle, is_long = l->is_long;
	struct address a;
	size_t used;
	enum address_result r;

	list_clear(l);
	if (is_nothing)
		return 0;
	if (is_long)
		return -E2BIG;
	if (is_bad)
		return -EINVAL;
	if (text.data[0] == '@') { /* an obsolete route in <>: let the path parser read it */
		char path[ADDRESS_MAX + 3];

		path[0] = '<';
		memcpy(path + 1, text.data, text.len);
		path[text.len + 1] = '>';
		r = address_parse_path((struct span){ path, text.len + 2 }, &a, &used);
		if (r != ADDRESS_OK || used != text.len + 2 || a.local.len == 0)
			return -EINVAL;
		return found(arg,
		    (struct span){ a.local.data, (size_t)(path + text.len + 1 - a.local.data) });
	}
	r = address_parse(text, &a);
	if (r != ADDRESS_OK)
		return r == ADDRESS_TOO_LONG ? -E2BIG : -EINVAL;
	return found(arg, text);
}

/* One word or special. */
static int
take_token(struct list *l, header_address_fn *found, void *arg)
{
	const char c = l->in.data[l->at];

	switch (c) {
	case ' ':
	case '\t':
	case '\r':
	case '\n':
		l->is_gap = true;
		l->at++;
		return 0;
	case '(':
		l->is_gap = true;
		l->is_bad |= !skip_comment(l);
		return 0;
	case '<':
		open_angle(l);
		return 0;
	case '>':
		l->is_bad |= !l->in_angle;
		l->in_angle = false;
		l->at++;
		return 0;
	case ':': /* in <> it ends a route, outside a group's name */
		if (l->in_angle)
			take_word(l, c);
		else {
			list_clear(l);
			l->at++;
		}
		return 0;
	case '[':
		take_literal(l);
		return 0;
	case ',':
	case ';':
		if (c == ',' && l->in_angle) { /* in a route */
			take_word(l, c);
			return 0;
		}
		l->at++;
		return end_mailbox(l, found, arg);
	default:
		take_word(l, c);
		return 0;
	}
}

int
header_addresses(struct span body, header_address_fn *found, void *arg)
{
	struct list l = { .in = body };
	int r;

	list_clear(&l);
	while (l.at < l.in.len) {
		r = take_token(&l, found, arg);
		if (r != 0)
			return r;
	}
	return end_mailbox(&l, found, arg);
}
