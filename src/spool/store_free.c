/* store_free.c - what is done goes away, but not before what a REVOKE in it speaks of (store.h, I6). */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/os.h"
#include "spool/large.h"
#include "spool/store_parts.h"

#define FREE_KEPT 2

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
	store_forget_segment(s, number);
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

bool
spool_store_is_there(struct spool_store *s, uint32_t number)
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
		if (s->revokes[i].holder == holder &&
		    spool_store_is_there(s, s->revokes[i].revoke.segment))
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
	s->revokes[s->n_revokes++] = (struct store_revoke){ .holder = holder, .revoke = *revoke };
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
