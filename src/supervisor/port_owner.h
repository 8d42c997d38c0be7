/* port_owner.h - who holds a TCP port that we cannot have, for the message that says so. */
#ifndef RELAYD_SUPERVISOR_PORT_OWNER_H
#define RELAYD_SUPERVISOR_PORT_OWNER_H

#include <stdbool.h>
#include <stddef.h>

/* Writes "master (pid 812)" for the first listener on `port` whose process /proc shows us. false:
 * it cannot be told (not our process and we are not root); *out is untouched. */
bool port_owner_find(unsigned port, char *out, size_t size);

/* Does anybody listen on it? (No right is needed to know that.) */
bool port_owner_is_there(unsigned port);

#endif
