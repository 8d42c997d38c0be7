/* os.h - the operating system under the spool: files, directories, clocks, memory. One object file
 * of its own and nothing but these functions in it, so that a test that defines all of them replaces
 * them at link time (tests/unit/os_disk.c): the N-th call fails, a power cut forgets what was not
 * synced, the clock is set back. So spool/ calls nothing of libc that these stand for, and nothing
 * that works with stored times reads a clock but from here (tests/lint/check-os).
 *
 * Calls return a value >= 0, or -errno; they go on by themselves after EINTR. None of them retries
 * anything else, and none hides a short write. */
#ifndef RELAYD_BASE_OS_H
#define RELAYD_BASE_OS_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/base.h"

struct os_room {
	uint64_t free_bytes; /* for us, not for root */
	uint64_t all_bytes;  /* how big it is */
	uint64_t free_files; /* UINT64_MAX: the file system does not count them */
};

/* openat() with O_CLOEXEC, O_NOFOLLOW and O_NOCTTY added. Gives a descriptor. */
int os_open(int dirfd, const char *name, int flags, mode_t mode) MUST_CHECK;
int os_close(int fd); /* never a point of durability */
ssize_t os_pwritev(int fd, const struct iovec *iov, int n, uint64_t offset) MUST_CHECK;
ssize_t os_pread(int fd, void *buf, size_t len, uint64_t offset) MUST_CHECK;
int os_fdatasync(int fd) MUST_CHECK;
int os_fsync(
    int fd) MUST_CHECK; /* files and directories; a directory's EINVAL counts as done (F2) */
int os_fallocate(int fd, uint64_t offset, uint64_t len) MUST_CHECK; /* allocates blocks */
int os_truncate(int fd, uint64_t len) MUST_CHECK;
/* Drops clean cached pages, so that the next read sees the disk (F7, F8). A hint: fails quietly. */
void os_drop_cache(int fd);
int os_fstat(int fd, struct stat *st) MUST_CHECK;
/* Renames inside one directory; -EEXIST if `to` is there (an existing file is never replaced). */
int os_rename(int dirfd, const char *from, const char *to) MUST_CHECK;
int os_unlink(int dirfd, const char *name); /* some of what goes away is only room */
int os_mkdir(int dirfd, const char *name, mode_t mode) MUST_CHECK;
/* Calls `each` for each name but "." and ".." (in no order) until it returns non-zero, and returns
 * that, 0 at the end, or -errno. */
int os_list(int dirfd, int (*each)(void *arg, const char *name), void *arg) MUST_CHECK;
/* Takes a write lock (F_OFD_SETLK) on the whole file: it goes away with the open file. -EAGAIN:
 * somebody else has it. */
int os_lock(int fd) MUST_CHECK;
int os_is_locked(int fd) MUST_CHECK; /* 1: by another open file; 0: free */
int os_room(int dirfd, struct os_room *out) MUST_CHECK;
int os_random(void *buf, size_t len) MUST_CHECK;

uint64_t os_now_ms(void);  /* CLOCK_REALTIME, since 1970: for what is stored and shown */
uint64_t os_boot_ms(void); /* CLOCK_BOOTTIME: for waiting; never goes back */
uint64_t os_boot_us(void);
/* A condition, and to wait on it for at most that long (or until it is signalled, or for no reason). */
void os_condition_init(pthread_cond_t *condition);
void os_condition_wait(pthread_cond_t *condition, pthread_mutex_t *lock, uint64_t most_us);

/* A descriptor that is readable once it was set (eventfd): how one thread wakes the loop of another,
 * intake delivery. Closed with os_close(). */
int os_event_open(void) MUST_CHECK;
void os_event_set(int fd); /* -1: does nothing. Never blocks. */
void os_event_clear(int fd);

/* What a peer, or the number of messages, can make large comes from here; NULL: refuse. Freed with
 * free(). (Small bounded things come from xcalloc(): without memory for those the process ends and is
 * started again, which is a crash like any other, I4.) */
void *os_alloc(size_t len);
void *os_realloc(void *old, size_t len);

#endif
