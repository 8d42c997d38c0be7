/* watch.h - whether the workers still turn: one that is silent, or late to end, is killed, and systemd's watchdog
 * hears of us as long as none is in the way that cannot even be killed. Starts nothing (supervisor.c). */
#ifndef RELAYD_SUPERVISOR_WATCH_H
#define RELAYD_SUPERVISOR_WATCH_H

#include <stdint.h>

#include "base/base.h"
#include "supervisor/child.h"

#define WATCH_TICK_MS 1000

struct watch {
	uint64_t last_tick_ms;
	uint64_t watchdog_ms; /* how often systemd wants to hear of us; 0: never */
	uint64_t fed_ms;      /* when it last did */
};

void watch_init(struct watch *w);
/* Every WATCH_TICK_MS. `children`: all that were not reaped yet, borrowed. */
void watch_look(struct watch *w, struct child *children);

#endif
