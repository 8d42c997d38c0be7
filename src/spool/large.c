#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/queue_id.h"
#include "spool/checksum.h"
#include "spool/large.h"
#include "spool/segment.h"

struct large {
	int dirfd, fd;
	char name[sizeof("large/") + QUEUE_ID_LEN];
	uint64_t bytes;
	struct checksum_stream *sum;
	bool broken;
};

void
large_name(uint64_t id, char out[LARGE_NAME_MAX])
{
	char text[QUEUE_ID_LEN + 1];

	queue_id_print(id, text);
	snprintf(out, LARGE_NAME_MAX, "large/%s", text);
}

int
large_create(int dirfd, uint64_t id, struct large **out)
{
	char name[LARGE_NAME_MAX];
	struct large *l;
	int fd, r;

	large_name(id, name);
	fd = os_open(dirfd, name, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0)
		return fd;
	r = os_lock(fd);
	if (r < 0) {
		(void)os_unlink(dirfd, name);
		os_close(fd);
		return r;
	}
	l = xcalloc(1, sizeof(*l));
	l->dirfd = dirfd;
	l->fd = fd;
	memcpy(l->name, name, sizeof(l->name));
	l->sum = checksum_stream_new(id);
	*out = l;
	return 0;
}

int
large_append(struct large *l, struct span bytes)
{
	struct span rest = bytes;

	if (l->broken)
		return -EIO;
	while (rest.len > 0) {
		struct iovec iov = { (void *)(uintptr_t)rest.data, rest.len };
		ssize_t n = os_pwritev(l->fd, &iov, 1, l->bytes + (bytes.len - rest.len));

		if (n <= 0) {
			l->broken = true;
			return n < 0 ? (int)n : -EIO;
		}
		rest = span_skip(rest, (size_t)n);
	}
	checksum_stream_add(l->sum, bytes.data, bytes.len);
	l->bytes += bytes.len;
	return 0;
}

uint64_t
large_bytes(const struct large *l)
{
	return l->bytes;
}

uint64_t
large_checksum(const struct large *l)
{
	return checksum_stream_value(l->sum);
}

int
large_sync(struct large *l)
{
	int r;

	if (l->broken)
		return -EIO;
	r = os_fsync(l->fd);
	if (r < 0) {
		l->broken = true;
		return r;
	}
	return segment_sync_subdirectory(l->dirfd, "large"); /* the name is data too */
}

void
large_close(struct large *l)
{
	if (l == NULL)
		return;
	os_close(l->fd);
	checksum_stream_free(l->sum);
	free(l);
}

void
large_drop(struct large *l)
{
	if (l == NULL)
		return;
	(void)os_unlink(l->dirfd, l->name); /* what stays is swept away later */
	large_close(l);
}
