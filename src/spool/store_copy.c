/* store_copy.c - a message's records as they stand, to be written once more in a later segment (store.h). */
#include <stdlib.h>

#include "spool/store_parts.h"

/* Is the large body there, as long as the envelope says? (Its sum is checked when it is sent.) */
static int
check_large(struct spool_store *s, struct span payload)
{
	struct spool_body *body;
	struct envelope *e;
	int r;

	r = envelope_decode(payload, &e);
	if (r < 0)
		return r;
	r = spool_store_body(s, (struct spool_location){ 0 }, e, &body);
	if (r == 0)
		spool_body_close(body);
	envelope_free(e);
	return r;
}

int
spool_store_copy(struct spool_store *s, struct spool_location at, struct spool_copy *out)
{
	struct record_header envelope, body;
	struct spool_copy copy = { .is_large = false };
	uint8_t *record, *body_record;
	const struct store_segment *o;
	uint32_t flags;
	uint64_t id;
	int r;

	r = store_open_segment(s, at.segment, &o);
	if (r < 0)
		return r;
	r = store_read_record(o, at.offset, RECORD_ENVELOPE, &envelope, &record);
	if (r < 0)
		return r;
	copy.envelope_record = record;
	copy.envelope =
	    (struct span){ (char *)record + RECORD_HEADER_BYTES, envelope.payload_bytes };
	r = envelope_peek(copy.envelope, &id, &flags);
	copy.is_large = r == 0 && (flags & ENVELOPE_LARGE) != 0;
	if (r == 0 && copy.is_large) {
		r = check_large(s, copy.envelope);
	} else if (r == 0) {
		r = store_read_body(o, at.offset, &envelope, &body, &body_record);
		if (r == 0) {
			copy.body_record = body_record;
			copy.body =
			    (struct iovec){ body_record + RECORD_HEADER_BYTES, body.payload_bytes };
		}
	}
	if (r < 0) {
		spool_copy_free(&copy);
		return r;
	}
	*out = copy;
	return 0;
}

void
spool_copy_free(struct spool_copy *copy)
{
	free(copy->envelope_record);
	free(copy->body_record);
	*copy = (struct spool_copy){ .is_large = false };
}
