#include <string.h>

#include "spool/checksum.h"
#include "spool/record.h"

void
record_put_u16(uint8_t *out, uint16_t v)
{
	out[0] = (uint8_t)v;
	out[1] = (uint8_t)(v >> 8);
}

void
record_put_u32(uint8_t *out, uint32_t v)
{
	record_put_u16(out, (uint16_t)v);
	record_put_u16(out + 2, (uint16_t)(v >> 16));
}

void
record_put_u64(uint8_t *out, uint64_t v)
{
	record_put_u32(out, (uint32_t)v);
	record_put_u32(out + 4, (uint32_t)(v >> 32));
}

uint16_t
record_get_u16(const uint8_t *in)
{
	return (uint16_t)(in[0] | in[1] << 8);
}

uint32_t
record_get_u32(const uint8_t *in)
{
	return record_get_u16(in) | (uint32_t)record_get_u16(in + 2) << 16;
}

uint64_t
record_get_u64(const uint8_t *in)
{
	return record_get_u32(in) | (uint64_t)record_get_u32(in + 4) << 32;
}

struct record_salt
record_salt_from(const uint8_t bytes[RECORD_SALT_BYTES])
{
	return (struct record_salt){ record_get_u64(bytes), record_get_u64(bytes + 8) };
}

void
record_put_header(
    struct record_header *h, struct record_salt salt, uint8_t out[RECORD_HEADER_BYTES])
{
	memset(out, 0, RECORD_HEADER_BYTES);
	record_put_u32(out, RECORD_MAGIC);
	out[4] = h->type;
	out[5] = h->flags;
	record_put_u32(out + 8, h->payload_bytes);
	record_put_u64(out + 16, h->seq);
	h->checksum = checksum(out, 24, salt.header);
	record_put_u64(out + 24, h->checksum);
}

bool
record_get_header(
    const uint8_t in[RECORD_HEADER_BYTES], struct record_salt salt, struct record_header *h)
{
	struct record_header got;

	if (record_get_u32(in) != RECORD_MAGIC || in[4] == 0 || (in[5] & ~RECORD_CRITICAL) != 0 ||
	    record_get_u16(in + 6) != 0 || record_get_u32(in + 12) != 0)
		return false;
	got.type = in[4];
	got.flags = in[5];
	got.payload_bytes = record_get_u32(in + 8);
	got.seq = record_get_u64(in + 16);
	got.checksum = record_get_u64(in + 24);
	if (got.payload_bytes > RECORD_PAYLOAD_MAX || got.seq == 0)
		return false;
	if (checksum(in, 24, salt.header) != got.checksum)
		return false;
	*h = got;
	return true;
}

uint64_t
record_payload_checksum(
    const struct record_header *h, struct record_salt salt, const struct iovec *iov, int n)
{
	return checksum_pieces(iov, n, salt.payload ^ h->checksum);
}

size_t
record_put_trailer(
    const struct record_header *h, uint64_t checksum, uint8_t out[RECORD_TRAILER_MAX])
{
	size_t padding = (8u - h->payload_bytes % 8u) % 8u;

	memset(out, 0, padding);
	record_put_u64(out + padding, checksum);
	return padding + 8u;
}

bool
record_is_whole(const struct record_header *h, struct record_salt salt, const uint8_t *in)
{
	const uint8_t *payload = in + RECORD_HEADER_BYTES;
	const uint8_t *end = in + record_bytes(h->payload_bytes) - 8;
	uint64_t seed = salt.payload ^ h->checksum;

	for (const uint8_t *p = payload + h->payload_bytes; p < end; p++)
		if (*p != 0)
			return false;
	return checksum(payload, h->payload_bytes, seed) == record_get_u64(end);
}

bool
record_begins(
    const uint8_t *in, size_t len, struct record_salt salt, uint8_t type, struct record_header *h)
{
	return len >= RECORD_HEADER_BYTES && record_get_header(in, salt, h) && h->type == type &&
	       record_bytes(h->payload_bytes) <= len && record_is_whole(h, salt, in);
}

uint64_t
record_chain(uint64_t so_far, uint64_t header_checksum, uint64_t payload_checksum)
{
	uint8_t both[16];

	record_put_u64(both, header_checksum);
	record_put_u64(both + 8, payload_checksum);
	return checksum(both, sizeof(both), so_far);
}

void
record_put_commit(const struct record_commit *c, uint8_t out[RECORD_COMMIT_BYTES])
{
	record_put_u64(out, c->first_seq);
	record_put_u64(out + 8, c->last_seq);
	record_put_u32(out + 16, c->count);
	record_put_u32(out + 20, 0);
	record_put_u64(out + 24, c->checksum);
}

bool
record_get_commit(struct span payload, struct record_commit *c)
{
	const uint8_t *in = (const uint8_t *)payload.data;

	if (payload.len < RECORD_COMMIT_BYTES)
		return false;
	c->first_seq = record_get_u64(in);
	c->last_seq = record_get_u64(in + 8);
	c->count = record_get_u32(in + 16);
	c->checksum = record_get_u64(in + 24);
	return true;
}

void
record_put_revoke(const struct record_revoke *v, uint8_t out[RECORD_REVOKE_BYTES])
{
	record_put_u32(out, v->segment);
	record_put_u32(out + 4, 0);
	record_put_u64(out + 8, v->first_seq);
	record_put_u64(out + 16, v->last_seq);
}

bool
record_get_revoke(struct span payload, struct record_revoke *v)
{
	const uint8_t *in = (const uint8_t *)payload.data;

	if (payload.len < RECORD_REVOKE_BYTES)
		return false;
	v->segment = record_get_u32(in);
	v->first_seq = record_get_u64(in + 8);
	v->last_seq = record_get_u64(in + 16);
	return true;
}
