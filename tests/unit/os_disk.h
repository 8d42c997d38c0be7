/* os_disk.h - an operating system for tests of the spool, in memory: one of its disks can be copied as a
 * power cut would leave it, any of its calls can be made to fail, and its clock is set by hand. Linked in
 * place of base/os.c (os_disk.c defines every os_ function, so the archive's object is never taken).
 *
 * What it assumes is what POSIX gives, not what a file system of today does better:
 *   - What was not synced is kept, dropped, or kept in part, in pieces of 512 bytes and in any order. A
 *     file's size is a piece of its own: data may be there without it, and it without data (zeros then).
 *   - A file's sync says nothing about its name. Names of one directory are synced together, those of
 *     another are not. Each change of a name (create, rename, unlink) is kept or dropped by itself; a
 *     rename is never half done. (It is where a file system has no RENAME_NOREPLACE: os_disk_half_renames().)
 *   - After a sync that failed each unsynced piece is on the disk or it is not, for good: a later sync
 *     that succeeds changes nothing about it. The page cache goes on to show it all until it is dropped.
 *   - A directory whose sync failed may be synced again.
 *
 * It watches what a relay must not do (os_disk_violations()): writing or syncing a file after an error
 * (I5), changing synced bytes (I2), appending to a file of an earlier process. */
#ifndef RELAYD_TESTS_OS_DISK_H
#define RELAYD_TESTS_OS_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct os_disk;

struct os_disk *os_disk_new(void);    /* its root directory is empty, and synced */
void os_disk_free(struct os_disk *d); /* NULL is fine */
int os_disk_root(struct os_disk *d);  /* a descriptor; the disk's as long as it lives */

/* --- power cuts and kills ----------------------------------------------------------------------- */

enum os_luck_kind {
	OS_LUCK_NOTHING, /* is kept of what was not synced */
	OS_LUCK_ALL,
	OS_LUCK_WRITES, /* but no names */
	OS_LUCK_NAMES,  /* but no writes */
	OS_LUCK_CHANCE, /* each piece by chance, of `seed` */
	OS_LUCK_SUBSET, /* piece i if bit i of `seed` is set: for all subsets of os_disk_pieces() */
};

struct os_luck {
	enum os_luck_kind kind;
	uint64_t seed;
};

/* A disk as it is found after a power cut now. */
struct os_disk *os_disk_cut(struct os_disk *d, struct os_luck luck);
/* As it is found by the next process after a kill: nothing is lost, nothing more is synced, and the page
 * cache goes on to lie about what a failed sync has lost. */
struct os_disk *os_disk_kill(struct os_disk *d);
unsigned os_disk_pieces(struct os_disk *d); /* unsynced: of writes, sizes and names */
void os_disk_half_renames(
    struct os_disk *d); /* a rename is a link and an unlink: one may be kept */

enum os_moment {
	OS_MOMENT_CHANGE, /* before a write or a change of names: a kill comes here, or a cut */
	OS_MOMENT_BEFORE_SYNC,
	OS_MOMENT_AFTER_SYNC,
};

/* Called in whatever thread makes the call, while this disk stands still for all others. It may cut, kill,
 * copy and use other disks. */
typedef void os_disk_hook(void *arg, struct os_disk *d, enum os_moment moment);
void os_disk_watch(struct os_disk *d, os_disk_hook *hook, void *arg); /* NULL: no more */

/* For damage: bytes of a file as they stand on the disk (nothing of it may be unsynced), and its size. peek
 * returns how many there are; poke and resize do what no rule allows. */
size_t os_disk_peek(struct os_disk *d, const char *path, uint64_t offset, void *out, size_t len);
void os_disk_poke(
    struct os_disk *d, const char *path, uint64_t offset, const void *data, size_t len);
uint64_t os_disk_size(struct os_disk *d, const char *path);
void os_disk_resize(struct os_disk *d, const char *path, uint64_t size);

/* --- failing calls ------------------------------------------------------------------------------ */

enum os_call {
	OS_CALL_NONE,
	OS_CALL_OPEN,
	OS_CALL_CLOSE, /* closed all the same */
	OS_CALL_WRITE,
	OS_CALL_SHORT_WRITE, /* not an error: half of it */
	OS_CALL_READ,
	OS_CALL_SHORT_READ,
	OS_CALL_FDATASYNC,
	OS_CALL_FSYNC,          /* of a file */
	OS_CALL_SYNC_DIRECTORY, /* fsync of a directory */
	OS_CALL_ALLOCATE,
	OS_CALL_TRUNCATE,
	OS_CALL_FSTAT,
	OS_CALL_RENAME,
	OS_CALL_UNLINK,
	OS_CALL_MKDIR,
	OS_CALL_LIST,
	OS_CALL_LOCK, /* and the question whether there is one */
	OS_CALL_ROOM,
	OS_CALL_RANDOM,
	OS_CALL_EVENT,
	OS_CALL_MEMORY,
	OS_CALL_DROP_CACHE, /* counted only */
	OS_CALLS,
};

/* Lets the nth call (from 1, counted from now) of that kind on this disk fail; `sticky`: and all after
 * it. Calls that have no descriptor belong to the disk that was named last, and to no hook. */
void os_disk_fail(struct os_disk *d, enum os_call call, unsigned nth, int error, bool sticky);
void os_disk_heal(struct os_disk *d);
/* What a failing sync leaves behind. OS_LUCK_CHANCE of seed 1 if nothing is said. */
void os_disk_fail_luck(struct os_disk *d, struct os_luck luck);
bool os_disk_has_failed(struct os_disk *d);                   /* since os_disk_fail() */
unsigned os_disk_count(struct os_disk *d, enum os_call call); /* calls since fail or heal */
const char *os_call_name(enum os_call call);

/* --- the clock ---------------------------------------------------------------------------------- */

/* Moves the wall clock away from where it would be. Waiting costs no time: os_condition_wait() moves the
 * other clock, and so does who would wait elsewhere (both clocks go on then). */
void os_disk_set_clock(int64_t off_by_ms);
void os_disk_wait(uint64_t ms);

/* --- what it has seen --------------------------------------------------------------------------- */

const char *os_disk_violation(struct os_disk *d); /* the first one in words; NULL: none */
unsigned os_disk_open_files(struct os_disk *d);
unsigned long os_disk_injected(
    enum os_call call); /* errors, on all disks, since the program began */
unsigned long os_disk_cuts(void);
unsigned long os_disk_torn(void); /* cuts that kept a part of a write */

#endif
