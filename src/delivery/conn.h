/* conn.h - one connection to an upstream: look up, connect, TLS, EHLO, AUTH, then jobs. It drives
 * the pure client (smtp/client.h) with a socket, OpenSSL (tls.h), names (resolver.h) and a clock.
 *
 * What holds:
 *  - every wait has a deadline: the whole reply, the whole command, and a least rate for the body;
 *  - nothing is sent before TLS is verified unless the upstream is configured with tls = none (I11);
 *  - every recipient of every job taken gets exactly one verdict, then the job gets finished();
 *  - every connection ends in exactly one closed(), after the verdicts of its unfinished jobs
 *    (VERDICT_UNSENT, or VERDICT_UNKNOWN if the final dot had gone out). After it the conn is gone.
 *
 *   conn_open ─▶ resolve ▶ connect ▶ (tls) ▶ greeting ▶ ehlo ▶ (starttls ▶ tls ▶ ehlo) ▶ auth ─▶ ready()
 *   ready(): conn_send() as long as conn_room() > 0, or leave it idle, or conn_quit()
 *
 * Events are never delivered from inside conn_open(), conn_send() or conn_quit(); they come from the
 * event loop. conn_send(), conn_quit(), conn_drop() may be called from inside any event but closed(). */
#ifndef RELAYD_DELIVERY_CONN_H
#define RELAYD_DELIVERY_CONN_H

#include <stdbool.h>
#include <stdint.h>
#include <event2/event.h>

#include "base/config.h"
#include "base/span.h"
#include "delivery/job.h"
#include "smtp/capability.h"
#include "smtp/client.h"

struct conn;
struct resolver;
struct tls_client;

/* How and why a connection ended. `kind` is what to classify by, stage where it happened; reply is
 * the upstream's last word if it has to do with the end (code 0: none). why and fix are for people:
 * why always, fix "" if there is nothing to change. Kinds: smtp/client.h. */
struct conn_end {
	enum smtp_end_kind kind;
	enum smtp_stage stage;
	struct upstream_reply reply;
	char why[512];
	char fix[512];
	bool was_ready;     /* had it ever been ready()? */
	bool is_distrusted; /* news: it was out of step (client.h): one message at a time */
	unsigned served;    /* jobs accepted for at least one recipient */
};

struct conn_events {
	/* It is logged in or has finished something: it has room for another job. Comes again each
	 * time that room appears; more than one job may be given (conn_room()). With PIPELINING it
	 * comes when a job's body is about to go out, so that the next envelope travels with it; with
	 * CHUNKING as long as its window has room. */
	void (*ready)(void *ctx, struct conn *conn);
	/* The one verdict on recipient `i` of the job (index into job->envelope.recipients). */
	void (*recipient)(void *ctx, struct conn *conn, struct delivery_job *job, size_t i,
	    const struct upstream_reply *reply, enum verdict verdict);
	/* All verdicts of the job are given; the connection has forgotten it. */
	void (*finished)(void *ctx, struct conn *conn, struct delivery_job *job);
	/* The last call. The conn may not be used any more. */
	void (*closed)(void *ctx, struct conn *conn, const struct conn_end *end);
	/* May be NULL. One line of the dialogue for `relayctl test`: '>' sent, '<' received, '=' a
	 * remark (TLS version, address). Secrets are masked where the line is made. */
	void (*trace)(void *ctx, struct conn *conn, char direction, struct span line);
};

struct conn_options {
	struct event_base *base; /* borrowed for the conn's life, as the next four */
	struct resolver *resolver;
	const struct config_upstream *upstream;
	struct tls_client *tls; /* one per upstream (tls.h); NULL with tls = none */
	const char *helo;       /* what EHLO says */
	struct span
	    secret; /* password or token; borrowed during conn_open() only. data NULL: none */
	unsigned
	    window; /* whole messages in flight with CHUNKING (what one lost connection may duplicate);
	                    0: CONN_WINDOW. Without CHUNKING 2: one body and the next envelope. */
};

#define CONN_WINDOW 8

/* Gives a connection that is ended by closed(). Never fails: what goes wrong comes as closed(). */
struct conn *conn_open(
    const struct conn_options *options, const struct conn_events *events, void *ctx);

/* Jobs that conn_send() would take now; 0 before the first ready(), when full, and when ending. */
unsigned conn_room(const struct conn *conn);
/* Jobs taken and not finished. */
unsigned conn_jobs(const struct conn *conn);

/* Takes a job (borrows it until finished()). -EAGAIN: no room. */
int conn_send(struct conn *conn, struct delivery_job *job) MUST_CHECK;

/* Finishes the jobs taken, says QUIT and ends with SMTP_END_QUIT. It does so by itself when
 * messages-per-connection or the upstream's MAILMAX is reached. */
void conn_quit(struct conn *conn);

/* Ends at once with SMTP_END_DROPPED, from the event loop. */
void conn_drop(struct conn *conn);

/* The most recipients one job should have: the smaller of recipients-per-message and the upstream's
 * RCPTMAX (known from the first ready() on). */
unsigned conn_recipients_max(const struct conn *conn);

/* From the last EHLO; NULL before the first ready(). SMTP_CAP_DSN: NOTIFY, RET etc. were passed on;
 * without it a NOTIFY=SUCCESS wants a "relayed" DSN from us. */
const struct smtp_capabilities *conn_capabilities(const struct conn *conn);

/* For status and logs: "smtp.example.com:587 (192.0.2.1)", "TLSv1.3 TLS_AES_256_GCM_SHA384"; "". */
const char *conn_peer(const struct conn *conn);
const char *conn_tls(const struct conn *conn);
const char *conn_auth(const struct conn *conn); /* the mechanism used; "" */

/* What it waits for, in words ("waiting for its greeting"), and how long now. */
const char *conn_waiting(const struct conn *conn, uint64_t *waited_ms);

void *conn_ctx(const struct conn *conn);

#endif
