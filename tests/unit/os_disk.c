/* os_disk.c - see os_disk.h. What has nothing to do with a disk (events, the boot clock) is the real
 * thing, taken from the real file under other names. */
#define os_open real_open
#define os_close real_close
#define os_pwritev real_pwritev
#define os_pread real_pread
#define os_fdatasync real_fdatasync
#define os_fsync real_fsync
#define os_fallocate real_fallocate
#define os_truncate real_truncate
#define os_drop_cache real_drop_cache
#define os_fstat real_fstat
#define os_rename real_rename
#define os_unlink real_unlink
#define os_mkdir real_mkdir
#define os_list real_list
#define os_lock real_lock
#define os_is_locked real_is_locked
#define os_room real_room
#define os_random real_random
#define os_now_ms real_now_ms
#define os_boot_ms real_boot_ms
#define os_boot_us real_boot_us
#define os_condition_init real_condition_init
#define os_condition_wait real_condition_wait
#define os_event_open real_event_open
#define os_event_set real_event_set
#define os_event_clear real_event_clear
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
#undef os_truncate
#undef os_drop_cache
#undef os_fstat
#undef os_rename
#undef os_unlink
#undef os_mkdir
#undef os_list
#undef os_lock
#undef os_is_locked
#undef os_room
#undef os_random
#undef os_now_ms
#undef os_boot_ms
#undef os_boot_us
#undef os_condition_init
#undef os_condition_wait
#undef os_event_open
#undef os_event_set
#undef os_event_clear
#undef os_alloc
#undef os_realloc
#undef RELAYD_BASE_OS_H
#include "base/os.h" /* once more, now with the names that we define */

#include <assert.h>
#include <stdatomic.h>

#include "os_disk.h"
#include "spool/record.h"

#define PAGE 4096u
#define SECTOR 512u
#define DISKS 64
#define FILES 4096 /* open at once, on a disk */
#define FD_BASE (1 << 16)
#define PATH 96
#define NOW_MS 1800000000000ull

enum { ROOT, LARGE, QUARANTINE, DIRECTORIES }; /* inodes */

/* --- bytes: pages that disks share until one of them writes ------------------------------------- */

struct page {
	_Atomic unsigned refs;
	uint8_t bytes[PAGE];
};

struct image {
	struct page **pages; /* NULL: zeros */
	size_t n_pages;
	uint64_t size;
};

static void
page_drop(struct page *p)
{
	if (p != NULL && atomic_fetch_sub(&p->refs, 1) == 1)
		free(p);
}

static void
image_free(struct image *im)
{
	for (size_t i = 0; i < im->n_pages; i++)
		page_drop(im->pages[i]);
	free(im->pages);
	*im = (struct image){ 0 };
}

static void
image_copy(struct image *to, const struct image *from)
{
	struct image copy = { .n_pages = from->n_pages, .size = from->size };

	if (copy.n_pages > 0)
		copy.pages = calloc(copy.n_pages, sizeof(*copy.pages));
	for (size_t i = 0; i < copy.n_pages; i++)
		if ((copy.pages[i] = from->pages[i]) != NULL)
			atomic_fetch_add(&copy.pages[i]->refs, 1);
	image_free(to);
	*to = copy;
}

/* The page at `i`, for writing. */
static uint8_t *
image_page(struct image *im, size_t i)
{
	struct page *page, *old;

	if (i >= im->n_pages) {
		im->pages = realloc(im->pages, (i + 1) * sizeof(*im->pages));
		memset(&im->pages[im->n_pages], 0, (i + 1 - im->n_pages) * sizeof(*im->pages));
		im->n_pages = i + 1;
	}
	old = im->pages[i];
	if (old != NULL && atomic_load(&old->refs) == 1)
		return old->bytes;
	page = calloc(1, sizeof(*page));
	atomic_store(&page->refs, 1);
	if (old != NULL)
		memcpy(page->bytes, old->bytes, PAGE);
	page_drop(old);
	im->pages[i] = page;
	return page->bytes;
}

/* Puts bytes there; the size stays what it is. */
static void
image_write(struct image *im, uint64_t offset, const uint8_t *data, size_t len)
{
	static const uint8_t zeros[PAGE];

	while (len > 0) {
		size_t i = (size_t)(offset / PAGE), at = (size_t)(offset % PAGE);
		size_t step = PAGE - at < len ? PAGE - at : len;

		if ((i < im->n_pages && im->pages[i] != NULL) || memcmp(data, zeros, step) != 0)
			memcpy(image_page(im, i) + at, data, step);
		offset += step;
		data += step;
		len -= step;
	}
}

static void
image_read(const struct image *im, uint64_t offset, uint8_t *out, size_t len)
{
	while (len > 0) {
		size_t i = (size_t)(offset / PAGE), at = (size_t)(offset % PAGE);
		size_t step = PAGE - at < len ? PAGE - at : len;

		if (i < im->n_pages && im->pages[i] != NULL)
			memcpy(out, im->pages[i]->bytes + at, step);
		else
			memset(out, 0, step);
		offset += step;
		out += step;
		len -= step;
	}
}

static void
image_resize(struct image *im, uint64_t size)
{
	size_t whole = (size_t)((size + PAGE - 1) / PAGE);

	for (size_t i = whole; i < im->n_pages; i++) {
		page_drop(im->pages[i]);
		im->pages[i] = NULL;
	}
	if (size % PAGE != 0 && whole <= im->n_pages && im->pages[whole - 1] != NULL)
		memset(image_page(im, whole - 1) + size % PAGE, 0, PAGE - size % PAGE);
	im->size = size;
}

/* --- files and names ---------------------------------------------------------------------------- */

/* What was done to a file since its last sync. */
struct op {
	_Atomic unsigned refs;
	bool is_resize; /* to offset; else a write */
	bool grows;
	uint64_t offset;
	size_t len;
	uint8_t data[];
};

struct inode {
	bool is_used;
	bool is_broken;     /* a write or a sync of it has failed */
	bool is_excused;    /* it was that of its CLEAN record, see fail_file() */
	bool is_lost;       /* the cache shows what the disk does not have */
	bool is_prepared;   /* it is called prep-N.seg: not in use yet */
	bool is_quarantine; /* no rules there */
	unsigned generation;
	uint64_t synced_end; /* bytes before it must not change */
	struct image cache, disk;
	struct op **ops;
	size_t n_ops;
	int locked_by; /* open file + 1 */
};

struct name {
	char path[PATH];
	int inode;
};

struct names {
	struct name *list;
	size_t n;
};

/* A change of names: `from` goes (if not ""), `to` comes (if not ""). */
struct name_op {
	char from[PATH], to[PATH];
	int inode;
};

struct open_file {
	bool is_open, is_writable;
	int inode;
};

struct os_disk {
	pthread_mutex_t lock; /* recursive: a hook uses the disk it stands in */
	int slot;
	unsigned generation;
	bool half_renames;
	struct inode *inodes;
	int n_inodes;
	struct names current, durable;
	struct name_op *changes;
	size_t n_changes;
	struct open_file *files;
	unsigned n_open;

	os_disk_hook *hook;
	void *hook_arg;
	bool in_hook;

	_Atomic enum os_call fail_call;
	unsigned fail_nth, counts[OS_CALLS];
	int fail_error;
	bool fail_sticky, has_failed;
	struct os_luck fail_luck;

	char violation[160];
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct os_disk *_Atomic disks[DISKS];
static struct os_disk *_Atomic of_no_descriptor;
static _Thread_local unsigned hooks; /* this thread is in */
static _Atomic unsigned long injected[OS_CALLS], cuts, torn;
static _Atomic int64_t clock_off_ms;
static _Atomic uint64_t waited_ms, random_state;

static struct os_disk *
enter(int fd)
{
	int slot = (fd - FD_BASE) / FILES;
	struct os_disk *d = fd >= FD_BASE && slot < DISKS ? atomic_load(&disks[slot]) : NULL;

	assert(d != NULL);
	pthread_mutex_lock(&d->lock);
	return d;
}

static int
leave(struct os_disk *d, int r)
{
	pthread_mutex_unlock(&d->lock);
	return r;
}

static struct open_file *
file_of(struct os_disk *d, int fd)
{
	struct open_file *f = &d->files[(fd - FD_BASE) % FILES];

	assert(f->is_open);
	return f;
}

static struct inode *
inode_of(struct os_disk *d, int fd)
{
	return &d->inodes[file_of(d, fd)->inode];
}

static void
tell(struct os_disk *d, enum os_moment moment)
{
	if (d->hook == NULL || d->in_hook)
		return;
	d->in_hook = true;
	hooks++;
	d->hook(d->hook_arg, d, moment);
	hooks--;
	d->in_hook = false;
}

static void
violate(struct os_disk *d, const char *what, int inode)
{
	const char *name = "a file without a name";

	if (d->violation[0] != '\0')
		return;
	for (size_t i = 0; i < d->current.n; i++)
		if (d->current.list[i].inode == inode)
			name = d->current.list[i].path;
	snprintf(d->violation, sizeof(d->violation), "%s: %s", name, what);
}

/* Counts a call; its error if it is to fail, else 0. */
static int
fault(struct os_disk *d, enum os_call call)
{
	d->counts[call]++;
	if (call != d->fail_call || d->counts[call] < d->fail_nth ||
	    (d->counts[call] > d->fail_nth && !d->fail_sticky))
		return 0;
	d->has_failed = true;
	atomic_fetch_add(&injected[call], 1);
	return d->fail_error;
}

/* As fault(), for a call without a descriptor (counted only while it is the one that fails). */
static int
fault_anywhere(enum os_call call)
{
	struct os_disk *d = atomic_load(&of_no_descriptor);
	int error;

	/* Threads of another disk come by here while a hook holds this one. */
	if (d == NULL || hooks > 0 || atomic_load(&d->fail_call) != call)
		return 0;
	pthread_mutex_lock(&d->lock);
	error = fault(d, call);
	return leave(d, error);
}

static int
find(const struct names *names, const char *path)
{
	for (size_t i = 0; i < names->n; i++)
		if (strcmp(names->list[i].path, path) == 0)
			return names->list[i].inode;
	return -1;
}

static void
forget(struct names *names, const char *path)
{
	for (size_t i = 0; *path != '\0' && i < names->n; i++)
		if (strcmp(names->list[i].path, path) == 0)
			names->list[i--] = names->list[--names->n];
}

static void
change(struct names *names, const char *from, const char *to, int inode)
{
	forget(names, from);
	forget(names, to);
	if (*to == '\0')
		return;
	names->list = realloc(names->list, (names->n + 1) * sizeof(*names->list));
	snprintf(names->list[names->n].path, PATH, "%s", to);
	names->list[names->n++].inode = inode;
}

static void
copy_names(struct names *to, const struct names *from)
{
	to->n = from->n;
	to->list = malloc((from->n + 1) * sizeof(*to->list));
	if (from->n > 0)
		memcpy(to->list, from->list, from->n * sizeof(*to->list));
}

static void
note_change(struct os_disk *d, const char *from, const char *to, int inode)
{
	struct name_op *op;

	change(&d->current, from, to, inode);
	d->changes = realloc(d->changes, (d->n_changes + 1) * sizeof(*op));
	op = &d->changes[d->n_changes++];
	snprintf(op->from, PATH, "%s", from);
	snprintf(op->to, PATH, "%s", to);
	op->inode = inode;
}

static int
directory_of(const char *path)
{
	if (strncmp(path, "large/", 6) == 0)
		return LARGE;
	return strncmp(path, "quarantine/", 11) == 0 ? QUARANTINE : ROOT;
}

/* "name" as seen from the directory: its path from the root. */
static void
path_of(struct os_disk *d, int dirfd, const char *name, char path[PATH])
{
	static const char *const before[] = { "", "large/", "quarantine/" };
	int inode = file_of(d, dirfd)->inode;

	assert(inode < DIRECTORIES);
	snprintf(path, PATH, "%s%s", before[inode], name);
}

static void
drop_ops(struct inode *f)
{
	for (size_t i = 0; i < f->n_ops; i++)
		if (atomic_fetch_sub(&f->ops[i]->refs, 1) == 1)
			free(f->ops[i]);
	f->n_ops = 0;
}

static void
add_op(struct inode *f, struct op *op)
{
	atomic_store(&op->refs, 1);
	f->ops = realloc(f->ops, (f->n_ops + 1) * sizeof(struct op *));
	f->ops[f->n_ops++] = op;
}

static void
inode_clear(struct inode *f)
{
	drop_ops(f);
	free(f->ops);
	image_free(&f->cache);
	image_free(&f->disk);
	*f = (struct inode){ 0 };
}

/* May it be reached in any way, now or after a cut? */
static bool
inode_is_needed(const struct os_disk *d, int inode)
{
	bool needed = false;

	for (size_t i = 0; i < d->current.n; i++)
		needed = needed || d->current.list[i].inode == inode;
	for (size_t i = 0; i < d->durable.n; i++)
		needed = needed || d->durable.list[i].inode == inode;
	for (size_t i = 0; i < d->n_changes; i++)
		needed = needed || d->changes[i].inode == inode;
	for (int i = 0; !needed && i < FILES; i++)
		needed = d->files[i].is_open && d->files[i].inode == inode;
	return needed;
}

static int
inode_new(struct os_disk *d)
{
	int i = DIRECTORIES;

	while (i < d->n_inodes && d->inodes[i].is_used && inode_is_needed(d, i))
		i++;
	if (i == d->n_inodes) {
		d->inodes = realloc(d->inodes, (size_t)(i + 1) * sizeof(*d->inodes));
		memset(&d->inodes[i], 0, sizeof(d->inodes[i]));
		d->n_inodes++;
	} else {
		inode_clear(&d->inodes[i]);
	}
	d->inodes[i].is_used = true;
	d->inodes[i].generation = d->generation;
	return i;
}

/* --- luck --------------------------------------------------------------------------------------- */

struct dice {
	struct os_luck luck;
	uint64_t state;
	unsigned thresholds[2]; /* of 256: writes, names */
	unsigned index, kept, dropped;
};

static uint64_t
mix(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static struct dice
dice_of(struct os_luck luck)
{
	static const uint8_t odds[] = { 128, 32, 224, 245 };
	struct dice dice = { .luck = luck, .state = luck.seed };

	dice.thresholds[0] = odds[mix(&dice.state) % sizeof(odds)];
	dice.thresholds[1] = odds[mix(&dice.state) % sizeof(odds)];
	return dice;
}

static bool
is_kept(struct dice *dice, bool is_name)
{
	bool kept = false;

	switch (dice->luck.kind) {
	case OS_LUCK_NOTHING:
		break;
	case OS_LUCK_ALL:
		kept = true;
		break;
	case OS_LUCK_WRITES:
		kept = !is_name;
		break;
	case OS_LUCK_NAMES:
		kept = is_name;
		break;
	case OS_LUCK_CHANCE:
		kept = (mix(&dice->state) & 255) < dice->thresholds[is_name];
		break;
	case OS_LUCK_SUBSET:
		kept = dice->index < 64 && dice->luck.seed >> dice->index & 1;
		break;
	}
	dice->index++;
	if (!is_name)
		kept ? dice->kept++ : dice->dropped++;
	return kept;
}

/* Brings what is not synced to the image, as far as luck has it. */
static void
apply(struct image *im, const struct inode *f, struct dice *dice)
{
	uint64_t size = im->size;

	for (size_t i = 0; i < f->n_ops; i++) {
		const struct op *op = f->ops[i];

		if (op->is_resize) {
			if (is_kept(dice, false)) {
				image_resize(im, op->offset);
				size = op->offset;
			}
			continue;
		}
		if (op->grows && is_kept(dice, false) && op->offset + op->len > size)
			size = op->offset + op->len;
		for (size_t at = 0; at < op->len;) {
			size_t piece = SECTOR - (size_t)((op->offset + at) % SECTOR);

			if (piece > op->len - at)
				piece = op->len - at;
			if (is_kept(dice, false))
				image_write(im, op->offset + at, op->data + at, piece);
			at += piece;
		}
	}
	image_resize(im, size);
}

static void
apply_all(struct image *im, const struct inode *f)
{
	struct dice dice = dice_of((struct os_luck){ OS_LUCK_ALL, 0 });

	apply(im, f, &dice);
}

/* --- disks -------------------------------------------------------------------------------------- */

static struct os_disk *
disk_alloc(void)
{
	struct os_disk *d = calloc(1, sizeof(*d));
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&d->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	d->files = calloc(FILES, sizeof(*d->files));
	d->files[0] = (struct open_file){ .is_open = true, .inode = ROOT };
	d->n_open = 1;
	d->fail_luck = (struct os_luck){ OS_LUCK_CHANCE, 1 };
	pthread_mutex_lock(&table_lock);
	while (d->slot < DISKS && atomic_load(&disks[d->slot]) != NULL)
		d->slot++;
	assert(d->slot < DISKS);
	atomic_store(&disks[d->slot], d);
	pthread_mutex_unlock(&table_lock);
	return d;
}

struct os_disk *
os_disk_new(void)
{
	struct os_disk *d = disk_alloc();

	d->n_inodes = DIRECTORIES;
	d->inodes = calloc(DIRECTORIES, sizeof(*d->inodes));
	for (int i = 0; i < DIRECTORIES; i++)
		d->inodes[i].is_used = true;
	return d;
}

void
os_disk_free(struct os_disk *d)
{
	struct os_disk *self = d;

	if (d == NULL)
		return;
	atomic_compare_exchange_strong(&of_no_descriptor, &self, NULL);
	atomic_store(&disks[d->slot], NULL);
	for (int i = 0; i < d->n_inodes; i++)
		inode_clear(&d->inodes[i]);
	free(d->inodes);
	free(d->current.list);
	free(d->durable.list);
	free(d->changes);
	free(d->files);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

int
os_disk_root(struct os_disk *d)
{
	return FD_BASE + d->slot * FILES;
}

/* A name whose directory is not there is no name. */
static void
forget_homeless(struct names *names)
{
	for (size_t i = 0; i < names->n; i++) {
		int directory = directory_of(names->list[i].path);

		if ((directory == LARGE && find(names, "large") < 0) ||
		    (directory == QUARANTINE && find(names, "quarantine") < 0))
			names->list[i--] = names->list[--names->n];
	}
}

static void
cut_names(struct os_disk *d, struct dice *dice, struct names *out)
{
	copy_names(out, &d->durable);
	for (size_t i = 0; i < d->n_changes; i++) {
		const struct name_op *op = &d->changes[i];

		if (d->half_renames && op->from[0] != '\0' && op->to[0] != '\0') {
			if (is_kept(dice, true))
				change(out, "", op->to, op->inode);
			if (is_kept(dice, true))
				forget(out, op->from);
		} else if (is_kept(dice, true)) {
			change(out, op->from, op->to, op->inode);
		}
	}
	forget_homeless(out);
}

struct os_disk *
os_disk_cut(struct os_disk *d, struct os_luck luck)
{
	struct dice dice = dice_of(luck);
	struct os_disk *new = disk_alloc();

	pthread_mutex_lock(&d->lock);
	new->generation = d->generation + 1;
	new->half_renames = d->half_renames;
	new->n_inodes = d->n_inodes;
	new->inodes = calloc((size_t)d->n_inodes, sizeof(*new->inodes));
	for (int i = 0; i < d->n_inodes; i++) {
		const struct inode *old = &d->inodes[i];
		struct inode *f = &new->inodes[i];

		f->is_used = old->is_used;
		f->is_broken = old->is_broken;
		f->is_excused = old->is_excused;
		f->is_quarantine = old->is_quarantine;
		f->is_prepared = old->is_prepared;
		f->generation = old->generation;
		f->synced_end = old->synced_end;
		image_copy(&f->disk, &old->disk);
		apply(&f->disk, old, &dice);
		image_copy(&f->cache, &f->disk);
	}
	atomic_fetch_add(&cuts, 1);
	if (dice.kept > 0 && dice.dropped > 0)
		atomic_fetch_add(&torn, 1);
	cut_names(d, &dice, &new->durable);
	copy_names(&new->current, &new->durable);
	pthread_mutex_unlock(&d->lock);
	return new;
}

struct os_disk *
os_disk_kill(struct os_disk *d)
{
	struct os_disk *new = disk_alloc();

	pthread_mutex_lock(&d->lock);
	new->generation = d->generation + 1;
	new->half_renames = d->half_renames;
	new->n_inodes = d->n_inodes;
	new->inodes = calloc((size_t)d->n_inodes, sizeof(*new->inodes));
	for (int i = 0; i < d->n_inodes; i++) {
		const struct inode *old = &d->inodes[i];
		struct inode *f = &new->inodes[i];

		*f = *old;
		f->locked_by = 0;
		f->cache = f->disk = (struct image){ 0 };
		image_copy(&f->cache, &old->cache);
		image_copy(&f->disk, &old->disk);
		f->ops = malloc((old->n_ops + 1) * sizeof(struct op *));
		for (size_t k = 0; k < old->n_ops; k++) {
			f->ops[k] = old->ops[k];
			atomic_fetch_add(&f->ops[k]->refs, 1);
		}
	}
	copy_names(&new->current, &d->current);
	copy_names(&new->durable, &d->durable);
	new->n_changes = d->n_changes;
	new->changes = malloc((d->n_changes + 1) * sizeof(*d->changes));
	if (d->n_changes > 0)
		memcpy(new->changes, d->changes, d->n_changes * sizeof(*d->changes));
	pthread_mutex_unlock(&d->lock);
	return new;
}

unsigned
os_disk_pieces(struct os_disk *d)
{
	struct dice dice = dice_of((struct os_luck){ OS_LUCK_NOTHING, 0 });
	struct names names;

	pthread_mutex_lock(&d->lock);
	for (int i = 0; i < d->n_inodes; i++) {
		struct image scratch = { 0 };

		image_copy(&scratch, &d->inodes[i].disk);
		apply(&scratch, &d->inodes[i], &dice);
		image_free(&scratch);
	}
	cut_names(d, &dice, &names);
	free(names.list);
	pthread_mutex_unlock(&d->lock);
	return dice.index;
}

/* Locks the disk: other threads may be making files. */
static struct inode *
settled_file(struct os_disk *d, const char *path)
{
	int inode;

	pthread_mutex_lock(&d->lock);
	inode = find(&d->current, path);
	assert(inode >= DIRECTORIES && d->inodes[inode].n_ops == 0);
	return &d->inodes[inode];
}

size_t
os_disk_peek(struct os_disk *d, const char *path, uint64_t offset, void *out, size_t len)
{
	const struct image *im = &settled_file(d, path)->disk;

	if (offset >= im->size)
		len = 0;
	else if (len > im->size - offset)
		len = (size_t)(im->size - offset);
	image_read(im, offset, out, len);
	pthread_mutex_unlock(&d->lock);
	return len;
}

void
os_disk_poke(struct os_disk *d, const char *path, uint64_t offset, const void *data, size_t len)
{
	struct inode *f = settled_file(d, path);

	for (size_t at = 0; at < len; at++) /* zeros as well, so not image_write() */
		image_page(&f->disk, (size_t)((offset + at) / PAGE))[(offset + at) % PAGE] =
		    ((const uint8_t *)data)[at];
	if (offset + len > f->disk.size)
		f->disk.size = offset + len;
	image_copy(&f->cache, &f->disk);
	pthread_mutex_unlock(&d->lock);
}

uint64_t
os_disk_size(struct os_disk *d, const char *path)
{
	uint64_t size = settled_file(d, path)->disk.size;

	pthread_mutex_unlock(&d->lock);
	return size;
}

void
os_disk_resize(struct os_disk *d, const char *path, uint64_t size)
{
	struct inode *f = settled_file(d, path);

	image_resize(&f->disk, size);
	image_copy(&f->cache, &f->disk);
	pthread_mutex_unlock(&d->lock);
}

void
os_disk_half_renames(struct os_disk *d)
{
	d->half_renames = true;
}

void
os_disk_watch(struct os_disk *d, os_disk_hook *hook, void *arg)
{
	pthread_mutex_lock(&d->lock);
	d->hook = hook;
	d->hook_arg = arg;
	pthread_mutex_unlock(&d->lock);
}

void
os_disk_fail(struct os_disk *d, enum os_call call, unsigned nth, int error, bool sticky)
{
	pthread_mutex_lock(&d->lock);
	d->fail_call = call;
	d->fail_nth = nth;
	d->fail_error = error;
	d->fail_sticky = sticky;
	d->has_failed = false;
	memset(d->counts, 0, sizeof(d->counts));
	pthread_mutex_unlock(&d->lock);
	atomic_store(&of_no_descriptor, d);
}

void
os_disk_heal(struct os_disk *d)
{
	os_disk_fail(d, OS_CALL_NONE, 1, 0, false);
}

void
os_disk_fail_luck(struct os_disk *d, struct os_luck luck)
{
	d->fail_luck = luck;
}

bool
os_disk_has_failed(struct os_disk *d)
{
	bool answer;

	pthread_mutex_lock(&d->lock);
	answer = d->has_failed;
	pthread_mutex_unlock(&d->lock);
	return answer;
}

unsigned
os_disk_count(struct os_disk *d, enum os_call call)
{
	unsigned n;

	pthread_mutex_lock(&d->lock);
	n = d->counts[call];
	pthread_mutex_unlock(&d->lock);
	return n;
}

const char *
os_call_name(enum os_call call)
{
	static const char *const names[OS_CALLS] = { "none", "open", "close", "write",
		"short write", "read", "short read", "fdatasync", "fsync", "fsync of a directory",
		"fallocate", "ftruncate", "fstat", "rename", "unlink", "mkdir", "list", "lock",
		"room", "random", "event", "memory", "drop cache" };

	return names[call];
}

void
os_disk_set_clock(int64_t off_by_ms)
{
	atomic_store(&clock_off_ms, off_by_ms);
}

void
os_disk_wait(uint64_t ms)
{
	atomic_fetch_add(&waited_ms, ms);
}

const char *
os_disk_violation(struct os_disk *d)
{
	return d->violation[0] != '\0' ? d->violation : NULL;
}

unsigned
os_disk_open_files(struct os_disk *d)
{
	return d->n_open - 1; /* the root */
}

unsigned long
os_disk_injected(enum os_call call)
{
	return atomic_load(&injected[call]);
}

unsigned long
os_disk_cuts(void)
{
	return atomic_load(&cuts);
}

unsigned long
os_disk_torn(void)
{
	return atomic_load(&torn);
}

/* --- the calls ---------------------------------------------------------------------------------- */

static int
descriptor(struct os_disk *d, int inode, bool is_writable)
{
	for (int i = 1; i < FILES; i++)
		if (!d->files[i].is_open) {
			d->files[i] = (struct open_file){ true, is_writable, inode };
			d->n_open++;
			return os_disk_root(d) + i;
		}
	return -EMFILE;
}

static bool
is_prepared_name(const char *path)
{
	return strncmp(path, "prep-", 5) == 0;
}

/* The inode of that name, made if it may be; -errno. */
static int
look_up(struct os_disk *d, const char *path, int flags)
{
	int inode = strcmp(path, ".") == 0 ? ROOT : find(&d->current, path);

	if (inode >= 0 && (flags & O_CREAT) && (flags & O_EXCL))
		return -EEXIST;
	if (inode >= 0)
		return (flags & O_DIRECTORY) && inode >= DIRECTORIES ? -ENOTDIR : inode;
	if (!(flags & O_CREAT))
		return -ENOENT;
	tell(d, OS_MOMENT_CHANGE);
	inode = inode_new(d);
	d->inodes[inode].is_prepared = is_prepared_name(path);
	d->inodes[inode].is_quarantine = directory_of(path) == QUARANTINE;
	note_change(d, "", path, inode);
	return inode;
}

int
os_open(int dirfd, const char *name, int flags, mode_t mode)
{
	struct os_disk *d = enter(dirfd);
	char path[PATH];
	int inode, error = fault(d, OS_CALL_OPEN);

	(void)mode;
	if (error != 0)
		return leave(d, -error);
	path_of(d, dirfd, name, path);
	inode = look_up(d, path, flags);
	if (inode < 0)
		return leave(d, inode);
	return leave(d, descriptor(d, inode, (flags & O_ACCMODE) != O_RDONLY));
}

int
os_close(int fd)
{
	struct os_disk *d;
	struct inode *f;
	int error;

	if (fd < FD_BASE)
		return real_close(fd);
	d = enter(fd);
	error = fault(d, OS_CALL_CLOSE);
	f = inode_of(d, fd);
	if (f->locked_by == fd + 1)
		f->locked_by = 0;
	file_of(d, fd)->is_open = false;
	d->n_open--;
	return leave(d, -error);
}

/* A file is about to be changed or synced: may it be? */
static void
watch_rules(struct os_disk *d, int fd, bool is_change, uint64_t offset)
{
	struct inode *f = inode_of(d, fd);
	int inode = file_of(d, fd)->inode;

	if (f->is_quarantine || inode < DIRECTORIES)
		return;
	if (f->is_broken && file_of(d, fd)->is_writable)
		violate(d, "written or synced after an error (I5)", inode);
	if (is_change && f->generation != d->generation)
		violate(d, "changed by another process than its writer", inode);
	if (is_change && !f->is_prepared && offset < f->synced_end)
		violate(d, "synced bytes changed (I2)", inode);
}

/* I5. Such a file does not get a new life by being recycled either, but for one: a CLEAN record promises
 * nothing, and when only that failed nothing may tell the next process so. */
static void
fail_file(struct inode *f, const uint8_t *record)
{
	f->is_excused = !f->is_broken && record != NULL && record[4] == RECORD_CLEAN;
	f->is_broken = true;
}

ssize_t
os_pwritev(int fd, const struct iovec *iov, int n, uint64_t offset)
{
	struct os_disk *d = enter(fd);
	struct inode *f = inode_of(d, fd);
	size_t len = 0, at = 0;
	struct op *op;
	int error;

	watch_rules(d, fd, true, offset);
	error = fault(d, OS_CALL_WRITE);
	if (error != 0) {
		fail_file(f, iov[0].iov_len > 4 ? iov[0].iov_base : NULL);
		return leave(d, -error);
	}
	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	if (len > 1 && fault(d, OS_CALL_SHORT_WRITE) != 0)
		len /= 2;
	tell(d, OS_MOMENT_CHANGE);
	op = malloc(sizeof(*op) + len);
	*op = (struct op){ .offset = offset, .len = len, .grows = offset + len > f->cache.size };
	for (int i = 0; i < n && at < len; i++) {
		size_t step = iov[i].iov_len < len - at ? iov[i].iov_len : len - at;

		memcpy(op->data + at, iov[i].iov_base, step);
		at += step;
	}
	image_write(&f->cache, offset, op->data, len);
	if (op->grows)
		f->cache.size = offset + len;
	add_op(f, op);
	leave(d, 0);
	return (ssize_t)len;
}

ssize_t
os_pread(int fd, void *buf, size_t len, uint64_t offset)
{
	struct os_disk *d = enter(fd);
	struct inode *f = inode_of(d, fd);
	int error = fault(d, OS_CALL_READ);

	if (error != 0)
		return leave(d, -error);
	if (offset >= f->cache.size)
		len = 0;
	else if (len > f->cache.size - offset)
		len = (size_t)(f->cache.size - offset);
	if (len > 1 && fault(d, OS_CALL_SHORT_READ) != 0)
		len /= 2;
	image_read(&f->cache, offset, buf, len);
	leave(d, 0);
	return (ssize_t)len;
}

static void
sync_file(struct inode *f)
{
	for (size_t i = 0; i < f->n_ops; i++)
		if (!f->is_prepared && !f->ops[i]->is_resize &&
		    f->ops[i]->offset + f->ops[i]->len > f->synced_end)
			f->synced_end = f->ops[i]->offset + f->ops[i]->len;
	apply_all(&f->disk, f);
	if (!f->is_lost)
		image_copy(&f->cache, &f->disk);
	drop_ops(f);
}

static void
lose(struct os_disk *d, struct inode *f)
{
	struct dice dice = dice_of(d->fail_luck);

	d->fail_luck.seed++;
	apply(&f->disk, f, &dice);
	drop_ops(f);
	f->is_lost = true;
}

static int
sync_any(struct os_disk *d, int fd, enum os_call call)
{
	struct inode *f = inode_of(d, fd);
	int error;

	watch_rules(d, fd, false, 0);
	tell(d, OS_MOMENT_BEFORE_SYNC);
	error = fault(d, call);
	if (error != 0) {
		fail_file(f, f->n_ops > 0 && f->ops[0]->len > 4 ? f->ops[0]->data : NULL);
		lose(d, f);
	} else {
		sync_file(f);
	}
	tell(d, OS_MOMENT_AFTER_SYNC);
	return -error;
}

int
os_fdatasync(int fd)
{
	struct os_disk *d = enter(fd);

	return leave(d, sync_any(d, fd, OS_CALL_FDATASYNC));
}

static int
sync_directory(struct os_disk *d, int directory)
{
	size_t n = 0;
	int error;

	tell(d, OS_MOMENT_BEFORE_SYNC);
	error = fault(d, OS_CALL_SYNC_DIRECTORY);
	for (size_t i = 0; error == 0 && i < d->n_changes; i++) {
		const struct name_op *op = &d->changes[i];
		const char *path = op->to[0] != '\0' ? op->to : op->from;

		/* a rename between two directories is synced with either of them */
		if (directory_of(path) == directory ||
		    (op->from[0] != '\0' && directory_of(op->from) == directory))
			change(&d->durable, op->from, op->to, op->inode);
		else
			d->changes[n++] = *op;
	}
	if (error == 0)
		d->n_changes = n;
	tell(d, OS_MOMENT_AFTER_SYNC);
	return -error;
}

int
os_fsync(int fd)
{
	struct os_disk *d = enter(fd);
	int inode = file_of(d, fd)->inode;

	if (inode < DIRECTORIES)
		return leave(d, sync_directory(d, inode));
	return leave(d, sync_any(d, fd, OS_CALL_FSYNC));
}

static int
resize(int fd, uint64_t size, bool only_grow, enum os_call call)
{
	struct os_disk *d = enter(fd);
	struct inode *f = inode_of(d, fd);
	struct op *op;
	int error;

	watch_rules(d, fd, !only_grow, size);
	error = fault(d, call);
	f->is_broken |= error != 0;
	if (error != 0 || (only_grow && size <= f->cache.size))
		return leave(d, -error);
	tell(d, OS_MOMENT_CHANGE);
	op = calloc(1, sizeof(*op));
	op->is_resize = true;
	op->offset = size;
	image_resize(&f->cache, size);
	add_op(f, op);
	return leave(d, 0);
}

int
os_fallocate(int fd, uint64_t offset, uint64_t len)
{
	return resize(fd, offset + len, true, OS_CALL_ALLOCATE);
}

int
os_truncate(int fd, uint64_t len)
{
	return resize(fd, len, false, OS_CALL_TRUNCATE);
}

void
os_drop_cache(int fd)
{
	struct os_disk *d = enter(fd);
	struct inode *f = inode_of(d, fd);

	(void)fault(d, OS_CALL_DROP_CACHE);
	if (f->is_lost) {
		image_copy(&f->cache, &f->disk);
		apply_all(&f->cache, f); /* dirty pages stay */
		f->is_lost = false;
	}
	leave(d, 0);
}

int
os_fstat(int fd, struct stat *st)
{
	struct os_disk *d = enter(fd);
	int inode = file_of(d, fd)->inode, error = fault(d, OS_CALL_FSTAT);

	if (error != 0)
		return leave(d, -error);
	*st = (struct stat){ .st_mode = inode < DIRECTORIES ? S_IFDIR | 0700 : S_IFREG | 0600,
		.st_ino = (ino_t)inode + 1,
		.st_size = (off_t)d->inodes[inode].cache.size };
	for (size_t i = 0; i < d->current.n; i++)
		st->st_nlink += d->current.list[i].inode == inode;
	return leave(d, 0);
}

int
os_rename(int dirfd, const char *from, const char *to)
{
	char path_from[PATH], path_to[PATH];
	struct os_disk *d = enter(dirfd);
	int inode, error = fault(d, OS_CALL_RENAME);
	struct inode *f;

	if (error != 0)
		return leave(d, -error);
	path_of(d, dirfd, from, path_from);
	path_of(d, dirfd, to, path_to);
	inode = find(&d->current, path_from);
	if (inode < 0)
		return leave(d, -ENOENT);
	if (find(&d->current, path_to) >= 0)
		return leave(d, -EEXIST);
	tell(d, OS_MOMENT_CHANGE);
	f = &d->inodes[inode];
	if (is_prepared_name(path_to)) { /* a new life */
		f->is_prepared = true;
		f->generation = d->generation;
		f->synced_end = 0;
		if (f->is_excused)
			f->is_broken = f->is_excused = false;
	} else if (f->is_prepared) {
		f->is_prepared = false;
		f->synced_end = PAGE;
	}
	note_change(d, path_from, path_to, inode);
	return leave(d, 0);
}

int
os_unlink(int dirfd, const char *name)
{
	struct os_disk *d = enter(dirfd);
	int error = fault(d, OS_CALL_UNLINK);
	char path[PATH];

	if (error != 0)
		return leave(d, -error);
	path_of(d, dirfd, name, path);
	if (find(&d->current, path) < 0)
		return leave(d, -ENOENT);
	tell(d, OS_MOMENT_CHANGE);
	note_change(d, path, "", -1);
	return leave(d, 0);
}

int
os_mkdir(int dirfd, const char *name, mode_t mode)
{
	struct os_disk *d = enter(dirfd);
	int error = fault(d, OS_CALL_MKDIR);

	(void)mode;
	if (error != 0)
		return leave(d, -error);
	if (find(&d->current, name) >= 0)
		return leave(d, -EEXIST);
	tell(d, OS_MOMENT_CHANGE);
	note_change(d, "", name, strcmp(name, "large") == 0 ? LARGE : QUARANTINE);
	return leave(d, 0);
}

int
os_list(int dirfd, int (*each)(void *arg, const char *name), void *arg)
{
	struct os_disk *d = enter(dirfd);
	int directory = file_of(d, dirfd)->inode, error = fault(d, OS_CALL_LIST), r = 0;
	struct names names;

	if (error != 0)
		return leave(d, -error);
	copy_names(&names, &d->current);
	leave(d, 0);
	for (size_t i = 0; i < names.n && r == 0; i++) {
		const char *path = names.list[i].path, *slash = strchr(path, '/');

		if (directory_of(path) == directory)
			r = each(arg, slash != NULL ? slash + 1 : path);
	}
	free(names.list);
	return r;
}

int
os_lock(int fd)
{
	struct os_disk *d = enter(fd);
	struct inode *f = inode_of(d, fd);
	int error = fault(d, OS_CALL_LOCK);

	if (error != 0)
		return leave(d, -error);
	if (f->locked_by != 0 && f->locked_by != fd + 1)
		return leave(d, -EAGAIN);
	f->locked_by = fd + 1;
	return leave(d, 0);
}

int
os_is_locked(int fd)
{
	struct os_disk *d = enter(fd);
	struct inode *f = inode_of(d, fd);
	int error = fault(d, OS_CALL_LOCK);

	return leave(d, error != 0 ? -error : f->locked_by != 0 && f->locked_by != fd + 1);
}

int
os_room(int dirfd, struct os_room *out)
{
	struct os_disk *d = enter(dirfd);
	int error = fault(d, OS_CALL_ROOM);

	if (error == 0)
		*out = (struct os_room){ 1u << 30, 1u << 31, UINT64_MAX };
	return leave(d, -error);
}

int
os_random(void *buf, size_t len)
{
	int error = fault_anywhere(OS_CALL_RANDOM);
	uint8_t *out = buf;

	if (error != 0)
		return -error;
	for (size_t i = 0; i < len; i++) {
		uint64_t state = atomic_fetch_add(&random_state, 0x9e3779b97f4a7c15ull);

		out[i] = (uint8_t)(mix(&state) >> 24);
	}
	return 0;
}

uint64_t
os_boot_ms(void)
{
	return real_boot_ms() + atomic_load(&waited_ms);
}

uint64_t
os_boot_us(void)
{
	return real_boot_us() + atomic_load(&waited_ms) * 1000;
}

uint64_t
os_now_ms(void)
{
	return NOW_MS + os_boot_ms() + (uint64_t)atomic_load(&clock_off_ms);
}

void
os_condition_init(pthread_cond_t *condition)
{
	real_condition_init(condition);
}

void
os_condition_wait(pthread_cond_t *condition, pthread_mutex_t *lock, uint64_t most_us)
{
	real_condition_wait(condition, lock, most_us / 1000 > 0 ? most_us / 1000 : 1);
	atomic_fetch_add(&waited_ms, most_us / 1000);
}

int
os_event_open(void)
{
	int error = fault_anywhere(OS_CALL_EVENT);

	return error != 0 ? -error : real_event_open();
}

void
os_event_set(int fd)
{
	real_event_set(fd);
}

void
os_event_clear(int fd)
{
	real_event_clear(fd);
}

void *
os_alloc(size_t len)
{
	return fault_anywhere(OS_CALL_MEMORY) != 0 ? NULL : real_alloc(len);
}

void *
os_realloc(void *old, size_t len)
{
	return fault_anywhere(OS_CALL_MEMORY) != 0 ? NULL : real_realloc(old, len);
}
