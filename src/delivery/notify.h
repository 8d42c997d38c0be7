/* notify.h - who is told, and how: RFC 3464 DSNs to senders, notices to the postmaster, delay warnings.
 * Each is a message of relayd's own: made durable like any other before the outcome that owes it,
 * and relayed like any other.
 *
 *   sender       a recipient failed        -> DSN to the sender (not with NOTIFY=NEVER)
 *   <>           a recipient failed        -> notice to the postmaster
 *   the notice itself failed, or there is no postmaster, or too many DSNs this hour -> held
 *   NOTIFY=SUCCESS and an upstream without DSN -> "relayed" DSN
 * There is never a DSN for <>, so nothing can loop. */
#ifndef RELAYD_DELIVERY_NOTIFY_H
#define RELAYD_DELIVERY_NOTIFY_H

#include <stdbool.h>

#include "delivery/outcome.h"

struct notify;

struct notify *notify_new(struct delivery *d);
void notify_free(struct notify *n); /* NULL is fine */

/* Decides and writes what is owed into o->letters; turns BOUNCED into HELD where nobody can be
 * told. -ENOSPC: the spool has had no room for a letter since the start; nothing was changed, ask again. */
int notify_prepare(struct outcome *o) MUST_CHECK;
/* Makes o->letters durable; true: outcome_journal() will be called (or it joins those that failed).
 * False: there are none (left). */
bool notify_send(struct outcome *o) MUST_CHECK;
void notify_drop(struct outcome *o);

/* Writes a message of relayd's own; `done` says the result, and gives its ID. Borrows until then. */
struct letter {
	struct spool_item item;
	struct outcome *outcome; /* whose it is; NULL: `relayctl test` */
	struct delivery *d;
	uint64_t id;
	void *envelope;
	size_t envelope_len;
	char *text;
	struct iovec body;
	void (*done)(struct letter *letter, int result); /* outcome is NULL: it owns the letter */
	void *arg;
};

/* Gives a letter ready for notify_submit(). `text` (CRLF form) is taken. */
int notify_compose(struct delivery *d, struct span sender, struct span recipient, char *text,
    size_t len, bool is_8bit, bool is_utf8, bool is_dsn, struct letter **out) MUST_CHECK;
void notify_submit(struct letter *letter);
void notify_letter_free(struct letter *letter);

#endif
