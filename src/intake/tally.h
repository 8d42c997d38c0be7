/* tally.h - how many connections each client has at once: by uid where the kernel told it, else by
 * address. Pure. */
#ifndef RELAYD_INTAKE_TALLY_H
#define RELAYD_INTAKE_TALLY_H

#include "intake/peer.h"

struct tally;

/* An empty tally is NULL. Counts one more of this client and returns how many there are now. */
unsigned tally_add(struct tally **tally, const struct peer *peer);
/* One less; the client must have been counted. */
void tally_drop(struct tally **tally, const struct peer *peer);

#endif
