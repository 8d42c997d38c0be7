/* refusals.c - see refusals.h. */
#include "intake/refusals.h"

static bool
is_due(const struct refusals *r, uint64_t now_ms)
{
	return r->wait_ms == 0 || now_ms - r->told_ms >= r->wait_ms;
}

static void
tell(struct refusals *r, uint64_t now_ms)
{
	bool is_new = r->wait_ms == 0 || now_ms - r->told_ms >= REFUSALS_MOST_MS + r->wait_ms;

	r->wait_ms = is_new ? REFUSALS_FIRST_MS : r->wait_ms * 2;
	if (r->wait_ms > REFUSALS_MOST_MS)
		r->wait_ms = REFUSALS_MOST_MS;
	r->told_ms = now_ms;
	r->untold = 0;
}

bool
refusals_add(struct refusals *r, uint64_t now_ms)
{
	r->all++;
	if (r->untold == 0 && is_due(r, now_ms)) {
		tell(r, now_ms);
		return true;
	}
	r->untold++;
	return false;
}

uint64_t
refusals_due(struct refusals *r, uint64_t now_ms)
{
	uint64_t n = r->untold;

	if (n > 0 && is_due(r, now_ms))
		tell(r, now_ms);
	return r->untold == 0 ? n : 0;
}

uint64_t
refusals_end(struct refusals *r)
{
	uint64_t all = r->all;

	*r = (struct refusals){ 0 };
	return all;
}
