/* retry.h - when the next attempt is due, and when there shall be none. Pure: no clock, no dice;
 * the caller brings both.
 *
 * Times inside the process are milliseconds of CLOCK_BOOTTIME, so that a clock set back a year or
 * forward ten neither stalls the queue nor fires all of it at once. Times on disk are wall-clock
 * times; they are clamped when they come back (durability.md row 14). */
#ifndef RELAYD_DELIVERY_RETRY_H
#define RELAYD_DELIVERY_RETRY_H

#include <stdbool.h>
#include <stdint.h>

struct retry_policy {
	uint64_t first_ms, max_ms, expire_ms;
	uint64_t warn_ms; /* 0: never */
};

/* The wait after `attempts` failed attempts (>= 1): first, doubling, at most max; `random` moves it
 * by up to an eighth to both sides, so that what failed together does not come back together. */
uint64_t retry_wait_ms(const struct retry_policy *policy, unsigned attempts, uint32_t random);

/* How long to wait for a moment that was stored as wall-clock time: 0 if it is past, and never
 * longer than max, whatever happened to the clock in between. */
uint64_t retry_resume_ms(const struct retry_policy *policy, uint64_t stored_ms, uint64_t wall_ms);

/* The age of a message by wall-clock stamps: 0 if it seems to come from the future. */
uint64_t retry_age_ms(uint64_t arrived_ms, uint64_t wall_ms);

/* Asked only after an attempt failed: mail that nobody tried to deliver is never given up. Nor is mail
 * that seems old but was tried for less than max: the clock may have jumped forward while relayd was
 * down, or the upstream is back after a week and greylists. `attempts`, this one included, tell how
 * long that was. */
bool retry_is_expired(const struct retry_policy *policy, uint64_t age_ms, unsigned attempts);

/* Is it time to tell the sender that the message is late? */
bool retry_is_late(const struct retry_policy *policy, uint64_t age_ms);

#endif
