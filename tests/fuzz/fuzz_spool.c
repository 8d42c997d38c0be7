/* fuzz_spool.c - the reader over a file that was damaged in any way. An input is a list of changes to a good
 * file, so that the fuzzer gets past the checksums:
 *   u8 operation, u24 offset, u8 length, then for "set" that many bytes
 * An input that starts with "RLYDSEG1" is a file itself; one that starts with 'E' or 'J' is the
 * payload of an envelope or an outcome.
 *
 * What must hold: a message is given only if all its bytes are as they were made, each at most once; the
 * ranges told and the records given account for the file; it ends. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <fcntl.h>

#include "base/queue_id.h"
#include "spool/envelope.h"
#include "spool/journal.h"
#include "spool/reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { GROUPS = 4, PER_GROUP = 3, MESSAGES = GROUPS * PER_GROUP, BLOCKS = 24 };

#define NUMBER 1000u

static uint8_t good[BLOCKS * RECORD_BLOCK], bad[BLOCKS * RECORD_BLOCK];
static uint32_t starts[MESSAGES], ends[MESSAGES];
static int dirfd_of_files = -1;
static char directory[64];

static size_t
put(size_t at, struct record_salt salt, uint8_t type, uint64_t seq, const void *payload, size_t len,
    uint64_t *chain)
{
	struct record_header h = { .type = type, .payload_bytes = (uint32_t)len, .seq = seq };
	struct iovec iov = { (void *)(uintptr_t)payload, len };
	uint64_t sum;

	record_put_header(&h, salt, good + at);
	memcpy(good + at + RECORD_HEADER_BYTES, payload, len);
	sum = record_payload_checksum(&h, salt, &iov, 1);
	record_put_trailer(&h, sum, good + at + RECORD_HEADER_BYTES + len);
	*chain = record_chain(*chain, h.checksum, sum);
	return at + record_bytes((uint32_t)len);
}

static void
clean(void)
{
	(void)rmdir(directory);
}

static void
make_good_file(void)
{
	struct envelope_recipient recipient = { .address = SPAN("ann@example.org") };
	struct segment_header h = { .kind = SEGMENT_INTAKE, .number = NUMBER, .blocks = BLOCKS };
	char body[3000];
	struct record_salt salt;
	size_t at = RECORD_BLOCK;
	uint64_t seq = 1;

	memset(body, 'b', sizeof(body));
	memset(h.salt, 0x77, sizeof(h.salt));
	salt = record_salt_from(h.salt);
	segment_put_header(&h, good);
	segment_put_header(&h, good + sizeof(good) - RECORD_BLOCK);
	for (int g = 0; g < GROUPS; g++) {
		struct record_commit c = { .first_seq = seq, .checksum = salt.payload };
		uint8_t payload[RECORD_COMMIT_BYTES];
		uint64_t unused = 0;

		for (int i = 0; i < PER_GROUP; i++) {
			int k = g * PER_GROUP + i;
			struct envelope e = {
				.id = (uint64_t)k + 1, .recipients = &recipient, .n_recipients = 1
			};
			void *encoded;
			size_t len;

			starts[k] = (uint32_t)at;
			assert(envelope_encode(&e, &encoded, &len) == 0);
			at = put(at, salt, RECORD_ENVELOPE, seq++, encoded, len, &c.checksum);
			at = put(at, salt, RECORD_BODY, seq++, body, (size_t)k * 250, &c.checksum);
			ends[k] = (uint32_t)at;
			free(encoded);
		}
		c.last_seq = seq - 1;
		c.count = PER_GROUP * 2;
		record_put_commit(&c, payload);
		at = put(at, salt, RECORD_COMMIT, seq++, payload, sizeof(payload), &unused);
		at = (at + RECORD_BLOCK - 1) / RECORD_BLOCK * RECORD_BLOCK;
	}
	assert(at <= sizeof(good) - RECORD_BLOCK);
	strcpy(directory, "/dev/shm/relayd-fuzz-XXXXXX");
	if (mkdtemp(directory) == NULL) {
		strcpy(directory, "/tmp/relayd-fuzz-XXXXXX");
		if (mkdtemp(directory) == NULL)
			abort();
	}
	dirfd_of_files = open(directory, O_RDONLY | O_DIRECTORY);
	assert(dirfd_of_files >= 0);
	atexit(clean);
}

/* Carries the changes out; returns the length of the file. */
static size_t
damage(const uint8_t *data, size_t size)
{
	size_t file_bytes = sizeof(bad);

	memcpy(bad, good, sizeof(bad));
	while (size >= 5) {
		size_t offset = (data[1] | data[2] << 8 | data[3] << 16) % sizeof(bad);
		size_t len = data[4], room = sizeof(bad) - offset;
		uint8_t operation = data[0] % 5;

		data += 5;
		size -= 5;
		if (operation == 0) { /* set bytes */
			size_t n = len < size ? len : size;

			memcpy(bad + offset, data, n < room ? n : room);
			data += n;
			size -= n;
		} else if (operation == 1) { /* zero sectors */
			len = (len + 1) * 512;
			memset(bad + offset, 0, len < room ? len : room);
		} else if (operation == 2) { /* copy a block over another */
			size_t from = len % BLOCKS * RECORD_BLOCK;
			size_t to = offset / RECORD_BLOCK * RECORD_BLOCK;

			memmove(bad + to, bad + from, RECORD_BLOCK);
		} else if (operation == 3) { /* cut */
			file_bytes = offset;
		} else { /* flip a bit */
			bad[offset] ^= (uint8_t)(1u << len % 8);
		}
	}
	return file_bytes;
}

static void
check_message(const struct spool_entry *entry, bool given[MESSAGES], bool is_ours)
{
	uint64_t k = entry->id - 1;

	if (!is_ours)
		return;
	assert(k < MESSAGES && !given[k]);
	given[k] = true;
	assert(memcmp(good + starts[k], bad + entry->location.offset, ends[k] - starts[k]) == 0);
}

static void
read_all(uint64_t limit, uint64_t file_bytes, bool is_ours)
{
	bool given[MESSAGES] = { false };
	uint64_t last_end = 0, steps = 0;
	struct spool_entry entry;
	struct spool_reader *r;
	enum spool_event event;

	if (spool_reader_open(dirfd_of_files, SEGMENT_INTAKE, NUMBER, limit, false, &r) < 0)
		return;
	do {
		int result = spool_reader_next(r, &event, &entry);

		assert(result == 0);
		assert(++steps < 100000);
		if (event == SPOOL_DAMAGE) {
			assert(entry.damage.error == 0);
			assert(entry.damage.first_missing <= entry.damage.last_missing);
			if (entry.damage.offset == 0 && entry.damage.length_bytes == file_bytes)
				last_end = UINT64_MAX; /* without a first block nothing is known */
			if (last_end < entry.damage.offset + entry.damage.length_bytes)
				last_end = entry.damage.offset + entry.damage.length_bytes;
		}
		if (event == SPOOL_MESSAGE)
			check_message(&entry, given, is_ours);
	} while (event != SPOOL_END);
	/* What changed below the limit costs messages only aloud. */
	for (int k = 0; is_ours && k < MESSAGES; k++)
		if (!given[k] && limit == SPOOL_READ_TO_END)
			assert(last_end > starts[k] || file_bytes < RECORD_BLOCK);
	spool_reader_close(r);
}

static void
try_file(const uint8_t *bytes, size_t len, bool is_ours)
{
	const char *name = "intake-1000.seg";
	int fd;

	fd = openat(dirfd_of_files, name, O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert(fd >= 0);
	assert(pwrite(fd, bytes, len, 0) == (ssize_t)len);
	close(fd);
	read_all(SPOOL_READ_TO_END, len, is_ours);
	read_all(5 * RECORD_BLOCK, len, is_ours);
	unlinkat(dirfd_of_files, name, 0);
}

static void
try_payload(const uint8_t *data, size_t size)
{
	struct span payload = { (const char *)data + 1, size - 1 };
	struct journal_outcome *o;
	struct envelope *e;
	void *again;
	size_t len;

	if (data[0] == 'E' && envelope_decode(payload, &e) == 0) {
		if (envelope_encode(e, &again, &len) == 0)
			free(again);
		envelope_free(e);
	}
	if (data[0] == 'J' && journal_decode(payload, &o) == 0) {
		if (journal_encode(o, &again, &len) == 0)
			free(again);
		journal_free(o);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (dirfd_of_files < 0)
		make_good_file();
	if (size >= 8 && memcmp(data, "RLYDSEG1", 8) == 0)
		try_file(data, size, false);
	else if (size > 1 && (data[0] == 'E' || data[0] == 'J'))
		try_payload(data, size);
	else
		try_file(bad, damage(data, size), true);
	return 0;
}
