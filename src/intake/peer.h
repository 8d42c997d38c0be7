/* peer.h - who is at the other end of an accepted connection: its address, and for a local client
 * the uid and the systemd unit, asked from the kernel at accept (no privilege needed):
 *   unix socket      SO_PEERCRED, and the cgroup from a pidfd (Linux 6.13) or /proc/PID/cgroup
 *   TCP on this host NETLINK_SOCK_DIAG finds the client's socket: its uid and its cgroup's id;
 *                    the id is the inode of a directory below /sys/fs/cgroup, whose name has the unit
 * What the kernel does not tell (other kernels, containers, a client already gone) stays unknown:
 * identity is for fairness and for the log, it never decides whether mail is taken. */
#ifndef RELAYD_INTAKE_PEER_H
#define RELAYD_INTAKE_PEER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/base.h"

#define PEER_UID_UNKNOWN UINT32_MAX
#define PEER_TEXT_MAX 64

struct peer {
	sa_family_t family;  /* AF_UNIX, AF_INET (v4-mapped too) or AF_INET6 */
	uint16_t port;       /* 0: unix */
	uint32_t uid;        /* PEER_UID_UNKNOWN */
	uint8_t address[16]; /* 4 or 16 bytes are used; unix: none */
	const char *unit;    /* "" = unknown; lives as long as the process */
};

struct peer_finder;

/* Opens what is needed to ask; without netlink or cgroups the finder knows less, and
 * peer_finder_lacks() says in words what is missing (NULL: nothing). */
struct peer_finder *peer_finder_open(void);
const char *peer_finder_lacks(const struct peer_finder *finder);
void peer_finder_close(struct peer_finder *finder);

/* Fills *out for the accepted socket `fd` whose peer is `sa` (as accept4() gave it). */
void peer_find(struct peer_finder *finder, int fd, const struct sockaddr *sa, struct peer *out);

/* "127.0.0.1", "::1", "uid 1000" or "unix": how the client is called in replies, log and spool. */
void peer_print(const struct peer *peer, char out[PEER_TEXT_MAX]);

/* The unit in a cgroup's path ("/system.slice/php8.2-fpm.service/x" -> "php8.2-fpm.service"): the
 * outermost component that is a unit and no slice. False: none; out is "" then. Pure. */
bool peer_unit_of_path(const char *path, char *out, size_t size);

#endif
