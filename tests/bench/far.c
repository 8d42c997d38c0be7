/* far - makes an upstream far away: each byte arrives so much later, in both directions.
 *
 *   far [-d MILLISECONDS] [-p PORT] UPSTREAM-PORT
 *
 * Prints "port N" once it listens, and ends when its standard input does. Bandwidth is not limited: what
 * waits on the way is held here, and only then does the sender have to wait (WAY_BYTES). A connection
 * takes a round trip before it is made, as it would; `end of file` travels like a byte. */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <event2/event.h>
#include <event2/listener.h>

#include "end.h"
#include "wire.h"

enum { READ_BYTES = 65536, WAY_BYTES = 64 << 20 };

struct parcel {
	STAILQ_ENTRY(parcel) link;
	double due;
	size_t begin, end; /* end == 0: end of file */
	char data[];
};

struct far {
	struct event_base *base;
	double delay_s;
	unsigned upstream_port;
};

/* One direction: what `from` says travels to `to`. */
struct way {
	struct pair *pair;
	int from, to;
	struct event *readable, *writable, *timer;
	STAILQ_HEAD(, parcel) parcels;
	size_t bytes;
	bool is_over; /* end of file was passed on */
};

struct pair {
	struct far *far;
	int client, upstream;
	struct event *connecting;
	struct way up, down;
};

static void
wait_s(struct event *timer, double seconds)
{
	struct timeval wait = { (time_t)seconds,
		(suseconds_t)((seconds - (double)(time_t)seconds) * 1e6) };

	event_add(timer, &wait);
}

static void
way_free(struct way *w)
{
	struct parcel *p;

	while ((p = STAILQ_FIRST(&w->parcels))) {
		STAILQ_REMOVE_HEAD(&w->parcels, link);
		free(p);
	}
	if (w->readable) {
		event_free(w->readable);
		event_free(w->writable);
		event_free(w->timer);
	}
}

static void
pair_free(struct pair *pair)
{
	way_free(&pair->up);
	way_free(&pair->down);
	event_free(pair->connecting);
	close(pair->client);
	if (pair->upstream >= 0)
		close(pair->upstream);
	free(pair);
}

/* 1: all of it is out, 0: not yet, -1: nobody takes it */
static int
parcel_write(struct way *w, struct parcel *p)
{
	if (p->end == 0) {
		shutdown(w->to, SHUT_WR);
		w->is_over = true;
		return 1;
	}
	ssize_t n = send(w->to, p->data + p->begin, p->end - p->begin, MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	p->begin += (size_t)n;
	w->bytes -= (size_t)n;
	return p->begin == p->end;
}

/* Delivers what is due. The last line may free the pair. */
static void
way_pump(struct way *w)
{
	struct parcel *p;
	int r = 1;

	while (r > 0 && (p = STAILQ_FIRST(&w->parcels))) {
		double early_s = p->due - end_now_s();

		if (early_s > 0) {
			wait_s(w->timer, early_s);
			break;
		}
		r = parcel_write(w, p);
		if (r > 0) {
			STAILQ_REMOVE_HEAD(&w->parcels, link);
			free(p);
		}
	}
	if (r == 0)
		event_add(w->writable, NULL);
	if (!w->is_over && w->bytes < WAY_BYTES)
		event_add(w->readable, NULL);
	if (r < 0 || (w->pair->up.is_over && w->pair->down.is_over))
		pair_free(w->pair);
}

static void
on_way(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	way_pump(arg);
}

static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct way *w = arg;
	struct parcel *p = malloc(sizeof(*p) + READ_BYTES);
	ssize_t n;

	(void)what;
	if (!p)
		die("malloc");
	n = recv(fd, p->data, READ_BYTES, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		free(p);
		return;
	}
	p->begin = 0;
	p->end = n > 0 ? (size_t)n : 0;
	p->due = end_now_s() + w->pair->far->delay_s;
	w->bytes += p->end;
	p = realloc(p, sizeof(*p) + p->end + 1); /* smaller */
	if (!p)
		die("realloc");
	STAILQ_INSERT_TAIL(&w->parcels, p, link);
	if (n <= 0 || w->bytes >= WAY_BYTES)
		event_del(w->readable);
	if (STAILQ_FIRST(&w->parcels) == p)
		wait_s(w->timer, w->pair->far->delay_s);
}

static void
way_open(struct way *w, struct pair *pair, int from, int to)
{
	struct event_base *base = pair->far->base;
	int one = 1;

	w->pair = pair;
	w->from = from;
	w->to = to;
	setsockopt(from, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	w->readable = event_new(base, from, EV_READ | EV_PERSIST, on_readable, w);
	w->writable = event_new(base, to, EV_WRITE, on_way, w);
	w->timer = event_new(base, -1, 0, on_way, w);
	event_add(w->readable, NULL);
}

static void
on_connecting(evutil_socket_t fd, short what, void *arg)
{
	struct pair *pair = arg;
	struct sockaddr_in sa = { .sin_family = AF_INET,
		.sin_port = htons((uint16_t)pair->far->upstream_port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	(void)fd;
	(void)what;
	pair->upstream = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (pair->upstream < 0)
		die("socket");
	if (connect(pair->upstream, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		pair_free(pair);
		return;
	}
	evutil_make_socket_nonblocking(pair->upstream);
	way_open(&pair->up, pair, pair->client, pair->upstream);
	way_open(&pair->down, pair, pair->upstream, pair->client);
}

static void
on_accepted(
    struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *sa, int length, void *arg)
{
	struct pair *pair = calloc(1, sizeof(*pair));

	(void)listener;
	(void)sa;
	(void)length;
	if (!pair)
		die("calloc");
	pair->far = arg;
	pair->client = fd;
	pair->upstream = -1;
	STAILQ_INIT(&pair->up.parcels);
	STAILQ_INIT(&pair->down.parcels);
	pair->connecting = event_new(pair->far->base, -1, 0, on_connecting, pair);
	wait_s(pair->connecting, 2 * pair->far->delay_s);
}

static void
on_input(evutil_socket_t fd, short what, void *arg)
{
	char line[64];

	(void)what;
	if (read(fd, line, sizeof(line)) <= 0)
		event_base_loopbreak(arg);
}

int
main(int argc, char **argv)
{
	struct far far = { .delay_s = 0.05 };
	unsigned port = 0;
	int option;

	while ((option = getopt(argc, argv, "d:p:")) != -1) {
		if (option == 'd')
			far.delay_s = strtod(optarg, NULL) / 1000;
		else if (option == 'p')
			port = (unsigned)strtoul(optarg, NULL, 10);
		else
			return 2;
	}
	if (optind + 1 != argc)
		errx(2, "which upstream port?");
	far.upstream_port = (unsigned)strtoul(argv[optind], NULL, 10);
	far.base = event_base_new();
	end_listen(far.base, port, on_accepted, &far);
	struct event *input = event_new(far.base, 0, EV_READ | EV_PERSIST, on_input, far.base);
	event_add(input, NULL);
	event_base_dispatch(far.base);
	return 0;
}
