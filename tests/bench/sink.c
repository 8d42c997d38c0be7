/* sink - the benchmark's upstream: takes mail as fast as it comes and counts it.
 *
 *   sink [-t none|starttls|implicit] [-k CERTIFICATE-AND-KEY.pem] [-a USER:PASSWORD] [-p PORT] [-C]
 *
 * Prints "port N" once it listens. Each line on its standard input is answered on its standard output
 * with one JSON object: what has arrived since the start, and when the last did (CLOCK_MONOTONIC);
 * it ends when the input does. "FIRST COUNT" asks about those of the generator's numbers: how many have
 * arrived, how many of them more than once, and when the first and the last did; "FIRST COUNT FILE"
 * also writes "NUMBER ARRIVED" lines. With TLS and a login it insists on both. -C: no CHUNKING. */
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <event2/listener.h>
#include <event2/util.h>
#include <openssl/evp.h>

#include "end.h"
#include "wire.h"

enum { NO_NUMBER = 0, MOST_NUMBERS = 1 << 26 };

struct arrival {
	double first;
	uint32_t times;
};

struct sink {
	struct event_base *base;
	enum end_tls tls;
	bool is_chunking;
	struct arrival *arrivals; /* by the generator's number, which begins with 1 here */
	size_t arrivals_size;
	SSL_CTX *context;
	char *login; /* what AUTH PLAIN must say, in base64; NULL: no login */
	uint64_t messages, recipients, bytes, connections, handshakes, resumed;
	double last;
};

struct session {
	struct wire wire;
	struct sink *sink;
	bool is_in, has_sender, in_data, is_last;
	unsigned recipients;
	uint64_t number; /* the generator's, from the recipient */
	size_t chunk;    /* bytes of BDAT to come */
	unsigned match;  /* how much of CR LF . CR LF the data ends with so far */
};

static void
say(struct session *s, const char *text)
{
	wire_write(&s->wire, text, strlen(text));
}

/* The generator's recipients are <rN.NUMBER@...>: the first one names the message. */
static void
take_number(struct session *s, const char *line)
{
	const char *at = strstr(line, "<r0.");

	if (at)
		s->number = strtoul(at + 4, NULL, 10) + 1;
}

static void
arrived(struct sink *sink, uint64_t number)
{
	if (number == NO_NUMBER || number >= MOST_NUMBERS)
		return;
	if (number >= sink->arrivals_size) {
		size_t size = (size_t)number * 2;

		sink->arrivals = realloc(sink->arrivals, size * sizeof(*sink->arrivals));
		if (!sink->arrivals)
			die("realloc");
		memset(sink->arrivals + sink->arrivals_size, 0,
		    (size - sink->arrivals_size) * sizeof(*sink->arrivals));
		sink->arrivals_size = size;
	}
	if (sink->arrivals[number].times++ == 0)
		sink->arrivals[number].first = sink->last;
}

static void
message_done(struct session *s)
{
	s->sink->messages++;
	s->sink->recipients += s->recipients;
	s->sink->last = end_now_s();
	arrived(s->sink, s->number);
	s->number = NO_NUMBER;
	s->has_sender = false;
	s->recipients = 0;
	say(s, "250 2.0.0 Ok\r\n");
}

/* Gives how many bytes belong to the data; *is_end: the last of them are CR LF . CR LF. */
static size_t
data_span(struct session *s, const char *data, size_t length, bool *is_end)
{
	static const char end[] = "\r\n.\r\n";
	size_t i = 0;

	while (i < length) {
		if (s->match == 0) {
			const char *cr = memchr(data + i, '\r', length - i);

			if (!cr)
				return length;
			i = (size_t)(cr - data);
		}
		if (data[i] == end[s->match])
			s->match++;
		else
			s->match = data[i] == '\r';
		i++;
		if (s->match == 5) {
			*is_end = true;
			return i;
		}
	}
	return length;
}

/* Takes content bytes; true if there may be more to do. */
static bool
take_content(struct session *s)
{
	size_t length = wire_available(&s->wire);
	bool is_end = false;

	if (length == 0)
		return false;
	if (s->in_data) {
		length = data_span(s, wire_input(&s->wire), length, &is_end);
		s->in_data = !is_end;
	} else {
		if (length > s->chunk)
			length = s->chunk;
		s->chunk -= length;
		is_end = s->chunk == 0 && s->is_last;
		if (s->chunk == 0 && !s->is_last)
			say(s, "250 2.0.0 Go on\r\n");
	}
	wire_drop(&s->wire, length);
	s->sink->bytes += length;
	if (is_end)
		message_done(s);
	return true;
}

static void
do_ehlo(struct session *s)
{
	bool is_clear = s->sink->tls != END_CLEAR && !s->wire.ssl;

	say(s,
	    "250-sink\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
	    "250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n");
	if (s->sink->is_chunking)
		say(s, "250-CHUNKING\r\n");
	if (is_clear)
		say(s, "250-STARTTLS\r\n");
	else if (s->sink->login)
		say(s, "250-AUTH PLAIN LOGIN\r\n");
	say(s, "250 HELP\r\n");
}

static void
do_auth(struct session *s, const char *argument)
{
	const char *initial = strchr(argument, ' ');

	s->is_in = s->sink->login && initial && strncasecmp(argument, "PLAIN ", 6) == 0 &&
	           strcmp(initial + 1, s->sink->login) == 0;
	say(s, s->is_in ? "235 2.7.0 Ok\r\n" : "535 5.7.8 No\r\n");
}

static bool
may_send(struct session *s)
{
	if (s->sink->tls != END_CLEAR && !s->wire.ssl)
		say(s, "530 5.7.0 STARTTLS first\r\n");
	else if (s->sink->login && !s->is_in)
		say(s, "530 5.7.0 AUTH first\r\n");
	else
		return true;
	return false;
}

static void
do_bdat(struct session *s, char *argument)
{
	s->chunk = strtoul(argument, &argument, 10);
	s->is_last = strcasecmp(argument, " LAST") == 0;
	if (s->chunk > 0)
		return;
	if (s->is_last)
		message_done(s);
	else
		say(s, "250 2.0.0 Go on\r\n");
}

static void
command(struct session *s, char *line)
{
	if (strncasecmp(line, "MAIL", 4) == 0) {
		if (may_send(s)) {
			s->has_sender = true;
			say(s, "250 2.1.0 Ok\r\n");
		}
	} else if (strncasecmp(line, "RCPT", 4) == 0) {
		s->recipients += s->has_sender;
		take_number(s, line);
		say(s, s->has_sender ? "250 2.1.5 Ok\r\n" : "503 5.5.1 MAIL first\r\n");
	} else if (strcasecmp(line, "DATA") == 0) {
		s->in_data = s->recipients > 0;
		s->match = 2; /* the command ended a line */
		say(s, s->in_data ? "354 Go\r\n" : "554 5.5.1 No recipients\r\n");
	} else if (strncasecmp(line, "BDAT ", 5) == 0) {
		do_bdat(s, line + 5);
	} else if (strncasecmp(line, "EHLO", 4) == 0 || strncasecmp(line, "HELO", 4) == 0) {
		do_ehlo(s);
	} else if (strncasecmp(line, "AUTH ", 5) == 0) {
		do_auth(s, line + 5);
	} else if (strcasecmp(line, "STARTTLS") == 0 && s->sink->tls == END_STARTTLS &&
	           !s->wire.ssl) {
		say(s, "220 2.0.0 Go\r\n");
		wire_start_tls(&s->wire, s->sink->context, true, NULL);
	} else if (strcasecmp(line, "QUIT") == 0) {
		say(s, "221 2.0.0 Bye\r\n");
		wire_close(&s->wire);
	} else if (strcasecmp(line, "RSET") == 0 || strcasecmp(line, "NOOP") == 0) {
		s->has_sender = s->has_sender && strcasecmp(line, "NOOP") == 0;
		s->recipients = s->has_sender ? s->recipients : 0;
		say(s, "250 2.0.0 Ok\r\n");
	} else {
		say(s, "502 5.5.1 Not here\r\n");
	}
}

static void
on_input(struct wire *w, void *arg)
{
	struct session *s = arg;
	char *line;

	for (;;) {
		if (s->in_data || s->chunk > 0) {
			if (!take_content(s))
				return;
		} else if ((line = wire_line(w))) {
			command(s, line);
		} else {
			return;
		}
	}
}

static void
on_shaken(struct wire *w, void *arg)
{
	struct session *s = arg;

	s->sink->handshakes++;
	s->sink->resumed += SSL_session_reused(w->ssl) == 1;
	if (s->sink->tls == END_IMPLICIT_TLS)
		say(s, "220 sink ESMTP\r\n");
}

static void
on_closed(struct wire *w, void *arg)
{
	(void)w;
	free(arg);
}

static void
on_accepted(
    struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *sa, int length, void *arg)
{
	struct sink *sink = arg;
	struct session *s = calloc(1, sizeof(*s));

	(void)listener;
	(void)sa;
	(void)length;
	if (!s)
		die("calloc");
	sink->connections++;
	s->sink = sink;
	s->wire.on_input = on_input;
	s->wire.on_shaken = on_shaken;
	s->wire.on_closed = on_closed;
	s->wire.arg = s;
	wire_open(&s->wire, sink->base, fd);
	if (sink->tls == END_IMPLICIT_TLS)
		wire_start_tls(&s->wire, sink->context, true, NULL);
	else
		say(s, "220 sink ESMTP\r\n");
}

/* What has arrived of `count` numbers from `from` on. */
static void
answer_range(const struct sink *sink, uint64_t from, uint64_t count, const char *path)
{
	FILE *file = path[0] ? fopen(path, "w") : NULL;
	uint64_t distinct = 0, doubled = 0;
	double first = 0, last = 0;

	if (path[0] && !file)
		die(path);
	for (uint64_t i = from + 1; i <= from + count && i < sink->arrivals_size; i++) {
		const struct arrival *a = &sink->arrivals[i];

		if (a->times == 0)
			continue;
		distinct++;
		doubled += a->times > 1;
		if (first == 0 || a->first < first)
			first = a->first;
		if (a->first > last)
			last = a->first;
		if (file)
			fprintf(file, "%ju %.6f\n", (uintmax_t)i - 1, a->first);
	}
	if (file && fclose(file) != 0)
		die(path);
	printf("{\"distinct\": %ju, \"doubled\": %ju, \"first\": %.6f, \"last\": %.6f}\n",
	    (uintmax_t)distinct, (uintmax_t)doubled, first, last);
}

static void
answer(const struct sink *sink)
{
	printf("{\"messages\": %ju, \"recipients\": %ju, \"bytes\": %ju, \"connections\": %ju, "
	       "\"handshakes\": %ju, \"resumed\": %ju, \"last\": %.6f}\n",
	    (uintmax_t)sink->messages, (uintmax_t)sink->recipients, (uintmax_t)sink->bytes,
	    (uintmax_t)sink->connections, (uintmax_t)sink->handshakes, (uintmax_t)sink->resumed,
	    sink->last);
}

static void
on_question(evutil_socket_t fd, short what, void *arg)
{
	struct sink *sink = arg;
	char line[512], path[400] = "";
	uintmax_t from, count;
	ssize_t n = read(fd, line, sizeof(line) - 1);

	(void)what;
	if (n <= 0) {
		event_base_loopbreak(sink->base);
		return;
	}
	line[n] = '\0';
	if (sscanf(line, "%ju %ju %399s", &from, &count, path) >= 2)
		answer_range(sink, from, count, path);
	else
		answer(sink);
	fflush(stdout);
}

static SSL_CTX *
make_context(const char *pem)
{
	SSL_CTX *context = SSL_CTX_new(TLS_server_method());

	if (!pem || !context || SSL_CTX_use_certificate_chain_file(context, pem) != 1 ||
	    SSL_CTX_use_PrivateKey_file(context, pem, SSL_FILETYPE_PEM) != 1)
		errx(1, "cannot read certificate and key from %s", pem ? pem : "-k FILE");
	SSL_CTX_set_session_id_context(context, (const unsigned char *)"sink", 4);
	return context;
}

int
main(int argc, char **argv)
{
	struct sink sink = { .tls = END_CLEAR, .is_chunking = true };
	const char *pem = NULL;
	unsigned port = 0;
	int option;

	while ((option = getopt(argc, argv, "t:k:a:p:C")) != -1) {
		switch (option) {
		case 't':
			sink.tls = end_tls_named(optarg);
			break;
		case 'k':
			pem = optarg;
			break;
		case 'a':
			sink.login = end_login(optarg);
			break;
		case 'C':
			sink.is_chunking = false;
			break;
		case 'p':
			port = (unsigned)strtoul(optarg, NULL, 10);
			break;
		default:
			return 2;
		}
	}
	sink.base = event_base_new();
	if (sink.tls != END_CLEAR)
		sink.context = make_context(pem);
	end_listen(sink.base, port, on_accepted, &sink);
	struct event *question = event_new(sink.base, 0, EV_READ | EV_PERSIST, on_question, &sink);
	event_add(question, NULL);
	event_base_dispatch(sink.base);
	return 0;
}
