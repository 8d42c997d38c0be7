/* cgroup_search.h - which cgroup a process is in where /proc hides it from us (relayd.service has
 * ProtectProc=invisible): looks for its number in the lists that the cgroups keep. Some 10 us for
 * each cgroup of the machine. */
#ifndef RELAYD_INTAKE_CGROUP_SEARCH_H
#define RELAYD_INTAKE_CGROUP_SEARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Is it in the cgroup at `path` below the hierarchy's root? */
bool cgroup_search_has(const char *root, const char *path, pid_t pid);
/* Writes the path below `root`, as /proc/PID/cgroup has it but without the first slash. false: not
 * found, *path is undefined. */
bool cgroup_search(const char *root, pid_t pid, char *path, size_t size);

#endif
