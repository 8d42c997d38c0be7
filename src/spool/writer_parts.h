/* writer_parts.h - what the five files of the writer share, and nobody else: writer.c (the caller's thread),
 * writer_commit.c (the committer, a thread: what goes into a group, what becomes of it, what is answered),
 * writer_compact.c (the journal rewritten, by the committer), writer_file.c (the files that are written, and the
 * preparer, a thread that makes the next one meanwhile), writer_report.c (what the log is to hear). Each calls only
 * those that come after it. */
#ifndef RELAYD_SPOOL_WRITER_PARTS_H
#define RELAYD_SPOOL_WRITER_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "spool/group.h"
#include "spool/writer.h"

#define WRITER_IDS_LOW 0xff0000u /* this many IDs of a number given: time for the next number */

struct writer_report {
	struct writer_report *next;
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
	struct writer_report *reports, **reports_tail;
	bool stop, stop_preparer;
	struct spool_file spare;
	bool spare_wanted;
	int spare_error; /* of the last try; 0: none failed since the last file */
	uint64_t backoff_ms;
	struct spool_file ending; /* full, to be marked and closed */

	/* the thread's that submits */
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

/* writer_commit.c: the committer. */
void *writer_commit_run(void *writer);

/* writer_compact.c: the committer's, between two groups. Compacts the journals if most of them is dead. */
void writer_compact_if_due(struct spool_writer *w);

/* writer_file.c. A file is written by one thread at a time: `current` by the committer, `ending` by the
 * preparer. All of these take the lock where they need it, and nobody holds it while the disk is waited for. */
static inline bool
writer_file_is_open(const struct spool_file *f)
{
	return f->fd >= 0;
}

/* Before there are threads: makes the first one. 0 as well if there is no room for it; the writer has failed
 * then. -errno. */
int writer_file_open_first(struct spool_writer *w) MUST_CHECK;
/* When there are none any more: brings the current one to its end, gives an unused one back. */
void writer_file_close_all(struct spool_writer *w);
/* The preparer. */
void *writer_file_prepare(void *writer);

/* The committer's: */
/* The next file becomes the current one, which must not be open. Waits until the preparer has it; false: there
 * is none and will be none soon, and the writer has failed until there is. */
bool writer_file_take_next(struct spool_writer *w);
/* Hands the current one, which is full, to the preparer: to be marked as complete and closed. */
void writer_file_end_current(struct spool_writer *w);
/* Writes the items as one group of so many bytes of records, and tells who follows the file. 0: durable, and each
 * item has its location. -errno: w->group tells what failed, and the file must not be touched again (I5). */
int writer_file_write(struct spool_writer *w, struct item_list *members, uint64_t bytes) MUST_CHECK;
/* Any thread's, of a file that it writes: */
/* Tells who follows the file how far it is durable. */
void writer_file_publish(const struct spool_writer *w, const struct spool_file *f);
/* Nothing more will be written to it, ever: closed, and told so. */
void writer_file_seal(const struct spool_writer *w, struct spool_file *f);

/* writer_report.c: for spool_writer_dispatch(). */
void writer_report(struct spool_writer *w, const struct spool_report *report); /* takes the lock */
void writer_report_locked(
    struct spool_writer *w, const struct spool_report *report); /* it is held */
/* A group failed in this file: so many of its items were answered so. Takes the lock. */
void writer_report_failure(struct spool_writer *w, const struct spool_file *f,
    const struct group *g, const char *operation, unsigned revoked, unsigned unknown);

#endif
