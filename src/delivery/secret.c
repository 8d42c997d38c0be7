/* secret.c - see secret.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/worker.h"
#include "delivery/secret.h"

#define SECRET_ROOM (2 * WORKER_PASSWORD_MAX)

struct secret {
	const struct config_upstream *upstream;
	char *path; /* NULL: no file */
	char *page; /* SECRET_ROOM bytes, locked */
	size_t len;
	bool has;
	struct timespec ctime; /* of the file that was read: chmod counts too */
	ino_t inode;
	off_t size;
	char why[512], fix[512], warning[512];
};

static char *
path_of(const struct config_upstream *u)
{
	const char *directory = getenv("CREDENTIALS_DIRECTORY");

	if (u->password_file != NULL)
		return xstrdup(u->password_file);
	if (u->password_credential == NULL)
		return NULL;
	return xasprintf("%s/%s", directory != NULL ? directory : "/run/credentials/relayd.service",
	    u->password_credential);
}

struct secret *
secret_new(const struct config_upstream *upstream)
{
	struct secret *s = xcalloc(1, sizeof(*s));

	s->upstream = upstream;
	s->path = path_of(upstream);
	s->page =
	    mmap(NULL, SECRET_ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s->page == MAP_FAILED)
		s->page = xcalloc(1, SECRET_ROOM); /* unlocked beats undelivered */
	else if (mlock(s->page, SECRET_ROOM) < 0 ||
	         madvise(s->page, SECRET_ROOM, MADV_DONTDUMP) < 0)
		(void)s; /* limits of a container: it is still wiped and never printed */
	snprintf(s->why, sizeof(s->why), "password-command has not answered yet");
	return s;
}

void
secret_free(struct secret *s)
{
	if (s == NULL)
		return;
	wipe(s->page, SECRET_ROOM);
	/* whether it is mapped or allocated does not matter any more: the process is about to end */
	free(s->path);
	free(s);
}

static int
fail(struct secret *s, int error, const char *why, const char *fix)
{
	s->has = false;
	wipe(s->page, SECRET_ROOM);
	s->len = 0;
	snprintf(s->why, sizeof(s->why), "%s", why);
	snprintf(s->fix, sizeof(s->fix), "%s", fix);
	return error;
}

static const char *
setting(const struct secret *s)
{
	return s->upstream->password_file != NULL ? "password-file" : "password-credential";
}

static int
fail_file(struct secret *s, int error, const char *what, const char *fix)
{
	char why[400];

	snprintf(why, sizeof(why), "%s %.300s: %s", setting(s), s->path, what);
	return fail(s, error, why, fix);
}

/* Somebody else's file, or one that others may write, is not ours to believe. */
static int
check_owner(struct secret *s, const struct stat *st)
{
	char fix[400];

	s->warning[0] = '\0';
	if (!S_ISREG(st->st_mode))
		return fail_file(
		    s, -EINVAL, "not a regular file", "name a file that holds the password");
	if (st->st_uid != 0 && st->st_uid != geteuid()) {
		snprintf(fix, sizeof(fix), "chown root %.300s", s->path);
		return fail_file(s, -EPERM, "it belongs to another user", fix);
	}
	if ((st->st_mode & (S_IWGRP | S_IWOTH)) != 0) {
		snprintf(fix, sizeof(fix), "chmod 640 %.300s", s->path);
		return fail_file(s, -EPERM, "others may write it", fix);
	}
	if ((st->st_mode & S_IROTH) != 0)
		snprintf(s->warning, sizeof(s->warning),
		    "every local user may read %s %.300s: chmod 640 it", setting(s), s->path);
	return 0;
}

static bool
is_same(const struct secret *s, const struct stat *st)
{
	return st->st_ino == s->inode && st->st_size == s->size &&
	       st->st_ctim.tv_sec == s->ctime.tv_sec && st->st_ctim.tv_nsec == s->ctime.tv_nsec;
}

static int
read_file(struct secret *s)
{
	struct stat st;
	ssize_t n;
	int fd, r;

	fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0) {
		r = -errno;
		memset(&s->ctime, 0, sizeof(s->ctime));
		s->inode = 0;
		return fail_file(s, r, strerror(-r),
		    "write the password into this file, readable for the user that relayd runs as");
	}
	if (fstat(fd, &st) < 0) {
		r = -errno;
		goto out;
	}
	s->inode = st.st_ino;
	s->size = st.st_size;
	s->ctime = st.st_ctim;
	r = check_owner(s, &st);
	if (r < 0)
		goto out;
	n = read(fd, s->page, SECRET_ROOM);
	if (n < 0 || n > WORKER_PASSWORD_MAX) {
		r = fail_file(s, n < 0 ? -errno : -E2BIG,
		    n < 0 ? strerror(errno) : "more than 8 KiB: this is no password", "");
		goto out;
	}
	if (n > 0 && s->page[n - 1] == '\n') /* one, and no more: the rest may be meant */
		n--;
	s->len = (size_t)n;
	s->has = true;
	r = n > 0 ? 0 : fail_file(s, -ENODATA, "it is empty", "write the password into this file");
out:
	close(fd);
	return r;
}

int
secret_get(struct secret *s, struct span *out)
{
	struct stat st;
	int r;

	if (s->path != NULL && (!s->has || stat(s->path, &st) < 0 || !is_same(s, &st))) {
		r = read_file(s);
		if (r < 0)
			return r;
	}
	if (!s->has && s->upstream->password_command != NULL)
		return -EAGAIN;
	*out = s->has ? (struct span){ s->page, s->len } : (struct span){ NULL, 0 };
	return 0;
}

const char *
secret_why(const struct secret *s)
{
	return s->why;
}

const char *
secret_fix(const struct secret *s)
{
	return s->fix;
}

const char *
secret_warning(const struct secret *s)
{
	return s->warning;
}

bool
secret_set(struct secret *s, int status, struct span bytes)
{
	char why[200];

	if (status != 0 || bytes.len == 0 || bytes.len > WORKER_PASSWORD_MAX) {
		if (status > 0)
			snprintf(
			    why, sizeof(why), "password-command ended with exit code %d", status);
		else if (status < 0)
			snprintf(why, sizeof(why), "password-command: %s", strerror(-status));
		else
			snprintf(why, sizeof(why), "password-command printed nothing");
		/* the old one may still be good: it is kept until there is a better one */
		if (!s->has)
			(void)fail(
			    s, -EIO, why, "run the command by hand as the user of the service");
		return false;
	}
	if (s->has && span_equals(bytes, (struct span){ s->page, s->len }))
		return false;
	wipe(s->page, SECRET_ROOM);
	memcpy(s->page, bytes.data, bytes.len);
	s->len = bytes.len;
	s->has = true;
	return true;
}

bool
secret_is_command(const struct secret *s)
{
	return s->upstream->password_command != NULL;
}

bool
secret_has_changed(const struct secret *s)
{
	struct stat st;

	if (s->path == NULL)
		return false;
	if (stat(s->path, &st) < 0)
		return s->inode != 0;
	return !is_same(s, &st);
}
