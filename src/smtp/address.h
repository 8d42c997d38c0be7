/* address.h - mail addresses as they stand in an envelope (RFC 5321 4.1.2 Path and Mailbox, RFC 6531
 * for UTF-8). Accepts or refuses, repairs nothing: the local part is the business of whoever
 * receives the mail, so it is kept byte for byte.
 *
 * More is accepted than RFC 5321 allows where real addresses need it: dots anywhere in a local part
 * (they exist in Japan), local parts over 64 bytes (VERP), '_' in a domain. Never: control
 * bytes, white space and specials outside quotes, empty labels, bytes that are not UTF-8. */
#ifndef RELAYD_SMTP_ADDRESS_H
#define RELAYD_SMTP_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/base.h"
#include "base/span.h"

#define ADDRESS_LOCAL_MAX 256
#define ADDRESS_DOMAIN_MAX 255
#define ADDRESS_MAX (ADDRESS_LOCAL_MAX + 1 + ADDRESS_DOMAIN_MAX)

enum address_result {
	ADDRESS_OK,
	ADDRESS_SYNTAX, /* 5.1.3 / 5.1.7 */
	ADDRESS_TOO_LONG,
	ADDRESS_BAD_UTF8,
};

struct address {
	struct span local;  /* quotes kept; empty only for the null path <> */
	struct span domain; /* without the '@'; empty: there is none */
	bool is_utf8;       /* some byte is not ASCII */
};

/* The whole of `text` is `local`, or `local@domain`, without angle brackets. */
enum address_result address_parse(struct span text, struct address *out) MUST_CHECK;

/* A path at the start of `text`: <>, <local@domain>, <@route,@route:local@domain>, or the same without
 * the brackets up to the next space (old programs write so). *used counts its bytes. */
enum address_result address_parse_path(
    struct span text, struct address *out, size_t *used) MUST_CHECK;

/* Domain or address literal in brackets. */
bool address_is_domain(struct span text);
bool address_is_utf8(struct span text); /* valid UTF-8 without control characters; ASCII is */

/* RFC 3461 section 4: xtext. Decoding gives the length, or -1 if it is no xtext, does not fit, or
 * would hold a control byte (CR, LF, NUL: the classic injection). Encoding gives the length
 * or -1 if it does not fit. Neither writes a NUL. */
long xtext_decode(struct span in, char *out, size_t size) MUST_CHECK;
long xtext_encode(struct span in, char *out, size_t size) MUST_CHECK;

#endif
