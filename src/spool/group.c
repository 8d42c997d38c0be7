/* group.c - see group.h. */
#include <assert.h>
#include <errno.h>

#include "base/os.h"
#include "spool/group.h"

static const uint8_t zeros[RECORD_BLOCK];

bool
group_fits(const struct spool_file *f, uint64_t bytes_of_records)
{
	return f->end + bytes_of_records + GROUP_COMMIT_BYTES <= f->bytes;
}

void
group_start(struct group *g, const struct spool_file *f)
{
	g->n_iov = 0;
	g->offset = f->end;
	g->first_seq = f->seq + 1;
	g->last_seq = f->seq;
	g->count = 0;
	g->chain = f->salt.payload;
	g->error = 0;
}

/* Writes what is gathered. Goes on after a short write; after an error nothing is written any more. */
static void
group_flush(struct group *g, const struct spool_file *f)
{
	struct iovec *iov = g->iov;
	int n = g->n_iov;

	g->n_iov = 0;
	while (g->error == 0 && n > 0) {
		ssize_t written = os_pwritev(f->fd, iov, n, g->offset);

		if (written <= 0) {
			g->error = written < 0 ? (int)written : -EIO;
			g->operation = "write";
			g->error_offset = g->offset;
			return;
		}
		g->offset += (uint64_t)written;
		while (n > 0 && (size_t)written >= iov->iov_len) {
			written -= (ssize_t)iov->iov_len;
			iov++;
			n--;
		}
		if (n > 0) {
			iov->iov_base = (char *)iov->iov_base + written;
			iov->iov_len -= (size_t)written;
		}
	}
}

static void
group_add(struct group *g, const struct spool_file *f, const void *data, size_t len)
{
	if (len == 0)
		return;
	if (g->n_iov == GROUP_IOV_MAX)
		group_flush(g, f);
	g->iov[g->n_iov++] = (struct iovec){ (void *)(uintptr_t)data, len };
}

void
group_add_record(struct group *g, const struct spool_file *f, struct spool_record *record)
{
	struct record_header h = { .type = record->type,
		.flags = record->flags,
		.payload_bytes = record->payload_bytes,
		.seq = g->last_seq + 1 };
	uint64_t sum;

	record_put_header(&h, f->salt, record->header);
	sum = record_payload_checksum(&h, f->salt, record->iov, record->n_iov);
	record->trailer_bytes = (uint8_t)record_put_trailer(&h, sum, record->trailer);
	group_add(g, f, record->header, RECORD_HEADER_BYTES);
	for (int i = 0; i < record->n_iov; i++)
		group_add(g, f, record->iov[i].iov_base, record->iov[i].iov_len);
	group_add(g, f, record->trailer, record->trailer_bytes);
	g->chain = record_chain(g->chain, h.checksum, sum);
	g->last_seq++;
	g->count++;
}

/* Somebody has removed the file: what is written to it is durable only as long as we have it open. */
static bool
is_removed(const struct spool_file *f)
{
	struct stat st;

	return os_fstat(f->fd, &st) == 0 && st.st_nlink == 0;
}

/* Adds COMMIT and padding, writes, syncs. 0: everything of the group is durable (I1). */
int
group_commit(struct group *g, struct spool_file *f, uint64_t bytes_of_records)
{
	struct record_commit commit = { g->first_seq, g->last_seq, g->count, g->chain };
	struct record_header h = {
		.type = RECORD_COMMIT, .payload_bytes = RECORD_COMMIT_BYTES, .seq = g->last_seq + 1
	};
	struct iovec payload = { g->commit + RECORD_HEADER_BYTES, RECORD_COMMIT_BYTES };
	uint64_t end = f->end + bytes_of_records + GROUP_COMMIT_BYTES;
	uint64_t padded = (end + RECORD_BLOCK - 1) / RECORD_BLOCK * RECORD_BLOCK;

	record_put_header(&h, f->salt, g->commit);
	record_put_commit(&commit, g->commit + RECORD_HEADER_BYTES);
	record_put_u64(g->commit + RECORD_HEADER_BYTES + RECORD_COMMIT_BYTES,
	    record_payload_checksum(&h, f->salt, &payload, 1));
	group_add(g, f, g->commit, GROUP_COMMIT_BYTES);
	group_add(g, f, zeros, padded - end);
	group_flush(g, f);
	if (g->error == 0) {
		g->error = os_fdatasync(f->fd);
		g->operation = "sync";
		g->error_offset = f->end;
	}
	if (g->error == 0 && is_removed(f))
		g->error = -ENOENT;
	if (g->error != 0)
		return g->error;
	assert(g->offset == padded);
	f->end = padded;
	f->seq = g->last_seq + 1;
	return 0;
}

/* A group of one record that is ours. */
int
group_commit_single(struct group *g, struct spool_file *f, uint8_t type, uint8_t flags,
    const void *payload, uint32_t len)
{
	struct spool_record record = { .type = type, .flags = flags, .payload_bytes = len };

	if (f->end + record_bytes(len) + GROUP_COMMIT_BYTES > f->bytes)
		return -ENOSPC;
	record.one = (struct iovec){ (void *)(uintptr_t)payload, len };
	record.iov = &record.one;
	record.n_iov = len > 0 ? 1 : 0;
	group_start(g, f);
	group_add_record(g, f, &record);
	return group_commit(g, f, record_bytes(len));
}
