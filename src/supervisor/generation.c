/* generation.c - see generation.h. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "supervisor/generation.h"

struct generation *
generation_create(struct config *config, struct listeners *listeners)
{
	struct generation *g = xcalloc(1, sizeof(*g));
	FILE *out;

	g->references = 1;
	g->config = config;
	g->listeners = listeners;
	out = open_memstream(&g->text, &g->text_len);
	if (out == NULL || config_print(config, out, false) < 0 || fclose(out) != 0) {
		fputs("out of memory; exiting to be started again\n", stderr);
		exit(71); /* EX_OSERR, as xcalloc() does */
	}
	return g;
}

struct generation *
generation_hold(struct generation *g)
{
	g->references++;
	return g;
}

void
generation_release(struct generation *g)
{
	if (g == NULL)
		return;
	assert(g->references > 0);
	if (--g->references > 0)
		return;
	listeners_close(g->listeners, NULL);
	config_free(g->config);
	free(g->text);
	free(g);
}

int
generation_config_fd(const struct generation *g)
{
	int r, fd = memfd_create("relayd.conf", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	size_t done = 0;

	if (fd < 0)
		return -errno;
	while (done < g->text_len) {
		ssize_t n = pwrite(fd, g->text + done, g->text_len - done, (off_t)done);

		if (n <= 0) {
			r = n < 0 ? -errno : -EIO;
			goto fail;
		}
		done += (size_t)n;
	}
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0) {
		r = -errno;
		goto fail;
	}
	return fd;
fail:
	close(fd);
	return r;
}
