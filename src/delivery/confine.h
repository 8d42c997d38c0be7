/* confine.h - what delivery can reach once it serves: the spool, its secrets and certificates, the
 * resolver's files, the ports of its upstreams. base/sandbox.h has the walls. */
#ifndef RELAYD_DELIVERY_CONFINE_H
#define RELAYD_DELIVERY_CONFINE_H

#include "base/config.h"
#include "base/sandbox.h"

/* As sandbox_enter(), with the list that follows from config and environment. */
bool confine(const struct config *config, int spool_fd, char why[SANDBOX_WHY_MAX]) MUST_CHECK;

#endif
