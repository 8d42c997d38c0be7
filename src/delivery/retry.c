/* retry.c - see retry.h. */
#include "delivery/retry.h"

uint64_t
retry_wait_ms(const struct retry_policy *policy, unsigned attempts, uint32_t random)
{
	uint64_t wait = policy->first_ms > 0 ? policy->first_ms : 1, eighth;

	for (unsigned i = 1; i < attempts && wait < policy->max_ms; i++)
		wait *= 2;
	if (wait > policy->max_ms)
		wait = policy->max_ms;
	eighth = wait / 8;
	wait = wait - eighth + (eighth > 0 ? random % (2 * eighth + 1) : 0);
	return wait > policy->max_ms ? policy->max_ms : wait;
}

uint64_t
retry_resume_ms(const struct retry_policy *policy, uint64_t stored_ms, uint64_t wall_ms)
{
	if (stored_ms <= wall_ms)
		return 0;
	return stored_ms - wall_ms > policy->max_ms ? policy->max_ms : stored_ms - wall_ms;
}

uint64_t
retry_age_ms(uint64_t arrived_ms, uint64_t wall_ms)
{
	return arrived_ms < wall_ms ? wall_ms - arrived_ms : 0;
}

bool
retry_is_expired(const struct retry_policy *policy, uint64_t age_ms, unsigned attempts)
{
	uint64_t enough = policy->max_ms < policy->expire_ms ? policy->max_ms : policy->expire_ms;
	uint64_t waited = 0, wait = policy->first_ms;

	if (age_ms < policy->expire_ms)
		return false;
	for (unsigned i = 1; i < attempts && waited < enough; i++) {
		waited += wait;
		wait = wait * 2 < policy->max_ms ? wait * 2 : policy->max_ms;
	}
	return waited >= enough;
}

bool
retry_is_late(const struct retry_policy *policy, uint64_t age_ms)
{
	return policy->warn_ms > 0 && age_ms >= policy->warn_ms;
}
