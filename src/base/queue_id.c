/* queue_id.c - see queue_id.h. */
#include "base/queue_id.h"

static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

void
queue_id_print(uint64_t id, char out[QUEUE_ID_LEN + 1])
{
	for (int i = QUEUE_ID_LEN - 1; i >= 0; i--, id >>= 5)
		out[i] = digits[id & 31];
	out[QUEUE_ID_LEN] = '\0';
}

bool
queue_id_parse(struct span text, uint64_t *id)
{
	uint64_t value = 0;

	/* 13 digits hold 65 bits; the top byte of an ID is 0, so the first digit is too */
	if (text.len != QUEUE_ID_LEN || text.data[0] != '0')
		return false;
	for (size_t i = 0; i < text.len; i++) {
		char c = text.data[i];
		const char *digit;

		if (c >= 'a' && c <= 'z')
			c = (char)(c - 'a' + 'A');
		digit = c != '\0' ? strchr(digits, c) : NULL;
		if (digit == NULL)
			return false;
		value = value << 5 | (uint64_t)(digit - digits);
	}
	*id = value;
	return true;
}
