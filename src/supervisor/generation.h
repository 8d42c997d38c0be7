/* generation.h - one configuration in force: what workers of one start or reload share. Counted:
 * workers that drain after a reload keep theirs. */
#ifndef RELAYD_SUPERVISOR_GENERATION_H
#define RELAYD_SUPERVISOR_GENERATION_H

#include "base/base.h"
#include "base/config.h"
#include "supervisor/listeners.h"

struct generation {
	unsigned references;
	struct config *config;
	struct listeners *listeners; /* NULL once a successor took them over */
	char *text; /* config_print()'s: what workers get, however often they start */
	size_t text_len;
};

/* Takes config and listeners. One reference is the caller's. */
struct generation *generation_create(struct config *config, struct listeners *listeners);
struct generation *generation_hold(struct generation *g);
void generation_release(struct generation *g); /* NULL is fine */

/* A sealed memfd with the text, for one worker (each needs its own: the read position is shared with
 * the descriptor). Gives the descriptor, close-on-exec; -errno. */
int generation_config_fd(const struct generation *g) MUST_CHECK;

#endif
