/* commands.h - what each command of relayctl does. Each gets the whole command line (checked for
 * number and kind of arguments by relayctl.c) and returns an exit code. */
#ifndef RELAYD_CTL_COMMANDS_H
#define RELAYD_CTL_COMMANDS_H

#include "ctl/ctl.h"

int ctl_status(const struct ctl *ctl);
int ctl_queue(const struct ctl *ctl);
int ctl_show(const struct ctl *ctl);
int ctl_change(const struct ctl *ctl); /* retry, hold, release, bounce, remove */
int ctl_test(const struct ctl *ctl);
int ctl_config(const struct ctl *ctl);
int ctl_metrics(const struct ctl *ctl);

#endif
