/* units.h - numbers as the configuration spells them: 50M, 1h30m, 14/s. Each call returns 0 and the
 * number, or -EINVAL (not one of these) or -ERANGE (too large to hold); *out is untouched then. */
#ifndef RELAYD_BASE_UNITS_H
#define RELAYD_BASE_UNITS_H

#include <stdint.h>

#include "base/base.h"
#include "base/config.h"

#define UNITS_TEXT_MAX 32

int units_parse_count(const char *text, unsigned *out) MUST_CHECK;
/* K, M, G are 1024, 1024², 1024³; no unit: bytes. */
int units_parse_bytes(const char *text, uint64_t *out) MUST_CHECK;
/* ms, s, m, h, d, also summed up ("1h30m"); only 0 may stand without a unit. */
int units_parse_ms(const char *text, uint64_t *out) MUST_CHECK;
/* N/s, N/m, N/h; 0 is no limit. */
int units_parse_rate(const char *text, struct config_rate *out) MUST_CHECK;

/* The shortest text that parses back to the number. */
void units_print_bytes(uint64_t bytes, char out[UNITS_TEXT_MAX]);
void units_print_ms(uint64_t ms, char out[UNITS_TEXT_MAX]);
void units_print_rate(struct config_rate rate, char out[UNITS_TEXT_MAX]);

#endif
