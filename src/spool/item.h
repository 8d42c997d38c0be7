/* item.h - what is given to a writer: the records of a message or of an outcome, which stand in one
 * group and so are durable together or not at all. */
#ifndef RELAYD_SPOOL_ITEM_H
#define RELAYD_SPOOL_ITEM_H

#include <stdint.h>
#include <sys/uio.h>

#include "base/base.h"
#include "base/span.h"
#include "spool/large.h"
#include "spool/record.h"
#include "spool/segment.h"

/* One record of an item. The writer fills header and trailer. */
struct spool_record {
	uint8_t type, flags;
	uint8_t trailer_bytes;
	uint32_t payload_bytes;
	const struct iovec *iov; /* borrowed until done() */
	int n_iov;
	struct iovec one; /* for a payload in one piece */
	uint8_t header[RECORD_HEADER_BYTES];
	uint8_t trailer[RECORD_TRAILER_MAX];
};

/* Caller's storage, borrowed from submit until done() has been called, which may free it. It may
 * not be dropped earlier: a session that gives up lets go of its item and leaves it to done(). */
struct spool_item {
	struct spool_item *next; /* the writer's, as is submitted_ms */
	uint64_t submitted_ms;
	struct spool_record records[2];
	int n_records;
	uint32_t above;      /* it goes into a segment with a higher number than this */
	struct large *large; /* taken by submit; NULL: none */
	void (*done)(struct spool_item *item, void *arg);
	void *arg;
	/* set before done(): */
	int result;
	struct spool_location location; /* of the first record, if result is 0 */
};

/* A message. `envelope` is what envelope_encode() gave; body in pieces (n_body 0 with `large`: the
 * body stands in large/ID; both empty: an empty body). All borrowed until done(); `large` is taken
 * by submit: it is closed whatever happens, and unlinked unless the result is 0 or -EIO. */
void spool_item_message(struct spool_item *item, struct span envelope, const struct iovec *body,
    int n_body, struct large *large);
/* A message that is in segment `from` already, to stand in a later one as well (spool_store_copy()): its
 * envelope and its body, NULL: that stands in large/. Borrowed until done(). With -EIO nobody knows
 * whether the copy is there: write it again. */
void spool_item_copy(
    struct spool_item *item, uint32_t from, struct span envelope, const struct iovec *body);
/* An outcome. `payload` is what journal_encode() gave, borrowed until done(). */
void spool_item_outcome(struct spool_item *item, struct span payload);

uint64_t spool_item_bytes(const struct spool_item *item); /* of its records in a file */

/* First in, first out. Does not own the items. */
struct item_list {
	struct spool_item *head, **tail;
};

void item_list_init(struct item_list *l);
void item_list_add(struct item_list *l, struct spool_item *item);
struct spool_item *item_list_take(struct item_list *l); /* NULL: it is empty */

#endif
