/* test_spool_power.c - the power is cut, and processes are killed, at every moment: around each sync, with
 * every kind of luck for what was not synced, and before each change. Then a process recovers, and is cut
 * off itself. What was answered 0 by then is there (I1); what was revoked is not (I6); what is done does not
 * come back (I3); and no cut is ever called corruption. */
#include <stdatomic.h>

#include "base/os.h"
#include "figures.h"
#include "spool/journal_compact.h"
#include "spool_play.h"

static unsigned long kills, generations, subsets;

/* What happens at a moment. */
struct plan {
	unsigned chances;      /* cuts by chance around each sync; and kinds that have no chance */
	unsigned every_change; /* at each n-th change: a kill and a cut by chance; 0: none */
	unsigned
	    every_generation; /* at each n-th moment: a whole life after the cut, and cuts in it */
	unsigned subset_pieces; /* before a sync with at most so many: all subsets */
};

struct hook {
	struct play *play;
	const struct plan *plan;
	const char *name;
	unsigned moments;
};

static void
check_image(struct os_disk *image, const struct ledger *ledger)
{
	play_check(image, ledger);
	os_disk_free(image);
}

static void
check_cut(struct hook *h, struct os_disk *d, const struct ledger *ledger, struct os_luck luck)
{
	play_say("%s, moment %u, luck %d, seed %llu", h->name, h->moments, (int)luck.kind,
	    (unsigned long long)luck.seed);
	check_image(os_disk_cut(d, luck), ledger);
}

static void on_moment(void *arg, struct os_disk *d, enum os_moment moment);

/* The next processes, after a cut: they recover, take mail, deliver, and are cut off in all of that. */
static void
live_on(struct hook *h, struct os_disk *d, const struct ledger *ledger)
{
	static const struct plan plan = { .chances = 1, .every_change = 7 };
	struct ledger *copy = play_ledger_copy(ledger);
	struct os_disk *image =
	    h->moments % 4 == 0 ? os_disk_kill(d)
	                        : os_disk_cut(d, (struct os_luck){ OS_LUCK_CHANCE, h->moments });
	struct play *p = play_new(image, copy);
	struct hook next = { p, &plan, "second generation", 0 };

	must(segment_prepare_directory(os_disk_root(image)) == 0);
	os_disk_watch(image, on_moment, &next);
	must(play_open_delivery(p) == 0);
	must(play_open_intake(p) == 0);
	play_send(p, 2, 800);
	play_deliver(p);
	play_send_large(p, 5000);
	play_deliver(p);
	os_disk_watch(image, NULL, NULL);
	play_free(p);
	play_is_sound(image);
	kills += play_check_ends(image, copy, h->moments) > 0;
	os_disk_free(image);
	free(copy);
	generations++;
}

static void
on_moment(void *arg, struct os_disk *d, enum os_moment moment)
{
	struct hook *h = arg;
	const struct plan *plan = h->plan;
	struct ledger *ledger = play_ledger_copy(h->play->ledger);
	unsigned n = ++h->moments;

	if (moment == OS_MOMENT_CHANGE && plan->every_change != 0 && n % plan->every_change == 0) {
		play_say("%s, moment %u, a kill", h->name, n);
		check_image(os_disk_kill(d), ledger);
		kills++;
		check_cut(h, d, ledger, (struct os_luck){ OS_LUCK_CHANCE, n });
	}
	if (moment != OS_MOMENT_CHANGE && plan->chances > 0) {
		for (int kind = 0; kind < OS_LUCK_CHANCE; kind++)
			check_cut(h, d, ledger, (struct os_luck){ (enum os_luck_kind)kind, 0 });
		for (unsigned i = 0; i < plan->chances; i++)
			check_cut(h, d, ledger, (struct os_luck){ OS_LUCK_CHANCE, n * 7919 + i });
	}
	if (moment == OS_MOMENT_BEFORE_SYNC && plan->subset_pieces > 0) {
		unsigned pieces = os_disk_pieces(d);

		for (uint64_t set = 0; pieces <= plan->subset_pieces && set < 1u << pieces; set++) {
			check_cut(h, d, ledger, (struct os_luck){ OS_LUCK_SUBSET, set });
			subsets++;
		}
	}
	if (plan->every_generation != 0 && n % plan->every_generation == 0)
		live_on(h, d, ledger);
	free(ledger);
}

/* Plays it with cuts; `prepare` may be NULL. */
static void
play_with(const char *name, const struct plan *plan, void (*scenario)(struct play *p),
    void (*prepare)(struct os_disk *d))
{
	struct os_disk *d = os_disk_new();
	struct ledger *ledger = calloc(1, sizeof(*ledger));
	struct play *p = play_new(d, ledger);
	struct hook h = { p, plan, name, 0 };

	play_say("%s", name);
	os_disk_heal(d);
	must(segment_prepare_directory(os_disk_root(d)) == 0);
	if (prepare != NULL)
		prepare(d);
	os_disk_watch(d, on_moment, &h);
	scenario(p);
	os_disk_watch(d, NULL, NULL);
	os_disk_heal(d);
	play_free(p);
	play_is_sound(d);
	play_check_ends(d, ledger, h.moments);
	os_disk_free(d);
	free(ledger);
}

static void
a_cut_or_a_kill_at_any_moment_of_a_day(void **state)
{
	const struct plan some = { .chances = 2, .every_change = 2 };
	const struct plan all = { .chances = 40, .every_change = 1 };

	(void)state;
	for (unsigned i = 0; i < (fault_is_long() ? 12 : 1); i++)
		play_with("a day", fault_is_long() ? &all : &some, play_day, NULL);
}

static void
a_cut_where_a_rename_may_be_half_done(void **state)
{
	const struct plan some = { .chances = 1, .every_change = 5 };
	const struct plan all = { .chances = 20, .every_change = 1, .every_generation = 9 };

	(void)state;
	play_with("half renames", fault_is_long() ? &all : &some, play_day, os_disk_half_renames);
}

/* Small groups, one message each: every way in which their sectors, sizes and names can be kept. */
static void
settle(struct play *p) /* files that are made ahead are made */
{
	for (int i = 0; i < 5000 && os_disk_pieces(p->disk) > 0; i++)
		usleep(200);
}

static void
small_groups(struct play *p)
{
	must(play_open_intake(p) == 0);
	settle(p);
	play_send(p, 1, 10);
	play_send(p, 1, 1200);
	play_send(p, 1, 3500);
	play_send_large(p, 700);
	must(play_open_delivery(p) == 0);
	settle(p);
	play_deliver(p);
	play_send_letter(p, 100);
	play_deliver(p);
}

static void
every_subset_of_what_was_not_synced(void **state)
{
	const struct plan some = { .subset_pieces = 8 };
	const struct plan all = { .subset_pieces = 14 };

	(void)state;
	/* where a file is just being made ahead there are more pieces than a plan takes */
	for (unsigned i = 0; i < 10 && subsets < 1000; i++)
		play_with("all subsets", fault_is_long() ? &all : &some, small_groups, NULL);
	assert_true(subsets >= 1000);
}

static void
a_cut_in_recovery_and_in_the_life_after_it(void **state)
{
	const struct plan some = { .every_generation = 23 };
	const struct plan all = { .every_generation = 2 };

	(void)state;
	play_with("two generations", fault_is_long() ? &all : &some, play_day, NULL);
	assert_true(generations > 0);
}

/* A group fails at the nth sync, what it left on the disk is decided by chance, then there are cuts. What
 * was refused does not come back, also when its segment and the one with its REVOKE are freed and used
 * again. */
static unsigned fail_at;

static void
refused_mail(struct play *p)
{
	must(play_open_intake(p) == 0 && play_open_delivery(p) == 0);
	os_disk_fail_luck(p->disk, (struct os_luck){ OS_LUCK_CHANCE, fail_at });
	os_disk_fail(p->disk, OS_CALL_FDATASYNC, fail_at, EIO, false);
	for (int i = 0; i < 3; i++) {
		play_send(p, 2, 700);
		play_send(p, 1, 9000);
	}
	os_disk_heal(p->disk);
	play_send_large(p, 3000);
	for (int i = 0; i < 5; i++) { /* all of it is freed, and used again */
		play_deliver(p);
		play_deliver(p);
		play_send(p, 3, 15000);
	}
	play_deliver(p);
}

static void
what_was_refused_never_comes_back(void **state)
{
	const struct plan some = { .chances = 1, .every_change = 9 };
	const struct plan all = { .chances = 12, .every_change = 2, .every_generation = 29 };

	(void)state;
	for (fail_at = 1; fail_at <= (fault_is_long() ? 14 : 4); fail_at++)
		play_with("refused mail", fault_is_long() ? &all : &some, refused_mail, NULL);
}

/* So many outcomes that the journals are written anew, some of them of messages that stand in another
 * segment than their ID tells, or whose segment goes meanwhile. */
static void
busy_journals(struct play *p)
{
	must(play_open_intake(p) == 0 && play_open_delivery(p) == 0);
	play_send(p, 3, 15000);
	play_send(p, 3, 15000);
	play_deliver(p); /* two stay */
	for (int i = 0; i < 3; i++) {
		play_send(p, 3, 15000);
		play_defer(p, 45);
		play_deliver(p);
	}
	play_defer(p, 30);
}

static void
a_cut_while_journals_are_written_anew(void **state)
{
	const struct plan some = { .chances = 1, .every_change = 11 };
	const struct plan all = { .chances = 20, .every_change = 2, .every_generation = 31 };

	(void)state;
	play_with("journals", fault_is_long() ? &all : &some, busy_journals, NULL);
}

/* Segments are freed, but the directory cannot be synced; then the journals go as well. */
static int
put_nothing(void *arg, uint8_t type, const void *payload, size_t len)
{
	(void)arg;
	(void)payload;
	(void)len;
	must(type == RECORD_SNAPSHOT || type == RECORD_OUTCOME);
	return 0; /* all is done, and no segment is there */
}

static void
unsynced_freeing(struct play *p)
{
	uint64_t bytes;

	must(play_open_intake(p) == 0 && play_open_delivery(p) == 0);
	play_send(p, 3, 15000);
	play_send(p, 3, 15000);
	play_close_intake(p);
	os_disk_fail(p->disk, OS_CALL_SYNC_DIRECTORY, 1, EIO, true);
	play_deliver(p);
	play_deliver(p);
	must(p->n_queue == 0);
	play_close_delivery(p);
	os_disk_heal(p->disk);
	must(journal_compact(p->dirfd, UINT32_MAX, put_nothing, NULL, &bytes) == 0);
}

static void
what_is_done_stays_done_when_its_journal_goes(void **state)
{
	const struct plan plan = { .chances = 30 };

	(void)state;
	play_with("unsynced freeing", &plan, unsynced_freeing, NULL);
}

/* --- the clock (row 14) ------------------------------------------------------------------------- */

#define YEAR_MS (365 * 86400000ll)

static void
clocks(struct play *p)
{
	static const int64_t at[] = { 0, -YEAR_MS, 10 * YEAR_MS, -30 * YEAR_MS, 0, 70 * YEAR_MS,
		0 };

	for (size_t i = 0; i < ARRAY_LEN(at); i++) {
		os_disk_set_clock(at[i]);
		/* the ledger sees to it that no ID comes twice, the disk that no file does */
		must(play_open_delivery(p) == 0 && play_open_intake(p) == 0);
		play_send(p, 3, 15000);
		play_send_letter(p, 50);
		play_deliver(p);
		play_send(p, 1, 15000);
		play_close_intake(p);
		play_deliver(p);
		play_deliver(p);
		play_close_delivery(p); /* all is done, freed, and nothing but free files is left */
		must(segment_prepare_directory(p->dirfd) == 0);
	}
	os_disk_set_clock(0);
}

static void
numbers_go_up_whatever_the_clock_does(void **state)
{
	const struct plan some = { .chances = 1, .every_change = 13 };
	const struct plan all = { .chances = 5, .every_change = 1, .every_generation = 41 };

	(void)state;
	play_with("clocks", fault_is_long() ? &all : &some, clocks, NULL);
}

/* The last trace of the highest number is a free file, and that is prepared anew when the power goes. */
static uint32_t highest;

static void
start_with_the_clock_set_back(struct os_disk *d)
{
	struct ledger *ledger = calloc(1, sizeof(*ledger));
	struct play *p = play_new(d, ledger);

	must(segment_prepare_directory(p->dirfd) == 0);
	must(play_open_intake(p) == 0);
	play_send(p, 1, 100);
	must(ledger->list[0].id >> 24 > highest);
	play_free(p);
	os_disk_free(d);
	free(ledger);
}

static void
on_preparing(void *arg, struct os_disk *d, enum os_moment moment)
{
	(void)arg;
	play_say("a number is prepared anew, moment %d", (int)moment);
	start_with_the_clock_set_back(os_disk_kill(d));
	for (uint64_t seed = 0; seed < 8; seed++)
		start_with_the_clock_set_back(
		    os_disk_cut(d, (struct os_luck){ OS_LUCK_CHANCE, seed }));
}

static void
a_number_is_not_forgotten_while_its_file_is_prepared(void **state)
{
	static const uint64_t sizes[] = { PLAY_SEGMENT_BYTES, 12345, 0 };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		struct os_disk *d = os_disk_new();
		struct ledger *ledger = calloc(1, sizeof(*ledger));
		struct play *p = play_new(d, ledger);
		char name[SEGMENT_NAME_MAX];
		int fd;

		os_disk_heal(d);
		must(segment_prepare_directory(p->dirfd) == 0);
		highest = (uint32_t)(os_now_ms() / 1000) + 1000000;
		segment_free_name(highest, name);
		fd = os_open(p->dirfd, name, O_RDWR | O_CREAT, 0600);
		must(fd >= 0 && os_truncate(fd, sizes[i]) == 0 && os_fsync(fd) == 0);
		must(os_fsync(p->dirfd) == 0 && os_close(fd) == 0);
		os_disk_watch(d, on_preparing, NULL);
		must(play_open_intake(p) == 0);
		os_disk_watch(d, NULL, NULL);
		play_free(p);
		os_disk_free(d);
		free(ledger);
	}
}

/* A free file of the highest number is to be used again, and one of the calls for that fails, at any place; the clock has
 * been set back. What is made when the disk is well has a higher number: its places are named by it in journals. */
static void
a_number_is_not_forgotten_when_its_file_cannot_be_prepared(void **state)
{
	static const uint64_t sizes[] = { PLAY_SEGMENT_BYTES, 12345, 0 };
	bool has_failed = true;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sizes) * OS_CALLS; i++, has_failed = true)
		for (unsigned nth = 1; has_failed; nth++) {
			struct os_disk *d = os_disk_new();
			char name[SEGMENT_NAME_MAX];
			struct segment_header h;
			int fd = -1, dirfd = os_disk_root(d);

			play_say("size %d, call %d, number %u", (int)(i / OS_CALLS),
			    (int)(i % OS_CALLS), nth);
			must(segment_prepare_directory(dirfd) == 0);
			segment_free_name(highest = (uint32_t)(os_now_ms() / 1000) + 1000000, name);
			fd = os_open(dirfd, name, O_RDWR | O_CREAT, 0600);
			must(fd >= 0 && os_truncate(fd, sizes[i / OS_CALLS]) == 0 &&
			     os_close(fd) == 0);
			os_disk_fail(d, (enum os_call)(i % OS_CALLS), nth, EFBIG, true);
			if (segment_create(
			        dirfd, SEGMENT_INTAKE, PLAY_SEGMENT_BYTES, NULL, &h, &fd) == 0)
				os_close(fd);
			has_failed = os_disk_has_failed(d);
			os_disk_heal(d);
			must(segment_create(
			         dirfd, SEGMENT_INTAKE, PLAY_SEGMENT_BYTES, NULL, &h, &fd) == 0);
			must(h.number > highest);
			os_close(fd);
			os_disk_free(d);
		}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_cut_or_a_kill_at_any_moment_of_a_day),
		cmocka_unit_test(a_cut_where_a_rename_may_be_half_done),
		cmocka_unit_test(every_subset_of_what_was_not_synced),
		cmocka_unit_test(a_cut_in_recovery_and_in_the_life_after_it),
		cmocka_unit_test(what_was_refused_never_comes_back),
		cmocka_unit_test(a_cut_while_journals_are_written_anew),
		cmocka_unit_test(what_is_done_stays_done_when_its_journal_goes),
		cmocka_unit_test(numbers_go_up_whatever_the_clock_does),
		cmocka_unit_test(a_number_is_not_forgotten_while_its_file_is_prepared),
		cmocka_unit_test(a_number_is_not_forgotten_when_its_file_cannot_be_prepared),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	fault_figures("test_spool_power", "3, 4", "power_cuts", os_disk_cuts());
	fault_figures("test_spool_power", "4", "torn_writes", os_disk_torn());
	fault_figures("test_spool_power", "1, 2", "crashes_survived", kills);
	return failed;
}
