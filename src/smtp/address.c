/* address.c - see address.h. */
#include <stdint.h>
#include <string.h>

#include "smtp/address.h"

static bool
is_control(unsigned char c)
{
	return c < 0x20 || c == 0x7f;
}

static bool
is_alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* One character of UTF-8 (RFC 3629: shortest form, no surrogates), without C0 and C1 controls: its
 * length, or 0. */
static size_t
utf8_len(const unsigned char *p, size_t len)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	const size_t n = p[0] < 0x80 ? 1 : p[0] < 0xc0 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	uint32_t c = n == 1 ? p[0] : p[0] & (0xffu >> (n + 1));

	if (n == 0 || n > len || p[0] >= 0xf8)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	return c < 0x20 || (c >= 0x7f && c < 0xa0) ? 0 : n;
}

bool
address_is_utf8(struct span text)
{
	const unsigned char *p = (const unsigned char *)text.data;

	for (size_t i = 0, n; i < text.len; i += n)
		if ((n = utf8_len(p + i, text.len - i)) == 0)
			return false;
	return true;
}

static bool
has_8bit(struct span text)
{
	for (size_t i = 0; i < text.len; i++)
		if (((unsigned char)text.data[i] & 0x80) != 0)
			return true;
	return false;
}

/* RFC 5322 atext, '.', and any byte of UTF-8 (which is checked as a whole elsewhere). */
static bool
is_local_char(char c)
{
	return is_alnum(c) || ((unsigned char)c & 0x80) != 0 ||
	       (c != '\0' && strchr("!#$%&'*+-/=?^_`{|}~.", c) != NULL);
}

/* The length of the local part at the start of `text`, or 0 if there is none. */
static size_t
local_len(struct span text)
{
	size_t i = 0;

	if (text.len == 0 || text.data[0] != '"') {
		while (i < text.len && is_local_char(text.data[i]))
			i++;
		return i;
	}
	for (i = 1; i < text.len && text.data[i] != '"'; i++) {
		if (text.data[i] == '\\')
			i++;
		if (i == text.len || is_control((unsigned char)text.data[i]))
			return 0;
	}
	return i < text.len ? i + 1 : 0;
}

/* [127.0.0.1], [IPv6:::1], [tag:anything printable]: whether it means something is not our matter. */
static size_t
literal_len(struct span text)
{
	size_t i = 1;

	while (i < text.len && (is_alnum(text.data[i]) || strchr(".:-_", text.data[i]) != NULL) &&
	       text.data[i] != '\0')
		i++;
	return i > 1 && i < text.len && text.data[i] == ']' ? i + 1 : 0;
}

static size_t
domain_len(struct span text)
{
	size_t i, label = 0;

	if (text.len > 0 && text.data[0] == '[')
		return literal_len(text);
	for (i = 0; i < text.len; i++) {
		const char c = text.data[i];

		if (c == '.' && label == 0)
			return 0;
		if (c == '.')
			label = 0;
		else if (is_alnum(c) || c == '-' || c == '_' || ((unsigned char)c & 0x80) != 0)
			label++;
		else
			break;
		if (label > 63)
			return 0;
	}
	return label > 0 ? i : 0; /* no empty last label either */
}

bool
address_is_domain(struct span text)
{
	return text.len > 0 && text.len <= ADDRESS_DOMAIN_MAX && domain_len(text) == text.len;
}

/* local[@domain] at the start of `text`. */
static enum address_result
mailbox(struct span text, struct address *out, size_t *used)
{
	struct address a = { .local = { text.data, local_len(text) } };
	size_t len = a.local.len;

	if (len == 0)
		return ADDRESS_SYNTAX;
	if (len < text.len && text.data[len] == '@') {
		a.domain = span_skip(text, len + 1);
		a.domain.len = domain_len(a.domain);
		if (a.domain.len == 0)
			return ADDRESS_SYNTAX;
		len += 1 + a.domain.len;
	}
	if (a.local.len > ADDRESS_LOCAL_MAX || a.domain.len > ADDRESS_DOMAIN_MAX)
		return ADDRESS_TOO_LONG;
	a.is_utf8 = has_8bit((struct span){ text.data, len });
	if (a.is_utf8 && !address_is_utf8((struct span){ text.data, len }))
		return ADDRESS_BAD_UTF8;
	*out = a;
	*used = len;
	return ADDRESS_OK;
}

enum address_result
address_parse(struct span text, struct address *out)
{
	struct address a;
	size_t used;
	const enum address_result r = mailbox(text, &a, &used);

	if (r != ADDRESS_OK)
		return r;
	if (used != text.len)
		return ADDRESS_SYNTAX;
	*out = a;
	return ADDRESS_OK;
}

/* "@a,@b:" of RFC 5321 appendix C: read and forgotten. Its length; 0 if there is none or a bad one. */
static size_t
route_len(struct span text)
{
	size_t i = 0, n;

	while (i < text.len && text.data[i] == '@') {
		n = domain_len(span_skip(text, i + 1));
		i += 1 + n;
		if (n == 0 || i == text.len)
			return 0;
		if (text.data[i] == ':')
			return i + 1;
		if (text.data[i++] != ',')
			return 0;
	}
	return 0;
}

enum address_result
address_parse_path(struct span text, struct address *out, size_t *used)
{
	struct span inner = text;
	struct address a = { .is_utf8 = false };
	enum address_result r;
	size_t len = 0;

	if (text.len == 0)
		return ADDRESS_SYNTAX;
	if (text.data[0] != '<') {
		r = mailbox(text, &a, &len);
		if (r == ADDRESS_OK && len < text.len && text.data[len] != ' ')
			r = ADDRESS_SYNTAX;
		goto done;
	}
	inner = span_skip(text, 1);
	if (inner.len > 0 && inner.data[0] == '@')
		inner = span_skip(inner, route_len(inner));
	if (inner.len > 0 && inner.data[0] == '>' && inner.data == text.data + 1)
		r = ADDRESS_OK;
	else
		r = mailbox(inner, &a, &len);
	if (r == ADDRESS_OK && (len == inner.len || inner.data[len] != '>'))
		r = ADDRESS_SYNTAX;
	len += (size_t)(inner.data - text.data) + 1;
done:
	if (r == ADDRESS_OK) {
		*out = a;
		*used = len;
	}
	return r;
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; /* RFC 3461: capitals only */
}

long
xtext_decode(struct span in, char *out, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < in.len; i++) {
		unsigned char c = (unsigned char)in.data[i];

		if (c == '+') {
			const int high = in.len - i > 2 ? hex_digit(in.data[i + 1]) : -1;
			const int low = in.len - i > 2 ? hex_digit(in.data[i + 2]) : -1;

			if (high < 0 || low < 0)
				return -1;
			c = (unsigned char)(high << 4 | low);
			i += 2;
		} else if (c < 0x21 || c == '=' || c > 0x7e) {
			return -1;
		}
		if (n == size || is_control(c))
			return -1;
		out[n++] = (char)c;
	}
	return (long)n;
}

long
xtext_encode(struct span in, char *out, size_t size)
{
	static const char digits[] = "0123456789ABCDEF";
	size_t n = 0;

	for (size_t i = 0; i < in.len; i++) {
		const unsigned char c = (unsigned char)in.data[i];
		const bool plain = c > 0x20 && c < 0x7f && c != '+' && c != '=';

		if (size - n < (plain ? 1 : 3))
			return -1;
		if (plain) {
			out[n++] = (char)c;
			continue;
		}
		out[n++] = '+';
		out[n++] = digits[c >> 4];
		out[n++] = digits[c & 15];
	}
	return (long)n;
}
