/* breaker.c - see breaker.h. */
#include <assert.h>

#include "delivery/breaker.h"

/* clang-format off */
static const struct pause {
	uint64_t first_ms, most_ms;
} pauses[] = {
	[BREAKER_NETWORK]  = { BREAKER_NETWORK_FIRST_MS,  BREAKER_NETWORK_MOST_MS },
	[BREAKER_OPERATOR] = { BREAKER_OPERATOR_FIRST_MS, BREAKER_OPERATOR_MOST_MS },
	[BREAKER_PASSWORD] = { BREAKER_PASSWORD_FIRST_MS, BREAKER_PASSWORD_MOST_MS },
};
/* clang-format on */

static void
enter(struct breaker *b, enum breaker_state state)
{
	/* the way back from PROBING to OPEN or CLOSED, from OPEN to PROBING, or a plain failure */
	assert(state != BREAKER_PROBING || b->state == BREAKER_OPEN);
	b->state = state;
}

/* Never shorter than said (15 min are a promise to the provider); jitter only lengthens. */
static uint64_t
pause_ms(const struct breaker *b, uint32_t random)
{
	const struct pause *p = &pauses[b->cause];
	uint64_t wait = p->first_ms;

	for (unsigned i = 1; i < b->failures && wait < p->most_ms; i++)
		wait *= 2;
	if (wait > p->most_ms)
		wait = p->most_ms;
	return wait + random % (wait / 10 + 1);
}

void
breaker_init(struct breaker *b)
{
	*b = (struct breaker){ .state = BREAKER_CLOSED };
}

bool
breaker_may_try(struct breaker *b, uint64_t now_ms)
{
	if (b->state == BREAKER_OPEN && now_ms >= b->retry_at_ms) {
		enter(b, BREAKER_PROBING);
		return true;
	}
	return b->state == BREAKER_CLOSED;
}

bool
breaker_fail(
    struct breaker *b, enum breaker_cause cause, bool by_message, uint64_t now_ms, uint32_t random)
{
	bool is_news = b->state == BREAKER_CLOSED || cause != b->cause;

	/* a worse cause may still lengthen the pause of one that is open: a refused password must */
	if (b->state == BREAKER_OPEN && cause <= b->cause)
		return false;
	b->failures = cause == b->cause && b->state != BREAKER_CLOSED ? b->failures + 1 : 1;
	b->cause = cause;
	b->by_message = by_message;
	b->retry_at_ms = now_ms + pause_ms(b, random);
	enter(b, BREAKER_OPEN);
	return is_news;
}

bool
breaker_succeed(struct breaker *b)
{
	bool is_news = b->state != BREAKER_CLOSED;

	enter(b, BREAKER_CLOSED);
	b->failures = 0;
	return is_news;
}

void
breaker_unasked(struct breaker *b, uint64_t now_ms)
{
	if (b->state != BREAKER_PROBING)
		return;
	b->retry_at_ms = now_ms;
	enter(b, BREAKER_OPEN);
}

void
breaker_nudge(struct breaker *b, uint64_t now_ms)
{
	if (b->state == BREAKER_OPEN)
		b->retry_at_ms = now_ms;
}
