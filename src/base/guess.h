/* guess.h - what somebody meant who wrote a setting that there is not: a slip of the pen, a setting of
 * another block, or one that other programs have. */
#ifndef RELAYD_BASE_GUESS_H
#define RELAYD_BASE_GUESS_H

#include "base/options.h"

/* The advice: "did you mean ...?", "it belongs into ...", "it is ... here". Empty if there is none. */
void guess_option(enum option_block block, const char *name, char *out, size_t size);

#endif
