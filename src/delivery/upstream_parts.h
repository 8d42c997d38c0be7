/* upstream_parts.h - what the three files of an upstream share, and nobody else: upstream.c (when connections are
 * opened and closed), upstream_link.c (one connection, and the messages on it), upstream_health.c (up, down or to
 * be spared). Each knows only those after it. */
#ifndef RELAYD_DELIVERY_UPSTREAM_PARTS_H
#define RELAYD_DELIVERY_UPSTREAM_PARTS_H

#include "delivery/job.h"
#include "delivery/upstream.h"

struct attempt;
struct conn;
struct conn_end;

struct link {
	struct upstream *u;
	struct conn *conn;
	bool is_ready, is_probe, is_ending;
	bool probe_sent;
	uint64_t idle_since_ms;
	struct attempt *returned; /* unsent: what it means is known when the link has closed */
	/* relayctl test */
	bool is_test;
	struct queue_entry *test_entry; /* until it is sent */
	const struct upstream_watch *watch;
	bool told; /* ended() was called */
	struct link *next, *prev;
};

/* upstream_link.c. Opens one and puts it into u->links, where it stays until it is closed. `secret` is borrowed for
 * the call; watch: of relayctl test, or NULL. */
struct link *upstream_link_open(
    struct upstream *u, struct span secret, const struct upstream_watch *watch);
/* Gives it as many of the upstream's messages as it and the pace take. */
void upstream_link_feed(struct link *link, uint64_t now_ms);

/* upstream_health.c: what has happened. */
void upstream_note_login(struct upstream *u);
/* f: what the reply means (attempt.h). */
void upstream_note_verdict(struct upstream *u, const struct upstream_reply *reply,
    enum verdict verdict, const struct failure *f);
/* A link has died: is the upstream down? */
void upstream_blame(struct link *link, const struct conn_end *end);
/* It is down: nothing more goes out, and the log has it if it was not down before. fix may be NULL. */
void upstream_fail(struct upstream *u, enum breaker_cause cause, bool by_message, const char *why,
    const char *fix);

/* upstream_health.c: questions. How many links could carry mail now? */
unsigned upstream_count_ready_links(const struct upstream *u);
/* Did the connection end in the middle of a message? */
bool upstream_end_is_amid_message(const struct conn_end *end);

/* upstream_health.c. password-command should run again, but not all the time. */
void upstream_ask_password(struct upstream *u, uint64_t now_ms);
/* It is given up after minutes, as RFC 5321 has it: somebody looks at the log before. */
void upstream_warn_of_silence(struct upstream *u);

#endif
