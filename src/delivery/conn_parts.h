/* conn_parts.h - what the files of a connection share, and nobody else: conn.c (its life, the pump, what its
 * owner asks), conn_connect.c (the way to the upstream), conn_wire.c (bytes out and in, through TLS or not),
 * conn_wait.c (how long for what). */
#ifndef RELAYD_DELIVERY_CONN_PARTS_H
#define RELAYD_DELIVERY_CONN_PARTS_H

#include "delivery/conn.h"
#include "delivery/resolver.h"
#include "smtp/buffer.h"

#define CONN_WIRE_MAX (256 * 1024) /* more waits until the socket takes some */
#define CONN_MARKS_MAX 64          /* more records than CONN_WIRE_MAX holds */

enum conn_phase { CONN_RESOLVE, CONN_CONNECT, CONN_TLS, CONN_SMTP };

/* Up to `plain` bytes of the client's out have left when `wire` bytes have. */
struct conn_mark {
	uint64_t plain, wire;
};

struct conn {
	struct conn_options o;
	struct conn_events on;
	void *ctx;
	enum conn_phase phase;
	bool pumping, readable_eof, dead, was_ready;
	struct smtp_client client;
	struct sasl *sasl;
	struct tls_session *tls;

	struct resolver_query *query;
	struct resolver_address addresses[RESOLVER_ADDRESSES_MAX];
	size_t n_addresses, address;
	char failures[400]; /* "192.0.2.1: Connection refused; ..." */
	char peer[320];

	int fd;
	struct event *readable, *writable, *timer, *kick;
	struct smtp_buffer plain_wire; /* what goes out without TLS */
	uint64_t wire_total, wire_sent, plain_total, plain_flushed;
	struct conn_mark marks[CONN_MARKS_MAX];
	unsigned n_marks;

	enum smtp_stage waits_for;
	uint64_t replies, wait_sent; /* at the start of this wait */
	int64_t wait_since_ms, deadline_ms;
	char *body;
};

/* conn.c. Does everything that can be done now: the last line of every callback of libevent. After it nobody
 * may touch `c`. */
void conn_pump(struct conn *c);
/* The connection ends in the pump's last line; only the first reason counts. */
void conn_fail(struct conn *c, enum smtp_end_kind kind, const struct smtp_trouble *trouble);
void conn_fail_words(struct conn *c, enum smtp_end_kind kind, const char *fmt, ...)
    PRINTF_LIKE(3, 4);
/* Of this upstream, for all connections to come. NEVER is for ever. Is it news? */
bool conn_learn(struct conn *c, enum smtp_client_overlap what);
void conn_remark(struct conn *c, const char *fmt, ...) PRINTF_LIKE(2, 3); /* '=' of trace() */

/* conn_connect.c. The first step; the others come from the event loop, up to CONN_SMTP or a failure. */
void conn_look_up(struct conn *c);
/* The address that is being tried is given up, for this errno: on to the next, or it fails. */
void conn_next_address(struct conn *c, int error);

/* conn_wire.c: the socket. Adds an event of it; NULL or no memory for it fails the connection. */
void conn_watch(struct conn *c, struct event *event);
void conn_close_socket(struct conn *c); /* and its events; nothing if there is none */
void conn_on_readable(evutil_socket_t fd, short what, void *arg);

/* conn_wire.c: the bytes. The client session's flight goes to the wire, with TLS in records as large as they
 * may be; from there the socket takes what it can, and the rest when it is writable. */
void conn_take_flight(struct conn *c);
void conn_flush(struct conn *c);
size_t conn_unsent_bytes(struct conn *c);
/* From here on everything goes through TLS. Fails the connection if that cannot be. */
void conn_begin_tls(struct conn *c);
/* A polite end of TLS, if the socket takes it; nothing depends on it. */
void conn_say_goodbye(struct conn *c);

/* conn_wait.c. After whatever may have ended one wait and begun another. */
void conn_set_deadline(struct conn *c);
void conn_on_timer(evutil_socket_t fd, short what, void *arg);

#endif
