/* base64.h - message bytes in the control protocol's JSON (RFC 4648, section 4). */
#ifndef RELAYD_CTL_BASE64_H
#define RELAYD_CTL_BASE64_H

#include <stdbool.h>

#include "base/span.h"

char *base64_encode(struct span bytes); /* gives a C string (free()) */
/* Gives the bytes (free(out->data)). false: not base64; *out is untouched. */
bool base64_decode(struct span text, struct span *out);

#endif
