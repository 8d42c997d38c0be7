/* run_dialogues.c - runs dialogue files over the server session; see README for their format. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "smtp/server.h"

enum { LINES_MAX = 400, BYTES_MAX = 4 << 20 };

struct bytes {
	char *data;
	size_t len;
};

struct line {
	char kind, variant;
	struct bytes text;
	unsigned number;
};

struct dialogue {
	const char *name;
	struct line lines[LINES_MAX];
	size_t n_lines, flight_bytes;
	struct smtp_server_options options;
	bool is_whole;
};

/* How the flights are cut. */
struct cut {
	const char *name;
	size_t at;         /* split once, before this byte of all that the client sends; 0: not */
	bool single, more; /* byte by byte; and saying that more is there already */
};

struct run {
	const struct dialogue *d;
	struct smtp_server server;
	struct bytes out, body;
	char envelope[70000];
	size_t sent;
	bool aborted, closed, committed, begun;
	const char *veto;
	int result;
};

static void
add(struct bytes *to, const char *data, size_t len)
{
	if (to->len + len > BYTES_MAX)
		abort();
	to->data = realloc(to->data, to->len + len + 1);
	if (len > 0)
		memcpy(to->data + to->len, data, len);
	to->len += len;
	to->data[to->len] = '\0';
}

/* ---- Reading ---- */

static void unescape(const char *in, const char *end, struct bytes *out);

static const char *
repeat(const char *in, struct bytes *out)
{
	char *text;
	unsigned long n = strtoul(in, &text, 10);
	const char *end = strchr(text, '}');

	if (*text != '*' || end == NULL)
		abort();
	while (n-- > 0)
		unescape(text + 1, end, out);
	return end + 1;
}

static void
unescape(const char *in, const char *end, struct bytes *out)
{
	static const char from[] = "rnt0\\s", to[] = "\r\n\t\0\\ ";

	while (in < end) {
		const char *known;

		if (*in != '\\') {
			add(out, in++, 1);
			continue;
		}
		in++;
		if (*in == 'x') {
			const char hex[] = { in[1], in[2], '\0' };
			const char c = (char)strtoul(hex, NULL, 16);

			add(out, &c, 1);
			in += 3;
		} else if (*in == '{') {
			in = repeat(in + 1, out);
		} else if ((known = strchr(from, *in)) != NULL && *in != '\0') {
			add(out, &to[known - from], 1);
			in++;
		} else {
			abort();
		}
	}
}

static void
set_option(struct dialogue *d, const char *name, unsigned long value)
{
	if (strcmp(name, "whole") == 0)
		d->is_whole = value != 0;
	else if (strcmp(name, "max-message") == 0)
		d->options.max_message_bytes = value;
	else if (strcmp(name, "max-recipients") == 0)
		d->options.max_recipients = (unsigned)value;
	else if (strcmp(name, "max-errors") == 0)
		d->options.max_errors = (unsigned)value;
	else if (strcmp(name, "max-commands") == 0)
		d->options.max_commands = (unsigned)value;
	else if (strcmp(name, "max-received") == 0)
		d->options.max_received = (unsigned)value;
	else if (strcmp(name, "auth-ignore") == 0)
		d->options.auth_ignore = value != 0;
	else if (strcmp(name, "nul-space") == 0)
		d->options.nul = value != 0 ? SMTP_NUL_SPACE : SMTP_NUL_REJECT;
	else if (strcmp(name, "line-end-reject") == 0)
		d->options.line_end = value != 0 ? SMTP_LINE_END_REJECT : SMTP_LINE_END_NORMALIZE;
	else {
		fprintf(stderr, "%s: unknown option %s\n", d->name, name);
		exit(2);
	}
}

static void
read_options(struct dialogue *d, char *text)
{
	for (char *word = strtok(text, " "); word != NULL; word = strtok(NULL, " ")) {
		char *value = strchr(word, '=');

		if (value == NULL)
			abort();
		*value++ = '\0';
		set_option(d, word, strtoul(value, NULL, 10));
	}
}

static void
read_line(struct dialogue *d, char *text, unsigned number)
{
	struct line *line = &d->lines[d->n_lines];

	text[strcspn(text, "\n")] = '\0';
	if (text[0] == '#' || text[0] == '\0')
		return;
	if (strlen(text) < 2 || d->n_lines == LINES_MAX)
		abort();
	*line = (struct line){ .kind = text[0], .variant = text[1], .number = number };
	text += text[2] == ' ' ? 3 : 2;
	if (line->kind == 'O') {
		read_options(d, text);
		return;
	}
	add(&line->text, "", 0);
	unescape(text, text + strlen(text), &line->text);
	if (line->kind == 'C' && line->variant == ':')
		add(&line->text, "\r\n", 2);
	if (line->kind == 'C')
		d->flight_bytes += line->text.len;
	d->n_lines++;
}

static void
read_dialogue(struct dialogue *d, const char *path)
{
	FILE *f = fopen(path, "re");
	char *text = NULL;
	size_t size = 0;
	unsigned number = 0;

	if (f == NULL) {
		perror(path);
		exit(2);
	}
	*d = (struct dialogue){ .name = path,
		.options = { .hostname = "relay.example.com", .max_message_bytes = 100000 } };
	while (getline(&text, &size, f) >= 0)
		read_line(d, text, ++number);
	free(text);
	fclose(f);
}

static void
free_dialogue(struct dialogue *d)
{
	for (size_t i = 0; i < d->n_lines; i++)
		free(d->lines[i].text.data);
}

/* ---- Running ---- */

static void
note_envelope(struct run *r)
{
	const struct smtp_mail *mail = &r->server.mail;
	size_t n = (size_t)snprintf(r->envelope, sizeof(r->envelope), "<%.*s>",
	    (int)mail->sender.len, mail->sender.data != NULL ? mail->sender.data : "");

	for (size_t i = 0; i < mail->n_recipients && n < sizeof(r->envelope) - 600; i++) {
		const struct smtp_recipient *to = &mail->recipients[i];

		n += (size_t)snprintf(r->envelope + n, sizeof(r->envelope) - n, " <%.*s>",
		    (int)to->address.len, to->address.data);
	}
}

/* Feeds what has arrived. False: the machine broke its contract. */
static bool
pump(struct run *r, struct span in, bool more)
{
	for (unsigned turns = 0; turns < 1000000; turns++) {
		size_t used;
		struct smtp_server *s = &r->server;

		switch (smtp_server_input(s, in, more, &used)) {
		case SMTP_SERVER_MORE:
			return used == in.len;
		case SMTP_SERVER_REPLY:
			add(&r->out, s->reply.data, s->reply.len);
			break;
		case SMTP_SERVER_BEGIN:
			if (r->begun)
				return false;
			r->begun = true;
			r->body.len = 0;
			if (r->veto != NULL) {
				smtp_server_refuse(s, r->veto);
				r->begun = false;
				r->veto = NULL;
			}
			break;
		case SMTP_SERVER_BODY:
			if (!r->begun)
				return false;
			add(&r->body, s->chunk.data, s->chunk.len);
			break;
		case SMTP_SERVER_ABORT:
			if (!r->begun)
				return false;
			r->begun = false;
			r->aborted = true;
			break;
		case SMTP_SERVER_COMMIT:
			if (!r->begun || s->mail.body_bytes != r->body.len ||
			    s->mail.n_recipients == 0)
				return false;
			note_envelope(r);
			r->begun = false;
			r->committed = true;
			smtp_server_committed(s, r->result, "0000000000001");
			r->result = 0;
			break;
		case SMTP_SERVER_WAIT:
			return false;
		case SMTP_SERVER_CLOSE:
			r->closed = true;
			return true;
		}
		in = span_skip(in, used);
	}
	return false;
}

static bool
send_bytes(struct run *r, struct span flight, const struct cut *cut)
{
	while (flight.len > 0 && !r->closed) {
		size_t n = flight.len;

		if (cut->single)
			n = 1;
		else if (cut->at > r->sent && cut->at - r->sent < n)
			n = cut->at - r->sent;
		if (!pump(r, (struct span){ flight.data, n }, cut->more && n < flight.len))
			return false;
		r->sent += n;
		flight = span_skip(flight, n);
	}
	return true;
}

/* Takes one reply line off the output. */
static bool
expect_reply(struct run *r, const struct line *line)
{
	const char *lf = r->out.len > 0 ? memchr(r->out.data, '\n', r->out.len) : NULL;
	const size_t len = lf != NULL ? (size_t)(lf - r->out.data) + 1 : 0;
	const struct bytes *text = &line->text;
	const bool is_open = text->len > 0 && text->data[text->len - 1] == '*';
	const size_t want = is_open ? text->len - 1 : text->len;
	const bool is_same = len >= want + 2 && (is_open || len == want + 2) &&
	                     memcmp(r->out.data, text->data, want) == 0 &&
	                     r->out.data[len - 2] == '\r' && len <= SMTP_REPLY_MAX;

	if (!is_same)
		return false;
	memmove(r->out.data, lf + 1, r->out.len - len);
	r->out.len -= len;
	return true;
}

static bool
expect(struct run *r, const struct line *line)
{
	switch (line->kind) {
	case 'S':
		return expect_reply(r, line);
	case 'E':
		return r->committed && strcmp(r->envelope, line->text.data) == 0;
	case 'B':
		if (!r->committed || r->body.len < line->text.len ||
		    memcmp(r->body.data, line->text.data, line->text.len) != 0)
			return false;
		memmove(r->body.data, r->body.data + line->text.len, r->body.len - line->text.len);
		r->body.len -= line->text.len;
		return true;
	case 'X':
		if (strcmp(line->text.data, "abort") == 0) {
			const bool aborted = r->aborted;

			r->aborted = false;
			return aborted;
		}
		return strcmp(line->text.data, "close") == 0 && r->closed;
	case 'R':
		r->veto = line->text.data;
		return true;
	case 'K':
		r->result = -atoi(line->text.data);
		return true;
	default:
		return false;
	}
}

static void
complain(const struct run *r, const struct line *line, const struct cut *cut)
{
	printf("%s:%u: not so (%s, %zu)\n  wanted: %.*s\n  output: %.*s\n  envelope: %s\n",
	    r->d->name, line->number, cut->name, cut->at, (int)line->text.len, line->text.data,
	    (int)r->out.len, r->out.len > 0 ? r->out.data : "", r->envelope);
	printf("  content left: %.*s\n", r->body.len < 400 ? (int)r->body.len : 400,
	    r->body.len > 0 ? r->body.data : "");
}

/* All content was named by B lines, if any was; no reply is left over. */
static bool
is_settled(const struct run *r, char last_kind)
{
	return r->out.len == 0 && (last_kind != 'B' || r->body.len == 0);
}

static const struct line *
play(struct run *r, const struct cut *cut)
{
	const struct dialogue *d = r->d;
	size_t i = 0;
	char last = 'S';

	if (!pump(r, (struct span){ NULL, 0 }, false))
		return &d->lines[0];
	while (i < d->n_lines) {
		struct bytes flight = { NULL, 0 };
		bool is_fine = true;

		if (d->lines[i].kind == 'C') {
			size_t end = i;

			while (end < d->n_lines && d->lines[end].kind == 'C') {
				add(&flight, d->lines[end].text.data, d->lines[end].text.len);
				end++;
			}
			is_fine = is_settled(r, last);
			r->aborted = false;
			is_fine =
			    is_fine && send_bytes(r, (struct span){ flight.data, flight.len }, cut);
			free(flight.data);
			if (!is_fine)
				return &d->lines[i];
			i = end - 1;
		} else if (!expect(r, &d->lines[i])) {
			return &d->lines[i];
		}
		last = d->lines[i++].kind;
	}
	return is_settled(r, last) ? NULL : &d->lines[d->n_lines - 1];
}

static bool
run_once(const struct dialogue *d, const struct cut *cut)
{
	struct run *r = calloc(1, sizeof(*r));
	const struct line *wrong;

	r->d = d;
	smtp_server_init(&r->server, &d->options);
	wrong = play(r, cut);
	if (wrong != NULL)
		complain(r, wrong, cut);
	smtp_server_fini(&r->server);
	free(r->out.data);
	free(r->body.data);
	free(r);
	return wrong == NULL;
}

static bool
run_all_cuts(const struct dialogue *d)
{
	bool ok = run_once(d, &(struct cut){ .name = "whole" });

	ok = ok && run_once(d, &(struct cut){ .name = "in pieces", .single = true, .more = true });
	if (d->is_whole)
		return ok;
	ok = ok && run_once(d, &(struct cut){ .name = "byte by byte", .single = true });
	/* A long dialogue is split at some thousand places, not at all. */
	for (size_t at = 1, step = 1 + d->flight_bytes / 4000; ok && at < d->flight_bytes;
	     at += step)
		ok = run_once(d, &(struct cut){ .name = "split", .at = at });
	return ok;
}

static int
is_dialogue(const struct dirent *entry)
{
	const size_t len = strlen(entry->d_name);

	return len > 4 && strcmp(entry->d_name + len - 4, ".txt") == 0;
}

int
main(int argc, char **argv)
{
	static struct dialogue d;
	const char *srcdir = getenv("srcdir");
	struct dirent **entries;
	unsigned failed = 0;
	char dir[4096], path[8192];
	int n;

	snprintf(dir, sizeof(dir), "%s/tests/dialogues", srcdir != NULL ? srcdir : ".");
	n = scandir(dir, &entries, is_dialogue, alphasort);
	if (n <= 0) {
		fprintf(stderr, "no dialogues in %s\n", dir);
		return 2;
	}
	for (int i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, entries[i]->d_name);
		if (argc < 2 || strstr(entries[i]->d_name, argv[1]) != NULL) {
			read_dialogue(&d, path);
			failed += !run_all_cuts(&d);
			free_dialogue(&d);
		}
		free(entries[i]);
	}
	free(entries);
	printf("%d dialogues, %u failed\n", n, failed);
	return failed > 0;
}
