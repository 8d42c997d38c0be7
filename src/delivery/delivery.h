/* delivery.h - what the parts of the delivery worker share: one struct delivery for the process.
 *
 *   segments --catalog-> queue --upstream_link.c--> conn --verdicts--> attempt.c --outcome.c--> journal
 *                          ^                                               |                       |
 *                          +--------------------- not done ----------------+---- notify.c (DSN) ---+
 *
 * Everything runs in the event loop's thread; the writers' threads are behind spool/writer.h. Each
 * callback changes one thing and calls delivery_kick(); the pump (delivery.c) does the rest once. */
#ifndef RELAYD_DELIVERY_DELIVERY_H
#define RELAYD_DELIVERY_DELIVERY_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/loop.h"
#include "delivery/mail.h"
#include "delivery/queue.h"
#include "delivery/retry.h"
#include "spool/catalog.h"
#include "spool/in_flight.h"
#include "spool/shared_page.h"
#include "spool/store.h"
#include "spool/writer.h"

struct compaction;
struct history;
struct notify;
struct outcomes;
struct resolver;
struct upstream;

struct delivery_counts { /* since the start; recipients, but for the last three */
	uint64_t delivered, deferred, bounced, held, removed;
	uint64_t possible_duplicates;
	uint64_t dsn, messages;
};

struct delivery {
	const struct config *config;
	struct retry_policy retry;
	struct loop *loop;
	struct event_base *base;
	int dirfd; /* the spool directory */
	struct shared_page *page;
	int wake_fd;
	struct spool_store *store;
	struct catalog *catalog;      /* what is on disk, and what intake adds */
	struct spool_writer *journal; /* outcomes */
	struct spool_writer *letters; /* messages that relayd itself writes */
	struct in_flight *in_flight;
	struct queue *queue;
	struct mail_places *places;
	struct history *history;
	struct outcomes *outcomes;
	struct notify *notify;
	struct compaction *compaction;
	struct resolver *resolver;
	struct upstream **upstreams; /* as in config->upstreams */
	/* `relayctl test` takes the message that it wrote as soon as it is met; true: it has it. */
	bool (*claim)(void *arg, struct queue_entry *e);
	void *claim_arg;
	struct delivery_counts counts;
	uint64_t started_ms;     /* wall clock */
	uint64_t opened_ms;      /* steady clock: when the spool was */
	uint64_t look_ms;        /* steady clock: when to look for removed files */
	int64_t wall_minus_boot; /* what the wall clock said, to see it jump */
	bool stopping, quick;
	bool is_full; /* outcomes wait for the disk: nothing new goes out */
	bool is_read; /* everything that was on disk at the start is in the queue */
	bool was_foretold, read_failed;
	int spool_error; /* errno with which a writer failed last */
	struct event *pump, *tick, *wake, *journal_ready, *letters_ready, *timer, *drain;
};

/* Opens spool, queue and upstreams; as soon as the loop turns what is on disk is read, in steps, and mail
 * flows. Borrows all it is given. On failure says on the log why and gives nothing. */
struct delivery_options {
	const struct config *config;
	struct loop *loop;
	int dirfd;
	struct shared_page *page;
	int wake_fd;
};
int delivery_open(const struct delivery_options *options, struct delivery **out) MUST_CHECK;
void delivery_close(struct delivery *d); /* NULL is fine */

/* Something changed: the pump runs before the loop waits again. Cheap, from anywhere. */
void delivery_kick(struct delivery *d);
/* Loop's on_stop: finish what is in flight within config->drain_ms, then loop_end(). */
void delivery_stop(struct delivery *d, bool quick);
/* The supervisor ran a password-command. */
void delivery_password(struct delivery *d, unsigned upstream, int status, struct span secret);

/* Why nothing goes out at all; "": it does. For status. */
const char *delivery_paused(const struct delivery *d);

/* Which upstream takes this message. The first one, for now. */
unsigned delivery_route(const struct delivery *d, const struct envelope *envelope);

/* Age of a queued message, on the steady clock. */
uint64_t delivery_age_ms(const struct delivery *d, const struct queue_entry *e);

uint32_t delivery_random(void); /* for jitter */

#endif
