/* wire.h - one connection of the benchmark's generator or sink: bytes in, bytes out, TLS from the
 * start or later. Small on purpose, so that neither end is what limits a measurement: one buffer each
 * way, one write for all that a callback said, no copy that TLS does not need. */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <event2/event.h>
#include <openssl/ssl.h>

struct bytes {
	char *data;
	size_t begin, end, size; /* what counts is data[begin..end) */
};

struct wire {
	int fd;
	SSL *ssl; /* NULL: in clear */
	bool is_shaking, wants_close, is_closed;
	struct bytes in, out;
	struct event *readable, *writable;
	/* Called with new input; takes what it can by wire_drop(). Must not free the wire. */
	void (*on_input)(struct wire *, void *arg);
	void (*on_connected)(struct wire *, void *arg); /* once, may be NULL */
	void (*on_shaken)(struct wire *, void *arg);    /* the TLS handshake is done; may be NULL */
	void (*on_closed)(struct wire *, void *arg);    /* last call: may free the wire */
	void *arg;
};

/* Takes fd (connected or connecting). The caller has set the callbacks. */
void wire_open(struct wire *w, struct event_base *base, int fd);
void wire_start_tls(struct wire *w, SSL_CTX *context, bool is_server, SSL_SESSION *resume);
void wire_write(
    struct wire *w, const void *data, size_t length); /* sent when the callback returns */
void wire_close(struct wire *w);                      /* once all is written */

static inline char *
wire_input(const struct wire *w)
{
	return w->in.data + w->in.begin;
}

static inline size_t
wire_available(const struct wire *w)
{
	return w->in.end - w->in.begin;
}

static inline void
wire_drop(struct wire *w, size_t length)
{
	w->in.begin += length;
}

/* Takes one line off the input, ended by NUL instead of CR LF; NULL if there is none yet. Valid until
 * the callback returns. */
char *wire_line(struct wire *w);

#endif
