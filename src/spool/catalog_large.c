/* catalog_large.c - bodies in large/ (catalog.h): each message that has one must find it, and what no message
 * names is no longer wanted, or all that is left of one. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/os.h"
#include "base/queue_id.h"
#include "spool/catalog_parts.h"
#include "spool/large.h"

static int
compare_large(const void *a, const void *b)
{
	const struct catalog_large_file *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

static int
on_large_name(void *arg, const char *name)
{
	struct catalog *c = arg;
	uint64_t id;
	int fd;

	if (!queue_id_parse(span_of(name), &id))
		return 0;
	fd = os_open(c->large_dir, name, O_RDWR | O_NONBLOCK, 0);
	if (fd < 0)
		return 0;
	/* Locked: intake is writing it. Unlocked: its record is on disk by now, or never will be. */
	if (os_is_locked(fd) == 0) {
		c->large = xrealloc(c->large, c->n_large + 1, sizeof(*c->large));
		c->large[c->n_large++] = (struct catalog_large_file){ .id = id };
	}
	os_close(fd);
	return 0;
}

void
catalog_large_sample(struct catalog *c)
{
	c->large_dir = os_open(c->options.dirfd, "large", O_RDONLY | O_DIRECTORY, 0);
	if (c->large_dir < 0)
		return;
	if (os_list(c->large_dir, on_large_name, c) < 0)
		c->n_large = 0; /* sweep nothing then */
	if (c->n_large > 1)
		qsort(c->large, c->n_large, sizeof(*c->large), compare_large);
}

void
catalog_large_sweep(struct catalog *c)
{
	char name[LARGE_NAME_MAX], to[LARGE_NAME_MAX + sizeof("quarantine/large.")];
	char id[QUEUE_ID_LEN + 1];

	for (size_t i = 0; i < c->n_large; i++) {
		if (c->large[i].is_named)
			continue;
		large_name(c->large[i].id, name);
		if (c->sum.corrupt_ranges == 0 || journal_index_is_done(c->index, c->large[i].id)) {
			(void)os_unlink(c->options.dirfd, name);
			continue;
		}
		queue_id_print(c->large[i].id, id);
		snprintf(to, sizeof(to), "quarantine/large.%s", id);
		if (os_rename(c->options.dirfd, name, to) < 0)
			continue; /* it stays where it is: the next start tries again */
	}
}

/* The body of a large message must be there, and as long as its envelope says. */
void
catalog_large_check(struct catalog *c, const struct envelope *e)
{
	struct catalog_large_file key = { .id = e->id }, *file = NULL;
	struct spool_damage damage = { .range = SPOOL_RANGE_CORRUPT, .id = e->id };
	struct spool_body *body;
	int r;

	if (c->n_large > 0)
		file = bsearch(&key, c->large, c->n_large, sizeof(key), compare_large);
	if (file != NULL)
		file->is_named = true;
	r = spool_store_body(c->store, (struct spool_location){ 0 }, e, &body);
	if (r == 0) {
		spool_body_close(body);
		return;
	}
	large_name(e->id, damage.file);
	damage.length_bytes = e->body_bytes;
	damage.error = -r;
	c->sum.corrupt_ranges++;
	c->is_unreadable |= r != -ENOENT && r != -EBADMSG;
	if (c->options.damage != NULL)
		c->options.damage(c->options.arg, &damage);
}

void
catalog_large_fini(struct catalog *c)
{
	if (c->large_dir >= 0)
		os_close(c->large_dir);
	c->large_dir = -1;
	free(c->large);
	c->large = NULL;
	c->n_large = 0;
}
