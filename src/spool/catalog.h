/* catalog.h - everything on disk becomes the list of messages that are not done, and then what intake
 * adds to it. Delivery does this in steps: each gives some messages, so that the first of a million
 * are on their way while the others are still to be read. relayctl does it at one go when the daemon is
 * down (or to look without asking). It keeps no envelopes and no replies: about 5 bytes for a
 * message, and those only until all is read.
 *
 *   catalog_open()   journals --> which messages are done; first groups --> which never happened (REVOKE)
 *   catalog_step()   segments --> messages; at the same time what intake commits (shared_page.h) -->
 *                    messages, each once
 *
 * Delivery's segments are read before intake's, the newest first: of a message that was moved
 * (delivery/compaction.h) the newest copy is met first, and is the one that counts. Nothing is taken away,
 * and no slot of the page given back, before everything is read.
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
	/* merged; NULL: never tried. Recipients it does not name are queued. */
	const struct journal_outcome *outcome;
	uint32_t place;   /* of its outcomes, if options.places was given (journal.h) */
	uint32_t bytes;   /* of its records in the segment */
	bool uncommitted; /* found in a group without COMMIT: a possible duplicate (I4) */
};

/* A segment that was read to its end, after its messages. Delivery frees those with nothing left in
 * them, once everything is read. */
struct catalog_segment {
	uint32_t number;
	uint64_t bytes;    /* that were read */
	uint64_t messages; /* not done */
};

struct catalog_options {
	int dirfd;                 /* borrowed, as are the next two, as long as the catalog lives */
	struct spool_store *store; /* is told REVOKEs; NULL: one of its own */
	struct shared_page *page;  /* NULL: none, nothing is followed */
	struct journal_places
	    *places;   /* where outcomes stand outlives the catalog; NULL: it does not */
	bool distrust; /* sync and drop caches before reading (delivery; F8) */
	bool
	    sweep; /* quarantine what is CORRUPT; when all is read, take away large/ID that no message
		     * names (into quarantine/ if anything was corrupt), give slots of the page back, and tell
		     * what is missing */
	/* All optional but `message`. `message` may return -errno to stop: replay returns it. */
	int (*message)(void *arg, const struct catalog_message *m);
	void (*segment)(void *arg, const struct catalog_segment *s);
	/* Also a large body that is missing; with sweep, a message that only the journal knows (0 bytes, ENOENT). */
	void (*damage)(void *arg, const struct spool_damage *damage);
	void *arg;
};

struct catalog_summary {
	uint64_t messages, done, revoked, uncommitted, duplicates;
	uint64_t corrupt_ranges, torn_ranges, missing_records;
	uint64_t bytes;          /* of files read */
	size_t segments, unread; /* that were there at the start; those of them not read yet */
	int sync_error; /* errno of the last file that could not be synced before it was read, or 0 */
	bool newer;     /* records of a newer version were met: the store keeps their segments */
	bool ended_well; /* the last journal was closed in good order */
};

struct catalog;

/* Reads the journals and notes what is there to be read: from here on a new journal may begin. Gives
 * *out, ended by catalog_close(). -errno; -EPROTONOSUPPORT as in journal_scan_next(). */
int catalog_open(const struct catalog_options *options, struct catalog **out) MUST_CHECK;
/* Looks at about `most` messages of the past and at as many new ones, and at no more than a few MiB.
 * 1: there is more to be read now; 0: all that there is was given; -errno: call again later. -ESTALE: begin
 * anew, what was given may hold what a REVOKE names that could not be read at first. */
int catalog_step(struct catalog *c, unsigned most) MUST_CHECK;
/* A REVOKE may have been unreadable: until everything is read, or -ESTALE said, no message that was given
 * may be delivered (I6). */
bool catalog_is_unsure(const struct catalog *c);
/* Everything that was there at the start has been given, and swept. */
bool catalog_is_read(const struct catalog *c);
/* May more come from this segment, as far as is known? */
bool catalog_is_live(const struct catalog *c, uint32_t number);
/* Was this segment read to its end? Nothing more comes from it then. */
bool catalog_is_over(const struct catalog *c, uint32_t number);
/* So far; final when it is read. */
const struct catalog_summary *catalog_summary(const struct catalog *c);
void catalog_close(struct catalog *c); /* at any time. NULL is fine */

/* All of it at once, when nothing has to be followed. 0, what `message` returned, or -errno. Summary may
 * be NULL. */
int catalog_replay(
    const struct catalog_options *options, struct catalog_summary *summary) MUST_CHECK;

/* One message by ID (relayctl show): gives its place, envelope and merged outcome (NULL: none).
 * -ENOENT: no such message, or done. Reads every segment's records until found. */
int catalog_find(int dirfd, uint64_t id, struct spool_location *at, struct envelope **envelope,
    struct journal_outcome **outcome) MUST_CHECK;

#endif
