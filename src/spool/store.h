/* store.h - what delivery (and relayctl) does with messages that are in the spool: read an envelope or
 * a body by its place, set damaged bytes aside, free what is done. One per process; not
 * thread-safe. Keeps up to 32 segments open. */
#ifndef RELAYD_SPOOL_STORE_H
#define RELAYD_SPOOL_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/base.h"
#include "base/span.h"
#include "spool/envelope.h"
#include "spool/reader.h"
#include "spool/segment.h"
#include "spool/window.h"

struct spool_store;

/* Borrows dirfd until close. `read_only`: quarantine and the freeing calls return -EROFS. */
int spool_store_open(int dirfd, bool read_only, struct spool_store **out) MUST_CHECK;
void spool_store_close(struct spool_store *s); /* NULL is fine */

/* Gives the envelope (envelope_free()). -ENOENT: the segment is gone; -EBADMSG: damaged;
 * -EPROTONOSUPPORT: written by a newer version. */
int spool_store_envelope(
    struct spool_store *s, struct spool_location at, struct envelope **out) MUST_CHECK;

/* The same for a list, which asks for one after the other, mostly of neighbours. */
int spool_store_browse(struct spool_store *s, struct window *window, struct spool_location at,
    struct envelope **out) MUST_CHECK;

/* A message's records as they were written, to be written once more elsewhere: both are checked, and
 * what a newer version added to them is kept. Gives *out, ended by spool_copy_free(); -errno as
 * above, -ENOENT or -EBADMSG also if its body in large/ (which stays where it is) is not as its envelope
 * says. */
struct spool_copy {
	struct span envelope;
	struct iovec body;
	bool is_large; /* the body stands in large/ID: no second record */
	void *envelope_record, *body_record;
};
int spool_store_copy(
    struct spool_store *s, struct spool_location at, struct spool_copy *out) MUST_CHECK;
void spool_copy_free(struct spool_copy *copy);

/* How large the segment's file is. */
int spool_store_file_bytes(struct spool_store *s, uint32_t number, uint64_t *out) MUST_CHECK;

/* A body, read in order or at random. A body in the segment is checked whole at open (at most 4 MiB
 * read); one in large/ is checked while it is read in order: the read that reaches its last byte
 * returns -EBADMSG if the sum of all is wrong, so that the last byte of a damaged body never
 * leaves. Reading backwards from a large body starts the check anew at offset 0. */
struct spool_body;
int spool_store_body(struct spool_store *s, struct spool_location at, const struct envelope *e,
    struct spool_body **out) MUST_CHECK;
uint64_t spool_body_bytes(const struct spool_body *b);
/* Returns the number of bytes, 0 at the end, or -errno. */
ssize_t spool_body_read(struct spool_body *b, uint64_t offset, void *buf, size_t len) MUST_CHECK;
void spool_body_close(struct spool_body *b); /* NULL is fine; may outlive the store */

/* Both of a message whose records have about `bytes` bytes, in one read if that is not too few. As
 * spool_store_envelope() and spool_store_body(); nothing is given if one of them fails. */
int spool_store_message(struct spool_store *s, struct spool_location at, size_t bytes,
    struct envelope **envelope, struct spool_body **body) MUST_CHECK;

/* Copies a damaged range into quarantine/FILE.OFFSET-LENGTH (synced); over an earlier copy of it, but what
 * cannot be read now stays as it is there. -errno: not all of it is set aside. */
int spool_store_quarantine(struct spool_store *s, const struct spool_damage *damage) MUST_CHECK;

/* Freeing. First the outcomes must be durable (I3). */
/* large/ID away (the directory is synced with the segment's freeing; before that the DONE outcome
 * alone keeps the message from coming back). -ENOENT counts as done. */
int spool_store_free_large(struct spool_store *s, uint64_t id) MUST_CHECK;
/* All messages of the segment are done: it becomes free-N.seg or goes away, and the directory is
 * synced. -EBUSY: it holds a REVOKE for a segment that is still there; it is freed together with
 * that one, by itself: count it as freed. (Or spool_store_keep() was said.) */
int spool_store_free_segment(struct spool_store *s, uint32_t number) MUST_CHECK;
/* Would that be -EBUSY? */
bool spool_store_is_kept(struct spool_store *s, uint32_t number);
/* Catalog and follower tell the store of each REVOKE they meet, so that it knows what hangs together. */
void spool_store_note_revoke(
    struct spool_store *s, uint32_t holder, const struct record_revoke *revoke);
/* It was closed in good order, so it may be recycled. One that ended in a crash or an error goes away
 * instead when it is freed: after an error a file is never written again (I5). */
void spool_store_note_clean(struct spool_store *s, uint32_t number);
/* Does its name stand in the directory? (True as well where that cannot be told.) */
bool spool_store_is_there(struct spool_store *s, uint32_t number);
/* The segment is never to be freed by this process: it holds what could not be set aside. */
void spool_store_keep(struct spool_store *s, uint32_t number);
/* Is this record revoked? (By a REVOKE that was noted.) */
bool spool_store_is_revoked(const struct spool_store *s, uint32_t segment, uint64_t seq);

#endif
