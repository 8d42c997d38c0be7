/* buffer.c - bytes on their way out. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smtp/buffer.h"

#define KEEP_BYTES (128 * 1024) /* a full flight: large messages do not allocate for each */

void
smtp_buffer_fini(struct smtp_buffer *b)
{
	free(b->data);
	*b = (struct smtp_buffer){ 0 };
}

void
smtp_buffer_clear(struct smtp_buffer *b)
{
	if (b->size > KEEP_BYTES)
		smtp_buffer_fini(b);
	b->start = b->len = 0;
}

char *
smtp_buffer_reserve(struct smtp_buffer *b, size_t len)
{
	size_t size = b->size > 0 ? b->size : 1024;

	if (b->data != NULL && b->size - b->start - b->len >= len)
		return b->data + b->start + b->len;
	if (b->start > 0) {
		memmove(b->data, b->data + b->start, b->len);
		b->start = 0;
	}
	while (size - b->len < len)
		size *= 2;
	if (size > b->size)
		b->data = xrealloc(b->data, size, 1);
	b->size = size;
	return b->data + b->len;
}

void
smtp_buffer_commit(struct smtp_buffer *b, size_t len)
{
	b->len += len;
}

void
smtp_buffer_add(struct smtp_buffer *b, struct span bytes)
{
	if (bytes.len == 0)
		return;
	memcpy(smtp_buffer_reserve(b, bytes.len), bytes.data, bytes.len);
	smtp_buffer_commit(b, bytes.len);
}

void
smtp_buffer_printf(struct smtp_buffer *b, const char *fmt, ...)
{
	va_list args, again;
	int len;

	va_start(args, fmt);
	va_copy(again, args);
	len = vsnprintf(NULL, 0, fmt, args);
	if (len > 0) {
		vsnprintf(smtp_buffer_reserve(b, (size_t)len + 1), (size_t)len + 1, fmt, again);
		smtp_buffer_commit(b, (size_t)len);
	}
	va_end(again);
	va_end(args);
}

void
smtp_buffer_drain(struct smtp_buffer *b, size_t len)
{
	b->start += len;
	b->len -= len;
	if (b->len == 0)
		b->start = 0;
}
