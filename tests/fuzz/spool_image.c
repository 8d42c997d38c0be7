/* spool_image.c - see spool_image.h. */
#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "spool_image.h"

/* ---- Making ---- */

void
image_begin(
    struct image *i, enum segment_kind kind, uint32_t number, uint32_t blocks, uint8_t secret)
{
	assert(blocks <= IMAGE_BLOCKS_MOST);
	memset(i, 0, sizeof(*i));
	i->blocks = blocks;
	i->at = RECORD_BLOCK;
	i->seq = 1;
	i->header = (struct segment_header){ .kind = kind, .number = number, .blocks = blocks };
	memset(i->header.salt, secret, sizeof(i->header.salt));
	i->salt = record_salt_from(i->header.salt);
	segment_put_header(&i->header, i->bytes);
	segment_put_header(&i->header, i->bytes + (blocks - 1) * RECORD_BLOCK);
}

static uint32_t
put(uint8_t *out, struct record_salt salt, struct record_header *h, const void *payload,
    uint64_t *sum)
{
	struct iovec iov = { (void *)(uintptr_t)payload, h->payload_bytes };

	record_put_header(h, salt, out);
	if (h->payload_bytes > 0)
		memcpy(out + RECORD_HEADER_BYTES, payload, h->payload_bytes);
	*sum = record_payload_checksum(h, salt, &iov, 1);
	record_put_trailer(h, *sum, out + RECORD_HEADER_BYTES + h->payload_bytes);
	return record_bytes(h->payload_bytes);
}

uint32_t
image_add(struct image *i, uint8_t type, uint8_t flags, const void *payload, size_t len)
{
	struct record_header h = {
		.type = type, .flags = flags, .payload_bytes = (uint32_t)len, .seq = i->seq++
	};
	const uint32_t at = i->at;
	uint64_t sum;

	assert(at + record_bytes((uint32_t)len) + 80 <= (i->blocks - 1) * RECORD_BLOCK);
	if (i->group_count++ == 0) {
		i->group_first = h.seq;
		i->chain = i->salt.payload;
	}
	i->at += put(i->bytes + at, i->salt, &h, payload, &sum);
	i->chain = record_chain(i->chain, h.checksum, sum);
	return at;
}

void
image_commit(struct image *i)
{
	struct record_commit c = { .first_seq = i->group_first,
		.last_seq = i->seq - 1,
		.count = i->group_count,
		.checksum = i->chain };
	uint8_t payload[RECORD_COMMIT_BYTES];

	if (i->group_count == 0)
		return;
	record_put_commit(&c, payload);
	image_add(i, RECORD_COMMIT, 0, payload, sizeof(payload));
	i->at = (i->at + RECORD_BLOCK - 1) / RECORD_BLOCK * RECORD_BLOCK;
	i->group_count = 0;
}

/* ---- The second opinion ---- */

static uint64_t
number(const uint8_t *in, unsigned bytes)
{
	uint64_t n = 0;

	for (unsigned i = bytes; i > 0; i--)
		n = n << 8 | in[i - 1];
	return n;
}

bool
image_header_at(const uint8_t *file, uint64_t end, uint64_t at, const uint8_t salt[16],
    struct image_record *out)
{
	const uint8_t *in = file + at;

	if (at + 32 > end || memcmp(in, "RLDR", 4) != 0)
		return false;
	if (in[4] == 0 || in[5] > 1 || number(in + 6, 2) != 0 || number(in + 12, 4) != 0 ||
	    number(in + 8, 4) > 4u << 20 || number(in + 16, 8) == 0)
		return false;
	if (XXH3_64bits_withSeed(in, 24, number(salt, 8)) != number(in + 24, 8))
		return false;
	out->type = in[4];
	out->flags = in[5];
	out->payload_bytes = (uint32_t)number(in + 8, 4);
	out->seq = number(in + 16, 8);
	out->bytes = 32 + (out->payload_bytes + 7) / 8 * 8 + 8;
	return true;
}

bool
image_record_at(const uint8_t *file, uint64_t end, uint64_t at, const uint8_t salt[16],
    struct image_record *out)
{
	const uint8_t *in = file + at;

	if (!image_header_at(file, end, at, salt, out) || at + out->bytes > end)
		return false;
	for (uint32_t i = 32 + out->payload_bytes; i < out->bytes - 8; i++)
		if (in[i] != 0)
			return false;
	return XXH3_64bits_withSeed(in + 32, out->payload_bytes,
	           number(salt + 8, 8) ^ number(in + 24, 8)) == number(in + out->bytes - 8, 8);
}

static bool
is_first_block(const uint8_t *in, enum segment_kind kind, uint32_t file_number)
{
	return memcmp(in, "RLYDSEG1", 8) == 0 &&
	       XXH3_64bits_withSeed(in, 48, 0) == number(in + 48, 8) &&
	       number(in + 8, 4) == (uint64_t)kind && number(in + 12, 4) == file_number;
}

bool
image_salt(const uint8_t *file, uint64_t len, enum segment_kind kind, uint32_t file_number,
    uint8_t salt[16], uint64_t *data_end, bool *is_copy)
{
	const uint8_t *in = file;
	uint64_t blocks;

	*is_copy = false;
	if (len < RECORD_BLOCK)
		return false;
	if (!is_first_block(in, kind, file_number)) {
		*is_copy = true;
		in = file + len - RECORD_BLOCK;
		if (len < 2 * RECORD_BLOCK || len % RECORD_BLOCK != 0 ||
		    !is_first_block(in, kind, file_number))
			return false;
	}
	memcpy(salt, in + 16, 16);
	blocks = number(in + 44, 4);
	*data_end = blocks > 1 ? (blocks - 1) * RECORD_BLOCK : 0;
	return true;
}

/* ---- Damage ---- */

/* An envelope that nobody sent, whole but for its salt. */
static uint32_t
forge(uint8_t *out, uint8_t secret, uint64_t seq)
{
	/* id 4096, one recipient */
	static const uint8_t envelope[] = { 1, 0, 8, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 17, 0, 6, 0,
		0, 0, 0, 3, 0, 'a', '@', 'b' };
	struct record_header h = {
		.type = RECORD_ENVELOPE, .payload_bytes = sizeof(envelope), .seq = seq
	};
	uint8_t salt[RECORD_SALT_BYTES];
	uint64_t sum;

	memset(salt, secret, sizeof(salt));
	return put(out, record_salt_from(salt), &h, envelope, &sum);
}

size_t
image_damage(uint8_t *bytes, size_t room, size_t len, const uint8_t **data, size_t *size)
{
	const uint8_t *in = *data;
	const size_t offset = (size_t)(in[1] | in[2] << 8 | in[3] << 16) % room;
	const size_t most = room - offset, blocks = room / RECORD_BLOCK;
	size_t n = in[4];

	*data += 5;
	*size -= 5;
	switch (in[0] % 6) {
	case 0:
		n = n < *size ? n : *size;
		memcpy(bytes + offset, *data, n < most ? n : most);
		*data += n;
		*size -= n;
		break;
	case 1:
		n = (n + 1) * 512;
		memset(bytes + offset, 0, n < most ? n : most);
		break;
	case 2:
		memmove(bytes + offset / RECORD_BLOCK * RECORD_BLOCK,
		    bytes + n % blocks * RECORD_BLOCK, RECORD_BLOCK);
		break;
	case 3:
		return offset;
	case 4:
		bytes[offset] ^= (uint8_t)(1u << n % 8);
		break;
	default:
		if (most >= 80)
			(void)forge(bytes + offset / 8 * 8, (uint8_t)(n >> 4), n + 1);
	}
	return len;
}

/* ---- The directory ---- */

static char directory[64];

static void
empty(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;

	while (dir != NULL && (entry = readdir(dir)) != NULL)
		if (entry->d_name[0] != '.' && unlinkat(dirfd(dir), entry->d_name, 0) < 0) {
			char inner[400];

			strcat(strcat(strcpy(inner, path), "/"), entry->d_name);
			empty(inner);
			(void)rmdir(inner);
		}
	if (dir != NULL)
		closedir(dir);
}

static void
clean(void)
{
	empty(directory);
	(void)rmdir(directory);
}

void
image_empty(const char *subdirectory)
{
	char path[200];

	empty(strcat(strcat(strcpy(path, directory), "/"), subdirectory));
}

int
image_directory(void)
{
	int fd;

	strcpy(directory, "/dev/shm/relayd-fuzz-XXXXXX");
	if (mkdtemp(directory) == NULL) {
		strcpy(directory, "/tmp/relayd-fuzz-XXXXXX");
		if (mkdtemp(directory) == NULL)
			abort();
	}
	fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert(fd >= 0);
	atexit(clean);
	return fd;
}

void
image_write(int dirfd, const char *name, const uint8_t *bytes, size_t len)
{
	const int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert(fd >= 0 && pwrite(fd, bytes, len, 0) == (ssize_t)len);
	close(fd);
}
