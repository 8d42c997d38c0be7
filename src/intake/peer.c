/* peer.c - see peer.h. Costs at accept: about 20 us for TCP, 5 us for unix; a cgroup's name is
 * looked up once and remembered. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/magic.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/os.h"
#include "intake/cgroup_search.h"
#include "intake/peer.h"

#define CGROUPS_MAX 8192 /* remembered; a machine that makes more of them starts over */
#define UNITS_MAX 4096   /* names kept for the life of the process */
#define DEPTH_MAX 16     /* of the walk */
/* An unknown cgroup or process makes us look through all cgroups. Whoever makes new ones all the time
 * gets a twentieth of our time for that: after each look we rest for so many times what it took. */
#define REST 20
#define UNIT_NAME_MAX 256

struct unit {
	UT_hash_handle hh;
	char name[];
};

struct cgroup {
	uint64_t id;
	const char *unit;
	UT_hash_handle hh;
};

struct peer_finder {
	int netlink_fd; /* -1: cannot ask */
	uint32_t sequence;
	const char *root; /* of the cgroup2 hierarchy; NULL: there is none */
	struct cgroup *cgroups;
	struct unit *units;
	unsigned n_units;
	uint64_t rests_until_us;
	char hidden_path[1024]; /* of the cgroup that the last hidden process was found in */
};

static const char *
find_cgroup_root(void)
{
	static const char *const roots[] = { "/sys/fs/cgroup", "/sys/fs/cgroup/unified" };
	struct statfs fs;

	for (size_t i = 0; i < ARRAY_LEN(roots); i++)
		if (statfs(roots[i], &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC)
			return roots[i];
	return NULL;
}

struct peer_finder *
peer_finder_open(void)
{
	struct peer_finder *finder = xcalloc(1, sizeof(*finder));

	finder->netlink_fd =
	    socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
	finder->root = find_cgroup_root();
	return finder;
}

const char *
peer_finder_lacks(const struct peer_finder *finder)
{
	if (finder->netlink_fd < 0)
		return "NETLINK_SOCK_DIAG cannot be opened: no uid and no unit of TCP clients";
	if (finder->root == NULL)
		return "no cgroup2 below /sys/fs/cgroup: no unit of TCP clients";
	return NULL;
}

void
peer_finder_close(struct peer_finder *finder)
{
	struct cgroup *cgroup, *next_cgroup;
	struct unit *unit, *next_unit;

	if (finder == NULL)
		return;
	HASH_ITER(hh, finder->cgroups, cgroup, next_cgroup)
	{
		HASH_DEL(finder->cgroups, cgroup);
		free(cgroup);
	}
	HASH_ITER(hh, finder->units, unit, next_unit)
	{
		HASH_DEL(finder->units, unit);
		free(unit);
	}
	if (finder->netlink_fd >= 0)
		close(finder->netlink_fd);
	free(finder);
}

static bool
is_unit_name(const char *name, size_t len)
{
	static const char *const suffixes[] = { ".service", ".scope", ".socket", ".mount",
		".swap" };

	for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
		size_t n = strlen(suffixes[i]);

		if (len > n && memcmp(name + len - n, suffixes[i], n) == 0)
			return true;
	}
	return false;
}

bool
peer_unit_of_path(const char *path, char *out, size_t size)
{
	while (*path != '\0') {
		size_t len = strcspn(path, "/");

		if (len < size && is_unit_name(path, len)) {
			memcpy(out, path, len);
			out[len] = '\0';
			return true;
		}
		path += len + (path[len] == '/' ? 1 : 0);
	}
	out[0] = '\0';
	return false;
}

/* One copy of each name, kept: sessions and messages point to it. */
static const char *
intern(struct peer_finder *finder, const char *name)
{
	size_t len = strlen(name);
	struct unit *unit;

	if (len == 0)
		return "";
	HASH_FIND(hh, finder->units, name, len, unit);
	if (unit != NULL)
		return unit->name;
	if (finder->n_units >= UNITS_MAX)
		return "";
	unit = xcalloc(1, sizeof(*unit) + len + 1);
	memcpy(unit->name, name, len);
	HASH_ADD_KEYPTR(hh, finder->units, unit->name, len, unit);
	finder->n_units++;
	return unit->name;
}

static void
remember(struct peer_finder *finder, uint64_t id, const char *unit)
{
	struct cgroup *cgroup;

	HASH_FIND(hh, finder->cgroups, &id, sizeof(id), cgroup);
	if (cgroup == NULL) {
		if (HASH_COUNT(finder->cgroups) >= CGROUPS_MAX)
			return;
		cgroup = xcalloc(1, sizeof(*cgroup));
		cgroup->id = id;
		HASH_ADD(hh, finder->cgroups, id, sizeof(cgroup->id), cgroup);
	}
	cgroup->unit = unit;
}

/* Below a directory that is a unit, everything is that unit's. */
static void
walk(struct peer_finder *finder, int directory_fd, const char *unit, unsigned depth)
{
	DIR *dir = fdopendir(directory_fd);
	struct dirent *entry;

	if (dir == NULL) {
		close(directory_fd);
		return;
	}
	while ((entry = readdir(dir)) != NULL) {
		const char *below = unit;
		int fd;

		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		if (unit[0] == '\0' && is_unit_name(entry->d_name, strlen(entry->d_name)))
			below = intern(finder, entry->d_name);
		remember(finder, entry->d_ino, below);
		if (depth >= DEPTH_MAX)
			continue;
		fd = openat(
		    dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0)
			walk(finder, fd, below, depth + 1);
	}
	closedir(dir);
}

static void
forget_cgroups(struct peer_finder *finder)
{
	struct cgroup *cgroup, *next;

	HASH_ITER(hh, finder->cgroups, cgroup, next)
	{
		HASH_DEL(finder->cgroups, cgroup);
		free(cgroup);
	}
}

static bool
may_look(const struct peer_finder *finder)
{
	return finder->root != NULL && os_boot_us() >= finder->rests_until_us;
}

static void
rest(struct peer_finder *finder, uint64_t began_us)
{
	uint64_t now_us = os_boot_us();

	finder->rests_until_us = now_us + REST * (now_us - began_us);
}

static const char *
unit_of_cgroup(struct peer_finder *finder, uint64_t id)
{
	uint64_t began_us = os_boot_us();
	struct cgroup *cgroup;
	int fd;

	HASH_FIND(hh, finder->cgroups, &id, sizeof(id), cgroup);
	if (cgroup != NULL)
		return cgroup->unit;
	if (!may_look(finder))
		return "";
	if (HASH_COUNT(finder->cgroups) >= CGROUPS_MAX)
		forget_cgroups(finder);
	fd = open(finder->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0)
		walk(finder, fd, "", 0);
	rest(finder, began_us);
	HASH_FIND(hh, finder->cgroups, &id, sizeof(id), cgroup);
	if (cgroup != NULL)
		return cgroup->unit;
	remember(finder, id, ""); /* the root itself, or outside of our namespace */
	return "";
}

/* /proc hides it, as it hides other users' processes in relayd.service: look into the cgroups, first
 * where the last one was found. */
static const char *
unit_of_hidden_process(struct peer_finder *finder, pid_t pid)
{
	uint64_t began_us = os_boot_us();
	char name[UNIT_NAME_MAX];
	bool found;

	if (finder->root == NULL)
		return "";
	if (finder->hidden_path[0] == '\0' ||
	    !cgroup_search_has(finder->root, finder->hidden_path, pid)) {
		if (!may_look(finder))
			return "";
		found = cgroup_search(
		    finder->root, pid, finder->hidden_path, sizeof(finder->hidden_path));
		rest(finder, began_us);
		if (!found) {
			finder->hidden_path[0] = '\0';
			return "";
		}
	}
	return peer_unit_of_path(finder->hidden_path, name, sizeof(name)) ? intern(finder, name)
	                                                                  : "";
}

/* Newer than Debian 12's headers: Linux 6.5 gives a descriptor of the process that connected, 6.13
 * tells its cgroup. */
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#define PEER_PIDFD_INFO_CGROUPID (1ull << 2)

struct peer_pidfd_info { /* struct pidfd_info, as of its first version */
	uint64_t mask, cgroup_id;
	uint32_t others[12];
};

#define PEER_PIDFD_GET_INFO _IOWR(0xff, 11, struct peer_pidfd_info)

/* No PID that somebody else may have by now, and no /proc that may hide it. False: an older kernel, or
 * the client is gone. */
static bool
find_cgroup_of_unix(int fd, uint64_t *id)
{
	struct peer_pidfd_info info = { .mask = PEER_PIDFD_INFO_CGROUPID };
	socklen_t len = sizeof(int);
	int pidfd, r;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) < 0)
		return false;
	r = ioctl(pidfd, PEER_PIDFD_GET_INFO, &info);
	close(pidfd);
	if (r < 0 || (info.mask & PEER_PIDFD_INFO_CGROUPID) == 0)
		return false;
	*id = info.cgroup_id;
	return true;
}

/* By PID, for older kernels; where /proc hides it, cgroup_search.h looks. */
static const char *
unit_of_process(struct peer_finder *finder, pid_t pid)
{
	char path[64], text[1024], name[UNIT_NAME_MAX], *line, *end;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return unit_of_hidden_process(finder, pid);
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return "";
	text[n] = '\0';
	for (line = text; line != NULL; line = end != NULL ? end + 1 : NULL) {
		end = strchr(line, '\n');
		if (end != NULL)
			*end = '\0';
		if (strncmp(line, "0::/", 4) == 0)
			return peer_unit_of_path(line + 4, name, sizeof(name))
			           ? intern(finder, name)
			           : "";
	}
	return "";
}

struct request {
	struct nlmsghdr header;
	struct inet_diag_req_v2 diag;
};

static bool
ask(struct peer_finder *finder, const struct peer *peer, const struct sockaddr *local)
{
	struct request request = {
		.header = { .nlmsg_len = sizeof(request),
		    .nlmsg_type = SOCK_DIAG_BY_FAMILY,
		    .nlmsg_flags = NLM_F_REQUEST,
		    .nlmsg_seq = ++finder->sequence },
		.diag = { .sdiag_family = (uint8_t)peer->family,
		    .sdiag_protocol = IPPROTO_TCP,
		    .idiag_states = UINT32_MAX,
		    .id = { .idiag_sport = htons(peer->port),
		        .idiag_cookie = { INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE } } },
	};
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };

	memcpy(request.diag.id.idiag_src, peer->address, sizeof(peer->address));
	if (peer->family == AF_INET) {
		const struct sockaddr_in *in = (const void *)local;

		request.diag.id.idiag_dport = in->sin_port;
		memcpy(request.diag.id.idiag_dst, &in->sin_addr, sizeof(in->sin_addr));
	} else {
		const struct sockaddr_in6 *in6 = (const void *)local;

		request.diag.id.idiag_dport = in6->sin6_port;
		memcpy(request.diag.id.idiag_dst, &in6->sin6_addr, sizeof(in6->sin6_addr));
	}
	return sendto(finder->netlink_fd, &request, sizeof(request), MSG_DONTWAIT,
	           (struct sockaddr *)&kernel, sizeof(kernel)) == (ssize_t)sizeof(request);
}

static void
take_answer(struct peer_finder *finder, struct nlmsghdr *header, struct peer *peer)
{
	struct inet_diag_msg *message = NLMSG_DATA(header);
	struct rtattr *attribute = (void *)(message + 1);
	size_t left = header->nlmsg_len - NLMSG_LENGTH(sizeof(*message));

	peer->uid = message->idiag_uid;
	for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
		uint64_t id;

		if (attribute->rta_type != INET_DIAG_CGROUP_ID ||
		    RTA_PAYLOAD(attribute) != sizeof(id))
			continue;
		memcpy(&id, RTA_DATA(attribute), sizeof(id));
		peer->unit = unit_of_cgroup(finder, id);
	}
}

/* The kernel answers inside sendto(), so that the answer is there or never comes. */
static void
read_answer(struct peer_finder *finder, struct peer *peer)
{
	union {
		struct nlmsghdr header;
		char bytes[4096];
	} answer;
	ssize_t n;

	while ((n = recv(finder->netlink_fd, &answer, sizeof(answer), MSG_DONTWAIT)) > 0) {
		if (!NLMSG_OK(&answer.header, (size_t)n) ||
		    answer.header.nlmsg_seq != finder->sequence)
			continue; /* an older one that nobody waited for */
		if (answer.header.nlmsg_type == SOCK_DIAG_BY_FAMILY &&
		    answer.header.nlmsg_len >= NLMSG_LENGTH(sizeof(struct inet_diag_msg)))
			take_answer(finder, &answer.header, peer);
		return;
	}
}

static bool
is_of_this_host(const struct peer *peer, const struct sockaddr *local)
{
	static const uint8_t loopback6[16] = { [15] = 1 };

	if (peer->family == AF_INET)
		return peer->address[0] == 127 ||
		       memcmp(peer->address,
		           &((const struct sockaddr_in *)(const void *)local)->sin_addr, 4) == 0;
	return memcmp(peer->address, loopback6, 16) == 0 ||
	       memcmp(peer->address, &((const struct sockaddr_in6 *)(const void *)local)->sin6_addr,
	           16) == 0;
}

/* A v4-mapped address is an IPv4 address, on both ends. */
static void
unmap(struct sockaddr_storage *sa)
{
	const struct sockaddr_in6 in6 = *(const struct sockaddr_in6 *)(const void *)sa;
	struct sockaddr_in *in = (void *)sa;

	if (sa->ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr))
		return;
	memset(sa, 0, sizeof(*sa));
	in->sin_family = AF_INET;
	in->sin_port = in6.sin6_port;
	memcpy(&in->sin_addr, &in6.sin6_addr.s6_addr[12], 4);
}

static void
find_unix(struct peer_finder *finder, int fd, struct peer *out)
{
	struct ucred credentials;
	socklen_t len = sizeof(credentials);
	uint64_t id;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &len) < 0)
		return;
	out->uid = credentials.uid;
	if (finder->root != NULL && find_cgroup_of_unix(fd, &id))
		out->unit = unit_of_cgroup(finder, id);
	else if (credentials.pid > 0)
		out->unit = unit_of_process(finder, credentials.pid);
}

void
peer_find(struct peer_finder *finder, int fd, const struct sockaddr *sa, struct peer *out)
{
	struct sockaddr_storage remote = { 0 }, local = { 0 };
	socklen_t len = sizeof(local);

	*out = (struct peer){ .family = sa->sa_family, .uid = PEER_UID_UNKNOWN, .unit = "" };
	if (sa->sa_family != AF_INET && sa->sa_family != AF_INET6) {
		out->family = AF_UNIX;
		find_unix(finder, fd, out);
		return;
	}
	memcpy(&remote, sa,
	    sa->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
	unmap(&remote);
	out->family = remote.ss_family;
	if (remote.ss_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)&remote;

		out->port = ntohs(in->sin_port);
		memcpy(out->address, &in->sin_addr, 4);
	} else {
		const struct sockaddr_in6 *in6 = (const void *)&remote;

		out->port = ntohs(in6->sin6_port);
		memcpy(out->address, &in6->sin6_addr, 16);
	}
	if (finder->netlink_fd < 0 || getsockname(fd, (struct sockaddr *)&local, &len) < 0)
		return;
	unmap(&local);
	if (local.ss_family == out->family &&
	    is_of_this_host(out, (const struct sockaddr *)&local) &&
	    ask(finder, out, (const struct sockaddr *)&local))
		read_answer(finder, out);
}

void
peer_print(const struct peer *peer, char out[PEER_TEXT_MAX])
{
	if (peer->family == AF_UNIX && peer->uid != PEER_UID_UNKNOWN)
		snprintf(out, PEER_TEXT_MAX, "uid %u", (unsigned)peer->uid);
	else if (peer->family == AF_UNIX ||
	         inet_ntop(peer->family, peer->address, out, PEER_TEXT_MAX) == NULL)
		snprintf(out, PEER_TEXT_MAX, "unix");
}
