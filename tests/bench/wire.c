#include "wire.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <openssl/err.h>

#include "end.h"

enum { READ_BYTES = 65536 };

static void
bytes_reserve(struct bytes *b, size_t more)
{
	if (b->begin == b->end)
		b->begin = b->end = 0;
	if (b->size - b->end >= more)
		return;
	if (b->end > b->begin)
		memmove(b->data, b->data + b->begin, b->end - b->begin);
	b->end -= b->begin;
	b->begin = 0;
	if (b->size - b->end < more) {
		b->size = (b->end + more) * 2;
		b->data = realloc(b->data, b->size);
		if (!b->data)
			die("realloc");
	}
}

char *
wire_line(struct wire *w)
{
	char *line = wire_input(w), *end;

	if (wire_available(w) == 0)
		return NULL;
	end = memchr(line, '\n', wire_available(w));
	if (!end)
		return NULL;
	wire_drop(w, (size_t)(end - line) + 1);
	if (end > line && end[-1] == '\r')
		end--;
	*end = '\0';
	return line;
}

void
wire_write(struct wire *w, const void *data, size_t length)
{
	bytes_reserve(&w->out, length);
	memcpy(w->out.data + w->out.end, data, length);
	w->out.end += length;
}

void
wire_close(struct wire *w)
{
	w->wants_close = true;
}

/* What read(), write() and the handshake share: progress (> 0), wait (0) or the end (-1). */
static ssize_t
result(struct wire *w, ssize_t n)
{
	if (n > 0)
		return n;
	if (w->ssl) {
		int error = SSL_get_error(w->ssl, (int)n);

		ERR_clear_error();
		if (error == SSL_ERROR_WANT_WRITE)
			event_add(w->writable, NULL);
		return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? 0 : -1;
	}
	return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

static int
flush(struct wire *w)
{
	while (w->out.begin < w->out.end && !w->is_shaking) {
		const char *data = w->out.data + w->out.begin;
		size_t length = w->out.end - w->out.begin;
		ssize_t n = result(w, w->ssl ? SSL_write(w->ssl, data, (int)length)
		                             : send(w->fd, data, length, MSG_NOSIGNAL));

		if (n < 0)
			return -1;
		if (n == 0) {
			event_add(w->writable, NULL);
			return 0;
		}
		w->out.begin += (size_t)n;
	}
	return w->wants_close ? -1 : 0;
}

static void
finish(struct wire *w)
{
	if (w->is_closed)
		return;
	w->is_closed = true;
	event_free(w->readable);
	event_free(w->writable);
	if (w->ssl) {
		SSL_set_shutdown(
		    w->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN); /* stays resumable */
		SSL_free(w->ssl);
	}
	close(w->fd);
	free(w->in.data);
	free(w->out.data);
	w->on_closed(w, w->arg);
}

/* 1: shaken, 0: wait, -1: failed */
static int
shake(struct wire *w)
{
	if (!w->is_shaking)
		return 1;
	ssize_t n = result(w, SSL_do_handshake(w->ssl));
	if (n <= 0)
		return (int)n;
	w->is_shaking = false;
	if (w->on_shaken)
		w->on_shaken(w, w->arg);
	return 1;
}

static ssize_t
take(struct wire *w)
{
	bytes_reserve(&w->in, READ_BYTES);
	size_t room = w->in.size - w->in.end;
	char *to = w->in.data + w->in.end;
	ssize_t n = result(w, w->ssl ? SSL_read(w->ssl, to, (int)room) : recv(w->fd, to, room, 0));
	if (n > 0)
		w->in.end += (size_t)n;
	return n;
}

static void
on_readable(int fd, short what, void *arg)
{
	struct wire *w = arg;
	ssize_t n = shake(w);

	(void)fd;
	(void)what;
	while (n > 0) {
		n = take(w);
		if (n > 0)
			w->on_input(w, w->arg);
		if (w->is_shaking && n > 0)
			n = shake(w);
		if (n > 0 && (!w->ssl || !SSL_has_pending(w->ssl)))
			break; /* level-triggered: what is still in the socket calls us again */
	}
	if (flush(w) < 0 || n < 0)
		finish(w);
}

static int
connected(struct wire *w)
{
	void (*tell)(struct wire *, void *) = w->on_connected;
	int error = 0;
	socklen_t length = sizeof(error);

	w->on_connected = NULL;
	if (!tell)
		return 0;
	getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &error, &length);
	if (error)
		return -1;
	tell(w, w->arg);
	return 0;
}

static void
on_writable(int fd, short what, void *arg)
{
	struct wire *w = arg;

	(void)fd;
	(void)what;
	if (connected(w) < 0 || shake(w) < 0 || flush(w) < 0)
		finish(w);
	else if (w->ssl && SSL_has_pending(w->ssl)) /* came with the end of the handshake */
		event_active(w->readable, EV_READ, 0);
}

void
wire_open(struct wire *w, struct event_base *base, int fd)
{
	int one = 1;

	w->fd = fd;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	w->readable = event_new(base, fd, EV_READ | EV_PERSIST, on_readable, w);
	w->writable = event_new(base, fd, EV_WRITE, on_writable, w);
	event_add(w->readable, NULL);
	event_add(w->writable, NULL);
}

void
wire_start_tls(struct wire *w, SSL_CTX *context, bool is_server, SSL_SESSION *resume)
{
	/* The line that agreed to TLS must be out before the first record. */
	if (w->out.begin < w->out.end)
		flush(w);
	w->ssl = SSL_new(context);
	if (!w->ssl)
		die("SSL_new");
	SSL_set_fd(w->ssl, w->fd);
	SSL_set_read_ahead(w->ssl, 1); /* header and body of a record in one read */
	if (is_server) {
		SSL_set_accept_state(w->ssl);
	} else {
		SSL_set_connect_state(w->ssl);
		if (resume)
			SSL_set_session(w->ssl, resume);
	}
	SSL_set_mode(w->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	w->in.begin = w->in.end = 0; /* nothing said in clear counts afterwards */
	w->is_shaking = true;
	event_add(w->writable, NULL);
}
