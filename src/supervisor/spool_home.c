/* spool_home.c - see spool_home.h. Nothing here follows a symbolic link: as root we would otherwise
 * give away what the link points to. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "spool/segment.h"
#include "supervisor/spool_home.h"

#ifndef NFS_SUPER_MAGIC
#define NFS_SUPER_MAGIC 0x6969
#endif

#define LOCK_WAIT_MS 15000
#define LOCK_MOMENT_MS 50

struct check {
	const char *directory;
	const struct privileges *p;
	config_problem_fn *problem;
	void *arg;
};

PRINTF_LIKE(3, 4)
static int
tell(const struct check *c, int r, const char *fmt, ...)
{
	char text[1024];
	va_list args;
	int len = snprintf(text, sizeof(text), "spool \"%s\": ", c->directory);

	va_start(args, fmt);
	if (len > 0 && (size_t)len < sizeof(text))
		vsnprintf(text + len, sizeof(text) - (size_t)len, fmt, args);
	va_end(args);
	c->problem(c->arg, text);
	return r;
}

/* The name of a directory that we made is data too. */
static int
sync_parent(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *parent = slash == NULL ? xstrdup(".")
	                             : xstrndup(path, slash == path ? 1 : (size_t)(slash - path));
	int r = 0, fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fsync(fd) < 0)
		r = -errno;
	if (fd >= 0)
		close(fd);
	free(parent);
	return r;
}

/* Makes the directory for the service's user if it is missing, and opens it. */
static int
open_directory(const char *path, const struct privileges *p, int *out)
{
	bool made = mkdir(path, 0700) == 0;
	int fd, r;

	if (!made && errno != EEXIST)
		return -errno;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = made && geteuid() == 0 && fchown(fd, p->uid, p->gid) < 0 ? -errno : 0;
	if (r == 0 && made)
		r = sync_parent(path);
	if (r < 0) {
		close(fd);
		return r;
	}
	*out = fd;
	return 0;
}

/* Reading is ended without a word; who could write may have left something behind, and what is his the
 * spool passes over (segment_is_own()). */
static void
close_to_others(const struct check *c, int fd, mode_t mode)
{
	bool is_closed = (mode & 0077) == 0 || fchmod(fd, 0700) == 0;
	char why[128];

	if ((mode & 0022) == 0)
		return;
	snprintf(why, sizeof(why), "mode %04o: others than relayd %s write here, and %s",
	    (unsigned)mode & 07777, is_closed ? "could" : "may",
	    is_closed ? "it is 0700 now" : "it is not ours to change");
	log_warning("config.warned", KV_STR("directory", c->directory), KV_WHY(why),
	    KV_FIX(is_closed ? "look for files of others in it: their mail is not sent"
	                     : "give the directory to relayd's user, mode 0700"));
}

static int
check_owner(const struct check *c, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return tell(c, -errno, "%s", strerror(errno));
	/* a volume that a container's host made as root is fine if we may write it */
	if (st.st_uid != c->p->uid && st.st_uid != 0)
		return tell(c, -EINVAL,
		    "belongs to uid %u (mode %04o), but relayd runs as uid %u: chown -R %u \"%s\"",
		    (unsigned)st.st_uid, (unsigned)st.st_mode & 07777, (unsigned)c->p->uid,
		    (unsigned)c->p->uid, c->directory);
	if (st.st_uid != c->p->uid && c->p->must_drop)
		return tell(c, -EINVAL,
		    "belongs to root (mode %04o), but relayd runs as %s: chown -R %s \"%s\"",
		    (unsigned)st.st_mode & 07777, c->p->name, c->p->name, c->directory);
	if (geteuid() != 0 && faccessat(fd, ".", R_OK | W_OK | X_OK, AT_EACCESS) < 0)
		return tell(c, -errno, "may not be written by uid %u (owner uid %u, mode %04o): %s",
		    (unsigned)geteuid(), (unsigned)st.st_uid, (unsigned)st.st_mode & 07777,
		    strerror(errno));
	close_to_others(c, fd, st.st_mode);
	return 0;
}

static void
check_file_system(const struct check *c, int fd)
{
	/* clang-format off */
	static const struct {
		unsigned long magic;
		const char *name, *why;
	} doubtful[] = {
		{ TMPFS_MAGIC, "tmpfs", "the spool is in memory: a reboot or power cut loses accepted mail" },
		{ RAMFS_MAGIC, "ramfs", "the spool is in memory: a reboot or power cut loses accepted mail" },
		{ OVERLAYFS_SUPER_MAGIC, "overlay", "the spool is in the container's own layer: it is lost with the container" },
		{ NFS_SUPER_MAGIC, "nfs", "locks and syncs are only as good as the file server's" },
	};
	/* clang-format on */
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return;
	for (size_t i = 0; i < ARRAY_LEN(doubtful); i++)
		if ((unsigned long)fs.f_type == doubtful[i].magic)
			log_warning("config.warned", KV_STR("directory", c->directory),
			    KV_STR("file_system", doubtful[i].name), KV_WHY(doubtful[i].why),
			    KV_FIX("put spool { directory } on a local disk or a volume"));
}

/* The relayd that wrote its number into the lock; 0: nobody can tell, the file is a new one. */
static pid_t
holder_of(int lock_fd)
{
	char text[32] = "";
	ssize_t len = pread(lock_fd, text, sizeof(text) - 1, 0);

	text[len > 0 ? len : 0] = '\0';
	return (pid_t)strtol(text, NULL, 10);
}

static bool
is_alive(pid_t pid)
{
	return pid > 0 && (kill(pid, 0) == 0 || errno != ESRCH);
}

/* The file says who has it and works over NFS, but somebody may remove it; the directory itself is locked as
 * well, where the file system can do that. */
static int
lock(int dir_fd, int fd)
{
	struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (fcntl(fd, F_OFD_SETLK, &whole) < 0)
		return errno == EACCES ? -EAGAIN : -errno;
	if (flock(dir_fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
		whole.l_type = F_UNLCK;
		(void)fcntl(fd, F_OFD_SETLK, &whole);
		return -EAGAIN;
	}
	return 0;
}

/* Workers hold the lock with their relayd. When that was killed they end by themselves within
 * moments; until then intake may still write the spool, and nobody else may read or free it. */
static int
lock_or_wait(const struct check *c, int dir_fd, int fd)
{
	static const struct timespec moment = { .tv_nsec = LOCK_MOMENT_MS * 1000000L };
	pid_t holder = 0;
	int r;

	for (unsigned waited_ms = 0; waited_ms <= LOCK_WAIT_MS; waited_ms += LOCK_MOMENT_MS) {
		r = lock(dir_fd, fd);
		if (r == 0)
			return 0;
		if (r != -EAGAIN)
			return tell(c, r, "cannot lock: %s", strerror(-r));
		holder = holder_of(fd);
		if (is_alive(holder))
			return tell(c, -EBUSY,
			    "another relayd (pid %ld) uses it: stop that one first", (long)holder);
		nanosleep(&moment, NULL);
	}
	if (holder == 0)
		return tell(c, -EBUSY,
		    "another relayd uses it (its file \"lock\", which says which, was removed), or "
		    "some program holds a lock on the directory (fuser -v \"%s\"): stop that one "
		    "first",
		    c->directory);
	return tell(c, -EBUSY,
	    "another relayd (pid %ld, killed or not to be seen from here) or a worker of it still "
	    "uses it, or some program holds a lock on the directory (fuser -v \"%s\"): stop that "
	    "one "
	    "first",
	    (long)holder, c->directory);
}

static int
take_lock(const struct check *c, int dir_fd, int *out)
{
	struct stat st;
	char pid[32];
	int fd, len, r;

	fd = openat(dir_fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 && (errno == ELOOP || errno == EISDIR || errno == ENXIO || errno == ENODEV))
		return tell(c, -EINVAL, "lock is not a file of its own: remove it");
	if (fd < 0)
		return tell(c, -errno, "cannot open lock: %s", strerror(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1) {
		r = tell(c, -EINVAL, "lock is not a file of its own: remove it");
		goto fail;
	}
	r = lock_or_wait(c, dir_fd, fd);
	if (r < 0)
		goto fail;
	len = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
	if ((geteuid() == 0 && fchown(fd, c->p->uid, c->p->gid) < 0) || ftruncate(fd, 0) < 0 ||
	    pwrite(fd, pid, (size_t)len, 0) != len) {
		r = tell(c, errno != 0 ? -errno : -EIO, "cannot write lock: %s", strerror(errno));
		goto fail;
	}
	*out = fd;
	return 0;
fail:
	close(fd);
	return r;
}

int
spool_home_open(const struct config *config, const struct privileges *p, config_problem_fn *problem,
    void *arg, struct spool_home *out)
{
	struct check c = { config->spool.directory, p, problem, arg };
	int dir_fd = -1, lock_fd = -1, r;

	r = open_directory(c.directory, p, &dir_fd);
	if (r == -ELOOP || r == -ENOTDIR)
		return tell(&c, -EINVAL,
		    "is not a directory, or a symbolic link to one: name the directory "
		    "itself in spool { directory }");
	if (r < 0)
		return tell(&c, r,
		    "cannot be made or opened: %s (systemd-tmpfiles --create relayd.conf "
		    "makes the packaged one)",
		    strerror(-r));
	r = check_owner(&c, dir_fd);
	if (r == 0)
		r = take_lock(&c, dir_fd, &lock_fd);
	if (r < 0)
		goto fail;
	check_file_system(&c, dir_fd);
	*out = (struct spool_home){ .dir_fd = dir_fd, .lock_fd = lock_fd };
	return 0;
fail:
	close(dir_fd);
	return r;
}

/* Bodies and what is set aside go through its name: it has to be a directory, and nobody else's. */
static int
check_subdirectory(const struct check *c, int dir_fd, const char *name)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), r = 0;
	struct stat st;

	if (fd < 0 && (errno == ELOOP || errno == ENOTDIR))
		return tell(c, -EINVAL,
		    "\"%s\" in it is not a directory, or a symbolic link to one: move it away",
		    name);
	if (fd < 0 || fstat(fd, &st) < 0)
		r = tell(c, -errno, "\"%s\" in it cannot be opened: %s", name, strerror(errno));
	else if (!segment_is_own(dir_fd, &st))
		r = tell(c, -EINVAL, "\"%s\" in it belongs to uid %u (mode %04o): move it away",
		    name, (unsigned)st.st_uid, (unsigned)st.st_mode & 07777);
	else if ((st.st_mode & 0022) != 0 && fchmod(fd, 0700) < 0)
		r = tell(c, -EINVAL,
		    "\"%s\" in it may be written by others (mode %04o): chmod 700 it", name,
		    (unsigned)st.st_mode & 07777);
	if (fd >= 0)
		close(fd);
	return r;
}

int
spool_home_prepare(const struct spool_home *home, const struct config *config,
    config_problem_fn *problem, void *arg)
{
	struct check c = { config->spool.directory, NULL, problem, arg };
	int r = segment_prepare_directory(home->dir_fd);

	if (r < 0)
		return tell(&c, r, "cannot be put in order: %s", strerror(-r));
	r = check_subdirectory(&c, home->dir_fd, "large");
	return r == 0 ? check_subdirectory(&c, home->dir_fd, "quarantine") : r;
}

void
spool_home_close(struct spool_home *home)
{
	if (home->lock_fd >= 0)
		close(home->lock_fd);
	if (home->dir_fd >= 0)
		close(home->dir_fd);
	*home = (struct spool_home){ .dir_fd = -1, .lock_fd = -1 };
}
