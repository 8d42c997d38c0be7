/* span.h - a run of bytes that somebody else owns. Bytes from peers travel as spans: they may hold
 * NUL and control bytes, and no string function ever sees them. A span is borrowed: it is valid as
 * long as the thing it points into. */
#ifndef RELAYD_BASE_SPAN_H
#define RELAYD_BASE_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

struct span {
	const char *data; /* may be NULL when len is 0 */
	size_t len;
};

/* A span over a string literal, and one over a C string of ours (NULL: the empty span). */
#define SPAN(literal) ((struct span){ (literal), sizeof(literal) - 1 })

static inline struct span
span_of(const char *string)
{
	return (struct span){ string, string != NULL ? strlen(string) : 0 };
}

static inline bool
span_equals(struct span a, struct span b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* ASCII case does not count, as for SMTP verbs, keywords and domains. */
static inline bool
span_equals_nocase(struct span a, struct span b)
{
	return a.len == b.len && (a.len == 0 || strncasecmp(a.data, b.data, a.len) == 0);
}

static inline bool
span_starts_nocase(struct span s, struct span prefix)
{
	return s.len >= prefix.len && strncasecmp(s.data, prefix.data, prefix.len) == 0;
}

/* The rest of `s` after its first `n` bytes (n <= s.len). */
static inline struct span
span_skip(struct span s, size_t n)
{
	return (struct span){ s.data + n, s.len - n };
}

#endif
