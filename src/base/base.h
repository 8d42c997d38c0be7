/* base.h - the few words that every file uses. */
#ifndef RELAYD_BASE_BASE_H
#define RELAYD_BASE_BASE_H

#include <stddef.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MUST_CHECK __attribute__((warn_unused_result))
/* For large buffers on busy ways: the build zeroes other variables (-ftrivial-auto-var-init). */
#define UNINITIALIZED __attribute__((uninitialized))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* Allocation of small and bounded things. No memory: one line on stderr and exit; the supervisor
 * starts the process again, and I4 makes that safe. What a peer can make large never comes from
 * here: it is bounded (I9) or allocated with malloc() and refused. The caller frees with free(). */
void *xcalloc(size_t count, size_t size_bytes) __attribute__((malloc, returns_nonnull));
void *xrealloc(void *old, size_t count, size_t size_bytes) __attribute__((returns_nonnull));
char *xstrdup(const char *s) __attribute__((malloc, returns_nonnull));
char *xstrndup(const char *s, size_t len) __attribute__((malloc, returns_nonnull));
char *xasprintf(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((malloc, returns_nonnull));

/* Overwrites a secret before it is freed. NULL is fine. */
void wipe(void *secret, size_t len_bytes);

#endif
