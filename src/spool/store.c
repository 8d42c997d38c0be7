#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/queue_id.h"
#include "spool/checksum.h"
#include "spool/large.h"
#include "spool/store.h"

#define OPEN_MAX_SEGMENTS 32
#define FREE_KEPT 2
#define FIRST_READ 4096u
#define COPY_BYTES (256u << 10)
#define MESSAGE_READ_MAX (2 * (size_t)RECORD_PAYLOAD_MAX)

struct open_segment {
	uint32_t number; /* 0: unused */
	int fd;
	struct record_salt salt;
	uint64_t file_bytes;
	uint64_t used;
};

struct noted_revoke {
	uint32_t holder;
	struct record_revoke revoke;
	bool holder_is_done;
};

struct spool_store {
	int dirfd;
	bool read_only;
	struct open_segment open[OPEN_MAX_SEGMENTS];
	uint64_t clock;
	struct noted_revoke *revokes;
	size_t n_revokes;
	uint32_t *clean; /* segments that were closed in good order */
	size_t n_clean;
};

struct spool_body {
	uint64_t bytes;
	const char *data; /* inline: all of it, in `record` */
	void *record;
	int fd; /* large: -1 if inline */
	uint64_t id, checksum_wanted;
	uint64_t checked; /* bytes that are in the sum */
	struct checksum_stream *sum;
};

int
spool_store_open(int dirfd, bool read_only, struct spool_store **out)
{
	struct spool_store *s = xcalloc(1, sizeof(*s));

	s->dirfd = dirfd;
	s->read_only = read_only;
	*out = s;
	return 0;
}

void
spool_store_close(struct spool_store *s)
{
	if (s == NULL)
		return;
	for (size_t i = 0; i < OPEN_MAX_SEGMENTS; i++)
		if (s->open[i].number != 0)
			os_close(s->open[i].fd);
	free(s->revokes);
	free(s->clean);
	free(s);
}

static void
forget_open(struct spool_store *s, uint32_t number)
{
	for (size_t i = 0; i < OPEN_MAX_SEGMENTS; i++)
		if (s->open[i].number == number) {
			os_close(s->open[i].fd);
			s->open[i].number = 0;
		}
}

static int
get_segment(struct spool_store *s, uint32_t number, const struct open_segment **out)
{
	struct open_segment *victim = &s->open[0];
	struct segment_header header;
	int fd, r;

	for (size_t i = 0; i < OPEN_MAX_SEGMENTS; i++) {
		struct open_segment *o = &s->open[i];

		if (o->number == number && number != 0) {
			o->used = ++s->clock;
			*out = o;
			return 0;
		}
		if (victim->number != 0 && (o->number == 0 || o->used < victim->used))
			victim = o;
	}
	r = segment_open(s->dirfd, segment_kind_of(number), number, false, &header, &fd, NULL);
	if (fd < 0)
		return r;
	if (r < 0) {
		os_close(fd);
		return r;
	}
	if (victim->number != 0)
		os_close(victim->fd);
	*victim = (struct open_segment){ .number = number,
		.fd = fd,
		.salt = record_salt_from(header.salt),
		.file_bytes = (uint64_t)header.blocks * RECORD_BLOCK,
		.used = ++s->clock };
	*out = victim;
	return 0;
}

/* A whole record of that type, checked. Gives *record: header, payload, trailer (free()). */
static int
read_record(const struct open_segment *o, uint64_t offset, uint8_t type, struct record_header *h,
    uint8_t **record)
{
	uint8_t *in = os_alloc(FIRST_READ);
	size_t bytes, got;
	int r;

	if (in == NULL)
		return -ENOMEM;
	r = segment_read_most(o->fd, in, FIRST_READ, offset, &got);
	if (r < 0 || got < RECORD_HEADER_BYTES || !record_get_header(in, o->salt, h) ||
	    h->type != type)
		goto bad;
	bytes = record_bytes(h->payload_bytes);
	if (bytes > FIRST_READ) {
		uint8_t *bigger = os_realloc(in, bytes);

		if (bigger == NULL) {
			free(in);
			return -ENOMEM;
		}
		in = bigger;
		r = segment_read_most(
		    o->fd, in + FIRST_READ, bytes - FIRST_READ, offset + FIRST_READ, &got);
		if (r < 0)
			goto bad;
		got += FIRST_READ;
	}
	if (got < bytes || !record_is_whole(h, o->salt, in))
		goto bad;
	*record = in;
	return 0;
bad:
	free(in);
	return r < 0 ? r : -EBADMSG;
}

int
spool_store_envelope(struct spool_store *s, struct spool_location at, struct envelope **out)
{
	const struct open_segment *o;
	struct record_header h;
	uint8_t *record;
	int r;

	r = get_segment(s, at.segment, &o);
	if (r < 0)
		return r;
	r = read_record(o, at.offset, RECORD_ENVELOPE, &h, &record);
	if (r < 0)
		return r;
	r = envelope_decode(
	    (struct span){ (char *)record + RECORD_HEADER_BYTES, h.payload_bytes }, out);
	free(record);
	return r;
}

int
spool_store_file_bytes(struct spool_store *s, uint32_t number, uint64_t *out)
{
	const struct open_segment *o;
	int r;

	r = get_segment(s, number, &o);
	if (r == 0)
		*out = o->file_bytes;
	return r;
}

int
spool_store_browse(
    struct spool_store *s, struct window *window, struct spool_location at, struct envelope **out)
{
	const struct open_segment *o;
	struct record_header h;
	const uint8_t *record;
	int r;

	r = get_segment(s, at.segment, &o);
	if (r == 0)
		r = window_record(window, o->fd, o->salt, at.offset, RECORD_ENVELOPE, &h, &record);
	if (r < 0)
		return r;
	return envelope_decode(
	    (struct span){ (const char *)record + RECORD_HEADER_BYTES, h.payload_bytes }, out);
}

static int
open_large(struct spool_store *s, const struct envelope *e, struct spool_body *b)
{
	char name[LARGE_NAME_MAX];
	struct stat st;
	int fd, r;

	large_name(e->id, name);
	fd = os_open(s->dirfd, name, O_RDONLY | O_NONBLOCK, 0);
	if (fd < 0)
		return fd;
	r = os_fstat(fd, &st);
	if (r == 0 && (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != e->body_bytes ||
	                  !segment_is_own(s->dirfd, &st)))
		r = -EBADMSG;
	if (r < 0) {
		os_close(fd);
		return r;
	}
	b->fd = fd;
	b->id = e->id;
	b->bytes = e->body_bytes;
	b->checksum_wanted = e->body_checksum;
	b->sum = checksum_stream_new(e->id);
	return 0;
}

/* The BODY that follows this ENVELOPE. */
static int
read_body(const struct open_segment *o, uint64_t at, const struct record_header *envelope,
    struct record_header *h, uint8_t **out)
{
	uint8_t *record;
	int r;

	r = read_record(o, at + record_bytes(envelope->payload_bytes), RECORD_BODY, h, &record);
	if (r < 0)
		return r;
	if (h->seq != envelope->seq + 1) {
		free(record);
		return -EBADMSG;
	}
	*out = record;
	return 0;
}

static int
open_inline(struct spool_store *s, struct spool_location at, struct spool_body *b)
{
	const struct open_segment *o;
	struct record_header envelope, h;
	uint8_t in[RECORD_HEADER_BYTES], *record;
	size_t got;
	int r;

	r = get_segment(s, at.segment, &o);
	if (r < 0)
		return r;
	if (segment_read_most(o->fd, in, sizeof(in), at.offset, &got) < 0 || got < sizeof(in) ||
	    !record_get_header(in, o->salt, &envelope) || envelope.type != RECORD_ENVELOPE)
		return -EBADMSG;
	r = read_body(o, at.offset, &envelope, &h, &record);
	if (r < 0)
		return r;
	b->record = record;
	b->data = (char *)record + RECORD_HEADER_BYTES;
	b->bytes = h.payload_bytes;
	return 0;
}

int
spool_store_body(struct spool_store *s, struct spool_location at, const struct envelope *e,
    struct spool_body **out)
{
	struct spool_body *b = xcalloc(1, sizeof(*b));
	int r;

	b->fd = -1;
	r = e->flags & ENVELOPE_LARGE ? open_large(s, e, b) : open_inline(s, at, b);
	if (r < 0) {
		free(b);
		return r;
	}
	*out = b;
	return 0;
}

/* Both records out of one piece of the segment; the body keeps it. False: it is not all there. */
static bool
take_both(const struct open_segment *o, uint8_t *in, size_t len, struct envelope **out,
    struct spool_body *b)
{
	struct record_header envelope, body;
	size_t at;

	if (!record_begins(in, len, o->salt, RECORD_ENVELOPE, &envelope))
		return false;
	at = record_bytes(envelope.payload_bytes);
	if (!record_begins(in + at, len - at, o->salt, RECORD_BODY, &body) ||
	    body.seq != envelope.seq + 1 ||
	    envelope_decode(
	        (struct span){ (char *)in + RECORD_HEADER_BYTES, envelope.payload_bytes }, out) < 0)
		return false;
	*b = (struct spool_body){ .fd = -1,
		.record = in,
		.data = (char *)in + at + RECORD_HEADER_BYTES,
		.bytes = body.payload_bytes };
	return true;
}

/* The usual message, whose records are as long as the caller thinks. */
static bool
read_both(const struct open_segment *o, uint64_t at, size_t bytes, struct envelope **out,
    struct spool_body *b)
{
	uint8_t *in = bytes <= MESSAGE_READ_MAX ? os_alloc(bytes) : NULL;
	size_t got;

	if (in == NULL)
		return false;
	if (segment_read_most(o->fd, in, bytes, at, &got) == 0 && take_both(o, in, got, out, b))
		return true;
	free(in);
	return false;
}

int
spool_store_message(struct spool_store *s, struct spool_location at, size_t bytes,
    struct envelope **envelope, struct spool_body **body)
{
	struct spool_body *b = xcalloc(1, sizeof(*b));
	const struct open_segment *o;
	int r;

	r = get_segment(s, at.segment, &o);
	if (r == 0 && read_both(o, at.offset, bytes, envelope, b)) {
		*body = b;
		return 0;
	}
	free(b);
	/* large, damaged, unreadable or longer: record by record, which tells what it is */
	if (r == 0)
		r = spool_store_envelope(s, at, envelope);
	if (r < 0)
		return r;
	r = spool_store_body(s, at, *envelope, body);
	if (r < 0)
		envelope_free(*envelope);
	return r;
}

/* Is the large body there, as long as the envelope says? (Its sum is checked when it is sent.) */
static int
check_large(struct spool_store *s, struct span payload)
{
	struct spool_body *body;
	struct envelope *e;
	int r;

	r = envelope_decode(payload, &e);
	if (r < 0)
		return r;
	r = spool_store_body(s, (struct spool_location){ 0 }, e, &body);
	if (r == 0)
		spool_body_close(body);
	envelope_free(e);
	return r;
}

int
spool_store_copy(struct spool_store *s, struct spool_location at, struct spool_copy *out)
{
	struct record_header envelope, body;
	struct spool_copy copy = { .is_large = false };
	uint8_t *record, *body_record;
	const struct open_segment *o;
	uint32_t flags;
	uint64_t id;
	int r;

	r = get_segment(s, at.segment, &o);
	if (r < 0)
		return r;
	r = read_record(o, at.offset, RECORD_ENVELOPE, &envelope, &record);
	if (r < 0)
		return r;
	copy.envelope_record = record;
	copy.envelope =
	    (struct span){ (char *)record + RECORD_HEADER_BYTES, envelope.payload_bytes };
	r = envelope_peek(copy.envelope, &id, &flags);
	copy.is_large = r == 0 && (flags & ENVELOPE_LARGE) != 0;
	if (r == 0 && copy.is_large) {
		r = check_large(s, copy.envelope);
	} else if (r == 0) {
		r = read_body(o, at.offset, &envelope, &body, &body_record);
		if (r == 0) {
			copy.body_record = body_record;
			copy.body =
			    (struct iovec){ body_record + RECORD_HEADER_BYTES, body.payload_bytes };
		}
	}
	if (r < 0) {
		spool_copy_free(&copy);
		return r;
	}
	*out = copy;
	return 0;
}

void
spool_copy_free(struct spool_copy *copy)
{
	free(copy->envelope_record);
	free(copy->body_record);
	*copy = (struct spool_copy){ .is_large = false };
}

uint64_t
spool_body_bytes(const struct spool_body *b)
{
	return b->bytes;
}

static ssize_t
read_large(struct spool_body *b, uint64_t offset, void *buf, size_t len)
{
	size_t got;
	int r;

	if (offset == 0) {
		checksum_stream_reset(b->sum, b->id);
		b->checked = 0;
	}
	r = segment_read_most(b->fd, buf, len, offset, &got);
	if (r < 0)
		return r;
	if (got < len)
		return -EBADMSG; /* it was longer when it was opened */
	if (offset <= b->checked && offset + len > b->checked) {
		size_t known = (size_t)(b->checked - offset);

		checksum_stream_add(b->sum, (char *)buf + known, len - known);
		b->checked = offset + len;
	}
	if (offset + len == b->bytes && b->checked == b->bytes &&
	    checksum_stream_value(b->sum) != b->checksum_wanted)
		return -EBADMSG;
	return (ssize_t)len;
}

ssize_t
spool_body_read(struct spool_body *b, uint64_t offset, void *buf, size_t len)
{
	if (offset >= b->bytes)
		return 0;
	if (len > b->bytes - offset)
		len = (size_t)(b->bytes - offset);
	if (b->fd >= 0)
		return read_large(b, offset, buf, len);
	memcpy(buf, b->data + offset, len);
	return (ssize_t)len;
}

void
spool_body_close(struct spool_body *b)
{
	if (b == NULL)
		return;
	if (b->fd >= 0)
		os_close(b->fd);
	checksum_stream_free(b->sum);
	free(b->record);
	free(b);
}

/* What cannot be read is left out (a hole, or what an earlier copy has there), and told at the end. */
static int
copy_range(int from, uint64_t offset, uint64_t len, int to)
{
	char *buf = xcalloc(1, COPY_BYTES);
	int r = 0, unreadable = 0;

	for (uint64_t at = 0; at < len && r == 0;) {
		size_t step = len - at < COPY_BYTES ? (size_t)(len - at) : COPY_BYTES;
		struct iovec iov;
		ssize_t n = os_pread(from, buf, step, offset + at);

		if (n == 0)
			break; /* the file ends before the range does */
		if (n < 0) {   /* block by block: some of them can be read */
			step = step < RECORD_BLOCK ? step : RECORD_BLOCK;
			n = os_pread(from, buf, step, offset + at);
		}
		if (n <= 0) {
			unreadable = n < 0 ? (int)n : -EIO;
			at += step;
			continue;
		}
		iov = (struct iovec){ buf, (size_t)n };
		n = os_pwritev(to, &iov, 1, at);
		if (n <= 0)
			r = n < 0 ? (int)n : -EIO;
		else
			at += (uint64_t)n;
	}
	free(buf);
	if (r == 0)
		r = os_fsync(to);
	return r < 0 ? r : unreadable;
}

int
spool_store_quarantine(struct spool_store *s, const struct spool_damage *damage)
{
	char name[sizeof("quarantine/") + SEGMENT_NAME_MAX + 48];
	int from, to, r;

	if (s->read_only)
		return -EROFS;
	if (damage->length_bytes == 0)
		return 0;
	snprintf(name, sizeof(name), "quarantine/%s.%llu-%llu", damage->file,
	    (unsigned long long)damage->offset, (unsigned long long)damage->length_bytes);
	from = os_open(s->dirfd, damage->file, O_RDONLY | O_NONBLOCK, 0);
	if (from < 0)
		return from;
	to = os_open(s->dirfd, name, O_RDWR | O_CREAT, 0600);
	if (to < 0) {
		os_close(from);
		return to;
	}
	r = copy_range(from, damage->offset, damage->length_bytes, to);
	if (segment_sync_subdirectory(s->dirfd, "quarantine") < 0 && r == 0)
		r = -EIO;
	os_close(to);
	os_close(from);
	return r;
}

int
spool_store_free_large(struct spool_store *s, uint64_t id)
{
	char name[LARGE_NAME_MAX];
	int r;

	if (s->read_only)
		return -EROFS;
	large_name(id, name);
	r = os_unlink(s->dirfd, name);
	return r == -ENOENT ? 0 : r;
}

static bool
take_clean(struct spool_store *s, uint32_t number)
{
	for (size_t i = 0; i < s->n_clean; i++)
		if (s->clean[i] == number) {
			s->clean[i] = s->clean[--s->n_clean];
			return true;
		}
	return false;
}

/* An empty file takes over its number: what may have failed is never written again (I5). */
static int
replace(struct spool_store *s, const char *name, const char *free_name)
{
	int fd = os_open(s->dirfd, free_name, O_RDWR | O_CREAT | O_EXCL, 0600);
	int r = os_unlink(s->dirfd, name);

	if (fd < 0 && fd != -EEXIST) /* there was no room for a name: there is now */
		fd = os_open(s->dirfd, free_name, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd >= 0)
		os_close(fd);
	return r;
}

/* Away with the name of a segment: it becomes a free one, or goes. The highest numbers are kept. */
static int
retire(struct spool_store *s, uint32_t number)
{
	char name[SEGMENT_NAME_MAX], to[SEGMENT_NAME_MAX];
	bool was_clean = take_clean(s, number);
	uint32_t *kept = NULL;
	size_t n = 0;
	int r;

	segment_name(segment_kind_of(number), number, name);
	segment_free_name(number, to);
	forget_open(s, number);
	r = segment_list(s->dirfd, SEGMENT_NAME_FREE, &kept, &n);
	if (r < 0)
		return r;
	if (n >= FREE_KEPT && kept[0] < number) {
		char lowest[SEGMENT_NAME_MAX];

		segment_free_name(kept[0], lowest);
		r = os_unlink(s->dirfd, lowest);
		if (r == -ENOENT)
			r = 0; /* a writer took it */
		n--;
	}
	free(kept);
	if (r == 0 && n < FREE_KEPT)
		r = was_clean ? os_rename(s->dirfd, name, to) : replace(s, name, to);
	else if (r == 0)
		r = os_unlink(s->dirfd, name);
	if (r == -EEXIST)
		r = os_unlink(s->dirfd, name); /* of a rename that was cut short */
	return r == -ENOENT ? 0 : r;
}

static bool
is_there(struct spool_store *s, uint32_t number)
{
	char name[SEGMENT_NAME_MAX];
	int fd;

	segment_name(segment_kind_of(number), number, name);
	fd = os_open(s->dirfd, name, O_RDONLY | O_NONBLOCK, 0);
	if (fd >= 0)
		os_close(fd);
	return fd != -ENOENT;
}

/* Does it hold a REVOKE that is still needed? */
static bool
is_needed(struct spool_store *s, uint32_t holder)
{
	for (size_t i = 0; i < s->n_revokes; i++)
		if (s->revokes[i].holder == holder && is_there(s, s->revokes[i].revoke.segment))
			return true;
	return false;
}

bool
spool_store_is_kept(struct spool_store *s, uint32_t number)
{
	return is_needed(s, number);
}

static void
forget_revokes(struct spool_store *s, uint32_t holder)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n_revokes; i++)
		if (s->revokes[i].holder != holder)
			s->revokes[n++] = s->revokes[i];
	s->n_revokes = n;
}

int
spool_store_free_segment(struct spool_store *s, uint32_t number)
{
	int r;

	if (s->read_only)
		return -EROFS;
	if (is_needed(s, number)) {
		for (size_t i = 0; i < s->n_revokes; i++)
			if (s->revokes[i].holder == number)
				s->revokes[i].holder_is_done = true;
		return -EBUSY;
	}
	r = retire(s, number);
	if (r == 0)
		r = os_fsync(s->dirfd); /* before that, whoever held its REVOKE must stay */
	if (r == 0)
		r = segment_sync_subdirectory(s->dirfd, "large");
	if (r < 0)
		return r;
	forget_revokes(s, number);
	for (size_t i = 0; i < s->n_revokes; i++)
		if (s->revokes[i].revoke.segment == number && s->revokes[i].holder_is_done) {
			r = spool_store_free_segment(s, s->revokes[i].holder);
			return r == -EBUSY ? 0 : r;
		}
	return 0;
}

void
spool_store_note_revoke(struct spool_store *s, uint32_t holder, const struct record_revoke *revoke)
{
	for (size_t i = 0; i < s->n_revokes; i++)
		if (s->revokes[i].holder == holder &&
		    s->revokes[i].revoke.segment == revoke->segment &&
		    s->revokes[i].revoke.first_seq == revoke->first_seq)
			return;
	s->revokes = xrealloc(s->revokes, s->n_revokes + 1, sizeof(*s->revokes));
	s->revokes[s->n_revokes++] = (struct noted_revoke){ .holder = holder, .revoke = *revoke };
}

void
spool_store_note_clean(struct spool_store *s, uint32_t number)
{
	for (size_t i = 0; i < s->n_clean; i++)
		if (s->clean[i] == number)
			return;
	s->clean = xrealloc(s->clean, s->n_clean + 1, sizeof(*s->clean));
	s->clean[s->n_clean++] = number;
}

void
spool_store_keep(struct spool_store *s, uint32_t number)
{
	/* It hangs on itself; the range of seq is empty. */
	spool_store_note_revoke(s, number, &(struct record_revoke){ number, 1, 0 });
}

bool
spool_store_is_revoked(const struct spool_store *s, uint32_t segment, uint64_t seq)
{
	for (size_t i = 0; i < s->n_revokes; i++) {
		const struct record_revoke *v = &s->revokes[i].revoke;

		if (v->segment == segment && v->first_seq <= seq && seq <= v->last_seq)
			return true;
	}
	return false;
}
