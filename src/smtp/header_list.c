/* header_list.c - address lists: see header.h.
 *
 * Words and specials are collected until a ',' or ';' (or the end of the text) ends a mailbox. What
 * stands in <> is the address; without <>, all words together are ("ann @ example.org" is an old
 * form of one address; two words without an '@' between them are none). ':' outside of <> ends a
 * group's name. */
#include <errno.h>
#include <string.h>

#include "smtp/address.h"
#include "smtp/header.h"

struct list {
	struct span in;
	size_t at;
	char text[ADDRESS_MAX + 1];
	size_t len;
	bool has_angle, in_angle; /* <...> was met; we are in one */
	bool is_gap;              /* white space or a comment since the last word */
	bool is_bad, is_long, is_empty;

	/* For header_bare_addresses(): */
	size_t word_end; /* behind the last byte that was kept */
	bool is_spread;  /* white space or a comment within the address */
	bool has_at;     /* outside of <> */
	bool in_group;   /* a ':' was met, and no ';' since */
	bool is_loose;   /* something was met that RFC 5322 does not have; stays */
};

static void
list_clear(struct list *l)
{
	l->len = 0;
	l->has_angle = l->in_angle = l->is_gap = l->is_bad = l->is_long = l->has_at = false;
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

	l->is_loose |= l->len == 0 || l->text[l->len - 1] != '@'; /* only a domain may be one */
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

/* Such bytes stand in quotes, or belong to a comment that has no beginning. */
static bool
is_out_of_place(char c)
{
	return (unsigned char)c < 0x20 || c == 0x7f || c == ')' || c == ']' || c == '\\';
}

static void
take_word(struct list *l, char c)
{
	const bool keep = l->in_angle || !l->has_angle;
	/* "Ann Lee" without <> is a name and not an address. */
	const bool apart =
	    l->is_gap && l->len > 0 && !joins_words(c) && !joins_words(l->text[l->len - 1]);

	l->is_loose |= !keep || is_out_of_place(c);
	l->is_spread = l->len > 0 && (l->is_spread || l->is_gap);
	l->has_at |= c == '@' && !l->in_angle;
	l->is_empty = l->is_gap = false;
	if (apart && keep)
		list_add(
		    l, ' '); /* no address has a bare space: it will be refused, or was a name */
	if (c == '"') {
		l->is_bad |= !take_quoted(l, keep);
		l->word_end = l->at;
		return;
	}
	if (keep)
		list_add(l, c);
	l->at++;
	l->word_end = l->at;
}

static void
open_angle(struct list *l)
{
	l->is_loose |= l->has_at; /* a name that looks like an address */
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

static int
end_group(struct list *l, header_address_fn *found, void *arg)
{
	const int r = end_mailbox(l, found, arg);

	l->is_loose |= !l->in_group; /* as some programs separate addresses */
	l->in_group = false;
	return r;
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
			l->is_loose |= l->is_empty || l->has_at || l->has_angle || l->in_group;
			l->in_group = true;
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
		return c == ';' ? end_group(l, found, arg) : end_mailbox(l, found, arg);
	default:
		take_word(l, c);
		return 0;
	}
}

static int
walk(struct list *l, header_address_fn *found, void *arg)
{
	list_clear(l);
	while (l->at < l->in.len) {
		const int r = take_token(l, found, arg);

		if (r != 0)
			return r;
	}
	return end_mailbox(l, found, arg);
}

int
header_addresses(struct span body, header_address_fn *found, void *arg)
{
	struct list l = { .in = body };

	return walk(&l, found, arg);
}

/* ---- Addresses without a domain ---- */

struct bare {
	struct list list;
	header_bare_fn *found;
	void *arg;
};

/* address_parse() allows dots anywhere. An encoded word is a name, though an atom too. */
static bool
is_local_part(struct span text)
{
	const bool is_quoted = text.data[0] == '"';

	if (span_starts_nocase(span_skip(text, is_quoted ? 1 : 0), SPAN("=?")))
		return false;
	if (is_quoted)
		return text.len > 2;
	for (size_t i = 0; i < text.len; i++)
		if (text.data[i] == '.' && (i == 0 || i + 1 == text.len || text.data[i + 1] == '.'))
			return false;
	return true;
}

static int
on_address(void *arg, struct span address)
{
	struct bare *b = arg;
	struct address a;

	if (address_parse(address, &a) != ADDRESS_OK || a.domain.len > 0 || a.is_utf8 ||
	    b->list.in_group || b->list.is_spread || !is_local_part(address))
		return 0;
	return b->found(b->arg, b->list.word_end);
}

int
header_bare_addresses(struct span body, header_bare_fn *found, void *arg)
{
	struct bare b = { .list.in = body, .found = found, .arg = arg };
	const int r = walk(&b.list, on_address, &b);

	return r == 0 && b.list.is_loose ? -EINVAL : r;
}
