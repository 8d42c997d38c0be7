/* writer.c - see writer.h. Two threads: the committer writes and syncs groups; the preparer makes the
 * next file while the committer works, and brings full files to their end. Each file is written by one
 * of them at a time. */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/queue_id.h"
#include "spool/group.h"
#include "spool/journal_compact.h"
#include "spool/writer.h"

#define SEGMENT_BYTES_DEFAULT (16u << 20)
#define GROUP_BYTES_MAX (4u << 20)
#define COMPACTION_GROUP_BYTES (512u << 10)
#define BACKOFF_FIRST_MS 1000u
#define BACKOFF_MOST_MS 10000u
#define ROOM_AGE_MS 1000u
#define PAUSE_MOST_US 5000u
#define OUTCOME_PAUSE_US 1000u
#define OUTCOMES_WANTED 64u
#define IDS_LOW 0xff0000u /* this many IDs of a number given: time for the next number */

struct report_node {
	struct report_node *next;
	struct spool_report report;
};

struct spool_writer {
	struct spool_writer_options options;
	int event_fd;
	pthread_t committer, preparer;
	_Atomic bool failed;
	_Atomic uint64_t next_id;

	pthread_mutex_t lock;   /* all below, until the next comment */
	pthread_cond_t work;    /* committer: items, a file is ready, or stop */
	pthread_cond_t prepare; /* preparer: a file is wanted, one is to be ended, or stop */
	struct item_list submitted, finished;
	unsigned n_submitted; /* items in it */
	unsigned wanted;      /* so many are waited for before the committer goes on */
	uint64_t oldest_ms;   /* of the group in work; 0: none */
	struct report_node *reports, **reports_tail;
	bool stop, stop_preparer;
	struct spool_file spare;
	bool spare_wanted;
	int spare_error; /* of the last try; 0: none failed since the last file */
	uint64_t backoff_ms;
	struct spool_file ending; /* full, to be marked and closed */

	/* the caller's */
	struct os_room room;
	uint64_t room_ms;
	int room_error;

	/* the committer's alone */
	struct spool_file current;
	unsigned last_members; /* of the last group, */
	uint64_t last_us;      /* and how long it took */
	uint64_t journal_bytes, journal_live_bytes;
	struct group group;
};

/* Files. */

static bool
file_is_open(const struct spool_file *f)
{
	return f->fd >= 0;
}

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

static void
file_publish(const struct spool_writer *w, const struct spool_file *f)
{
	struct shared_slot *slot = slot_of(w, f);

	if (slot != NULL)
		atomic_store(&slot->committed_bytes, f->end);
	os_event_set(w->options.wake_fd);
}

/* Nothing more will be written to it, ever. */
static void
file_seal(const struct spool_writer *w, struct spool_file *f)
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
		file_publish(w, f);
	free(g);
	file_seal(w, f);
}

/* Telling the caller's thread. */

static void
report_locked(struct spool_writer *w, const struct spool_report *report)
{
	struct report_node *node = xcalloc(1, sizeof(*node));

	node->report = *report;
	*w->reports_tail = node;
	w->reports_tail = &node->next;
	os_event_set(w->event_fd);
}

static void
report(struct spool_writer *w, const struct spool_report *what)
{
	pthread_mutex_lock(&w->lock);
	report_locked(w, what);
	pthread_mutex_unlock(&w->lock);
}

static void
set_failed(struct spool_writer *w, int error) /* -errno; 0: it works */
{
	atomic_store(&w->failed, error < 0);
	if (w->options.page != NULL && w->options.kind == SEGMENT_INTAKE)
		atomic_store(&w->options.page->spool_failed, (uint32_t)-error);
}

static void
report_failure(struct spool_writer *w, const struct spool_file *f, const struct group *g,
    const char *operation, unsigned revoked, unsigned unknown)
{
	struct spool_report what = { .kind = SPOOL_REPORT_FAILED,
		.error = -g->error,
		.operation = operation,
		.offset = g->error_offset,
		.revoked = revoked,
		.unknown = unknown };

	segment_name(w->options.kind, f->header.number, what.file);
	report(w, &what);
}

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
		if (w->spare_error == 0) {
			failed.error = -r;
			report_locked(w, &failed); /* the file before it may still have room */
		}
		w->spare_error = r;
		w->backoff_ms = w->backoff_ms == 0 ? BACKOFF_FIRST_MS : w->backoff_ms * 2;
		if (w->backoff_ms > BACKOFF_MOST_MS)
			w->backoff_ms = BACKOFF_MOST_MS;
	}
	pthread_cond_broadcast(&w->work);
}

static void *
preparer_run(void *arg)
{
	struct spool_writer *w = arg;
	uint64_t not_before_ms = 0;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		uint64_t now_ms = os_boot_ms();

		if (file_is_open(&w->ending)) {
			struct spool_file f = w->ending;

			w->ending.fd = -1;
			pthread_mutex_unlock(&w->lock);
			file_finish(w, &f);
			pthread_mutex_lock(&w->lock);
			pthread_cond_broadcast(&w->work);
		} else if (w->stop_preparer) {
			break;
		} else if (!w->spare_wanted || file_is_open(&w->spare)) {
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

/* There is no file, and none could be made. */
static void
begin_failure(struct spool_writer *w)
{
	struct spool_report down = {
		.kind = SPOOL_REPORT_DOWN, .operation = "create", .error = -w->spare_error
	};

	set_failed(w, w->spare_error);
	report_locked(w, &down);
}

static void
end_failure(struct spool_writer *w)
{
	struct spool_report recovered = { .kind = SPOOL_REPORT_RECOVERED, .operation = "create" };

	set_failed(w, 0);
	report_locked(w, &recovered);
}

/* Waits for the next file; false: there is none and will be none soon. */
static bool
take_spare(struct spool_writer *w)
{
	bool taken;

	pthread_mutex_lock(&w->lock);
	w->spare_wanted = true;
	pthread_cond_signal(&w->prepare);
	while (!file_is_open(&w->spare) && w->spare_error == 0)
		pthread_cond_wait(&w->work, &w->lock);
	taken = file_is_open(&w->spare);
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

/* Hands the full file to the preparer. */
static void
end_current(struct spool_writer *w)
{
	pthread_mutex_lock(&w->lock);
	while (file_is_open(&w->ending))
		pthread_cond_wait(&w->work, &w->lock);
	w->ending = w->current;
	w->current.fd = -1;
	pthread_cond_signal(&w->prepare);
	pthread_mutex_unlock(&w->lock);
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

			report_failure(w, &w->current, &large, "sync of a large body", 1, 0);
			item_finish(done, item, -EAGAIN); /* nothing names it */
			continue;
		}
		item_list_add(members, item);
		bytes += more;
	}
	return bytes;
}

static int
write_group(struct spool_writer *w, struct item_list *members, uint64_t bytes)
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
	file_publish(w, &w->current);
	return 0;
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
	if (!take_spare(w)) {
		file_seal(w, &broken);
		n = finish_all(members, done, -EIO);
		report_failure(w, &broken, failed, failed->operation, 0, n);
		free(failed);
		return;
	}
	if (w->options.kind == SEGMENT_JOURNAL) {
		r = group_fits(&w->current, bytes) ? write_group(w, members, bytes) : -ENOSPC;
	} else {
		record_put_revoke(&revoke, payload);
		r = group_commit_single(&w->group, &w->current, RECORD_REVOKE, RECORD_CRITICAL,
		    payload, sizeof(payload));
		if (r == 0)
			file_publish(w, &w->current);
	}
	file_seal(w, &broken);
	if (r == 0) {
		n = finish_all(members, done, w->options.kind == SEGMENT_JOURNAL ? 0 : -EAGAIN);
		report_failure(w, &broken, failed, failed->operation, n, 0);
		free(failed);
		return;
	}
	n = finish_all(members, done, -EIO);
	report_failure(w, &broken, failed, failed->operation, 0, n);
	report_failure(w, &w->current, &w->group, "revoke", 0, 0);
	file_seal(w, &w->current);
	free(failed);
	(void)take_spare(w);
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

/* Compaction of the journal: everything that lives goes into new files, then the old ones go. Records
 * are gathered, so that this is not one sync for each. */
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
		end_current(c->w);
		if (!take_spare(c->w))
			r = -EIO;
	}
	if (r == 0)
		r = group_fits(&c->w->current, c->bytes) ? write_group(c->w, &c->items, c->bytes)
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

static void
compact_if_due(struct spool_writer *w)
{
	struct spool_report what = { .kind = SPOOL_REPORT_COMPACTED, .operation = "compact" };
	struct compaction compaction = { .w = w };
	uint64_t before = w->journal_bytes;
	uint32_t first;
	int r;

	if (w->options.kind != SEGMENT_JOURNAL || !file_is_open(&w->current) ||
	    before <= 4 * w->journal_live_bytes + 4 * w->options.segment_bytes)
		return;
	end_current(w);
	if (!take_spare(w))
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
		if (w->group.error != 0 && file_is_open(&w->current)) {
			report_failure(w, &w->current, &w->group, "compact", 0, 0);
			file_seal(w, &w->current);
		}
		return;
	}
	w->journal_live_bytes = what.bytes_after;
	w->journal_bytes = what.bytes_after + w->options.segment_bytes;
	segment_name(w->options.kind, first, what.file);
	report(w, &what);
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
		while (!file_is_open(&w->current) || !may_hold(&w->current, waiting->head, first)) {
			if (file_is_open(&w->current))
				end_current(w);
			if (!take_spare(w)) {
				answer_all(w, waiting);
				return;
			}
		}
		bytes = gather(w, waiting, &members, &done);
		if (members.head != NULL) {
			if (write_group(w, &members, bytes) == 0) {
				finish_all(&members, &done, 0);
				pthread_mutex_lock(&w->lock);
				w->backoff_ms = 0;
				pthread_mutex_unlock(&w->lock);
			} else {
				fail_group(w, &members, &done, bytes);
			}
		}
		hand_back(w, &done);
		compact_if_due(w);
	}
}

/* With nothing to be written: there was no file, and now there is; or so many IDs were given without a
 * message that the number is nearly used up. */
static bool
is_next_file_due(const struct spool_writer *w)
{
	if (!file_is_open(&w->current))
		return file_is_open(&w->spare);
	return w->options.kind != SEGMENT_JOURNAL &&
	       (atomic_load(&w->next_id) & QUEUE_ID_SEQUENCE_MAX) >= IDS_LOW;
}

static void
go_to_next_file(struct spool_writer *w)
{
	if (file_is_open(&w->current))
		end_current(w);
	(void)take_spare(w);
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

static void *
committer_run(void *arg)
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

/* The caller's thread. */

static int
start_threads(struct spool_writer *w)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&w->committer, NULL, committer_run, w);
	if (r == 0) {
		r = pthread_create(&w->preparer, NULL, preparer_run, w);
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
		struct report_node *node = w->reports;

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

/* Or none, for want of room: that may end, and not only by an operator's hand. Delivery frees what is done. */
static int
open_first_file(struct spool_writer *w)
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

int
spool_writer_open(const struct spool_writer_options *options, struct spool_writer **out)
{
	struct spool_writer *w = writer_new(options);
	int r;

	r = w->event_fd = os_event_open();
	if (r < 0)
		goto fail;
	r = open_first_file(w);
	if (r < 0)
		goto fail;
	if (w->options.kind == SEGMENT_JOURNAL)
		w->journal_bytes = journal_bytes_on_disk(w->options.dirfd);
	r = start_threads(w);
	if (r < 0) {
		if (file_is_open(&w->current))
			file_seal(w, &w->current);
		goto fail;
	}
	*out = w;
	return 0;
fail:
	writer_free(w);
	return r;
}

/* Gives an unused file back. */
static void
drop_spare(struct spool_writer *w)
{
	struct shared_slot *slot = slot_of(w, &w->spare);
	char name[SEGMENT_NAME_MAX], to[SEGMENT_NAME_MAX];

	if (!file_is_open(&w->spare))
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
	if (file_is_open(&w->current))
		file_finish(w, &w->current);
	drop_spare(w);
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
	struct report_node *reports;
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
		struct report_node *node = reports;

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
	if ((id & QUEUE_ID_SEQUENCE_MAX) == IDS_LOW) {
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
