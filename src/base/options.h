/* options.h - the table of settings: one row each, from which come the parser (config.c), the range
 * checks, the canonical text (config_print()), the commented etc/relayd.conf, and the lint test that
 * holds relayd.conf(5) against it. Nothing here knows libconfuse. */
#ifndef RELAYD_BASE_OPTIONS_H
#define RELAYD_BASE_OPTIONS_H

#include <stdio.h>

#include "base/base.h"
#include "base/config.h"

enum option_block {
	BLOCK_TOP,
	BLOCK_SPOOL,
	BLOCK_CONTROL,
	BLOCK_RETRY,
	BLOCK_LIMITS,
	BLOCK_LOG,
	BLOCK_LISTEN, /* from here on: blocks with a title, as many as wanted */
	BLOCK_UPSTREAM,
	BLOCK_COUNT,
};

enum option_type {
	OPTION_STRING,   /* const char *; without a default, "" is NULL */
	OPTION_PATH,     /* the same; relative to the file that it stands in */
	OPTION_COUNT,    /* unsigned */
	OPTION_BYTES,    /* uint64_t */
	OPTION_TIME,     /* uint64_t, milliseconds */
	OPTION_RATE,     /* struct config_rate */
	OPTION_BOOL,     /* bool */
	OPTION_WORD,     /* an enum; its words stand in `words`, in the enum's order */
	OPTION_NETWORKS, /* a list; only `clients` */
};

struct option {
	enum option_block block;
	const char *name;
	enum option_type type;
	size_t offset;            /* in struct config, config_listen or config_upstream */
	const char *fallback;     /* the default, as text; NULL: none, or config_make.c makes it */
	const char *least, *most; /* range, as text; NULL: none */
	const char *const *words; /* ended by NULL */
	const char *example;      /* for the template, where there is no default */
	const char *meaning; /* NULL: no setting of a user's, but relayd's own in canonical text */
};

#define OPTIONS_MAX 80
extern const struct option options[]; /* by block; a row without a name ends it */

const char *options_block_name(enum option_block block); /* "" for BLOCK_TOP */
const struct option *options_find(enum option_block block, const char *name);
size_t options_index(const struct option *option);

/* Parses `text` into the option's field of `base` (a string's former value is freed). 0, or -EINVAL
 * and in `why` what would be right. Not for OPTION_NETWORKS. */
int option_set(
    const struct option *option, void *base, const char *text, char *why, size_t size) MUST_CHECK;
/* The field's value as text that option_set() takes; false: it has none. */
bool option_get(const struct option *option, const void *base, char *out, size_t size);
/* The string in the field (OPTION_STRING, OPTION_PATH). */
const char *option_string(const struct option *option, const void *base);
void option_free(const struct option *option, void *base);

#endif
