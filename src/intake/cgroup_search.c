/* cgroup_search.c - see cgroup_search.h. */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "intake/cgroup_search.h"

#define DEPTH_MAX 16
#define PROCESSES_MAX_BYTES (1 << 18) /* of one cgroup's list that are looked at */

/* The list holds a number a line; `pid` was found as a whole line. */
static bool
lists(int fd, pid_t pid)
{
	char text[4096 + 1], wanted[16];
	size_t kept = 0, total = 0;
	ssize_t n;

	snprintf(wanted, sizeof(wanted), "%d", (int)pid);
	while (total < PROCESSES_MAX_BYTES &&
	       (n = read(fd, text + kept, sizeof(text) - 1 - kept)) > 0) {
		char *line = text, *end;

		total += (size_t)n;
		text[kept + (size_t)n] = '\0';
		while ((end = strchr(line, '\n')) != NULL) {
			*end = '\0';
			if (strcmp(line, wanted) == 0)
				return true;
			line = end + 1;
		}
		kept = strlen(line);
		if (kept == sizeof(text) - 1)
			return false; /* no list of numbers */
		memmove(text, line, kept);
	}
	return false;
}

static bool
has(int directory_fd, pid_t pid)
{
	int fd = openat(directory_fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
	bool found = fd >= 0 && lists(fd, pid);

	if (fd >= 0)
		close(fd);
	return found;
}

bool
cgroup_search_has(const char *root, const char *path, pid_t pid)
{
	char whole[PATH_MAX];
	bool found;
	int fd;

	if ((size_t)snprintf(whole, sizeof(whole), "%s/%s", root, path) >= sizeof(whole))
		return false;
	fd = open(whole, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	found = fd >= 0 && has(fd, pid);
	if (fd >= 0)
		close(fd);
	return found;
}

/* Takes directory_fd, which is the cgroup at path[0..len). */
static bool
search(int directory_fd, pid_t pid, char *path, size_t len, size_t size, unsigned depth)
{
	bool found = has(directory_fd, pid);
	struct dirent *entry;
	DIR *dir;

	dir = found || depth >= DEPTH_MAX ? NULL : fdopendir(directory_fd);
	if (dir == NULL) {
		close(directory_fd);
		return found;
	}
	while (!found && (entry = readdir(dir)) != NULL) {
		int fd, n;

		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		n = snprintf(path + len, size - len, "%s%s", len > 0 ? "/" : "", entry->d_name);
		fd = n > 0 && (size_t)n < size - len
		         ? openat(dirfd(dir), entry->d_name,
		               O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
		         : -1;
		if (fd >= 0)
			found = search(fd, pid, path, len + (size_t)n, size, depth + 1);
	}
	closedir(dir);
	return found;
}

bool
cgroup_search(const char *root, pid_t pid, char *path, size_t size)
{
	int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	path[0] = '\0';
	return fd >= 0 && search(fd, pid, path, 0, size, 0);
}
