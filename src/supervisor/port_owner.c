/* port_owner.c - see port_owner.h. Reads /proc/net/tcp{,6} for the socket's inode, then looks for the
 * process that has it open. */
#include <dirent.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/port_owner.h"

#define TCP_STATE_LISTEN 0x0a

static bool
find_inode(const char *table, unsigned port, uint64_t *inode)
{
	char line[512];
	bool found = false;
	FILE *in = fopen(table, "re");

	if (in == NULL)
		return false;
	while (!found && fgets(line, sizeof(line), in) != NULL) {
		unsigned local_port, state;

		/* sl local rem st tx:rx tr:when retrnsmt uid timeout inode */
		if (sscanf(line,
		        " %*u: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*s %*s %*s %*u %*u %" SCNu64,
		        &local_port, &state, inode) == 3)
			found = local_port == port && state == TCP_STATE_LISTEN && *inode != 0;
	}
	fclose(in);
	return found;
}

static bool
find_listener(unsigned port, uint64_t *inode)
{
	return find_inode("/proc/net/tcp", port, inode) ||
	       find_inode("/proc/net/tcp6", port, inode);
}

bool
port_owner_is_there(unsigned port)
{
	uint64_t inode;

	return find_listener(port, &inode);
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
port_owner_find(unsigned port, char *out, size_t size)
{
	uint64_t inode = 0;
	bool found = false;
	struct dirent *entry;
	DIR *proc;

	if (!find_listener(port, &inode))
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
