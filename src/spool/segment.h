/* segment.h - the files of the spool directory: their names, numbers, first block, and how one comes
 * to life. (Records and groups: record.h. Writing: writer.h. Reading: reader.h.)
 *
 *   intake-N.seg    messages, written by one intake process     N is even
 *   delivery-N.seg  messages, written by one delivery process   N is odd
 *   journal-N.log   outcomes, written by one delivery process   numbers of their own
 *   prep-N.seg      being prepared, holds nothing yet
 *   free-N.seg      done with, may be recycled; the two highest N are kept, so that numbers never
 *                   go back, whatever the clock does
 *   large/ID        the body of a large message
 *   quarantine/     damaged bytes
 *
 * N in decimal. A new number is the clock's seconds or the highest number in the directory + 1,
 * whichever is more (made even or odd). The kind follows from the number: a message's place is
 * told by {segment number, offset} alone.
 *
 * The first block (4096 bytes), and once more the same in the last one: without the salt nothing in a
 * file can be told from a forgery, so one bad block must not take it away.
 *        0      8  "RLYDSEG1" (the digit is the version)
 *        8      4  kind: 0 intake, 1 delivery, 2 journal
 *       12      4  number
 *       16     16  salt
 *       32      8  created, ms since 1970
 *       40      4  flags: bit 0 "recycled": bytes after the last group are left from before; without
 *                  it they are zeros
 *       44      4  size of the file in bytes / 4096
 *       48      8  XXH3_64 of bytes 0..47, seed 0
 *       56         zeros
 *
 * Life: prep-N.seg (created, or renamed from free-M.seg: then the directory is synced first) gets its
 * first block and its full size, written and not only allocated; fsync; rename to its name; fsync of the directory. Only then it is used. */
#ifndef RELAYD_SPOOL_SEGMENT_H
#define RELAYD_SPOOL_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/base.h"
#include "spool/record.h"
#include "spool/shared_page.h"

#define SEGMENT_MAGIC "RLYDSEG1"
#define SEGMENT_NAME_MAX 32
#define SEGMENT_RECYCLED 1u
#define SEGMENT_BYTES_LEAST                                                                        \
	(64u << 10) /* the config asks for more; bodies up to 256 KiB must fit */
#define SEGMENT_BYTES_MOST (1u << 30)

enum segment_kind { SEGMENT_INTAKE = 0, SEGMENT_DELIVERY = 1, SEGMENT_JOURNAL = 2 };

/* Where a message stands: its ENVELOPE record. Offset 0: nowhere. */
struct spool_location {
	uint32_t segment;
	uint32_t offset;
};

struct segment_header {
	enum segment_kind kind;
	uint32_t number;
	uint8_t salt[RECORD_SALT_BYTES];
	uint64_t created_ms;
	uint32_t flags;
	uint32_t blocks;
	bool is_copy; /* the first block is damaged, this is the last one (not stored) */
};

/* Where groups end at the latest. */
static inline uint64_t
segment_end(const struct segment_header *h)
{
	return h->blocks > 1 ? (uint64_t)(h->blocks - 1) * RECORD_BLOCK : 0;
}

enum segment_name_kind {
	SEGMENT_NAME_OTHER,
	SEGMENT_NAME_INTAKE,
	SEGMENT_NAME_DELIVERY,
	SEGMENT_NAME_JOURNAL,
	SEGMENT_NAME_PREP,
	SEGMENT_NAME_FREE,
};

static inline enum segment_kind
segment_kind_of(uint32_t number) /* of a message segment */
{
	return number & 1 ? SEGMENT_DELIVERY : SEGMENT_INTAKE;
}

void segment_name(enum segment_kind kind, uint32_t number, char out[SEGMENT_NAME_MAX]);
void segment_free_name(uint32_t number, char out[SEGMENT_NAME_MAX]);
void segment_prep_name(uint32_t number, char out[SEGMENT_NAME_MAX]);
enum segment_name_kind segment_parse_name(const char *name, uint32_t *number);

void segment_put_header(const struct segment_header *h, uint8_t out[RECORD_BLOCK]);
/* -EBADMSG: not a segment, or damaged; -EPROTONOSUPPORT: a newer version. */
int segment_get_header(const uint8_t in[RECORD_BLOCK], struct segment_header *h) MUST_CHECK;

/* Makes a new file of `bytes` (rounded up to a block), ready for writing: sized, zeroed or recycled,
 * durable by name and content. Gives the descriptor (opened for reading and writing). If `page` is
 * given, a message segment's slot is taken: LIVE with RECORD_BLOCK committed bytes, before its name
 * appears. On failure nothing is left but segment_abandon()'s free-N.seg, or perhaps a prep-N.seg, which
 * the next start takes away. */
int segment_create(int dirfd, enum segment_kind kind, uint64_t bytes, struct shared_page *page,
    struct segment_header *header, int *fd) MUST_CHECK;

/* What was to become segment N, now called `name`, goes. If no name has a higher number an empty free-N.seg
 * takes its place, and where none can be made it stays as it is: it is the only trace of that number. Not
 * the file itself, it may have failed (I5). */
void segment_abandon(int dirfd, const char *name, uint32_t number);

/* Opens an existing one for reading and reads its header. With `distrust` it is fsynced and its
 * cached pages are dropped first, so that what is read is what the disk holds (F8); a failing fsync
 * is not the end of reading, *sync_error (may be NULL) tells it. -ENOENT; -EBADMSG: first and last
 * block are damaged, or another errno if they cannot be read (*fd is given nevertheless; it is -1 after
 * all failures before that). What is no file of ours is told by segment_is_strange(). */
int segment_open(int dirfd, enum segment_kind kind, uint32_t number, bool distrust,
    struct segment_header *header, int *fd, int *sync_error) MUST_CHECK;

/* Is this the error of something in the place of a segment that is none (a link, a FIFO, a socket, a file
 * of another user)? It is passed over; another error may be the disk's, or ours. */
bool segment_is_strange(int r);
/* May a file in the spool directory be believed, as far as its owner goes? */
bool segment_is_own(int dirfd, const struct stat *st);

/* os_pread() that tries once more after an error: a read may do that, unlike a write or a sync. */
ssize_t segment_pread(int fd, void *buf, size_t len, uint64_t offset) MUST_CHECK;
/* As much of `len` as there is: less at the end of the file only. -errno: what lies behind cannot be read;
 * *got tells, then as well, how much could. */
int segment_read_most(int fd, void *buf, size_t len, uint64_t offset, size_t *got) MUST_CHECK;

/* The spool directory as relayd needs it: makes large/ and quarantine/ (0700) where missing, syncs
 * the directory, takes away prep-*.seg left by a crash. For the supervisor, while it holds the lock
 * and no worker runs. */
int segment_prepare_directory(int dirfd) MUST_CHECK;
/* Makes the names in large/ or quarantine/ durable. -errno. */
int segment_sync_subdirectory(int dirfd, const char *name) MUST_CHECK;

/* Numbers of all files of that kind (free and prep have kinds too), ascending. Gives an array
 * (free()) of *n. */
int segment_list(int dirfd, enum segment_name_kind kind, uint32_t **numbers, size_t *n) MUST_CHECK;

#endif
