/* ctl_offline.h - the queue as it stands in the spool, read without the daemon: nothing is locked and
 * nothing is changed. Needs the right to read the spool (root, or relayd's user). */
#ifndef RELAYD_CTL_CTL_OFFLINE_H
#define RELAYD_CTL_CTL_OFFLINE_H

#include <jansson.h>
#include <stdint.h>

#include "base/base.h"
#include "base/span.h"
#include "ctl/ctl.h"
#include "delivery/report.h"

struct ctl_offline {
	int dir_fd;
	const char *why; /* we had to look here */
};

/* Opens the spool and says on stderr that it is the spool that is shown, and why. -errno: it said
 * why not. */
int ctl_offline_open(const struct ctl *ctl, int why, struct ctl_offline *out) MUST_CHECK;
void ctl_offline_close(struct ctl_offline *offline);

/* Says why the spool cannot be read. Gives the exit code. */
int ctl_offline_fail(int r);

/* Each message not done. It is borrowed. */
typedef void ctl_report_fn(void *arg, const struct report_message *message);
int ctl_offline_queue(const struct ctl_offline *offline, ctl_report_fn *each, void *arg) MUST_CHECK;

/* As delivery/report.h prints it. The object is borrowed. */
typedef void ctl_message_fn(void *arg, const json_t *message);
/* One message with details. With `body`: its bytes too, as they would go upstream. -ENOENT. */
typedef void ctl_bytes_fn(void *arg, struct span bytes);
int ctl_offline_show(const struct ctl_offline *offline, uint64_t id, ctl_message_fn *each,
    ctl_bytes_fn *body, void *arg) MUST_CHECK;

#endif
