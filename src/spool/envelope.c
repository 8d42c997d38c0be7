#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "spool/envelope.h"
#include "spool/record.h"
#include "spool/tlv.h"

enum tag {
	TAG_ID = 1,
	TAG_ARRIVED = 2,
	TAG_UID = 3,
	TAG_UNIT = 4,
	TAG_CLIENT = 5,
	TAG_LISTENER = 6,
	TAG_TRACE_COUNT = 8,
	TAG_HELO = 9,
	TAG_SENDER = 10,
	TAG_FLAGS = 11,
	TAG_RET = 12,
	TAG_ENVID = 13,
	TAG_PREFIX = 14,
	TAG_BODY_BYTES = 15,
	TAG_BODY_CHECKSUM = 16,
	TAG_RECIPIENT = 17,
};

#define RECIPIENTS_MAX 100000u

/* The texts, each on one line, each in one row. */
static const struct {
	uint16_t tag;
	size_t field;
} texts[] = {
	{ TAG_UNIT, offsetof(struct envelope, unit) },
	{ TAG_CLIENT, offsetof(struct envelope, client) },
	{ TAG_LISTENER, offsetof(struct envelope, listener) },
	{ TAG_HELO, offsetof(struct envelope, helo) },
	{ TAG_SENDER, offsetof(struct envelope, sender) },
	{ TAG_ENVID, offsetof(struct envelope, envid) },
};

static struct span *
text_of(const struct envelope *e, size_t i)
{
	return (struct span *)((uintptr_t)e + texts[i].field);
}

static void
add_recipient(struct tlv_buffer *b, const struct envelope_recipient *r)
{
	uint8_t *out;

	if (r->address.len > UINT16_MAX || r->orcpt.len > UINT16_MAX) {
		b->error = -EMSGSIZE;
		return;
	}
	out = tlv_add(b, TAG_RECIPIENT, 3 + r->address.len + r->orcpt.len);
	if (out == NULL)
		return;
	out[0] = r->notify;
	record_put_u16(out + 1, (uint16_t)r->address.len);
	if (r->address.len > 0)
		memcpy(out + 3, r->address.data, r->address.len);
	if (r->orcpt.len > 0)
		memcpy(out + 3 + r->address.len, r->orcpt.data, r->orcpt.len);
}

static bool
is_sane(const struct envelope *e)
{
	if (e->n_recipients == 0)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (!tlv_is_one_line(*text_of(e, i)))
			return false;
	for (size_t i = 0; i < e->n_recipients; i++)
		if (e->recipients[i].address.len == 0 ||
		    !tlv_is_one_line(e->recipients[i].address) ||
		    !tlv_is_one_line(e->recipients[i].orcpt))
			return false;
	return true;
}

int
envelope_encode(const struct envelope *e, void **out, size_t *len)
{
	struct tlv_buffer b = { 0 };

	if (!is_sane(e))
		return -EINVAL;
	if (e->n_recipients > RECIPIENTS_MAX)
		return -EMSGSIZE;
	tlv_add_u64(&b, TAG_ID, e->id);
	tlv_add_u32(&b, TAG_FLAGS, e->flags);
	tlv_add_u64(&b, TAG_ARRIVED, e->arrived_ms);
	tlv_add_u32(&b, TAG_UID, e->uid);
	tlv_add_u32(&b, TAG_TRACE_COUNT, e->trace_count);
	tlv_add_u64(&b, TAG_BODY_BYTES, e->body_bytes);
	if (e->flags & ENVELOPE_LARGE)
		tlv_add_u64(&b, TAG_BODY_CHECKSUM, e->body_checksum);
	if (e->ret != ENVELOPE_RET_UNSAID)
		tlv_add_span(&b, TAG_RET, (struct span){ (const char *)&e->ret, 1 });
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (text_of(e, i)->len > 0)
			tlv_add_span(&b, texts[i].tag, *text_of(e, i));
	if (e->prefix.len > 0)
		tlv_add_span(&b, TAG_PREFIX, e->prefix);
	for (size_t i = 0; i < e->n_recipients; i++)
		add_recipient(&b, &e->recipients[i]);
	if (b.error != 0) {
		free(b.data);
		return b.error;
	}
	*out = b.data;
	*len = b.len;
	return 0;
}

static bool
get_recipient(struct span value, struct envelope_recipient *r)
{
	size_t len;

	if (value.len < 3)
		return false;
	len = record_get_u16((const uint8_t *)value.data + 1);
	if (len == 0 || len > value.len - 3)
		return false;
	r->notify = (uint8_t)value.data[0];
	r->address = (struct span){ value.data + 3, len };
	r->orcpt = (struct span){ value.data + 3 + len, value.len - 3 - len };
	return true;
}

static bool
get_field(struct envelope *e, uint16_t tag, struct span value)
{
	switch (tag) {
	case TAG_ID:
		return tlv_get_u64(value, &e->id);
	case TAG_ARRIVED:
		return tlv_get_u64(value, &e->arrived_ms);
	case TAG_UID:
		return tlv_get_u32(value, &e->uid);
	case TAG_TRACE_COUNT:
		return tlv_get_u32(value, &e->trace_count);
	case TAG_FLAGS:
		return tlv_get_u32(value, &e->flags);
	case TAG_RET:
		return tlv_get_u8(value, &e->ret);
	case TAG_BODY_BYTES:
		return tlv_get_u64(value, &e->body_bytes);
	case TAG_BODY_CHECKSUM:
		return tlv_get_u64(value, &e->body_checksum);
	case TAG_PREFIX:
		e->prefix = value;
		return true;
	case TAG_RECIPIENT:
		return get_recipient(value, &e->recipients[e->n_recipients++]);
	}
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (texts[i].tag == tag)
			*text_of(e, i) = value;
	return true;
}

static bool
is_known(uint16_t tag)
{
	return tag >= TAG_ID && tag <= TAG_RECIPIENT && tag != 7;
}

/* 0 if the fields are well formed; counts the recipients. What envelope_peek() reads stands there once:
 * both have to read the same. */
static int
check(struct span payload, size_t *n_recipients)
{
	struct span rest = payload, value;
	unsigned ids = 0, flags = 0;
	uint16_t tag;
	int r;

	*n_recipients = 0;
	while ((r = tlv_next(&rest, &tag, &value)) > 0) {
		if ((tag & TLV_CRITICAL) && !is_known(tag))
			return -EPROTONOSUPPORT;
		ids += tag == TAG_ID;
		flags += tag == TAG_FLAGS;
		*n_recipients += tag == TAG_RECIPIENT;
	}
	if (r < 0)
		return r;
	if (ids != 1 || flags > 1 || *n_recipients == 0 || *n_recipients > RECIPIENTS_MAX)
		return -EBADMSG;
	return 0;
}

int
envelope_decode(struct span payload, struct envelope **out)
{
	struct span rest, value;
	struct envelope *e;
	size_t n;
	uint16_t tag;
	char *copy;
	int r;

	r = check(payload, &n);
	if (r < 0)
		return r;
	/* One piece: the envelope, its recipients, and the bytes that its spans point into. */
	e = os_alloc(sizeof(*e) + n * sizeof(e->recipients[0]) + payload.len);
	if (e == NULL)
		return -ENOMEM;
	*e = (struct envelope){ .uid = ENVELOPE_UID_UNKNOWN };
	e->recipients = (struct envelope_recipient *)(e + 1);
	copy = (char *)(e->recipients + n);
	memcpy(copy, payload.data, payload.len);
	rest = (struct span){ copy, payload.len };
	while (tlv_next(&rest, &tag, &value) > 0)
		if (!get_field(e, tag, value))
			goto bad;
	if (!is_sane(e) || e->ret > ENVELOPE_RET_HDRS)
		goto bad;
	*out = e;
	return 0;
bad:
	free(e);
	return -EBADMSG;
}

void
envelope_free(struct envelope *e)
{
	free(e);
}

int
envelope_peek(struct span payload, uint64_t *id, uint32_t *flags)
{
	struct span rest = payload, value;
	bool has_id = false;
	uint16_t tag;
	int r;

	*flags = 0;
	while ((r = tlv_next(&rest, &tag, &value)) > 0) {
		if (tag == TAG_ID && !(has_id = tlv_get_u64(value, id)))
			return -EBADMSG;
		if (tag == TAG_FLAGS && !tlv_get_u32(value, flags))
			return -EBADMSG;
		if (has_id && tag == TAG_FLAGS)
			return 0; /* the encoder puts them first */
	}
	return r == 0 && has_id ? 0 : -EBADMSG;
}
