/* submit.c - see submit.h. */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "base/os.h"
#include "sendmail/reach.h"
#include "sendmail/submit.h"
#include "smtp/address.h"
#include "smtp/server.h"

enum {
	WAIT_STORED_S = 2 * REACH_WAIT_S, /* for the answer to the message: RFC 5321 4.5.3.2.6 */
	TEXT_MAX = 512,
	LINES_MAX = 100,
};

struct talk {
	int fd;
	uint64_t deadline_ms; /* of the answer that is awaited */
	char in[4096];
	size_t start, len;
	int code;            /* of the last answer */
	char text[TEXT_MAX]; /* its last line, without the line end */
	char server[256];    /* what the server calls itself */
	bool has_size, has_8bitmime, has_smtputf8, has_dsn;
	int error; /* -errno, or -ECONNRESET for the end of the connection */
};

/* ---- Talking ---- */

static bool
send_bytes(struct talk *t, struct span bytes)
{
	while (bytes.len > 0 && t->error == 0) {
		const ssize_t n = send(t->fd, bytes.data, bytes.len, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			t->error = errno == EAGAIN ? -ETIMEDOUT : -errno;
		if (n > 0)
			bytes = span_skip(bytes, (size_t)n);
	}
	return t->error == 0;
}

static bool
wait_for_input(struct talk *t)
{
	struct pollfd readable = { .fd = t->fd, .events = POLLIN };
	const uint64_t now_ms = os_boot_ms();
	int n = 0;

	if (now_ms < t->deadline_ms)
		n = poll(&readable, 1, (int)(t->deadline_ms - now_ms));
	if (n == 0)
		t->error = -ETIMEDOUT;
	else if (n < 0 && errno != EINTR)
		t->error = -errno;
	return t->error == 0;
}

static bool
fill(struct talk *t)
{
	ssize_t n;

	if (t->start > 0) {
		memmove(t->in, t->in + t->start, t->len);
		t->start = 0;
	}
	if (t->len == sizeof(t->in)) {
		t->error = -EPROTO; /* a line that never ends */
		return false;
	}
	do {
		if (!wait_for_input(t))
			return false;
		n = recv(t->fd, t->in + t->len, sizeof(t->in) - t->len, MSG_DONTWAIT);
	} while (n < 0 && (errno == EINTR || errno == EAGAIN));
	if (n <= 0) {
		t->error = n == 0 ? -ECONNRESET : -errno;
		return false;
	}
	t->len += (size_t)n;
	return true;
}

/* One line without its end. */
static bool
read_line(struct talk *t, struct span *line)
{
	const char *lf;

	while ((lf = memchr(t->in + t->start, '\n', t->len)) == NULL)
		if (!fill(t))
			return false;
	*line = (struct span){ t->in + t->start, (size_t)(lf - t->in) - t->start };
	t->start += line->len + 1;
	t->len -= line->len + 1;
	if (line->len > 0 && line->data[line->len - 1] == '\r')
		line->len--;
	return true;
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static void
note_keyword(struct talk *t, struct span line, bool is_first)
{
	const struct span text = span_skip(line, line.len > 4 ? 4 : line.len);
	const char *space = text.len > 0 ? memchr(text.data, ' ', text.len) : NULL;
	const struct span word = { text.data,
		space != NULL ? (size_t)(space - text.data) : text.len };

	if (is_first)
		snprintf(t->server, sizeof(t->server), "%.*s", (int)word.len, word.data);
	t->has_size |= span_equals_nocase(word, SPAN("SIZE"));
	t->has_8bitmime |= span_equals_nocase(word, SPAN("8BITMIME"));
	t->has_smtputf8 |= span_equals_nocase(word, SPAN("SMTPUTF8"));
	t->has_dsn |= span_equals_nocase(word, SPAN("DSN"));
}

/* The next answer; t->code is 0 if there was none. */
static int
hear_within(struct talk *t, bool is_ehlo, unsigned seconds)
{
	struct span line;
	bool is_last = false;

	t->code = 0;
	t->deadline_ms = os_boot_ms() + seconds * (uint64_t)1000;
	for (unsigned n = 0; !is_last; n++) {
		if (!read_line(t, &line))
			return 0;
		if (n == LINES_MAX || line.len < 3 || !is_digit(line.data[0]) ||
		    !is_digit(line.data[1]) || !is_digit(line.data[2])) {
			t->error = -EPROTO;
			return 0;
		}
		is_last = line.len == 3 || line.data[3] != '-';
		if (is_ehlo)
			note_keyword(t, line, n == 0);
	}
	log_quote(line, t->text, sizeof(t->text));
	t->code = (line.data[0] - '0') * 100 + (line.data[1] - '0') * 10 + (line.data[2] - '0');
	return t->code;
}

static int
hear(struct talk *t, bool is_ehlo)
{
	return hear_within(t, is_ehlo, REACH_WAIT_S);
}

/* Something came that answers nothing yet. It may be a last word (421); a "yes" it cannot be. */
static bool
spoke_early(const struct talk *t)
{
	char c;

	return t->len > 0 || recv(t->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

static int
refuse_early_yes(struct talk *t, bool was_early)
{
	if (was_early && t->code != 0 && t->code < 400) {
		t->error = -EPROTO;
		t->code = 0;
	}
	return t->code;
}

/* A command and its answer. What is sent was checked before: one line, and no more (I8). */
static int PRINTF_LIKE(2, 3) say(struct talk *t, const char *fmt, ...)
{
	const bool was_early = spoke_early(t);
	char line[4096];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line) - 2, fmt, ap);
	va_end(ap);
	t->code = 0;
	if (n < 0 || (size_t)n >= sizeof(line) - 2 || strpbrk(line, "\r\n") != NULL) {
		t->error = -EINVAL;
		return 0;
	}
	memcpy(line + n, "\r\n", 2);
	if (!send_bytes(t, (struct span){ line, (size_t)n + 2 }))
		return 0;
	hear(t, strncmp(fmt, "EHLO", 4) == 0);
	return refuse_early_yes(t, was_early);
}

/* What the refusal means for the caller's caller. */
static int
exit_code(const struct talk *t)
{
	const char *enhanced = strlen(t->text) > 4 ? t->text + 4 : "";

	if (t->code < 500)
		return EX_TEMPFAIL;
	if (strncmp(enhanced, "5.1.", 4) == 0)
		return EX_NOUSER;
	if (strncmp(enhanced, "5.7.", 4) == 0)
		return EX_NOPERM;
	if (strncmp(enhanced, "5.6.", 4) == 0 || t->code == 552)
		return EX_DATAERR;
	return EX_UNAVAILABLE;
}

static const char *
why_no_answer(const struct talk *t)
{
	return t->error == -ECONNRESET ? "it closed the connection" : strerror(-t->error);
}

static int
complain(const struct talk *t, const char *what)
{
	if (t->code == 0) {
		fprintf(stderr, "relayd-sendmail: %s: no answer from relayd: %s\n", what,
		    why_no_answer(t));
		return EX_TEMPFAIL;
	}
	fprintf(stderr, "relayd-sendmail: %s: %s\n", what, t->text);
	return exit_code(t);
}

/* ---- Who answers ---- */

static int
complain_of_stranger(const struct talk *t, const struct reach *reach)
{
	fprintf(stderr,
	    "relayd-sendmail: another server than relayd answers at %s: \"%s\"; " REACH_ADVICE "\n",
	    reach->where, t->text);
	return EX_TEMPFAIL;
}

static int
complain_of_silence(const struct talk *t, const struct reach *reach)
{
	fprintf(stderr, "relayd-sendmail: no greeting from relayd at %s: %s; " REACH_ADVICE "\n",
	    reach->where, why_no_answer(t));
	return EX_TEMPFAIL;
}

static bool
is_relayd(const struct talk *t)
{
	const struct span text = span_of(t->text), end = SPAN(SMTP_SERVER_GREETING_END);

	return text.len >= end.len && span_equals(span_skip(text, text.len - end.len), end);
}

/* Port 25 may belong to another server, whose 250 would let a message go where nobody looks. */
static int
hear_greeting(struct talk *t, const struct reach *reach)
{
	int r;

	hear_within(t, false, reach->greeting_wait_s);
	if (t->code == 0)
		return complain_of_silence(t, reach);
	if (t->code == 220 && is_relayd(t))
		return EX_OK;
	if (t->code == 220) {
		t->error = -EPROTO; /* no QUIT: it might have to be waited for, too */
		return complain_of_stranger(t, reach);
	}
	r = complain(t, "relayd takes no mail now");
	return reach->is_guess ? EX_TEMPFAIL : r; /* nobody knows whose refusal it is */
}

/* ---- The message ---- */

/* Dot-stuffing (RFC 5321 4.5.2), in pieces as long as possible. */
static void
send_text(struct talk *t, struct span text, bool *at_start)
{
	while (text.len > 0 && t->error == 0) {
		const char *lf = memchr(text.data, '\n', text.len);
		size_t len = text.len;

		if (*at_start && text.data[0] == '.')
			send_bytes(t, SPAN("."));
		*at_start = false;
		while (lf != NULL && (size_t)(lf - text.data) + 1 < text.len && lf[1] != '.')
			lf = memchr(lf + 1, '\n', text.len - (size_t)(lf + 1 - text.data));
		if (lf != NULL) {
			len = (size_t)(lf - text.data) + 1;
			*at_start = true;
		}
		send_bytes(t, (struct span){ text.data, len });
		text = span_skip(text, len);
	}
}

static void
send_file(struct talk *t, const struct letter *letter, bool *at_start)
{
	char piece[65536];
	uint64_t at = 0;

	while (at < letter->file_bytes && t->error == 0) {
		const ssize_t n = pread(letter->file, piece, sizeof(piece), (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			t->error = n == 0 ? -EIO : -errno;
			return;
		}
		send_text(t, (struct span){ piece, (size_t)n }, at_start);
		at += (uint64_t)n;
	}
}

/* RFC 2047 where a name is not ASCII, quotes where it is. Control bytes are left out. */
static void
print_name(const char *name, char *out, size_t size)
{
	static const char hex[] = "0123456789ABCDEF";
	bool is_ascii = true;
	size_t n;

	for (const char *c = name; *c != '\0'; c++)
		is_ascii &= ((unsigned char)*c & 0x80) == 0;
	n = (size_t)snprintf(out, size, "%s", is_ascii ? "\"" : "=?UTF-8?Q?");
	for (const char *c = name; *c != '\0' && n + 10 < size; c++) {
		const unsigned char u = (unsigned char)*c;
		const bool is_special = strchr("\"\\", *c) != NULL;
		const bool is_word = u < 0x80 && strchr("=?_\"(),.:;<>@[\\] ", *c) == NULL;

		if (u < 0x20 || u == 0x7f)
			continue;
		if (is_ascii && is_special)
			out[n++] = '\\';
		if (is_ascii || is_word) {
			out[n++] = *c;
			continue;
		}
		out[n++] = '=';
		out[n++] = hex[u >> 4];
		out[n++] = hex[u & 15];
	}
	snprintf(out + n, size - n, "%s ", is_ascii ? "\"" : "?=");
}

/* From, where it is missing (RFC 5322 3.6): who calls. */
static size_t
print_from(const struct talk *t, const struct submit_sender *sender, char *out, size_t size)
{
	const bool is_null = sender->address[0] == '\0';
	const bool has_domain = strchr(sender->address, '@') != NULL;
	char name[400] = "";

	if (sender->full_name[0] != '\0')
		print_name(sender->full_name, name, sizeof(name));
	return (size_t)snprintf(out, size, "From: %s<%s%s%s>\r\n", name,
	    is_null ? "MAILER-DAEMON" : sender->address, has_domain ? "" : "@",
	    has_domain ? "" : t->server);
}

static int
send_message(struct talk *t, const struct submit_sender *sender, const struct letter *letter)
{
	bool at_start = true, was_early;
	char from[2048];

	if (say(t, "DATA") != 354)
		return complain(t, "the message was refused");
	if (!letter->has_from) {
		const size_t len = print_from(t, sender, from, sizeof(from));

		send_text(t, (struct span){ from, len < sizeof(from) ? len : 0 }, &at_start);
	}
	send_text(t, letter->header, &at_start);
	if (letter->needs_separator)
		send_text(t, SPAN("\r\n"), &at_start);
	send_text(t, letter->body, &at_start);
	send_file(t, letter, &at_start);
	if (t->error == -EPIPE || t->error == -ECONNRESET) {
		t->error = 0; /* it gave up in the middle: perhaps it said why */
		hear(t, false);
		return complain(t, "the message was not accepted");
	}
	was_early = spoke_early(t);
	t->code = 0;
	if (t->error == 0 && send_bytes(t, SPAN(".\r\n")))
		hear_within(t, false, WAIT_STORED_S);
	if (t->error != 0 || refuse_early_yes(t, was_early) != 250)
		return complain(t, "the message was not accepted");
	return EX_OK;
}

static bool
needs_utf8(const struct submit_sender *sender, const struct letter_list *recipients)
{
	struct address a;

	if (address_parse(span_of(sender->address), &a) == ADDRESS_OK && a.is_utf8)
		return true;
	for (size_t i = 0; i < recipients->n; i++)
		if (address_parse(span_of(recipients->addresses[i]), &a) == ADDRESS_OK && a.is_utf8)
			return true;
	return false;
}

static int
say_mail(struct talk *t, const struct sendmail_args *args, const struct submit_sender *sender,
    const struct letter *letter, bool utf8)
{
	const uint64_t bytes = letter->header.len + letter->body.len + letter->file_bytes;
	char size[40] = "", envid[400] = "", encoded[340];
	const char *body = args->body != NULL ? args->body : letter->has_8bit ? "8BITMIME" : NULL;
	const char *ret = t->has_dsn ? args->ret : NULL;

	if (letter->has_8bit)
		body = "8BITMIME"; /* whatever -B says */
	if (!t->has_8bitmime)
		body = NULL;
	if (t->has_size)
		snprintf(size, sizeof(size), " SIZE=%llu", (unsigned long long)bytes);
	if (args->envid != NULL && t->has_dsn) {
		const long n = xtext_encode(span_of(args->envid), encoded, sizeof(encoded));

		if (n > 0)
			snprintf(envid, sizeof(envid), " ENVID=%.*s", (int)n, encoded);
	}
	return say(t, "MAIL FROM:<%s>%s%s%s%s%s%s%s", sender->address, size,
	    body != NULL ? " BODY=" : "", body != NULL ? body : "", utf8 ? " SMTPUTF8" : "",
	    ret != NULL ? " RET=" : "", ret != NULL ? ret : "", envid);
}

/* One transaction, for recipients from *at on; as many as the server takes at once. */
static int
send_to_some(struct talk *t, const struct sendmail_args *args, const struct submit_sender *sender,
    const struct letter *letter, const struct letter_list *recipients, bool utf8, size_t *at)
{
	const bool notify = args->notify != NULL && t->has_dsn;
	const size_t first = *at;

	if (say_mail(t, args, sender, letter, utf8) != 250)
		return complain(t, sender->address[0] != '\0' ? sender->address : "<>");
	for (; *at < recipients->n; ++*at) {
		say(t, "RCPT TO:<%s>%s%s", recipients->addresses[*at], notify ? " NOTIFY=" : "",
		    notify ? args->notify : "");
		if (t->code == 452 && *at > first)
			break; /* the rest goes with another one */
		if (t->code != 250 && t->code != 251)
			return complain(t, recipients->addresses[*at]);
	}
	return send_message(t, sender, letter);
}

static int
greet(struct talk *t, const struct reach *reach)
{
	char name[256] = "localhost";
	const int r = hear_greeting(t, reach);

	if (gethostname(name, sizeof(name) - 1) < 0 || !address_is_domain(span_of(name)))
		snprintf(name, sizeof(name), "localhost");
	if (r != EX_OK)
		return r;
	if (say(t, "EHLO %s", name) != 250)
		return complain(t, "relayd takes no mail now");
	return EX_OK;
}

static int
submit(struct talk *t, const struct reach *reach, const struct sendmail_args *args,
    const struct submit_sender *sender, struct letter *letter, const struct letter_list *recipients)
{
	const bool utf8 = needs_utf8(sender, recipients);
	size_t at = 0;
	int r = greet(t, reach);

	if (r == EX_OK && utf8 && !t->has_smtputf8) {
		fprintf(stderr,
		    "relayd-sendmail: an address is not ASCII, and the server cannot do that\n");
		r = EX_DATAERR;
	}
	if (r == EX_OK && address_is_domain(span_of(t->server)))
		letter_qualify(letter, span_of(t->server)); /* as relayd does in the envelope */
	while (r == EX_OK && at < recipients->n)
		r = send_to_some(t, args, sender, letter, recipients, utf8, &at);
	if (r == EX_OK && args->verbose)
		fprintf(stderr, "relayd-sendmail: %s\n", t->text);
	if (t->code != 0 && t->error == 0)
		say(t, "QUIT"); /* what is answered does not matter any more */
	return r;
}

int
submit_letter(const struct reach *reach, const struct sendmail_args *args,
    const struct submit_sender *sender, struct letter *letter, const struct letter_list *recipients)
{
	struct talk t = { .fd = reach->fd };
	const int r = submit(&t, reach, args, sender, letter, recipients);

	close(reach->fd);
	return r;
}

/* ---- -bs ---- */

/* Moves what is there. 1: something, 0: the end, -1: an error. */
static int
move(int from, int to, bool to_socket)
{
	char data[16384];
	ssize_t n, done = 0;

	n = read(from, data, sizeof(data));
	if (n <= 0)
		return n < 0 && (errno == EINTR || errno == EAGAIN) ? 1 : (int)n;
	while (done < n) {
		const ssize_t w = to_socket
		                      ? send(to, data + done, (size_t)(n - done), MSG_NOSIGNAL)
		                      : write(to, data + done, (size_t)(n - done));

		if (w < 0 && errno != EINTR)
			return -1;
		done += w > 0 ? w : 0;
	}
	return 1;
}

static int
pass_on(int fd)
{
	struct pollfd fds[] = { { STDIN_FILENO, POLLIN, 0 }, { fd, POLLIN, 0 } };
	int r = 1;

	while (r > 0) {
		if (poll(fds, 2, -1) < 0) {
			r = errno == EINTR ? 1 : -1;
			continue;
		}
		if (fds[1].revents != 0)
			r = move(fd, STDOUT_FILENO, false);
		if (r > 0 && fds[0].fd >= 0 && fds[0].revents != 0 &&
		    move(STDIN_FILENO, fd, true) <= 0) {
			shutdown(fd, SHUT_WR); /* the answers are still to come */
			fds[0].fd = -1;
		}
	}
	return r == 0 ? EX_OK : EX_TEMPFAIL;
}

int
submit_pass_through(const struct reach *reach)
{
	struct talk t = { .fd = reach->fd };
	int r = hear_greeting(&t, reach);

	if (t.code != 0 && (r == EX_OK || t.code != 220)) {
		/* What was read here was for the client: a refusal as well, and what came with it. */
		printf("%s\r\n", t.text);
		fwrite(t.in + t.start, 1, t.len, stdout);
		if (fflush(stdout) != 0 || ferror(stdout))
			r = EX_TEMPFAIL;
	}
	if (r == EX_OK)
		r = pass_on(reach->fd);
	close(reach->fd);
	return r;
}
