/* spool_play.h - the spool in use, on a disk of os_disk.h: an intake that takes mail, a delivery that
 * follows, stores outcomes and frees, and a ledger of what was promised to whom. Whatever became of the
 * disk, play_check() starts a process on it and holds what that finds against the ledger. */
#ifndef RELAYD_TESTS_SPOOL_PLAY_H
#define RELAYD_TESTS_SPOOL_PLAY_H

#include "os_disk.h"
#include "spool_fixture.h"

#define PLAY_SEGMENT_BYTES SEGMENT_BYTES_LEAST
enum { PROMISES = 96 };

/* It holds in any thread, where cmocka's assertions do not: it ends the program. */
#define must(condition)                                                                            \
	do {                                                                                       \
		if (!(condition))                                                                  \
			play_fail(__FILE__, __LINE__, #condition);                                 \
	} while (0)
void play_fail(const char *file, int line, const char *what) __attribute__((noreturn));
/* What is being tried, for play_fail(). */
void play_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

enum { UNANSWERED = 1 }; /* a result that is not there yet */

struct promise {
	_Atomic uint64_t id;
	uint32_t bytes;
	_Atomic int result;           /* of its submission: 0, -EAGAIN, -EIO, UNANSWERED */
	_Atomic unsigned sure, asked; /* attempts: stored for sure, on their way to the disk */
	_Atomic bool done_sure, done_asked;
};

struct ledger {
	_Atomic unsigned n;
	struct promise list[PROMISES];
};

struct play_message { /* in delivery's queue */
	unsigned promise;
	struct spool_location at;
	bool is_large;
};

struct play_place { /* a segment, as delivery sees it */
	uint32_t number;
	bool is_read;
	unsigned left;
};

struct play {
	struct os_disk *disk;
	int dirfd;
	struct ledger *ledger;
	struct spool_writer *intake, *journal, *letters;
	struct shared_page *page;
	struct spool_store *store;
	struct catalog *catalog;
	struct play_message queue[PROMISES];
	unsigned n_queue;
	struct play_place places[128];
	unsigned n_places;
	unsigned reports[4], damage, sync_error;
	bool may_free, is_read;
	int follow_error;
};

/* Borrows disk and ledger. */
struct play *play_new(struct os_disk *disk, struct ledger *ledger);
void play_free(struct play *p); /* closes what is open */

int play_open_intake(struct play *p);
void play_close_intake(struct play *p);
int play_open_delivery(struct play *p); /* the rest of the replay comes with the first delivery */
void play_close_delivery(struct play *p);

/* One group of n messages; results are in the ledger. */
void play_send(struct play *p, unsigned n, size_t bytes);
void play_send_large(struct play *p, size_t bytes);
void play_send_letter(struct play *p, size_t bytes);
/* Looks at what has come, then tries each queued message: every third first attempt is DEFERRED, what
 * else is tried is DONE and freed. */
void play_deliver(struct play *p);
void play_defer(struct play *p, unsigned times); /* attempts that all come to nothing */
/* Everything that intake and delivery do with the spool: groups of all sizes, over the ends of segments; a
 * large body; deferred mail, done mail, letters; freed segments used again; both workers started again. */
void play_day(struct play *p);

/* What a replay of the disk finds, by promise. */
struct play_found {
	const struct ledger *ledger;
	bool is_quiet; /* damage is expected: do not print it */
	unsigned seen[PROMISES];
	struct spool_location at[PROMISES];
	unsigned n_damage, n_told; /* CORRUPT ranges; ranges of any kind */
	struct spool_damage told[512];
	bool forgotten; /* a stored outcome is not there */
	struct catalog_summary sum;
};

int play_look(struct os_disk *d, const struct ledger *ledger, bool sweep, struct play_found *found);
/* Is what the spool gives what was sent? If not this ends the program; -errno: it gives nothing. */
int play_read(struct spool_store *store, const struct promise *promise, struct spool_location at);
void play_is_sound(struct os_disk *d); /* no file is open, no rule was broken */

/* A process starts on this disk, with sweep: everything promised holds (I1, I3, I4, I6), nothing is called
 * corrupt, no file stays open, no rule was broken. */
void play_check(struct os_disk *d, const struct ledger *ledger);
/* After a kill, and after cuts with some kinds of luck. Returns how many were checked. */
unsigned play_check_ends(struct os_disk *d, const struct ledger *ledger, uint64_t seed);

struct ledger *play_ledger_copy(const struct ledger *ledger); /* free() */

#endif
