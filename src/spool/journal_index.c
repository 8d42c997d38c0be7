/* journal_index.c - replay of the journals (journal.h) and their compaction (journal_compact.h).
 *
 * For each message the index keeps a chain of places, newest first. It is found by the ID's two
 * parts: segment number -> page of 1024 sequences -> head of the chain. A record that names all
 * recipients ends the chain, a DONE empties it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/queue_id.h"
#include "spool/journal.h"
#include "spool/journal_compact.h"
#include "spool/reader.h"

#define PAGE_IDS 1024u
#define PAGES_MAX ((QUEUE_ID_SEQUENCE_MAX + 1u) / PAGE_IDS)
#define IS_DONE 0x80000000u
#define WAS_SEEN 0x40000000u
#define HEAD 0x3fffffffu /* node + 1; 0: no node */

struct node {
	uint32_t next; /* node + 1 */
	uint32_t journal;
	uint32_t offset;
};

struct numbered {
	uint32_t number;
	uint32_t n_pages;
	uint32_t **pages;
};

struct open_journal {
	uint32_t number;
	int fd;
	struct record_salt salt;
};

struct journal_index {
	int dirfd;
	uint32_t below; /* journals from this number on are not read; 0: all are */
	bool damaged;
	struct numbered *numbered; /* ascending */
	size_t n_numbered, last;
	struct node *nodes;
	uint32_t n_nodes, nodes_capacity, free_node;
	struct open_journal *journals;
	size_t n_journals;
};

/* Where `number` stands, or would. */
static size_t
find_number(const struct journal_index *x, uint32_t number)
{
	size_t low = 0, high = x->n_numbered;

	if (x->last < x->n_numbered && x->numbered[x->last].number == number)
		return x->last;
	while (low < high) {
		size_t middle = (low + high) / 2;

		if (x->numbered[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static uint32_t *
find(const struct journal_index *x, uint64_t id)
{
	uint32_t number = (uint32_t)(id >> 24);
	uint32_t sequence = (uint32_t)id & QUEUE_ID_SEQUENCE_MAX, page = sequence / PAGE_IDS;
	size_t i = find_number(x, number);

	if (id >> 56 != 0 || i >= x->n_numbered || x->numbered[i].number != number)
		return NULL;
	if (page >= x->numbered[i].n_pages || x->numbered[i].pages[page] == NULL)
		return NULL;
	return &x->numbered[i].pages[page][sequence % PAGE_IDS];
}

/* As find(), made if it is not there. NULL: no memory, or no ID of ours. */
static uint32_t *
find_or_add(struct journal_index *x, uint64_t id)
{
	uint32_t number = (uint32_t)(id >> 24);
	uint32_t sequence = (uint32_t)id & QUEUE_ID_SEQUENCE_MAX, page = sequence / PAGE_IDS;
	size_t i = find_number(x, number);
	struct numbered *n;

	if (id >> 56 != 0)
		return NULL;
	if (i >= x->n_numbered || x->numbered[i].number != number) {
		n = os_realloc(x->numbered, (x->n_numbered + 1) * sizeof(*n));
		if (n == NULL)
			return NULL;
		x->numbered = n;
		memmove(&n[i + 1], &n[i], (x->n_numbered - i) * sizeof(*n));
		n[i] = (struct numbered){ .number = number };
		x->n_numbered++;
	}
	x->last = i;
	n = &x->numbered[i];
	if (page >= n->n_pages) {
		uint32_t **pages = os_realloc(n->pages, (page + 1) * sizeof(*pages));

		if (pages == NULL)
			return NULL;
		memset(&pages[n->n_pages], 0, (page + 1 - n->n_pages) * sizeof(*pages));
		n->pages = pages;
		n->n_pages = page + 1;
	}
	if (n->pages[page] == NULL) {
		n->pages[page] = os_alloc(PAGE_IDS * sizeof(uint32_t));
		if (n->pages[page] == NULL)
			return NULL;
		memset(n->pages[page], 0, PAGE_IDS * sizeof(uint32_t));
	}
	return &n->pages[page][sequence % PAGE_IDS];
}

static void
free_chain(struct journal_index *x, uint32_t *entry)
{
	uint32_t node = *entry & HEAD;

	while (node != 0) {
		uint32_t next = x->nodes[node - 1].next;

		x->nodes[node - 1].next = x->free_node;
		x->free_node = node;
		node = next;
	}
	*entry &= ~HEAD;
}

static int
add_node(struct journal_index *x, uint32_t *entry, uint32_t journal, uint32_t offset)
{
	uint32_t node = x->free_node;

	if (node != 0) {
		x->free_node = x->nodes[node - 1].next;
	} else {
		if (x->n_nodes == x->nodes_capacity) {
			uint32_t capacity = x->nodes_capacity + x->nodes_capacity / 2 + 1024;
			struct node *nodes = os_realloc(x->nodes, capacity * sizeof(*nodes));

			if (nodes == NULL || capacity >= HEAD)
				return -ENOMEM;
			x->nodes = nodes;
			x->nodes_capacity = capacity;
		}
		node = ++x->n_nodes;
	}
	x->nodes[node - 1] = (struct node){ *entry & HEAD, journal, offset };
	*entry = (*entry & ~HEAD) | node;
	return 0;
}

static int
take_outcome(struct journal_index *x, uint32_t journal, const struct spool_entry *entry)
{
	bool is_complete;
	uint32_t flags, *at;
	uint64_t id;

	if (journal_peek(entry->payload, &id, &flags, &is_complete) < 0)
		return 0; /* whole, but nothing that we understand */
	at = find_or_add(x, id);
	if (at == NULL)
		return id >> 56 != 0 ? 0 : -ENOMEM;
	if (flags & JOURNAL_DONE) {
		free_chain(x, at);
		*at |= IS_DONE;
	}
	if (is_complete)
		free_chain(x, at);
	return add_node(x, at, journal, entry->location.offset);
}

static int
read_journal(struct journal_index *x, uint32_t number, bool distrust, journal_damage_fn *on_damage,
    void *arg)
{
	struct open_journal *journals;
	struct segment_header header;
	struct spool_reader *reader;
	struct spool_entry entry;
	enum spool_event event;
	int fd, r;

	r = spool_reader_open(
	    x->dirfd, SEGMENT_JOURNAL, number, SPOOL_READ_TO_END, distrust, &reader);
	if (r < 0)
		return r == -ENOENT ? 0 : r; /* compacted away meanwhile */
	r = segment_open(x->dirfd, SEGMENT_JOURNAL, number, false, &header, &fd, NULL);
	if (fd < 0) {
		spool_reader_close(reader);
		return r == -ENOENT ? 0 : r;
	}
	journals = xrealloc(x->journals, x->n_journals + 1, sizeof(*journals));
	x->journals = journals;
	journals[x->n_journals] = (struct open_journal){ .number = number, .fd = fd };
	if (r == 0)
		journals[x->n_journals].salt = record_salt_from(header.salt);
	do {
		r = spool_reader_next(reader, &event, &entry);
		if (r == 0 && event == SPOOL_OUTCOME)
			r = take_outcome(x, (uint32_t)x->n_journals, &entry);
		if (r == 0 && event == SPOOL_UNKNOWN)
			r = -EPROTONOSUPPORT; /* what it says may be that mail was delivered */
		if (r == 0 && event == SPOOL_DAMAGE) {
			x->damaged |= entry.damage.range == SPOOL_RANGE_CORRUPT;
			if (on_damage != NULL)
				on_damage(arg, &entry.damage);
		}
	} while (r == 0 && event != SPOOL_END);
	x->n_journals++;
	spool_reader_close(reader);
	return r;
}

static int
index_open(int dirfd, uint32_t below, bool distrust, journal_damage_fn *on_damage, void *arg,
    struct journal_index **out)
{
	struct journal_index *x = xcalloc(1, sizeof(*x));
	uint32_t *numbers = NULL;
	size_t n = 0;
	int r;

	x->dirfd = dirfd;
	r = segment_list(dirfd, SEGMENT_NAME_JOURNAL, &numbers, &n);
	for (size_t i = 0; i < n && r == 0; i++)
		if (below == 0 || numbers[i] < below)
			r = read_journal(x, numbers[i], distrust, on_damage, arg);
	free(numbers);
	if (r < 0) {
		journal_index_close(x);
		return r;
	}
	*out = x;
	return 0;
}

int
journal_index_open(
    int dirfd, bool distrust, journal_damage_fn *on_damage, void *arg, struct journal_index **out)
{
	return index_open(dirfd, 0, distrust, on_damage, arg, out);
}

void
journal_index_close(struct journal_index *x)
{
	if (x == NULL)
		return;
	for (size_t i = 0; i < x->n_numbered; i++) {
		for (uint32_t p = 0; p < x->numbered[i].n_pages; p++)
			free(x->numbered[i].pages[p]);
		free(x->numbered[i].pages);
	}
	for (size_t i = 0; i < x->n_journals; i++)
		os_close(x->journals[i].fd);
	free(x->journals);
	free(x->numbered);
	free(x->nodes);
	free(x);
}

bool
journal_index_is_done(const struct journal_index *x, uint64_t id)
{
	const uint32_t *at = find(x, id);

	return at != NULL && (*at & IS_DONE);
}

bool
journal_index_is_damaged(const struct journal_index *x)
{
	return x->damaged;
}

int
journal_index_was_seen(struct journal_index *x, uint64_t id, bool *was_seen)
{
	uint32_t *at = find_or_add(x, id);

	if (at == NULL && id >> 56 == 0)
		return -ENOMEM;
	*was_seen = at != NULL && (*at & WAS_SEEN);
	if (at != NULL)
		*at |= WAS_SEEN;
	return 0;
}

static int
read_node(struct journal_index *x, const struct node *node, struct journal_outcome **out)
{
	const struct open_journal *j = &x->journals[node->journal];
	uint8_t small[1024], *in = small;
	struct record_header h;
	ssize_t n;
	int r = -EBADMSG;

	n = os_pread(j->fd, small, sizeof(small), node->offset);
	if (n < (ssize_t)RECORD_HEADER_BYTES)
		return n < 0 ? (int)n : -EBADMSG;
	if (!record_get_header(small, j->salt, &h) || h.type != RECORD_OUTCOME)
		return -EBADMSG;
	if (record_bytes(h.payload_bytes) > (size_t)n) {
		in = os_alloc(record_bytes(h.payload_bytes));
		if (in == NULL)
			return -ENOMEM;
		n = os_pread(j->fd, in, record_bytes(h.payload_bytes), node->offset);
	}
	if (n >= (ssize_t)record_bytes(h.payload_bytes) && record_is_whole(&h, j->salt, in))
		r = journal_decode(
		    (struct span){ (char *)in + RECORD_HEADER_BYTES, h.payload_bytes }, out);
	else if (n < 0)
		r = (int)n;
	if (in != small)
		free(in);
	return r;
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
	r = journal_encode(&whole, &payload, &len);
	if (r == 0) {
		r = journal_decode((struct span){ payload, len }, out);
		free(payload);
	}
	free(whole.recipients);
	free(named);
	return r;
}

int
journal_index_get(struct journal_index *x, uint64_t id, struct journal_outcome **out)
{
	const uint32_t *at = find(x, id);
	struct journal_outcome **parts = NULL;
	size_t n = 0;
	int r = 0;

	*out = NULL;
	if (at == NULL || (*at & HEAD) == 0)
		return 0;
	for (uint32_t node = *at & HEAD; node != 0; node = x->nodes[node - 1].next) {
		parts = xrealloc(parts, n + 1, sizeof(*parts));
		r = read_node(x, &x->nodes[node - 1], &parts[n]);
		if (r == 0)
			n++;
		else if (r == -ENOMEM)
			break;
		/* else it went bad after it was read: the others still hold */
	}
	if (r != -ENOMEM)
		r = 0;
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

int
journal_index_history(struct journal_index *x, uint64_t id,
    void (*each)(void *arg, const struct journal_outcome *o), void *arg)
{
	int r = 0;

	for (size_t i = 0; i < x->n_journals && r == 0; i++) {
		struct journal_outcome *o;
		struct spool_reader *reader;
		struct spool_entry entry;
		enum spool_event event;

		r = spool_reader_open(x->dirfd, SEGMENT_JOURNAL, x->journals[i].number,
		    SPOOL_READ_TO_END, false, &reader);
		if (r == -ENOENT) {
			r = 0;
			continue;
		}
		if (r < 0)
			break;
		do {
			bool is_complete;
			uint32_t flags;
			uint64_t found;

			r = spool_reader_next(reader, &event, &entry);
			if (r < 0 || event != SPOOL_OUTCOME)
				continue;
			if (journal_peek(entry.payload, &found, &flags, &is_complete) < 0 ||
			    found != id || journal_decode(entry.payload, &o) < 0)
				continue;
			each(arg, o);
			journal_free(o);
		} while (r == 0 && event != SPOOL_END);
		spool_reader_close(reader);
	}
	return r;
}

int
journal_index_each(
    struct journal_index *x, int (*each)(void *arg, uint64_t id, bool done), void *arg)
{
	int r = 0;

	for (size_t i = 0; i < x->n_numbered && r == 0; i++) {
		const struct numbered *n = &x->numbered[i];

		for (uint32_t s = 0; s < n->n_pages * PAGE_IDS && r == 0; s++) {
			const uint32_t *page = n->pages[s / PAGE_IDS];

			if (page != NULL && (page[s % PAGE_IDS] & (HEAD | IS_DONE)) != 0)
				r = each(
				    arg, queue_id_make(n->number, s), page[s % PAGE_IDS] & IS_DONE);
		}
	}
	return r;
}

/* Compaction. */

struct compaction {
	struct journal_index *index;
	uint32_t *segments; /* that are there, ascending */
	size_t n_segments;
	int (*write)(void *arg, uint8_t type, const void *payload, size_t len);
	void *arg;
	uint64_t bytes;
};

static int
compare_numbers(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static bool
is_there(const struct compaction *c, uint32_t segment)
{
	return c->n_segments > 0 && bsearch(&segment, c->segments, c->n_segments, sizeof(segment),
	                                compare_numbers) != NULL;
}

static int
on_live(void *arg, uint64_t id, bool done)
{
	struct compaction *c = arg;
	struct journal_outcome *o;
	void *payload;
	size_t len;
	int r;

	(void)done;
	r = journal_index_get(c->index, id, &o);
	if (r < 0 || o == NULL)
		return r;
	/* A message that was moved may also stand where it was before, so its first segment counts
	 * as well as its last. */
	if (!is_there(c, (uint32_t)(id >> 24)) &&
	    (o->moved.offset == 0 || !is_there(c, o->moved.segment))) {
		journal_free(o);
		return 0;
	}
	if (o->flags & JOURNAL_DONE)
		o->n_recipients = 0; /* nobody asks any more */
	r = journal_encode(o, &payload, &len);
	journal_free(o);
	if (r < 0)
		return r;
	r = c->write(c->arg, RECORD_OUTCOME, payload, len);
	c->bytes += record_bytes((uint32_t)len);
	free(payload);
	return r;
}

static int
list_segments(int dirfd, struct compaction *c)
{
	uint32_t *more = NULL;
	size_t n = 0;
	int r;

	r = segment_list(dirfd, SEGMENT_NAME_INTAKE, &c->segments, &c->n_segments);
	if (r == 0)
		r = segment_list(dirfd, SEGMENT_NAME_DELIVERY, &more, &n);
	if (r == 0 && n > 0) {
		c->segments = xrealloc(c->segments, c->n_segments + n, sizeof(*more));
		memcpy(c->segments + c->n_segments, more, n * sizeof(*more));
		c->n_segments += n;
		qsort(c->segments, c->n_segments, sizeof(*more), compare_numbers);
	}
	free(more);
	return r;
}

static int
unlink_journals(const struct journal_index *x, int dirfd)
{
	char name[SEGMENT_NAME_MAX];

	for (size_t i = 0; i < x->n_journals; i++) {
		int r;

		segment_name(SEGMENT_JOURNAL, x->journals[i].number, name);
		r = os_unlink(dirfd, name); /* oldest first: what is left is still in order */
		if (r < 0 && r != -ENOENT)
			return r;
	}
	return os_fsync(dirfd);
}

int
journal_compact(int dirfd, uint32_t below,
    int (*write)(void *arg, uint8_t type, const void *payload, size_t len), void *arg,
    uint64_t *bytes)
{
	struct compaction c = { .write = write, .arg = arg };
	int r;

	r = index_open(dirfd, below, false, NULL, NULL, &c.index);
	if (r < 0)
		return r;
	if (c.index->damaged)
		r = -EBADMSG; /* the damaged bytes stay where they are until someone has looked */
	if (r == 0)
		r = list_segments(dirfd, &c);
	if (r == 0)
		r = write(arg, RECORD_SNAPSHOT, NULL, 0);
	if (r == 0)
		r = journal_index_each(c.index, on_live, &c);
	if (r == 0)
		r = write(arg, RECORD_OUTCOME, NULL, 0);
	if (r == 0)
		r = unlink_journals(c.index, dirfd);
	if (r == 0)
		*bytes = c.bytes;
	free(c.segments);
	journal_index_close(c.index);
	return r;
}

struct sum {
	int dirfd;
	uint64_t bytes;
};

static int
add_size(void *arg, const char *name)
{
	struct sum *sum = arg;
	uint32_t number;
	struct stat st;
	int fd;

	if (segment_parse_name(name, &number) != SEGMENT_NAME_JOURNAL)
		return 0;
	fd = os_open(sum->dirfd, name, O_RDONLY | O_NONBLOCK, 0);
	if (fd < 0)
		return 0;
	if (os_fstat(fd, &st) == 0 && st.st_size > 0)
		sum->bytes += (uint64_t)st.st_size;
	os_close(fd);
	return 0;
}

uint64_t
journal_bytes_on_disk(int dirfd)
{
	struct sum sum = { dirfd, 0 };

	if (os_list(dirfd, add_size, &sum) < 0)
		return 0;
	return sum.bytes;
}
