/* queue_id.h - the name of a message, from its acceptance to its end: a 64-bit number, shown as 13
 * characters of Crockford's base32 (digits and capitals without I, L, O, U; read in any case).
 *
 *   bit 63..56  0
 *   bit 55..24  number of the segment that the message was accepted into
 *   bit 23..0   sequence of the message's record in that segment
 *
 * Segment numbers start at the clock's seconds and only grow (spool/segment.h), so an ID is not
 * used again after a spool was emptied. A message moved by compaction keeps its ID. */
#ifndef RELAYD_BASE_QUEUE_ID_H
#define RELAYD_BASE_QUEUE_ID_H

#include <stdbool.h>
#include <stdint.h>

#include "base/span.h"

#define QUEUE_ID_LEN 13
#define QUEUE_ID_SEQUENCE_MAX 0xffffffu

static inline uint64_t
queue_id_make(uint32_t segment_number, uint32_t sequence)
{
	return (uint64_t)segment_number << 24 | (sequence & QUEUE_ID_SEQUENCE_MAX);
}

void queue_id_print(uint64_t id, char out[QUEUE_ID_LEN + 1]);
bool queue_id_parse(struct span text, uint64_t *id); /* false: not an ID; *id untouched */

#endif
