/* reach.c - see reach.h. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/os.h"
#include "sendmail/reach.h"

static int
set_wait(int fd, time_t seconds)
{
	const struct timeval wait = { .tv_sec = seconds };

	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) < 0)
		return -errno;
	return 0;
}

/* Where a full backlog makes connect() wait, the end of the wait has a name for each family. */
static int
connect_within(int fd, const struct sockaddr *sa, socklen_t len)
{
	int r = set_wait(fd, REACH_GREETING_WAIT_S);

	if (r == 0 && connect(fd, sa, len) < 0)
		r = errno == EAGAIN || errno == EINPROGRESS ? -ETIMEDOUT : -errno;
	return r == 0 ? set_wait(fd, REACH_WAIT_S) : r;
}

static int
connect_to(const struct sockaddr *sa, socklen_t len)
{
	const int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int r;

	if (fd < 0)
		return -errno;
	r = connect_within(fd, sa, len);
	if (r < 0) {
		close(fd);
		return r;
	}
	return fd;
}

static int
connect_unix(const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(sun.sun_path))
		return -ENAMETOOLONG;
	memcpy(sun.sun_path, path, strlen(path) + 1);
	return connect_to((const struct sockaddr *)&sun, sizeof(sun));
}

/* "127.0.0.1:25" or "[::1]:25". Loopback only: nobody can be made to send mail elsewhere. */
static int
connect_loopback(const char *where)
{
	const char *colon = strrchr(where, ':');
	struct sockaddr_in sin = { .sin_family = AF_INET };
	struct sockaddr_in6 sin6 = { .sin6_family = AF_INET6 };
	char host[64];
	char *end;
	unsigned long port;

	if (colon == NULL || (size_t)(colon - where) >= sizeof(host))
		return -EINVAL;
	memcpy(host, where, (size_t)(colon - where));
	host[colon - where] = '\0';
	port = strtoul(colon + 1, &end, 10);
	if (*end != '\0' || port == 0 || port > 65535)
		return -EINVAL;
	if (strcmp(host, "[::1]") == 0) {
		sin6.sin6_addr = in6addr_loopback;
		sin6.sin6_port = htons((uint16_t)port);
		return connect_to((const struct sockaddr *)&sin6, sizeof(sin6));
	}
	if (inet_pton(AF_INET, host, &sin.sin_addr) != 1 || ntohl(sin.sin_addr.s_addr) >> 24 != 127)
		return -EINVAL;
	sin.sin_port = htons((uint16_t)port);
	return connect_to((const struct sockaddr *)&sin, sizeof(sin));
}

bool
reach_is_loopback(const char *where)
{
	return strncmp(where, "127.", 4) == 0 || strncmp(where, "[::1]:", 6) == 0;
}

static int
reach_named(const char *where, struct reach *out)
{
	const int fd = where[0] == '/' ? connect_unix(where) : connect_loopback(where);

	if (fd < 0) {
		fprintf(stderr, "relayd-sendmail: cannot reach relayd at %s: %s\n", where,
		    fd == -EINVAL ? "not a path nor a loopback address with a port"
		                  : strerror(-fd));
		return fd;
	}
	*out = (struct reach){ .fd = fd };
	snprintf(out->where, sizeof(out->where), "%s", where);
	return 0;
}

static int
reach_usual(const char *socket_path, const char *loopback, struct reach *out)
{
	const int r = connect_unix(socket_path);
	int fd;

	if (r >= 0) {
		*out = (struct reach){ .fd = r };
		snprintf(out->where, sizeof(out->where), "%s", socket_path);
		return 0;
	}
	if (r == -ETIMEDOUT) { /* relayd's socket is there: what has the port would not help */
		fprintf(stderr, "relayd-sendmail: cannot reach relayd: %s: %s; " REACH_ADVICE "\n",
		    socket_path, strerror(-r));
		return r;
	}
	fd = connect_loopback(loopback);
	if (fd < 0) {
		fprintf(stderr,
		    "relayd-sendmail: cannot reach relayd: %s: %s; %s: %s; " REACH_ADVICE "\n",
		    socket_path, strerror(-r), loopback, strerror(-fd));
		return fd;
	}
	*out = (struct reach){ .fd = fd, .is_guess = true };
	snprintf(
	    out->where, sizeof(out->where), "%s (%s: %s)", loopback, socket_path, strerror(-r));
	return 0;
}

int
reach_relayd(const char *where, const char *socket_path, const char *loopback, struct reach *out)
{
	const uint64_t begin_ms = os_boot_ms();
	const int r =
	    where != NULL ? reach_named(where, out) : reach_usual(socket_path, loopback, out);
	const uint64_t took_s = (os_boot_ms() - begin_ms) / 1000;

	if (r == 0 && took_s < REACH_GREETING_WAIT_S)
		out->greeting_wait_s = REACH_GREETING_WAIT_S - (unsigned)took_s;
	return r;
}
