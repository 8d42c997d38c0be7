/* ctl_offline.c - see ctl_offline.h. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "ctl/ctl_offline.h"
#include "delivery/report.h"
#include "spool/catalog.h"
#include "spool/envelope.h"
#include "spool/journal.h"
#include "spool/store.h"

#define HEADERS_MAX 65536

static const char *
state_name(enum journal_state state)
{
	static const char *const names[] = {
		[JOURNAL_QUEUED] = "queued",
		[JOURNAL_DEFERRED] = "deferred",
		[JOURNAL_HELD] = "held",
		[JOURNAL_DELIVERED] = "delivered",
		[JOURNAL_BOUNCED] = "bounced",
		[JOURNAL_EXPIRED] = "bounced",
		[JOURNAL_REMOVED] = "removed",
	};

	return (size_t)state < ARRAY_LEN(names) ? names[state] : "unknown";
}

/* ---- open ---- */

static bool
is_locked(int dir_fd)
{
	int fd = os_open(dir_fd, "lock", O_RDONLY | O_NONBLOCK, 0);
	bool locked;

	if (fd < 0)
		return false;
	locked = os_is_locked(fd) == 1;
	os_close(fd);
	return locked;
}

int
ctl_offline_open(const struct ctl *ctl, int why, struct ctl_offline *out)
{
	const char *directory;
	int fd;

	if (ctl->config == NULL) {
		ctl_fail(
		    "relayd does not answer, and without a config there is no telling where its "
		    "spool is (-c FILE)");
		return -EINVAL;
	}
	directory = ctl->config->spool.directory;
	fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* may be a symbolic link */
	if (fd < 0) {
		int r = -errno;

		ctl_fail("relayd does not answer, and its spool cannot be read: %s: %s", directory,
		    strerror(-r));
		return r;
	}
	if (!is_locked(fd))
		out->why = "relayd does not run";
	else if (why == -ETIMEDOUT)
		out->why = "relayd-delivery does not answer";
	else
		out->why = "relayd runs, but not with this control socket";
	ctl_note("%s; this is what the spool in %s says", out->why, directory);
	out->dir_fd = fd;
	return 0;
}

int
ctl_offline_fail(int r)
{
	return ctl_fail("the spool cannot be read: %s",
	    r == -EPROTONOSUPPORT ? "a newer relayd wrote it: run that version again"
	                          : strerror(-r));
}

void
ctl_offline_close(struct ctl_offline *offline)
{
	os_close(offline->dir_fd);
}

/* ---- a message as a report ---- */

static const struct journal_recipient *
find_outcome(const struct journal_outcome *outcome, size_t index)
{
	for (size_t i = 0; outcome != NULL && i < outcome->n_recipients; i++)
		if (outcome->recipients[i].index == index)
			return &outcome->recipients[i];
	return NULL;
}

static void
fill_recipient(struct report_recipient *out, const struct envelope_recipient *recipient,
    const struct journal_recipient *known)
{
	*out = (struct report_recipient){ .address = recipient->address, .state = "queued" };
	if (known == NULL)
		return;
	out->state = state_name(known->state);
	out->attempts = known->attempts;
	out->code = known->code;
	out->enhanced = known->enhanced;
	out->reply = known->reply;
}

/* `recipients` has room for all of them. Borrows everything. */
static struct report_message
make_report(uint64_t id, const struct envelope *e, const struct journal_outcome *outcome,
    struct report_recipient *recipients)
{
	struct report_message m = { .id = id,
		.state = "queued",
		.sender = e->sender,
		.size_bytes = e->prefix.len + e->body_bytes,
		.arrived_ms = e->arrived_ms,
		.uid = e->uid == ENVELOPE_UID_UNKNOWN ? -1 : (int64_t)e->uid,
		.unit = e->unit,
		.recipients = recipients,
		.n_recipients = e->n_recipients };

	for (size_t i = 0; i < e->n_recipients; i++) {
		const struct journal_recipient *known = find_outcome(outcome, i);

		fill_recipient(&recipients[i], &e->recipients[i], known);
		if (known == NULL || journal_state_is_final(known->state))
			continue;
		if (known->state == JOURNAL_HELD)
			m.state = "held";
		else if (known->state == JOURNAL_DEFERRED && strcmp(m.state, "held") != 0)
			m.state = "deferred";
		if (known->state == JOURNAL_DEFERRED &&
		    (m.next_attempt_ms == 0 || known->next_attempt_ms < m.next_attempt_ms))
			m.next_attempt_ms = known->next_attempt_ms;
		m.upstream = known->upstream;
	}
	if (outcome != NULL && (outcome->flags & JOURNAL_HOLD) != 0)
		m.state = "held";
	return m;
}

/* ---- queue ---- */

struct listing {
	ctl_report_fn *each;
	void *arg;
};

static int
on_message(void *arg, const struct catalog_message *found)
{
	struct listing *listing = arg;
	struct report_recipient *recipients =
	    xcalloc(found->envelope->n_recipients, sizeof(*recipients));
	const struct report_message m =
	    make_report(found->id, found->envelope, found->outcome, recipients);

	listing->each(listing->arg, &m);
	free(recipients);
	return 0;
}

int
ctl_offline_queue(const struct ctl_offline *offline, ctl_report_fn *each, void *arg)
{
	struct listing listing = { .each = each, .arg = arg };
	struct catalog_options options = {
		.dirfd = offline->dir_fd, .message = on_message, .arg = &listing
	};

	return catalog_replay(&options, NULL);
}

/* ---- show ---- */

struct history {
	struct report_attempt *items; /* spans point into copies of their own */
	size_t n;
	const struct envelope *envelope;
};

static struct span
copy_span(struct span s)
{
	return (struct span){ xstrndup(s.data, s.len), s.len };
}

static void
on_outcome(struct history *h, const struct journal_outcome *o)
{
	h->items = xrealloc(h->items, h->n + o->n_recipients, sizeof(*h->items));
	for (size_t i = 0; i < o->n_recipients; i++) {
		const struct journal_recipient *r = &o->recipients[i];

		if (r->index < h->envelope->n_recipients)
			h->items[h->n++] = (struct report_attempt){ .time_ms = o->time_ms,
				.recipient = h->envelope->recipients[r->index].address,
				.state = state_name(r->state),
				.attempt = r->attempts,
				.reply = copy_span(r->reply),
				.upstream = copy_span(r->upstream) };
	}
}

/* Each stored outcome of the message, oldest first (what compaction has left). */
static int
read_history(int dir_fd, uint64_t id, struct history *h)
{
	struct journal_scan *scan;
	struct journal_outcome *o;
	int r;

	r = journal_scan_open(dir_fd, 0, false, NULL, NULL, &scan);
	if (r < 0)
		return r;
	while ((r = journal_scan_next_of(scan, id, UINT_MAX, &o)) > 0) {
		on_outcome(h, o);
		journal_free(o);
	}
	journal_scan_close(scan);
	return r;
}

static void
free_history(struct history *h)
{
	for (size_t i = 0; i < h->n; i++) {
		free((char *)(uintptr_t)h->items[i].reply.data);
		free((char *)(uintptr_t)h->items[i].upstream.data);
	}
	free(h->items);
}

/* The header lines: the prefix and the body's beginning up to the empty line. */
static char *
read_headers(const struct envelope *e, struct spool_body *body, size_t *len)
{
	char *text = xcalloc(e->prefix.len + HEADERS_MAX + 1, 1), *end;
	ssize_t n;

	if (e->prefix.len > 0)
		memcpy(text, e->prefix.data, e->prefix.len);
	n = body != NULL ? spool_body_read(body, 0, text + e->prefix.len, HEADERS_MAX) : 0;
	*len = e->prefix.len + (n > 0 ? (size_t)n : 0);
	end = memmem(text, *len, "\r\n\r\n", 4);
	if (end != NULL)
		*len = (size_t)(end - text) + 2;
	return text;
}

static int
give_body(const struct envelope *e, struct spool_body *body, ctl_bytes_fn *give, void *arg)
{
	char piece[65536];
	uint64_t offset = 0;
	ssize_t n;

	give(arg, e->prefix);
	while ((n = spool_body_read(body, offset, piece, sizeof(piece))) > 0) {
		give(arg, (struct span){ piece, (size_t)n });
		offset += (uint64_t)n;
	}
	return n < 0 ? (int)n : 0;
}

static void
add_details(json_t *report, int dir_fd, uint64_t id, const struct envelope *e,
    const struct journal_outcome *outcome, struct spool_body *body)
{
	struct history history = { .envelope = e };
	struct report_details details = { .client = e->client,
		.listener = e->listener,
		.helo = e->helo,
		.envid = e->envid,
		.is_dsn = (e->flags & ENVELOPE_DSN) != 0,
		.possible_duplicates = outcome != NULL ? outcome->possible_duplicates : 0 };
	char *headers = read_headers(e, body, &details.headers.len);

	details.headers.data = headers;
	if (read_history(dir_fd, id, &history) < 0)
		ctl_note("the history of attempts cannot be read");
	details.history = history.items;
	details.n_history = history.n;
	report_add_details(report, &details);
	free_history(&history);
	free(headers);
}

int
ctl_offline_show(const struct ctl_offline *offline, uint64_t id, ctl_message_fn *each,
    ctl_bytes_fn *give, void *arg)
{
	struct journal_outcome *outcome = NULL;
	struct spool_store *store = NULL;
	struct spool_body *body = NULL;
	struct report_recipient *recipients;
	struct report_message m;
	struct spool_location at;
	struct envelope *e;
	json_t *report;
	int r;

	r = catalog_find(offline->dir_fd, id, &at, &e, &outcome);
	if (r < 0)
		return r;
	r = spool_store_open(offline->dir_fd, true, &store);
	if (r == 0)
		r = spool_store_body(store, at, e, &body);
	if (r < 0)
		ctl_note("the body cannot be read: %s", strerror(-r));
	recipients = xcalloc(e->n_recipients, sizeof(*recipients));
	m = make_report(id, e, outcome, recipients);
	report = report_message(&m);
	free(recipients);
	add_details(report, offline->dir_fd, id, e, outcome, body);
	each(arg, report);
	json_decref(report);
	if (give != NULL && body != NULL)
		r = give_body(e, body, give, arg);
	spool_body_close(body);
	spool_store_close(store);
	journal_free(outcome);
	envelope_free(e);
	return r;
}
