/* test_spool_images.c - a whole spool, damaged at random: bits, bytes, sectors, blocks and files are changed,
 * zeroed, doubled, swapped, cut off, added, pasted from other files. Recovery ends, gives what is whole as it
 * was sent, and tells what is missing. Nothing that nobody sent is ever given. */
#include <sys/resource.h>

#include "base/os.h"
#include "figures.h"
#include "spool_play.h"

enum { FILES = 32 };

static struct base {
	struct os_disk *disk;
	struct ledger *ledger;
	struct play_found *healthy;
	char names[FILES][48];
	uint64_t clean_at[FILES]; /* where the CLEAN record stands; 0: none */
	unsigned n;
} base;

static uint64_t state;

static uint64_t
below(uint64_t n)
{
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return n > 0 ? (state >> 20) % n : 0;
}

/* --- what is damaged ---------------------------------------------------------------------------- */

static uint64_t
clean_of(const char *name)
{
	uint8_t block[RECORD_BLOCK];
	struct segment_header header;
	struct record_header h;
	uint64_t found = 0;

	must(os_disk_peek(base.disk, name, 0, block, sizeof(block)) == sizeof(block));
	must(segment_get_header(block, &header) == 0);
	for (uint64_t at = RECORD_BLOCK; at < os_disk_size(base.disk, name); at += RECORD_BLOCK) {
		os_disk_peek(base.disk, name, at, block, sizeof(block));
		if (record_get_header(block, record_salt_from(header.salt), &h) &&
		    h.type == RECORD_CLEAN)
			found = at;
	}
	return found;
}

static int
on_name(void *arg, const char *name)
{
	char *path = base.names[base.n];
	uint32_t number;

	if (arg != NULL) {
		must(base.n < FILES);
		snprintf(path, sizeof(base.names[0]), "large/%s", name);
		base.n++;
		return 0;
	}
	switch (segment_parse_name(name, &number)) {
	case SEGMENT_NAME_INTAKE:
	case SEGMENT_NAME_DELIVERY:
	case SEGMENT_NAME_JOURNAL:
		must(base.n < FILES);
		snprintf(path, sizeof(base.names[0]), "%s", name);
		base.n++;
		break;
	default:
		break;
	}
	return 0;
}

static void
find_files(void)
{
	int root = os_disk_root(base.disk),
	    large = os_open(root, "large", O_RDONLY | O_DIRECTORY, 0);

	must(os_list(root, on_name, NULL) == 0);
	must(large >= 0 && os_list(large, on_name, &large) == 0);
	os_close(large);
	for (unsigned i = 0; i < base.n; i++)
		if (strncmp(base.names[i], "large/", 6) != 0)
			base.clean_at[i] = clean_of(base.names[i]);
}

/* Several segments, some of them recycled, journals, large bodies; mail that is new, deferred, done, revoked. */
static void
make_base(void)
{
	struct play *p;

	play_say("the spool is made");
	base.disk = os_disk_new();
	base.ledger = calloc(1, sizeof(*base.ledger));
	base.healthy = calloc(1, sizeof(*base.healthy));
	p = play_new(base.disk, base.ledger);
	os_disk_heal(base.disk);
	must(segment_prepare_directory(p->dirfd) == 0);
	for (int round = 0; round < 2; round++) {
		must(play_open_intake(p) == 0 && play_open_delivery(p) == 0);
		play_send(p, 4, 900);
		play_send(p, 3, 15000);
		play_send_large(p, 5000);
		play_deliver(p);
		play_defer(p, 10);
		os_disk_fail_luck(base.disk, (struct os_luck){ OS_LUCK_ALL, 0 });
		os_disk_fail(base.disk, OS_CALL_FDATASYNC, 1, EIO, false);
		play_send(p, 1, 700);
		os_disk_heal(base.disk);
		play_send(p, 2, 15000);
		play_send(p, 1, 0);
		play_send_large(p, 9000);
		play_send_letter(p, 500);
		play_send(p, 1, 3000);
		play_close_intake(p);
		play_close_delivery(p);
	}
	play_free(p);
	must(segment_prepare_directory(os_disk_root(base.disk)) == 0);
	must(play_look(base.disk, base.ledger, true, base.healthy) == 0);
	must(base.healthy->n_damage == 0 && base.healthy->sum.revoked > 0);
	must(base.healthy->sum.messages > 10 && base.healthy->sum.done > 0);
	find_files();
}

static void
drop_base(void)
{
	os_disk_free(base.disk);
	free(base.ledger);
	free(base.healthy);
	memset(&base, 0, sizeof(base));
}

/* --- damage ------------------------------------------------------------------------------------- */

static uint8_t buffer[2][1 << 17];
static char story[3000]; /* of the image, for play_fail(): groups fall differently each time */

static void tell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void
tell(const char *fmt, ...)
{
	size_t len = strlen(story);
	va_list args;

	va_start(args, fmt);
	vsnprintf(story + len, sizeof(story) - len, fmt, args);
	va_end(args);
}

static void
random_bytes(uint8_t *out, size_t len)
{
	for (size_t i = 0; i < len; i++)
		out[i] = (uint8_t)below(256);
}

/* A place in the file, often where a sector, a block or a record begins. */
static uint64_t
place_in(uint64_t size)
{
	static const uint64_t steps[] = { 1, 8, 512, 4096 };
	uint64_t step = steps[below(4)];

	return below(size) / step * step;
}

static size_t
some_length(uint64_t at, uint64_t size)
{
	static const size_t most[] = { 1, 8, 64, 512, 4096, 20000 };
	size_t len = 1 + (size_t)below(most[below(6)]);

	if (below(3) == 0)
		len = (len + 511) / 512 * 512;
	return len < size - at ? len : (size_t)(size - at);
}

static void
damage_one(struct os_disk *d)
{
	const char *name = base.names[below(base.n)], *other = base.names[below(base.n)];
	uint64_t size = os_disk_size(d, name), at, from;
	unsigned how;
	size_t len;

	if (size == 0)
		return;
	at = place_in(size);
	len = some_length(at, size);
	from = place_in(size);
	if (len > size - from)
		len = (size_t)(size - from);
	os_disk_peek(d, name, at, buffer[0], len);
	how = (unsigned)below(10);
	tell("; %s: damage %u of %zu bytes at %llu", name, how, len, (unsigned long long)at);
	switch (how) {
	case 0:
	case 1: /* a bit */
		buffer[0][0] ^= (uint8_t)(1u << below(8));
		os_disk_poke(d, name, at, buffer[0], 1);
		break;
	case 2: /* zeros */
		memset(buffer[0], 0, len);
		os_disk_poke(d, name, at, buffer[0], len);
		break;
	case 3: /* anything */
		random_bytes(buffer[0], len);
		os_disk_poke(d, name, at, buffer[0], len);
		break;
	case 4: /* doubled */
		os_disk_peek(d, name, from, buffer[1], len);
		os_disk_poke(d, name, at, buffer[1], len);
		break;
	case 5: /* swapped */
		os_disk_peek(d, name, from, buffer[1], len);
		os_disk_poke(d, name, from, buffer[0], len);
		os_disk_poke(d, name, at, buffer[1], len);
		break;
	case 6: /* cut off */
		os_disk_resize(d, name, at);
		break;
	case 7: /* longer */
		len = 1 + (size_t)below(9000);
		random_bytes(buffer[0], len);
		os_disk_poke(d, name, size, buffer[0], len);
		break;
	case 8: /* from another file, at the same place or elsewhere */
		from = below(2) ? at : place_in(os_disk_size(d, other));
		len = os_disk_peek(d, other, from, buffer[0], len);
		os_disk_poke(d, name, at, buffer[0], len);
		break;
	case 9: /* another file under this name */
		len = os_disk_peek(d, other, 0, buffer[0], sizeof(buffer[0]));
		os_disk_resize(d, name, 0);
		os_disk_poke(d, name, 0, buffer[0], len);
		break;
	}
}

/* --- what must hold ----------------------------------------------------------------------------- */

static int
file_of(enum segment_kind kind, uint32_t number)
{
	char name[SEGMENT_NAME_MAX];

	segment_name(kind, number, name);
	for (unsigned i = 0; i < base.n; i++)
		if (strcmp(base.names[i], name) == 0)
			return (int)i;
	return -1;
}

/* Is the CLEAN record of that file as it was? Without it a damaged end is an end. */
static bool
has_clean(struct os_disk *d, int file)
{
	uint8_t now[128], then[128];
	uint64_t at = base.clean_at[file];

	if (at == 0)
		return false;
	return os_disk_peek(d, base.names[file], at, now, sizeof(now)) == sizeof(now) &&
	       os_disk_peek(base.disk, base.names[file], at, then, sizeof(then)) == sizeof(then) &&
	       memcmp(now, then, sizeof(now)) == 0;
}

/* Was a damage told in that file, in [start, end)? Or that numbers are missing: that shows at the next record that
 * holds, which stands behind the lost one where other records of the file were copied over it. */
static bool
was_told(const struct play_found *found, enum segment_kind kind, uint32_t number, uint64_t start,
    uint64_t end)
{
	for (unsigned i = 0; i < found->n_told; i++) {
		const struct spool_damage *t = &found->told[i];

		if (t->kind == kind && t->number == number &&
		    ((t->offset < end && t->offset + t->length_bytes > start) ||
		        t->first_missing != 0) &&
		    (t->range == SPOOL_RANGE_CORRUPT || t->range == SPOOL_RANGE_TORN))
			return true;
	}
	return found->n_told == ARRAY_LEN(found->told);
}

/* Has any file of that kind lost something, as far as that can be told? */
static bool
may_lack(struct os_disk *d, const struct play_found *found, bool journals)
{
	for (unsigned i = 0; i < found->n_told; i++)
		if ((found->told[i].kind == SEGMENT_JOURNAL) == journals)
			return true;
	for (unsigned i = 0; i < base.n; i++) {
		bool is_journal = strncmp(base.names[i], "journal-", 8) == 0;

		if (is_journal == journals && strncmp(base.names[i], "large/", 6) != 0 &&
		    !has_clean(d, (int)i))
			return true;
	}
	return false;
}

static void
compare(struct os_disk *d, const struct play_found *found, struct spool_store *store)
{
	for (unsigned i = 0; i < base.ledger->n; i++) {
		const struct promise *promise = &base.ledger->list[i];
		struct spool_location at = base.healthy->at[i];
		enum segment_kind kind = segment_kind_of(at.segment);
		int file;

		if (found->seen[i] < base.healthy->seen[i]) { /* it is missing, and that is told */
			file = file_of(kind, at.segment);
			play_say("%s; message %u of segment %u at %u is missing", story, i,
			    at.segment, at.offset);
			must(file >= 0);
			must(was_told(found, kind, at.segment, at.offset,
			         at.offset + 1024 + promise->bytes) ||
			     !has_clean(d, file));
		}
		if (found->seen[i] > base.healthy->seen[i]) /* it is back, and why is told */
			must(may_lack(d, found, promise->result == 0));
		if (found->seen[i] > 0)
			(void)play_read(store, promise, found->at[i]);
	}
	must(!found->forgotten || may_lack(d, found, true));
}

static void
try_image(uint64_t seed, bool twice)
{
	struct play_found *found = calloc(1, sizeof(*found)), *again;
	struct os_disk *d = os_disk_kill(base.disk);
	struct spool_store *store;
	unsigned n;

	story[0] = '\0';
	tell("image %llu", (unsigned long long)seed);
	state = seed * 0x9e3779b97f4a7c15ull + 1;
	n = below(2) == 0 ? 1 : 1 + (unsigned)below(6);
	for (unsigned i = 0; i < n; i++)
		damage_one(d);
	found->is_quiet = true;
	play_say("%s", story);
	must(play_look(d, base.ledger, true, found) == 0);
	for (unsigned i = 0; i < found->n_told; i++)
		tell("; %s: range %d, %llu bytes at %llu", found->told[i].file,
		    (int)found->told[i].range, (unsigned long long)found->told[i].length_bytes,
		    (unsigned long long)found->told[i].offset);
	play_say("%s", story);
	must(spool_store_open(os_disk_root(d), true, &store) == 0);
	compare(d, found, store);
	spool_store_close(store);
	if (twice) { /* the next start finds the same */
		again = calloc(1, sizeof(*again));
		again->is_quiet = true;
		must(play_look(d, base.ledger, true, again) == 0);
		for (unsigned i = 0; i < base.ledger->n; i++)
			must(again->seen[i] == found->seen[i]);
		must(again->n_damage >= found->n_damage);
		free(again);
	}
	play_is_sound(d);
	os_disk_free(d);
	free(found);
}

static unsigned long images, strange_files;

static void
damaged_anywhere_it_gives_what_is_whole_and_tells_what_is_not(void **unused)
{
	unsigned long n = fault_is_long() ? 100000 : 3000;
	const struct rlimit limit = { fault_is_long() ? 900 : 120, RLIM_INFINITY };

	(void)unused;
	setrlimit(RLIMIT_CPU, &limit); /* it ends */
	make_base();
	for (; images < n; images++)
		try_image(images, images % 16 == 0);
	drop_base();
}

/* --- whole files (row 19) ----------------------------------------------------------------------- */

/* Each segment in turn is not there. Nothing else is missing, and a message that was tried is missed. */
static void
a_missing_segment_is_missed_by_what_the_journal_knows(void **unused)
{
	unsigned missed = 0;

	(void)unused;
	make_base();
	for (unsigned k = 0; k < base.n; k++) {
		struct play_found *found = calloc(1, sizeof(*found));
		struct os_disk *d = os_disk_kill(base.disk);
		uint32_t number = 0;
		enum segment_name_kind kind = segment_parse_name(base.names[k], &number);

		if (kind == SEGMENT_NAME_INTAKE || kind == SEGMENT_NAME_DELIVERY) {
			play_say("%s is not there", base.names[k]);
			must(os_unlink(os_disk_root(d), base.names[k]) == 0);
			strange_files++;
			found->is_quiet = true;
			must(play_look(d, base.ledger, true, found) == 0);
			for (unsigned i = 0; i < base.ledger->n; i++) {
				const struct promise *promise = &base.ledger->list[i];
				bool is_told = false;

				if (base.healthy->seen[i] == 0 ||
				    base.healthy->at[i].segment != number) {
					must(found->seen[i] == base.healthy->seen[i] ||
					     promise->result == -EAGAIN);
					continue;
				}
				must(found->seen[i] == 0);
				for (unsigned t = 0; t < found->n_told; t++)
					is_told = is_told || found->told[t].id == promise->id;
				must(is_told == (promise->sure > 0));
				missed += is_told;
			}
		}
		os_disk_free(d);
		free(found);
	}
	must(missed > 0);
	drop_base();
}

/* A copy of each file under the number of none, or of another kind, is told and gives nothing twice. */
static void
a_file_under_a_strange_name_is_told_and_left_alone(void **unused)
{
	static const enum segment_kind kinds[] = { SEGMENT_INTAKE, SEGMENT_DELIVERY,
		SEGMENT_JOURNAL };

	(void)unused;
	make_base();
	for (unsigned k = 0; k < base.n * ARRAY_LEN(kinds); k++) {
		struct play_found *found = calloc(1, sizeof(*found));
		struct os_disk *d = os_disk_kill(base.disk);
		enum segment_kind kind = kinds[k % ARRAY_LEN(kinds)];
		uint32_t number = kind == SEGMENT_DELIVERY ? 1800000001 : 1800000000;
		const char *from = base.names[k / ARRAY_LEN(kinds)];
		char name[SEGMENT_NAME_MAX];
		struct iovec iov = { buffer[0], 0 };
		int fd;

		segment_name(kind, number, name);
		play_say("%s stands there as %s, too", from, name);
		iov.iov_len = os_disk_peek(d, from, 0, buffer[0], sizeof(buffer[0]));
		fd = os_open(os_disk_root(d), name, O_RDWR | O_CREAT, 0600);
		must(fd >= 0);
		must(os_pwritev(fd, &iov, 1, 0) == (ssize_t)iov.iov_len && os_fsync(fd) == 0);
		os_close(fd);
		strange_files++;
		found->is_quiet = true;
		must(play_look(d, base.ledger, true, found) == 0);
		for (unsigned i = 0; i < base.ledger->n; i++)
			must(found->seen[i] == base.healthy->seen[i]);
		must(found->n_damage == 1 && strcmp(found->told[0].file, name) == 0);
		os_disk_free(d);
		free(found);
	}
	drop_base();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(damaged_anywhere_it_gives_what_is_whole_and_tells_what_is_not),
		cmocka_unit_test(a_missing_segment_is_missed_by_what_the_journal_knows),
		cmocka_unit_test(a_file_under_a_strange_name_is_told_and_left_alone),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	fault_figures("test_spool_images", "18", "corrupt_images", images);
	fault_figures("test_spool_images", "19", "strange_files", strange_files);
	return failed;
}
