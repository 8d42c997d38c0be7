/* fuzz_sendmail.c - relayd-sendmail from its arguments to the wire: any arguments, any message. Input: u8
 * options, the arguments with NUL between them, 0xff, the message.
 *
 * The server at the other end is model_server.c, strict about line ends. What must hold: it gets one
 * message, with the recipients that were named and no others; its content is the message of the input
 * (by a second description, below) without one byte of a Bcc field, but for domains that addresses
 * lacked; no argument adds a line to anything; addresses hold no control bytes; what could write a
 * file or read another configuration is refused. */
#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "model_server.h"
#include "sendmail/args.h"
#include "sendmail/letter.h"
#include "sendmail/submit.h"
#include "smtp/server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WORDS = 20, COLLECT = 1, WIRE_MOST = 1000000 };

struct text {
	char *bytes;
	size_t len;
};

/* ---- What the message should be ---- */

static void
put(struct text *t, struct span bytes)
{
	if (bytes.len > 0)
		memcpy(t->bytes + t->len, bytes.data, bytes.len);
	t->len += bytes.len;
}

/* Takes the next line off, without its end. */
static struct span
next_line(struct span *rest)
{
	const char *lf = memchr(rest->data, '\n', rest->len);
	struct span line = { rest->data, lf != NULL ? (size_t)(lf - rest->data) : rest->len };

	*rest = span_skip(*rest, line.len + (lf != NULL));
	line.len -= line.len > 0 && line.data[line.len - 1] == '\r';
	return line;
}

/* CR LF at each line's end and nowhere else, no NUL; up to a lone dot, where that is the end. */
static struct text
normalise(struct span in, bool ignore_dots)
{
	struct text t = { malloc(2 * in.len + 3), 0 };

	while (in.len > 0) {
		const struct span line = next_line(&in);

		if (span_equals(line, SPAN(".")) && !ignore_dots)
			break;
		for (size_t i = 0; i < line.len; i++)
			t.bytes[t.len++] =
			    line.data[i] == '\r' || line.data[i] == '\0' ? ' ' : line.data[i];
		put(&t, SPAN("\r\n"));
	}
	return t;
}

/* The name's length if this line begins a field; else 0. */
static size_t
field_name(struct span line)
{
	size_t n = 0, colon;

	while (n < line.len && line.data[n] > ' ' && line.data[n] < 0x7f && line.data[n] != ':')
		n++;
	for (colon = n; colon < line.len && (line.data[colon] == ' ' || line.data[colon] == '\t');)
		colon++;
	return n > 0 && colon < line.len && line.data[colon] == ':' ? n : 0;
}

static bool
is_bcc(struct span line, size_t n)
{
	return (n == 3 && strncasecmp(line.data, "Bcc", 3) == 0) ||
	       (n == 10 && strncasecmp(line.data, "Resent-Bcc", 10) == 0);
}

static struct text
expect(struct span in, bool ignore_dots, bool *has_from)
{
	struct text all = normalise(in, ignore_dots), out = { malloc(all.len + 3), 0 };
	struct span rest = { all.bytes, all.len }, line;
	bool is_dropped = false, is_field = false;

	*has_from = false;
	if ((rest.len >= 5 && strncasecmp(rest.data, "From ", 5) == 0) ||
	    (rest.len >= 6 && strncasecmp(rest.data, ">From ", 6) == 0))
		(void)next_line(&rest);
	for (;;) {
		struct span before = rest;
		size_t n;

		if (rest.len == 0)
			break;
		line = next_line(&rest);
		n = field_name(line);
		if (n == 0 &&
		    !(is_field && line.len > 0 && (line.data[0] == ' ' || line.data[0] == '\t'))) {
			rest = before;
			break;
		}
		if (n > 0 && line.data[0] != ' ' && line.data[0] != '\t') {
			is_field = true;
			is_dropped = is_bcc(line, n);
			*has_from |= n == 4 && strncasecmp(line.data, "From", 4) == 0;
		}
		if (!is_dropped)
			put(&out, (struct span){ before.data, (size_t)(rest.data - before.data) });
	}
	if (rest.len < 2 || memcmp(rest.data, "\r\n", 2) != 0)
		put(&out, SPAN("\r\n")); /* between header and body stands an empty line */
	put(&out, rest);
	free(all.bytes);
	return out;
}

/* ---- The arguments ---- */

static unsigned
split_words(struct span in, char *copy, char **words)
{
	unsigned n = 1;

	words[0] = (char *)(uintptr_t) "sendmail";
	memcpy(copy, in.data, in.len);
	copy[in.len] = '\0';
	for (size_t at = 0; at < in.len && n < WORDS; at += strlen(copy + at) + 1)
		words[n++] = copy + at;
	words[n] = NULL;
	return n;
}

static void
check_addresses(const struct letter_list *list)
{
	for (size_t i = 0; i < list->n; i++) {
		assert(list->addresses[i][0] != '\0');
		for (const char *c = list->addresses[i]; *c != '\0'; c++)
			assert((unsigned char)*c >= ' ' && *c != 0x7f);
		for (size_t k = 0; k < i; k++)
			assert(strcmp(list->addresses[i], list->addresses[k]) != 0);
	}
}

/* One address, or none: <>. */
static bool
take_sender(const char *text, char out[600])
{
	struct letter_list list = { NULL, 0 };
	const bool is_fine = letter_list_add(&list, span_of(text)) == 0 && list.n <= 1;

	if (is_fine)
		snprintf(out, 600, "%s", list.n == 1 ? list.addresses[0] : "");
	check_addresses(&list);
	letter_list_fini(&list);
	return is_fine;
}

/* ---- The wire ---- */

/* Says yes to everything, but only when it is asked: a yes that comes early ends the session. */
struct server {
	int fd;
	struct text heard;
	size_t done; /* bytes of it that are answered */
	bool in_data;
};

static void
answer(const struct server *s, struct span reply)
{
	(void)!send(s->fd, reply.data, reply.len, MSG_NOSIGNAL);
}

static void
answer_line(struct server *s, struct span line)
{
	if (s->in_data && !span_equals(line, SPAN(".")))
		return;
	if (s->in_data || !span_starts_nocase(line, SPAN("DATA")))
		answer(s, span_starts_nocase(line, SPAN("EHLO")) && !s->in_data
		              ? SPAN("250-relay.example.com\r\n250-SIZE 0\r\n250-8BITMIME\r\n"
		                     "250-SMTPUTF8\r\n250 DSN\r\n")
		              : SPAN("250 2.0.0 Ok\r\n"));
	else
		answer(s, SPAN("354 go\r\n"));
	s->in_data = !s->in_data && span_starts_nocase(line, SPAN("DATA"));
}

static void *
serve(void *arg)
{
	struct server *s = arg;
	ssize_t n;

	answer(s, SPAN("220 relay.example.com" SMTP_SERVER_GREETING_END "\r\n"));
	while ((n = read(s->fd, s->heard.bytes + s->heard.len, WIRE_MOST - s->heard.len)) > 0) {
		struct span rest = { s->heard.bytes + s->done, s->heard.len + (size_t)n - s->done };

		s->heard.len += (size_t)n;
		while (rest.len > 0 && memchr(rest.data, '\n', rest.len) != NULL) {
			answer_line(s, next_line(&rest));
			s->done = s->heard.len - rest.len;
		}
	}
	assert(s->heard.len < WIRE_MOST);
	return NULL;
}

static struct text
submit(const struct sendmail_args *args, const struct submit_sender *sender, struct letter *letter,
    const struct letter_list *recipients, int *code)
{
	static char wire[WIRE_MOST];
	struct server server = { .heard = { wire, 0 } };
	struct reach reach = { .greeting_wait_s = 60, .where = "here" };
	pthread_t thread;
	int fds[2];

	assert(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
	reach.fd = fds[0];
	server.fd = fds[1];
	assert(pthread_create(&thread, NULL, serve, &server) == 0);
	*code = submit_letter(&reach, args, sender, letter, recipients);
	assert(pthread_join(thread, NULL) == 0);
	close(fds[1]);
	return server.heard;
}

/* Addresses of the header get the server's name where they have no domain; nothing else is put in. */
static bool
is_same_but_for_domains(struct span content, struct span expected)
{
	const struct span domain = SPAN("@relay.example.com");

	while (content.len > 0 && expected.len > 0 && !span_equals(content, expected)) {
		const bool is_put_in = content.data[0] != expected.data[0];

		if (is_put_in && !span_starts_nocase(content, domain))
			return false;
		content = span_skip(content, is_put_in ? domain.len : 1);
		expected = span_skip(expected, is_put_in ? 0 : 1);
		if (span_starts_nocase(expected, SPAN("\r\n\r\n")) &&
		    span_starts_nocase(content, SPAN("\r\n\r\n")))
			break; /* the body */
	}
	return span_equals(content, expected);
}

static void
check_message(const struct model_message *m, const struct letter_list *recipients,
    const struct text *expected, bool has_from)
{
	struct span content = { m->content, m->len };

	assert(m->n_recipients == recipients->n);
	for (unsigned i = 0; i < m->n_recipients; i++) {
		const struct span address = span_of(recipients->addresses[i]);

		assert(m->recipients[i].address.len >= address.len);
		assert(memcmp(m->recipients[i].address.bytes, address.data, address.len) == 0);
	}
	if (!has_from) {
		struct span from = next_line(&content);

		assert(span_starts_nocase(from, SPAN("From: ")) && from.data[from.len - 1] == '>');
		for (size_t i = 0; i < from.len; i++)
			assert((unsigned char)from.data[i] >= ' ' && from.data[i] != 0x7f);
	}
	assert(is_same_but_for_domains(content, (struct span){ expected->bytes, expected->len }));
}

/* Up to the first command that the server refuses (an ENVID with control bytes, the same word twice in
 * NOTIFY): there the program would have ended. */
static void
check_wire(struct span wire, const struct letter_list *recipients, const struct text *expected,
    bool has_from)
{
	struct model_options o = { .hostname = "relay.example.com",
		.max_recipients = MODEL_RECIPIENTS,
		.max_errors = 1000,
		.max_commands = 1000,
		.max_received = 100000,
		.reject_bare = true };
	struct model m;
	size_t ok = 0;

	model_server(&o, wire, &m);
	while (ok < m.n_replies && m.replies[ok].codes[0] < 400)
		ok++;
	assert(m.n_replies >= 3 && ok >= 2); /* greeting and EHLO */
	if (ok == 2 || ok < 3 + recipients->n) {
		model_fini(&m);
		return;
	}
	assert(ok == m.n_replies && m.n_replies == recipients->n + 6 && m.n_messages == 1);
	check_message(&m.messages[0], recipients, expected, has_from);
	model_fini(&m);
}

/* ---- */

static int
open_message(struct span message)
{
	const int fd = memfd_create("message", MFD_CLOEXEC);

	assert(fd >= 0 && write(fd, message.data, message.len) == (ssize_t)message.len);
	assert(lseek(fd, 0, SEEK_SET) == 0);
	return fd;
}

static void
try_letter(const struct sendmail_args *args, struct span message, bool collect)
{
	struct letter_list recipients = { NULL, 0 };
	struct submit_sender sender = { .full_name = "" };
	struct letter letter;
	struct text expected, wire;
	char address[600] = "caller", why[256];
	int fd = open_message(message), code;
	bool is_fine, has_from;

	assert(letter_read(fd, args->ignore_dots, &letter) == 0);
	close(fd);
	is_fine = args->sender == NULL || take_sender(args->sender, address);
	for (size_t i = 0; i < args->n_recipients && is_fine; i++)
		is_fine = letter_list_add(&recipients, span_of(args->recipients[i])) == 0;
	is_fine = is_fine && letter_take_recipients(&letter, collect, &recipients, why) == 0;
	check_addresses(&recipients);
	if (is_fine && message.len < WIRE_MOST / 30 && recipients.n > 0 &&
	    recipients.n <= MODEL_RECIPIENTS) {
		expected = expect(message, args->ignore_dots, &has_from);
		sender.address = address;
		sender.full_name = args->full_name != NULL ? args->full_name : "";
		wire = submit(args, &sender, &letter, &recipients, &code);
		if (code == 0)
			check_wire((struct span){ wire.bytes, wire.len }, &recipients, &expected,
			    has_from);
		free(expected.bytes);
	}
	letter_list_fini(&recipients);
	letter_fini(&letter);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct span in = { (const char *)data + 1, size - 1 };
	struct sendmail_args args;
	struct span message;
	const char *stop;
	char *words[WORDS + 1], *copy, why[256];
	unsigned n;
	int r;

	if (size < 1)
		return 0;
	stop = memchr(in.data, 0xff, in.len);
	message = stop != NULL ? span_skip(in, (size_t)(stop - in.data) + 1) : SPAN("");
	copy = malloc(in.len + 1);
	n = split_words((struct span){ in.data, stop != NULL ? (size_t)(stop - in.data) : in.len },
	    copy, words);
	r = args_parse((int)n, words, &args, why);
	if (n > 1 && words[1][0] == '-' && words[1][1] != '\0' && strchr("XDCO", words[1][1]))
		assert(r != 0);
	if (r == 0 && args.mode == SENDMAIL_SUBMIT)
		try_letter(&args, message, args.from_header || (data[0] & COLLECT) != 0);
	free(copy);
	return 0;
}
