/* capability.h - what an upstream can do, by its last EHLO reply. Keywords we do not know are
 * skipped; malformed parameters make a keyword count as absent or unlimited, never as a surprise. */
#ifndef RELAYD_SMTP_CAPABILITY_H
#define RELAYD_SMTP_CAPABILITY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/span.h"

enum {
	SMTP_CAP_STARTTLS = 1 << 0,
	SMTP_CAP_AUTH = 1 << 1,
	SMTP_CAP_PIPELINING = 1 << 2,
	SMTP_CAP_SIZE = 1 << 3,
	SMTP_CAP_8BITMIME = 1 << 4,
	SMTP_CAP_SMTPUTF8 = 1 << 5,
	SMTP_CAP_CHUNKING = 1 << 6,
	SMTP_CAP_DSN = 1 << 7,
	SMTP_CAP_ENHANCEDSTATUSCODES = 1 << 8,
	SMTP_CAP_LIMITS = 1 << 9,
};

#define SMTP_MECHANISMS_MAX 512

struct smtp_capabilities {
	unsigned set;                         /* SMTP_CAP_* */
	uint64_t size_bytes;                  /* 0: no limit told */
	unsigned rcpt_max, mail_max;          /* LIMITS (RFC 9422); 0: none */
	char mechanisms[SMTP_MECHANISMS_MAX]; /* AUTH's, upper case, " PLAIN LOGIN " */
};

/* Forgets everything: before each EHLO, so that nothing from before TLS survives (RFC 3207 4.2). */
void smtp_capability_reset(struct smtp_capabilities *caps);

/* One line of the EHLO reply after its first ("SIZE 1000", "AUTH PLAIN LOGIN", "AUTH=LOGIN"). */
void smtp_capability_line(struct smtp_capabilities *caps, struct span line);

static inline bool
smtp_capability_has(const struct smtp_capabilities *caps, unsigned which)
{
	return (caps->set & which) == which;
}

/* Is the mechanism ("SCRAM-SHA-256") among those of AUTH? */
bool smtp_capability_has_mechanism(const struct smtp_capabilities *caps, const char *name);

#endif
