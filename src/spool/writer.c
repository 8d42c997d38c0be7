/* writer.c - the caller's thread: see writer.h. Two more are behind it: the committer writes and syncs groups; the
 * preparer makes the next file while the committer works, and brings full files to their end. Each file is written by
 * one of them at a time. */
#include <assert.h>
#include <signal.h>
#include <stdlib.h>

#include "base/queue_id.h"
#include "spool/journal_compact.h"
#include "spool/writer_parts.h"

#define SEGMENT_BYTES_DEFAULT (16u << 20)
#define ROOM_AGE_MS 1000u

static int
start_threads(struct spool_writer *w)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&w->committer, NULL, writer_commit_run, w);
	if (r == 0) {
		r = pthread_create(&w->preparer, NULL, writer_file_prepare, w);
		if (r != 0) {
			pthread_mutex_lock(&w->lock);
			w->stop = true;
			pthread_cond_broadcast(&w->work);
			pthread_mutex_unlock(&w->lock);
			pthread_join(w->committer, NULL);
		}
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

static void
writer_free(struct spool_writer *w)
{
	while (w->reports != NULL) {
		struct writer_report *node = w->reports;

		w->reports = node->next;
		free(node);
	}
	if (w->event_fd >= 0)
		os_close(w->event_fd);
	pthread_cond_destroy(&w->prepare);
	pthread_cond_destroy(&w->work);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

static struct spool_writer *
writer_new(const struct spool_writer_options *options)
{
	struct spool_writer *w = xcalloc(1, sizeof(*w));

	w->options = *options;
	if (w->options.segment_bytes == 0)
		w->options.segment_bytes = SEGMENT_BYTES_DEFAULT;
	if (w->options.segment_bytes < SEGMENT_BYTES_LEAST)
		w->options.segment_bytes = SEGMENT_BYTES_LEAST;
	if (w->options.segment_bytes > SEGMENT_BYTES_MOST)
		w->options.segment_bytes = SEGMENT_BYTES_MOST;
	w->options.segment_bytes -= w->options.segment_bytes % RECORD_BLOCK;
	w->current.fd = w->spare.fd = w->ending.fd = w->event_fd = -1;
	item_list_init(&w->submitted);
	item_list_init(&w->finished);
	w->reports_tail = &w->reports;
	w->spare_wanted = true;
	atomic_store(&w->next_id, QUEUE_ID_SEQUENCE_MAX); /* none */
	pthread_mutex_init(&w->lock, NULL);
	os_condition_init(&w->work);
	os_condition_init(&w->prepare);
	return w;
}

int
spool_writer_open(const struct spool_writer_options *options, struct spool_writer **out)
{
	struct spool_writer *w = writer_new(options);
	int r;

	r = w->event_fd = os_event_open();
	if (r < 0)
		goto fail;
	r = writer_file_open_first(w);
	if (r < 0)
		goto fail;
	if (w->options.kind == SEGMENT_JOURNAL)
		w->journal_bytes = journal_bytes_on_disk(w->options.dirfd);
	r = start_threads(w);
	if (r < 0) {
		if (writer_file_is_open(&w->current))
			writer_file_seal(w, &w->current);
		goto fail;
	}
	*out = w;
	return 0;
fail:
	writer_free(w);
	return r;
}

void
spool_writer_close(struct spool_writer *w)
{
	if (w == NULL)
		return;
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_broadcast(&w->work);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->committer, NULL);
	pthread_mutex_lock(&w->lock);
	w->stop_preparer = true;
	w->spare_wanted = false;
	pthread_cond_broadcast(&w->prepare);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->preparer, NULL);
	writer_file_close_all(w);
	spool_writer_dispatch(w);
	writer_free(w);
}

int
spool_writer_fd(const struct spool_writer *w)
{
	return w->event_fd;
}

void
spool_writer_dispatch(struct spool_writer *w)
{
	struct writer_report *reports;
	struct spool_item *item;
	struct item_list done;

	os_event_clear(w->event_fd);
	pthread_mutex_lock(&w->lock);
	done = w->finished;
	if (done.head == NULL)
		item_list_init(&done);
	item_list_init(&w->finished);
	reports = w->reports;
	w->reports = NULL;
	w->reports_tail = &w->reports;
	pthread_mutex_unlock(&w->lock);
	while (reports != NULL) {
		struct writer_report *node = reports;

		reports = node->next;
		if (w->options.report != NULL)
			w->options.report(w->options.report_arg, &node->report);
		free(node);
	}
	while ((item = item_list_take(&done)) != NULL)
		item->done(item, item->arg);
}

/* Who sends fast would use up min-free and more before anybody looks again. */
static void
note_room_taken(struct spool_writer *w, const struct spool_item *item)
{
	uint64_t bytes =
	    spool_item_bytes(item) + (item->large != NULL ? large_bytes(item->large) : 0);

	w->room.free_bytes -= bytes < w->room.free_bytes ? bytes : w->room.free_bytes;
}

void
spool_writer_submit(struct spool_writer *w, struct spool_item *item)
{
	note_room_taken(w, item);
	item->submitted_ms = os_boot_ms();
	pthread_mutex_lock(&w->lock);
	assert(!w->stop);
	item_list_add(&w->submitted, item);
	w->n_submitted++;
	if (w->n_submitted >= w->wanted)
		pthread_cond_broadcast(&w->work);
	pthread_mutex_unlock(&w->lock);
}

bool
spool_writer_is_failed(const struct spool_writer *w)
{
	return atomic_load(&w->failed);
}

uint64_t
spool_writer_waiting_ms(struct spool_writer *w)
{
	uint64_t since_ms, now_ms = os_boot_ms();

	pthread_mutex_lock(&w->lock);
	since_ms = w->oldest_ms;
	if (since_ms == 0 && w->submitted.head != NULL)
		since_ms = w->submitted.head->submitted_ms;
	pthread_mutex_unlock(&w->lock);
	return since_ms == 0 || now_ms < since_ms ? 0 : now_ms - since_ms;
}

uint64_t
spool_writer_next_id(struct spool_writer *w)
{
	uint64_t id = atomic_load(&w->next_id);

	do {
		if ((id & QUEUE_ID_SEQUENCE_MAX) == QUEUE_ID_SEQUENCE_MAX)
			return 0;
	} while (!atomic_compare_exchange_weak(&w->next_id, &id, id + 1));
	if ((id & QUEUE_ID_SEQUENCE_MAX) == WRITER_IDS_LOW) {
		pthread_mutex_lock(&w->lock);
		pthread_cond_broadcast(&w->work);
		pthread_mutex_unlock(&w->lock);
	}
	return id;
}

int
spool_writer_room(struct spool_writer *w, struct os_room *out)
{
	uint64_t now_ms = os_boot_ms();

	if (w->room_ms == 0 || now_ms - w->room_ms >= ROOM_AGE_MS) {
		w->room_error = os_room(w->options.dirfd, &w->room);
		w->room_ms = now_ms;
	}
	if (w->room_error < 0)
		return w->room_error;
	*out = w->room;
	return 0;
}
