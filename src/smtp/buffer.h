/* buffer.h - a growing run of bytes on its way out. What goes in is bounded by its users. */
#ifndef RELAYD_SMTP_BUFFER_H
#define RELAYD_SMTP_BUFFER_H

#include <stddef.h>

#include "base/base.h"
#include "base/span.h"

struct smtp_buffer {
	char *data;
	size_t start, len; /* the bytes are data[start .. start + len) */
	size_t size;
};

void smtp_buffer_fini(struct smtp_buffer *b);
void smtp_buffer_clear(struct smtp_buffer *b); /* keeps up to 128 KiB of room for the next time */
/* Room for at least `len` bytes at the end; smtp_buffer_commit() says how many were used. */
char *smtp_buffer_reserve(struct smtp_buffer *b, size_t len);
void smtp_buffer_commit(struct smtp_buffer *b, size_t len);
void smtp_buffer_add(struct smtp_buffer *b, struct span bytes);
void smtp_buffer_printf(struct smtp_buffer *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void smtp_buffer_drain(struct smtp_buffer *b, size_t len);

static inline struct span
smtp_buffer_span(const struct smtp_buffer *b)
{
	return (struct span){ b->data != NULL ? b->data + b->start : NULL, b->len };
}

#endif
