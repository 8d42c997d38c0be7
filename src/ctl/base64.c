/* base64.c - see base64.h. */
#include <stdint.h>
#include <stdlib.h>

#include "base/base.h"
#include "ctl/base64.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *
base64_encode(struct span bytes)
{
	char *text = xcalloc(bytes.len / 3 + 2, 4), *out = text;

	for (size_t i = 0; i < bytes.len; i += 3) {
		size_t n = bytes.len - i < 3 ? bytes.len - i : 3;
		uint32_t v = 0;

		for (size_t k = 0; k < 3; k++)
			v = v << 8 | (k < n ? (unsigned char)bytes.data[i + k] : 0);
		for (size_t k = 0; k < 4; k++)
			*out++ = k <= n ? digits[v >> (18 - 6 * k) & 63] : '=';
	}
	return text;
}

bool
base64_decode(struct span text, struct span *out)
{
	char *bytes = xcalloc(text.len / 4 + 1, 3);
	size_t len = 0, padding = 0;
	uint32_t v = 0;

	if (text.len % 4 != 0)
		goto bad;
	for (size_t i = 0; i < text.len; i++) {
		const char *digit = text.data[i] != '\0' ? strchr(digits, text.data[i]) : NULL;

		if (text.data[i] == '=' && i + 2 >= text.len)
			padding++;
		else if (digit == NULL || padding > 0)
			goto bad;
		v = v << 6 | (digit != NULL ? (uint32_t)(digit - digits) : 0);
		if (i % 4 == 3) {
			bytes[len++] = (char)(v >> 16);
			bytes[len++] = (char)(v >> 8);
			bytes[len++] = (char)v;
			v = 0;
		}
	}
	*out = (struct span){ bytes, len - padding };
	return true;
bad:
	free(bytes);
	return false;
}
