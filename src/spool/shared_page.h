/* shared_page.h - what the processes tell each other while they run: one memfd, mapped by supervisor,
 * intake and delivery. It says "committed up to here" and counts; nothing in it has to survive, and
 * everything can be rebuilt from disk (I7). Each field has one writer at a time, named below.
 *
 * The slot of message segment N is slots[N % SHARED_PAGE_SLOTS]:
 *   FREE      -> LIVE      by the writer, before the segment's name appears in the directory
 *   LIVE      -> SEALED    by the writer: committed_bytes is final (it is full, or it failed)
 *   LIVE      -> ORPHANED  by the supervisor, when the process `owner_pid` has died (TAKEN -> FREE)
 *   SEALED, ORPHANED -> FREE  by delivery, when it has read all of it
 * A writer passes over numbers whose slot is LIVE; it may take a SEALED one when all are taken. So a
 * segment in the directory whose slot holds another number is not being written any more: delivery
 * reads it as it would an orphan's (store.h, catalog.h do this). */
#ifndef RELAYD_SPOOL_SHARED_PAGE_H
#define RELAYD_SPOOL_SHARED_PAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/base.h"

#define SHARED_PAGE_MAGIC 0x3150444c59414c52ull
#define SHARED_PAGE_SLOTS 256u
#define SHARED_PAGE_MARKS 4096u

enum shared_slot_state {
	SHARED_SLOT_FREE,
	SHARED_SLOT_LIVE,
	SHARED_SLOT_SEALED,
	SHARED_SLOT_ORPHANED,
	SHARED_SLOT_TAKEN, /* between FREE and LIVE: the other fields are being set. With the pid of who
			    * sets them, so that it can be told of whom if that dies */
};

static inline uint32_t
shared_slot_taken_by(pid_t pid)
{
	return SHARED_SLOT_TAKEN | (uint32_t)pid << 8; /* pids have 22 bits */
}

static inline bool
shared_slot_is_taken(uint32_t state)
{
	return (state & 0xff) == SHARED_SLOT_TAKEN;
}

struct shared_slot {
	_Atomic uint64_t segment_number;
	_Atomic uint64_t committed_bytes; /* groups before this offset are durable */
	_Atomic uint32_t state;
	_Atomic uint32_t owner_pid;
};

struct shared_page {
	uint64_t magic; /* set once by shared_page_create() */

	/* supervisor */
	_Atomic uint64_t start_ms; /* since 1970 */
	_Atomic uint32_t supervisor_pid, intake_pid, delivery_pid;
	_Atomic uint32_t intake_restarts, delivery_restarts; /* after a death, not after a reload */

	/* intake (during a reload two of them add) */
	_Atomic uint64_t connections, sessions_now, accepted, rejected, accepted_bytes;
	_Atomic uint64_t last_commit_us; /* how long the last group's write and sync took */
	_Atomic uint64_t commits;        /* groups */
	_Atomic uint32_t spool_failed;   /* errno with which intake's spool fails; 0: it works */

	struct shared_slot slots[SHARED_PAGE_SLOTS];

	/* delivery: in_flight.h */
	_Atomic uint32_t
	    marks_are_kept; /* 1 since the first delivery that had this page has told what it knew */
	_Atomic uint32_t unmarked;                 /* on their way without a mark */
	_Atomic uint64_t marks[SHARED_PAGE_MARKS]; /* queue IDs, 0: none */
};

/* A new page in a sealed-size memfd. Gives *fd and the mapping. */
int shared_page_create(int *fd, struct shared_page **out) MUST_CHECK;
/* Maps one that was inherited. -EINVAL: not ours. Borrows fd (it may be closed afterwards). */
int shared_page_map(int fd, struct shared_page **out) MUST_CHECK;
void shared_page_unmap(struct shared_page *page); /* NULL is fine */

static inline struct shared_slot *
shared_page_slot(struct shared_page *page, uint32_t segment_number)
{
	return &page->slots[segment_number % SHARED_PAGE_SLOTS];
}

/* Takes the slot for the calling process; false: another LIVE one has it. `forced`: may take SEALED
 * and ORPHANED ones. */
bool shared_page_take_slot(
    struct shared_page *page, uint32_t segment_number, uint64_t committed, bool forced);
/* Supervisor: everything LIVE of this process becomes ORPHANED. Returns how many. */
unsigned shared_page_orphan(struct shared_page *page, pid_t owner);
/* How far may this segment be read? true: *committed_bytes and *state (LIVE, SEALED) hold; false: no
 * live process answers for it, read it like after a crash, to its end. Consistent while slots are
 * retaken by others. */
bool shared_page_look(struct shared_page *page, uint32_t segment_number, uint64_t *committed_bytes,
    enum shared_slot_state *state);
/* Delivery: it was read to its end; the slot may be used again. */
void shared_page_release_slot(struct shared_page *page, uint32_t segment_number);

#endif
