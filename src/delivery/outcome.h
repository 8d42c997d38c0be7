/* outcome.h - what became of recipients: first the sender is told (notify.h) if somebody must be,
 * then it is made durable in the journal, then it takes effect in the queue, and only then is
 * anything freed (I3). A crash in between repeats the attempt or the DSN, never loses one (I4).
 *
 * While the journal fails outcomes wait here and nothing new is sent (I5, F9); they are written again
 * when it works. */
#ifndef RELAYD_DELIVERY_OUTCOME_H
#define RELAYD_DELIVERY_OUTCOME_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "delivery/mail.h"
#include "smtp/reply.h"
#include "spool/writer.h"

struct delivery;
struct letter;

struct outcome_change {
	bool is_set;
	bool is_relayed; /* DELIVERED to an upstream that does not do DSN: NOTIFY=SUCCESS is ours */
	bool is_operators; /* an operator did it, or can mend it */
	uint8_t state;     /* enum journal_state */
	enum smtp_stage stage;
	uint16_t code;
	char enhanced[12];
	char *text;      /* the upstream's words or ours; owned */
	const char *fix; /* a literal, for the log */
};

struct outcome {
	struct delivery *d;
	struct mail *message;           /* owned; its states change when the outcome is applied */
	struct outcome_change *changes; /* one for each of its recipients */
	uint64_t wait_ms;               /* for recipients that are DEFERRED by this */
	uint64_t now_ms;                /* wall clock */
	unsigned duplicates;            /* possible ones that this attempt has added */
	bool hold;                      /* the message, afterwards */
	bool warn;                      /* tell the sender that it is late */
	bool must_write;                /* also if no recipient changes (a release, a move) */
	bool is_complete;               /* the record in the journal names every recipient */
	bool is_quiet;                  /* no DSN, whatever the states: the operator said remove */
	uint32_t flight; /* its mark in d->in_flight, 0: none: nothing has left yet */
	const char *upstream;
	/* Told when it is durable and applied; the entry is gone if the message was done. */
	void (*done)(struct outcome *o, void *arg);
	/* Told once if it has to wait for a spool that does not work; done() comes later all the same.
	 * NULL is fine. */
	void (*stalled)(struct outcome *o, void *arg);
	void *arg;

	/* outcome.c's */
	bool is_prepared; /* its letters are composed, or it needs none */
	struct letter *letters;
	struct spool_item item;
	void *payload;
	struct outcome *next;
};

struct outcomes;

struct outcomes *outcomes_new(struct delivery *d);
void outcomes_free(struct outcomes *all);

/* Takes the message (its entry should be ACTIVE or HELD, so that nobody else does). */
struct outcome *outcome_new(struct delivery *d, struct mail *m);
void outcome_set(struct outcome *o, size_t i, enum journal_state state,
    const struct upstream_reply *reply, const char *fix);
void outcome_drop(struct outcome *o); /* nothing happened; frees the message too */
/* Takes it. Nothing set and nothing to say: it takes effect at once, and done() comes now. */
void outcome_commit(struct outcome *o);

/* Next step of one whose letters are durable, or could not be made so (notify.c). */
void outcome_journal(struct outcome *o);
void outcome_wait(struct outcome *o);

size_t outcomes_waiting(const struct delivery *d); /* not yet durable */
/* With more on their way to the disk nothing new is sent: each would be repeated if we died now. */
#define OUTCOMES_WAITING_MAX 256
bool outcomes_are_failed(const struct delivery *d); /* some wait for a spool that does not work */
/* Try again what failed, if the spool works. */
void outcomes_pump(struct delivery *d);

#endif
