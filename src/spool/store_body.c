/* store_body.c - a message with its body (store.h), wherever that stands: behind its envelope, or in large/. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "spool/checksum.h"
#include "spool/large.h"
#include "spool/store_parts.h"

#define MESSAGE_READ_MAX (2 * (size_t)RECORD_PAYLOAD_MAX)

struct spool_body {
	uint64_t bytes;
	const char *data; /* inline: all of it, in `record` */
	void *record;
	int fd; /* large: -1 if inline */
	uint64_t id, checksum_wanted;
	uint64_t checked; /* bytes that are in the sum */
	struct checksum_stream *sum;
};

static int
open_large(struct spool_store *s, const struct envelope *e, struct spool_body *b)
{
	char name[LARGE_NAME_MAX];
	struct stat st;
	int fd, r;

	large_name(e->id, name);
	fd = os_open(s->dirfd, name, O_RDONLY | O_NONBLOCK, 0);
	if (fd < 0)
		return fd;
	r = os_fstat(fd, &st);
	if (r == 0 && (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != e->body_bytes ||
	                  !segment_is_own(s->dirfd, &st)))
		r = -EBADMSG;
	if (r < 0) {
		os_close(fd);
		return r;
	}
	b->fd = fd;
	b->id = e->id;
	b->bytes = e->body_bytes;
	b->checksum_wanted = e->body_checksum;
	b->sum = checksum_stream_new(e->id);
	return 0;
}

int
store_read_body(const struct store_segment *o, uint64_t at, const struct record_header *envelope,
    struct record_header *h, uint8_t **out)
{
	uint8_t *record;
	int r;

	r = store_read_record(
	    o, at + record_bytes(envelope->payload_bytes), RECORD_BODY, h, &record);
	if (r < 0)
		return r;
	if (h->seq != envelope->seq + 1) {
		free(record);
		return -EBADMSG;
	}
	*out = record;
	return 0;
}

static int
open_inline(struct spool_store *s, struct spool_location at, struct spool_body *b)
{
	const struct store_segment *o;
	struct record_header envelope, h;
	uint8_t in[RECORD_HEADER_BYTES], *record;
	size_t got;
	int r;

	r = store_open_segment(s, at.segment, &o);
	if (r < 0)
		return r;
	if (segment_read_most(o->fd, in, sizeof(in), at.offset, &got) < 0 || got < sizeof(in) ||
	    !record_get_header(in, o->salt, &envelope) || envelope.type != RECORD_ENVELOPE)
		return -EBADMSG;
	r = store_read_body(o, at.offset, &envelope, &h, &record);
	if (r < 0)
		return r;
	b->record = record;
	b->data = (char *)record + RECORD_HEADER_BYTES;
	b->bytes = h.payload_bytes;
	return 0;
}

int
spool_store_body(struct spool_store *s, struct spool_location at, const struct envelope *e,
    struct spool_body **out)
{
	struct spool_body *b = xcalloc(1, sizeof(*b));
	int r;

	b->fd = -1;
	r = e->flags & ENVELOPE_LARGE ? open_large(s, e, b) : open_inline(s, at, b);
	if (r < 0) {
		free(b);
		return r;
	}
	*out = b;
	return 0;
}

/* Both records out of one piece of the segment; the body keeps it. False: it is not all there. */
static bool
take_both(const struct store_segment *o, uint8_t *in, size_t len, struct envelope **out,
    struct spool_body *b)
{
	struct record_header envelope, body;
	size_t at;

	if (!record_begins(in, len, o->salt, RECORD_ENVELOPE, &envelope))
		return false;
	at = record_bytes(envelope.payload_bytes);
	if (!record_begins(in + at, len - at, o->salt, RECORD_BODY, &body) ||
	    body.seq != envelope.seq + 1 ||
	    envelope_decode(
	        (struct span){ (char *)in + RECORD_HEADER_BYTES, envelope.payload_bytes }, out) < 0)
		return false;
	*b = (struct spool_body){ .fd = -1,
		.record = in,
		.data = (char *)in + at + RECORD_HEADER_BYTES,
		.bytes = body.payload_bytes };
	return true;
}

/* The usual message, whose records are as long as the caller thinks. */
static bool
read_both(const struct store_segment *o, uint64_t at, size_t bytes, struct envelope **out,
    struct spool_body *b)
{
	uint8_t *in = bytes <= MESSAGE_READ_MAX ? os_alloc(bytes) : NULL;
	size_t got;

	if (in == NULL)
		return false;
	if (segment_read_most(o->fd, in, bytes, at, &got) == 0 && take_both(o, in, got, out, b))
		return true;
	free(in);
	return false;
}

int
spool_store_message(struct spool_store *s, struct spool_location at, size_t bytes,
    struct envelope **envelope, struct spool_body **body)
{
	struct spool_body *b = xcalloc(1, sizeof(*b));
	const struct store_segment *o;
	int r;

	r = store_open_segment(s, at.segment, &o);
	if (r == 0 && read_both(o, at.offset, bytes, envelope, b)) {
		*body = b;
		return 0;
	}
	free(b);
	/* large, damaged, unreadable or longer: record by record, which tells what it is */
	if (r == 0)
		r = spool_store_envelope(s, at, envelope);
	if (r < 0)
		return r;
	r = spool_store_body(s, at, *envelope, body);
	if (r < 0)
		envelope_free(*envelope);
	return r;
}

uint64_t
spool_body_bytes(const struct spool_body *b)
{
	return b->bytes;
}

static ssize_t
read_large(struct spool_body *b, uint64_t offset, void *buf, size_t len)
{
	size_t got;
	int r;

	if (offset == 0) {
		checksum_stream_reset(b->sum, b->id);
		b->checked = 0;
	}
	r = segment_read_most(b->fd, buf, len, offset, &got);
	if (r < 0)
		return r;
	if (got < len)
		return -EBADMSG; /* it was longer when it was opened */
	if (offset <= b->checked && offset + len > b->checked) {
		size_t known = (size_t)(b->checked - offset);

		checksum_stream_add(b->sum, (char *)buf + known, len - known);
		b->checked = offset + len;
	}
	if (offset + len == b->bytes && b->checked == b->bytes &&
	    checksum_stream_value(b->sum) != b->checksum_wanted)
		return -EBADMSG;
	return (ssize_t)len;
}

ssize_t
spool_body_read(struct spool_body *b, uint64_t offset, void *buf, size_t len)
{
	if (offset >= b->bytes)
		return 0;
	if (len > b->bytes - offset)
		len = (size_t)(b->bytes - offset);
	if (b->fd >= 0)
		return read_large(b, offset, buf, len);
	memcpy(buf, b->data + offset, len);
	return (ssize_t)len;
}

void
spool_body_close(struct spool_body *b)
{
	if (b == NULL)
		return;
	if (b->fd >= 0)
		os_close(b->fd);
	checksum_stream_free(b->sum);
	free(b->record);
	free(b);
}
