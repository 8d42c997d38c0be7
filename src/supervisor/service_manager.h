/* service_manager.h - what relayd and systemd say to each other: sockets that are passed in, READY,
 * RELOADING, STATUS, WATCHDOG. Without systemd (no $NOTIFY_SOCKET, no $LISTEN_FDS) every call does
 * nothing, so that a container or a shell is served the same. libsystemd's sd-daemon half is met in
 * this room only here (its journal half: base/log.c). */
#ifndef RELAYD_SUPERVISOR_SERVICE_MANAGER_H
#define RELAYD_SUPERVISOR_SERVICE_MANAGER_H

#include <stdint.h>

#include "base/base.h"

/* How many sockets were passed in: they are *first, *first + 1, ...; 0 if none, -errno if the
 * environment is damaged. Sets close-on-exec and forgets the environment: call it once. */
int service_manager_listeners(int *first) MUST_CHECK;

/* How often the watchdog wants to hear of us, in ms; 0: there is none. */
uint64_t service_manager_watchdog_ms(void);

void service_manager_ready(const char *status);
void service_manager_reloading(void);
void service_manager_stopping(const char *status);
void service_manager_status(const char *status);
void service_manager_alive(void);

#endif
