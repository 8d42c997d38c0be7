/* refusals.h - how often it is told that the spool takes no mail. On a full disk every message of every
 * program is refused, for hours: the first has a line of its own, the others are counted, and the number
 * is told at growing intervals, from REFUSALS_FIRST_MS to REFUSALS_MOST_MS. Pure: the caller has the
 * clock and the log. */
#ifndef RELAYD_INTAKE_REFUSALS_H
#define RELAYD_INTAKE_REFUSALS_H

#include <stdbool.h>
#include <stdint.h>

#define REFUSALS_FIRST_MS 5000
#define REFUSALS_MOST_MS (10 * 60 * 1000)

struct refusals {        /* zeros at first */
	uint64_t all;    /* since the last end */
	uint64_t untold; /* of them in no line yet */
	uint64_t told_ms, wait_ms;
};

/* One more. Is it to have a line of its own? */
bool refusals_add(struct refusals *r, uint64_t now_ms);
/* How many are to be told now, as a number: 0 for none. They count as told. */
uint64_t refusals_due(struct refusals *r, uint64_t now_ms);
/* The spool takes mail again: how many there were in all. The next one is a first one. */
uint64_t refusals_end(struct refusals *r);

#endif
