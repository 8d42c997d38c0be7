/* window.c - see window.h. */
#include <errno.h>
#include <stdlib.h>

#include "base/os.h"
#include "spool/segment.h"
#include "spool/window.h"

/* Is it whole in what is here already? */
static bool
is_here(const struct window *w, int fd, struct record_salt salt, uint64_t offset, uint8_t type,
    struct record_header *h, const uint8_t **record)
{
	size_t at;

	if (w->len == 0 || w->fd != fd || offset < w->offset || offset >= w->offset + w->len)
		return false;
	at = (size_t)(offset - w->offset);
	if (!record_begins(w->bytes + at, w->len - at, salt, type, h))
		return false;
	*record = w->bytes + at;
	return true;
}

/* One that is longer than the window, by itself. */
static int
read_big(struct window *w, int fd, struct record_salt salt, uint64_t offset,
    const struct record_header *h, const uint8_t **record)
{
	size_t got, bytes = record_bytes(h->payload_bytes);
	int r;

	free(w->big);
	w->big = os_alloc(bytes);
	if (w->big == NULL)
		return -ENOMEM;
	r = segment_read_most(fd, w->big, bytes, offset, &got);
	if (r < 0 && got == 0)
		return r;
	if (got < bytes || !record_is_whole(h, salt, w->big))
		return -EBADMSG;
	*record = w->big;
	return 0;
}

int
window_record(struct window *w, int fd, struct record_salt salt, uint64_t offset, uint8_t type,
    struct record_header *h, const uint8_t **record)
{
	int r;

	if (is_here(w, fd, salt, offset, type, h, record))
		return 0;
	if (w->bytes == NULL)
		w->bytes = os_alloc(WINDOW_BYTES);
	if (w->bytes == NULL)
		return -ENOMEM;
	r = segment_read_most(fd, w->bytes, WINDOW_BYTES, offset, &w->len);
	if (r < 0 && w->len == 0) /* what lies behind may not be wanted */
		return r;
	w->fd = fd;
	w->offset = offset;
	if (is_here(w, fd, salt, offset, type, h, record))
		return 0;
	if (w->len < RECORD_HEADER_BYTES || !record_get_header(w->bytes, salt, h) ||
	    h->type != type || record_bytes(h->payload_bytes) <= w->len)
		return -EBADMSG;
	return read_big(w, fd, salt, offset, h, record);
}

void
window_fini(struct window *w)
{
	free(w->bytes);
	free(w->big);
	*w = (struct window){ 0 };
}
