/* pace.h - how fast an upstream may be sent to: a token bucket from `rate`, a rolling day from
 * `daily`, and what the upstream itself says ("slow down"): then the rate halves and recovers by a
 * twentieth every 5 s. Without a configured rate the rate that was reached lately is halved, and
 * when it has grown well beyond that again the limit is gone. Pure: the time comes with the call.
 * A token is a message (or a recipient, where a provider counts those: the caller decides). */
#ifndef RELAYD_DELIVERY_PACE_H
#define RELAYD_DELIVERY_PACE_H

#include <stdbool.h>
#include <stdint.h>

#define PACE_HOURS 25 /* the running hour and the 24 before it */

struct pace {
	double most_per_ms; /* configured; 0: no limit */
	double rate_per_ms; /* in force; 0: no limit */
	double tokens, burst;
	double reached_per_ms; /* smoothed, of what was really sent */
	double ceiling_per_ms; /* without a configured rate: above this the limit is gone */
	uint64_t filled_ms, grown_ms, slowed_ms;
	uint64_t sent_ms; /* when the last token went */
	unsigned daily;   /* 0: no limit */
	unsigned hours[PACE_HOURS];
	uint64_t hour; /* the running one, counted from 0 */
};

enum pace_limit { PACE_FREE, PACE_RATE, PACE_DAILY };

/* count per per_ms (count 0: no limit), daily messages in any 24 hours (0: no limit). */
void pace_init(struct pace *p, unsigned count, uint64_t per_ms, unsigned daily, uint64_t now_ms);

/* PACE_FREE: a token was taken, send. Otherwise nothing was taken, and *wait_ms says when to ask
 * again and the answer which limit it was. */
enum pace_limit pace_take(struct pace *p, uint64_t now_ms, uint64_t *wait_ms);
/* The message was not sent after all. */
void pace_give_back(struct pace *p, uint64_t now_ms);

/* The upstream said "slow down". Several such answers to what was already on the way count once.
 * True when this one changed the rate: tell the operator. */
bool pace_slow(struct pace *p, uint64_t now_ms);

/* In force, per second; 0: no limit. For status and metrics. */
double pace_per_second(const struct pace *p);
bool pace_is_slowed(const struct pace *p); /* below what the config allows */
unsigned pace_sent_today(const struct pace *p);

#endif
