/* reader_bytes.c - the file's bytes for the reader: read ahead in large pieces, a group is kept, and where they are
 * damaged the next header is looked for. */
#include <errno.h>
#include <string.h>

#include "spool/reader_parts.h"

#define KEEP_MOST (8u << 20) /* of a group in memory; what is before that is read again */

uint64_t
reader_bytes_end(const struct spool_reader *r)
{
	uint64_t end = r->size < r->data_end ? r->size : r->data_end;

	return r->limit < end ? r->limit : end;
}

int
reader_bytes_view(struct spool_reader *r, uint64_t offset, size_t len, const uint8_t **out)
{
	uint64_t keep = r->buffer_offset, end = reader_bytes_end(r);
	size_t want, got;
	int v;

	if (offset + len > end)
		return -ERANGE;
	if (offset >= r->buffer_offset && offset + len <= r->buffer_offset + r->buffer_len) {
		*out = r->buffer + (offset - r->buffer_offset);
		return 0;
	}
	if (offset < r->buffer_offset || offset > r->buffer_offset + r->buffer_len ||
	    offset + len - r->anchor > KEEP_MOST) {
		keep = offset;
		r->buffer_len = 0;
	} else if (r->anchor > r->buffer_offset && r->anchor <= r->buffer_offset + r->buffer_len) {
		keep = r->anchor;
		r->buffer_len -= (size_t)(keep - r->buffer_offset);
		memmove(r->buffer, r->buffer + (keep - r->buffer_offset), r->buffer_len);
	}
	r->buffer_offset = keep;
	want = (size_t)(offset + len - keep) + READER_AHEAD_BYTES;
	if (want > end - keep)
		want = (size_t)(end - keep);
	if (want > r->buffer_capacity) {
		uint8_t *bigger = os_realloc(r->buffer, want);

		if (bigger == NULL)
			return -ENOMEM;
		r->buffer = bigger;
		r->buffer_capacity = want;
	}
	v = segment_read_most(r->fd, r->buffer + r->buffer_len, want - r->buffer_len,
	    r->buffer_offset + r->buffer_len, &got);
	r->buffer_len += got;
	if (offset + len > r->buffer_offset + r->buffer_len)
		return v < 0 ? v : -EIO; /* more is missing than what was read ahead */
	*out = r->buffer + (offset - r->buffer_offset);
	return 0;
}

int
reader_bytes_header(struct spool_reader *r, uint64_t offset, struct record_header *h)
{
	const uint8_t *in;
	int v;

	if (offset + RECORD_HEADER_BYTES > reader_bytes_end(r))
		return 0;
	v = reader_bytes_view(r, offset, RECORD_HEADER_BYTES, &in);
	if (v < 0)
		return v;
	return record_get_header(in, r->salt, h) && h->seq > r->last_seq &&
	       offset + record_bytes(h->payload_bytes) <= reader_bytes_end(r);
}

int
reader_bytes_resync(struct spool_reader *r, uint64_t offset, uint64_t *found, int *error)
{
	static const uint8_t magic[4] = { 0x52, 0x4c, 0x44, 0x52 };
	uint64_t end = reader_bytes_end(r);
	struct record_header h;

	while (offset + RECORD_HEADER_BYTES <= end) {
		size_t len =
		    end - offset < READER_AHEAD_BYTES ? (size_t)(end - offset) : READER_AHEAD_BYTES;
		const uint8_t *in;
		int v = reader_bytes_view(r, offset, len, &in);

		if (v == -ENOMEM)
			return v;
		if (v < 0) { /* block by block: some of them can be read */
			len = RECORD_BLOCK - offset % RECORD_BLOCK;
			if (len > end - offset)
				len = (size_t)(end - offset);
			v = reader_bytes_view(r, offset, len, &in);
		}
		if (v < 0) {
			*error = -v;
			offset += len;
			continue;
		}
		for (size_t i = 0; i + sizeof(magic) <= len; i += 8) {
			if (memcmp(in + i, magic, sizeof(magic)) != 0)
				continue;
			v = reader_bytes_header(r, offset + i, &h);
			if (v == -ENOMEM)
				return v;
			if (v == 1) {
				*found = offset + i;
				return 0;
			}
			/* the buffer may have moved */
			if (reader_bytes_view(r, offset, len, &in) < 0)
				break;
		}
		offset += len - len % 8;
		if (len < 8)
			break;
	}
	*found = end;
	return 0;
}
