/* journal_places.c - where outcomes stand (journal.h), and how one message's are read back.
 *
 * Most messages have one outcome that counts: the last one, which names every recipient. Its place
 * is its offset in all journals laid end to end, in units of 8 bytes. Where several records are
 * needed the place is a node of a list, newest first. */
#include <errno.h>
#include <stdlib.h>

#include "base/os.h"
#include "spool/journal.h"
#include "spool/window.h"

#define LISTED 0x20000000u /* the rest is a node + 1 */
#define DIRECT_MOST (LISTED - 1)

struct node {
	uint32_t next; /* a place */
	uint32_t journal;
	uint32_t offset;
};

/* Kept open: what compaction unlinks can be read until the places are told anew. */
struct open_journal {
	uint32_t number;
	int fd;
	struct record_salt salt;
	uint64_t base, units; /* where it lies when all are laid end to end */
};

struct journal_places {
	int dirfd;
	struct open_journal *journals;
	size_t n_journals;
	struct node *nodes;
	uint32_t n_nodes, nodes_capacity, free_node;
	struct window window;
};

struct journal_places *
journal_places_new(int dirfd)
{
	struct journal_places *p = xcalloc(1, sizeof(*p));

	p->dirfd = dirfd;
	return p;
}

void
journal_places_free(struct journal_places *p)
{
	if (p == NULL)
		return;
	for (size_t i = 0; i < p->n_journals; i++)
		os_close(p->journals[i].fd);
	free(p->journals);
	free(p->nodes);
	window_fini(&p->window);
	free(p);
}

/* Which of the open ones? Opens it if it is none of them yet. */
static int
find_journal(struct journal_places *p, uint32_t number, uint32_t *out)
{
	const struct open_journal *last;
	struct segment_header header = { 0 };
	struct stat st;
	int fd, r;

	for (size_t i = p->n_journals; i > 0; i--) /* mostly the newest */
		if (p->journals[i - 1].number == number) {
			*out = (uint32_t)(i - 1);
			return 0;
		}
	r = segment_open(p->dirfd, SEGMENT_JOURNAL, number, false, &header, &fd, NULL);
	if (fd < 0)
		return r;
	if (r == 0)
		r = os_fstat(fd, &st);
	if (r < 0) {
		os_close(fd);
		return r;
	}
	p->journals = xrealloc(p->journals, p->n_journals + 1, sizeof(p->journals[0]));
	last = p->n_journals > 0 ? &p->journals[p->n_journals - 1] : NULL;
	p->journals[p->n_journals] = (struct open_journal){ .number = number,
		.fd = fd,
		.salt = record_salt_from(header.salt),
		.base = last != NULL ? last->base + last->units : 0,
		.units = (uint64_t)st.st_size / 8 };
	*out = (uint32_t)p->n_journals++;
	return 0;
}

/* Which journal, and where in it. */
static uint32_t
resolve(const struct journal_places *p, uint32_t place, uint32_t *offset)
{
	size_t low = 0, high = p->n_journals;

	if (place & LISTED) {
		const struct node *node = &p->nodes[(place & ~LISTED) - 1];

		*offset = node->offset;
		return node->journal;
	}
	while (high - low > 1) { /* the last one that begins at it or before it */
		size_t middle = (low + high) / 2;

		if (p->journals[middle].base <= place)
			low = middle;
		else
			high = middle;
	}
	*offset = (uint32_t)(place - p->journals[low].base) * 8;
	return (uint32_t)low;
}

uint32_t
journal_places_journal(const struct journal_places *p, uint32_t place)
{
	uint32_t offset;

	return p->journals[resolve(p, place, &offset)].number;
}

static uint32_t
next_of(const struct journal_places *p, uint32_t place)
{
	return place & LISTED ? p->nodes[(place & ~LISTED) - 1].next : 0;
}

static int
add_node(struct journal_places *p, uint32_t *place, uint32_t journal, uint32_t offset)
{
	uint32_t node = p->free_node;

	if (node != 0) {
		p->free_node = p->nodes[node - 1].next;
	} else {
		if (p->n_nodes == p->nodes_capacity) {
			uint32_t capacity = p->nodes_capacity + p->nodes_capacity / 2 + 64;
			struct node *nodes = os_realloc(p->nodes, capacity * sizeof(*nodes));

			if (nodes == NULL || capacity >= LISTED)
				return -ENOMEM;
			p->nodes = nodes;
			p->nodes_capacity = capacity;
		}
		node = ++p->n_nodes;
	}
	p->nodes[node - 1] = (struct node){ *place, journal, offset };
	*place = LISTED | node;
	return 0;
}

int
journal_places_add(
    struct journal_places *p, uint32_t *place, uint32_t number, uint32_t offset, bool is_complete)
{
	uint32_t journal, older = is_complete ? 0 : *place;
	uint64_t direct;
	int r;

	r = find_journal(p, number, &journal);
	if (r < 0)
		return r;
	direct = p->journals[journal].base + offset / 8;
	if (older != 0 || direct > DIRECT_MOST)
		r = add_node(p, &older, journal, offset);
	else
		older = (uint32_t)direct;
	if (r < 0)
		return r;
	if (is_complete)
		journal_places_drop(p, place);
	*place = older;
	return 0;
}

void
journal_places_drop(struct journal_places *p, uint32_t *place)
{
	while (*place & LISTED) {
		struct node *node = &p->nodes[(*place & ~LISTED) - 1];
		uint32_t next = node->next;

		node->next = p->free_node;
		p->free_node = *place & ~LISTED;
		*place = next;
	}
	*place = 0;
}

static int
read_one(struct journal_places *p, uint32_t place, struct journal_outcome **out)
{
	const struct open_journal *j;
	struct record_header h;
	const uint8_t *record;
	uint32_t offset;
	int r;

	j = &p->journals[resolve(p, place, &offset)];
	r = window_record(&p->window, j->fd, j->salt, offset, RECORD_OUTCOME, &h, &record);
	if (r < 0)
		return r;
	return journal_decode(
	    (struct span){ (const char *)record + RECORD_HEADER_BYTES, h.payload_bytes }, out);
}

/* Each part fitted in a record, all of them need not: their words get shorter, and go. False: they are
 * gone already. */
static bool
shorten(struct journal_outcome *o)
{
	bool any_reply = false, any = false;

	for (size_t i = 0; i < o->n_recipients; i++) {
		any_reply = any_reply || o->recipients[i].reply.len > 0;
		o->recipients[i].reply.len /= 2;
	}
	for (size_t i = 0; i < o->n_recipients && !any_reply; i++) {
		any = any || o->recipients[i].upstream.len > 0;
		o->recipients[i].upstream.len = 0;
	}
	return any_reply || any;
}

/* Puts the parts, newest first, into one that owns its bytes. */
static int
merge(struct journal_outcome **parts, size_t n_parts, struct journal_outcome **out)
{
	struct journal_outcome whole = *parts[0];
	size_t n = 0, highest = 0;
	bool *named;
	void *payload;
	size_t len;
	int r;

	for (size_t i = 0; i < n_parts; i++) {
		n += parts[i]->n_recipients;
		for (size_t k = 0; k < parts[i]->n_recipients; k++)
			if (parts[i]->recipients[k].index > highest)
				highest = parts[i]->recipients[k].index;
	}
	named = xcalloc(highest + 1, sizeof(*named)); /* journal_decode() bounds the index */
	whole.recipients = xcalloc(n + 1, sizeof(whole.recipients[0]));
	whole.n_recipients = 0;
	for (size_t i = 0; i < n_parts; i++) {
		if (whole.moved.offset == 0)
			whole.moved = parts[i]->moved;
		for (size_t k = parts[i]->n_recipients; k > 0; k--) {
			const struct journal_recipient *one = &parts[i]->recipients[k - 1];

			if (named[one->index])
				continue;
			named[one->index] = true;
			whole.recipients[whole.n_recipients++] = *one;
		}
	}
	do {
		r = journal_encode(&whole, &payload, &len);
	} while (r == -EMSGSIZE && shorten(&whole));
	if (r == 0) {
		r = journal_decode((struct span){ payload, len }, out);
		free(payload);
	}
	free(whole.recipients);
	free(named);
	return r;
}

int
journal_places_get(struct journal_places *p, uint32_t place, struct journal_outcome **out)
{
	struct journal_outcome **parts = NULL;
	size_t n = 0;
	int r = 0;

	*out = NULL;
	for (; place != 0; place = next_of(p, place)) {
		parts = xrealloc(parts, n + 1, sizeof(*parts));
		r = read_one(p, place, &parts[n]);
		if (r < 0)
			break; /* a moment ago it was whole; without it the others tell less than is known */
		n++;
	}
	if (r == 0 && n == 1) {
		*out = parts[0];
		n = 0;
	} else if (r == 0 && n > 1) {
		r = merge(parts, n, out);
	}
	for (size_t i = 0; i < n; i++)
		journal_free(parts[i]);
	free(parts);
	return r;
}
