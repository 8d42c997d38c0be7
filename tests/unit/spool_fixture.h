/* spool_fixture.h - what the tests of the spool share: a directory of its own, messages, a writer that
 * is waited for. */
#ifndef RELAYD_TESTS_SPOOL_FIXTURE_H
#define RELAYD_TESTS_SPOOL_FIXTURE_H

#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/queue_id.h"
#include "spool/catalog.h"
#include "spool/writer.h"

#define SMALL_SEGMENT (1u << 20)
#define FIXTURE_PATH_MAX 128

struct fixture {
	char path[FIXTURE_PATH_MAX];
	int dirfd;
	struct spool_writer *writer;
	unsigned reports[4];
	struct spool_report last_report;
};

/* A message on its way, with all that must live until done(). */
struct sent {
	struct spool_item item;
	void *envelope;
	size_t envelope_len;
	struct iovec body[2];
	uint64_t id;
	bool is_done;
};

static inline void
fixture_on_report(void *arg, const struct spool_report *report)
{
	struct fixture *f = arg;

	f->reports[report->kind]++;
	f->last_report = *report;
}

/* Memory if there is some: what these tests sync is not the disk. */
static inline void
fixture_make_directory(char path[FIXTURE_PATH_MAX])
{
	const char *parents[] = { getenv("TMPDIR"), "/dev/shm", "/tmp" };

	for (size_t i = 0; i < ARRAY_LEN(parents); i++) {
		if (parents[i] == NULL)
			continue;
		snprintf(path, FIXTURE_PATH_MAX, "%s/relayd-spool-XXXXXX", parents[i]);
		if (mkdtemp(path) != NULL)
			return;
	}
	fail();
}

static inline int
fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	fixture_make_directory(f->path);
	f->dirfd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(f->dirfd >= 0);
	assert_int_equal(segment_prepare_directory(f->dirfd), 0);
	*state = f;
	return 0;
}

static inline void
fixture_empty(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY);
	DIR *dir = fdopendir(fd);
	struct dirent *entry;

	while ((entry = readdir(dir)) != NULL)
		if (entry->d_name[0] != '.')
			unlinkat(fd, entry->d_name, 0);
	closedir(dir);
}

static inline int
fixture_teardown(void **state)
{
	struct fixture *f = *state;

	spool_writer_close(f->writer);
	fixture_empty(f->dirfd, "large");
	fixture_empty(f->dirfd, "quarantine");
	fixture_empty(f->dirfd, ".");
	unlinkat(f->dirfd, "large", AT_REMOVEDIR);
	unlinkat(f->dirfd, "quarantine", AT_REMOVEDIR);
	close(f->dirfd);
	rmdir(f->path);
	free(f);
	return 0;
}

static inline int
fixture_try_writer(struct fixture *f, enum segment_kind kind, struct shared_page *page)
{
	struct spool_writer_options options = { .dirfd = f->dirfd,
		.kind = kind,
		.segment_bytes = SMALL_SEGMENT,
		.page = page,
		.wake_fd = -1,
		.report = fixture_on_report,
		.report_arg = f };

	return spool_writer_open(&options, &f->writer);
}

static inline void
fixture_writer(struct fixture *f, enum segment_kind kind, struct shared_page *page)
{
	assert_int_equal(fixture_try_writer(f, kind, page), 0);
}

static inline void
fixture_stop(struct fixture *f)
{
	spool_writer_close(f->writer);
	f->writer = NULL;
}

static inline struct envelope
fixture_envelope(uint64_t id, uint64_t body_bytes)
{
	static struct envelope_recipient recipients[] = {
		{ SPAN("ann@example.org"), SPAN("rfc822;ann+40example.org"),
		    ENVELOPE_NOTIFY_FAILURE },
		{ SPAN("bob@example.org"), { NULL, 0 }, 0 },
	};

	return (struct envelope){ .id = id,
		.arrived_ms = 1700000000123,
		.uid = 1000,
		.flags = ENVELOPE_8BITMIME,
		.trace_count = 1,
		.ret = ENVELOPE_RET_HDRS,
		.unit = SPAN("cron.service"),
		.client = SPAN("127.0.0.1"),
		.listener = SPAN("127.0.0.1:25"),
		.helo = SPAN("localhost"),
		.sender = SPAN("app@example.org"),
		.envid = SPAN("E1"),
		.prefix = SPAN("Received: from localhost\r\n"),
		.body_bytes = body_bytes,
		.recipients = recipients,
		.n_recipients = 2 };
}

static inline void
fixture_on_done(struct spool_item *item, void *arg)
{
	(void)item;
	((struct sent *)arg)->is_done = true;
}

/* Prepares a message; the body in two pieces. */
static inline struct sent *
fixture_message(struct fixture *f, const char *body, size_t len)
{
	struct sent *s = calloc(1, sizeof(*s));
	struct envelope e;

	s->id = spool_writer_next_id(f->writer);
	e = fixture_envelope(s->id, len);
	assert_int_equal(envelope_encode(&e, &s->envelope, &s->envelope_len), 0);
	s->body[0] = (struct iovec){ (void *)(uintptr_t)body, len / 2 };
	s->body[1] = (struct iovec){ (void *)(uintptr_t)(body + len / 2), len - len / 2 };
	spool_item_message(
	    &s->item, (struct span){ s->envelope, s->envelope_len }, s->body, 2, NULL);
	s->item.done = fixture_on_done;
	s->item.arg = s;
	return s;
}

static inline void
fixture_await(struct fixture *f, struct sent *s)
{
	struct pollfd p = { spool_writer_fd(f->writer), POLLIN, 0 };

	while (!s->is_done) {
		assert_int_equal(poll(&p, 1, 20000), 1);
		spool_writer_dispatch(f->writer);
	}
}

static inline void
fixture_free(struct sent *s)
{
	free(s->envelope);
	free(s);
}

/* Sends one message alone in its group; returns its result, *id and *at if they are wanted. */
static inline int
fixture_send(
    struct fixture *f, const char *body, size_t len, uint64_t *id, struct spool_location *at)
{
	struct sent *s = fixture_message(f, body, len);
	int result;

	spool_writer_submit(f->writer, &s->item);
	fixture_await(f, s);
	result = s->item.result;
	if (id != NULL)
		*id = s->id;
	if (at != NULL)
		*at = s->item.location;
	fixture_free(s);
	return result;
}

static inline int
fixture_outcome(struct fixture *f, const struct journal_outcome *o)
{
	struct sent *s = calloc(1, sizeof(*s));
	int result;

	assert_int_equal(journal_encode(o, &s->envelope, &s->envelope_len), 0);
	spool_item_outcome(&s->item, (struct span){ s->envelope, s->envelope_len });
	s->item.done = fixture_on_done;
	s->item.arg = s;
	spool_writer_submit(f->writer, &s->item);
	fixture_await(f, s);
	result = s->item.result;
	fixture_free(s);
	return result;
}

/* A record made by hand; adds it to the COMMIT's chain; returns its length. */
static inline size_t
fixture_put_record(uint8_t *out, struct record_salt salt, uint8_t type, uint8_t flags, uint64_t seq,
    const void *payload, uint32_t len, uint64_t *chain)
{
	struct record_header h = { .type = type, .flags = flags, .payload_bytes = len, .seq = seq };
	struct iovec iov = { (void *)(uintptr_t)payload, len };
	uint64_t sum;

	record_put_header(&h, salt, out);
	memcpy(out + RECORD_HEADER_BYTES, payload, len);
	sum = record_payload_checksum(&h, salt, &iov, 1);
	record_put_trailer(&h, sum, out + RECORD_HEADER_BYTES + len);
	*chain = record_chain(*chain, h.checksum, sum);
	return record_bytes(len);
}

/* What a replay gives. */
struct listed {
	uint64_t ids[4096];
	struct spool_location at[4096];
	size_t n;
	size_t n_damage;
	struct spool_damage damage[64];
	size_t n_segments;
	struct catalog_segment segments[64];
	struct catalog_summary sum;
};

static inline int
fixture_on_message(void *arg, const struct catalog_message *m)
{
	struct listed *l = arg;

	assert_true(l->n < ARRAY_LEN(l->ids));
	assert_int_equal(m->envelope->id, m->id);
	assert_int_equal(m->envelope->n_recipients, 2);
	l->ids[l->n] = m->id;
	l->at[l->n++] = m->location;
	return 0;
}

static inline void
fixture_on_damage(void *arg, const struct spool_damage *damage)
{
	struct listed *l = arg;

	if (l->n_damage < ARRAY_LEN(l->damage))
		l->damage[l->n_damage++] = *damage;
}

static inline void
fixture_on_segment(void *arg, const struct catalog_segment *s)
{
	struct listed *l = arg;

	if (l->n_segments < ARRAY_LEN(l->segments))
		l->segments[l->n_segments++] = *s;
}

static inline void
fixture_list(struct fixture *f, struct listed *l, struct spool_store *store,
    struct shared_page *page, bool sweep)
{
	struct catalog_options options = { .dirfd = f->dirfd,
		.store = store,
		.page = page,
		.distrust = true,
		.sweep = sweep,
		.message = fixture_on_message,
		.segment = fixture_on_segment,
		.damage = fixture_on_damage,
		.arg = l };

	memset(l, 0, sizeof(*l));
	assert_int_equal(catalog_replay(&options, &l->sum), 0);
}

static inline bool
fixture_lists(const struct listed *l, uint64_t id)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->ids[i] == id)
			return true;
	return false;
}

/* The body at that place, whole; free(). */
static inline char *
fixture_body(struct fixture *f, struct spool_location at, size_t *len)
{
	struct spool_store *store;
	struct spool_body *body;
	struct envelope *e;
	char *data;

	assert_int_equal(spool_store_open(f->dirfd, true, &store), 0);
	assert_int_equal(spool_store_envelope(store, at, &e), 0);
	assert_int_equal(spool_store_body(store, at, e, &body), 0);
	*len = (size_t)spool_body_bytes(body);
	data = malloc(*len + 1);
	for (size_t got = 0; got < *len;) {
		ssize_t n = spool_body_read(body, got, data + got, *len - got);

		assert_true(n > 0);
		got += (size_t)n;
	}
	spool_body_close(body);
	envelope_free(e);
	spool_store_close(store);
	return data;
}

#endif
