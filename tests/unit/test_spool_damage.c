/* test_spool_damage.c - the reader over damaged files. What is whole is always found; what is not is
 * never given; every byte is told about; a crash is not called a loss, a loss is not called a crash. */
#include "figures.h"
#include "spool_fixture.h"
#include "spool/checksum.h"

enum { GROUPS = 3, PER_GROUP = 2 };

/* A short file, in memory and on disk: groups of two messages each. */
struct image {
	struct fixture *f;
	uint32_t number;
	size_t size;
	size_t group_start[GROUPS + 1];
	uint64_t ids[GROUPS * PER_GROUP];
	uint64_t starts[GROUPS * PER_GROUP],
	    ends[GROUPS * PER_GROUP]; /* of each message's records */
	uint8_t bytes[64 * RECORD_BLOCK];
};

/* For the figures: files of another version, and what is no file. */
static unsigned long newer_files, no_files;

/* What a reader found. */
struct seen {
	bool message[GROUPS * PER_GROUP];
	size_t n_messages, n_corrupt, n_torn, n_unused, n_zero;
	uint64_t accounted; /* bytes of ranges */
	uint64_t missing;
	uint64_t damaged_id;
};

static void
name_of(const struct image *m, char name[SEGMENT_NAME_MAX])
{
	segment_name(SEGMENT_INTAKE, m->number, name);
}

static void
store(const struct image *m, const uint8_t *bytes)
{
	char name[SEGMENT_NAME_MAX];
	int fd;

	name_of(m, name);
	fd = openat(m->f->dirfd, name, O_WRONLY);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, m->size, 0), (ssize_t)m->size);
	close(fd);
}

static void
build(struct image *m, struct fixture *f, uint32_t flags, const char *body, size_t body_len)
{
	struct segment_header header = { .kind = SEGMENT_INTAKE, .flags = flags };
	char name[SEGMENT_NAME_MAX];
	struct record_salt salt;
	uint64_t seq = 1;
	size_t at = RECORD_BLOCK;
	int fd;

	memset(m, 0, sizeof(*m));
	m->f = f;
	m->number = header.number = 1000;
	m->size = header.blocks = 40;
	m->size *= RECORD_BLOCK;
	for (size_t i = 0; i < sizeof(header.salt); i++)
		header.salt[i] = (uint8_t)(i * 11 + 3);
	salt = record_salt_from(header.salt);
	segment_put_header(&header, m->bytes);
	segment_put_header(&header, m->bytes + m->size - RECORD_BLOCK);
	if (flags & SEGMENT_RECYCLED)
		for (size_t i = RECORD_BLOCK; i < m->size - RECORD_BLOCK; i++)
			m->bytes[i] = (uint8_t)(i * 31 + i / 4096);
	for (int g = 0; g < GROUPS; g++) {
		struct record_commit commit = { .first_seq = seq, .checksum = salt.payload };
		uint8_t payload[RECORD_COMMIT_BYTES];
		uint64_t unused = 0;

		m->group_start[g] = at;
		for (int i = 0; i < PER_GROUP; i++) {
			int k = g * PER_GROUP + i;
			struct envelope e;
			void *encoded;
			size_t len;

			m->ids[k] = queue_id_make(m->number, (uint32_t)k + 1);
			m->starts[k] = at;
			e = fixture_envelope(m->ids[k], body_len);
			assert_int_equal(envelope_encode(&e, &encoded, &len), 0);
			at += fixture_put_record(m->bytes + at, salt, RECORD_ENVELOPE, 0, seq++,
			    encoded, (uint32_t)len, &commit.checksum);
			at += fixture_put_record(m->bytes + at, salt, RECORD_BODY, 0, seq++, body,
			    (uint32_t)body_len, &commit.checksum);
			m->ends[k] = at;
			free(encoded);
		}
		commit.last_seq = seq - 1;
		commit.count = PER_GROUP * 2;
		record_put_commit(&commit, payload);
		at += fixture_put_record(m->bytes + at, salt, RECORD_COMMIT, 0, seq++, payload,
		    sizeof(payload), &unused);
		while (at % RECORD_BLOCK != 0)
			m->bytes[at++] = 0;
	}
	m->group_start[GROUPS] = at;
	assert_true(at < m->size);
	name_of(m, name);
	fd = openat(f->dirfd, name, O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	close(fd);
	store(m, m->bytes);
}

static void
look(const struct image *m, uint64_t limit, struct seen *seen)
{
	struct spool_reader *r;
	struct spool_entry entry;
	enum spool_event event;

	memset(seen, 0, sizeof(*seen));
	assert_int_equal(
	    spool_reader_open(m->f->dirfd, SEGMENT_INTAKE, m->number, limit, false, &r), 0);
	for (;;) {
		assert_int_equal(spool_reader_next(r, &event, &entry), 0);
		if (event == SPOOL_END)
			break;
		if (event == SPOOL_DAMAGE) {
			const struct spool_damage *d = &entry.damage;

			seen->n_corrupt += d->range == SPOOL_RANGE_CORRUPT;
			seen->n_torn += d->range == SPOOL_RANGE_TORN;
			seen->n_unused += d->range == SPOOL_RANGE_UNUSED;
			seen->n_zero += d->range == SPOOL_RANGE_ZERO;
			seen->accounted += d->length_bytes;
			if (d->first_missing != 0)
				seen->missing += d->last_missing - d->first_missing + 1;
			if (d->id != 0)
				seen->damaged_id = d->id;
		}
		if (event == SPOOL_MESSAGE) {
			bool known = false;

			for (size_t k = 0; k < ARRAY_LEN(m->ids); k++)
				if (entry.id == m->ids[k] &&
				    entry.location.offset == m->starts[k]) {
					assert_false(seen->message[k]);
					seen->message[k] = known = true;
				}
			assert_true(known);
			seen->n_messages++;
		}
	}
	spool_reader_close(r);
}

static void
a_whole_file_is_read_and_every_byte_is_told_about(void **state)
{
	static struct image m;
	struct seen seen;

	build(&m, *state, 0, "hello, world", 12);
	look(&m, SPOOL_READ_TO_END, &seen);
	assert_int_equal(seen.n_messages, GROUPS * PER_GROUP);
	assert_int_equal(seen.n_zero, 1);
	assert_int_equal(seen.accounted, m.size - m.group_start[GROUPS] - RECORD_BLOCK);
	assert_int_equal(seen.n_corrupt + seen.n_torn + seen.n_unused, 0);
	look(&m, m.group_start[2], &seen); /* only what is committed so far */
	assert_int_equal(seen.n_messages, 2 * PER_GROUP);
	assert_int_equal(seen.accounted, 0);
}

/* A new file whose last group was cut at each byte: what follows the cut is still zeros. */
static void
a_group_cut_at_any_byte_is_torn_and_not_corrupt(void **state)
{
	static uint8_t cut[64 * RECORD_BLOCK];
	static struct image m;
	struct seen seen;

	build(&m, *state, 0, "hello, world", 12);
	for (size_t at = m.group_start[2]; at <= m.group_start[3]; at++) {
		memcpy(cut, m.bytes, m.size);
		memset(cut + at, 0, m.size - at);
		store(&m, cut);
		look(&m, SPOOL_READ_TO_END, &seen);
		assert_int_equal(seen.n_corrupt, 0);
		for (int k = 0; k < 4; k++)
			assert_true(seen.message[k]);
		for (int k = 4; k < 6; k++)
			if (at >= m.ends[k])
				assert_true(
				    seen.message[k]); /* it is whole: better twice than never */
	}
}

/* Any of the sectors of the last group may be missing, in a new file (zeros) and in a recycled one. */
static void
any_missing_sectors_of_the_last_group_are_torn(void **state)
{
	static uint8_t cut[64 * RECORD_BLOCK];
	static struct image m;
	static char body[1500];
	struct seen seen;

	memset(body, 'y', sizeof(body));
	for (unsigned recycled = 0; recycled < 2; recycled++) {
		build(&m, *state, recycled ? SEGMENT_RECYCLED : 0, body, sizeof(body));
		assert_int_equal(m.group_start[3] - m.group_start[2], RECORD_BLOCK);
		for (unsigned lost = 1; lost < 256; lost++) {
			memcpy(cut, m.bytes, m.size);
			for (unsigned s = 0; s < 8; s++)
				for (size_t i = 0; lost & 1u << s && i < 512; i++)
					cut[m.group_start[2] + s * 512 + i] =
					    recycled ? (uint8_t)(i * 17 + lost) : 0;
			store(&m, cut);
			look(&m, SPOOL_READ_TO_END, &seen);
			assert_int_equal(seen.n_corrupt, 0);
			for (int k = 0; k < 4; k++)
				assert_true(seen.message[k]);
			/* the same bytes below "committed" are a loss */
			look(&m, m.group_start[3], &seen);
			assert_true(seen.n_corrupt > 0 || seen.n_messages == 6);
		}
	}
}

static void
a_flipped_byte_costs_its_own_message_alone(void **state)
{
	static uint8_t bad[64 * RECORD_BLOCK];
	static struct image m;
	struct seen seen;

	build(&m, *state, 0, "hello, world", 12);
	for (size_t at = RECORD_BLOCK; at < m.group_start[3]; at++) {
		bool hit = false;

		memcpy(bad, m.bytes, m.size);
		bad[at] ^= (uint8_t)(1u << at % 8);
		store(&m, bad);
		look(&m, SPOOL_READ_TO_END, &seen);
		for (int k = 0; k < GROUPS * PER_GROUP; k++) {
			bool mine = at >= m.starts[k] && at < m.ends[k];

			assert_int_equal(seen.message[k], !mine);
			hit |= mine;
		}
		if (hit) { /* said aloud, and how much it cost */
			assert_true(seen.n_corrupt > 0);
			assert_true(seen.missing > 0);
		}
	}
}

static void
a_damaged_body_names_its_message(void **state)
{
	static struct image m;
	struct seen seen;

	build(&m, *state, 0, "hello, world", 12);
	m.bytes[m.ends[1] - 12] ^= 1; /* in the body's trailer */
	store(&m, m.bytes);
	look(&m, SPOOL_READ_TO_END, &seen);
	assert_int_equal(seen.damaged_id, m.ids[1]);
	assert_int_equal(seen.missing, 2);
}

static void
later_groups_are_found_after_a_lost_block(void **state)
{
	static struct image m;
	static struct listed l;
	struct fixture *f = *state;
	struct seen seen;
	struct stat st;
	char name[128];

	build(&m, f, 0, "hello, world", 12);
	memset(m.bytes + m.group_start[1], 0, RECORD_BLOCK); /* a lost write in the middle */
	store(&m, m.bytes);
	look(&m, SPOOL_READ_TO_END, &seen);
	assert_int_equal(seen.n_messages, 4);
	assert_true(seen.message[4] && seen.message[5]);
	assert_int_equal(seen.n_corrupt, 1);
	assert_int_equal(seen.missing, 5);
	/* The bytes are set aside, once. */
	for (int i = 0; i < 2; i++) {
		fixture_list(f, &l, NULL, NULL, true);
		assert_int_equal(l.n, 4);
		assert_int_equal(l.sum.corrupt_ranges, 1);
		assert_int_equal(l.sum.missing_records, 5);
		snprintf(name, sizeof(name), "quarantine/intake-1000.seg.%zu-%u", m.group_start[1],
		    RECORD_BLOCK);
		assert_int_equal(fstatat(f->dirfd, name, &st, 0), 0);
		assert_int_equal(st.st_size, RECORD_BLOCK);
	}
}

static void
a_damaged_first_block_costs_nothing_but_both_cost_all(void **state)
{
	static struct image m;
	struct seen seen;

	build(&m, *state, 0, "hello, world", 12);
	for (size_t at = 0; at < 56; at++) {
		uint8_t *copy = &m.bytes[m.size - RECORD_BLOCK + at];

		m.bytes[at] ^= 4;
		store(&m, m.bytes);
		look(&m, SPOOL_READ_TO_END, &seen);
		if (at != 7) { /* else it is another version, and not for us */
			assert_int_equal(seen.n_messages, 6);
			assert_int_equal(seen.n_corrupt, 1);
		}
		*copy ^= 4;
		store(&m, m.bytes);
		look(&m, SPOOL_READ_TO_END, &seen);
		assert_int_equal(seen.n_messages, 0);
		assert_int_equal(seen.n_corrupt, 1);
		assert_int_equal(seen.accounted, m.size);
		m.bytes[at] ^= 4;
		*copy ^= 4;
	}
}

static void
a_cut_file_is_a_loss(void **state)
{
	static struct image m;
	char name[SEGMENT_NAME_MAX];
	struct seen seen;
	int fd;

	build(&m, *state, 0, "hello, world", 12);
	name_of(&m, name);
	fd = openat(m.f->dirfd, name, O_WRONLY);
	assert_int_equal(ftruncate(fd, (off_t)m.group_start[1]), 0);
	close(fd);
	look(&m, SPOOL_READ_TO_END, &seen);
	assert_int_equal(seen.n_messages, 2);
	assert_int_equal(seen.n_corrupt, 1);
	assert_int_equal(seen.accounted, m.size - m.group_start[1] - RECORD_BLOCK);
	look(&m, m.group_start[3], &seen);
	assert_int_equal(seen.n_corrupt, 1);
}

/* A body that is a whole segment of its own: records with good checksums under another salt, at
 * every alignment. The record that frames it is damaged, so that the reader looks into it. */
static void
a_record_forged_inside_a_body_is_never_given(void **state)
{
	static struct image forger, m;
	static char body[6 * RECORD_BLOCK];
	struct seen seen;

	build(&forger, *state, 0, "I am forged", 11);
	memcpy(body, forger.bytes + RECORD_BLOCK, sizeof(body) - 8);
	/* the victim has another salt (and the same numbers, IDs and seqs) */
	build(&m, *state, 0, "x", 1);
	{
		struct segment_header h = {
			.kind = SEGMENT_INTAKE, .number = m.number, .blocks = 40
		};
		struct record_salt salt;
		uint64_t chain = 0;
		size_t at = RECORD_BLOCK;

		memset(h.salt, 0x5a, sizeof(h.salt));
		salt = record_salt_from(h.salt);
		memset(m.bytes, 0, m.size);
		segment_put_header(&h, m.bytes);
		segment_put_header(&h, m.bytes + m.size - RECORD_BLOCK);
		at += fixture_put_record(
		    m.bytes + at, salt, RECORD_BODY, 0, 1, body, sizeof(body) - 8, &chain);
		store(&m, m.bytes);
		look(&m, SPOOL_READ_TO_END, &seen);
		assert_int_equal(seen.n_messages, 0);
		m.bytes[RECORD_BLOCK] ^= 1; /* its header is no header any more */
		store(&m, m.bytes);
		look(&m, SPOOL_READ_TO_END, &seen);
		assert_int_equal(seen.n_messages, 0);
	}
}

/* Blocks that were swapped, doubled or copied over: no message twice, none that never was. */
static void
moved_blocks_give_no_message_twice(void **state)
{
	static uint8_t bad[64 * RECORD_BLOCK];
	static struct image m;
	struct seen seen;

	build(&m, *state, 0, "hello, world", 12);
	for (int from = 0; from < GROUPS; from++)
		for (int to = 0; to <= GROUPS; to++) {
			memcpy(bad, m.bytes, m.size);
			memcpy(
			    bad + m.group_start[to], m.bytes + m.group_start[from], RECORD_BLOCK);
			store(&m, bad);
			{
				/* location differs from where it was made: count by hand */
				struct spool_reader *r;
				struct spool_entry entry;
				enum spool_event event;
				int n[GROUPS * PER_GROUP] = { 0 };

				assert_int_equal(spool_reader_open(m.f->dirfd, SEGMENT_INTAKE,
				                     m.number, SPOOL_READ_TO_END, false, &r),
				    0);
				do {
					assert_int_equal(spool_reader_next(r, &event, &entry), 0);
					for (int k = 0; event == SPOOL_MESSAGE && k < 6; k++)
						n[k] += entry.id == m.ids[k];
				} while (event != SPOOL_END);
				spool_reader_close(r);
				for (int k = 0; k < 6; k++)
					assert_true(n[k] <= 1);
				(void)seen;
			}
		}
}

static void
a_truly_random_file_gives_nothing(void **state)
{
	static struct image m;
	struct seen seen;
	unsigned x = 12345;

	build(&m, *state, 0, "hello, world", 12);
	for (size_t i = RECORD_BLOCK; i < m.size - RECORD_BLOCK; i++) {
		x = x * 1103515245u + 12345u;
		m.bytes[i] = (uint8_t)(x >> 16);
	}
	store(&m, m.bytes);
	look(&m, SPOOL_READ_TO_END, &seen);
	assert_int_equal(seen.n_messages, 0);
	assert_int_equal(seen.accounted, m.size - 2 * RECORD_BLOCK);
}

static void
a_newer_critical_record_is_told_and_a_harmless_one_passed_over(void **state)
{
	static struct image m;
	struct spool_reader *r;
	struct spool_entry entry;
	enum spool_event event;
	struct segment_header h;
	struct record_salt salt;
	uint64_t chain = 0;
	size_t at;

	build(&m, *state, 0, "hello, world", 12);
	assert_int_equal(segment_get_header(m.bytes, &h), 0);
	salt = record_salt_from(h.salt);
	at = m.group_start[3];
	at += fixture_put_record(m.bytes + at, salt, 77, 0, 16, "?", 1, &chain);
	at += fixture_put_record(m.bytes + at, salt, 78, RECORD_CRITICAL, 17, "!", 1, &chain);
	store(&m, m.bytes);
	newer_files++;
	assert_int_equal(
	    spool_reader_open(m.f->dirfd, SEGMENT_INTAKE, m.number, SPOOL_READ_TO_END, false, &r),
	    0);
	do {
		assert_int_equal(spool_reader_next(r, &event, &entry), 0);
	} while (event == SPOOL_MESSAGE);
	assert_int_equal(event, SPOOL_UNKNOWN);
	assert_int_equal(entry.seq, 17);
	assert_int_equal(spool_reader_next(r, &event, &entry), 0);
	assert_int_equal(event, SPOOL_DAMAGE);
	assert_int_equal(entry.damage.range, SPOOL_RANGE_ZERO);
	spool_reader_close(r);
}

/* After a downgrade: a file of the next version is nobody's damage, and is not taken away. */
static void
a_newer_file_is_left_alone(void **state)
{
	static struct image m;
	static struct listed l;
	struct fixture *f = *state;
	struct spool_store *spool;
	struct stat st;
	char name[SEGMENT_NAME_MAX];

	build(&m, f, 0, "hello, world", 12);
	m.bytes[7] = '2';
	record_put_u64(m.bytes + 48, checksum(m.bytes, 48, 0));
	store(&m, m.bytes);
	newer_files++;
	assert_int_equal(spool_store_open(f->dirfd, false, &spool), 0);
	fixture_list(f, &l, spool, NULL, true);
	assert_int_equal(l.n, 0);
	assert_int_equal(l.sum.corrupt_ranges, 0);
	assert_true(l.sum.newer);
	assert_int_equal(spool_store_free_segment(spool, m.number), -EBUSY);
	name_of(&m, name);
	assert_int_equal(fstatat(f->dirfd, name, &st, 0), 0);
	spool_store_close(spool);
}

/* In place of a segment, or a journal, stands something else. It is told, mail flows, and nothing is
 * written to it or read through it. */
static void
what_is_no_file_is_told_and_passed_over(void **state)
{
	static struct image m;
	static struct listed l;
	struct fixture *f = *state;
	struct spool_store *spool;
	struct stat before, after;

	build(&m, f, 0, "hello, world", 12);
	assert_int_equal(mkfifoat(f->dirfd, "intake-2000.seg", 0600), 0);
	assert_int_equal(symlinkat("/etc/passwd", f->dirfd, "intake-2002.seg"), 0);
	assert_int_equal(mkdirat(f->dirfd, "delivery-2001.seg", 0700), 0);
	assert_int_equal(mkfifoat(f->dirfd, "journal-2003.log", 0600), 0);
	assert_int_equal(symlinkat("journal-2003.log", f->dirfd, "journal-2004.log"), 0);
	assert_int_equal(spool_store_open(f->dirfd, false, &spool), 0);
	fixture_list(f, &l, spool, NULL, true);
	assert_int_equal(l.n, GROUPS * PER_GROUP);
	assert_int_equal(l.sum.corrupt_ranges, 5);
	no_files += l.sum.corrupt_ranges;
	for (size_t i = 0; i < l.n_damage; i++)
		assert_true(l.damage[i].range != SPOOL_RANGE_CORRUPT || l.damage[i].error != 0);
	assert_int_equal(spool_store_free_segment(spool, 2000), -EBUSY);
	spool_store_close(spool);

	/* A second name elsewhere: read, but when it is free it is not written over. */
	assert_int_equal(linkat(f->dirfd, "intake-1000.seg", f->dirfd, "kept-by-somebody", 0), 0);
	assert_int_equal(renameat(f->dirfd, "intake-1000.seg", f->dirfd, "free-1000.seg"), 0);
	assert_int_equal(fstatat(f->dirfd, "kept-by-somebody", &before, 0), 0);
	fixture_writer(f, SEGMENT_INTAKE, NULL);
	assert_int_equal(fixture_send(f, "x", 1, NULL, NULL), 0);
	fixture_stop(f);
	assert_int_equal(fstatat(f->dirfd, "kept-by-somebody", &after, 0), 0);
	assert_int_equal(after.st_mtim.tv_sec, before.st_mtim.tv_sec);
	assert_int_equal(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
	unlinkat(f->dirfd, "delivery-2001.seg", AT_REMOVEDIR);
}

/* Its records are whole, but they are not those that it has counted. */
static void
a_commit_that_does_not_fit_commits_nothing(void **state)
{
	static const struct {
		uint64_t first_seq;
		uint32_t count;
		uint64_t checksum;
		bool fits;
	} cases[] = { { 0, 0, 0, true }, { 1, 0, 0, false }, { 0, 1, 0, false },
		{ 0, 0, 1, false } };
	static struct image m;
	struct record_commit good;
	struct record_header h;
	struct record_salt salt;
	struct segment_header header;

	build(&m, *state, 0, "hello, world", 12);
	assert_int_equal(segment_get_header(m.bytes, &header), 0);
	salt = record_salt_from(header.salt);
	assert_true(record_get_header(m.bytes + m.ends[5], salt, &h));
	assert_true(record_get_commit(
	    (struct span){ (char *)m.bytes + m.ends[5] + RECORD_HEADER_BYTES, h.payload_bytes },
	    &good));
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct record_commit c = good;
		uint8_t payload[RECORD_COMMIT_BYTES];
		struct spool_reader *r;
		struct spool_entry entry;
		enum spool_event event;
		uint64_t unused = 0;
		unsigned n = 0;

		c.first_seq += cases[i].first_seq;
		c.count += cases[i].count;
		c.checksum += cases[i].checksum;
		record_put_commit(&c, payload);
		fixture_put_record(m.bytes + m.ends[5], salt, RECORD_COMMIT, 0, h.seq, payload,
		    sizeof(payload), &unused);
		store(&m, m.bytes);
		assert_int_equal(spool_reader_open(m.f->dirfd, SEGMENT_INTAKE, m.number,
		                     SPOOL_READ_TO_END, false, &r),
		    0);
		do {
			assert_int_equal(spool_reader_next(r, &event, &entry), 0);
			if (event == SPOOL_MESSAGE)
				assert_int_equal(entry.committed, ++n <= 4 || cases[i].fits);
		} while (event != SPOOL_END);
		assert_int_equal(n, 6);
		spool_reader_close(r);
	}
}

/* A group that is gone without a trace: the next one stands in its place. */
static void
records_that_are_missing_are_counted(void **state)
{
	static struct image m;
	struct seen seen;

	build(&m, *state, 0, "hello, world", 12);
	memcpy(m.bytes + m.group_start[1], m.bytes + m.group_start[2], RECORD_BLOCK);
	memset(m.bytes + m.group_start[2], 0, RECORD_BLOCK);
	m.starts[4] -= m.group_start[2] - m.group_start[1];
	m.starts[5] -= m.group_start[2] - m.group_start[1];
	assert_int_equal(m.group_start[3] - m.group_start[2], RECORD_BLOCK);
	store(&m, m.bytes);
	look(&m, SPOOL_READ_TO_END, &seen);
	assert_int_equal(seen.n_messages, 4);
	assert_true(seen.message[4] && seen.message[5]);
	assert_int_equal(seen.missing, 5);
}

/* It was whole when it was found. */
static void
what_has_changed_since_is_not_given(void **state)
{
	static struct image m;
	struct fixture *f = *state;
	struct spool_location at;
	struct spool_store *spool;
	struct spool_body *body;
	struct envelope *e, *again;
	size_t bytes;

	build(&m, f, 0, "hello, world", 12);
	bytes = m.ends[1] - m.starts[1];
	at = (struct spool_location){ m.number, (uint32_t)m.starts[1] };
	assert_int_equal(spool_store_open(f->dirfd, true, &spool), 0);
	assert_int_equal(spool_store_envelope(spool, at, &e), 0);
	m.bytes[m.ends[1] - 12] ^= 1; /* in the body's trailer */
	store(&m, m.bytes);
	assert_int_equal(spool_store_body(spool, at, e, &body), -EBADMSG);
	assert_int_equal(spool_store_message(spool, at, bytes, &again, &body), -EBADMSG);
	m.bytes[m.starts[1] + RECORD_HEADER_BYTES + 9] ^= 1;
	store(&m, m.bytes);
	assert_int_equal(spool_store_envelope(spool, at, &again), -EBADMSG);
	assert_int_equal(spool_store_message(spool, at, bytes, &again, &body), -EBADMSG);
	envelope_free(e);
	spool_store_close(spool);
}

/* Only a replay from the start knows the whole of a damage: until then its file stays. */
static void
damage_that_is_met_while_mail_flows_keeps_its_file(void **state)
{
	static struct listed l;
	static struct image m;
	struct fixture *f = *state;
	struct catalog_options options = { .dirfd = f->dirfd,
		.message = fixture_on_message,
		.segment = fixture_on_segment,
		.damage = fixture_on_damage,
		.arg = &l };
	struct spool_store *spool;
	struct shared_page *page;
	struct catalog *catalog;
	int fd;

	memset(&l, 0, sizeof(l));
	assert_int_equal(shared_page_create(&fd, &page), 0);
	assert_int_equal(spool_store_open(f->dirfd, false, &spool), 0);
	options.store = spool;
	options.page = page;
	options.sweep = true;
	assert_int_equal(catalog_open(&options, &catalog), 0);
	build(&m, f, 0, "hello, world", 12);
	m.bytes[m.ends[1] - 12] ^= 1;
	store(&m, m.bytes);
	assert_int_equal(catalog_step(catalog, 100), 0);
	assert_int_equal(l.n, 5);
	assert_int_equal(l.n_damage, 1);
	assert_int_equal(spool_store_free_segment(spool, m.number), -EBUSY);
	catalog_close(catalog);
	spool_store_close(spool);
	shared_page_unmap(page);
	close(fd);
}

/* A large body whose message is not there: in a spool that has lost something it may be what is left. */
static void
orphans_of_a_damaged_spool_are_set_aside(void **state)
{
	static struct listed l;
	static struct image m;
	struct fixture *f = *state;
	char name[LARGE_NAME_MAX], aside[64], id[QUEUE_ID_LEN + 1];
	struct large *large;
	struct stat st;

	for (int damaged = 1; damaged >= 0; damaged--) {
		build(&m, f, 0, "hello, world", 12);
		m.bytes[m.ends[1] - 12] ^= (uint8_t)damaged;
		store(&m, m.bytes);
		assert_int_equal(
		    large_create(f->dirfd, queue_id_make(m.number, 99 + (uint32_t)damaged), &large),
		    0);
		large_close(large);
		fixture_list(f, &l, NULL, NULL, true);
		large_name(queue_id_make(m.number, 99 + (uint32_t)damaged), name);
		assert_int_equal(fstatat(f->dirfd, name, &st, 0), -1);
		queue_id_print(queue_id_make(m.number, 99 + (uint32_t)damaged), id);
		snprintf(aside, sizeof(aside), "quarantine/large.%s", id);
		assert_int_equal(fstatat(f->dirfd, aside, &st, 0), damaged ? 0 : -1);
	}
}

int
main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_whole_file_is_read_and_every_byte_is_told_about),
		TEST(a_group_cut_at_any_byte_is_torn_and_not_corrupt),
		TEST(any_missing_sectors_of_the_last_group_are_torn),
		TEST(a_flipped_byte_costs_its_own_message_alone),
		TEST(a_damaged_body_names_its_message),
		TEST(later_groups_are_found_after_a_lost_block),
		TEST(a_damaged_first_block_costs_nothing_but_both_cost_all),
		TEST(a_cut_file_is_a_loss),
		TEST(a_record_forged_inside_a_body_is_never_given),
		TEST(moved_blocks_give_no_message_twice),
		TEST(a_truly_random_file_gives_nothing),
		TEST(a_newer_file_is_left_alone),
		TEST(a_commit_that_does_not_fit_commits_nothing),
		TEST(records_that_are_missing_are_counted),
		TEST(what_has_changed_since_is_not_given),
		TEST(damage_that_is_met_while_mail_flows_keeps_its_file),
		TEST(orphans_of_a_damaged_spool_are_set_aside),
		TEST(a_newer_critical_record_is_told_and_a_harmless_one_passed_over),
		TEST(what_is_no_file_is_told_and_passed_over),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	fault_figures("test_spool_damage", "19", "strange_files", no_files);
	fault_figures("test_spool_damage", "53", "strange_files", newer_files);
	return failed;
}
