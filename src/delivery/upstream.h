/* upstream.h - one smarthost: its connections, breaker, pace and secret, and the messages on their way
 * through it. Nothing in here assumes that there is one upstream.
 *
 *   link     one connection (conn.h) and what is known about it
 *   attempt  one message on a link, for some or all of its recipients
 *
 * What becomes of a verdict stands in on_recipient() (upstream_link.c); what a login, a verdict or a dead
 * connection means for the upstream stands in upstream_health.c. */
#ifndef RELAYD_DELIVERY_UPSTREAM_H
#define RELAYD_DELIVERY_UPSTREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "delivery/breaker.h"
#include "delivery/classify.h"
#include "delivery/pace.h"
#include "delivery/queue.h"
#include "delivery/secret.h"

struct delivery;
struct link;
struct tls_client;
struct upstream_reply;

struct upstream {
	struct delivery *d;
	const struct config_upstream *config;
	unsigned index;
	struct secret *secret;
	struct tls_client *tls;
	struct breaker breaker;
	struct pace pace;
	struct link *links;
	unsigned n_links; /* `relayctl test`'s not counted */
	unsigned cap;     /* connections at once, until cap_until_ms; 0: as configured */
	uint64_t cap_until_ms;
	uint64_t wait_until_ms; /* pace: nothing before that */
	bool is_daily;          /* the day's number is reached */
	bool is_waiting;        /* for a password-command */
	uint64_t asked_ms;      /* for it */
	bool is_switched;       /* it was told that others take its mail */
	bool was_warned;        /* of its secret's permissions */
	bool was_silent;        /* it was told that it does not answer */

	/* for people */
	uint64_t since_ms;        /* wall clock: up or down since; 0: never used */
	uint64_t last_success_ms; /* wall clock: a message was accepted */
	uint64_t delivered;
	uint64_t sessions; /* opened since the start */
	char why[1024], fix[1024], last_error[1024];
};

struct upstream *upstream_new(struct delivery *d, unsigned index);
/* At the start: that there is no password is told before there is mail. (A password-command has its own time.) */
void upstream_look_at_secret(struct upstream *u);
void upstream_free(struct upstream *u); /* NULL is fine; its links are gone */

/* Sends what may be sent now. Returns when to call again at the latest (boot ms). */
uint64_t upstream_pump(struct upstream *u, uint64_t now_ms);
/* Once a second: idle connections, changed secrets. */
void upstream_tick(struct upstream *u, uint64_t now_ms);
/* An operator mended something: probe at once. */
void upstream_nudge(struct upstream *u);
void upstream_password(struct upstream *u, int status, struct span secret);
/* Finish what is in flight and hang up; `quick`: hang up. */
void upstream_stop(struct upstream *u, bool quick);
bool upstream_is_quiet(const struct upstream *u); /* no link left */

/* Nothing works and a connection waits to be made: what for, in words, and how long now. NULL: not so. */
const char *upstream_silence(const struct upstream *u, uint64_t *silent_ms);

unsigned upstream_connections_max(const struct upstream *u, uint64_t now_ms);

/* `relayctl test`: takes one message by a connection of its own, whatever the breaker says. */
struct upstream_watch {
	void (*step)(void *arg, const char *text);
	void (*line)(void *arg, char direction, struct span line);
	/* The last call. delivered: reply is what the upstream said. Else phase, why and fix say
	 * what failed. The message is still in the queue unless it was delivered. */
	void (*ended)(
	    void *arg, bool delivered, const char *phase, const char *why, const char *fix);
	void *arg;
};
/* Borrows the watch until ended() or upstream_unwatch(). `e` is ACTIVE. */
struct link *upstream_test(
    struct upstream *u, struct queue_entry *e, const struct upstream_watch *watch);
void upstream_unwatch(struct link *link);

#endif
