/* base.c - allocation that cannot fail quietly. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

static void
die_without_memory(void)
{
	fputs("out of memory; exiting to be started again\n", stderr);
	exit(71); /* EX_OSERR */
}

void *
xcalloc(size_t count, size_t size_bytes)
{
	void *p = calloc(count > 0 ? count : 1, size_bytes > 0 ? size_bytes : 1);

	if (p == NULL)
		die_without_memory();
	return p;
}

void *
xrealloc(void *old, size_t count, size_t size_bytes)
{
	void *p = reallocarray(old, count > 0 ? count : 1, size_bytes > 0 ? size_bytes : 1);

	if (p == NULL)
		die_without_memory();
	return p;
}

char *
xstrndup(const char *s, size_t len)
{
	char *copy = xcalloc(len + 1, 1);

	if (len > 0)
		memcpy(copy, s, len);
	return copy;
}

char *
xstrdup(const char *s)
{
	return xstrndup(s, strlen(s));
}

char *
xasprintf(const char *fmt, ...)
{
	va_list args;
	char *text;
	int len;

	va_start(args, fmt);
	len = vasprintf(&text, fmt, args);
	va_end(args);
	if (len < 0)
		die_without_memory();
	return text;
}

void
wipe(void *secret, size_t len_bytes)
{
	if (secret != NULL)
		explicit_bzero(secret, len_bytes);
}
