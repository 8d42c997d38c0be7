#include <stdlib.h>

#define XXH_INLINE_ALL /* the state of a hash lives on our stack */
#include <xxhash.h>

#include "spool/checksum.h"

struct checksum_stream {
	XXH3_state_t *state;
	void *memory;
};

uint64_t
checksum(const void *data, size_t len_bytes, uint64_t seed)
{
	return XXH3_64bits_withSeed(len_bytes > 0 ? data : "", len_bytes, seed);
}

uint64_t
checksum_pieces(const struct iovec *iov, int n, uint64_t seed)
{
	XXH3_state_t state;

	if (n == 0)
		return checksum(NULL, 0, seed);
	if (n == 1)
		return checksum(iov[0].iov_base, iov[0].iov_len, seed);
	XXH3_INITSTATE(&state);
	XXH3_64bits_reset_withSeed(&state, seed);
	for (int i = 0; i < n; i++)
		if (iov[i].iov_len > 0)
			XXH3_64bits_update(&state, iov[i].iov_base, iov[i].iov_len);
	return XXH3_64bits_digest(&state);
}

struct checksum_stream *
checksum_stream_new(uint64_t seed)
{
	struct checksum_stream *s = xcalloc(1, sizeof(*s));

	s->memory = xcalloc(1, sizeof(XXH3_state_t) + 64);
	s->state = (void *)(((uintptr_t)s->memory + 63) & ~(uintptr_t)63); /* it wants 64 */
	XXH3_INITSTATE(s->state);
	checksum_stream_reset(s, seed);
	return s;
}

void
checksum_stream_reset(struct checksum_stream *s, uint64_t seed)
{
	XXH3_64bits_reset_withSeed(s->state, seed);
}

void
checksum_stream_add(struct checksum_stream *s, const void *data, size_t len_bytes)
{
	if (len_bytes > 0)
		XXH3_64bits_update(s->state, data, len_bytes);
}

uint64_t
checksum_stream_value(const struct checksum_stream *s)
{
	return XXH3_64bits_digest(s->state);
}

void
checksum_stream_free(struct checksum_stream *s)
{
	if (s == NULL)
		return;
	free(s->memory);
	free(s);
}
