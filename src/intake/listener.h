/* listener.h - the sockets that clients come to. Accepts several connections per event; without a
 * free descriptor it says 421 through a reserved one, pauses and comes back. */
#ifndef RELAYD_INTAKE_LISTENER_H
#define RELAYD_INTAKE_LISTENER_H

#include <event2/event.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "base/base.h"
#include "base/config.h"

struct listeners;

/* Takes `fd` (nonblocking, close-on-exec). */
typedef void listener_accepted_fn(
    void *arg, int fd, const struct sockaddr *peer, const struct config_listen *listen);

/* Listens for config->listen[]: on the descriptors from `first_fd` on (in order; taken), or if it
 * is -1 on sockets that it binds itself (running alone). Gives *out. -errno after telling `why`
 * (at least 256 bytes) which address cannot be used. */
int listeners_open(const struct config *config, int first_fd, struct event_base *base,
    listener_accepted_fn *accepted, void *arg, struct listeners **out, char why[256]) MUST_CHECK;
void listeners_close(struct listeners *listeners); /* NULL is fine: stops listening */

/* A connection ended: its descriptor may be what a paused listener waits for. */
void listeners_resume(struct listeners *listeners);
/* How often accepting had to pause for want of descriptors. */
unsigned listeners_paused(const struct listeners *listeners);

#endif
