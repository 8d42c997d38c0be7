/* service_manager.c - see service_manager.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include "supervisor/service_manager.h"

int
service_manager_listeners(int *first)
{
	int n = sd_listen_fds(1);

	if (n > 0)
		*first = SD_LISTEN_FDS_START;
	return n;
}

uint64_t
service_manager_watchdog_ms(void)
{
	uint64_t usec;

	return sd_watchdog_enabled(0, &usec) > 0 ? usec / 1000 : 0;
}

/* What cannot be told to systemd is told to nobody: it would be heard by the watchdog alone. */
static void
tell(const char *state)
{
	(void)sd_notify(0, state);
}

void
service_manager_ready(const char *status)
{
	char state[512];

	snprintf(state, sizeof(state), "READY=1\nSTATUS=%s", status);
	tell(state);
}

void
service_manager_reloading(void)
{
	struct timespec now;
	char state[128];

	clock_gettime(CLOCK_MONOTONIC, &now);
	snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
	    (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000);
	tell(state);
}

void
service_manager_stopping(const char *status)
{
	char state[512];

	snprintf(state, sizeof(state), "STOPPING=1\nSTATUS=%s", status);
	tell(state);
}

void
service_manager_status(const char *status)
{
	char state[512];

	snprintf(state, sizeof(state), "STATUS=%s", status);
	tell(state);
}

void
service_manager_alive(void)
{
	tell("WATCHDOG=1");
}
