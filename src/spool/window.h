/* window.h - reads single records at places that are often neighbours, as a list of the queue does: a
 * piece of the file at a time, not a call for each.
 *
 * What it holds may be older than the file, and of a file that is no longer there. That does no harm:
 * bytes that were committed never change (I2), a record is taken only if it is whole under its own
 * file's salt, and one that does not hold in here is looked for in the file. */
#ifndef RELAYD_SPOOL_WINDOW_H
#define RELAYD_SPOOL_WINDOW_H

#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "spool/record.h"

#define WINDOW_BYTES (64u << 10)

/* Caller's storage, all zeros at first; ended by window_fini(). */
struct window {
	int fd;
	uint64_t offset;
	size_t len; /* 0: it holds nothing */
	uint8_t *bytes;
	uint8_t *big; /* a record that is longer than the window */
};

/* The whole record of that type at `offset`, checked: header in *h, and *record points to all its
 * bytes until the next call. -EBADMSG: there is none; -ENOMEM; -errno of reading. */
int window_record(struct window *w, int fd, struct record_salt salt, uint64_t offset, uint8_t type,
    struct record_header *h, const uint8_t **record) MUST_CHECK;
void window_fini(struct window *w);

#endif
