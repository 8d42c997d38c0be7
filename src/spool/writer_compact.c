/* writer_compact.c - compaction of the journal: everything that lives goes into new files, then the old ones go.
 * Records are gathered, so that this is not one sync for each. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "spool/journal_compact.h"
#include "spool/writer_parts.h"

#define COMPACTION_GROUP_BYTES (512u << 10)

struct compaction {
	struct spool_writer *w;
	struct item_list items;
	uint64_t bytes;
};

static void
compaction_forget(struct compaction *c)
{
	struct spool_item *item;

	while ((item = item_list_take(&c->items)) != NULL)
		free(item);
	c->bytes = 0;
}

static int
compaction_flush(struct compaction *c)
{
	int r = 0;

	if (c->items.head == NULL)
		return 0;
	if (!group_fits(&c->w->current, c->bytes)) {
		writer_file_end_current(c->w);
		if (!writer_file_take_next(c->w))
			r = -EIO;
	}
	if (r == 0)
		r = group_fits(&c->w->current, c->bytes)
		        ? writer_file_write(c->w, &c->items, c->bytes)
		        : -EMSGSIZE;
	compaction_forget(c);
	return r;
}

static int
compaction_write(void *arg, uint8_t type, const void *payload, size_t len)
{
	struct compaction *c = arg;
	struct spool_item *item;
	int r = 0;

	if (type == RECORD_SNAPSHOT)
		return group_commit_single(
		    &c->w->group, &c->w->current, type, 0, payload, (uint32_t)len);
	if (payload == NULL || c->bytes + record_bytes((uint32_t)len) > COMPACTION_GROUP_BYTES)
		r = compaction_flush(c);
	if (payload == NULL || r < 0)
		return r;
	item = xcalloc(1, sizeof(*item) + len);
	memcpy(item + 1, payload, len);
	spool_item_outcome(item, (struct span){ (char *)(item + 1), len });
	item_list_add(&c->items, item);
	c->bytes += spool_item_bytes(item);
	return 0;
}

void
writer_compact_if_due(struct spool_writer *w)
{
	struct spool_report what = { .kind = SPOOL_REPORT_COMPACTED, .operation = "compact" };
	struct compaction compaction = { .w = w };
	uint64_t before = w->journal_bytes;
	uint32_t first;
	int r;

	if (w->options.kind != SEGMENT_JOURNAL || !writer_file_is_open(&w->current) ||
	    before <= 4 * w->journal_live_bytes + 4 * w->options.segment_bytes)
		return;
	writer_file_end_current(w);
	if (!writer_file_take_next(w))
		return;
	first = w->current.header.number;
	what.bytes_before = before;
	item_list_init(&compaction.items);
	r = journal_compact(
	    w->options.dirfd, first, compaction_write, &compaction, &what.bytes_after);
	compaction_forget(&compaction);
	if (r < 0) {
		/* Nothing is lost: the old journals are still there. */
		w->journal_live_bytes = before; /* not again at once */
		if (w->group.error != 0 && writer_file_is_open(&w->current)) {
			writer_report_failure(w, &w->current, &w->group, "compact", 0, 0);
			writer_file_seal(w, &w->current);
		}
		return;
	}
	w->journal_live_bytes = what.bytes_after;
	w->journal_bytes = what.bytes_after + w->options.segment_bytes;
	segment_name(w->options.kind, first, what.file);
	writer_report(w, &what);
}
