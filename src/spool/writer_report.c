/* writer_report.c - what the log is to hear of a writer's threads waits here for the caller's thread (writer.h). */
#include "spool/writer_parts.h"

void
writer_report_locked(struct spool_writer *w, const struct spool_report *report)
{
	struct writer_report *node = xcalloc(1, sizeof(*node));

	node->report = *report;
	*w->reports_tail = node;
	w->reports_tail = &node->next;
	os_event_set(w->event_fd);
}

void
writer_report(struct spool_writer *w, const struct spool_report *what)
{
	pthread_mutex_lock(&w->lock);
	writer_report_locked(w, what);
	pthread_mutex_unlock(&w->lock);
}

void
writer_report_failure(struct spool_writer *w, const struct spool_file *f, const struct group *g,
    const char *operation, unsigned revoked, unsigned unknown)
{
	struct spool_report what = { .kind = SPOOL_REPORT_FAILED,
		.error = -g->error,
		.operation = operation,
		.offset = g->error_offset,
		.revoked = revoked,
		.unknown = unknown };

	segment_name(w->options.kind, f->header.number, what.file);
	writer_report(w, &what);
}
