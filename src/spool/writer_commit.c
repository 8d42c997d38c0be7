/* writer_commit.c - the committer: what waits goes into groups, and each item gets its answer when it is known what
 * became of its group (I1, I5, I6). */
#include <errno.h>
#include <stdlib.h>

#include "base/queue_id.h"
#include "spool/writer_parts.h"

#define GROUP_BYTES_MAX (4u << 20)
#define PAUSE_MOST_US 5000u
#define OUTCOME_PAUSE_US 1000u
#define OUTCOMES_WANTED 64u

/* Ends an item: its result is final. */
static void
item_finish(struct item_list *done, struct spool_item *item, int result)
{
	if (result == 0 || result == -EIO)
		large_close(item->large);
	else
		large_drop(item->large);
	item->large = NULL;
	item->result = result;
	item_list_add(done, item);
}

static unsigned
finish_all(struct item_list *members, struct item_list *done, int result)
{
	struct spool_item *item;
	unsigned n = 0;

	while ((item = item_list_take(members)) != NULL) {
		item_finish(done, item, result);
		n++;
	}
	return n;
}

/* May these bytes of records, the item's among them, go into the file? */
static bool
may_hold(const struct spool_file *f, const struct spool_item *item, uint64_t bytes_of_records)
{
	return group_fits(f, bytes_of_records) && f->header.number > item->above;
}

static bool
is_too_big(const struct spool_writer *w, const struct spool_item *item)
{
	for (int i = 0; i < item->n_records; i++)
		if (item->records[i].payload_bytes > RECORD_PAYLOAD_MAX)
			return true;
	return 2 * RECORD_BLOCK + spool_item_bytes(item) + GROUP_COMMIT_BYTES >
	       w->options.segment_bytes;
}

/* Moves what goes into the next group from `waiting`; syncs large bodies. Returns the bytes. */
static uint64_t
gather(struct spool_writer *w, struct item_list *waiting, struct item_list *members,
    struct item_list *done)
{
	uint64_t bytes = 0;

	while (waiting->head != NULL) {
		struct spool_item *item = waiting->head;
		uint64_t more = spool_item_bytes(item);
		int r = 0;

		if (is_too_big(w, item) || !may_hold(&w->current, item, bytes + more) ||
		    (members->head != NULL && bytes + more > GROUP_BYTES_MAX))
			break;
		item_list_take(waiting);
		if (item->large != NULL && (r = large_sync(item->large)) < 0) {
			struct group large = { .error = r };

			writer_report_failure(w, &w->current, &large, "sync of a large body", 1, 0);
			item_finish(done, item, -EAGAIN); /* nothing names it */
			continue;
		}
		item_list_add(members, item);
		bytes += more;
	}
	return bytes;
}

/* The current file has failed while this group was written. I5: it is never touched again. */
static void
fail_group(
    struct spool_writer *w, struct item_list *members, struct item_list *done, uint64_t bytes)
{
	struct record_revoke revoke = { w->current.header.number, w->group.first_seq,
		w->group.last_seq + 1 };
	struct group *failed = xcalloc(1, sizeof(*failed));
	struct spool_file broken = w->current;
	uint8_t payload[RECORD_REVOKE_BYTES];
	unsigned n;
	int r;

	*failed = w->group;
	/* It is sealed when it is known what became of the group, not before: whoever reads a sealed
	 * file to its end must find the REVOKE as well (I6). */
	w->current.fd = -1;
	if (!writer_file_take_next(w)) {
		writer_file_seal(w, &broken);
		n = finish_all(members, done, -EIO);
		writer_report_failure(w, &broken, failed, failed->operation, 0, n);
		free(failed);
		return;
	}
	if (w->options.kind == SEGMENT_JOURNAL) {
		r = group_fits(&w->current, bytes) ? writer_file_write(w, members, bytes) : -ENOSPC;
	} else {
		record_put_revoke(&revoke, payload);
		r = group_commit_single(&w->group, &w->current, RECORD_REVOKE, RECORD_CRITICAL,
		    payload, sizeof(payload));
		if (r == 0)
			writer_file_publish(w, &w->current);
	}
	writer_file_seal(w, &broken);
	if (r == 0) {
		n = finish_all(members, done, w->options.kind == SEGMENT_JOURNAL ? 0 : -EAGAIN);
		writer_report_failure(w, &broken, failed, failed->operation, n, 0);
		free(failed);
		return;
	}
	n = finish_all(members, done, -EIO);
	writer_report_failure(w, &broken, failed, failed->operation, 0, n);
	writer_report_failure(w, &w->current, &w->group, "revoke", 0, 0);
	writer_file_seal(w, &w->current);
	free(failed);
	(void)writer_file_take_next(w);
}

static void
hand_back(struct spool_writer *w, struct item_list *done)
{
	struct spool_item *item;
	bool any = done->head != NULL;

	pthread_mutex_lock(&w->lock);
	while ((item = item_list_take(done)) != NULL)
		item_list_add(&w->finished, item);
	pthread_mutex_unlock(&w->lock);
	if (any)
		os_event_set(w->event_fd);
}

static void
answer_all(struct spool_writer *w, struct item_list *waiting)
{
	struct item_list done;

	item_list_init(&done);
	finish_all(waiting, &done, w->options.kind == SEGMENT_JOURNAL ? -EIO : -EAGAIN);
	hand_back(w, &done);
}

static void
commit_waiting(struct spool_writer *w, struct item_list *waiting)
{
	while (waiting->head != NULL) {
		struct item_list members, done;
		uint64_t bytes, first = spool_item_bytes(waiting->head);

		item_list_init(&members);
		item_list_init(&done);
		if (is_too_big(w, waiting->head)) {
			item_finish(&done, item_list_take(waiting), -EMSGSIZE);
			hand_back(w, &done);
			continue;
		}
		/* a spare that was made long ago may have too low a number as well */
		while (!writer_file_is_open(&w->current) ||
		       !may_hold(&w->current, waiting->head, first)) {
			if (writer_file_is_open(&w->current))
				writer_file_end_current(w);
			if (!writer_file_take_next(w)) {
				answer_all(w, waiting);
				return;
			}
		}
		bytes = gather(w, waiting, &members, &done);
		if (members.head != NULL) {
			if (writer_file_write(w, &members, bytes) == 0) {
				finish_all(&members, &done, 0);
				pthread_mutex_lock(&w->lock);
				w->backoff_ms = 0;
				pthread_mutex_unlock(&w->lock);
			} else {
				fail_group(w, &members, &done, bytes);
			}
		}
		hand_back(w, &done);
		writer_compact_if_due(w);
	}
}

/* With nothing to be written: there was no file, and now there is; or so many IDs were given without a
 * message that the number is nearly used up. */
static bool
is_next_file_due(const struct spool_writer *w)
{
	if (!writer_file_is_open(&w->current))
		return writer_file_is_open(&w->spare);
	return w->options.kind != SEGMENT_JOURNAL &&
	       (atomic_load(&w->next_id) & QUEUE_ID_SEQUENCE_MAX) >= WRITER_IDS_LOW;
}

static void
go_to_next_file(struct spool_writer *w)
{
	if (writer_file_is_open(&w->current))
		writer_file_end_current(w);
	(void)writer_file_take_next(w);
}

/* How long the committer waits before the next group, so that more goes with it. Those whose message was just
 * answered come back at once with their next one, if they have any: with them a sync does for twice as
 * many, as long as the wait is shorter than a sync. A client that is alone waits for nobody. Nobody waits for an
 * outcome: what a kill may repeat is bounded by delivery. */
static uint64_t
pause_us(const struct spool_writer *w)
{
	uint64_t us = w->last_us / 2;

	if (w->options.kind == SEGMENT_JOURNAL)
		us = w->last_us > OUTCOME_PAUSE_US ? w->last_us : OUTCOME_PAUSE_US;
	else if (w->last_members < 2)
		us = 0;
	return us < PAUSE_MOST_US ? us : PAUSE_MOST_US;
}

static void
gather_more(struct spool_writer *w)
{
	uint64_t us = pause_us(w);

	w->wanted =
	    w->options.kind == SEGMENT_JOURNAL ? OUTCOMES_WANTED : w->n_submitted + w->last_members;
	if (w->n_submitted < w->wanted && us > 0 && !w->stop)
		os_condition_wait(&w->work, &w->lock, us); /* or until it is woken for anything */
	w->wanted = 0;
}

void *
writer_commit_run(void *arg)
{
	struct spool_writer *w = arg;
	struct item_list waiting;

	item_list_init(&waiting);
	pthread_mutex_lock(&w->lock);
	for (;;) {
		struct spool_item *item;

		w->oldest_ms = 0;
		if (w->submitted.head == NULL && w->stop)
			break;
		if (w->submitted.head == NULL && !is_next_file_due(w)) {
			pthread_cond_wait(&w->work, &w->lock);
			continue;
		}
		if (w->submitted.head == NULL) {
			pthread_mutex_unlock(&w->lock);
			go_to_next_file(w);
			pthread_mutex_lock(&w->lock);
			continue;
		}
		w->oldest_ms = w->submitted.head->submitted_ms;
		while ((item = item_list_take(&w->submitted)) != NULL)
			item_list_add(&waiting, item);
		w->n_submitted = 0;
		pthread_mutex_unlock(&w->lock);
		w->last_members = 0;
		commit_waiting(w, &waiting);
		pthread_mutex_lock(&w->lock);
		gather_more(w);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}
