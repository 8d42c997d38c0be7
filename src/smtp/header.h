/* header.h - just enough of RFC 5322 to relay a message and to submit one: which fields are there
 * (while the message streams by), and, for sendmail -t, who the recipients are. Nothing here changes
 * a field; unknown, broken and repeated fields pass.
 *
 * Pure: no I/O, no allocation. */
#ifndef RELAYD_SMTP_HEADER_H
#define RELAYD_SMTP_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "base/span.h"

struct header_facts {
	unsigned own;      /* those that this host wrote (trace.h), if header_scan.own is set */
	unsigned received; /* Received lines: the hops so far */
	unsigned from, date, message_id, bcc, resent; /* how often each is there */
	bool
	    has_header; /* the first line is a header field. If not (and the message is not empty, nor
	                  * starts with an empty line), what is put before it must end in an empty line. */
	bool starts_empty; /* the first line is empty, or there is none */
};

/* Watches a message go by, in chunks of any size, lines ended by CR LF or LF. Costs nothing after the
 * header. */
struct header_scan {
	struct header_facts facts;
	bool is_over; /* the body has begun: header_scan_take() has nothing to do any more */

	const char
	    *own; /* set after header_scan_begin(): our host name; borrowed. NULL: do not look */

	/* Private. */
	unsigned char where;
	bool in_received;
	size_t n_matched;
	unsigned char name_len;
	bool any_line, cr;
	char name[32]; /* the start of the field name of the current line, in lower case */
};

void header_scan_begin(struct header_scan *h);
void header_scan_take(struct header_scan *h, struct span chunk);
/* At the end of the message: decides about a first line without an end. */
void header_scan_finish(struct header_scan *h);

/* A header that is in memory, field by field. */
struct header_field {
	struct span name; /* without the colon and white space before it */
	struct span body; /* after the colon, with folding, without the last line end */
	struct span raw;  /* the whole field with its line ends */
};

enum header_next {
	HEADER_FIELD,
	HEADER_END,  /* `rest` stands after the empty line, or at the end of the text */
	HEADER_BODY, /* the next line is not a field and not empty: the header ended without one */
};

/* Takes the next field off `rest`. Lines end in LF or CR LF. */
enum header_next header_next(struct span *rest, struct header_field *field);

bool header_is_bcc(struct header_field field);               /* Bcc, Resent-Bcc, in any case */
bool header_is_recipient(struct header_field field);         /* To, Cc, Bcc */
bool header_is_resent_recipient(struct header_field field);  /* Resent-To, -Cc, -Bcc */
bool header_is(struct header_field field, const char *name); /* `name` without the colon */

/* The mailboxes of an address list (RFC 5322 address-list with groups, comments, folding, quoted
 * strings, routes; obsolete forms as well): calls `found` with each addr-spec, unfolded and without
 * comments. `address` lives until `found` returns. Gives 0; -EINVAL if something is not an address
 * (those before it were given), -E2BIG if one is longer than ADDRESS_MAX; or the first non-zero
 * value of `found`. */
typedef int header_address_fn(void *arg, struct span address);
int header_addresses(struct span body, header_address_fn *found, void *arg) MUST_CHECK;

/* For who completes the addresses of a list: calls `found` with each place in `body` where a domain
 * is missing, the end of a local part that stands alone. Only what is certain: an ASCII dot-atom or
 * quoted string, with or without <>, a name and comments; no encoded word, no member of a group. Gives
 * what header_addresses() gives, and -EINVAL where that is more forgiving than RFC 5322: then what
 * was found counts for nothing. */
typedef int header_bare_fn(void *arg, size_t end);
int header_bare_addresses(struct span body, header_bare_fn *found, void *arg) MUST_CHECK;

#endif
