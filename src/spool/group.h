/* group.h - the bytes of one group on their way into a file: what one fdatasync makes durable (I1). It knows no
 * threads and no policy: what becomes of a file that failed is the writer's matter. */
#ifndef RELAYD_SPOOL_GROUP_H
#define RELAYD_SPOOL_GROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/base.h"
#include "spool/item.h"
#include "spool/record.h"
#include "spool/segment.h"

#define GROUP_IOV_MAX 1024
#define GROUP_COMMIT_BYTES (RECORD_HEADER_BYTES + RECORD_COMMIT_BYTES + 8u)

/* A file that is being written. */
struct spool_file {
	int fd; /* -1: none */
	struct segment_header header;
	struct record_salt salt;
	uint64_t bytes;
	uint64_t end; /* everything before it is durable */
	uint64_t seq; /* of the last record */
};

/* A group on its way to the disk. */
struct group {
	struct iovec iov[GROUP_IOV_MAX];
	int n_iov;
	uint64_t offset; /* in the file, of iov[0] */
	uint64_t first_seq, last_seq;
	uint32_t count;
	uint64_t chain;
	int error;
	const char *operation;
	uint64_t error_offset;
	uint8_t commit[GROUP_COMMIT_BYTES];
};

/* Do so many bytes of records, and the COMMIT, fit behind what is there? */
bool group_fits(const struct spool_file *f, uint64_t bytes_of_records);

void group_start(struct group *g, const struct spool_file *f);
/* Fills header and trailer of the record, which is borrowed until the commit. */
void group_add_record(struct group *g, const struct spool_file *f, struct spool_record *record);
/* Adds COMMIT and padding, writes, syncs. 0: everything of the group is durable. -errno: g->operation and
 * g->error_offset tell what failed, and the file must not be touched again (I5). */
int group_commit(struct group *g, struct spool_file *f, uint64_t bytes_of_records) MUST_CHECK;
/* A group of one record of the writer's own. -ENOSPC: it does not fit, and the file is as it was. */
int group_commit_single(struct group *g, struct spool_file *f, uint8_t type, uint8_t flags,
    const void *payload, uint32_t len) MUST_CHECK;

#endif
