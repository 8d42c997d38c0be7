/* conn_wire.c - the bytes between the client session and the upstream (conn.h): the socket's only send() and
 * recv(), TLS between them and the session, and the account of what may have left.
 *
 * Bytes out: the client composes a flight, it is encrypted at once into the wire's buffer, and one send()
 * takes it (TCP_NODELAY, so the final dot never waits for an ACK). `plain_flushed` says how many of the
 * client's bytes may have left: that is what tells UNSENT from UNKNOWN (C3). */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "delivery/conn_parts.h"
#include "delivery/sasl.h"
#include "delivery/tls.h"

#define READ_BYTES 16384
#define RECORD_BYTES 16384 /* plain bytes of one TLS record */

/* ---- the socket ---- */

void
conn_watch(struct conn *c, struct event *event)
{
	if (event == NULL || event_add(event, NULL) < 0)
		conn_fail_words(
		    c, SMTP_END_LOST, "the connection cannot be watched: out of memory");
}

void
conn_close_socket(struct conn *c)
{
	struct event **events[] = { &c->readable, &c->writable };

	for (size_t i = 0; i < ARRAY_LEN(events); i++) {
		if (*events[i] != NULL)
			event_free(*events[i]);
		*events[i] = NULL;
	}
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

/* ---- bytes out ---- */

static struct smtp_buffer *
wire(struct conn *c)
{
	return c->tls != NULL ? tls_session_output(c->tls) : &c->plain_wire;
}

static void
advance_flushed(struct conn *c)
{
	unsigned n = 0;

	if (c->tls == NULL) {
		c->plain_flushed = c->wire_sent;
		return;
	}
	while (n < c->n_marks && c->marks[n].wire <= c->wire_sent)
		c->plain_flushed = c->marks[n++].plain;
	memmove(c->marks, c->marks + n, (c->n_marks - n) * sizeof(c->marks[0]));
	c->n_marks -= n;
}

size_t
conn_unsent_bytes(struct conn *c)
{
	return wire(c)->len;
}

void
conn_flush(struct conn *c)
{
	struct smtp_buffer *out = wire(c);

	while (out->len > 0 && c->fd >= 0) {
		ssize_t n = send(c->fd, out->data + out->start, out->len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			conn_watch(c, c->writable);
			return;
		}
		if (n < 0) {
			/* What the upstream said before it closed may still be unread: let the reader
			 * find it, and the EOF behind it; which comes also if only we are in trouble. */
			shutdown(c->fd, SHUT_WR);
			c->wire_total -= out->len;
			smtp_buffer_clear(out);
			if (c->readable_eof)
				conn_fail_words(c, SMTP_END_LOST,
				    "the connection broke while %s: %s",
				    smtp_stage_phrase(smtp_client_waits_for(&c->client)),
				    strerror(errno));
			return;
		}
		smtp_buffer_drain(out, (size_t)n);
		c->wire_sent += (uint64_t)n;
		advance_flushed(c);
	}
}

static void
mark(struct conn *c)
{
	if (c->n_marks == CONN_MARKS_MAX)
		c->n_marks--; /* coarser: the later mark covers both */
	c->marks[c->n_marks++] = (struct conn_mark){ c->plain_total, c->wire_total };
}

void
conn_take_flight(struct conn *c)
{
	struct span out = smtp_buffer_span(&c->client.out);

	if (c->tls == NULL) {
		smtp_buffer_add(&c->plain_wire, out);
		c->plain_total += out.len;
		c->wire_total += out.len;
	}
	while (c->tls != NULL && out.len > 0) {
		size_t n = out.len < RECORD_BYTES ? out.len : RECORD_BYTES;
		size_t before = wire(c)->len;

		if (!tls_session_write(c->tls, (struct span){ out.data, n })) {
			conn_fail(c, SMTP_END_LOST, tls_session_trouble(c->tls));
			break;
		}
		c->plain_total += n;
		c->wire_total += wire(c)->len - before;
		mark(c);
		out = span_skip(out, n);
	}
	smtp_client_wrote(&c->client);
}

void
conn_say_goodbye(struct conn *c)
{
	struct smtp_buffer *out;

	if (c->tls == NULL || c->fd < 0 || c->client.end != SMTP_END_QUIT)
		return;
	tls_session_shutdown(c->tls);
	out = tls_session_output(c->tls);
	if (out->len > 0 &&
	    send(c->fd, out->data + out->start, out->len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;
}

/* ---- TLS ---- */

static void
shake_hands(struct conn *c)
{
	enum tls_result r = tls_session_handshake(c->tls);

	/* What the handshake wrote (or the alert that ends it) is on its way in any case. */
	c->wire_total = c->wire_sent + wire(c)->len;
	if (r == TLS_FAILED) {
		conn_flush(c);
		conn_fail(c, SMTP_END_TLS, tls_session_trouble(c->tls));
	} else if (r == TLS_DONE) {
		conn_remark(c, "%s", tls_session_name(c->tls));
		c->phase = CONN_SMTP;
		c->plain_total = c->plain_flushed = c->client.out_total;
		sasl_set_tls(c->sasl, c->tls);
		smtp_client_secured(&c->client);
	}
}

void
conn_begin_tls(struct conn *c)
{
	if (c->o.tls == NULL) {
		conn_fail_words(c, SMTP_END_TLS, "TLS could not be set up here");
		return;
	}
	c->tls = tls_session_new(c->o.tls);
	c->wire_total = c->wire_sent = 0; /* the plain phase carried no message */
	c->phase = CONN_TLS;
	shake_hands(c);
}

/* ---- bytes in ---- */

static void
read_tls(struct conn *c, struct span bytes)
{
	char plain[READ_BYTES];
	enum tls_result r = TLS_DONE;
	size_t len;

	tls_session_input(c->tls, bytes);
	if (c->phase == CONN_TLS)
		shake_hands(c);
	while (c->phase == CONN_SMTP && c->client.end == SMTP_END_NONE && r == TLS_DONE) {
		size_t before = wire(c)->len;

		r = tls_session_read(c->tls, plain, sizeof(plain), &len);
		c->wire_total += wire(c)->len - before; /* a KeyUpdate is answered */
		if (len > 0)
			smtp_client_input(&c->client, (struct span){ plain, len });
	}
	if (r == TLS_EOF)
		c->readable_eof = true;
	else if (r == TLS_FAILED) /* with a remedy it is no accident: our certificate was refused */
		conn_fail(c,
		    tls_session_trouble(c->tls)->fix[0] != '\0' ? SMTP_END_TLS : SMTP_END_LOST,
		    tls_session_trouble(c->tls));
}

static void
lost(struct conn *c, int error)
{
	struct smtp_trouble trouble = { 0 };

	if (c->phase == CONN_SMTP && (error == 0 || c->client.closing)) {
		smtp_client_eof(&c->client);
		return;
	}
	smtp_trouble_why(&trouble, "the upstream closed the connection while %s%s%s",
	    smtp_stage_phrase(
	        c->phase == CONN_TLS ? SMTP_STAGE_TLS : smtp_client_waits_for(&c->client)),
	    error != 0 ? ": " : "", error != 0 ? strerror(error) : "");
	if (c->phase == CONN_TLS)
		smtp_trouble_fix(&trouble,
		    "check port and tls of upstream \"%s\": 465 wants tls = implicit, 587 and 25 "
		    "want tls = "
		    "starttls",
		    c->o.upstream->name);
	else if (c->client.quitting || smtp_client_waits_for(&c->client) == SMTP_STAGE_IDLE) {
		smtp_client_eof(&c->client);
		return;
	}
	conn_fail(c, c->phase == CONN_TLS ? SMTP_END_TLS : SMTP_END_LOST, &trouble);
}

void
conn_on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;
	char bytes[READ_BYTES];
	ssize_t n = recv(fd, bytes, sizeof(bytes), 0);
	int error = n < 0 ? errno : 0;

	(void)what;
	if (n < 0 && (error == EAGAIN || error == EINTR))
		return;
	if (n > 0 && c->tls != NULL)
		read_tls(c, (struct span){ bytes, (size_t)n });
	else if (n > 0)
		smtp_client_input(&c->client, (struct span){ bytes, (size_t)n });
	else
		c->readable_eof = true;
	if (c->readable_eof)
		lost(c, error);
	conn_pump(c);
}
