/* os_fault.h - the operating system that fails when it is told to. Linked in place of base/os.c
 * (os_fault.c defines every os_ function, so the archive's object is never taken). It also watches I5: a
 * descriptor whose write or sync has failed is never written or synced again. */
#ifndef RELAYD_TESTS_OS_FAULT_H
#define RELAYD_TESTS_OS_FAULT_H

#include <stdbool.h>

enum os_fault_call {
	OS_FAULT_NONE,
	OS_FAULT_OPEN,
	OS_FAULT_WRITE,
	OS_FAULT_SHORT_WRITE, /* not an error: half of it */
	OS_FAULT_READ,
	OS_FAULT_FDATASYNC,
	OS_FAULT_FSYNC,
	OS_FAULT_ALLOCATE,
	OS_FAULT_RENAME,
	OS_FAULT_UNLINK,
	OS_FAULT_MEMORY,
	OS_FAULT_DROP_CACHE, /* counted only */
	OS_FAULT_CALLS,
};

/* Lets the nth call (from 1, counted from now) of that kind fail; `sticky`: and all after it. */
void os_fault_set(enum os_fault_call call, unsigned nth, int error, bool sticky);
void os_fault_clear(void);
bool os_fault_has_happened(void);                 /* since os_fault_set() */
unsigned os_fault_count(enum os_fault_call call); /* calls since os_fault_set() or _clear() */
unsigned os_fault_violations(void);               /* of I5, since the program began */

#endif
