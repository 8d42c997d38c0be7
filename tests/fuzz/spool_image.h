/* spool_image.h - for the fuzzers of the spool: files of the spool made by hand, damage done to them, and
 * a second opinion on their bytes, read by relayd-spool(5) with libxxhash alone. */
#ifndef RELAYD_TESTS_SPOOL_IMAGE_H
#define RELAYD_TESTS_SPOOL_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "spool/segment.h"

enum { IMAGE_BLOCKS_MOST = 32, IMAGE_MOST = IMAGE_BLOCKS_MOST * RECORD_BLOCK };

/* A file being made. Records go into the open group; image_commit() ends it. */
struct image {
	uint8_t bytes[IMAGE_MOST];
	uint32_t blocks, at;
	uint64_t seq;
	struct segment_header header;
	struct record_salt salt;
	uint64_t chain, group_first;
	uint32_t group_count;
};

/* `secret`: what its salt is made of; two with the same one have the same salt. */
void image_begin(
    struct image *i, enum segment_kind kind, uint32_t number, uint32_t blocks, uint8_t secret);
/* Gives the record's offset. It has to fit. */
uint32_t image_add(struct image *i, uint8_t type, uint8_t flags, const void *payload, size_t len);
void image_commit(struct image *i);

/* What the bytes at `at` are, as the manual says; false: no whole record under this salt. */
struct image_record {
	uint8_t type, flags;
	uint32_t payload_bytes, bytes;
	uint64_t seq;
};
bool image_record_at(const uint8_t *file, uint64_t end, uint64_t at, const uint8_t salt[16],
    struct image_record *out);
/* Only a header that holds. */
bool image_header_at(const uint8_t *file, uint64_t end, uint64_t at, const uint8_t salt[16],
    struct image_record *out);
/* The salt by the first block, else by the last one; false: neither holds. */
bool image_salt(const uint8_t *file, uint64_t len, enum segment_kind kind, uint32_t number,
    uint8_t salt[16], uint64_t *data_end, bool *is_copy);

/* Damage as a list of changes, which is what the fuzzers' inputs are:
 *   u8 operation, u24 offset, u8 length, then for "set" that many bytes
 * 0 set bytes, 1 zero sectors, 2 copy a block over another, 3 cut, 4 flip a bit, 5 a whole record under
 * a salt that is not this file's. The one change at *data is done and taken off; the new length
 * is returned. */
size_t image_damage(uint8_t *bytes, size_t room, size_t len, const uint8_t **data, size_t *size);

/* A directory for a fuzzer's files, in memory if there is some; emptied and removed at exit. */
int image_directory(void);
void image_empty(const char *subdirectory);
void image_write(int dirfd, const char *name, const uint8_t *bytes, size_t len);

#endif
