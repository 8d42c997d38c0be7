/* port_owner.h - who holds a TCP address that we cannot have, for the message that says so. A kernel that
 * is asked for a port below 1024 by somebody without the right to it says EACCES, whether it is free or
 * not: so nothing but a look tells which of the two has to be mended. */
#ifndef RELAYD_SUPERVISOR_PORT_OWNER_H
#define RELAYD_SUPERVISOR_PORT_OWNER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/* Writes "master (pid 812)" for the first listener in the way of this address whose process /proc shows
 * us. false: it cannot be told (not our process and we are not root); *out is untouched. */
bool port_owner_find(const struct sockaddr_storage *sa, char *out, size_t size);

/* Is a listener in the way? (No right is needed to know that.) */
bool port_owner_is_there(const struct sockaddr_storage *sa);

#endif
