/* figures.h - what a test did, in numbers: for its own last lines, and for the table with which `make
 * check-faults` ends (tests/faults/figures.py reads the same file). And which form of a test is to be
 * run: the short one of `make check`, or the long one. */
#ifndef RELAYD_TESTS_FIGURES_H
#define RELAYD_TESTS_FIGURES_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* RELAYD_LONG is set (and not to 0): all that there is time for, instead of a choice. */
static inline bool
fault_is_long(void)
{
	const char *value = getenv("RELAYD_LONG");

	return value != NULL && *value != '\0' && strcmp(value, "0") != 0;
}

/* Prints a figure and, if RELAYD_FIGURES names a file, adds a line to it: {"test", "row", "figures"}.
 * `test` and `name` are literals without quotes; `row` is one of the fault matrix, or several with commas. */
static inline void
fault_figures(const char *test, const char *row, const char *name, unsigned long n)
{
	const char *path = getenv("RELAYD_FIGURES");
	char line[256];
	int fd, len;

	printf("%s: row %s: %s: %lu\n", test, row, name, n);
	fflush(stdout);
	if (path == NULL || *path == '\0')
		return;
	len = snprintf(line, sizeof(line),
	    "{\"test\": \"%s\", \"row\": \"%s\", \"figures\": {\"%s\": %lu}}\n", test, row, name,
	    n);
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
	/* one write, so that programs that run at the same time do not mix their lines */
	if (fd < 0 || write(fd, line, (size_t)len) != len)
		fprintf(stderr, "%s: cannot add to %s\n", test, path);
	if (fd >= 0)
		close(fd);
}

#endif
