/* breaker.h - whether an upstream may be spoken to. Pure: time and dice come with the call.
 *
 *            breaker_fail()                  pause over: breaker_may_try()
 *   CLOSED ------------------> OPEN <------------------------------> PROBING
 *     ^                         ^          breaker_fail()               |
 *     |                         +---------------------------------------+
 *     +------------------- breaker_succeed() ---------------------------+
 *
 * CLOSED: everything flows. OPEN: nothing is sent until the pause is over. PROBING: one probe is
 * under way and nothing else. While it is not CLOSED no message loses an attempt.
 *
 * The cause says how long the pauses are: a network fault 1 s doubling to 1 min (what waits for it goes out
 * that much later than it could, and a connection a minute troubles nobody); something that an
 * operator must mend 5 s doubling to 5 min; a refused password at least 15 min (providers lock
 * accounts that knock more often) doubling to 2 h. breaker_nudge() (the operator mended something)
 * ends a pause at once. */
#ifndef RELAYD_DELIVERY_BREAKER_H
#define RELAYD_DELIVERY_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_PROBING };

enum breaker_cause {
	BREAKER_NETWORK,  /* DNS, connect, timeout, 421 */
	BREAKER_OPERATOR, /* certificate, TLS, account, quota: needs a person, probing is cheap */
	BREAKER_PASSWORD, /* refused credentials: probing is not */
};

struct breaker {
	enum breaker_state state;
	enum breaker_cause cause;
	bool by_message; /* only an accepted message proves it mended: a login would not (quota) */
	unsigned failures; /* in a row */
	uint64_t retry_at_ms;
};

#define BREAKER_NETWORK_FIRST_MS 1000
#define BREAKER_NETWORK_MOST_MS (60 * 1000)
#define BREAKER_OPERATOR_FIRST_MS 5000
#define BREAKER_OPERATOR_MOST_MS (5 * 60 * 1000)
#define BREAKER_PASSWORD_FIRST_MS (15 * 60 * 1000)
#define BREAKER_PASSWORD_MOST_MS (2 * 60 * 60 * 1000)

void breaker_init(struct breaker *b);

/* May a connection or message go out? From OPEN, with the pause over, the answer true makes this
 * caller the probe: it must end in breaker_fail(), breaker_succeed() or breaker_unasked(). */
bool breaker_may_try(struct breaker *b, uint64_t now_ms);

/* True when it closed or changed its cause: tell the operator. A failure that arrives while it is
 * already OPEN (a second connection that died of the same) does not lengthen the pause. */
bool breaker_fail(
    struct breaker *b, enum breaker_cause cause, bool by_message, uint64_t now_ms, uint32_t random);
/* True when it was not CLOSED before: tell the operator that it works again. */
bool breaker_succeed(struct breaker *b);
/* The probe ended without an answer to the question (no mail was left to probe with, we stop). */
void breaker_unasked(struct breaker *b, uint64_t now_ms);
/* End the pause: the next breaker_may_try() probes. */
void breaker_nudge(struct breaker *b, uint64_t now_ms);

#endif
