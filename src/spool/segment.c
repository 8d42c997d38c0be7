#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "spool/checksum.h"
#include "spool/segment.h"

#define ZEROS_BYTES (256u << 10)
#define NUMBER_MOST (UINT32_MAX - 65536u) /* room for what is looked for above it */

static const struct {
	const char *before, *after;
	enum segment_name_kind kind;
} names[] = {
	{ "intake-", ".seg", SEGMENT_NAME_INTAKE },
	{ "delivery-", ".seg", SEGMENT_NAME_DELIVERY },
	{ "journal-", ".log", SEGMENT_NAME_JOURNAL },
	{ "prep-", ".seg", SEGMENT_NAME_PREP },
	{ "free-", ".seg", SEGMENT_NAME_FREE },
};

static void
print_name(enum segment_name_kind kind, uint32_t number, char out[SEGMENT_NAME_MAX])
{
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (names[i].kind == kind)
			snprintf(out, SEGMENT_NAME_MAX, "%s%u%s", names[i].before, number,
			    names[i].after);
}

void
segment_name(enum segment_kind kind, uint32_t number, char out[SEGMENT_NAME_MAX])
{
	static const enum segment_name_kind of[] = { SEGMENT_NAME_INTAKE, SEGMENT_NAME_DELIVERY,
		SEGMENT_NAME_JOURNAL };

	print_name(of[kind], number, out);
}

void
segment_free_name(uint32_t number, char out[SEGMENT_NAME_MAX])
{
	print_name(SEGMENT_NAME_FREE, number, out);
}

void
segment_prep_name(uint32_t number, char out[SEGMENT_NAME_MAX])
{
	print_name(SEGMENT_NAME_PREP, number, out);
}

/* Decimal, no leading zero, up to UINT32_MAX; returns what follows, NULL: no number. */
static const char *
parse_number(const char *s, uint32_t *number)
{
	uint64_t n = 0;
	const char *p;

	for (p = s; *p >= '0' && *p <= '9' && p - s < 10; p++)
		n = n * 10 + (uint64_t)(*p - '0');
	if (p == s || (*s == '0') || n > UINT32_MAX)
		return NULL;
	*number = (uint32_t)n;
	return p;
}

enum segment_name_kind
segment_parse_name(const char *name, uint32_t *number)
{
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		size_t before = strlen(names[i].before);
		const char *rest;
		uint32_t n;

		if (strncmp(name, names[i].before, before) != 0)
			continue;
		rest = parse_number(name + before, &n);
		if (rest == NULL || strcmp(rest, names[i].after) != 0)
			return SEGMENT_NAME_OTHER;
		*number = n;
		return names[i].kind;
	}
	return SEGMENT_NAME_OTHER;
}

void
segment_put_header(const struct segment_header *h, uint8_t out[RECORD_BLOCK])
{
	memset(out, 0, RECORD_BLOCK);
	memcpy(out, SEGMENT_MAGIC, 8);
	record_put_u32(out + 8, h->kind);
	record_put_u32(out + 12, h->number);
	memcpy(out + 16, h->salt, RECORD_SALT_BYTES);
	record_put_u64(out + 32, h->created_ms);
	record_put_u32(out + 40, h->flags);
	record_put_u32(out + 44, h->blocks);
	record_put_u64(out + 48, checksum(out, 48, 0));
}

int
segment_get_header(const uint8_t in[RECORD_BLOCK], struct segment_header *h)
{
	uint32_t kind = record_get_u32(in + 8);

	if (memcmp(in, SEGMENT_MAGIC, 7) != 0)
		return -EBADMSG;
	if (record_get_u64(in + 48) != checksum(in, 48, 0))
		return -EBADMSG;
	if (in[7] != SEGMENT_MAGIC[7])
		return -EPROTONOSUPPORT;
	if (kind > SEGMENT_JOURNAL)
		return -EBADMSG;
	h->kind = (enum segment_kind)kind;
	h->number = record_get_u32(in + 12);
	memcpy(h->salt, in + 16, RECORD_SALT_BYTES);
	h->created_ms = record_get_u64(in + 32);
	h->flags = record_get_u32(in + 40);
	h->blocks = record_get_u32(in + 44);
	h->is_copy = false;
	return 0;
}

struct listing {
	enum segment_name_kind kind;
	uint32_t *numbers;
	size_t n;
	uint32_t highest;
};

static int
on_name(void *arg, const char *name)
{
	struct listing *l = arg;
	uint32_t number;
	enum segment_name_kind kind = segment_parse_name(name, &number);

	if (kind == SEGMENT_NAME_OTHER)
		return 0;
	if (number > l->highest)
		l->highest = number;
	if (kind == l->kind) {
		l->numbers = xrealloc(l->numbers, l->n + 1, sizeof(uint32_t));
		l->numbers[l->n++] = number;
	}
	return 0;
}

static int
compare_numbers(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

int
segment_list(int dirfd, enum segment_name_kind kind, uint32_t **numbers, size_t *n)
{
	struct listing l = { .kind = kind };
	int r;

	r = os_list(dirfd, on_name, &l);
	if (r < 0) {
		free(l.numbers);
		return r;
	}
	if (l.n > 1)
		qsort(l.numbers, l.n, sizeof(uint32_t), compare_numbers);
	*numbers = l.numbers;
	*n = l.n;
	return 0;
}

static int
write_all(int fd, const void *data, size_t len, uint64_t offset)
{
	const char *p = data;

	while (len > 0) {
		struct iovec iov = { (void *)(uintptr_t)p, len };
		ssize_t n = os_pwritev(fd, &iov, 1, offset);

		if (n <= 0)
			return n < 0 ? (int)n : -EIO;
		p += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

static int
write_zeros(int fd, uint64_t bytes)
{
	char *zeros;
	int r;

	r = os_fallocate(fd, 0, bytes);
	if (r < 0 && r != -EOPNOTSUPP && r != -ENOSYS && r != -EINVAL)
		return r; /* a full disk shows here, before anything is written */
	zeros = xcalloc(1, ZEROS_BYTES);
	r = 0;
	for (uint64_t at = 0; at < bytes && r == 0; at += ZEROS_BYTES)
		r = write_all(fd, zeros, bytes - at < ZEROS_BYTES ? bytes - at : ZEROS_BYTES, at);
	free(zeros);
	return r;
}

/* The next number for that kind that nobody uses, above `least`. */
static uint32_t
fit_number(enum segment_kind kind, uint32_t least)
{
	if (kind != SEGMENT_JOURNAL && (least & 1) != (uint32_t)kind)
		least++;
	return least;
}

void
segment_abandon(int dirfd, const char *name, uint32_t number)
{
	struct listing all = { .kind = SEGMENT_NAME_OTHER };
	char to[SEGMENT_NAME_MAX];
	int fd;

	if (os_list(dirfd, on_name, &all) < 0)
		return;
	segment_free_name(number, to);
	if (all.highest <= number) {
		fd = os_open(dirfd, to, O_RDWR | O_CREAT, 0600);
		if (fd < 0)
			return;
		os_close(fd);
	}
	(void)os_unlink(dirfd, name);
}

/* Takes a used file for prep-N.seg; returns its descriptor, or -errno: none to take; -EEXIST: not by
 * that number. If it is not of that size it is emptied, and *flags says so: its name is needed, for
 * its number. */
static int
recycle(int dirfd, const char *prep, uint32_t number, uint64_t bytes, uint32_t *flags)
{
	char name[SEGMENT_NAME_MAX];
	uint32_t *numbers;
	struct stat st;
	int fd, r;
	size_t n;

	r = segment_list(dirfd, SEGMENT_NAME_FREE, &numbers, &n);
	if (r < 0)
		return r;
	r = -ENOENT;
	if (n > 0) {
		print_name(SEGMENT_NAME_FREE, numbers[0], name);
		r = os_rename(dirfd, name, prep);
	}
	free(numbers);
	if (r < 0)
		return r;
	*flags = SEGMENT_RECYCLED;
	/* As far as the disk knows it may still be a segment by name: that has to end before anything is
	 * written to it, or a power cut would leave a damaged one. */
	r = os_fsync(dirfd);
	fd = r == 0 ? os_open(dirfd, prep, O_RDWR | O_NONBLOCK, 0) : r;
	if (fd >= 0) {
		r = os_fstat(fd, &st);
		if (r == 0 &&
		    (!S_ISREG(st.st_mode) || st.st_nlink != 1 || !segment_is_own(dirfd, &st)))
			r = -EINVAL; /* somebody else knows it by another name, or holds it open */
		if (r == 0 && (uint64_t)st.st_size != bytes) {
			*flags = 0;
			r = os_truncate(fd, 0);
		}
		if (r == 0)
			return fd;
		os_close(fd);
	}
	segment_abandon(dirfd, prep, number);
	return -EEXIST;
}

/* Fills the file and makes its content durable. */
static int
fill(int fd, struct segment_header *h, uint64_t bytes)
{
	uint8_t block[RECORD_BLOCK];
	int r = 0;

	h->created_ms = os_now_ms();
	h->blocks = (uint32_t)(bytes / RECORD_BLOCK);
	r = os_random(h->salt, sizeof(h->salt));
	if (r < 0)
		return r;
	if (!(h->flags & SEGMENT_RECYCLED))
		r = write_zeros(fd, bytes);
	if (r < 0)
		return r;
	segment_put_header(h, block);
	r = write_all(fd, block, sizeof(block), 0);
	if (r == 0)
		r = write_all(fd, block, sizeof(block), bytes - RECORD_BLOCK);
	return r < 0 ? r : os_fsync(fd);
}

static void
drop(int dirfd, const char *name, uint32_t number, bool was_free)
{
	if (was_free)
		segment_abandon(dirfd, name, number);
	else
		(void)os_unlink(dirfd, name);
}

/* Claims a number: prep-N.seg is there, N is in no other name of this kind. Gives its descriptor. */
static int
claim(
    int dirfd, uint64_t bytes, uint32_t least, struct segment_header *h, char *prep, bool *was_free)
{
	char name[SEGMENT_NAME_MAX];
	uint32_t number = fit_number(h->kind, least);
	int fd, other;

	for (int i = 0; i < 64; i++, number = fit_number(h->kind, number + 1)) {
		print_name(SEGMENT_NAME_PREP, number, prep);
		fd = recycle(dirfd, prep, number, bytes, &h->flags);
		*was_free = fd >= 0;
		if (fd < 0 && fd != -EEXIST) {
			h->flags = 0;
			fd = os_open(dirfd, prep, O_RDWR | O_CREAT | O_EXCL, 0600);
		}
		if (fd == -EEXIST)
			continue;
		if (fd < 0)
			return fd;
		segment_name(h->kind, number, name);
		other = os_open(dirfd, name, O_RDONLY | O_NONBLOCK, 0);
		if (other == -ENOENT) {
			h->number = number;
			return fd;
		}
		os_close(fd);
		if (other >= 0)
			os_close(other);
		drop(dirfd, prep, number, *was_free);
	}
	return -EEXIST;
}

/* The next number whose slot can be taken. */
static uint32_t
number_with_slot(struct shared_page *page, enum segment_kind kind, uint32_t number)
{
	for (unsigned i = 0; page != NULL && i < SHARED_PAGE_SLOTS; i++) {
		struct shared_slot *slot = shared_page_slot(page, number);

		uint32_t state = atomic_load(&slot->state);

		if (state == SHARED_SLOT_FREE)
			break;
		if (i + 1 >= SHARED_PAGE_SLOTS / 2 && /* no free one: a sealed one then */
		    state != SHARED_SLOT_LIVE && !shared_slot_is_taken(state))
			break;
		number = fit_number(kind, number + 1);
	}
	return number;
}

int
segment_create(int dirfd, enum segment_kind kind, uint64_t bytes, struct shared_page *page,
    struct segment_header *header, int *out)
{
	struct listing all = { .kind = SEGMENT_NAME_OTHER };
	struct segment_header h = { .kind = kind };
	char prep[SEGMENT_NAME_MAX], name[SEGMENT_NAME_MAX];
	const char *called = prep;
	uint32_t least;
	bool slot = false, was_free;
	int fd, r;

	if (kind == SEGMENT_JOURNAL)
		page = NULL;
	bytes = (bytes + RECORD_BLOCK - 1) / RECORD_BLOCK * RECORD_BLOCK;
	r = os_list(dirfd, on_name, &all);
	if (r < 0)
		return r;
	if (all.highest > NUMBER_MOST)
		return -EOVERFLOW; /* no clock says that: a file that is not ours */
	least = (uint32_t)(os_now_ms() / 1000);
	if (least > NUMBER_MOST || least <= all.highest)
		least = all.highest + 1;
	least = number_with_slot(page, kind, fit_number(kind, least));
	fd = claim(dirfd, bytes, least, &h, prep, &was_free);
	if (fd < 0)
		return fd;
	segment_name(kind, h.number, name);
	r = fill(fd, &h, bytes);
	if (r < 0)
		goto fail;
	if (page != NULL && !(slot = shared_page_take_slot(page, h.number, RECORD_BLOCK, true))) {
		r = -EBUSY;
		goto fail;
	}
	r = os_rename(dirfd, prep, name);
	if (r < 0)
		goto fail;
	called = name;
	r = os_fsync(dirfd); /* the name is data too (F2) */
	if (r < 0)
		goto fail;
	*header = h;
	*out = fd;
	return 0;
fail:
	drop(dirfd, called, h.number, was_free);
	if (slot)
		atomic_store(&shared_page_slot(page, h.number)->state, SHARED_SLOT_FREE);
	os_close(fd);
	return r;
}

ssize_t
segment_pread(int fd, void *buf, size_t len, uint64_t offset)
{
	ssize_t n = os_pread(fd, buf, len, offset);

	return n < 0 ? os_pread(fd, buf, len, offset) : n;
}

int
segment_read_most(int fd, void *buf, size_t len, uint64_t offset, size_t *got)
{
	*got = 0;
	while (*got < len) {
		ssize_t n = segment_pread(fd, (char *)buf + *got, len - *got, offset + *got);

		if (n <= 0)
			return (int)n;
		*got += (size_t)n;
	}
	return 0;
}

static int
read_header_at(int fd, uint64_t offset, struct segment_header *header)
{
	uint8_t block[RECORD_BLOCK];
	size_t got;
	int r;

	r = segment_read_most(fd, block, sizeof(block), offset, &got);
	if (r < 0)
		return r;
	return got < sizeof(block) ? -EBADMSG : segment_get_header(block, header);
}

/* The first block, or else its copy at the end. */
static int
read_header(
    int fd, enum segment_kind kind, uint32_t number, uint64_t size, struct segment_header *h)
{
	int r, first;

	first = read_header_at(fd, 0, h);
	if (first == 0 && h->kind == kind && h->number == number)
		return 0;
	if (first == -EPROTONOSUPPORT)
		return first;
	if (first == 0)
		first = -EBADMSG; /* another file under this name */
	if (size < 2 * RECORD_BLOCK || size % RECORD_BLOCK != 0)
		return first;
	r = read_header_at(fd, size - RECORD_BLOCK, h);
	if (r < 0)
		return r == -EBADMSG ? first : r;
	if (h->kind != kind || h->number != number)
		return first;
	h->is_copy = true;
	return 0;
}

/* The directory's owner and root put files into the spool. What another user has put there, while it
 * was open to him, is no accepted mail. In a directory of root's (a volume of a container) nobody can
 * tell. */
bool
segment_is_own(int dirfd, const struct stat *st)
{
	struct stat directory;

	return st->st_uid == 0 || os_fstat(dirfd, &directory) < 0 || directory.st_uid == 0 ||
	       directory.st_uid == st->st_uid;
}

bool
segment_is_strange(int r)
{
	return r == -EINVAL || r == -ELOOP || r == -ENXIO || r == -ENODEV || r == -EPERM;
}

/* It may not be read: if it is of another user that is his business. */
static int
why_unreadable(int dirfd, const char *name)
{
	struct stat st;
	int fd = os_open(dirfd, name, O_PATH, 0), r = -EACCES;

	if (fd < 0)
		return r;
	if (os_fstat(fd, &st) == 0 && !segment_is_own(dirfd, &st))
		r = -EPERM;
	os_close(fd);
	return r;
}

int
segment_open(int dirfd, enum segment_kind kind, uint32_t number, bool distrust,
    struct segment_header *header, int *out, int *sync_error)
{
	struct segment_header h = { 0 };
	char name[SEGMENT_NAME_MAX];
	struct stat st;
	int fd, r, synced = 0;

	*out = -1;
	segment_name(kind, number, name);
	fd = os_open(dirfd, name, O_RDONLY | O_NONBLOCK, 0);
	if (fd == -EACCES)
		return why_unreadable(dirfd, name);
	if (fd < 0)
		return fd;
	r = os_fstat(fd, &st);
	if (r == 0 && !S_ISREG(st.st_mode))
		r = -EINVAL; /* a FIFO, a directory: nothing of ours */
	if (r == 0 && !segment_is_own(dirfd, &st))
		r = -EPERM;
	if (r < 0) {
		os_close(fd);
		return r;
	}
	if (distrust) {
		synced = os_fsync(fd);
		os_drop_cache(fd);
	}
	if (sync_error != NULL)
		*sync_error = -synced;
	r = read_header(fd, kind, number, (uint64_t)st.st_size, &h);
	*out = fd;
	if (r == 0)
		*header = h;
	return r;
}

int
segment_prepare_directory(int dirfd)
{
	static const char *const subdirectories[] = { "large", "quarantine" };
	char name[SEGMENT_NAME_MAX], to[SEGMENT_NAME_MAX];
	struct listing all = { .kind = SEGMENT_NAME_OTHER };
	uint32_t *numbers;
	size_t n;
	int r;

	for (size_t i = 0; i < ARRAY_LEN(subdirectories); i++) {
		r = os_mkdir(dirfd, subdirectories[i], 0700);
		if (r < 0 && r != -EEXIST)
			return r;
	}
	r = os_list(dirfd, on_name, &all);
	if (r == 0)
		r = segment_list(dirfd, SEGMENT_NAME_PREP, &numbers, &n);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		print_name(SEGMENT_NAME_PREP, numbers[i], name);
		segment_free_name(numbers[i], to);
		/* Recycled from the one with the highest number it is that number's only trace. */
		if (numbers[i] == all.highest && os_rename(dirfd, name, to) == 0)
			continue;
		(void)os_unlink(dirfd, name); /* only room is lost if it stays */
	}
	free(numbers);
	return os_fsync(dirfd);
}

int
segment_sync_subdirectory(int dirfd, const char *name)
{
	int fd, r;

	fd = os_open(dirfd, name, O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return fd;
	r = os_fsync(fd);
	os_close(fd);
	return r;
}
