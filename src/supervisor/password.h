/* password.h - runs the password-commands of one configuration's upstreams for one delivery process:
 * at its start, every password_refresh_ms, and when delivery wants a new one (at most once in
 * PASSWORD_PAUSE_MS). relayd does this because delivery may execute nothing. A command is `sh -c` as
 * the service's user with an empty environment but PATH; it has PASSWORD_DEADLINE_MS and may say
 * WORKER_PASSWORD_MAX bytes. What it says goes to delivery and is wiped; nothing is kept here. */
#ifndef RELAYD_SUPERVISOR_PASSWORD_H
#define RELAYD_SUPERVISOR_PASSWORD_H

#include <event2/event.h>
#include <sys/types.h>

#include "base/base.h"
#include "base/config.h"

#define PASSWORD_PAUSE_MS 10000
#define PASSWORD_DEADLINE_MS 30000

struct password_runner;

/* Starts all commands. Borrows config and channel_fd until password_runner_free(). */
struct password_runner *password_runner_create(
    struct event_base *base, const struct config *config, int channel_fd);
void password_runner_free(struct password_runner *runner); /* kills what runs; NULL is fine */

void password_runner_want(struct password_runner *runner, unsigned upstream);

/* A child was reaped. true: it was one of our commands. */
bool password_runner_reaped(struct password_runner *runner, pid_t pid, int wait_status);

#endif
