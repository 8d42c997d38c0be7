/* letter.c - see letter.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sendmail/letter.h"
#include "smtp/header.h"

/* ---- Reading ---- */

/* Lines as the network has them. A dot at the start of a line waits for what follows. */
struct reader {
	struct letter *letter;
	size_t len; /* in memory */
	bool ignore_dots;
	bool at_start, dot_held, cr_held, ended;
	int error;
	char out[65536]; /* on its way to the file */
	size_t n_out;
};

static int
write_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		const ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Never visible, never left behind. Without a writable directory: memory. */
static int
open_temporary(void)
{
	const char *dir = getenv("TMPDIR");
	int fd = -1;

	if (dir != NULL && dir[0] == '/')
		fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		fd = memfd_create("message", MFD_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static void
flush(struct reader *r)
{
	if (r->error != 0 || r->n_out == 0)
		return;
	if (r->letter->file < 0) {
		const int fd = open_temporary();

		if (fd < 0) {
			r->error = fd;
			return;
		}
		r->letter->file = fd;
	}
	r->error = write_all(r->letter->file, r->out, r->n_out);
	r->letter->file_bytes += r->n_out;
	r->n_out = 0;
}

static void
put(struct reader *r, char c)
{
	r->letter->has_8bit |= ((unsigned char)c & 0x80) != 0;
	if (r->len < LETTER_MEMORY) {
		r->letter->memory[r->len++] = c;
		return;
	}
	r->out[r->n_out++] = c;
	if (r->n_out == sizeof(r->out))
		flush(r);
}

static void
end_line(struct reader *r)
{
	if (r->dot_held && !r->ignore_dots) {
		r->ended = true;
		return;
	}
	if (r->dot_held)
		put(r, '.');
	r->dot_held = false;
	r->at_start = true;
	put(r, '\r');
	put(r, '\n');
}

static void
take_byte(struct reader *r, char c)
{
	if (r->cr_held && c != '\n') {
		r->cr_held = false;
		take_byte(r, ' ');
	}
	if (c == '\n') {
		r->cr_held = false;
		end_line(r);
	} else if (c == '\r') {
		r->cr_held = true;
	} else if (c == '.' && r->at_start) {
		r->dot_held = true;
		r->at_start = false;
	} else {
		if (r->dot_held)
			put(r, '.');
		r->dot_held = r->at_start = false;
		put(r, c == '\0' ? ' ' : c);
	}
}

static int
read_all(struct reader *r, int fd)
{
	static char in[65536];

	while (!r->ended && r->error == 0) {
		const ssize_t n = read(fd, in, sizeof(in));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		for (ssize_t i = 0; i < n && !r->ended; i++)
			take_byte(r, in[i]);
	}
	if (!r->ended && (!r->at_start || r->cr_held))
		end_line(r); /* the last line had no end */
	flush(r);
	return r->error;
}

/* Where the header ends; header_next() reads it again later. */
static int
split(struct letter *letter, size_t len)
{
	const struct span all = { letter->memory, len };
	struct span rest = all, before = all;
	struct header_field field;
	enum header_next next;

	/* mbox: "From ann Tue Nov 24 ..." is no part of the message */
	if (span_starts_nocase(rest, SPAN("From ")) || span_starts_nocase(rest, SPAN(">From "))) {
		const char *lf = memchr(rest.data, '\n', rest.len);

		rest = lf != NULL ? span_skip(rest, (size_t)(lf - rest.data) + 1) : rest;
	}
	letter->header.data = rest.data;
	do {
		before = rest;
		next = header_next(&rest, &field);
		letter->has_from |= next == HEADER_FIELD && header_is(field, "From");
	} while (next == HEADER_FIELD);
	if (before.len == 0 && letter->file >= 0)
		return -E2BIG;
	letter->header.len = (size_t)(before.data - letter->header.data);
	letter->body = before;
	letter->needs_separator = next == HEADER_BODY || before.len == 0;
	return 0;
}

int
letter_read(int fd, bool ignore_dots, struct letter *out)
{
	struct reader *r = xcalloc(1, sizeof(*r));
	int result;

	*out = (struct letter){ .file = -1, .memory = xcalloc(1, LETTER_MEMORY) };
	r->letter = out;
	r->ignore_dots = ignore_dots;
	r->at_start = true;
	result = read_all(r, fd);
	if (result == 0)
		result = split(out, r->len);
	free(r);
	return result;
}

void
letter_fini(struct letter *letter)
{
	free(letter->memory);
	free(letter->qualified);
	if (letter->file >= 0)
		close(letter->file);
}

/* ---- Recipients ---- */

static int
add_address(void *arg, struct span address)
{
	struct letter_list *list = arg;

	for (size_t i = 0; i < list->n; i++)
		if (span_equals(address, span_of(list->addresses[i])))
			return 0;
	if (list->n == LETTER_RECIPIENTS_MAX)
		return -E2BIG;
	if ((list->n & (list->n - 1)) == 0)
		list->addresses = xrealloc(
		    list->addresses, list->n > 0 ? 2 * list->n : 1, sizeof(*list->addresses));
	list->addresses[list->n++] = xstrndup(address.data, address.len);
	return 0;
}

int
letter_list_add(struct letter_list *list, struct span text)
{
	for (size_t i = 0; i < text.len; i++)
		if ((unsigned char)text.data[i] < 0x20 || text.data[i] == 0x7f)
			return -EINVAL;
	return header_addresses(text, add_address, list);
}

void
letter_list_fini(struct letter_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		free(list->addresses[i]);
	free(list->addresses);
	*list = (struct letter_list){ NULL, 0 };
}

static bool
has_resent(struct span header)
{
	struct header_field field;

	while (header_next(&header, &field) == HEADER_FIELD)
		if (header_is_resent_recipient(field))
			return true;
	return false;
}

/* Moves what is not Bcc to the front. */
static void
drop_bcc(struct letter *letter)
{
	struct span rest = letter->header;
	struct header_field field;
	char *to = letter->memory + (rest.data - letter->memory);

	letter->header.len = 0;
	while (rest.len > 0 && header_next(&rest, &field) == HEADER_FIELD) {
		if (header_is_bcc(field))
			continue;
		memmove(to + letter->header.len, field.raw.data, field.raw.len);
		letter->header.len += field.raw.len;
	}
}

int
letter_take_recipients(struct letter *letter, bool collect, struct letter_list *list, char *why)
{
	const bool resent = has_resent(letter->header);
	struct span rest = letter->header;
	struct header_field field;

	while (collect && header_next(&rest, &field) == HEADER_FIELD) {
		int r;

		if (resent ? !header_is_resent_recipient(field) : !header_is_recipient(field))
			continue;
		r = header_addresses(field.body, add_address, list);
		if (r != 0) {
			snprintf(why, 256, "%s in the %.*s header field",
			    r == -E2BIG ? "too long or too many addresses" : "a bad address",
			    (int)(field.name.len < 40 ? field.name.len : 40), field.name.data);
			return r;
		}
	}
	drop_bcc(letter);
	return 0;
}

/* ---- Addresses without a domain ---- */

enum { LINE_MOST = 998 }; /* RFC 5322 2.1.1 */

/* A header that is being written. */
struct draft {
	char *data;
	size_t len, size;
	struct span body, domain; /* of the field in work, and what its bare addresses get */
	size_t done;              /* bytes of `body` that are written */
	size_t n_addresses;
};

static void
add(struct draft *d, struct span text)
{
	if (d->size - d->len < text.len) {
		d->size = 2 * (d->len + text.len);
		d->data = xrealloc(d->data, d->size, 1);
	}
	if (text.len > 0)
		memcpy(d->data + d->len, text.data, text.len);
	d->len += text.len;
}

static int
add_domain(void *arg, size_t end)
{
	struct draft *d = arg;

	if (++d->n_addresses > LETTER_RECIPIENTS_MAX)
		return -E2BIG;
	add(d, (struct span){ d->body.data + d->done, end - d->done });
	add(d, SPAN("@"));
	add(d, d->domain);
	d->done = end;
	return 0;
}

/* No Bcc: it is not sent. */
static bool
has_addresses(struct header_field field)
{
	static const char *const names[] = { "From", "Sender", "Reply-To", "To", "Cc" };

	if (span_starts_nocase(field.name, SPAN("Resent-")))
		field.name = span_skip(field.name, strlen("Resent-"));
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (header_is(field, names[i]))
			return true;
	return false;
}

static bool
has_long_line(struct span text)
{
	const char *lf;

	while (text.len > 0 && (lf = memchr(text.data, '\n', text.len)) != NULL) {
		if ((size_t)(lf - text.data) > LINE_MOST + 1) /* with its CR */
			return true;
		text = span_skip(text, (size_t)(lf - text.data) + 1);
	}
	return false;
}

static void
add_field(struct draft *d, struct header_field field)
{
	const size_t start = d->len, name = (size_t)(field.body.data - field.raw.data);
	bool is_fine;

	d->body = field.body;
	d->done = d->n_addresses = 0;
	add(d, (struct span){ field.raw.data, name });
	is_fine = has_addresses(field) && header_bare_addresses(field.body, add_domain, d) == 0;
	add(d, span_skip(field.raw, name + d->done));
	if (is_fine && !has_long_line((struct span){ d->data + start, d->len - start }))
		return;
	d->len = start;
	add(d, field.raw);
}

void
letter_qualify(struct letter *letter, struct span domain)
{
	struct draft draft = { .domain = domain };
	struct span rest = letter->header;
	struct header_field field;

	while (rest.len > 0 && header_next(&rest, &field) == HEADER_FIELD)
		add_field(&draft, field);
	letter->qualified = draft.data;
	letter->header = (struct span){ draft.data, draft.len };
}
