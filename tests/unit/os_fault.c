/* os_fault.c - see os_fault.h. The real functions are taken from the real file, under other names. */
#include <errno.h>
#include <pthread.h>

#define os_open real_open
#define os_close real_close
#define os_pwritev real_pwritev
#define os_pread real_pread
#define os_fdatasync real_fdatasync
#define os_fsync real_fsync
#define os_fallocate real_fallocate
#define os_rename real_rename
#define os_unlink real_unlink
#define os_drop_cache real_drop_cache
#define os_alloc real_alloc
#define os_realloc real_realloc
#include "../../src/base/os.c"
#undef os_open
#undef os_close
#undef os_pwritev
#undef os_pread
#undef os_fdatasync
#undef os_fsync
#undef os_fallocate
#undef os_rename
#undef os_unlink
#undef os_drop_cache
#undef os_alloc
#undef os_realloc
#include "os_fault.h"

int os_open(int dirfd, const char *name, int flags, mode_t mode);
int os_close(int fd);
ssize_t os_pwritev(int fd, const struct iovec *iov, int n, uint64_t offset);
ssize_t os_pread(int fd, void *buf, size_t len, uint64_t offset);
int os_fdatasync(int fd);
int os_fsync(int fd);
int os_fallocate(int fd, uint64_t offset, uint64_t len);
int os_rename(int dirfd, const char *from, const char *to);
int os_unlink(int dirfd, const char *name);
void os_drop_cache(int fd);
void *os_alloc(size_t len);
void *os_realloc(void *old, size_t len);

#define FDS 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static enum os_fault_call fail_call;
static unsigned fail_nth, counts[OS_FAULT_CALLS], violations;
static int fail_error;
static bool fail_sticky, happened, broken[FDS];

void
os_fault_set(enum os_fault_call call, unsigned nth, int error, bool sticky)
{
	pthread_mutex_lock(&lock);
	fail_call = call;
	fail_nth = nth;
	fail_error = error;
	fail_sticky = sticky;
	happened = false;
	memset(counts, 0, sizeof(counts));
	pthread_mutex_unlock(&lock);
}

void
os_fault_clear(void)
{
	os_fault_set(OS_FAULT_NONE, 0, 0, false);
}

bool
os_fault_has_happened(void)
{
	bool answer;

	pthread_mutex_lock(&lock);
	answer = happened;
	pthread_mutex_unlock(&lock);
	return answer;
}

unsigned
os_fault_count(enum os_fault_call call)
{
	unsigned n;

	pthread_mutex_lock(&lock);
	n = counts[call];
	pthread_mutex_unlock(&lock);
	return n;
}

unsigned
os_fault_violations(void)
{
	return violations;
}

/* Counts a call; its error if it is to fail, else 0. */
static int
count(enum os_fault_call call, int fd, bool must_be_well)
{
	int error = 0;

	pthread_mutex_lock(&lock);
	counts[call]++;
	if (call == fail_call &&
	    (counts[call] == fail_nth || (fail_sticky && counts[call] > fail_nth))) {
		error = fail_error;
		happened = true;
	}
	if (must_be_well && fd >= 0 && fd < FDS) {
		violations += broken[fd];
		broken[fd] |= error != 0;
	}
	pthread_mutex_unlock(&lock);
	return error;
}

int
os_open(int dirfd, const char *name, int flags, mode_t mode)
{
	int error = count(OS_FAULT_OPEN, -1, false);

	return error != 0 ? -error : real_open(dirfd, name, flags, mode);
}

int
os_close(int fd)
{
	pthread_mutex_lock(&lock);
	if (fd >= 0 && fd < FDS)
		broken[fd] = false;
	pthread_mutex_unlock(&lock);
	return real_close(fd);
}

ssize_t
os_pwritev(int fd, const struct iovec *iov, int n, uint64_t offset)
{
	int error = count(OS_FAULT_WRITE, fd, true);
	struct iovec half;

	if (error != 0)
		return -error;
	if (count(OS_FAULT_SHORT_WRITE, -1, false) == 0)
		return real_pwritev(fd, iov, n, offset);
	half = (struct iovec){ iov[0].iov_base, (iov[0].iov_len + 1) / 2 };
	return real_pwritev(fd, &half, 1, offset);
}

ssize_t
os_pread(int fd, void *buf, size_t len, uint64_t offset)
{
	int error = count(OS_FAULT_READ, fd, false);

	return error != 0 ? -error : real_pread(fd, buf, len, offset);
}

int
os_fdatasync(int fd)
{
	int error = count(OS_FAULT_FDATASYNC, fd, true);

	return error != 0 ? -error : real_fdatasync(fd);
}

int
os_fsync(int fd)
{
	int error = count(OS_FAULT_FSYNC, fd, false); /* directories may be tried again */

	return error != 0 ? -error : real_fsync(fd);
}

int
os_fallocate(int fd, uint64_t offset, uint64_t len)
{
	int error = count(OS_FAULT_ALLOCATE, fd, false);

	return error != 0 ? -error : real_fallocate(fd, offset, len);
}

int
os_rename(int dirfd, const char *from, const char *to)
{
	int error = count(OS_FAULT_RENAME, -1, false);

	return error != 0 ? -error : real_rename(dirfd, from, to);
}

int
os_unlink(int dirfd, const char *name)
{
	int error = count(OS_FAULT_UNLINK, -1, false);

	return error != 0 ? -error : real_unlink(dirfd, name);
}

void
os_drop_cache(int fd)
{
	(void)count(OS_FAULT_DROP_CACHE, fd, false);
	real_drop_cache(fd);
}

void *
os_alloc(size_t len)
{
	return count(OS_FAULT_MEMORY, -1, false) != 0 ? NULL : real_alloc(len);
}

void *
os_realloc(void *old, size_t len)
{
	return count(OS_FAULT_MEMORY, -1, false) != 0 ? NULL : real_realloc(old, len);
}
