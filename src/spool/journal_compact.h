/* journal_compact.h - for the writer's thread: rewriting the journals (journal.h). */
#ifndef RELAYD_SPOOL_JOURNAL_COMPACT_H
#define RELAYD_SPOOL_JOURNAL_COMPACT_H

#include <stddef.h>
#include <stdint.h>

#include "base/base.h"

/* Writes what lives of all journals below number `below` with `put` (a SNAPSHOT first, then OUTCOMEs, then a
 * NULL payload: everything must be durable when that returns 0), then unlinks those journals and syncs the directory.
 * *bytes: what was written. On failure nothing is unlinked. */
int journal_compact(int dirfd, uint32_t below,
    int (*put)(void *arg, uint8_t type, const void *payload, size_t len), void *arg,
    uint64_t *bytes) MUST_CHECK;

/* The size of all journals together; 0 if that cannot be told. */
uint64_t journal_bytes_on_disk(int dirfd);

#endif
