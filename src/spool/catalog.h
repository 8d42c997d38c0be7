/* catalog.h - replay: everything on disk becomes the list of messages that are not done. Delivery does
 * this at its start, relayctl when the daemon is down (or to look without asking). It keeps no
 * envelopes and no replies: about 20 bytes for a message.
 *
 * It takes no locks and, unless told to, changes nothing. While a daemon runs: with its shared page, live
 * segments are read up to their committed bytes; without it, to the end of what is valid (a message
 * that is just being committed may be listed early: for showing, not for delivering). A file that
 * disappears meanwhile has been freed: it is passed over. */
#ifndef RELAYD_SPOOL_CATALOG_H
#define RELAYD_SPOOL_CATALOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "spool/envelope.h"
#include "spool/journal.h"
#include "spool/reader.h"
#include "spool/shared_page.h"
#include "spool/store.h"

struct catalog_message {
	uint64_t id;
	struct spool_location location;
	const struct envelope *envelope; /* all three borrowed during the callback */
	const struct journal_outcome
	    *outcome;     /* merged; NULL: never tried. Recipients it does not name
						* are queued. */
	bool uncommitted; /* found in a group without COMMIT: a possible duplicate (I4) */
};

/* A segment that was read, after its messages. Delivery frees those with nothing left in them, and
 * follows the live ones. */
struct catalog_segment {
	uint32_t number;
	enum shared_slot_state
	    state; /* LIVE: follow it from next_offset; else it was read to its end */
	uint64_t next_offset;
	uint64_t messages; /* not done */
};

struct catalog_options {
	int dirfd;                 /* borrowed during the call */
	struct spool_store *store; /* is told REVOKEs; NULL: one of its own */
	struct shared_page *page;  /* NULL: none */
	bool distrust;             /* sync and drop caches before reading (delivery at start; F8) */
	bool sweep;                /* quarantine what is CORRUPT; take away large/ID that no message
				    * names (into quarantine/ if anything was corrupt) */
	/* All optional but `message`. `message` may return non-zero to stop: replay returns it. */
	int (*message)(void *arg, const struct catalog_message *m);
	void (*segment)(void *arg, const struct catalog_segment *s);
	void (*damage)(
	    void *arg, const struct spool_damage *damage); /* also a large body missing */
	void *arg;
};

struct catalog_summary {
	uint64_t messages, done, revoked, uncommitted, duplicates;
	uint64_t corrupt_ranges, torn_ranges, missing_records;
	uint64_t bytes; /* of files read */
	int sync_error; /* errno of the last file that could not be synced before it was read, or 0 */
	bool newer;     /* records of a newer version were met: the store keeps their segments */
};

/* 0, what `message` returned, or -errno. Summary may be NULL. */
int catalog_replay(
    const struct catalog_options *options, struct catalog_summary *summary) MUST_CHECK;

/* One message by ID (relayctl show): gives its place, envelope and merged outcome (NULL: none).
 * -ENOENT: no such message, or done. Reads every segment's records until found. */
int catalog_find(int dirfd, uint64_t id, struct spool_location *at, struct envelope **envelope,
    struct journal_outcome **outcome) MUST_CHECK;

/* Follows live segments while intake writes: looks at the page and gives each newly committed
 * message, once. Owned by delivery; call catalog_follow() when the eventfd says so, and once a
 * second. */
struct catalog_follower;
/* Borrows all; `page` may not be NULL. */
int catalog_follower_open(int dirfd, struct spool_store *store, struct shared_page *page,
    struct catalog_follower **out) MUST_CHECK;
void catalog_follower_close(struct catalog_follower *f); /* NULL is fine */
/* For each catalog_segment that replay gave: LIVE ones are followed, the others are known. */
void catalog_follower_add(struct catalog_follower *f, const struct catalog_segment *s);
/* Gives at most `most` messages; returns how many (== most: call again), or -errno. Callbacks as in
 * catalog_options (message's envelope is set, outcome is NULL; `segment` comes when one was read to
 * its end: SEALED, or an orphan's that was read like after a crash; its `messages` is 0 here). */
int catalog_follow(
    struct catalog_follower *f, unsigned most, const struct catalog_options *options) MUST_CHECK;
/* Is it still being written, or not yet read to its end? Then it must not be freed. */
bool catalog_follower_is_live(const struct catalog_follower *f, uint32_t number);

#endif
