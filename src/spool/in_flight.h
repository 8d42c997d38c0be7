/* in_flight.h - which messages may be at their upstream while no outcome says so: what a death of
 * delivery may repeat (I4). A mark is set before the last byte of a message leaves, and taken away when
 * its outcome is durable. The marks stand in the shared page, which the supervisor keeps: a new delivery
 * finds those of the one that died, and tells each by its name. Delivery is the one writer.
 *
 * When everything died at once the page is new. Then the last journal tells whether delivery ended in good
 * order; if it did not, only a number is known, of what can be on its way at once. So it is when
 * there were more than there are marks. Nothing else depends on this: without it no message would be lost
 * or sent more often. */
#ifndef RELAYD_SPOOL_IN_FLIGHT_H
#define RELAYD_SPOOL_IN_FLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "spool/shared_page.h"

struct in_flight;

/* Takes up what is left in the page (borrowed until close). `most`: that can be on their way at once. */
struct in_flight *in_flight_open(struct shared_page *page, uint32_t most);
/* Marks that are left stay in the page. NULL is fine. */
void in_flight_close(struct in_flight *f);

/* May the delivery before this one have sent it? */
bool in_flight_was_sent(const struct in_flight *f, uint64_t id);
/* So many of such messages are known by name, whatever became of them. */
uint32_t in_flight_named(const struct in_flight *f);
/* So many more may have been sent whose names are not known. `ended_well`: the last journal says that
 * delivery ended in good order. */
uint32_t in_flight_unnamed(const struct in_flight *f, bool ended_well);
/* The number for a new page was told: from now on its marks are believed. One that dies earlier leaves it to
 * the next. */
void in_flight_told(struct in_flight *f);
/* Everything on disk was compared with it, and told: the old marks go. */
void in_flight_forget(struct in_flight *f);

/* Gives a mark, never 0. */
uint32_t in_flight_enter(struct in_flight *f, uint64_t id);
void in_flight_leave(struct in_flight *f, uint32_t mark); /* 0: it was never entered */

#endif
