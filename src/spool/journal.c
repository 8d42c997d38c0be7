#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "spool/journal.h"
#include "spool/tlv.h"

enum tag {
	TAG_ID = 1,
	TAG_TIME = 2,
	TAG_FLAGS = 3,
	TAG_DUPLICATES = 4,
	TAG_MOVED = 5,
	TAG_RECIPIENT = 6,
	TAG_N_ALL = 7,
};

#define RECIPIENT_FIXED 20u
#define RECIPIENTS_MAX 100000u

static struct span
cut(struct span text, size_t most)
{
	return (struct span){ text.data, text.len < most ? text.len : most };
}

static uint8_t *
put_line(uint8_t *out, struct span text)
{
	for (size_t i = 0; i < text.len; i++) {
		char c = text.data[i];

		*out++ = c == '\r' || c == '\n' || c == '\0' ? ' ' : (uint8_t)c;
	}
	return out;
}

static void
add_recipient(struct tlv_buffer *b, const struct journal_recipient *r)
{
	struct span enhanced = cut(r->enhanced, 11), reply = cut(r->reply, JOURNAL_REPLY_MAX);
	struct span upstream = cut(r->upstream, 255);
	uint8_t *out = tlv_add(
	    b, TAG_RECIPIENT, RECIPIENT_FIXED + 4 + enhanced.len + reply.len + upstream.len);

	if (out == NULL)
		return;
	record_put_u32(out, r->index);
	out[4] = (uint8_t)r->state;
	out[5] = 0;
	record_put_u16(out + 6, r->code);
	record_put_u32(out + 8, r->attempts);
	record_put_u64(out + 12, r->next_attempt_ms);
	out += RECIPIENT_FIXED;
	*out++ = (uint8_t)enhanced.len;
	out = put_line(out, enhanced);
	record_put_u16(out, (uint16_t)reply.len);
	out = put_line(out + 2, reply);
	*out++ = (uint8_t)upstream.len;
	put_line(out, upstream);
}

int
journal_encode(const struct journal_outcome *o, void **out, size_t *len)
{
	struct tlv_buffer b = { 0 };
	uint8_t *moved;

	if (o->n_recipients > RECIPIENTS_MAX)
		return -EMSGSIZE;
	tlv_add_u64(&b, TAG_ID, o->id);
	tlv_add_u32(&b, TAG_FLAGS, o->flags);
	tlv_add_u64(&b, TAG_TIME, o->time_ms);
	tlv_add_u32(&b, TAG_N_ALL, o->n_all);
	if (o->possible_duplicates > 0)
		tlv_add_u32(&b, TAG_DUPLICATES, o->possible_duplicates);
	if (o->moved.offset != 0 && (moved = tlv_add(&b, TAG_MOVED, 8)) != NULL) {
		record_put_u32(moved, o->moved.segment);
		record_put_u32(moved + 4, o->moved.offset);
	}
	for (size_t i = 0; i < o->n_recipients; i++)
		add_recipient(&b, &o->recipients[i]);
	if (b.error != 0) {
		free(b.data);
		return b.error;
	}
	*out = b.data;
	*len = b.len;
	return 0;
}

/* Takes a text with its length before it off *rest. */
static bool
get_text(struct span *rest, size_t length_bytes, struct span *text)
{
	const uint8_t *in = (const uint8_t *)rest->data;
	size_t len;

	if (rest->len < length_bytes)
		return false;
	len = length_bytes == 1 ? in[0] : record_get_u16(in);
	if (len > rest->len - length_bytes)
		return false;
	*text = (struct span){ rest->data + length_bytes, len };
	*rest = span_skip(*rest, length_bytes + len);
	return tlv_is_one_line(*text);
}

static bool
get_recipient(struct span value, struct journal_recipient *r)
{
	const uint8_t *in = (const uint8_t *)value.data;
	struct span rest;

	if (value.len < RECIPIENT_FIXED || in[4] > JOURNAL_REMOVED)
		return false;
	r->index = record_get_u32(in);
	r->state = (enum journal_state)in[4];
	r->code = record_get_u16(in + 6);
	r->attempts = record_get_u32(in + 8);
	r->next_attempt_ms = record_get_u64(in + 12);
	rest = span_skip(value, RECIPIENT_FIXED);
	return r->index < RECIPIENTS_MAX && get_text(&rest, 1, &r->enhanced) &&
	       get_text(&rest, 2, &r->reply) && get_text(&rest, 1, &r->upstream);
}

static bool
get_field(struct journal_outcome *o, uint16_t tag, struct span value)
{
	const uint8_t *in = (const uint8_t *)value.data;

	switch (tag) {
	case TAG_ID:
		return tlv_get_u64(value, &o->id);
	case TAG_TIME:
		return tlv_get_u64(value, &o->time_ms);
	case TAG_FLAGS:
		return tlv_get_u32(value, &o->flags);
	case TAG_DUPLICATES:
		return tlv_get_u32(value, &o->possible_duplicates);
	case TAG_N_ALL:
		return tlv_get_u32(value, &o->n_all);
	case TAG_MOVED:
		if (value.len != 8)
			return false;
		o->moved = (struct spool_location){ record_get_u32(in), record_get_u32(in + 4) };
		return true;
	case TAG_RECIPIENT:
		return get_recipient(value, &o->recipients[o->n_recipients++]);
	}
	return true;
}

int
journal_decode(struct span payload, struct journal_outcome **out)
{
	struct span rest = payload, value;
	struct journal_outcome *o;
	uint16_t tag;
	size_t n = 0;
	char *copy;
	int r;

	while ((r = tlv_next(&rest, &tag, &value)) > 0)
		if (tag == TAG_RECIPIENT)
			n++;
	if (r < 0 || n > RECIPIENTS_MAX)
		return -EBADMSG;
	o = os_alloc(sizeof(*o) + n * sizeof(o->recipients[0]) + payload.len);
	if (o == NULL)
		return -ENOMEM;
	*o = (struct journal_outcome){ 0 };
	o->recipients = (struct journal_recipient *)(o + 1);
	copy = (char *)(o->recipients + n);
	memcpy(copy, payload.data, payload.len);
	rest = (struct span){ copy, payload.len };
	while (tlv_next(&rest, &tag, &value) > 0)
		if (!get_field(o, tag, value))
			goto bad;
	if (o->id == 0)
		goto bad;
	*out = o;
	return 0;
bad:
	free(o);
	return -EBADMSG;
}

void
journal_free(struct journal_outcome *o)
{
	free(o);
}

/* ID, flags, and whether it names all recipients, without an allocation. */
int
journal_peek(struct span payload, uint64_t *id, uint32_t *flags, bool *is_complete)
{
	struct span rest = payload, value;
	uint32_t n_all = 0, n = 0;
	uint16_t tag;
	int r;

	*id = 0;
	*flags = 0;
	while ((r = tlv_next(&rest, &tag, &value)) > 0) {
		if (tag == TAG_ID && !tlv_get_u64(value, id))
			return -EBADMSG;
		if (tag == TAG_FLAGS && !tlv_get_u32(value, flags))
			return -EBADMSG;
		if (tag == TAG_N_ALL && !tlv_get_u32(value, &n_all))
			return -EBADMSG;
		n += tag == TAG_RECIPIENT;
	}
	*is_complete = n_all > 0 && n >= n_all;
	return r == 0 && *id != 0 ? 0 : -EBADMSG;
}
