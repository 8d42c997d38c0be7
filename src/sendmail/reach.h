/* reach.h - finds relayd: by its unix socket, else on 127.0.0.1:25. */
#ifndef RELAYD_SENDMAIL_REACH_H
#define RELAYD_SENDMAIL_REACH_H

#include "base/base.h"

#ifndef REACH_WAIT_S
#define REACH_WAIT_S                                                                               \
	300 /* for one whole answer, or for room to write; the tests' sendmail has less */
#endif

#define REACH_SOCKET "/run/relayd/submit"

/* Connects: to `where` ("/path", "127.0.0.1:25", "[::1]:25"; loopback only), or if it is NULL to
 * `socket_path` and then to 127.0.0.1:25. Gives a connected descriptor with a deadline on each
 * wait, or -errno after a line on stderr. */
int reach_relayd(const char *where, const char *socket_path) MUST_CHECK;

#endif
