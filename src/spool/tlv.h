/* tlv.h - fields {tag u16, length u32, bytes} in a payload (envelope.h, journal.h). Pure. */
#ifndef RELAYD_SPOOL_TLV_H
#define RELAYD_SPOOL_TLV_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "base/span.h"

#define TLV_HEADER_BYTES 6u
#define TLV_CRITICAL 0x8000u

/* Grows by itself; after a failure nothing is added any more and error tells it. */
struct tlv_buffer {
	uint8_t *data;
	size_t len, capacity;
	int error; /* 0, -ENOMEM, -EMSGSIZE */
};

/* Adds a field of `len` bytes; returns where its bytes go, NULL after a failure. */
uint8_t *tlv_add(struct tlv_buffer *b, uint16_t tag, size_t len);
void tlv_add_u32(struct tlv_buffer *b, uint16_t tag, uint32_t value);
void tlv_add_u64(struct tlv_buffer *b, uint16_t tag, uint64_t value);
void tlv_add_span(struct tlv_buffer *b, uint16_t tag, struct span value);

/* Takes the next field off *rest. 1: a field; 0: the end; -EBADMSG. */
int tlv_next(struct span *rest, uint16_t *tag, struct span *value) MUST_CHECK;
bool tlv_get_u8(struct span value, uint8_t *out); /* false: not that long */
bool tlv_get_u32(struct span value, uint32_t *out);
bool tlv_get_u64(struct span value, uint64_t *out);

/* Holds no CR, LF, NUL. */
bool tlv_is_one_line(struct span text);

#endif
