/* pace.c - see pace.h. */
#include <string.h>

#include "delivery/pace.h"

#define HOUR_MS (60 * 60 * 1000)
#define GROW_EVERY_MS 5000
#define GROW_BY 1.05
#define SLOW_AT_MOST_EVERY_MS 2000         /* replies to one burst count once */
#define SLOWEST_PER_MS (1.0 / (60 * 1000)) /* one a minute still finds out that it is over */
#define LEAST_KNOWN_PER_MS (2.0 / 1000) /* a few messages after a pause say nothing about a rate */
#define FREE_ABOVE 4.0                  /* times the rate at which the upstream complained */
#define SMOOTH_MS 5000.0

static void
roll_hours(struct pace *p, uint64_t now_ms)
{
	uint64_t hour = now_ms / HOUR_MS;

	if (hour - p->hour >= PACE_HOURS)
		memset(p->hours, 0, sizeof(p->hours));
	else
		for (uint64_t h = p->hour + 1; h <= hour; h++)
			p->hours[h % PACE_HOURS] = 0;
	p->hour = hour;
}

static void
set_rate(struct pace *p, double per_ms)
{
	p->rate_per_ms = per_ms;
	/* a second's worth may go at once, so that 600/m does not mean one message every 100 ms */
	p->burst = per_ms * 1000 > 1 ? per_ms * 1000 : 1;
	if (p->tokens > p->burst)
		p->tokens = p->burst;
}

static void
recover(struct pace *p, uint64_t now_ms)
{
	double rate = p->rate_per_ms;

	if (!pace_is_slowed(p))
		return;
	for (; now_ms - p->grown_ms >= GROW_EVERY_MS; p->grown_ms += GROW_EVERY_MS) {
		rate *= GROW_BY;
		if (p->most_per_ms > 0 ? rate >= p->most_per_ms : rate >= p->ceiling_per_ms) {
			set_rate(p, p->most_per_ms);
			p->grown_ms = now_ms;
			return;
		}
	}
	set_rate(p, rate);
}

static void
fill(struct pace *p, uint64_t now_ms)
{
	recover(p, now_ms);
	p->tokens += (double)(now_ms - p->filled_ms) * p->rate_per_ms;
	if (p->tokens > p->burst)
		p->tokens = p->burst;
	p->filled_ms = now_ms;
	roll_hours(p, now_ms);
}

void
pace_init(struct pace *p, unsigned count, uint64_t per_ms, unsigned daily, uint64_t now_ms)
{
	memset(p, 0, sizeof(*p));
	p->most_per_ms = count > 0 && per_ms > 0 ? (double)count / (double)per_ms : 0;
	p->daily = daily;
	p->filled_ms = p->grown_ms = now_ms;
	p->hour = now_ms / HOUR_MS;
	set_rate(p, p->most_per_ms);
	p->tokens = p->burst;
}

static void
count_sent(struct pace *p, uint64_t now_ms)
{
	double gap = (double)(now_ms - p->sent_ms), weight;

	weight = gap < SMOOTH_MS ? gap / SMOOTH_MS : 1;
	if (gap > 0)
		p->reached_per_ms = p->reached_per_ms * (1 - weight) + weight / gap;
	else
		p->reached_per_ms += 1 / SMOOTH_MS;
	p->sent_ms = now_ms;
	p->hours[p->hour % PACE_HOURS]++;
}

enum pace_limit
pace_take(struct pace *p, uint64_t now_ms, uint64_t *wait_ms)
{
	fill(p, now_ms);
	if (p->daily > 0 && pace_sent_today(p) >= p->daily) {
		*wait_ms = (p->hour + 1) * HOUR_MS - now_ms;
		return PACE_DAILY;
	}
	if (p->rate_per_ms > 0 && p->tokens < 1) {
		*wait_ms = (uint64_t)((1 - p->tokens) / p->rate_per_ms) + 1;
		return PACE_RATE;
	}
	if (p->rate_per_ms > 0)
		p->tokens -= 1;
	count_sent(p, now_ms);
	return PACE_FREE;
}

void
pace_give_back(struct pace *p, uint64_t now_ms)
{
	fill(p, now_ms);
	if (p->rate_per_ms > 0 && p->tokens + 1 <= p->burst)
		p->tokens += 1;
	if (p->hours[p->hour % PACE_HOURS] > 0)
		p->hours[p->hour % PACE_HOURS]--;
}

bool
pace_slow(struct pace *p, uint64_t now_ms)
{
	double from;

	if (p->slowed_ms != 0 && now_ms - p->slowed_ms < SLOW_AT_MOST_EVERY_MS)
		return false;
	from = p->rate_per_ms > 0 ? p->rate_per_ms : p->reached_per_ms;
	if (from < LEAST_KNOWN_PER_MS && p->rate_per_ms == 0 && p->most_per_ms == 0)
		from = LEAST_KNOWN_PER_MS;
	if (p->most_per_ms == 0 && p->rate_per_ms == 0)
		p->ceiling_per_ms = from * FREE_ABOVE;
	set_rate(p, from / 2 > SLOWEST_PER_MS ? from / 2 : SLOWEST_PER_MS);
	if (p->ceiling_per_ms < 2 * p->rate_per_ms)
		p->ceiling_per_ms = 2 * p->rate_per_ms;
	p->tokens = 0; /* and now a breath */
	p->slowed_ms = p->grown_ms = p->filled_ms = now_ms;
	return true;
}

double
pace_per_second(const struct pace *p)
{
	return p->rate_per_ms * 1000;
}

bool
pace_is_slowed(const struct pace *p)
{
	return p->most_per_ms > 0 ? p->rate_per_ms < p->most_per_ms : p->rate_per_ms > 0;
}

unsigned
pace_sent_today(const struct pace *p)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < PACE_HOURS; i++)
		sum += p->hours[i];
	return sum;
}
