/* checksum.h - XXH3_64: the only place where libxxhash is met. */
#ifndef RELAYD_SPOOL_CHECKSUM_H
#define RELAYD_SPOOL_CHECKSUM_H

#include <stdint.h>
#include <sys/uio.h>

#include "base/base.h"

uint64_t checksum(const void *data, size_t len_bytes, uint64_t seed);
uint64_t checksum_pieces(const struct iovec *iov, int n, uint64_t seed);

/* Of bytes that come one after another. */
struct checksum_stream;
struct checksum_stream *checksum_stream_new(uint64_t seed);
void checksum_stream_reset(struct checksum_stream *s, uint64_t seed);
void checksum_stream_add(struct checksum_stream *s, const void *data, size_t len_bytes);
uint64_t checksum_stream_value(const struct checksum_stream *s); /* of what was added so far */
void checksum_stream_free(struct checksum_stream *s);            /* NULL is fine */

#endif
