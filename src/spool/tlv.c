#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "spool/record.h"
#include "spool/tlv.h"

uint8_t *
tlv_add(struct tlv_buffer *b, uint16_t tag, size_t len)
{
	uint8_t *field;

	if (b->error != 0)
		return NULL;
	if (len > RECORD_PAYLOAD_MAX || b->len + TLV_HEADER_BYTES + len > RECORD_PAYLOAD_MAX) {
		b->error = -EMSGSIZE;
		return NULL;
	}
	if (b->len + TLV_HEADER_BYTES + len > b->capacity) {
		size_t capacity = (b->len + TLV_HEADER_BYTES + len) * 2 + 512;
		uint8_t *data = os_realloc(b->data, capacity);

		if (data == NULL) {
			b->error = -ENOMEM;
			return NULL;
		}
		b->data = data;
		b->capacity = capacity;
	}
	field = b->data + b->len;
	record_put_u16(field, tag);
	record_put_u32(field + 2, (uint32_t)len);
	b->len += TLV_HEADER_BYTES + len;
	return field + TLV_HEADER_BYTES;
}

void
tlv_add_u32(struct tlv_buffer *b, uint16_t tag, uint32_t value)
{
	uint8_t *out = tlv_add(b, tag, 4);

	if (out != NULL)
		record_put_u32(out, value);
}

void
tlv_add_u64(struct tlv_buffer *b, uint16_t tag, uint64_t value)
{
	uint8_t *out = tlv_add(b, tag, 8);

	if (out != NULL)
		record_put_u64(out, value);
}

void
tlv_add_span(struct tlv_buffer *b, uint16_t tag, struct span value)
{
	uint8_t *out = tlv_add(b, tag, value.len);

	if (out != NULL && value.len > 0)
		memcpy(out, value.data, value.len);
}

int
tlv_next(struct span *rest, uint16_t *tag, struct span *value)
{
	uint32_t len;

	if (rest->len == 0)
		return 0;
	if (rest->len < TLV_HEADER_BYTES)
		return -EBADMSG;
	len = record_get_u32((const uint8_t *)rest->data + 2);
	if (len > rest->len - TLV_HEADER_BYTES)
		return -EBADMSG;
	*tag = record_get_u16((const uint8_t *)rest->data);
	*value = (struct span){ rest->data + TLV_HEADER_BYTES, len };
	*rest = span_skip(*rest, TLV_HEADER_BYTES + len);
	return 1;
}

bool
tlv_get_u8(struct span value, uint8_t *out)
{
	if (value.len != 1)
		return false;
	*out = (uint8_t)value.data[0];
	return true;
}

bool
tlv_get_u32(struct span value, uint32_t *out)
{
	if (value.len != 4)
		return false;
	*out = record_get_u32((const uint8_t *)value.data);
	return true;
}

bool
tlv_get_u64(struct span value, uint64_t *out)
{
	if (value.len != 8)
		return false;
	*out = record_get_u64((const uint8_t *)value.data);
	return true;
}

bool
tlv_is_one_line(struct span text)
{
	return text.len == 0 || (memchr(text.data, '\n', text.len) == NULL &&
	                            memchr(text.data, '\r', text.len) == NULL &&
	                            memchr(text.data, '\0', text.len) == NULL);
}
