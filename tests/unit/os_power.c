/* os_power.c - see os_power.h. */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

#define os_open real_open
#define os_pwritev real_pwritev
#define os_fdatasync real_fdatasync
#define os_fsync real_fsync
#define os_rename real_rename
#define os_unlink real_unlink
#include "../../src/base/os.c"
#undef os_open
#undef os_pwritev
#undef os_fdatasync
#undef os_fsync
#undef os_rename
#undef os_unlink
#include "os_power.h"

int os_open(int dirfd, const char *name, int flags, mode_t mode);
ssize_t os_pwritev(int fd, const struct iovec *iov, int n, uint64_t offset);
int os_fdatasync(int fd);
int os_fsync(int fd);
int os_rename(int dirfd, const char *from, const char *to);
int os_unlink(int dirfd, const char *name);

#define SECTOR 512u

struct pending_write {
	uint64_t offset;
	size_t len;
	uint8_t *data;
};

struct file {
	ino_t inode;
	uint8_t *durable;
	size_t durable_len;
	struct pending_write *writes;
	size_t n_writes;
};

struct name {
	char path[64];
	struct file *file;
};

struct names {
	struct name *list;
	size_t n;
};

/* A change of names: `from` goes (if not ""), `to` comes (if not ""). */
struct pending_name {
	char from[64], to[64];
	struct file *file;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local bool is_checking;
static bool is_watching;
static void (*check_fn)(void *arg);
static void *check_arg;
static ino_t directories[3]; /* root, large, quarantine */
static struct file **files;
static size_t n_files;
static struct names current, durable;
static struct pending_name *pending;
static size_t n_pending;
static unsigned fail_in, chance;

static bool
is_watched(void)
{
	return is_watching && !is_checking;
}

static ino_t
inode_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? st.st_ino : 0;
}

static struct file *
file_of(int fd)
{
	ino_t inode = inode_of(fd);

	for (size_t i = n_files; i > 0; i--)
		if (files[i - 1]->inode == inode)
			return files[i - 1];
	return NULL;
}

static struct file *
find(const struct names *names, const char *path)
{
	for (size_t i = 0; i < names->n; i++)
		if (strcmp(names->list[i].path, path) == 0)
			return names->list[i].file;
	return NULL;
}

static void
change(struct names *names, const char *from, const char *to, struct file *file)
{
	for (size_t i = 0; *from != '\0' && i < names->n; i++)
		if (strcmp(names->list[i].path, from) == 0)
			names->list[i--] = names->list[--names->n];
	for (size_t i = 0; *to != '\0' && i < names->n; i++)
		if (strcmp(names->list[i].path, to) == 0)
			names->list[i--] = names->list[--names->n];
	if (*to == '\0')
		return;
	names->list = realloc(names->list, (names->n + 1) * sizeof(*names->list));
	snprintf(names->list[names->n].path, sizeof(names->list[0].path), "%s", to);
	names->list[names->n++].file = file;
}

static void
note_name(const char *from, const char *to, struct file *file)
{
	struct pending_name *p;

	change(&current, from, to, file);
	pending = realloc(pending, (n_pending + 1) * sizeof(*pending));
	p = &pending[n_pending++];
	snprintf(p->from, sizeof(p->from), "%s", from);
	snprintf(p->to, sizeof(p->to), "%s", to);
	p->file = file;
}

static int
directory_of(const char *path)
{
	return strncmp(path, "large/", 6) == 0 ? 1 : strncmp(path, "quarantine/", 11) == 0 ? 2 : 0;
}

static void
sync_names(int directory)
{
	size_t n = 0;

	for (size_t i = 0; i < n_pending; i++) {
		const struct pending_name *p = &pending[i];
		const char *path = p->to[0] != '\0' ? p->to : p->from;

		if (directory_of(path) == directory)
			change(&durable, p->from, p->to, p->file);
		else
			pending[n++] = *p;
	}
	n_pending = n;
}

static void
drop_writes(struct file *f)
{
	for (size_t i = 0; i < f->n_writes; i++)
		free(f->writes[i].data);
	f->n_writes = 0;
}

static void
sync_file(struct file *f, int fd)
{
	struct stat st;

	assert(fstat(fd, &st) == 0);
	f->durable_len = (size_t)st.st_size;
	f->durable = realloc(f->durable, f->durable_len + 1);
	assert(pread(fd, f->durable, f->durable_len, 0) == (ssize_t)f->durable_len);
	drop_writes(f);
}

static void
run_check(void)
{
	is_checking = true;
	check_fn(check_arg);
	is_checking = false;
}

int
os_open(int dirfd, const char *name, int flags, mode_t mode)
{
	struct file *f;
	int fd;

	if (!is_watched() || !(flags & O_CREAT))
		return real_open(dirfd, name, flags, mode);
	pthread_mutex_lock(&lock);
	fd = real_open(dirfd, name, flags, mode);
	if (fd >= 0 && find(&current, name) == NULL) {
		f = calloc(1, sizeof(*f));
		f->inode = inode_of(fd);
		files = realloc(files, (n_files + 1) * sizeof(*files));
		files[n_files++] = f;
		note_name("", name, f);
	}
	pthread_mutex_unlock(&lock);
	return fd;
}

ssize_t
os_pwritev(int fd, const struct iovec *iov, int n, uint64_t offset)
{
	struct file *f;
	ssize_t written;

	if (!is_watched())
		return real_pwritev(fd, iov, n, offset);
	pthread_mutex_lock(&lock);
	written = real_pwritev(fd, iov, n, offset);
	f = file_of(fd);
	if (written > 0 && f != NULL) {
		struct pending_write *w;

		f->writes = realloc(f->writes, (f->n_writes + 1) * sizeof(*w));
		w = &f->writes[f->n_writes++];
		w->offset = offset;
		w->len = (size_t)written;
		w->data = malloc(w->len);
		assert(pread(fd, w->data, w->len, (off_t)offset) == written);
	}
	pthread_mutex_unlock(&lock);
	return written;
}

int
os_fdatasync(int fd)
{
	int r = 0;

	if (!is_watched())
		return real_fdatasync(fd);
	pthread_mutex_lock(&lock);
	run_check();
	if (fail_in > 0 && --fail_in == 0)
		r = -EIO;
	else if (file_of(fd) != NULL)
		sync_file(file_of(fd), fd);
	run_check();
	pthread_mutex_unlock(&lock);
	return r;
}

int
os_fsync(int fd)
{
	ino_t inode = inode_of(fd);
	bool is_directory = false;

	if (!is_watched())
		return real_fsync(fd);
	pthread_mutex_lock(&lock);
	run_check();
	for (int i = 0; i < 3; i++)
		if (directories[i] == inode) {
			sync_names(i);
			is_directory = true;
		}
	if (!is_directory && file_of(fd) != NULL)
		sync_file(file_of(fd), fd);
	run_check();
	pthread_mutex_unlock(&lock);
	return 0;
}

int
os_rename(int dirfd, const char *from, const char *to)
{
	int r;

	if (!is_watched())
		return real_rename(dirfd, from, to);
	pthread_mutex_lock(&lock);
	r = real_rename(dirfd, from, to);
	if (r == 0)
		note_name(from, to, find(&current, from));
	pthread_mutex_unlock(&lock);
	return r;
}

int
os_unlink(int dirfd, const char *name)
{
	int r;

	if (!is_watched())
		return real_unlink(dirfd, name);
	pthread_mutex_lock(&lock);
	r = real_unlink(dirfd, name);
	if (r == 0)
		note_name(name, "", NULL);
	pthread_mutex_unlock(&lock);
	return r;
}

static bool
is_kept(enum os_power_luck luck, bool is_name)
{
	if (luck == OS_POWER_CHANCE) {
		chance = chance * 1103515245u + 12345u;
		return chance >> 16 & 1;
	}
	return luck == OS_POWER_ALL_KEPT ||
	       luck == (is_name ? OS_POWER_NAMES_KEPT : OS_POWER_WRITES_KEPT);
}

static void
put_file(const struct file *f, enum os_power_luck luck, int fd)
{
	static const uint8_t zeros[4096];

	assert(ftruncate(fd, (off_t)f->durable_len) == 0);
	for (size_t at = 0; at < f->durable_len; at += sizeof(zeros)) { /* holes are quicker */
		size_t len =
		    f->durable_len - at < sizeof(zeros) ? f->durable_len - at : sizeof(zeros);

		if (memcmp(f->durable + at, zeros, len) != 0)
			assert(pwrite(fd, f->durable + at, len, (off_t)at) == (ssize_t)len);
	}
	for (size_t i = 0; i < f->n_writes; i++) {
		const struct pending_write *w = &f->writes[i];

		for (size_t at = 0; at < w->len;) {
			size_t piece = SECTOR - (w->offset + at) % SECTOR;

			if (luck != OS_POWER_CHANCE || piece > w->len - at)
				piece = luck != OS_POWER_CHANCE ? w->len : w->len - at;
			if (is_kept(luck, false))
				assert(pwrite(fd, w->data + at, piece, (off_t)(w->offset + at)) ==
				       (ssize_t)piece);
			at += piece;
		}
	}
}

void
os_power_image(enum os_power_luck luck, unsigned seed, int into_dirfd)
{
	struct names names = { 0 };

	chance = seed;
	for (size_t i = 0; i < durable.n; i++)
		change(&names, "", durable.list[i].path, durable.list[i].file);
	for (size_t i = 0; i < n_pending; i++)
		if (is_kept(luck, true))
			change(&names, pending[i].from, pending[i].to, pending[i].file);
	for (size_t i = 0; i < names.n; i++) {
		int fd;

		if (names.list[i].file == NULL)
			continue;
		fd = openat(into_dirfd, names.list[i].path, O_RDWR | O_CREAT | O_TRUNC, 0600);
		assert(fd >= 0);
		put_file(names.list[i].file, luck, fd);
		close(fd);
	}
	free(names.list);
}

void
os_power_watch(int dirfd, void (*check)(void *arg), void *arg)
{
	static const char *const subdirectories[] = { "large", "quarantine" };

	directories[0] = inode_of(dirfd);
	for (int i = 0; i < 2; i++) {
		int fd = openat(dirfd, subdirectories[i], O_RDONLY | O_DIRECTORY);

		directories[i + 1] = inode_of(fd);
		close(fd);
	}
	for (size_t i = 0; i < n_files; i++) {
		drop_writes(files[i]);
		free(files[i]->writes);
		free(files[i]->durable);
		free(files[i]);
	}
	n_files = current.n = durable.n = n_pending = 0;
	fail_in = 0;
	check_fn = check;
	check_arg = arg;
	is_watching = true;
}

void
os_power_stop(void)
{
	is_watching = false;
}

void
os_power_fail_sync(unsigned n)
{
	pthread_mutex_lock(&lock);
	fail_in = n;
	pthread_mutex_unlock(&lock);
}
