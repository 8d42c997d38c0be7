/* job.h - one message on its way through one connection: what the queue lends to conn.h. */
#ifndef RELAYD_DELIVERY_JOB_H
#define RELAYD_DELIVERY_JOB_H

#include <stddef.h>
#include <stdint.h>

#include "smtp/client.h"

/* The job and everything it points to belong to the queue and are borrowed by the connection from
 * conn_send() until its finished() event.
 *
 *	envelope.sender          reverse-path without < >; empty: the null sender
 *	envelope.recipients[i]   forward-path without < >, NOTIFY, ORCPT; only those of this attempt
 *	envelope.flags           SMTP_ENVELOPE_8BIT | SMTP_ENVELOPE_UTF8
 *	envelope.bytes           size of the message (prefix + body) in CRLF form */
struct delivery_job {
	uint64_t id; /* queue ID */
	struct smtp_envelope envelope;

	/* Copies up to `len` bytes of the message at `offset` (< envelope.bytes) into buf and returns
	 * how many (> 0), or -errno. Read in order from 0, in pieces of at most 64 KiB; the last
	 * byte is asked for only once, so a checksum over everything may be verified there: what
	 * it refuses is never completed at the upstream. The bytes hold CR and LF only as CR LF, no
	 * NUL, and end with CR LF (C1); what does not is refused like a failed read.
	 * On failure the connection has to be dropped (the message is half sent), the recipients get
	 * VERDICT_LOCAL with code 451, read_error is set, and conn_end.kind is SMTP_END_LOCAL. */
	int (*read)(struct delivery_job *job, uint64_t offset, void *buf, size_t len);
	void *arg;      /* the owner's */
	int read_error; /* out: 0 or -errno */
};

#endif
