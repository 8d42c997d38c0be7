/* writer.h - group commit. One writer per process and kind; its thread alone touches its files, so a
 * disk that hangs stops no event loop. Everything that waits goes out in one write and one fdatasync. What
 * comes while nothing is under way goes at once. After a group of several the writer waits for half as long as
 * that took, so that those who were just answered are in the next one with the rest; a journal's, for whose
 * outcomes nobody waits, after each for as long, at least 1 ms. Never for more than 5 ms.
 *
 * A caller prepares an item, submits it, and hears its result in its own thread, from
 * spool_writer_dispatch():
 *        0       durable (I1): say 250. location tells where
 *        -EAGAIN it is not in the spool and never will be (nothing was written, or it was revoked,
 *                durably): say 451
 *        -EIO    nobody knows: say nothing, close the connection
 *        -EMSGSIZE it can never fit in a segment: say 552
 * -EAGAIN and -EIO mean that the spool has failed, unless spool_writer_is_failed() says that it already
 * works again.
 *
 * After any error of write or sync the file is never written or synced again (I5). The failed group
 * is revoked in the next file. (A journal's group is written again there instead: an outcome
 * is a fact, and saying it twice does no harm. So an outcome's result is 0 or -EIO; keep it and submit
 * it again when spool_writer_is_failed() is false.) When the next file fails as well the writer is
 * failed: it answers -EAGAIN at once, without touching the disk, and tries a new file by itself after
 * 1 s, doubling to 10 s. */
#ifndef RELAYD_SPOOL_WRITER_H
#define RELAYD_SPOOL_WRITER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "base/config.h"
#include "base/os.h"
#include "base/span.h"
#include "spool/item.h"
#include "spool/segment.h"
#include "spool/shared_page.h"

struct spool_writer;

/* Told in the caller's thread by dispatch, for the log (F12). */
enum spool_report_kind {
	SPOOL_REPORT_FAILED, /* a file failed: error, operation, file, offset, items */
	SPOOL_REPORT_DOWN, /* no file can be written: mail is refused until SPOOL_REPORT_RECOVERED */
	SPOOL_REPORT_RECOVERED, /* it works again */
	SPOOL_REPORT_COMPACTED, /* journal: bytes before and after */
};

struct spool_report {
	enum spool_report_kind kind;
	int error;             /* errno, positive */
	const char *operation; /* "write", "sync", "create", "revoke": a literal */
	char file[SEGMENT_NAME_MAX];
	uint64_t offset;
	unsigned revoked; /* items answered -EAGAIN */
	unsigned unknown; /* items answered -EIO */
	uint64_t bytes_before, bytes_after;
};

struct spool_writer_options {
	int dirfd; /* the spool directory, borrowed until close */
	enum segment_kind kind;
	uint64_t segment_bytes;   /* 0: 16 MiB */
	struct shared_page *page; /* NULL: publish nothing. Borrowed until close. */
	int wake_fd; /* eventfd to write after publishing, -1: none. Borrowed until close. */
	void (*report)(void *arg, const struct spool_report *report); /* NULL: tell nothing */
	void *report_arg;
};

/* Makes its first file before it returns, so that a spool that cannot be written is found out at
 * start: -errno then. Only where there is no room (ENOSPC, EDQUOT) it begins as a writer that has
 * failed: there will be some when delivery has freed what is done. Starts the thread (signals blocked in
 * it). */
int spool_writer_open(
    const struct spool_writer_options *options, struct spool_writer **out) MUST_CHECK;
/* Waits for everything submitted, runs its done() callbacks, marks the file clean, ends the thread.
 * Waits for the disk, however long. NULL is fine. */
void spool_writer_close(struct spool_writer *w);

int spool_writer_fd(const struct spool_writer *w); /* readable: call dispatch */
/* Runs done() of what has a result, and reports. Callbacks may submit; they must not close. */
void spool_writer_dispatch(struct spool_writer *w);
/* Never blocks and never fails: the item's done() comes from a later dispatch. */
void spool_writer_submit(struct spool_writer *w, struct spool_item *item);

bool spool_writer_is_failed(const struct spool_writer *w); /* refuse mail: 452 4.3.1, 421 */
/* How long the oldest submitted item has been waiting; 0: none waits. A hung disk shows here. */
uint64_t spool_writer_waiting_ms(struct spool_writer *w);
/* A new queue ID (intake, delivery), never given before in this directory. Any thread. 0: there
 * is none until the next segment (16 million were asked for in this one, or there was no room for the
 * first): refuse mail. */
uint64_t spool_writer_next_id(struct spool_writer *w);
/* Room on the file system, at most a second ago, less what was submitted since then. Compare free_bytes
 * with spool.min-free. The thread that submits. */
int spool_writer_room(struct spool_writer *w, struct os_room *out) MUST_CHECK;

/* Is there room for `bytes` with `least_bytes` (spool.min-free) left, and for some files? */
static inline bool
spool_has_room(const struct os_room *room, uint64_t least_bytes, uint64_t bytes)
{
	return room->free_bytes >= least_bytes && room->free_bytes - least_bytes >= bytes &&
	       room->free_files >= CONFIG_FREE_FILES;
}

#endif
