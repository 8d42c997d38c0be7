/* load - the benchmark's generator: sends numbered messages over many connections at once.
 *
 *   load [-c CONNECTIONS] [-n MESSAGES] [-s BYTES] [-m MESSAGES-PER-CONNECTION] [-r RECIPIENTS]
 *        [-w step|message|flow] [-t none|starttls|implicit] [-A CA.pem] [-a USER:PASSWORD]
 *        [-R MESSAGES-PER-SECOND] [-d SECONDS] [-l LEDGER] [-T TIMES] [-b FIRST-NUMBER] PORT
 *
 * -w: how much is in flight, where PIPELINING is offered. step: a command at a time; message: an
 * envelope at a time (what most clients do); flow: the next envelope goes with this body. -R paces over
 * all connections (with -m 1 it is the connecting that is paced). -d begins no message after so many
 * seconds. A connection that breaks is made again, and its message counts as lost. Ends when every
 * message has its answer, and prints one JSON object: counts, seconds, and the time from MAIL (with
 * -m 1: from connecting) to the 250 in milliseconds. TIMES gets a line for each message that was
 * accepted: "NUMBER BEGAN ACCEPTED", in seconds of CLOCK_MONOTONIC.
 *
 * The ledger gets a line for each message when its fate is known: "NUMBER ANSWER", where ANSWER is the
 * whole reply to the end of data (or the one that refused it earlier), "cut" if the connection broke
 * before the end of data was sent, "unknown" if it broke after that. */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <openssl/evp.h>

#include "end.h"
#include "wire.h"

/* A server with a short backlog may never hear of a connection that we take for made. */
enum { GREETING_S = 3 };

enum way { WAY_STEP, WAY_MESSAGE, WAY_FLOW };

/* What the next reply answers. */
enum wait { GREETING, EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA, END, RSET, QUIT, PAUSE };

struct load {
	struct event_base *base;
	unsigned connections, recipients, port;
	uint64_t messages, first, per_connection, begun, answered, accepted, refused, lost,
	    connects, resumed;
	enum end_tls tls;
	enum way way;
	SSL_CTX *context;
	SSL_SESSION *session;
	char *login, *filler;
	size_t filler_bytes;
	double rate, seconds, start, last_250;
	float *took_ms;
	FILE *ledger, *times;
	unsigned busy; /* clients that may have something to send yet */
};

struct client {
	struct wire wire;
	struct load *load;
	struct event *timer;
	enum wait wait;
	unsigned rcpt_left;
	bool is_refused, is_tls, has_next;
	bool is_pipelining; /* the server offers it */
	bool is_reserved;   /* `number` is the message that this connection is made for */
	uint64_t number, next_number,
	    sent;          /* this message, the next, messages on this connection */
	const char *reply; /* the line that is being looked at */
	double began, next_began;
};

static void client_connect(struct client *c);

static void
say(struct client *c, const char *text)
{
	wire_write(&c->wire, text, strlen(text));
}

static void
say_rcpt(struct client *c, uint64_t number, unsigned i)
{
	char line[80];

	snprintf(line, sizeof(line), "RCPT TO:<r%u.%ju@bench.example>\r\n", i, (uintmax_t)number);
	say(c, line);
}

static void
say_envelope(struct client *c, uint64_t number)
{
	say(c, "MAIL FROM:<sender@bench.example>\r\n");
	for (unsigned i = 0; i < c->load->recipients; i++)
		say_rcpt(c, number, i);
	say(c, "DATA\r\n");
}

static void
say_body(struct client *c)
{
	char head[256];
	int n = snprintf(head, sizeof(head),
	    "From: <sender@bench.example>\r\nTo: <r0.%ju@bench.example>\r\nSubject: bench %ju\r\n"
	    "Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <%ju.%d@bench.example>\r\n\r\n",
	    (uintmax_t)c->number, (uintmax_t)c->number, (uintmax_t)c->number, (int)getpid());

	wire_write(&c->wire, head, (size_t)n);
	wire_write(&c->wire, c->load->filler, c->load->filler_bytes);
	say(c, ".\r\n");
}

static bool
is_over(const struct load *l)
{
	return l->begun >= l->messages || (l->seconds > 0 && end_now_s() - l->start > l->seconds);
}

/* Is there a message for this connection? The pace says when: *delay_s. */
static bool
has_more(struct client *c, double *delay_s)
{
	struct load *l = c->load;

	*delay_s = 0;
	if (is_over(l) || (l->per_connection && c->sent >= l->per_connection))
		return false;
	if (l->rate > 0)
		*delay_s = l->start + (double)l->begun / l->rate - end_now_s();
	return true;
}

/* As much in flight as was asked for and as the server can take. */
static enum way
way_of(const struct client *c)
{
	return c->is_pipelining ? c->load->way : WAY_STEP;
}

static void
begin(struct client *c)
{
	if (!c->is_reserved)
		c->number = c->load->first + c->load->begun++;
	c->is_reserved = false;
	c->sent++;
	c->rcpt_left = c->load->recipients;
	c->is_refused = false;
	c->wait = MAIL;
	if (c->load->per_connection != 1)
		c->began = end_now_s();
	if (way_of(c) == WAY_STEP)
		say(c, "MAIL FROM:<sender@bench.example>\r\n");
	else
		say_envelope(c, c->number);
}

static void
wake_in(struct client *c, double delay_s)
{
	struct timeval wait = { 0, 0 };

	if (delay_s > 0) {
		wait.tv_sec = (time_t)delay_s;
		wait.tv_usec = (suseconds_t)(fmod(delay_s, 1) * 1e6);
	}
	event_add(c->timer, &wait);
}

/* Connects, now or when the pace allows it; the connections of a pace of -m 1 have their message. */
static void
connect_later(struct client *c, double delay_s)
{
	struct load *l = c->load;

	if (l->rate > 0 && l->per_connection == 1 && !c->is_reserved) {
		has_more(c, &delay_s);
		c->number = l->first + l->begun++;
		c->is_reserved = true;
	}
	wake_in(c, delay_s);
}

static void
next(struct client *c)
{
	double delay_s = 0;

	if (!c->is_reserved && !has_more(c, &delay_s)) {
		c->wait = QUIT;
		say(c, "QUIT\r\n");
	} else if (delay_s > 0) {
		c->wait = PAUSE; /* nothing is asked, so no answer is for a message */
		wake_in(c, delay_s);
	} else {
		begin(c);
	}
}

static void
note(const struct client *c, uint64_t number, const char *answer)
{
	if (c->load->ledger)
		fprintf(c->load->ledger, "%ju %s\n", (uintmax_t)number, answer);
}

static void
answered(struct client *c, bool is_accepted)
{
	struct load *l = c->load;
	double now = end_now_s();

	l->answered++;
	note(c, c->number, c->reply);
	if (is_accepted) {
		l->took_ms[l->accepted++] = (float)((now - c->began) * 1000);
		l->last_250 = now;
		if (l->times)
			fprintf(l->times, "%ju %.6f %.6f\n", (uintmax_t)c->number, c->began, now);
	} else {
		l->refused++;
	}
}

/* With the body goes the next envelope, if the way allows it. */
static void
send_body(struct client *c)
{
	double delay_s;

	say_body(c);
	c->wait = END;
	c->has_next = way_of(c) == WAY_FLOW && has_more(c, &delay_s) && delay_s <= 0;
	if (c->has_next) {
		c->next_number = c->load->first + c->load->begun++;
		c->sent++;
		c->next_began = end_now_s();
		say_envelope(c, c->next_number);
	}
}

static void
end_of_message(struct client *c, bool is_good)
{
	answered(c, is_good);
	if (!c->has_next) {
		next(c);
		return;
	}
	c->number = c->next_number;
	c->began = c->next_began;
	c->has_next = c->is_refused = false;
	c->rcpt_left = c->load->recipients;
	c->wait = MAIL;
}

static void
authenticate(struct client *c)
{
	if (c->load->tls == END_STARTTLS && !c->is_tls) {
		c->wait = STARTTLS;
		say(c, "STARTTLS\r\n");
	} else if (c->load->login) {
		c->wait = AUTH;
		say(c, "AUTH PLAIN ");
		say(c, c->load->login);
		say(c, "\r\n");
	} else {
		next(c);
	}
}

static void
hello(struct client *c)
{
	c->wait = EHLO;
	say(c, "EHLO bench.example\r\n");
}

static void
give_up(struct client *c)
{
	answered(c, false);
	c->wait = RSET;
	say(c, "RSET\r\n");
}

static void
on_reply(struct client *c, int code)
{
	bool is_good = code < 400;

	switch (c->wait) {
	case GREETING:
		event_del(c->timer);
		hello(c);
		break;
	case EHLO:
		authenticate(c);
		break;
	case STARTTLS:
		if (!is_good)
			errx(1, "STARTTLS refused: %d", code);
		wire_start_tls(&c->wire, c->load->context, false, c->load->session);
		break;
	case AUTH:
		if (!is_good)
			errx(1, "AUTH refused: %d", code);
		next(c);
		break;
	case MAIL:
		c->is_refused |= !is_good;
		if (c->is_refused && way_of(c) == WAY_STEP)
			give_up(c);
		else if (way_of(c) == WAY_STEP)
			say_rcpt(c, c->number, 0);
		if (c->wait == MAIL)
			c->wait = RCPT;
		break;
	case RCPT:
		c->is_refused |= !is_good;
		if (--c->rcpt_left == 0)
			c->wait = DATA;
		if (way_of(c) == WAY_STEP && c->rcpt_left > 0)
			say_rcpt(c, c->number, c->load->recipients - c->rcpt_left);
		else if (way_of(c) == WAY_STEP)
			say(c, "DATA\r\n");
		break;
	case DATA:
		if (code == 354)
			send_body(c);
		else
			give_up(c);
		break;
	case END:
		end_of_message(c, is_good);
		break;
	case RSET:
		next(c);
		break;
	case QUIT:
		wire_close(&c->wire);
		break;
	case PAUSE:
		break;
	}
}

static bool
is_in_message(const struct client *c)
{
	return c->wait >= MAIL && c->wait <= END;
}

static void
on_input(struct wire *w, void *arg)
{
	struct client *c = arg;
	char *line;

	while (!w->is_shaking && (line = wire_line(w))) {
		if (c->wait == EHLO && strstr(line, "PIPELINING"))
			c->is_pipelining = true;
		if (strlen(line) < 4 || line[3] == '-')
			continue;
		c->reply = line;
		if (strncmp(line, "421", 3) == 0) {
			if (is_in_message(c))
				answered(c, false);
			c->wait = GREETING; /* it has its answer */
			wire_close(w);
		} else {
			on_reply(c, atoi(line));
		}
	}
}

static void
on_connected(struct wire *w, void *arg)
{
	struct client *c = arg;

	if (c->load->tls == END_IMPLICIT_TLS)
		wire_start_tls(w, c->load->context, false, c->load->session);
}

static void
on_shaken(struct wire *w, void *arg)
{
	struct client *c = arg;

	c->is_tls = true;
	c->load->resumed += SSL_session_reused(w->ssl) == 1;
	if (c->load->tls == END_STARTTLS)
		hello(c);
}

static void
on_closed(struct wire *w, void *arg)
{
	struct client *c = arg;
	struct load *l = c->load;
	double again_s = c->wait == QUIT ? 0 : 0.02;

	(void)w;
	event_del(c->timer);
	if (is_in_message(c)) {
		l->lost += 1 + c->has_next;
		l->answered += 1 + c->has_next;
		note(c, c->number, c->wait == END ? "unknown" : "cut");
		if (c->has_next)
			note(c, c->next_number, "cut");
	}
	c->wait = GREETING;
	c->sent = 0;
	if (c->is_reserved || !is_over(l))
		connect_later(c, again_s);
	else if (--l->busy == 0)
		event_base_loopbreak(l->base);
}

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct client *c = arg;

	(void)fd;
	(void)what;
	if (c->wire.is_closed) {
		client_connect(c);
		return;
	}
	if (c->wait == GREETING)
		wire_close(&c->wire);
	else
		next(c);
	event_active(c->wire.writable, EV_WRITE, 0);
}

static void
client_connect(struct client *c)
{
	struct sockaddr_in sa = { .sin_family = AF_INET,
		.sin_port = htons((uint16_t)c->load->port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	memset(&c->wire, 0, sizeof(c->wire));
	c->wire.on_input = on_input;
	c->wire.on_connected = on_connected;
	c->wire.on_shaken = on_shaken;
	c->wire.on_closed = on_closed;
	c->wire.arg = c;
	c->wait = GREETING;
	c->is_tls = c->has_next = c->is_pipelining = false;
	c->load->connects++;
	c->began = end_now_s();
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 && errno != EINPROGRESS)
		die("connect");
	wire_open(&c->wire, c->load->base, fd);
	wake_in(c, GREETING_S);
}

static int
on_new_session(SSL *ssl, SSL_SESSION *session)
{
	struct load *l = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

	SSL_SESSION_free(l->session);
	l->session = session;
	return 1;
}

static void
make_context(struct load *l, const char *ca)
{
	l->context = SSL_CTX_new(TLS_client_method());
	if (!l->context || (ca && SSL_CTX_load_verify_locations(l->context, ca, NULL) != 1))
		errx(1, "cannot read %s", ca ? ca : "the CA");
	if (ca)
		SSL_CTX_set_verify(l->context, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_app_data(l->context, l);
	SSL_CTX_set_session_cache_mode(
	    l->context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(l->context, on_new_session);
}

/* Text lines of 72 octets, so that a message has about `bytes` in all. */
static void
make_filler(struct load *l, size_t bytes)
{
	l->filler_bytes = bytes > 250 ? bytes - 200 : 50;
	l->filler = malloc(l->filler_bytes);
	if (!l->filler)
		die("malloc");
	for (size_t i = 0; i < l->filler_bytes; i++)
		l->filler[i] = i % 72 == 70 ? '\r' : i % 72 == 71 ? '\n' : (char)('a' + i % 23);
	l->filler[l->filler_bytes - 2] = '\r';
	l->filler[l->filler_bytes - 1] = '\n';
	if (l->filler[l->filler_bytes - 3] == '\r')
		l->filler[l->filler_bytes - 3] = 'x';
}

static int
compare(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return x < y ? -1 : x > y;
}

static void
report(struct load *l)
{
	double seconds = l->last_250 - l->start;
	size_t n = l->accepted;

	qsort(l->took_ms, n, sizeof(*l->took_ms), compare);
	printf("{\"begun\": %ju, \"accepted\": %ju, \"refused\": %ju, \"lost\": %ju, "
	       "\"connections\": %ju, "
	       "\"resumed\": %ju, "
	       "\"start\": %.6f, \"seconds\": %.6f, \"per_second\": %.1f, \"p50_ms\": %.3f, "
	       "\"p99_ms\": %.3f}\n",
	    (uintmax_t)l->begun, (uintmax_t)n, (uintmax_t)l->refused, (uintmax_t)l->lost,
	    (uintmax_t)l->connects, (uintmax_t)l->resumed, l->start, n ? seconds : 0,
	    n ? (double)n / seconds : 0, n ? (double)l->took_ms[n / 2] : 0,
	    n ? (double)l->took_ms[(size_t)((double)n * 0.99)] : 0);
}

static int
named(const char *const *names, const char *name)
{
	for (int i = 0; names[i]; i++)
		if (strcmp(names[i], name) == 0)
			return i;
	errx(2, "what is '%s'?", name);
}

static FILE *
open_lines(const char *path)
{
	FILE *file = fopen(path, "a");

	if (!file)
		die(path);
	return file;
}

static void
parse(struct load *l, int argc, char **argv)
{
	static const char *const ways[] = { "step", "message", "flow", NULL };
	const char *ca = NULL;
	size_t bytes = 4096;
	int option;

	while ((option = getopt(argc, argv, "c:n:s:m:r:w:t:A:a:R:d:l:T:b:")) != -1) {
		switch (option) {
		case 'c':
			l->connections = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'n':
			l->messages = strtoul(optarg, NULL, 10);
			break;
		case 's':
			bytes = strtoul(optarg, NULL, 10);
			break;
		case 'm':
			l->per_connection = strtoul(optarg, NULL, 10);
			break;
		case 'r':
			l->recipients = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'w':
			l->way = (enum way)named(ways, optarg);
			break;
		case 't':
			l->tls = end_tls_named(optarg);
			break;
		case 'A':
			ca = optarg;
			break;
		case 'a':
			l->login = end_login(optarg);
			break;
		case 'R':
			l->rate = strtod(optarg, NULL);
			break;
		case 'd':
			l->seconds = strtod(optarg, NULL);
			break;
		case 'b':
			l->first = strtoul(optarg, NULL, 10);
			break;
		case 'l':
			l->ledger = open_lines(optarg);
			setvbuf(l->ledger, NULL, _IOLBF, 0);
			break;
		case 'T':
			l->times = open_lines(optarg);
			break;
		default:
			exit(2);
		}
	}
	if (optind + 1 != argc)
		errx(2, "which port?");
	l->port = (unsigned)strtoul(argv[optind], NULL, 10);
	if (l->tls != END_CLEAR)
		make_context(l, ca);
	make_filler(l, bytes);
}

int
main(int argc, char **argv)
{
	struct load l = {
		.connections = 20, .messages = 1000, .recipients = 1, .way = WAY_MESSAGE
	};

	parse(&l, argc, argv);
	l.base = event_base_new();
	l.took_ms = calloc(l.messages + 1, sizeof(*l.took_ms));
	struct client *clients = calloc(l.connections, sizeof(*clients));
	if (!l.took_ms || !clients)
		die("calloc");
	l.start = end_now_s();
	for (unsigned i = 0; i < l.connections; i++) {
		clients[i].load = &l;
		clients[i].timer = event_new(l.base, -1, 0, on_timer, &clients[i]);
		clients[i].wire.is_closed = true;
		if (is_over(&l)) /* more connections than messages, and a pace */
			continue;
		l.busy++;
		connect_later(&clients[i], 0);
	}
	event_base_dispatch(l.base);
	report(&l);
	if (l.times && fclose(l.times) != 0)
		die("the times");
	return l.accepted == l.begun ? 0 : 1;
}
