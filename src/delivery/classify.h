/* classify.h - what a refusal means: a pure table over stage, code, enhanced code and text, because
 * "4 waits, 5 bounces" is wrong in both directions (a provider's 451 at AUTH is "out of credit", its
 * 403 is "this sender is not yours", 550 5.4.5 is "enough for today"). Rows are tried in order, the
 * first that fits decides; the last rows are the digits of RFC 5321. Providers' own dictionaries
 * will be more rows. */
#ifndef RELAYD_DELIVERY_CLASSIFY_H
#define RELAYD_DELIVERY_CLASSIFY_H

#include <stdbool.h>

#include "delivery/breaker.h"
#include "smtp/reply.h"

enum failure_class {
	FAILURE_TEMPORARY, /* wait and try again */
	FAILURE_PACE,      /* the upstream says slow down: no attempt is lost */
	FAILURE_OPERATOR,  /* a person must mend something: kept, never bounced for it */
	FAILURE_PERMANENT, /* bounced */
};

enum failure_scope {
	FAILURE_OF_RECIPIENT,
	FAILURE_OF_MESSAGE,  /* this message or its sender: others may go on */
	FAILURE_OF_UPSTREAM, /* every message would get the same answer: the breaker opens */
};

struct failure {
	enum failure_class class;
	enum failure_scope scope;
	enum breaker_cause cause; /* FAILURE_OF_UPSTREAM: how long to leave it alone */
	bool is_sessions;         /* PACE: too many connections at once, not too many messages */
	bool is_split;   /* too many recipients: the others go at once, in a message of their own */
	const char *fix; /* what to change, for people; "" if there is nothing to say */
};

struct failure classify(const struct upstream_reply *reply);

const char *classify_class_name(enum failure_class class);

#endif
