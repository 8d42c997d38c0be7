/* reach.h - finds where relayd should be: its unix socket, else its port. Who answers there is another
 * question (submit.h). */
#ifndef RELAYD_SENDMAIL_REACH_H
#define RELAYD_SENDMAIL_REACH_H

#include <stdbool.h>

#include "base/base.h"

#ifndef REACH_WAIT_S
#define REACH_WAIT_S                                                                               \
	300 /* for one whole answer, or for room to write; the tests' sendmail has less */
#endif

/* For the connection and the greeting together. relayd greets within moments or is being started;
 * longer than that it cannot start, while systemd holds its sockets and takes every connection. */
#ifndef REACH_GREETING_WAIT_S
#define REACH_GREETING_WAIT_S 60
#endif

/* What to do where it does not answer. */
#define REACH_ADVICE "is relayd running? systemctl status relayd relayd.socket"

#ifndef REACH_SOCKET
#define REACH_SOCKET "/run/relayd/submit"
#endif
#define REACH_LOOPBACK "127.0.0.1:25"

struct reach {
	int fd;
	unsigned greeting_wait_s; /* what is left for the greeting */
	bool is_guess;            /* nobody named this place: anybody may have the port */
	char where[512];          /* for people: the place, and why it is not a better one */
};

/* Connects: to `where` ("/path", "127.0.0.1:25", "[::1]:25"; loopback only), or if it is NULL to
 * `socket_path` and then to `loopback`. Gives a connected descriptor with a deadline on each
 * wait, or -errno after a line on stderr. */
int reach_relayd(
    const char *where, const char *socket_path, const char *loopback, struct reach *out) MUST_CHECK;

/* Is this a place that reach_relayd() takes for `loopback`? */
bool reach_is_loopback(const char *where);

#endif
