/* ctl_socket.h - talks to relayd's control socket: one request, its answer line by line (the protocol:
 * delivery/control.h). */
#ifndef RELAYD_CTL_CTL_SOCKET_H
#define RELAYD_CTL_CTL_SOCKET_H

#include <jansson.h>

#include "base/base.h"
#include "base/span.h"
#include "ctl/ctl.h"

/* Called for each line of the answer before the last one; borrows the object. */
typedef void ctl_line_fn(void *arg, const json_t *line);

/* Sends the request (takes it) and reads the answer. 0: *last is the last line (json_decref()), with
 * "ok" or "error". -ENOENT, -ECONNREFUSED: relayd does not run; -ETIMEDOUT: it does not answer;
 * -EACCES: the socket is not for us; -EPROTO: not the protocol, or the answer broke off. */
int ctl_ask(
    const struct ctl *ctl, json_t *request, ctl_line_fn *line, void *arg, json_t **last) MUST_CHECK;

/* The same for a list of a million: of each line that has nothing but this key, the JSON of its value, as it
 * came. Parsing them all would take longer than all the rest. `value` returns 0, or -EPROTO to end it. */
typedef int ctl_value_fn(void *arg, struct span value);
int ctl_ask_list(const struct ctl *ctl, json_t *request, const char *key, ctl_value_fn *value,
    void *arg, json_t **last) MUST_CHECK;

/* Are we told by -errno that the spool has to be read instead? */
bool ctl_is_down(int r);
/* Says why ctl_ask() failed; returns CTL_FAILED. */
int ctl_fail_ask(const struct ctl *ctl, int r);
/* Says what the last line's "error" is, if any; returns the exit code. */
int ctl_end(const json_t *last);

#endif
