/* fuzz_header.c - what web applications let strangers write into a message: header fields, address lists
 * and paths.
 *
 * What must hold: the facts of a header do not hang on the pieces, and are those that header_next()
 * finds; the addresses found are addresses, and a list made of them gives them again; a domain where
 * one is missing changes nothing else in a list; an address is the same in a path, in brackets and
 * when it is put together again; xtext comes back, and never as a control byte; each Received line that trace_print() wrote is counted as ours. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "smtp/address.h"
#include "smtp/header.h"
#include "smtp/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- Addresses ---- */

/* Neither a control byte nor, outside of quotes, what could end the address. */
static void
check_address(struct span text)
{
	struct address a, again;
	char whole[ADDRESS_MAX + 2], path[ADDRESS_MAX + 4];
	bool is_quoted = false;
	size_t len, used;

	assert(text.len > 0 && text.len <= ADDRESS_MAX);
	assert(address_parse(text, &a) == ADDRESS_OK && a.local.len > 0);
	for (size_t i = 0; i < text.len; i++) {
		const char c = text.data[i];

		assert((unsigned char)c >= 0x20 && c != 0x7f);
		if (is_quoted && c == '\\')
			i++;
		else if (c == '"')
			is_quoted = !is_quoted;
		else
			assert(is_quoted || strchr("<>(),; ", c) == NULL);
	}
	assert(!is_quoted);
	len = (size_t)snprintf(whole, sizeof(whole), "%.*s%s%.*s", (int)a.local.len, a.local.data,
	    a.domain.len > 0 ? "@" : "", (int)a.domain.len, a.domain.len > 0 ? a.domain.data : "");
	assert(span_equals(text, (struct span){ whole, len }));
	assert(a.domain.len == 0 || address_is_domain(a.domain));
	assert(!a.is_utf8 || address_is_utf8(text));
	len = (size_t)snprintf(path, sizeof(path), "<%s> X", whole);
	assert(address_parse_path((struct span){ path, len }, &again, &used) == ADDRESS_OK);
	assert(used == text.len + 2 && span_equals(again.local, a.local));
	assert(span_equals(again.domain, a.domain) && again.is_utf8 == a.is_utf8);
	assert(
	    address_parse_path((struct span){ path + 1, text.len }, &again, &used) == ADDRESS_OK);
	assert(used == text.len && span_equals(again.local, a.local));
}

static void
check_path(struct span text)
{
	struct address a;
	size_t used;

	if (address_parse_path(text, &a, &used) != ADDRESS_OK)
		return;
	assert(used <= text.len && a.local.len <= ADDRESS_LOCAL_MAX);
	if (a.local.len > 0)
		check_address((struct span){
		    a.local.data, a.local.len + (a.domain.len > 0 ? 1 + a.domain.len : 0) });
	else
		assert(used == 2 && memcmp(text.data, "<>", 2) == 0);
}

struct list {
	char text[8192]; /* "a@b, c@d" */
	size_t len, n;
};

static int
on_address(void *arg, struct span address)
{
	struct list *l = arg;

	check_address(address);
	if (l->len + address.len + 2 > sizeof(l->text))
		return 1;
	if (l->n++ > 0) {
		memcpy(l->text + l->len, ", ", 2);
		l->len += 2;
	}
	memcpy(l->text + l->len, address.data, address.len);
	l->len += address.len;
	return 0;
}

struct completed {
	struct span text;
	char *out; /* `text`, and a domain at each place that was found */
	size_t len, done, n;
};

static void
complete_to(struct completed *c, size_t end, struct span domain)
{
	memcpy(c->out + c->len, c->text.data + c->done, end - c->done);
	memcpy(c->out + c->len + end - c->done, domain.data, domain.len);
	c->len += end - c->done + domain.len;
	c->done = end;
}

static int
on_bare(void *arg, size_t end)
{
	struct completed *c = arg;

	assert(end > c->done && end <= c->text.len);
	assert(end == c->text.len || c->text.data[end] != '@');
	complete_to(c, end, SPAN("@x.org"));
	c->n++;
	return 0;
}

static int
count_whole(void *arg, struct span address)
{
	size_t *n = arg; /* all, and those that lack a domain */
	struct address a;

	n[0]++;
	assert(address_parse(address, &a) == ADDRESS_OK);
	n[1] += a.domain.len == 0;
	return 0;
}

/* A list whose bare addresses got a domain has as many addresses as before, and so many less that are
 * bare; there is nothing left to complete. */
static void
check_completed(struct span text)
{
	struct completed c = { .text = text, .out = malloc(7 * text.len + 1) };
	size_t before[2] = { 0, 0 }, after[2] = { 0, 0 };

	if (header_bare_addresses(text, on_bare, &c) == 0) {
		complete_to(&c, text.len, SPAN(""));
		assert(header_addresses(text, count_whole, before) == 0);
		assert(header_addresses((struct span){ c.out, c.len }, count_whole, after) == 0);
		assert(before[0] == after[0] && before[1] == after[1] + c.n);
		c = (struct completed){ .text = { c.out, c.len }, .out = c.out };
		c.out = malloc(7 * c.len + 1);
		assert(header_bare_addresses(c.text, on_bare, &c) == 0 && c.n == 0);
		free((void *)(uintptr_t)c.text.data);
	}
	free(c.out);
}

static void
check_list(struct span text)
{
	struct list first = { .len = 0 }, again = { .len = 0 };

	if (header_addresses(text, on_address, &first) != 0)
		return;
	assert(header_addresses((struct span){ first.text, first.len }, on_address, &again) == 0);
	assert(first.n == again.n && first.len == again.len);
	assert(memcmp(first.text, again.text, first.len) == 0);
}

/* ---- Header fields ---- */

static bool
has_name(struct header_field field, const char *name)
{
	return header_is(field, name);
}

/* The same by header_next(). mbox files begin "From ann Tue ...", and that line may be folded. */
static struct header_facts
facts_of_fields(struct span rest)
{
	const size_t from = rest.len > 0 && rest.data[0] == '>' ? 6 : 5;
	struct header_facts f = { .has_header = false };
	struct header_field field;
	enum header_next next;
	size_t behind = from;

	while (behind < rest.len && (rest.data[behind] == ' ' || rest.data[behind] == '\t'))
		behind++;
	if (behind < rest.len && memcmp(rest.data + from - 5, "From", 4) == 0 &&
	    (rest.data[from - 1] == ' ' || rest.data[from - 1] == '\t') &&
	    header_next(&(struct span){ rest.data, rest.len }, &field) == HEADER_BODY) {
		f.has_header = true;
		do {
			const char *lf = memchr(rest.data, '\n', rest.len);

			rest =
			    span_skip(rest, lf != NULL ? (size_t)(lf - rest.data) + 1 : rest.len);
		} while (rest.len > 0 && (rest.data[0] == ' ' || rest.data[0] == '\t'));
	}
	f.starts_empty = !f.has_header &&
	                 (rest.len == 0 || rest.data[0] == '\n' || span_equals(rest, SPAN("\r")) ||
	                     (rest.len > 1 && memcmp(rest.data, "\r\n", 2) == 0));
	while ((next = header_next(&rest, &field)) == HEADER_FIELD) {
		f.has_header = true;
		f.received += has_name(field, "Received");
		f.from += has_name(field, "From");
		f.date += has_name(field, "Date");
		f.message_id += has_name(field, "Message-ID");
		f.bcc += has_name(field, "Bcc");
		f.resent += span_starts_nocase(field.name, SPAN("Resent-"));
	}
	return f;
}

static bool
is_same(const struct header_facts *a, const struct header_facts *b)
{
	return a->received == b->received && a->from == b->from && a->date == b->date &&
	       a->message_id == b->message_id && a->bcc == b->bcc && a->resent == b->resent &&
	       a->has_header == b->has_header;
}

static struct header_facts
scan(struct span text, size_t piece)
{
	struct header_scan h;

	header_scan_begin(&h);
	h.own = "x.org";
	for (size_t i = 0; i < text.len; i += piece)
		header_scan_take(&h,
		    (struct span){ text.data + i, text.len - i < piece ? text.len - i : piece });
	header_scan_finish(&h);
	return h.facts;
}

static void
check_facts(struct span text)
{
	const struct header_facts whole = scan(text, text.len + 1), single = scan(text, 1);
	const struct header_facts plain = facts_of_fields(text);

	assert(is_same(&whole, &single) && whole.own == single.own);
	assert(whole.starts_empty == single.starts_empty && whole.own <= text.len / 20);
	assert(is_same(&whole, &plain) && whole.starts_empty == plain.starts_empty);
}

static void
check_fields(struct span text)
{
	struct header_field field;
	struct span rest = text;

	while (header_next(&rest, &field) == HEADER_FIELD) {
		assert(field.name.len > 0 && field.raw.len > field.name.len);
		assert(field.body.data >= field.raw.data);
		assert(field.body.data + field.body.len <= field.raw.data + field.raw.len);
		assert(rest.data == field.raw.data + field.raw.len);
		check_list(field.body);
		check_completed(field.body);
	}
	assert(rest.len <= text.len);
}

/* ---- xtext ---- */

static bool
has_control(struct span text)
{
	for (size_t i = 0; i < text.len; i++)
		if ((unsigned char)text.data[i] < 0x20 || text.data[i] == 0x7f)
			return true;
	return false;
}

/* Any bytes, coded: only what xtext may hold; decoded: the same, or refused if it could inject. */
static void
check_coded(struct span text)
{
	char coded[3 * 600], decoded[600];
	const size_t len = text.len < sizeof(decoded) ? text.len : sizeof(decoded);
	const long n = xtext_encode((struct span){ text.data, len }, coded, sizeof(coded));
	long m;

	assert(n >= (long)len && n <= 3 * (long)len);
	for (long i = 0; i < n; i++)
		assert(coded[i] > 0x20 && coded[i] < 0x7f && coded[i] != '=');
	m = xtext_decode((struct span){ coded, (size_t)n }, decoded, sizeof(decoded));
	if (has_control((struct span){ text.data, len })) {
		assert(m == -1);
		return;
	}
	assert(m == (long)len && (len == 0 || memcmp(decoded, text.data, len) == 0));
	assert(len == 0 || xtext_decode((struct span){ coded, (size_t)n }, decoded, len - 1) == -1);
	assert(n == 0 || xtext_encode((struct span){ text.data, len }, coded, (size_t)n - 1) == -1);
}

static void
check_decoded(struct span text)
{
	char decoded[512];
	const long n = xtext_decode(text, decoded, sizeof(decoded));

	if (n < 0)
		return;
	assert(!has_control((struct span){ decoded, (size_t)n }));
	check_coded((struct span){ decoded, (size_t)n });
}

/* ---- Trace ---- */

static void
check_trace(struct span text)
{
	struct header_facts facts = { .has_header = false };
	const struct trace t = { .helo = text,
		.client = "[127.0.0.1]",
		.hostname = "relay.example.com",
		.queue_id = "0000000000001",
		.header = &facts };
	char out[TRACE_MAX];
	const size_t len = trace_print(&t, out);

	assert(len < sizeof(out) && memcmp(out + len - 4, "\r\n\r\n", 4) == 0);
	for (size_t i = 0; i < len; i++)
		assert((out[i] == '\n') == (i > 0 && out[i - 1] == '\r'));
}

/* What we wrote in front of a header is counted, on top of what it had. */
static void
check_loop(struct span text)
{
	const struct header_facts before = scan(text, text.len + 1);
	struct trace t = { .helo = { text.data, text.len < 40 ? text.len : 40 },
		.client = "[127.0.0.1]",
		.hostname = "x.org",
		.queue_id = "0000000000001" };
	struct span rest = text;
	struct header_field field;
	char *all = malloc(6 * TRACE_MAX + text.len);
	size_t len = 0;

	for (unsigned hops = 0; hops <= 5; hops++) {
		const struct header_facts f = scan((struct span){ all, len }, len + 1);

		assert(f.received == hops && f.own == hops);
		len += trace_print(&t, all + len);
	}
	if (header_next(&rest, &field) == HEADER_FIELD) {
		memcpy(all + len, text.data, text.len);
		assert(scan((struct span){ all, len + text.len }, len + text.len).own ==
		       before.own + 6);
	}
	free(all);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct span text = { size > 0 ? (const char *)data : "", size };

	check_facts(text);
	check_fields(text);
	check_coded(text);
	check_decoded(text);
	check_trace(text);
	check_loop(text);
	check_list(text);
	check_completed(text);
	check_path(text);
	return 0;
}
