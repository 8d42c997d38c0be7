/* test_spool_writer.c - what was answered 0 is found again, byte for byte. */
#include "spool_fixture.h"

static void
a_message_comes_back_as_it_was(void **state)
{
	struct fixture *f = *state;
	struct spool_location at;
	struct spool_store *store;
	struct envelope *e;
	struct listed l;
	uint64_t id;
	size_t len;
	char *body;

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "Subject: x\r\n\r\nbody\r\n", 20, &id, &at), 0);
	fixture_stop(f);
	fixture_list(f, &l, NULL, NULL, true);
	assert_int_equal(l.n, 1);
	assert_int_equal(l.ids[0], id);
	assert_int_equal(l.at[0].segment, at.segment);
	assert_int_equal(l.at[0].offset, at.offset);
	assert_int_equal(l.n_damage, 0);
	assert_int_equal(spool_store_open(f->dirfd, true, &store), 0);
	assert_int_equal(spool_store_envelope(store, at, &e), 0);
	assert_true(span_equals(e->sender, SPAN("app@example.org")));
	assert_true(span_equals(e->unit, SPAN("cron.service")));
	assert_true(span_equals(e->recipients[0].orcpt, SPAN("rfc822;ann+40example.org")));
	assert_true(span_equals(e->recipients[1].address, SPAN("bob@example.org")));
	assert_int_equal(e->uid, 1000);
	assert_int_equal(e->arrived_ms, 1700000000123);
	envelope_free(e);
	spool_store_close(store);
	body = fixture_body(f, at, &len);
	assert_int_equal(len, 20);
	assert_memory_equal(body, "Subject: x\r\n\r\nbody\r\n", 20);
	free(body);
}

static void
bodies_of_every_length_come_back(void **state)
{
	static const size_t lengths[] = { 0, 1, 7, 8, 9, 4000, 4096, 65536, 262144 };
	struct spool_location at[ARRAY_LEN(lengths)];
	struct fixture *f = *state;
	char *data = malloc(262144);
	struct listed l;

	for (size_t i = 0; i < 262144; i++)
		data[i] = (char)(i * 7 + i / 251);
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++)
		assert_int_equal(fixture_send(f, data, lengths[i], NULL, &at[i]), 0);
	fixture_stop(f);
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
		size_t len;
		char *body = fixture_body(f, at[i], &len);

		assert_int_equal(len, lengths[i]);
		assert_memory_equal(body, data, len);
		free(body);
	}
	fixture_list(f, &l, NULL, NULL, false);
	assert_int_equal(l.n, ARRAY_LEN(lengths));
	assert_int_equal(l.n_damage, 0);
	free(data);
}

/* Whatever the caller thinks its length to be; and not the body of the message behind it. */
static void
envelope_and_body_come_together(void **state)
{
	static const size_t guesses[] = { 0, 1, 32, 128, 300, 4096, 5000, 65536,
		SMALL_SEGMENT * 4 };
	struct fixture *f = *state;
	struct spool_location at, next;
	struct spool_store *store;
	struct spool_body *body;
	struct envelope *e;
	char data[5000], back[5001];

	memset(data, 'b', sizeof(data));
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, data, sizeof(data), NULL, &at), 0);
	assert_int_equal(fixture_send(f, "next", 4, NULL, &next), 0);
	fixture_stop(f);
	assert_int_equal(spool_store_open(f->dirfd, true, &store), 0);
	for (size_t i = 0; i < ARRAY_LEN(guesses); i++) {
		assert_int_equal(spool_store_message(store, at, guesses[i], &e, &body), 0);
		assert_true(span_equals(e->unit, SPAN("cron.service")));
		assert_int_equal(spool_body_bytes(body), sizeof(data));
		assert_int_equal(spool_body_read(body, 0, back, sizeof(back)), sizeof(data));
		assert_memory_equal(back, data, sizeof(data));
		envelope_free(e);
		spool_body_close(body);
	}
	at.offset += 8;
	assert_int_equal(spool_store_message(store, at, 8192, &e, &body), -EBADMSG);
	at.segment++;
	assert_int_equal(spool_store_message(store, at, 8192, &e, &body), -ENOENT);
	spool_store_close(store);
}

static void
many_messages_go_through_many_segments(void **state)
{
	enum { N = 600 };
	struct fixture *f = *state;
	struct sent *sent[N];
	struct listed l;
	char *data = malloc(10000);

	memset(data, 'x', 10000);
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	for (int i = 0; i < N; i++) {
		sent[i] = fixture_message(f, data, (size_t)(i * 37 % 10000));
		spool_writer_submit(f->writer, &sent[i]->item);
	}
	for (int i = 0; i < N; i++) {
		fixture_await(f, sent[i]);
		assert_int_equal(sent[i]->item.result, 0);
	}
	fixture_stop(f);
	fixture_list(f, &l, NULL, NULL, false);
	assert_int_equal(l.n, N);
	assert_int_equal(l.n_damage, 0);
	assert_true(l.n_segments > 2);
	for (int i = 0; i < N; i++) {
		assert_true(fixture_lists(&l, sent[i]->id));
		fixture_free(sent[i]);
	}
	free(data);
}

static void
a_message_that_never_fits_is_told_so(void **state)
{
	struct fixture *f = *state;
	char *data = calloc(1, SMALL_SEGMENT);

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, data, SMALL_SEGMENT, NULL, NULL), -EMSGSIZE);
	assert_int_equal(fixture_send(f, data, 10, NULL, NULL), 0);
	assert_false(spool_writer_is_failed(f->writer));
	free(data);
}

static void
a_large_body_stands_apart(void **state)
{
	struct fixture *f = *state;
	struct sent *s = calloc(1, sizeof(*s));
	char piece[5000], *body;
	struct envelope e;
	struct large *l;
	struct listed list;
	size_t len;

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	s->id = spool_writer_next_id(f->writer);
	assert_int_equal(large_create(f->dirfd, s->id, &l), 0);
	for (int i = 0; i < 100; i++) {
		memset(piece, 'a' + i % 26, sizeof(piece));
		assert_int_equal(large_append(l, (struct span){ piece, sizeof(piece) }), 0);
	}
	/* Nobody has taken it yet, but it is locked: a sweep leaves it alone. */
	fixture_list(f, &list, NULL, NULL, true);
	e = fixture_envelope(s->id, large_bytes(l));
	e.flags |= ENVELOPE_LARGE;
	e.body_checksum = large_checksum(l);
	assert_int_equal(envelope_encode(&e, &s->envelope, &s->envelope_len), 0);
	spool_item_message(&s->item, (struct span){ s->envelope, s->envelope_len }, NULL, 0, l);
	s->item.done = fixture_on_done;
	s->item.arg = s;
	spool_writer_submit(f->writer, &s->item);
	fixture_await(f, s);
	assert_int_equal(s->item.result, 0);
	fixture_stop(f);
	fixture_list(f, &list, NULL, NULL, true);
	assert_int_equal(list.n, 1);
	assert_int_equal(list.n_damage, 0);
	body = fixture_body(f, s->item.location, &len);
	assert_int_equal(len, 500000);
	assert_int_equal(body[5000], 'b');
	free(body);
	fixture_free(s);
}

/* A damaged large body: its last byte never leaves. */
static void
a_damaged_large_body_is_noticed(void **state)
{
	struct fixture *f = *state;
	struct spool_store *store;
	struct spool_body *body;
	char name[LARGE_NAME_MAX], buf[4096];
	struct envelope e;
	struct large *l;
	ssize_t n;
	uint64_t at = 0;
	int fd;

	assert_int_equal(large_create(f->dirfd, 0x1234567, &l), 0);
	memset(buf, 'q', sizeof(buf));
	for (int i = 0; i < 10; i++)
		assert_int_equal(large_append(l, (struct span){ buf, sizeof(buf) }), 0);
	e = fixture_envelope(0x1234567, large_bytes(l));
	e.flags |= ENVELOPE_LARGE;
	e.body_checksum = large_checksum(l);
	assert_int_equal(large_sync(l), 0);
	large_close(l);
	large_name(e.id, name);
	fd = openat(f->dirfd, name, O_WRONLY);
	assert_int_equal(pwrite(fd, "Q", 1, 5), 1);
	close(fd);
	assert_int_equal(spool_store_open(f->dirfd, false, &store), 0);
	e.body_bytes++; /* it is shorter than its envelope says */
	assert_int_equal(
	    spool_store_body(store, (struct spool_location){ 0 }, &e, &body), -EBADMSG);
	e.body_bytes--;
	assert_int_equal(spool_store_body(store, (struct spool_location){ 0 }, &e, &body), 0);
	while ((n = spool_body_read(body, at, buf, sizeof(buf))) > 0)
		at += (uint64_t)n;
	assert_int_equal(n, -EBADMSG);
	assert_int_equal(at, 9 * 4096);
	spool_body_close(body);
	assert_int_equal(spool_store_free_large(store, e.id), 0);
	assert_int_equal(spool_store_free_large(store, e.id), 0);
	spool_store_close(store);
}

static void
numbers_never_go_back_and_ids_are_never_used_again(void **state)
{
	struct fixture *f = *state;
	uint64_t last = 0, id;
	struct spool_store *store;
	uint32_t *numbers;
	size_t n;

	for (int i = 0; i < 5; i++) {
		fixture_writer(f, SEGMENT_INTAKE, NULL);
		assert_int_equal(fixture_send(f, "x", 1, &id, NULL), 0);
		assert_true(id > last);
		last = id;
		fixture_stop(f);
		assert_int_equal(segment_list(f->dirfd, SEGMENT_NAME_INTAKE, &numbers, &n), 0);
		assert_int_equal(spool_store_open(f->dirfd, false, &store), 0);
		for (size_t k = 0; k < n; k++) {
			assert_int_equal(numbers[k] % 2, 0);
			assert_int_equal(spool_store_free_segment(store, numbers[k]), 0);
		}
		free(numbers);
		spool_store_close(store);
		assert_int_equal(segment_list(f->dirfd, SEGMENT_NAME_FREE, &numbers, &n), 0);
		assert_true(n <= 3);
		free(numbers);
	}
}

/* A recycled file holds old records under an old salt: none of them is seen. */
static void
a_recycled_segment_shows_nothing_of_before(void **state)
{
	struct fixture *f = *state;
	struct spool_store *store;
	struct spool_location at;
	struct listed l;

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	for (int i = 0; i < 20; i++)
		assert_int_equal(fixture_send(f, "old", 3, NULL, &at), 0);
	fixture_stop(f);
	assert_int_equal(spool_store_open(f->dirfd, false, &store), 0);
	assert_int_equal(spool_store_free_segment(store, at.segment), 0);
	spool_store_close(store);
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "new", 3, NULL, NULL), 0);
	fixture_list(f, &l, NULL, NULL, false);
	assert_int_equal(l.n, 1);
	assert_int_equal(l.n_damage, 0);
}

static void
the_page_says_how_far_and_a_follower_gives_each_message_once(void **state)
{
	struct fixture *f = *state;
	struct catalog *catalog;
	struct catalog_options options;
	struct shared_page *page;
	struct spool_store *store;
	static struct listed l;
	uint64_t id[3];
	int fd;

	assert_int_equal(shared_page_create(&fd, &page), 0);
	fixture_writer(f, SEGMENT_INTAKE, page);
	assert_int_equal(fixture_send(f, "one", 3, &id[0], NULL), 0);
	assert_int_equal(spool_store_open(f->dirfd, false, &store), 0);
	memset(&l, 0, sizeof(l));
	options = (struct catalog_options){ .dirfd = f->dirfd,
		.store = store,
		.page = page,
		.message = fixture_on_message,
		.segment = fixture_on_segment,
		.damage = fixture_on_damage,
		.arg = &l };
	assert_int_equal(catalog_open(&options, &catalog), 0);
	assert_int_equal(catalog_step(catalog, 100), 0);
	assert_true(catalog_is_read(catalog));
	assert_int_equal(l.n, 1);
	assert_int_equal(fixture_send(f, "two", 3, &id[1], NULL), 0);
	assert_int_equal(fixture_send(f, "three", 5, &id[2], NULL), 0);
	assert_int_equal(catalog_step(catalog, 1), 1);
	assert_int_equal(l.n, 2);
	assert_int_equal(catalog_step(catalog, 100), 0);
	assert_int_equal(catalog_step(catalog, 100), 0);
	assert_int_equal(l.n, 3);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(l.ids[i], id[i]);
	fixture_stop(f);
	assert_int_equal(catalog_step(catalog, 100), 0);
	assert_int_equal(l.n_segments, 1);
	assert_int_equal(l.n_damage, 0);
	assert_int_equal(spool_store_free_segment(store, l.segments[0].number), 0);
	catalog_close(catalog);
	spool_store_close(store);
	shared_page_unmap(page);
	close(fd);
}

/* A segment that the page has forgotten, because its slot was used again, is still found. */
static void
a_segment_without_a_slot_is_found_in_the_directory(void **state)
{
	struct fixture *f = *state;
	struct catalog *catalog;
	struct catalog_options options;
	struct shared_page *page;
	struct spool_store *store;
	static struct listed l;
	uint64_t id;
	int fd;

	assert_int_equal(shared_page_create(&fd, &page), 0);
	assert_int_equal(spool_store_open(f->dirfd, false, &store), 0);
	memset(&l, 0, sizeof(l));
	options = (struct catalog_options){ .dirfd = f->dirfd,
		.store = store,
		.page = page,
		.message = fixture_on_message,
		.segment = fixture_on_segment,
		.damage = fixture_on_damage,
		.arg = &l };
	assert_int_equal(catalog_open(&options, &catalog), 0);
	fixture_writer(f, SEGMENT_INTAKE, page);
	assert_int_equal(fixture_send(f, "one", 3, &id, NULL), 0);
	fixture_stop(f);
	for (unsigned i = 0; i < SHARED_PAGE_SLOTS; i++)
		atomic_store(&page->slots[i].segment_number, 0);
	assert_int_equal(catalog_step(catalog, 100), 0);
	assert_int_equal(l.ids[0], id);
	assert_int_equal(l.n_segments, 1);
	assert_int_equal(catalog_step(catalog, 100), 0);
	assert_int_equal(l.n, 1);
	catalog_close(catalog);
	spool_store_close(store);
	shared_page_unmap(page);
	close(fd);
}

/* The writer was about to give a segment its name, and failed or died. Its number comes once more. */
static void
a_number_that_had_no_segment_is_followed_when_it_has(void **state)
{
	struct fixture *f = *state;
	struct catalog *catalog;
	struct catalog_options options;
	struct spool_location at;
	struct shared_page *page;
	struct spool_store *store;
	char name[SEGMENT_NAME_MAX];
	static struct listed l;
	uint64_t id;
	int fd;

	assert_int_equal(shared_page_create(&fd, &page), 0);
	assert_int_equal(spool_store_open(f->dirfd, false, &store), 0);
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "one", 3, &id, &at), 0);
	fixture_stop(f);
	segment_name(SEGMENT_INTAKE, at.segment, name);
	assert_int_equal(renameat(f->dirfd, name, f->dirfd, "away"), 0);
	memset(&l, 0, sizeof(l));
	options = (struct catalog_options){ .dirfd = f->dirfd,
		.store = store,
		.page = page,
		.message = fixture_on_message,
		.arg = &l };
	assert_int_equal(catalog_open(&options, &catalog), 0);
	assert_true(shared_page_take_slot(page, at.segment, RECORD_BLOCK, false));
	assert_int_equal(catalog_step(catalog, 100), 0);
	atomic_store(&shared_page_slot(page, at.segment)->state, SHARED_SLOT_FREE);
	assert_int_equal(catalog_step(catalog, 100), 0);
	assert_false(catalog_is_over(catalog, at.segment));
	assert_int_equal(renameat(f->dirfd, "away", f->dirfd, name), 0);
	assert_true(shared_page_take_slot(page, at.segment, 2 * RECORD_BLOCK, false));
	assert_int_equal(catalog_step(catalog, 100), 0);
	assert_int_equal(l.n, 1);
	assert_int_equal(l.ids[0], id);
	atomic_store(&shared_page_slot(page, at.segment)->state, SHARED_SLOT_SEALED);
	assert_int_equal(catalog_step(catalog, 100), 0);
	assert_true(catalog_is_over(catalog, at.segment));
	catalog_close(catalog);
	spool_store_close(store);
	shared_page_unmap(page);
	close(fd);
}

/* Intake dies: its live segment is read like after a crash, what was not published as well. */
static void
an_orphan_is_read_to_the_end(void **state)
{
	struct fixture *f = *state;
	struct catalog *catalog;
	struct catalog_options options;
	struct shared_page *page;
	struct spool_store *store;
	static struct listed l;
	uint64_t id[2];
	int fd;

	assert_int_equal(shared_page_create(&fd, &page), 0);
	assert_int_equal(spool_store_open(f->dirfd, false, &store), 0);
	memset(&l, 0, sizeof(l));
	options = (struct catalog_options){ .dirfd = f->dirfd,
		.store = store,
		.page = page,
		.message = fixture_on_message,
		.segment = fixture_on_segment,
		.damage = fixture_on_damage,
		.arg = &l };
	assert_int_equal(catalog_open(&options, &catalog), 0);
	fixture_writer(f, SEGMENT_INTAKE, page);
	assert_int_equal(fixture_send(f, "one", 3, &id[0], NULL), 0);
	assert_int_equal(catalog_step(catalog, 100), 0);
	assert_int_equal(l.n, 1);
	assert_int_equal(fixture_send(f, "two", 3, &id[1], NULL), 0);
	for (unsigned i = 0; i < SHARED_PAGE_SLOTS; i++) /* as if it died before it published */
		if (atomic_load(&page->slots[i].committed_bytes) > RECORD_BLOCK)
			atomic_store(&page->slots[i].committed_bytes, 2 * RECORD_BLOCK);
	assert_true(shared_page_orphan(page, getpid()) > 0);
	assert_int_equal(catalog_step(catalog, 100), 0);
	assert_int_equal(l.n, 2);
	assert_int_equal(l.ids[1], id[1]);
	assert_true(l.n_segments >= 1);
	assert_int_equal(catalog_step(catalog, 100), 0);
	assert_int_equal(l.n, 2);
	catalog_close(catalog);
	spool_store_close(store);
	fixture_stop(f);
	shared_page_unmap(page);
	close(fd);
}

/* Whoever takes a slot may die between any two of its stores. */
static void
a_slot_is_not_lost_when_its_taker_dies(void **state)
{
	enum { DEAD = 4000001, OTHER = 77 };
	struct shared_page *page;
	struct shared_slot *slot;
	int fd;

	(void)state;
	assert_int_equal(shared_page_create(&fd, &page), 0);
	slot = shared_page_slot(page, 1000);
	atomic_store(&slot->owner_pid, OTHER); /* from before */
	atomic_store(&slot->state, shared_slot_taken_by(DEAD));
	assert_false(shared_page_take_slot(page, 1000, RECORD_BLOCK, true));
	assert_int_equal(shared_page_orphan(page, OTHER), 0);
	assert_false(shared_page_take_slot(page, 1000, RECORD_BLOCK, true));
	assert_int_equal(shared_page_orphan(page, DEAD), 0); /* nothing to read in it */
	assert_true(shared_page_take_slot(page, 1000, RECORD_BLOCK, false));
	assert_false(shared_page_take_slot(page, 1000 + SHARED_PAGE_SLOTS, RECORD_BLOCK, true));
	assert_int_equal(shared_page_orphan(page, getpid()), 1);
	shared_page_unmap(page);
	close(fd);
}

/* All places of a message lie between its ID's segment and the last one (journal.h): so a copy never goes
 * into a segment that is older than the one it comes from. */
static void
a_copy_stands_in_a_later_segment_than_the_original(void **state)
{
	struct fixture *f = *state;
	struct spool_location from = { 0 };
	struct iovec body = { (void *)(uintptr_t) "body", 4 };
	struct spool_writer *delivery;
	struct sent *s;

	fixture_writer(f, SEGMENT_DELIVERY, NULL); /* it and its spare are older */
	assert_int_equal(fixture_send(f, "dsn", 3, NULL, NULL), 0);
	delivery = f->writer;
	for (int i = 0; i < 2; i++) {
		fixture_writer(f, SEGMENT_INTAKE, NULL);
		assert_int_equal(fixture_send(f, "body", 4, NULL, &from), 0);
		fixture_stop(f);
	}
	f->writer = delivery;
	s = fixture_message(f, "body", 4);
	spool_item_copy(
	    &s->item, from.segment, (struct span){ s->envelope, s->envelope_len }, &body);
	s->item.done = fixture_on_done;
	s->item.arg = s;
	spool_writer_submit(f->writer, &s->item);
	fixture_await(f, s);
	assert_int_equal(s->item.result, 0);
	assert_true(s->item.location.segment > from.segment);
	fixture_free(s);
}

/* A name that is not ours: what comes behind it would be another one's number, or none. */
static void
a_number_that_no_clock_gave_is_refused(void **state)
{
	struct fixture *f = *state;
	int fd = openat(f->dirfd, "free-4294967290.seg", O_WRONLY | O_CREAT, 0600);

	close(fd);
	assert_int_equal(fixture_try_writer(f, SEGMENT_INTAKE, NULL), -EOVERFLOW);
}

/* A free file that has another name as well, or another size, as an operator may have left it. */
static void
a_free_file_is_used_again_only_if_it_is_ours(void **state)
{
	static const char theirs[] = "not to be overwritten";
	char name[SEGMENT_NAME_MAX], bytes[sizeof(theirs)];
	struct fixture *f = *state;
	uint32_t *numbers;
	struct stat st;
	size_t n;
	int fd;

	fd = openat(f->dirfd, "theirs", O_RDWR | O_CREAT, 0600);
	assert_int_equal(write(fd, theirs, sizeof(theirs)), sizeof(theirs));
	assert_int_equal(linkat(f->dirfd, "theirs", f->dirfd, "free-1000.seg", 0), 0);
	close(openat(f->dirfd, "free-1002.seg", O_RDWR | O_CREAT, 0600));
	fd = openat(f->dirfd, "free-1004.seg", O_RDWR | O_CREAT, 0600);
	assert_int_equal(ftruncate(fd, 3 * SMALL_SEGMENT), 0);
	close(fd);
	for (int i = 0; i < 4; i++) {
		fixture_writer(f, SEGMENT_INTAKE, NULL);
		assert_int_equal(fixture_send(f, "hello", 5, NULL, NULL), 0);
		fixture_stop(f);
	}
	fd = openat(f->dirfd, "theirs", O_RDONLY);
	assert_int_equal(read(fd, bytes, sizeof(bytes)), sizeof(bytes));
	assert_memory_equal(bytes, theirs, sizeof(theirs));
	close(fd);
	assert_int_equal(segment_list(f->dirfd, SEGMENT_NAME_INTAKE, &numbers, &n), 0);
	assert_int_equal(n, 4);
	for (size_t i = 0; i < n; i++) {
		segment_name(SEGMENT_INTAKE, numbers[i], name);
		assert_int_equal(fstatat(f->dirfd, name, &st, 0), 0);
		assert_int_equal(st.st_size, SMALL_SEGMENT);
	}
	free(numbers);
}

/* The header of a segment as the writer makes it stands there twice. */
static void
a_first_block_may_be_lost(void **state)
{
	struct fixture *f = *state;
	struct spool_location at;
	char name[SEGMENT_NAME_MAX];
	static struct listed l;
	int fd;

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "hello", 5, NULL, &at), 0);
	fixture_stop(f);
	segment_name(SEGMENT_INTAKE, at.segment, name);
	fd = openat(f->dirfd, name, O_WRONLY);
	assert_int_equal(pwrite(fd, "XXXXXXXX", 8, 0), 8);
	close(fd);
	fixture_list(f, &l, NULL, NULL, false);
	assert_int_equal(l.n, 1);
}

static void
who_only_looks_changes_nothing(void **state)
{
	struct spool_damage damage = { .length_bytes = 1 };
	struct fixture *f = *state;
	struct spool_store *store;
	struct spool_location at;
	static struct listed l;

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "hello", 5, NULL, &at), 0);
	fixture_stop(f);
	assert_int_equal(spool_store_open(f->dirfd, true, &store), 0);
	assert_int_equal(spool_store_free_segment(store, at.segment), -EROFS);
	assert_int_equal(spool_store_free_large(store, 1), -EROFS);
	assert_int_equal(spool_store_quarantine(store, &damage), -EROFS);
	spool_store_close(store);
	fixture_list(f, &l, NULL, NULL, false);
	assert_int_equal(l.n, 1);
}

int
main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_message_comes_back_as_it_was),
		TEST(bodies_of_every_length_come_back),
		TEST(envelope_and_body_come_together),
		TEST(many_messages_go_through_many_segments),
		TEST(a_message_that_never_fits_is_told_so),
		TEST(a_large_body_stands_apart),
		TEST(a_damaged_large_body_is_noticed),
		TEST(numbers_never_go_back_and_ids_are_never_used_again),
		TEST(a_recycled_segment_shows_nothing_of_before),
		TEST(the_page_says_how_far_and_a_follower_gives_each_message_once),
		TEST(a_segment_without_a_slot_is_found_in_the_directory),
		TEST(a_number_that_had_no_segment_is_followed_when_it_has),
		TEST(an_orphan_is_read_to_the_end),
		TEST(a_slot_is_not_lost_when_its_taker_dies),
		TEST(a_copy_stands_in_a_later_segment_than_the_original),
		TEST(a_number_that_no_clock_gave_is_refused),
		TEST(a_free_file_is_used_again_only_if_it_is_ours),
		TEST(a_first_block_may_be_lost),
		TEST(who_only_looks_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
