/* store_quarantine.c - damaged bytes are set aside before anything is freed, for whoever can still read something
 * in them (store.h). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/os.h"
#include "spool/store_parts.h"

#define COPY_BYTES (256u << 10)

/* What cannot be read is left out (a hole, or what an earlier copy has there), and told at the end. */
static int
copy_range(int from, uint64_t offset, uint64_t len, int to)
{
	char *buf = xcalloc(1, COPY_BYTES);
	int r = 0, unreadable = 0;

	for (uint64_t at = 0; at < len && r == 0;) {
		size_t step = len - at < COPY_BYTES ? (size_t)(len - at) : COPY_BYTES;
		struct iovec iov;
		ssize_t n = os_pread(from, buf, step, offset + at);

		if (n == 0)
			break; /* the file ends before the range does */
		if (n < 0) {   /* block by block: some of them can be read */
			step = step < RECORD_BLOCK ? step : RECORD_BLOCK;
			n = os_pread(from, buf, step, offset + at);
		}
		if (n <= 0) {
			unreadable = n < 0 ? (int)n : -EIO;
			at += step;
			continue;
		}
		iov = (struct iovec){ buf, (size_t)n };
		n = os_pwritev(to, &iov, 1, at);
		if (n <= 0)
			r = n < 0 ? (int)n : -EIO;
		else
			at += (uint64_t)n;
	}
	free(buf);
	if (r == 0)
		r = os_fsync(to);
	return r < 0 ? r : unreadable;
}

int
spool_store_quarantine(struct spool_store *s, const struct spool_damage *damage)
{
	char name[sizeof("quarantine/") + SEGMENT_NAME_MAX + 48];
	int from, to, r;

	if (s->read_only)
		return -EROFS;
	if (damage->length_bytes == 0)
		return 0;
	snprintf(name, sizeof(name), "quarantine/%s.%llu-%llu", damage->file,
	    (unsigned long long)damage->offset, (unsigned long long)damage->length_bytes);
	from = os_open(s->dirfd, damage->file, O_RDONLY | O_NONBLOCK, 0);
	if (from < 0)
		return from;
	to = os_open(s->dirfd, name, O_RDWR | O_CREAT, 0600);
	if (to < 0) {
		os_close(from);
		return to;
	}
	r = copy_range(from, damage->offset, damage->length_bytes, to);
	if (segment_sync_subdirectory(s->dirfd, "quarantine") < 0 && r == 0)
		r = -EIO;
	os_close(to);
	os_close(from);
	return r;
}
