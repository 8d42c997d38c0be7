/* test_spool_faults.c - the promises while the operating system fails. For each kind of call the Nth fails,
 * once or from then on, N = 1, 2, ... until a run has no fault left: while mail comes in, is delivered and
 * freed, and while a process recovers. After each run, and in the middle of it, the power is cut. */
#include "base/os.h"
#include "figures.h"
#include "spool_play.h"

#include "spool/group.h"

static unsigned long runs, kills;

static const struct fault {
	enum os_call call;
	int error, sticky_error; /* 0: none of that kind */
} faults[] = {
	{ OS_CALL_OPEN, EMFILE, EMFILE },
	{ OS_CALL_CLOSE, EIO, EIO },
	{ OS_CALL_WRITE, EIO, ENOSPC },
	{ OS_CALL_SHORT_WRITE, 1, 1 },
	{ OS_CALL_READ, EIO, EIO },
	{ OS_CALL_SHORT_READ, 1, 1 },
	{ OS_CALL_FDATASYNC, EIO, EIO },
	{ OS_CALL_FSYNC, EIO, ENOSPC },
	{ OS_CALL_SYNC_DIRECTORY, EIO, EIO },
	{ OS_CALL_ALLOCATE, ENOSPC, EDQUOT },
	{ OS_CALL_TRUNCATE, EIO, EIO },
	{ OS_CALL_FSTAT, EIO, EIO },
	{ OS_CALL_RENAME, EROFS, EROFS },
	{ OS_CALL_UNLINK, EROFS, EROFS },
	{ OS_CALL_LIST, EIO, ENOMEM },
	{ OS_CALL_LOCK, ENOLCK, ENOLCK },
	{ OS_CALL_RANDOM, EIO, EIO },
	{ OS_CALL_EVENT, EMFILE, EMFILE },
	{ OS_CALL_MEMORY, ENOMEM, ENOMEM },
};

/* The power is cut at some of the syncs after the fault. */
static void
on_moment(void *arg, struct os_disk *d, enum os_moment moment)
{
	struct play *p = arg;
	struct os_disk *image;
	struct ledger *ledger;

	if (moment == OS_MOMENT_CHANGE || !os_disk_has_failed(d) || ++kills % 5 != 0)
		return;
	ledger = play_ledger_copy(p->ledger);
	image = kills % 2 != 0 ? os_disk_kill(d)
	                       : os_disk_cut(d, (struct os_luck){ OS_LUCK_CHANCE, kills });
	play_check(image, ledger);
	os_disk_free(image);
	free(ledger);
}

/* One run; false: nothing was left to fail. */
static bool
run(void (*scenario)(struct play *p), enum os_call call, unsigned n, int error, bool sticky)
{
	struct os_disk *d = os_disk_new();
	struct ledger *ledger = calloc(1, sizeof(*ledger));
	struct play *p = play_new(d, ledger);
	bool has_failed;

	play_say("%s %u fails%s", os_call_name(call), n, sticky ? ", and all after it" : "");
	must(segment_prepare_directory(os_disk_root(d)) == 0);
	os_disk_fail_luck(d, (struct os_luck){ OS_LUCK_CHANCE, n });
	os_disk_fail(d, call, n, error, sticky);
	os_disk_watch(d, on_moment, p);
	scenario(p);
	os_disk_watch(d, NULL, NULL);
	has_failed = os_disk_has_failed(d);
	os_disk_heal(d);
	play_free(p);
	play_is_sound(d);
	play_check_ends(d, ledger, n);
	os_disk_free(d);
	free(ledger);
	runs++;
	return has_failed;
}

static void
run_all(void (*scenario)(struct play *p))
{
	for (size_t k = 0; k < ARRAY_LEN(faults); k++)
		for (unsigned sticky = 0; sticky < 2; sticky++) {
			int error = sticky ? faults[k].sticky_error : faults[k].error;
			unsigned n = 1;

			while (run(scenario, faults[k].call, n, error, sticky)) {
				n += fault_is_long() ? 1 : 1 + n / 2;
				must(n < 2000); /* it ends */
			}
		}
}

static void
promises_hold_whatever_call_fails(void **state)
{
	(void)state;
	run_all(play_day);
}

/* --- recovery --------------------------------------------------------------------------------------- */

/* A spool as a bad day leaves it: several segments, journals, a deferred, a done and a large message, an
 * orphan in large/, a REVOKE, torn tails, and a message whose bytes have changed. */
static struct os_disk *
make_ruin(struct ledger *ledger)
{
	struct os_disk *d = os_disk_new(), *ruin;
	struct play *p = play_new(d, ledger);
	struct play_found *found = calloc(1, sizeof(*found));
	char name[SEGMENT_NAME_MAX];
	struct large *orphan;
	uint8_t byte;

	play_say("a ruin is made");
	must(segment_prepare_directory(p->dirfd) == 0);
	os_disk_heal(d);
	must(play_open_intake(p) == 0 && play_open_delivery(p) == 0);
	play_send(p, 6, 600);
	play_send_large(p, 5000);
	play_deliver(p); /* two are deferred, the others done */
	play_send(p, 4, 9000);
	play_send_large(p, 7000);
	play_send_letter(p, 500);
	os_disk_fail_luck(d, (struct os_luck){ OS_LUCK_ALL, 0 });
	do { /* what fails may be the sync of an outcome */
		os_disk_fail(d, OS_CALL_FDATASYNC, 1, EIO, false);
		play_send(p, 2, 700); /* revoked */
	} while (atomic_load(&ledger->list[ledger->n - 1].result) != -EAGAIN);
	os_disk_heal(d);
	play_send(p, 3, 20000);
	must(large_create(p->dirfd, queue_id_make(1, 1), &orphan) == 0);
	must(large_append(orphan, SPAN("nobody's")) == 0 && large_sync(orphan) == 0);
	large_close(orphan);
	os_disk_fail_luck(d, (struct os_luck){ OS_LUCK_CHANCE, 3 });
	os_disk_fail(d, OS_CALL_FDATASYNC, 1, EIO, true);
	play_send(p, 2, 3000); /* torn: nobody gets an answer */
	ruin = os_disk_cut(d, (struct os_luck){ OS_LUCK_CHANCE, 3 });
	os_disk_heal(d);
	play_free(p);
	os_disk_free(d);

	must(segment_prepare_directory(os_disk_root(ruin)) == 0);
	must(play_look(ruin, ledger, false, found) == 0);
	must(found->seen[8] == 1 && ledger->list[8].result == 0);
	segment_name(segment_kind_of(found->at[8].segment), found->at[8].segment, name);
	must(
	    os_disk_peek(ruin, name, found->at[8].offset + RECORD_HEADER_BYTES + 5, &byte, 1) == 1);
	byte ^= 4;
	os_disk_poke(ruin, name, found->at[8].offset + RECORD_HEADER_BYTES + 5, &byte, 1);
	free(found);
	return ruin;
}

/* After a recovery with failing calls: what was lost was told, and nothing was made worse. */
static void
compare_recovery(const struct play_found *found, const struct play_found *healthy, int r)
{
	bool was_told = r < 0 || found->n_damage > healthy->n_damage;

	for (unsigned i = 0; i < found->ledger->n && r == 0; i++)
		must(found->seen[i] == healthy->seen[i] || was_told);
	must(!found->forgotten || was_told);
}

static void
recover_with(struct os_disk *ruin, const struct ledger *ledger, const struct play_found *healthy,
    enum os_call call, unsigned n, int error, bool sticky, bool with_delivery, bool *has_failed)
{
	struct play_found *found = calloc(2, sizeof(*found)), *after = found + 1;
	struct os_disk *d = os_disk_kill(ruin), *cut;
	struct ledger *copy = play_ledger_copy(ledger);
	int r;

	play_say(
	    "recovery: %s %u fails%s", os_call_name(call), n, sticky ? ", and all after it" : "");
	os_disk_fail(d, call, n, error, sticky);
	found->is_quiet = after->is_quiet = true;
	if (with_delivery) {
		struct play *p = play_new(d, copy);

		(void)!play_open_delivery(p);
		play_free(p);
	} else {
		r = play_look(d, ledger, true, found);
		compare_recovery(found, healthy, r);
	}
	*has_failed = os_disk_has_failed(d);
	os_disk_heal(d);
	play_is_sound(d);
	/* a healthy one, after a power cut, gives everything */
	cut = os_disk_cut(d, (struct os_luck){ OS_LUCK_CHANCE, n });
	must(segment_prepare_directory(os_disk_root(cut)) == 0);
	must(play_look(cut, ledger, true, after) == 0);
	for (unsigned i = 0; i < ledger->n; i++)
		must(after->seen[i] == healthy->seen[i]);
	must(after->n_damage == healthy->n_damage && !after->forgotten);
	play_is_sound(cut);
	os_disk_free(cut);
	os_disk_free(d);
	free(copy);
	free(found);
	runs++;
}

static void
recovery_loses_nothing_whatever_call_fails(void **state)
{
	struct ledger *ledger = calloc(1, sizeof(*ledger));
	struct play_found *healthy = calloc(1, sizeof(*healthy));
	struct os_disk *ruin = make_ruin(ledger), *copy = os_disk_kill(ruin);

	(void)state;
	healthy->is_quiet = true;
	must(play_look(copy, ledger, true, healthy) == 0);
	must(healthy->sum.corrupt_ranges == 1 && healthy->sum.revoked > 0);
	must(healthy->sum.torn_ranges > 0 && healthy->sum.done > 0 && healthy->sum.messages > 5);
	os_disk_free(copy);
	for (size_t k = 0; k < ARRAY_LEN(faults); k++)
		for (unsigned mode = 0; mode < 4; mode++) {
			bool sticky = mode & 1, has_failed = true;

			for (unsigned n = 1; has_failed; n += fault_is_long() ? 1 : 1 + n / 4) {
				recover_with(ruin, ledger, healthy, faults[k].call, n,
				    sticky ? faults[k].sticky_error : faults[k].error, sticky,
				    mode & 2, &has_failed);
				must(n < 2000);
			}
		}
	os_disk_free(ruin);
	free(healthy);
	free(ledger);
}

/* --- one at a time ------------------------------------------------------------------------------ */

static struct os_disk *disk;

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	disk = os_disk_new();
	f->dirfd = os_disk_root(disk);
	assert_int_equal(segment_prepare_directory(f->dirfd), 0);
	os_disk_heal(disk);
	*state = f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	spool_writer_close(f->writer);
	assert_int_equal(os_disk_open_files(disk), 0);
	assert_null(os_disk_violation(disk));
	os_disk_free(disk);
	os_disk_set_clock(0);
	free(f);
	return 0;
}

static void
a_failed_sync_is_revoked_and_the_next_segment_is_used(void **state)
{
	struct fixture *f = *state;
	struct spool_location before, after;
	struct spool_store *store;
	uint64_t good, refused, later;
	static struct listed l;

	os_disk_fail_luck(disk, (struct os_luck){ OS_LUCK_ALL, 0 });
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "good", 4, &good, &before), 0);
	os_disk_fail(disk, OS_CALL_FDATASYNC, 1, EIO, false);
	assert_int_equal(fixture_send(f, "refused", 7, &refused, NULL), -EAGAIN);
	assert_int_equal(os_disk_count(disk, OS_CALL_FDATASYNC), 2); /* the group, the REVOKE */
	assert_false(spool_writer_is_failed(f->writer));
	assert_int_equal(f->reports[SPOOL_REPORT_FAILED], 1);
	assert_int_equal(f->last_report.error, EIO);
	assert_int_equal(f->last_report.revoked, 1);
	assert_string_equal(f->last_report.operation, "sync");
	assert_int_equal(fixture_send(f, "later", 5, &later, &after), 0);
	assert_true(after.segment > before.segment);
	os_disk_heal(disk);

	/* All its bytes are in the file, and yet it never comes back. */
	assert_int_equal(spool_store_open(f->dirfd, false, &store), 0);
	fixture_list(f, &l, store, NULL, true);
	assert_int_equal(l.n, 2);
	assert_true(fixture_lists(&l, good));
	assert_true(fixture_lists(&l, later));
	assert_int_equal(l.sum.revoked, 1);

	/* What holds the REVOKE stays as long as what it revokes, and goes with it. */
	fixture_stop(f);
	assert_int_equal(spool_store_free_segment(store, after.segment), -EBUSY);
	fixture_list(f, &l, NULL, NULL, false);
	assert_false(fixture_lists(&l, refused));
	assert_int_equal(spool_store_free_segment(store, before.segment), 0);
	fixture_list(f, &l, NULL, NULL, false);
	assert_int_equal(l.n, 0);
	assert_int_equal(l.n_segments, 0);
	spool_store_close(store);
	assert_null(os_disk_violation(disk));
}

static void
when_it_cannot_be_revoked_nothing_is_said(void **state)
{
	struct fixture *f = *state;
	uint64_t id;

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	os_disk_fail(disk, OS_CALL_FDATASYNC, 1, EIO, true);
	assert_int_equal(fixture_send(f, "x", 1, &id, NULL), -EIO);
	os_disk_heal(disk);
	assert_null(os_disk_violation(disk));
}

static void
a_failed_writer_refuses_and_comes_back_by_itself(void **state)
{
	struct fixture *f = *state;
	static const char body[SMALL_SEGMENT / 16];
	struct shared_page *page;
	int fd;

	assert_int_equal(shared_page_create(&fd, &page), 0);
	fixture_writer(f, SEGMENT_INTAKE, page);
	os_disk_fail(disk, OS_CALL_ALLOCATE, 1, ENOSPC, true);
	for (unsigned n = 0; fixture_send(f, body, sizeof(body), NULL, NULL) == 0; n++)
		assert_true(n < 3 * SMALL_SEGMENT / sizeof(body)); /* this file, and the next one */
	assert_true(spool_writer_is_failed(f->writer));
	assert_int_equal(atomic_load(&page->spool_failed), ENOSPC);
	assert_int_equal(fixture_send(f, "full", 4, NULL, NULL), -EAGAIN);
	assert_int_equal(f->reports[SPOOL_REPORT_DOWN], 1);
	os_disk_heal(disk);
	for (int i = 0; i < 500 && spool_writer_is_failed(f->writer); i++)
		usleep(10000);
	assert_false(spool_writer_is_failed(f->writer));
	assert_int_equal(atomic_load(&page->spool_failed), 0);
	assert_int_equal(fixture_send(f, "well", 4, NULL, NULL), 0);
	assert_int_equal(f->reports[SPOOL_REPORT_RECOVERED], 1);
	fixture_stop(f);
	assert_null(os_disk_violation(disk));
	shared_page_unmap(page);
	close(fd);
}

static void
a_writer_that_finds_no_room_begins_when_there_is_some(void **state)
{
	struct fixture *f = *state;
	struct shared_page *page;
	uint64_t id;
	int fd;

	assert_int_equal(shared_page_create(&fd, &page), 0);
	os_disk_fail(disk, OS_CALL_ALLOCATE, 1, EDQUOT, true);
	fixture_writer(f, SEGMENT_INTAKE, page);
	assert_true(spool_writer_is_failed(f->writer));
	assert_int_equal(atomic_load(&page->spool_failed), EDQUOT);
	assert_int_equal(spool_writer_next_id(f->writer), 0);
	assert_int_equal(fixture_send(f, "full", 4, NULL, NULL), -EAGAIN);
	assert_int_equal(f->reports[SPOOL_REPORT_DOWN], 1);
	os_disk_heal(disk);
	for (int i = 0; i < 500 && spool_writer_is_failed(f->writer); i++)
		usleep(10000);
	assert_int_not_equal(spool_writer_next_id(f->writer), 0); /* at once: MAIL asks for it */
	assert_int_equal(atomic_load(&page->spool_failed), 0);
	assert_int_equal(fixture_send(f, "well", 4, &id, NULL), 0);
	assert_int_equal(f->reports[SPOOL_REPORT_RECOVERED], 1);
	fixture_stop(f);
	assert_null(os_disk_violation(disk));
	shared_page_unmap(page);
	close(fd);
}

static void
an_outcome_is_written_again_in_the_next_journal(void **state)
{
	struct journal_outcome o = { .id = queue_id_make(1000, 1), .flags = JOURNAL_DONE };
	struct fixture *f = *state;
	struct journal_index *index;

	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	os_disk_fail(disk, OS_CALL_FDATASYNC, 1, EIO, false);
	assert_int_equal(fixture_outcome(f, &o), 0);
	os_disk_heal(disk);
	fixture_stop(f);
	assert_int_equal(journal_index_open(f->dirfd, NULL, true, NULL, NULL, &index), 0);
	assert_true(journal_index_is_done(index, o.id));
	journal_index_close(index);
	assert_null(os_disk_violation(disk));
}

/* F8: what the page cache says about files of a dead process is not believed. */
static void
recovery_syncs_and_forgets_before_it_reads(void **state)
{
	struct fixture *f = *state;
	static struct listed l;

	fixture_writer(f, SEGMENT_JOURNAL, NULL);
	fixture_stop(f);
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "x", 1, NULL, NULL), 0);
	fixture_stop(f);
	os_disk_heal(disk);
	fixture_list(f, &l, NULL, NULL, false);
	assert_int_equal(l.n, 1);
	assert_int_equal(os_disk_count(disk, OS_CALL_FSYNC), 2);
	assert_int_equal(os_disk_count(disk, OS_CALL_DROP_CACHE), 2);
}

/* Freeing: the one with the REVOKE must not go before what it revokes, whatever a cut leaves of both. */
static void
what_was_refused_stays_away_when_both_files_go(void **state)
{
	struct fixture *f = *state;
	struct spool_location before, after;
	struct spool_store *store;
	static struct listed l;
	uint64_t refused;

	os_disk_fail_luck(disk, (struct os_luck){ OS_LUCK_ALL, 0 });
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "good", 4, NULL, &before), 0);
	os_disk_fail(disk, OS_CALL_FDATASYNC, 1, EIO, false);
	assert_int_equal(fixture_send(f, "refused", 7, &refused, NULL), -EAGAIN);
	os_disk_heal(disk);
	assert_int_equal(fixture_send(f, "later", 5, NULL, &after), 0);
	fixture_stop(f);
	assert_int_equal(os_fsync(f->dirfd), 0);
	assert_int_equal(spool_store_open(f->dirfd, false, &store), 0);
	fixture_list(f, &l, store, NULL, true);
	assert_int_equal(l.sum.revoked, 1);
	assert_int_equal(spool_store_free_segment(store, after.segment), -EBUSY);
	assert_int_equal(spool_store_free_segment(store, before.segment), 0);
	spool_store_close(store);
	for (uint64_t set = 0; set < 1u << os_disk_pieces(disk); set++) {
		struct os_disk *image = os_disk_cut(disk, (struct os_luck){ OS_LUCK_SUBSET, set });
		struct fixture at = { .dirfd = os_disk_root(image) };

		fixture_list(&at, &l, NULL, NULL, false);
		assert_false(fixture_lists(&l, refused));
		os_disk_free(image);
	}
}

static int
on_any_message(void *arg, const struct catalog_message *m)
{
	uint64_t *refused = arg;

	must(m->id != *refused);
	return 0;
}

/* Each call that opens a file fails once: a REVOKE that was not met in time is no reason to give its mail. */
static void
a_revocation_that_is_met_late_starts_again(void **state)
{
	struct fixture *f = *state;
	uint64_t refused;
	bool has_failed = true;

	os_disk_fail_luck(disk, (struct os_luck){ OS_LUCK_ALL, 0 });
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "good", 4, NULL, NULL), 0);
	os_disk_fail(disk, OS_CALL_FDATASYNC, 1, EIO, false);
	assert_int_equal(fixture_send(f, "refused", 7, &refused, NULL), -EAGAIN);
	os_disk_heal(disk);
	fixture_stop(f);
	for (unsigned n = 1; has_failed; n++) {
		struct catalog_options options = { .dirfd = f->dirfd,
			.distrust = true,
			.message = on_any_message,
			.arg = &refused };

		os_disk_fail(disk, OS_CALL_OPEN, n, EMFILE, false);
		(void)!catalog_replay(&options, NULL);
		has_failed = os_disk_has_failed(disk);
		os_disk_heal(disk);
	}
}

/* Those that come while the first is being written: they make a group. */
struct crowd {
	struct spool_writer *writer;
	struct sent *sent[3];
	bool has_come;
};

static void
on_synced(void *arg, struct os_disk *d, enum os_moment moment)
{
	struct crowd *c = arg;

	/* not while the next file is prepared; that is an fsync() */
	if (moment != OS_MOMENT_AFTER_SYNC || os_disk_count(d, OS_CALL_FDATASYNC) != 1 ||
	    c->has_come)
		return;
	c->has_come = true;
	for (size_t i = 0; i < ARRAY_LEN(c->sent); i++)
		spool_writer_submit(c->writer, &c->sent[i]->item);
}

static void
a_revocation_names_all_of_its_group(void **state)
{
	struct fixture *f = *state;
	struct crowd crowd = { 0 };
	static struct listed l;
	uint64_t good;

	os_disk_fail_luck(disk, (struct os_luck){ OS_LUCK_ALL, 0 });
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "the file is there", 17, NULL, NULL), 0);
	crowd.writer = f->writer;
	for (size_t i = 0; i < ARRAY_LEN(crowd.sent); i++)
		crowd.sent[i] = fixture_message(f, "refused", 7);
	os_disk_fail(disk, OS_CALL_FDATASYNC, 2, EIO, false);
	os_disk_watch(disk, on_synced, &crowd);
	assert_int_equal(fixture_send(f, "good", 4, &good, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(crowd.sent); i++) {
		fixture_await(f, crowd.sent[i]);
		assert_int_equal(crowd.sent[i]->item.result, -EAGAIN);
	}
	os_disk_watch(disk, NULL, NULL);
	os_disk_heal(disk);
	assert_int_equal(f->last_report.revoked, ARRAY_LEN(crowd.sent));
	fixture_list(f, &l, NULL, NULL, false);
	assert_int_equal(l.n, 2);
	assert_true(fixture_lists(&l, good));
	for (size_t i = 0; i < ARRAY_LEN(crowd.sent); i++)
		fixture_free(crowd.sent[i]);
}

/* No slot of the page is free, so there is no file that could say that the group is revoked. */
static void
without_a_file_for_the_revocation_nothing_is_said(void **state)
{
	struct fixture *f = *state;
	struct shared_page *page;
	int fd;

	assert_int_equal(shared_page_create(&fd, &page), 0);
	for (unsigned i = 1; i < SHARED_PAGE_SLOTS; i++)
		atomic_store(&page->slots[i].state, SHARED_SLOT_LIVE);
	fixture_writer(f, SEGMENT_INTAKE, page);
	os_disk_fail(disk, OS_CALL_FDATASYNC, 1, EIO, false);
	assert_int_equal(fixture_send(f, "refused", 7, NULL, NULL), -EIO);
	assert_int_equal(f->reports[SPOOL_REPORT_DOWN], 1); /* it may have come back by now */
	os_disk_heal(disk);
	fixture_stop(f);
	shared_page_unmap(page);
	close(fd);
}

/* Whoever reads a sealed file to its end must find the REVOKE as well (I6). */
struct sealing {
	struct shared_page *page;
	uint32_t segment;
	uint64_t refused;
	unsigned looks;
};

static void
on_sealing(void *arg, struct os_disk *d, enum os_moment moment)
{
	struct sealing *s = arg;
	struct os_disk *image;
	static struct listed l;
	struct fixture at;

	(void)moment;
	if (!os_disk_has_failed(d))
		return;
	s->looks++;
	if (atomic_load(&shared_page_slot(s->page, s->segment)->state) != SHARED_SLOT_SEALED)
		return;
	image = os_disk_cut(d, (struct os_luck){ OS_LUCK_NOTHING, 0 });
	at = (struct fixture){ .dirfd = os_disk_root(image) };
	fixture_list(&at, &l, NULL, NULL, false);
	must(!fixture_lists(&l, s->refused));
	os_disk_free(image);
}

static void
a_file_is_sealed_when_its_revocation_is_durable(void **state)
{
	struct fixture *f = *state;
	struct sealing s = { 0 };
	struct sent *refused;
	int fd;

	assert_int_equal(shared_page_create(&fd, &s.page), 0);
	os_disk_fail_luck(disk, (struct os_luck){ OS_LUCK_ALL, 0 });
	fixture_writer(f, SEGMENT_INTAKE, s.page);
	refused = fixture_message(f, "refused", 7);
	s.refused = refused->id;
	s.segment = (uint32_t)(refused->id >> 24);
	os_disk_fail(disk, OS_CALL_FDATASYNC, 1, EIO, false);
	os_disk_watch(disk, on_sealing, &s);
	spool_writer_submit(f->writer, &refused->item);
	fixture_await(f, refused);
	os_disk_watch(disk, NULL, NULL);
	assert_int_equal(refused->item.result, -EAGAIN);
	assert_true(s.looks >= 2);
	fixture_free(refused);
	os_disk_heal(disk);
	fixture_stop(f);
	shared_page_unmap(s.page);
	close(fd);
}

/* A group of more pieces than one write takes: what follows the write that failed is not tried. The disk
 * tells if it is (I5). */
static void
after_a_failed_write_no_other_is_tried(void **state)
{
	enum { PIECES = 3 * GROUP_IOV_MAX };
	static struct iovec body[PIECES];
	struct fixture *f = *state;
	unsigned refused = 0;

	for (size_t i = 0; i < PIECES; i++)
		body[i] = (struct iovec){ (void *)(uintptr_t) "x", 1 };
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	/* the next segment is made beside it: its writes count as well, so it may be that one which fails */
	for (unsigned n = 0; refused < 4 && n < 400; n++) {
		struct sent *s = fixture_message(f, "", 0);

		spool_item_message(
		    &s->item, (struct span){ s->envelope, s->envelope_len }, body, PIECES, NULL);
		os_disk_fail(disk, OS_CALL_WRITE, 1 + n % 4, EIO, false);
		spool_writer_submit(f->writer, &s->item);
		fixture_await(f, s);
		refused += s->item.result != 0;
		fixture_free(s);
		os_disk_heal(disk);
		assert_null(os_disk_violation(disk));
	}
	assert_int_equal(refused, 4);
}

static void
a_large_body_that_failed_is_not_synced(void **state)
{
	struct fixture *f = *state;
	struct large *large;

	assert_int_equal(large_create(f->dirfd, queue_id_make(1000, 1), &large), 0);
	os_disk_fail(disk, OS_CALL_WRITE, 1, EIO, false);
	assert_int_equal(large_append(large, SPAN("hello")), -EIO);
	os_disk_heal(disk);
	assert_int_equal(large_sync(large), -EIO);
	assert_int_equal(os_disk_count(disk, OS_CALL_FSYNC), 0);
	large_drop(large);
}

/* Sends a message with a large body; gives its result and whether large/ID is there afterwards. */
static int
send_large(struct fixture *f, bool *is_there)
{
	struct sent *s = fixture_message(f, "", 0);
	char name[LARGE_NAME_MAX];
	struct large *large;
	int fd, result;

	assert_int_equal(large_create(f->dirfd, s->id, &large), 0);
	assert_int_equal(large_append(large, SPAN("hello")), 0);
	spool_item_message(
	    &s->item, (struct span){ s->envelope, s->envelope_len }, s->body, 0, large);
	s->item.done = fixture_on_done;
	s->item.arg = s;
	spool_writer_submit(f->writer, &s->item);
	fixture_await(f, s);
	result = s->item.result;
	large_name(s->id, name);
	fd = os_open(f->dirfd, name, O_RDONLY, 0);
	*is_there = fd >= 0;
	if (fd >= 0)
		os_close(fd);
	fixture_free(s);
	return result;
}

/* Its record may be durable: whoever finds that needs the body. Where it was revoked nobody does. */
static void
a_large_body_stays_where_its_fate_is_unknown(void **state)
{
	struct fixture *f = *state;
	bool is_there;

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(send_large(f, &is_there), 0);
	assert_true(is_there);
	os_disk_fail(disk, OS_CALL_FDATASYNC, 1, EIO, false);
	assert_int_equal(send_large(f, &is_there), -EAGAIN);
	assert_false(is_there);
	os_disk_fail(disk, OS_CALL_FDATASYNC, 1, EIO, true);
	assert_int_equal(send_large(f, &is_there), -EIO);
	assert_true(is_there);
	os_disk_heal(disk);
}

/* What is set aside outlives its segment, and a cut right after that. */
static void
what_is_set_aside_is_durable(void **state)
{
	struct fixture *f = *state;
	struct spool_location at;
	struct spool_store *store;
	struct os_disk *image;
	char name[SEGMENT_NAME_MAX], aside[SEGMENT_NAME_MAX + 64], byte;
	static struct listed l;
	int fd;

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "hello", 5, NULL, &at), 0);
	assert_int_equal(fixture_send(f, "world", 5, NULL, NULL), 0);
	fixture_stop(f);
	segment_name(SEGMENT_INTAKE, at.segment, name);
	os_disk_poke(disk, name, at.offset + RECORD_HEADER_BYTES + 5, "X", 1);
	assert_int_equal(spool_store_open(f->dirfd, false, &store), 0);
	fixture_list(f, &l, store, NULL, true);
	assert_int_equal(l.sum.corrupt_ranges, 1);
	assert_int_equal(spool_store_free_segment(store, at.segment), 0);
	spool_store_close(store);
	image = os_disk_cut(disk, (struct os_luck){ OS_LUCK_NOTHING, 0 });
	snprintf(aside, sizeof(aside), "quarantine/%s.%llu-%llu", name,
	    (unsigned long long)l.damage[0].offset, (unsigned long long)l.damage[0].length_bytes);
	fd = os_open(os_disk_root(image), aside, O_RDONLY, 0);
	assert_true(fd >= 0);
	assert_int_equal(os_pread(fd, &byte, 1, 0), 1);
	assert_int_equal(byte, 'R'); /* of the record's magic */
	os_close(fd);
	os_disk_free(image);
}

/* What cannot be read is no torn write: it is told with its error, or all of it is given. */
static void
what_cannot_be_read_is_told(void **state)
{
	struct fixture *f = *state;
	static char body[60000];
	bool has_failed = true;
	uint32_t number = 0;

	memset(body, 'x', sizeof(body));
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	for (size_t i = 0; i < 10; i++) {
		struct spool_location at;

		assert_int_equal(fixture_send(f, body, sizeof(body), NULL, &at), 0);
		number = at.segment;
	}
	for (unsigned n = 1; has_failed; n++) {
		struct spool_reader *r = NULL;
		struct spool_entry entry;
		enum spool_event event;
		unsigned messages = 0;
		bool was_told;

		os_disk_fail(disk, OS_CALL_READ, n, EIO, true);
		was_told = spool_reader_open(
		               f->dirfd, SEGMENT_INTAKE, number, SPOOL_READ_TO_END, false, &r) < 0;
		while (
		    !was_told && spool_reader_next(r, &event, &entry) == 0 && event != SPOOL_END) {
			messages += event == SPOOL_MESSAGE;
			was_told = event == SPOOL_DAMAGE &&
			           entry.damage.range == SPOOL_RANGE_CORRUPT &&
			           entry.damage.error == EIO;
		}
		has_failed = os_disk_has_failed(disk);
		os_disk_heal(disk);
		spool_reader_close(r);
		assert_true(was_told || messages == 10);
		assert_true(was_told == has_failed);
	}
}

/* So many IDs were given that there is no other: none is the answer, not one of the next number. */
static void
ids_of_a_segment_end(void **state)
{
	struct fixture *f = *state;
	uint64_t id = 1, last = 0;

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	os_disk_fail(disk, OS_CALL_ALLOCATE, 1, ENOSPC, true);
	for (uint64_t n = 0; id != 0 && n < 4ull << 24; n++) {
		id = spool_writer_next_id(f->writer);
		assert_true(id == 0 || id > last);
		last = id != 0 ? id : last;
	}
	assert_int_equal(id, 0);
	os_disk_heal(disk);
}

/* Between two looks at the disk, too: who sends fast would fill it. */
static void
room_is_less_what_was_submitted(void **state)
{
	struct fixture *f = *state;
	static char body[60000];
	struct os_room before, after;

	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(spool_writer_room(f->writer, &before), 0);
	assert_int_equal(fixture_send(f, body, sizeof(body), NULL, NULL), 0);
	assert_int_equal(spool_writer_room(f->writer, &after), 0);
	assert_in_range(after.free_bytes, 1, before.free_bytes - sizeof(body));
}

static void
show(void)
{
	unsigned long syncs = os_disk_injected(OS_CALL_FDATASYNC) +
	                      os_disk_injected(OS_CALL_FSYNC) +
	                      os_disk_injected(OS_CALL_SYNC_DIRECTORY);
	unsigned long writes = os_disk_injected(OS_CALL_WRITE) + os_disk_injected(OS_CALL_ALLOCATE);
	unsigned long all = 0;

	for (enum os_call call = OS_CALL_OPEN; call < OS_CALLS; call++)
		if (call != OS_CALL_SHORT_WRITE && call != OS_CALL_SHORT_READ)
			all += os_disk_injected(call);
	fault_figures("test_spool_faults", "5, 6", "sync_errors_injected", syncs);
	fault_figures("test_spool_faults", "8, 9, 10", "write_errors_injected", writes);
	fault_figures(
	    "test_spool_faults", "7, 11, 12", "other_errors_injected", all - syncs - writes);
	fault_figures("test_spool_faults", "3, 4", "power_cuts", os_disk_cuts());
	fault_figures("test_spool_faults", "4", "torn_writes", os_disk_torn());
}

int
main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(promises_hold_whatever_call_fails),
		cmocka_unit_test(recovery_loses_nothing_whatever_call_fails),
		TEST(a_failed_sync_is_revoked_and_the_next_segment_is_used),
		TEST(when_it_cannot_be_revoked_nothing_is_said),
		TEST(a_failed_writer_refuses_and_comes_back_by_itself),
		TEST(a_writer_that_finds_no_room_begins_when_there_is_some),
		TEST(an_outcome_is_written_again_in_the_next_journal),
		TEST(recovery_syncs_and_forgets_before_it_reads),
		TEST(what_was_refused_stays_away_when_both_files_go),
		TEST(a_revocation_that_is_met_late_starts_again),
		TEST(a_revocation_names_all_of_its_group),
		TEST(without_a_file_for_the_revocation_nothing_is_said),
		TEST(a_file_is_sealed_when_its_revocation_is_durable),
		TEST(after_a_failed_write_no_other_is_tried),
		TEST(a_large_body_that_failed_is_not_synced),
		TEST(a_large_body_stays_where_its_fate_is_unknown),
		TEST(what_is_set_aside_is_durable),
		TEST(what_cannot_be_read_is_told),
		TEST(ids_of_a_segment_end),
		TEST(room_is_less_what_was_submitted),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	show();
	return failed;
}
