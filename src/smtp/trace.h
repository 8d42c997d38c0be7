/* trace.h - what relayd writes before a message: one Received line, and Date and Message-ID only where
 * they are missing (RFC 5321 4.4, RFC 6409 8.1-8.3). Pure: time and names come from the caller. */
#ifndef RELAYD_SMTP_TRACE_H
#define RELAYD_SMTP_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "base/span.h"
#include "smtp/header.h"

/* More than the longest prefix that trace_print() makes. */
#define TRACE_MAX 2048

struct trace {
	struct span helo;   /* as the client said it; bytes that do not belong there become '?' */
	const char *client; /* where it came from: "[127.0.0.1]", "[IPv6:::1]", "uid 1000" */
	const char *hostname;
	const char *queue_id; /* as users see it */
	bool esmtp, smtputf8;
	int64_t time_s; /* seconds since 1970, UTC */
	/* Said only if there is just one recipient, for nobody may learn of another; else empty. */
	struct span recipient;
	const struct header_facts
	    *header; /* what the message has already; NULL: write Received only */
};

/* Writes the header lines, each ended by CR LF, and an empty line after them if the message does not
 * begin with a header; gives their length. */
size_t trace_print(const struct trace *t, char out[TRACE_MAX]);

#define TRACE_DATE_LEN 31 /* "Tue, 24 Nov 2026 02:27:16 +0000" */

/* RFC 5322 date-time in UTC. */
void trace_date(int64_t time_s, char out[TRACE_DATE_LEN + 1]);

#endif
