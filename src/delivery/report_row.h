/* report_row.h - a message as `relayctl queue` shows it to people: a line, and one for each recipient. From
 * the running queue (control_queue.c) and from the spool alone (relayctl). Whoever has the message
 * makes its row: a million of them are printed in the time in which their JSON could be half parsed. */
#ifndef RELAYD_DELIVERY_REPORT_ROW_H
#define RELAYD_DELIVERY_REPORT_ROW_H

#include <stdint.h>

#include "base/base.h"
#include "base/os.h"
#include "delivery/report.h"

void report_row_print_title(struct report_text *out);
/* Lines of printable ASCII, whatever a peer has said. `now_ms`: since 1970. */
void report_row_print(
    struct report_text *out, const struct report_message *message, uint64_t now_ms);

/* Words of which rows are made: "2 h 4 min"; "in 5 min", "3 d 1 h ago"; "12.3 MiB". */
#define REPORT_WORDS_MAX 48
void report_row_age(int64_t seconds, char out[REPORT_WORDS_MAX]);
void report_row_when(int64_t seconds_from_now, char out[REPORT_WORDS_MAX]);
void report_row_bytes(int64_t bytes, char out[REPORT_WORDS_MAX]);

/* What is the matter with the spool, for status: a sentence in `why`, "" if nothing is; and what to do, a
 * literal. `error`: the errno with which writing fails, 0: it works. */
struct report_spool {
	struct os_room room;
	uint64_t min_free_bytes;
	int error;
	uint64_t waiting_ms; /* for the disk's answer */
};
#define REPORT_SPOOL_MAX 256
#define REPORT_STALL_MS 10000
bool report_spool_is_full(const struct report_spool *spool);
const char *report_spool_why(const struct report_spool *spool, char why[REPORT_SPOOL_MAX]);

#endif
