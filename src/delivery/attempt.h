/* attempt.h - one message on its way through one connection: lends the message to the connection as a
 * job, and turns the verdicts on its recipients into an outcome. */
#ifndef RELAYD_DELIVERY_ATTEMPT_H
#define RELAYD_DELIVERY_ATTEMPT_H

#include <stdbool.h>
#include <stddef.h>

#include "delivery/classify.h"
#include "delivery/job.h"

struct delivery;
struct queue_entry;
struct spool_body;
struct upstream;

struct attempt {
	struct delivery_job job; /* first: it is the attempt */
	struct delivery *d;
	struct upstream *u;
	struct outcome *outcome; /* holds the message */
	struct spool_body *body;
	struct smtp_envelope_recipient *recipients; /* of this attempt; ->index is the message's */
	bool *split;                                /* refused only because they were too many */
	size_t accepted;
	bool is_returned; /* something came back unsent, or with 421 */
	struct attempt *next;
};

/* Takes the ACTIVE entry and reads its message. False: it cannot be read; it was put away (held or
 * deferred) and told. */
bool attempt_new(struct delivery *d, struct upstream *u, struct queue_entry *e,
    unsigned recipients_max, struct attempt **out) MUST_CHECK;
struct delivery_job *attempt_job(struct attempt *a);
struct queue_entry *attempt_entry(struct attempt *a);

/* One recipient's verdict; *f says what it means if it was a refusal. `passes_dsn`: the upstream was
 * told NOTIFY. */
void attempt_verdict(struct attempt *a, size_t i, const struct upstream_reply *reply,
    enum verdict verdict, bool passes_dsn, struct failure *f);
/* Did (part of) it come back without counting? Then it ends when the connection has closed. */
bool attempt_is_returned(const struct attempt *a);
/* It counts after all: connections die on this message. */
void attempt_blame(struct attempt *a, enum smtp_stage stage, const char *why);

void attempt_end(struct attempt *a);    /* the outcome goes its way */
void attempt_cancel(struct attempt *a); /* never sent: back to the front of the queue */

#endif
