/* base64.c - no I/O, no state. Decoding refuses what an encoder would not have written. */
#include <string.h>

#include "smtp/base64.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

size_t
base64_encode(struct span in, char *out)
{
	const unsigned char *s = (const unsigned char *)in.data;
	size_t n = 0;

	for (size_t i = 0; i < in.len; i += 3) {
		size_t left = in.len - i;
		unsigned v = (unsigned)s[i] << 16 | (left > 1 ? (unsigned)s[i + 1] << 8 : 0) |
		             (left > 2 ? s[i + 2] : 0);

		out[n++] = alphabet[v >> 18];
		out[n++] = alphabet[v >> 12 & 63];
		out[n++] = left > 1 ? alphabet[v >> 6 & 63] : '=';
		out[n++] = left > 2 ? alphabet[v & 63] : '=';
	}
	out[n] = '\0';
	return n;
}

static int
value_of(char c)
{
	const char *at = c != '\0' ? memchr(alphabet, c, sizeof(alphabet) - 1) : NULL;

	return at != NULL ? (int)(at - alphabet) : -1;
}

bool
base64_decode(struct span in, char *out, size_t *len)
{
	size_t n = 0;

	if (in.len % 4 != 0)
		return false;
	for (size_t i = 0; i < in.len; i += 4) {
		const char *s = in.data + i;
		bool is_end = i + 4 == in.len;
		int pad = is_end && s[3] == '=' ? (s[2] == '=' ? 2 : 1) : 0;
		int a = value_of(s[0]), b = value_of(s[1]);
		int c = pad == 2 ? 0 : value_of(s[2]), d = pad > 0 ? 0 : value_of(s[3]);
		unsigned v;

		if (a < 0 || b < 0 || c < 0 || d < 0)
			return false;
		v = (unsigned)a << 18 | (unsigned)b << 12 | (unsigned)c << 6 | (unsigned)d;
		if ((pad == 2 && (v & 0xffff) != 0) || (pad == 1 && (v & 0xff) != 0))
			return false; /* bits that nobody sent: two spellings of one value */
		out[n++] = (char)(v >> 16);
		if (pad < 2)
			out[n++] = (char)(v >> 8);
		if (pad < 1)
			out[n++] = (char)v;
	}
	*len = n;
	return true;
}
