/* base64.h - RFC 4648 section 4, as SMTP's AUTH uses it: strict, without line breaks. */
#ifndef RELAYD_SMTP_BASE64_H
#define RELAYD_SMTP_BASE64_H

#include <stdbool.h>
#include <stddef.h>

#include "base/span.h"

#define BASE64_SIZE(len) (((len) + 2) / 3 * 4 + 1)

/* Writes BASE64_SIZE(in.len) bytes with the NUL; returns the length without it. */
size_t base64_encode(struct span in, char *out);

/* Writes at most in.len / 4 * 3 bytes. false: not base64 (wrong length, alphabet or padding). */
bool base64_decode(struct span in, char *out, size_t *len);

#endif
