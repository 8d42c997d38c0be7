/* port_owner.c - see port_owner.h. Reads /proc/self/net/tcp{,6} for the socket's inode, then looks for the
 * process that has it open. Not /proc/net: that leads to the same, but is hidden where relayd.service
 * shows processes alone (ProcSubset=pid). */
#include <dirent.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/netaddr.h"
#include "supervisor/port_owner.h"

#define TCP_STATE_LISTEN 0x0a
#define WORD_DIGITS 8 /* the kernel prints an address as words of the machine */

static void
read_address(const char *hex, unsigned port, struct sockaddr_storage *out)
{
	struct sockaddr_in *in = (void *)out;
	struct sockaddr_in6 *in6 = (void *)out;
	uint32_t words[4] = { 0 };

	for (size_t i = 0; i < 4 && strlen(hex) >= (i + 1) * WORD_DIGITS; i++)
		(void)sscanf(hex + i * WORD_DIGITS, "%8" SCNx32, &words[i]);
	memset(out, 0, sizeof(*out));
	if (strlen(hex) == WORD_DIGITS) {
		in->sin_family = AF_INET;
		in->sin_port = htons((uint16_t)port);
		memcpy(&in->sin_addr, words, sizeof(in->sin_addr));
	} else {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons((uint16_t)port);
		memcpy(&in6->sin6_addr, words, sizeof(in6->sin6_addr));
	}
}

/* A listener at [::] has IPv4 too, unless it was asked not to; the table does not tell. */
static bool
is_in_the_way(const struct sockaddr_storage *there, const struct sockaddr_storage *wanted)
{
	const struct sockaddr_in6 *there6 = (const void *)there;
	const struct sockaddr_in *wanted4 = (const void *)wanted;

	if (there->ss_family == AF_INET6 && wanted->ss_family == AF_INET)
		return there6->sin6_port == wanted4->sin_port &&
		       IN6_IS_ADDR_UNSPECIFIED(&there6->sin6_addr);
	return netaddr_collide(there, wanted);
}

static bool
find_inode(const char *table, const struct sockaddr_storage *wanted, uint64_t *inode)
{
	char line[512];
	bool found = false;
	FILE *in = fopen(table, "re");

	if (in == NULL)
		return false;
	while (!found && fgets(line, sizeof(line), in) != NULL) {
		struct sockaddr_storage there;
		unsigned port, state;
		char address[33];

		/* sl local rem st tx:rx tr:when retrnsmt uid timeout inode */
		if (sscanf(line,
		        " %*u: %32[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*s %*s %*s %*u %*u %" SCNu64,
		        address, &port, &state, inode) != 4 ||
		    state != TCP_STATE_LISTEN || *inode == 0)
			continue;
		read_address(address, port, &there);
		found = is_in_the_way(&there, wanted);
	}
	fclose(in);
	return found;
}

static bool
find_listener(const struct sockaddr_storage *wanted, uint64_t *inode)
{
	return find_inode("/proc/self/net/tcp", wanted, inode) ||
	       find_inode("/proc/self/net/tcp6", wanted, inode);
}

bool
port_owner_is_there(const struct sockaddr_storage *sa)
{
	uint64_t inode;

	return find_listener(sa, &inode);
}

static bool
has_open(const char *pid, uint64_t inode)
{
	char path[300], wanted[64], target[64];
	bool found = false;
	struct dirent *entry;
	DIR *dir;

	snprintf(wanted, sizeof(wanted), "socket:[%" PRIu64 "]", inode);
	snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
	dir = opendir(path);
	if (dir == NULL)
		return false;
	while (!found && (entry = readdir(dir)) != NULL) {
		ssize_t len = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

		if (len > 0) {
			target[len] = '\0';
			found = strcmp(target, wanted) == 0;
		}
	}
	closedir(dir);
	return found;
}

static void
describe(const char *pid, char *out, size_t size)
{
	char path[64], name[64] = "?";
	FILE *in;

	snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
	in = fopen(path, "re");
	if (in != NULL) {
		if (fgets(name, sizeof(name), in) != NULL)
			name[strcspn(name, "\n")] = '\0';
		fclose(in);
	}
	snprintf(out, size, "%s (pid %.20s)", name, pid);
}

bool
port_owner_find(const struct sockaddr_storage *sa, char *out, size_t size)
{
	uint64_t inode = 0;
	bool found = false;
	struct dirent *entry;
	DIR *proc;

	if (!find_listener(sa, &inode))
		return false;
	proc = opendir("/proc");
	if (proc == NULL)
		return false;
	while (!found && (entry = readdir(proc)) != NULL) {
		if (entry->d_name[0] < '1' || entry->d_name[0] > '9')
			continue;
		found = has_open(entry->d_name, inode);
		if (found)
			describe(entry->d_name, out, size);
	}
	closedir(proc);
	return found;
}
