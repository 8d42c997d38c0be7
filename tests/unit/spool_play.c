/* spool_play.c - see spool_play.h. */
#include <stdatomic.h>

#include "spool_play.h"
#include "base/os.h"

static char saying[4096];

void
play_say(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(saying, sizeof(saying), fmt, args);
	va_end(args);
}

void
play_fail(const char *file, int line, const char *what)
{
	fprintf(stderr, "%s:%d: %s\n  while: %s\n", file, line, what, saying);
	abort();
}

/* --- the ledger --------------------------------------------------------------------------------- */

struct ledger *
play_ledger_copy(const struct ledger *from)
{
	struct ledger *to = calloc(1, sizeof(*to));

	/* results first: what was answered is on the disk that is looked at afterwards */
	to->n = atomic_load(&from->n);
	for (unsigned i = 0; i < to->n; i++) {
		const struct promise *a = &from->list[i];
		struct promise *b = &to->list[i];

		b->result = atomic_load(&a->result);
		b->sure = atomic_load(&a->sure);
		b->done_sure = atomic_load(&a->done_sure);
		b->asked = atomic_load(&a->asked);
		b->done_asked = atomic_load(&a->done_asked);
		b->id = atomic_load(&a->id);
		b->bytes = a->bytes;
	}
	return to;
}

static int
ledger_find(const struct ledger *l, uint64_t id)
{
	for (unsigned i = 0; i < atomic_load(&l->n); i++)
		if (atomic_load(&l->list[i].id) == id)
			return (int)i;
	return -1;
}

static unsigned
ledger_add(struct ledger *l, uint64_t id, size_t bytes)
{
	unsigned i = atomic_load(&l->n);

	must(i < PROMISES);
	must(ledger_find(l, id) < 0); /* an ID is never given twice */
	l->list[i].bytes = (uint32_t)bytes;
	atomic_store(&l->list[i].result, UNANSWERED);
	atomic_store(&l->list[i].id, id);
	atomic_store(&l->n, i + 1);
	return i;
}

/* What a message's body is made of. */
static void
fill_body(uint64_t id, char *out, size_t len)
{
	uint64_t x = id * 0x9e3779b97f4a7c15ull | 1;

	for (size_t i = 0; i < len; i++) {
		if (i % 64 == 0)
			x = x * 6364136223846793005ull + 1442695040888963407ull;
		out[i] = (char)('!' + (x >> 33) % 90 + i % 5);
	}
}

static bool
is_body(uint64_t id, const char *data, size_t len)
{
	char *wanted = malloc(len + 1);
	bool same;

	fill_body(id, wanted, len);
	same = memcmp(wanted, data, len) == 0;
	free(wanted);
	return same;
}

/* --- intake ------------------------------------------------------------------------------------- */

static void
on_report(void *arg, const struct spool_report *report)
{
	struct play *p = arg;

	p->reports[report->kind]++;
}

static int
open_writer(struct play *p, enum segment_kind kind, struct spool_writer **out)
{
	struct spool_writer_options options = { .dirfd = p->dirfd,
		.kind = kind,
		.segment_bytes = PLAY_SEGMENT_BYTES,
		.page = p->page,
		.wake_fd = -1,
		.report = on_report,
		.report_arg = p };

	return spool_writer_open(&options, out);
}

struct play *
play_new(struct os_disk *disk, struct ledger *ledger)
{
	struct play *p = calloc(1, sizeof(*p));

	p->disk = disk;
	p->dirfd = os_disk_root(disk);
	p->ledger = ledger;
	p->page = calloc(1, sizeof(*p->page));
	return p;
}

void
play_free(struct play *p)
{
	play_close_intake(p);
	play_close_delivery(p);
	free(p->page);
	free(p);
}

int
play_open_intake(struct play *p)
{
	return open_writer(p, SEGMENT_INTAKE, &p->intake);
}

void
play_close_intake(struct play *p)
{
	spool_writer_close(p->intake);
	p->intake = NULL;
}

static void
await(struct spool_writer *w, struct sent *s)
{
	struct pollfd fd = { spool_writer_fd(w), POLLIN, 0 };

	while (!s->is_done) {
		must(poll(&fd, 1, 20000) == 1);
		spool_writer_dispatch(w);
	}
}

/* Prepares a message of ours for this writer; NULL: it has no ID to give. */
static struct sent *
prepare(struct play *p, struct spool_writer *w, size_t bytes, struct large *large, uint64_t id)
{
	struct sent *s = calloc(1, sizeof(*s));
	struct envelope e;
	char *body = NULL;

	s->id = id != 0 ? id : spool_writer_next_id(w);
	if (s->id == 0) { /* the writer has no file yet: 452 */
		free(s);
		return NULL;
	}
	ledger_add(p->ledger, s->id, bytes);
	e = fixture_envelope(s->id, bytes);
	if (large != NULL) {
		e.flags |= ENVELOPE_LARGE;
		e.body_checksum = large_checksum(large);
	} else {
		body = malloc(bytes + 1);
		fill_body(s->id, body, bytes);
	}
	if (envelope_encode(&e, &s->envelope, &s->envelope_len) < 0) { /* no memory: 451 */
		atomic_store(&p->ledger->list[ledger_find(p->ledger, s->id)].result, -EAGAIN);
		large_drop(large);
		free(body);
		free(s);
		return NULL;
	}
	s->body[0] = (struct iovec){ body, bytes / 2 };
	s->body[1] = (struct iovec){ body != NULL ? body + bytes / 2 : NULL, bytes - bytes / 2 };
	spool_item_message(&s->item, (struct span){ s->envelope, s->envelope_len }, s->body,
	    body != NULL ? 2 : 0, large);
	s->item.done = fixture_on_done;
	s->item.arg = s;
	return s;
}

static void
finish(struct play *p, struct spool_writer *w, struct sent *s)
{
	if (s == NULL)
		return;
	await(w, s);
	must(s->item.result == 0 || s->item.result == -EAGAIN || s->item.result == -EIO);
	atomic_store(&p->ledger->list[ledger_find(p->ledger, s->id)].result, s->item.result);
	free(s->body[0].iov_base);
	fixture_free(s);
}

void
play_send(struct play *p, unsigned n, size_t bytes)
{
	struct sent *sent[16];

	if (p->intake == NULL)
		return;
	must(n <= ARRAY_LEN(sent));
	for (unsigned i = 0; i < n; i++)
		sent[i] = prepare(p, p->intake, bytes, NULL, 0);
	for (unsigned i = 0; i < n; i++)
		if (sent[i] != NULL)
			spool_writer_submit(p->intake, &sent[i]->item);
	for (unsigned i = 0; i < n; i++)
		finish(p, p->intake, sent[i]);
}

void
play_send_large(struct play *p, size_t bytes)
{
	struct large *large;
	struct sent *s;
	uint64_t id;
	char *body;
	int r;

	if (p->intake == NULL)
		return;
	id = spool_writer_next_id(p->intake);
	if (id == 0 || large_create(p->dirfd, id, &large) < 0)
		return; /* 451 before anything was said */
	body = malloc(bytes);
	fill_body(id, body, bytes);
	r = large_append(large, (struct span){ body, bytes / 3 });
	if (r == 0)
		r = large_append(large, (struct span){ body + bytes / 3, bytes - bytes / 3 });
	free(body);
	if (r < 0) {
		large_drop(large);
		return;
	}
	s = prepare(p, p->intake, bytes, large, id);
	if (s != NULL)
		spool_writer_submit(p->intake, &s->item);
	finish(p, p->intake, s);
}

void
play_send_letter(struct play *p, size_t bytes)
{
	struct sent *s;

	if (p->letters == NULL)
		return;
	s = prepare(p, p->letters, bytes, NULL, 0);
	if (s != NULL)
		spool_writer_submit(p->letters, &s->item);
	finish(p, p->letters, s);
}

/* --- delivery ----------------------------------------------------------------------------------- */

static struct play_place *
place_of(struct play *p, uint32_t number)
{
	for (unsigned i = 0; i < p->n_places; i++)
		if (p->places[i].number == number)
			return &p->places[i];
	must(p->n_places < ARRAY_LEN(p->places));
	p->places[p->n_places] = (struct play_place){ .number = number };
	return &p->places[p->n_places++];
}

static void
free_if_done(struct play *p, struct play_place *place)
{
	if (place->left > 0 || !place->is_read || !p->may_free)
		return;
	(void)!spool_store_free_segment(
	    p->store, place->number); /* once; the next start tries again */
	*place = p->places[--p->n_places];
}

static int
on_message(void *arg, const struct catalog_message *m)
{
	struct play *p = arg;
	int i = ledger_find(p->ledger, m->id);

	must(i >= 0);
	must(p->n_queue < PROMISES);
	for (unsigned k = 0; k < p->n_queue; k++)
		must(p->queue[k].promise != (unsigned)i);
	p->queue[p->n_queue++] = (struct play_message){ .promise = (unsigned)i,
		.at = m->location,
		.is_large = (m->envelope->flags & ENVELOPE_LARGE) != 0 };
	place_of(p, m->location.segment)->left++;
	return 0;
}

static void
on_segment(void *arg, const struct catalog_segment *s)
{
	struct play *p = arg;
	struct play_place *place = place_of(p, s->number);

	place->is_read = true;
	free_if_done(p, place);
}

static void
on_damage(void *arg, const struct spool_damage *damage)
{
	struct play *p = arg;

	p->damage += damage->range == SPOOL_RANGE_CORRUPT;
}

static int
open_catalog(struct play *p)
{
	struct catalog_options options = { .dirfd = p->dirfd,
		.store = p->store,
		.page = p->page,
		.distrust = true,
		.sweep = true,
		.message = on_message,
		.segment = on_segment,
		.damage = on_damage,
		.arg = p };

	return catalog_open(&options, &p->catalog);
}

static void
on_read(struct play *p)
{
	const struct catalog_summary *sum = catalog_summary(p->catalog);

	p->is_read = true;
	p->sync_error = (unsigned)sum->sync_error;
	p->may_free = !sum->newer;
	for (unsigned i = 0; i < p->n_places;) {
		unsigned n = p->n_places;

		free_if_done(p, &p->places[i]);
		i += n == p->n_places;
	}
}

int
play_open_delivery(struct play *p)
{
	int r;

	r = spool_store_open(p->dirfd, false, &p->store);
	if (r == 0)
		r = open_catalog(p);
	if (r == 0) {
		journal_drop_empty(p->dirfd);
		r = open_writer(p, SEGMENT_JOURNAL, &p->journal);
	}
	if (r == 0)
		r = open_writer(p, SEGMENT_DELIVERY, &p->letters);
	if (r < 0)
		play_close_delivery(p);
	return r;
}

void
play_close_delivery(struct play *p)
{
	spool_writer_close(p->letters);
	spool_writer_close(p->journal);
	catalog_close(p->catalog);
	spool_store_close(p->store);
	p->letters = p->journal = NULL;
	p->catalog = NULL;
	p->store = NULL;
	p->n_queue = p->n_places = 0;
	p->may_free = p->is_read = false;
}

/* A few messages. True: there are more now. */
static bool
read_some(struct play *p)
{
	int r = catalog_step(p->catalog, 3);

	if (!p->is_read && catalog_is_read(p->catalog))
		on_read(p);
	if (r < 0)
		p->follow_error = r; /* the next look, a second later */
	return r > 0;
}

int
play_read(struct spool_store *store, const struct promise *promise, struct spool_location at)
{
	struct spool_body *body;
	struct envelope *e;
	size_t got = 0;
	char *data;
	int r;

	r = spool_store_envelope(store, at, &e);
	if (r < 0)
		return r;
	must(e->id == promise->id && e->n_recipients == 2 && e->body_bytes == promise->bytes);
	r = spool_store_body(store, at, e, &body);
	envelope_free(e);
	if (r < 0)
		return r;
	must(spool_body_bytes(body) == promise->bytes);
	data = malloc(promise->bytes + 1);
	while (r == 0 && got < promise->bytes) {
		ssize_t n = spool_body_read(body, got, data + got, promise->bytes - got);

		if (n < 0)
			r = (int)n;
		else
			got += (size_t)n;
		must(n != 0);
	}
	if (r == 0)
		must(is_body(promise->id, data, got));
	free(data);
	spool_body_close(body);
	return r;
}

/* Stores what became of a message; 0: for sure. */
static int
store_outcome(struct play *p, struct promise *promise, struct spool_location at, bool done)
{
	struct journal_recipient recipients[2];
	struct journal_outcome o = { .id = promise->id,
		.time_ms = os_now_ms(),
		.n_all = 2,
		.recipients = recipients,
		.n_recipients = done ? 2 : 1,
		.flags = done ? JOURNAL_DONE : 0 };
	struct sent *s = calloc(1, sizeof(*s));
	int result;

	if (at.segment != promise->id >> 24)
		o.moved = at; /* as delivery/outcome.c does */
	for (uint32_t i = 0; i < 2; i++)
		recipients[i] = (struct journal_recipient){ .index = i,
			.state = done ? JOURNAL_DELIVERED : JOURNAL_DEFERRED,
			.attempts = promise->sure + 1,
			.reply = SPAN("mailbox is busy, which is a reason of some length") };
	if (journal_encode(&o, &s->envelope, &s->envelope_len) < 0) {
		free(s);
		return -ENOMEM;
	}
	promise->asked = promise->sure + 1;
	if (done)
		promise->done_asked = true;
	spool_item_outcome(&s->item, (struct span){ s->envelope, s->envelope_len });
	s->item.done = fixture_on_done;
	s->item.arg = s;
	spool_writer_submit(p->journal, &s->item);
	await(p->journal, s);
	result = s->item.result;
	fixture_free(s);
	must(result == 0 || result == -EIO);
	if (result == 0) {
		promise->sure = promise->asked;
		promise->done_sure = done;
	}
	return result;
}

/* One attempt. True: it is done, and forgotten. */
static bool
attempt(struct play *p, const struct play_message *m)
{
	struct promise *promise = &p->ledger->list[m->promise];
	struct play_place *place;
	bool done = m->promise % 3 != 0 || promise->sure > 0;

	must(!promise->done_sure);                      /* I3 */
	must(atomic_load(&promise->result) != -EAGAIN); /* I6 */
	if (!promise->done_asked && play_read(p->store, promise, m->at) < 0)
		return false; /* it stays */
	if (store_outcome(p, promise, m->at, done) < 0 || !done)
		return false;
	if (m->is_large)
		(void)!spool_store_free_large(p->store, promise->id);
	place = place_of(p, m->at.segment);
	must(place->left > 0);
	place->left--;
	free_if_done(p, place);
	return true;
}

/* Those from this one on. Returns how many are left in all. */
static unsigned
attempt_from(struct play *p, unsigned i)
{
	while (i < p->n_queue) {
		if (attempt(p, &p->queue[i]))
			p->queue[i] = p->queue[--p->n_queue];
		else
			i++;
	}
	return i;
}

/* What is read goes out before the next is read, as in delivery. */
void
play_deliver(struct play *p)
{
	bool has_more = p->journal != NULL;
	unsigned tried = 0;

	while (has_more) {
		has_more = read_some(p);
		if (p->follow_error == -ESTALE) { /* another one begins anew */
			p->follow_error = 0;
			play_close_delivery(p);
			return;
		}
		if (!catalog_is_unsure(p->catalog))
			tried = attempt_from(p, tried);
	}
}

void
play_defer(struct play *p, unsigned times)
{
	if (p->journal == NULL)
		return;
	while (read_some(p))
		;
	for (unsigned i = 0; i < times && p->n_queue > 0; i++) {
		const struct play_message *m = &p->queue[i % p->n_queue];

		(void)store_outcome(p, &p->ledger->list[m->promise], m->at, false);
	}
}

void
play_day(struct play *p)
{
	(void)!play_open_intake(p);
	(void)!play_open_delivery(p);
	play_send(p, 3, 600);
	play_send(p, 1, 9000);
	play_send_large(p, 5000);
	play_deliver(p);
	play_send(p, 2, 20000);
	play_deliver(p);
	play_send(p, 2, 20000);
	play_send_letter(p, 700);
	play_deliver(p);
	play_close_intake(p);
	if (play_open_intake(p) < 0) /* as the supervisor does */
		(void)!play_open_intake(p);
	play_send(p, 2, 20000);
	play_deliver(p);
	play_close_delivery(p);
	if (play_open_delivery(p) < 0)
		(void)!play_open_delivery(p);
	play_send(p, 2, 300);
	play_deliver(p);
	play_deliver(p);
	play_close_intake(p);
	play_close_delivery(p);
}

/* --- what must be true of a disk, whatever happened to it --------------------------------------- */

static int
on_found(void *arg, const struct catalog_message *m)
{
	struct play_found *found = arg;
	int i = ledger_find(found->ledger, m->id);
	const struct promise *promise;
	unsigned attempts = 0;

	must(i >= 0); /* nobody sent that */
	promise = &found->ledger->list[i];
	must(found->seen[i]++ == 0);
	found->at[i] = m->location;
	if (m->outcome != NULL) {
		must(m->outcome->n_recipients > 0);
		attempts = m->outcome->recipients[0].attempts;
	}
	must(attempts <= promise->asked);
	found->forgotten |= attempts < promise->sure; /* I3 */
	return 0;
}

static void
on_found_damage(void *arg, const struct spool_damage *damage)
{
	struct play_found *found = arg;

	if (found->n_told < ARRAY_LEN(found->told))
		found->told[found->n_told++] = *damage;
	if (damage->range != SPOOL_RANGE_CORRUPT)
		return;
	found->n_damage++;
	if (!found->is_quiet)
		fprintf(stderr, "%s: %llu bytes at %llu, seq %llu to %llu, id %llx, error %d\n",
		    damage->file, (unsigned long long)damage->length_bytes,
		    (unsigned long long)damage->offset, (unsigned long long)damage->first_missing,
		    (unsigned long long)damage->last_missing, (unsigned long long)damage->id,
		    damage->error);
}

int
play_look(struct os_disk *d, const struct ledger *ledger, bool sweep, struct play_found *found)
{
	struct catalog_options options = { .dirfd = os_disk_root(d),
		.distrust = true,
		.sweep = sweep,
		.message = on_found,
		.damage = on_found_damage,
		.arg = found };

	found->ledger = ledger;
	return catalog_replay(&options, &found->sum);
}

static void
compare(const struct play_found *found, struct spool_store *store, unsigned i)
{
	const struct promise *promise = &found->ledger->list[i];
	unsigned seen = found->seen[i];

	if (promise->result == -EAGAIN)
		must(seen == 0); /* I6 */
	else if (promise->done_sure)
		must(seen == 0); /* I3 */
	else if (promise->result == 0 && !promise->done_asked)
		must(seen == 1); /* I1 */
	if (seen > 0)            /* if an outcome was on its way its large body may be gone */
		must(play_read(store, promise, found->at[i]) == 0 || promise->done_asked);
}

void
play_is_sound(struct os_disk *d)
{
	must(os_disk_open_files(d) == 0);
	if (os_disk_violation(d) != NULL)
		play_fail(__FILE__, __LINE__, os_disk_violation(d));
}

void
play_check(struct os_disk *d, const struct ledger *ledger)
{
	struct play_found *found = calloc(1, sizeof(*found));
	struct spool_store *store;

	must(segment_prepare_directory(os_disk_root(d)) == 0); /* the supervisor */
	must(play_look(d, ledger, true, found) == 0);
	must(found->n_damage == 0 && found->sum.corrupt_ranges == 0);
	must(found->sum.sync_error == 0);
	must(!found->forgotten);
	must(spool_store_open(os_disk_root(d), true, &store) == 0);
	for (unsigned i = 0; i < ledger->n; i++)
		compare(found, store, i);
	spool_store_close(store);
	free(found);
	play_is_sound(d);
}

unsigned
play_check_ends(struct os_disk *d, const struct ledger *ledger, uint64_t seed)
{
	static const struct os_luck kinds[] = { { OS_LUCK_NOTHING, 0 }, { OS_LUCK_ALL, 0 },
		{ OS_LUCK_WRITES, 0 }, { OS_LUCK_NAMES, 0 }, { OS_LUCK_CHANCE, 1 },
		{ OS_LUCK_CHANCE, 2 } };
	struct ledger *copy = play_ledger_copy(ledger);
	struct os_disk *image = os_disk_kill(d);

	play_check(image, copy);
	os_disk_free(image);
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		image =
		    os_disk_cut(d, (struct os_luck){ kinds[i].kind, kinds[i].seed + seed * 7919 });
		play_check(image, copy);
		os_disk_free(image);
	}
	free(copy);
	return ARRAY_LEN(kinds) + 1;
}
