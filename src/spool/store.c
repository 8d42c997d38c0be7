/* store.c - the segments that are kept open, and single records out of them: see store.h. */
#include <errno.h>
#include <stdlib.h>

#include "base/os.h"
#include "spool/store_parts.h"

#define FIRST_READ 4096u

int
spool_store_open(int dirfd, bool read_only, struct spool_store **out)
{
	struct spool_store *s = xcalloc(1, sizeof(*s));

	s->dirfd = dirfd;
	s->read_only = read_only;
	*out = s;
	return 0;
}

void
spool_store_close(struct spool_store *s)
{
	if (s == NULL)
		return;
	for (size_t i = 0; i < STORE_OPEN_MAX; i++)
		if (s->open[i].number != 0)
			os_close(s->open[i].fd);
	free(s->revokes);
	free(s->clean);
	free(s);
}

void
store_forget_segment(struct spool_store *s, uint32_t number)
{
	for (size_t i = 0; i < STORE_OPEN_MAX; i++)
		if (s->open[i].number == number) {
			os_close(s->open[i].fd);
			s->open[i].number = 0;
		}
}

int
store_open_segment(struct spool_store *s, uint32_t number, const struct store_segment **out)
{
	struct store_segment *victim = &s->open[0];
	struct segment_header header;
	int fd, r;

	for (size_t i = 0; i < STORE_OPEN_MAX; i++) {
		struct store_segment *o = &s->open[i];

		if (o->number == number && number != 0) {
			o->used = ++s->clock;
			*out = o;
			return 0;
		}
		if (victim->number != 0 && (o->number == 0 || o->used < victim->used))
			victim = o;
	}
	r = segment_open(s->dirfd, segment_kind_of(number), number, false, &header, &fd, NULL);
	if (fd < 0)
		return r;
	if (r < 0) {
		os_close(fd);
		return r;
	}
	if (victim->number != 0)
		os_close(victim->fd);
	*victim = (struct store_segment){ .number = number,
		.fd = fd,
		.salt = record_salt_from(header.salt),
		.file_bytes = (uint64_t)header.blocks * RECORD_BLOCK,
		.used = ++s->clock };
	*out = victim;
	return 0;
}

int
store_read_record(const struct store_segment *o, uint64_t offset, uint8_t type,
    struct record_header *h, uint8_t **record)
{
	uint8_t *in = os_alloc(FIRST_READ);
	size_t bytes, got;
	int r;

	if (in == NULL)
		return -ENOMEM;
	r = segment_read_most(o->fd, in, FIRST_READ, offset, &got);
	if (r < 0 || got < RECORD_HEADER_BYTES || !record_get_header(in, o->salt, h) ||
	    h->type != type)
		goto bad;
	bytes = record_bytes(h->payload_bytes);
	if (bytes > FIRST_READ) {
		uint8_t *bigger = os_realloc(in, bytes);

		if (bigger == NULL) {
			free(in);
			return -ENOMEM;
		}
		in = bigger;
		r = segment_read_most(
		    o->fd, in + FIRST_READ, bytes - FIRST_READ, offset + FIRST_READ, &got);
		if (r < 0)
			goto bad;
		got += FIRST_READ;
	}
	if (got < bytes || !record_is_whole(h, o->salt, in))
		goto bad;
	*record = in;
	return 0;
bad:
	free(in);
	return r < 0 ? r : -EBADMSG;
}

int
spool_store_envelope(struct spool_store *s, struct spool_location at, struct envelope **out)
{
	const struct store_segment *o;
	struct record_header h;
	uint8_t *record;
	int r;

	r = store_open_segment(s, at.segment, &o);
	if (r < 0)
		return r;
	r = store_read_record(o, at.offset, RECORD_ENVELOPE, &h, &record);
	if (r < 0)
		return r;
	r = envelope_decode(
	    (struct span){ (char *)record + RECORD_HEADER_BYTES, h.payload_bytes }, out);
	free(record);
	return r;
}

int
spool_store_file_bytes(struct spool_store *s, uint32_t number, uint64_t *out)
{
	const struct store_segment *o;
	int r;

	r = store_open_segment(s, number, &o);
	if (r == 0)
		*out = o->file_bytes;
	return r;
}

int
spool_store_browse(
    struct spool_store *s, struct window *window, struct spool_location at, struct envelope **out)
{
	const struct store_segment *o;
	struct record_header h;
	const uint8_t *record;
	int r;

	r = store_open_segment(s, at.segment, &o);
	if (r == 0)
		r = window_record(window, o->fd, o->salt, at.offset, RECORD_ENVELOPE, &h, &record);
	if (r < 0)
		return r;
	return envelope_decode(
	    (struct span){ (const char *)record + RECORD_HEADER_BYTES, h.payload_bytes }, out);
}
