/* fuzz_header.c - what web applications let strangers write into a message: header fields, address lists
 * and paths. The addresses found are addresses, facts do not depend on the pieces, xtext comes back. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "smtp/address.h"
#include "smtp/header.h"
#include "smtp/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int
on_address(void *arg, struct span address)
{
	struct address a;

	(void)arg;
	assert(address.len > 0 && address.len <= ADDRESS_MAX);
	assert(address_parse(address, &a) == ADDRESS_OK && a.local.len > 0);
	for (size_t i = 0; i < address.len; i++)
		assert((unsigned char)address.data[i] >= 0x20 && address.data[i] != 0x7f);
	return 0;
}

static void
check_facts(struct span text)
{
	struct header_scan whole, single;

	header_scan_begin(&whole);
	whole.own = "x.org";
	header_scan_take(&whole, text);
	header_scan_finish(&whole);
	header_scan_begin(&single);
	single.own = "x.org";
	for (size_t i = 0; i < text.len; i++)
		header_scan_take(&single, (struct span){ text.data + i, 1 });
	header_scan_finish(&single);
	assert(whole.facts.received == single.facts.received);
	assert(whole.facts.own == single.facts.own &&
	       whole.facts.own <= whole.facts.received + text.len / 20);
	assert(whole.facts.date == single.facts.date && whole.facts.bcc == single.facts.bcc);
	assert(whole.facts.message_id == single.facts.message_id);
	assert(whole.facts.has_header == single.facts.has_header);
	assert(whole.facts.starts_empty == single.facts.starts_empty);
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
		(void)!header_addresses(field.body, on_address, NULL);
	}
	assert(rest.len <= text.len);
}

static void
check_xtext(struct span text)
{
	char decoded[512], coded[2048], again[512];
	const long n = xtext_decode(text, decoded, sizeof(decoded));
	long m;

	if (n < 0)
		return;
	m = xtext_encode((struct span){ decoded, (size_t)n }, coded, sizeof(coded));
	assert(m >= n);
	assert(xtext_decode((struct span){ coded, (size_t)m }, again, sizeof(again)) == n);
	assert(memcmp(decoded, again, (size_t)n) == 0);
}

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

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct span text = { size > 0 ? (const char *)data : "", size };
	struct address a;
	size_t used;

	check_facts(text);
	check_fields(text);
	check_xtext(text);
	check_trace(text);
	(void)!header_addresses(text, on_address, NULL);
	if (address_parse_path(text, &a, &used) == ADDRESS_OK)
		assert(used <= size && a.local.len <= ADDRESS_LOCAL_MAX);
	return 0;
}
