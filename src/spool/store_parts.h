/* store_parts.h - what the five files of the store share, and nobody else: store.c (the segments that are open, and
 * single records out of them), store_body.c (a message with its body), store_copy.c (its records, to be written
 * once more), store_quarantine.c (damaged bytes set aside), store_free.c (what is done goes away). */
#ifndef RELAYD_SPOOL_STORE_PARTS_H
#define RELAYD_SPOOL_STORE_PARTS_H

#include "spool/store.h"

#define STORE_OPEN_MAX 32

struct store_segment {
	uint32_t number; /* 0: unused */
	int fd;
	struct record_salt salt;
	uint64_t file_bytes;
	uint64_t used;
};

struct store_revoke {
	uint32_t holder;
	struct record_revoke revoke;
	bool holder_is_done;
};

struct spool_store {
	int dirfd;
	bool read_only;
	struct store_segment open[STORE_OPEN_MAX];
	uint64_t clock;
	struct store_revoke *revokes;
	size_t n_revokes;
	uint32_t *clean; /* segments that were closed in good order */
	size_t n_clean;
};

/* store.c */
/* Opens it, if it is not. *out is the store's, until the next call. */
int store_open_segment(
    struct spool_store *s, uint32_t number, const struct store_segment **out) MUST_CHECK;
void store_forget_segment(struct spool_store *s, uint32_t number);
/* A whole record of that type, checked. Gives *record: header, payload, trailer (free()). -EBADMSG: there is
 * none; -errno of reading. */
int store_read_record(const struct store_segment *o, uint64_t offset, uint8_t type,
    struct record_header *h, uint8_t **record) MUST_CHECK;

/* store_body.c: the BODY that follows the ENVELOPE at `at`. As store_read_record(). */
int store_read_body(const struct store_segment *o, uint64_t at,
    const struct record_header *envelope, struct record_header *h, uint8_t **record) MUST_CHECK;

#endif
