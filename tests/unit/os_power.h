/* os_power.h - the operating system with a power switch. Linked in place of base/os.c; the real calls are
 * made, and beside them it keeps what the disk would hold: a file's bytes as of its last sync with the
 * writes since, a directory's names as of its last sync with the changes since. At each sync (before and
 * after it) `check` is called; there os_power_image() makes a directory as a power cut would leave it.
 *
 * What it assumes is what POSIX gives: fsync of a file says nothing about its name, writes that were not
 * synced may be there or not, in pieces of 512 bytes, in any order. */
#ifndef RELAYD_TESTS_OS_POWER_H
#define RELAYD_TESTS_OS_POWER_H

enum os_power_luck {
	OS_POWER_NOTHING_KEPT, /* of what was not synced */
	OS_POWER_ALL_KEPT,
	OS_POWER_WRITES_KEPT, /* but no names */
	OS_POWER_NAMES_KEPT,  /* but no writes */
	OS_POWER_CHANCE,      /* each piece by chance */
};

/* Starts to watch the spool directory (with large/ and quarantine/ in it, both synced). `check` runs in
 * whatever thread syncs, with all others held back from syncing; calls made in it are not watched. */
void os_power_watch(int dirfd, void (*check)(void *arg), void *arg);
void os_power_stop(void);
/* Fills the (empty) directory. In `check`, or after os_power_stop(). */
void os_power_image(enum os_power_luck luck, unsigned seed, int into_dirfd);
/* The nth fdatasync from now fails, if n > 0: what it was to sync stays unsynced. */
void os_power_fail_sync(unsigned n);

#endif
