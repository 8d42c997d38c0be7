/* large.h - a body over the inline limit: large/ID, written as its bytes come in. Durable only when
 * the writer (writer.h) has taken it with its message: it syncs the file and large/ before the record
 * that names it. While it is open the file is locked, so that a sweep knows it from one that a
 * crash left. */
#ifndef RELAYD_SPOOL_LARGE_H
#define RELAYD_SPOOL_LARGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "base/span.h"

#define LARGE_INLINE_MAX (256u << 10) /* a body up to here stands in the segment */

#define LARGE_NAME_MAX 20 /* "large/", an ID, NUL */

struct large;

void large_name(uint64_t id, char out[LARGE_NAME_MAX]); /* in the spool directory */

/* Creates large/ID. Borrows dirfd (the spool directory) as long as it lives. */
int large_create(int dirfd, uint64_t id, struct large **out) MUST_CHECK;
/* After a failure each later call returns -EIO. */
int large_append(struct large *l, struct span bytes) MUST_CHECK;
uint64_t large_bytes(const struct large *l);
uint64_t large_checksum(const struct large *l); /* of what was appended: envelope.body_checksum */
/* Ends it unsent: closes and unlinks. NULL is fine. */
void large_drop(struct large *l);

/* For the writer's thread: makes file and name durable; closes it. -errno: not durable. */
int large_sync(struct large *l) MUST_CHECK;
void large_close(struct large *l); /* keeps the file. NULL is fine */

#endif
