/* writer_file.c - the files a writer goes through: the preparer makes the next one while the committer fills the
 * current one, and brings full ones to their end, so that no group waits for either. */
#include <errno.h>
#include <stdlib.h>

#include "base/queue_id.h"
#include "spool/writer_parts.h"

#define BACKOFF_FIRST_MS 1000u
#define BACKOFF_MOST_MS 10000u

static int
file_create(const struct spool_writer *w, struct spool_file *f)
{
	struct segment_header header;
	int fd, r;

	r = segment_create(w->options.dirfd, w->options.kind, w->options.segment_bytes,
	    w->options.page, &header, &fd);
	if (r < 0)
		return r;
	*f = (struct spool_file){ .fd = fd,
		.header = header,
		.salt = record_salt_from(header.salt),
		.bytes = segment_end(&header),
		.end = RECORD_BLOCK };
	return 0;
}

static struct shared_slot *
slot_of(const struct spool_writer *w, const struct spool_file *f)
{
	if (w->options.page == NULL || w->options.kind == SEGMENT_JOURNAL)
		return NULL;
	return shared_page_slot(w->options.page, f->header.number);
}

void
writer_file_publish(const struct spool_writer *w, const struct spool_file *f)
{
	struct shared_slot *slot = slot_of(w, f);

	if (slot != NULL)
		atomic_store(&slot->committed_bytes, f->end);
	os_event_set(w->options.wake_fd);
}

void
writer_file_seal(const struct spool_writer *w, struct spool_file *f)
{
	struct shared_slot *slot = slot_of(w, f);

	os_close(f->fd);
	f->fd = -1;
	if (slot != NULL)
		atomic_store(&slot->state, SHARED_SLOT_SEALED);
	os_event_set(w->options.wake_fd);
}

/* Marks a file as complete; that it fails costs nothing: all that was promised stands before it. */
static void
file_finish(const struct spool_writer *w, struct spool_file *f)
{
	struct group *g = os_alloc(sizeof(*g));

	if (g != NULL && group_commit_single(g, f, RECORD_CLEAN, 0, NULL, 0) == 0)
		writer_file_publish(w, f);
	free(g);
	writer_file_seal(w, f);
}

/* The preparer. */

static void
preparer_make_spare(struct spool_writer *w)
{
	struct spool_report failed = { .kind = SPOOL_REPORT_FAILED, .operation = "create" };
	struct spool_file f = { .fd = -1 };
	int r;

	pthread_mutex_unlock(&w->lock);
	r = file_create(w, &f);
	pthread_mutex_lock(&w->lock);
	if (r == 0) {
		w->spare = f;
		w->spare_error = 0;
	} else {
		if (w->spare_error == 0) { /* told only: the file before it may still have room */
			failed.error = -r;
			writer_report_locked(w, &failed);
		}
		w->spare_error = r;
		w->backoff_ms = w->backoff_ms == 0 ? BACKOFF_FIRST_MS : w->backoff_ms * 2;
		if (w->backoff_ms > BACKOFF_MOST_MS)
			w->backoff_ms = BACKOFF_MOST_MS;
	}
	pthread_cond_broadcast(&w->work);
}

void *
writer_file_prepare(void *arg)
{
	struct spool_writer *w = arg;
	uint64_t not_before_ms = 0;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		uint64_t now_ms = os_boot_ms();

		if (writer_file_is_open(&w->ending)) {
			struct spool_file f = w->ending;

			w->ending.fd = -1;
			pthread_mutex_unlock(&w->lock);
			file_finish(w, &f);
			pthread_mutex_lock(&w->lock);
			pthread_cond_broadcast(&w->work);
		} else if (w->stop_preparer) {
			break;
		} else if (!w->spare_wanted || writer_file_is_open(&w->spare)) {
			pthread_cond_wait(&w->prepare, &w->lock);
		} else if (now_ms < not_before_ms) {
			os_condition_wait(&w->prepare, &w->lock, (not_before_ms - now_ms) * 1000);
		} else {
			preparer_make_spare(w);
			not_before_ms = w->spare_error != 0 ? os_boot_ms() + w->backoff_ms : 0;
		}
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

/* The committer. */

static void
set_failed(struct spool_writer *w, int error) /* -errno; 0: it works */
{
	atomic_store(&w->failed, error < 0);
	if (w->options.page != NULL && w->options.kind == SEGMENT_INTAKE)
		atomic_store(&w->options.page->spool_failed, (uint32_t)-error);
}

/* There is no file, and none could be made. */
static void
begin_failure(struct spool_writer *w)
{
	struct spool_report down = {
		.kind = SPOOL_REPORT_DOWN, .operation = "create", .error = -w->spare_error
	};

	set_failed(w, w->spare_error);
	writer_report_locked(w, &down);
}

static void
end_failure(struct spool_writer *w)
{
	struct spool_report recovered = { .kind = SPOOL_REPORT_RECOVERED, .operation = "create" };

	set_failed(w, 0);
	writer_report_locked(w, &recovered);
}

bool
writer_file_take_next(struct spool_writer *w)
{
	bool taken;

	pthread_mutex_lock(&w->lock);
	w->spare_wanted = true;
	pthread_cond_signal(&w->prepare);
	while (!writer_file_is_open(&w->spare) && w->spare_error == 0)
		pthread_cond_wait(&w->work, &w->lock);
	taken = writer_file_is_open(&w->spare);
	if (taken) {
		w->current = w->spare;
		w->spare.fd = -1;
		w->journal_bytes += w->options.segment_bytes;
		atomic_store(&w->next_id, queue_id_make(w->current.header.number, 1));
		pthread_cond_signal(&w->prepare); /* and the one after it */
		if (atomic_load(&w->failed))
			end_failure(w);
	} else if (!atomic_load(&w->failed)) {
		begin_failure(w);
	}
	pthread_mutex_unlock(&w->lock);
	return taken;
}

void
writer_file_end_current(struct spool_writer *w)
{
	pthread_mutex_lock(&w->lock);
	while (writer_file_is_open(&w->ending))
		pthread_cond_wait(&w->work, &w->lock);
	w->ending = w->current;
	w->current.fd = -1;
	pthread_cond_signal(&w->prepare);
	pthread_mutex_unlock(&w->lock);
}

int
writer_file_write(struct spool_writer *w, struct item_list *members, uint64_t bytes)
{
	struct group *g = &w->group;
	uint64_t offset = w->current.end;
	uint64_t began_us = os_boot_us();
	unsigned n_items = 0;

	group_start(g, &w->current);
	for (struct spool_item *item = members->head; item != NULL; item = item->next) {
		item->location =
		    (struct spool_location){ w->current.header.number, (uint32_t)offset };
		for (int i = 0; i < item->n_records; i++)
			group_add_record(g, &w->current, &item->records[i]);
		offset += spool_item_bytes(item);
		n_items++;
	}
	if (group_commit(g, &w->current, bytes) < 0)
		return g->error;
	w->last_members = n_items;
	w->last_us = os_boot_us() - began_us;
	if (w->options.page != NULL && w->options.kind == SEGMENT_INTAKE) {
		atomic_store(&w->options.page->last_commit_us, w->last_us);
		atomic_fetch_add(&w->options.page->commits, 1);
	}
	writer_file_publish(w, &w->current);
	return 0;
}

/* Before the threads, and after them. */

/* Or none, for want of room: that may end, and not only by an operator's hand. Delivery frees what is done. */
int
writer_file_open_first(struct spool_writer *w)
{
	int r = file_create(w, &w->current);

	if (r == -ENOSPC || r == -EDQUOT) {
		w->spare_error = r;
		begin_failure(w);
		return 0;
	}
	if (r < 0)
		return r;
	set_failed(w, 0);
	atomic_store(&w->next_id, queue_id_make(w->current.header.number, 1));
	return 0;
}

/* Gives an unused file back. */
static void
drop_spare(struct spool_writer *w)
{
	struct shared_slot *slot = slot_of(w, &w->spare);
	char name[SEGMENT_NAME_MAX], to[SEGMENT_NAME_MAX];

	if (!writer_file_is_open(&w->spare))
		return;
	segment_name(w->options.kind, w->spare.header.number, name);
	segment_free_name(w->spare.header.number, to);
	os_close(w->spare.fd);
	if (os_rename(w->options.dirfd, name, to) < 0)
		(void)os_unlink(w->options.dirfd, name);
	if (slot != NULL)
		atomic_store(&slot->state, SHARED_SLOT_FREE);
}

void
writer_file_close_all(struct spool_writer *w)
{
	if (writer_file_is_open(&w->current))
		file_finish(w, &w->current);
	drop_spare(w);
}
