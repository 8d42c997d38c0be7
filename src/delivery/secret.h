/* secret.h - the password or token of one upstream. It lives in one locked page that no core dump
 * holds, and is wiped when it is replaced and at the end (I10). A file is read again when it changed,
 * so that a mended password works at the next login without a restart. */
#ifndef RELAYD_DELIVERY_SECRET_H
#define RELAYD_DELIVERY_SECRET_H

#include <stdbool.h>

#include "base/base.h"
#include "base/config.h"
#include "base/span.h"

struct secret;

/* Borrows `upstream` for its life. */
struct secret *secret_new(const struct config_upstream *upstream);
void secret_free(struct secret *s); /* NULL is fine */

/* The secret as it stands now: the file is looked at each time. *out is borrowed until the next call
 * for this secret; its data is NULL if the upstream needs none. -errno: there is none, and
 * secret_why() and secret_fix() say in words what is wrong and what to change. -EAGAIN: the
 * password-command has not answered yet. */
int secret_get(struct secret *s, struct span *out) MUST_CHECK;
const char *secret_why(const struct secret *s);
const char *secret_fix(const struct secret *s); /* "" */
/* Something that works but should not stay so (anybody may read the file); "" if all is well. */
const char *secret_warning(const struct secret *s);

/* The answer of password-command, as the supervisor passes it on. True: it is another one. */
bool secret_set(struct secret *s, int status, struct span bytes);
bool secret_is_command(const struct secret *s);

/* Has the source changed since secret_get() last looked? Costs one stat(). */
bool secret_has_changed(const struct secret *s);

#endif
