/* draft.h - a configuration while it is made: what was set where. Only config.c (the grammar),
 * config_make.c (the meaning) and config_validate.c (the sense) see it. */
#ifndef RELAYD_BASE_DRAFT_H
#define RELAYD_BASE_DRAFT_H

#include "base/config.h"
#include "base/options.h"

struct place {
	const char *file; /* borrowed from the draft */
	unsigned line;    /* 0: not in a file */
};

/* One block of the file, or its top level. */
struct draft_block {
	enum option_block kind;
	char *title; /* NULL: none */
	struct place place;
	char *text[OPTIONS_MAX]; /* as written, by options_index(); NULL: not set */
	struct place where[OPTIONS_MAX];
};

struct draft {
	struct config *config;
	struct draft_block *single[BLOCK_LISTEN]; /* top level, spool, ...: always there */
	struct draft_block **listen, **upstreams; /* as in config; no listen: the default ones */
	size_t n_listen, n_upstreams;
	const char **clients; /* borrowed */
	size_t n_clients;
	config_problem_fn *problem;
	void *arg;
	char **told; /* the problems so far */
	size_t n_problems;
};

/* Tells a problem: "FILE:LINE: WHAT". `what` names the setting. */
void draft_complain(struct draft *draft, struct place place, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* Where the setting stands, or its block if it is a default. */
struct place draft_where(const struct draft_block *block, const char *option);
bool draft_is_set(const struct draft_block *block, const char *option);

/* A path as the file means it: relative to the file. Gives it, freed with free(). */
char *draft_path(const char *file, const char *path);

/* Makes draft->config of the blocks, tells every problem on the way. */
void draft_make(struct draft *draft);
/* Its last two steps. Fills what was not set and depends on other settings: presets, port and tls,
 * hostname, retries. */
void draft_complete(struct draft *draft);
/* Contradictions between settings. */
void draft_validate(struct draft *draft);

#endif
