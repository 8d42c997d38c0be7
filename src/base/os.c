#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/os.h"

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#endif

#define AGAIN(r, call)                                                                             \
	do {                                                                                       \
		(r) = (call);                                                                      \
	} while ((r) < 0 && errno == EINTR)

int
os_open(int dirfd, const char *name, int flags, mode_t mode)
{
	int fd;

	AGAIN(fd, openat(dirfd, name, flags | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, mode));
	return fd < 0 ? -errno : fd;
}

int
os_close(int fd)
{
	return close(fd) < 0 ? -errno : 0; /* no retry: after EINTR the descriptor is gone */
}

ssize_t
os_pwritev(int fd, const struct iovec *iov, int n, uint64_t offset)
{
	ssize_t r;

	AGAIN(r, pwritev(fd, iov, n, (off_t)offset));
	return r < 0 ? -errno : r;
}

ssize_t
os_pread(int fd, void *buf, size_t len, uint64_t offset)
{
	ssize_t r;

	AGAIN(r, pread(fd, buf, len, (off_t)offset));
	return r < 0 ? -errno : r;
}

int
os_fdatasync(int fd)
{
	/* Even EINTR is not tried again: what it did to the pages is not told (I5). */
	return fdatasync(fd) < 0 ? -errno : 0;
}

int
os_fsync(int fd)
{
	struct stat st;
	int r;

	if (fsync(fd) == 0)
		return 0;
	r = -errno;
	if (r == -EINVAL && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
		return 0; /* this file system has nothing to sync there */
	return r;
}

int
os_fallocate(int fd, uint64_t offset, uint64_t len)
{
	int r;

	AGAIN(r, fallocate(fd, 0, (off_t)offset, (off_t)len));
	return r < 0 ? -errno : 0;
}

int
os_truncate(int fd, uint64_t len)
{
	int r;

	AGAIN(r, ftruncate(fd, (off_t)len));
	return r < 0 ? -errno : 0;
}

void
os_drop_cache(int fd)
{
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

int
os_fstat(int fd, struct stat *st)
{
	return fstat(fd, st) < 0 ? -errno : 0;
}

int
os_rename(int dirfd, const char *from, const char *to)
{
	if (renameat2(dirfd, from, dirfd, to, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;
	/* A file system without RENAME_NOREPLACE: a second name that must not be there yet, then the
	 * first one away. */
	if (linkat(dirfd, from, dirfd, to, 0) < 0)
		return -errno;
	return unlinkat(dirfd, from, 0) < 0 ? -errno : 0;
}

int
os_unlink(int dirfd, const char *name)
{
	return unlinkat(dirfd, name, 0) < 0 ? -errno : 0;
}

int
os_mkdir(int dirfd, const char *name, mode_t mode)
{
	return mkdirat(dirfd, name, mode) < 0 ? -errno : 0;
}

int
os_list(int dirfd, int (*each)(void *arg, const char *name), void *arg)
{
	struct dirent *entry;
	int fd, r = 0;
	DIR *dir;

	fd = os_open(dirfd, ".", O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return fd;
	dir = fdopendir(fd);
	if (dir == NULL) {
		r = -errno;
		os_close(fd);
		return r;
	}
	while (r == 0) {
		errno = 0;
		entry = readdir(dir);
		if (entry == NULL) {
			r = -errno;
			break;
		}
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			r = each(arg, entry->d_name);
	}
	closedir(dir);
	return r;
}

int
os_lock(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	return errno == EACCES ? -EAGAIN : -errno;
}

int
os_is_locked(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
		return -errno;
	return lock.l_type != F_UNLCK;
}

int
os_room(int dirfd, struct os_room *out)
{
	struct statvfs vfs;
	int r;

	AGAIN(r, fstatvfs(dirfd, &vfs));
	if (r < 0)
		return -errno;
	out->free_bytes = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	out->all_bytes = (uint64_t)vfs.f_blocks * vfs.f_frsize;
	out->free_files = vfs.f_files == 0 ? UINT64_MAX : vfs.f_favail;
	return 0;
}

int
os_random(void *buf, size_t len)
{
	size_t got = 0;

	while (got < len) {
		ssize_t r = getrandom((char *)buf + got, len - got, 0);

		if (r < 0 && errno != EINTR)
			return -errno;
		if (r > 0)
			got += (size_t)r;
	}
	return 0;
}

static uint64_t
clock_us(clockid_t clock)
{
	struct timespec ts;

	if (clock_gettime(clock, &ts) < 0)
		return 0;
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

uint64_t
os_now_ms(void)
{
	return clock_us(CLOCK_REALTIME) / 1000u;
}

uint64_t
os_boot_ms(void)
{
	return clock_us(CLOCK_BOOTTIME) / 1000u;
}

uint64_t
os_boot_us(void)
{
	return clock_us(CLOCK_BOOTTIME);
}

void
os_condition_init(pthread_cond_t *condition)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(condition, &attr);
	pthread_condattr_destroy(&attr);
}

void
os_condition_wait(pthread_cond_t *condition, pthread_mutex_t *lock, uint64_t most_us)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(most_us / 1000000);
	until.tv_nsec += (long)(most_us % 1000000) * 1000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	(void)pthread_cond_timedwait(condition, lock, &until);
}

int
os_event_open(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

void
os_event_set(int fd)
{
	uint64_t one = 1;
	ssize_t n;

	if (fd < 0)
		return;
	AGAIN(n, write(fd, &one, sizeof(one))); /* EAGAIN: it is readable already */
}

void
os_event_clear(int fd)
{
	uint64_t count;
	ssize_t n;

	AGAIN(n, read(fd, &count, sizeof(count))); /* EAGAIN: it was not set */
}

void *
os_alloc(size_t len)
{
	return malloc(len);
}

void *
os_realloc(void *old, size_t len)
{
	return realloc(old, len);
}
