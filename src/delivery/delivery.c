/* delivery.c - the pump of the delivery worker: looks at intake's page, wakes what is due, lets the
 * upstreams send, and waits. See delivery.h. */
#include <errno.h>
#include <inttypes.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/os.h"
#include "delivery/compaction.h"
#include "delivery/conn.h"
#include "delivery/delivery.h"
#include "delivery/history.h"
#include "delivery/notify.h"
#include "delivery/outcome.h"
#include "delivery/resolver.h"
#include "delivery/upstream.h"

#define READ_AT_ONCE 512 /* messages, or outcomes, read before the loop turns */
#define TICK_MS 1000
#define LOOK_EVERY_MS 10000 /* for files that somebody has removed */
#define CLOCK_JUMP_MS 60000

uint32_t
delivery_random(void)
{
	uint32_t random = 0;

	(void)!os_random(&random, sizeof(random));
	return random;
}

/* The first that works takes all, for now; rules by sender or tenant will come here. */
unsigned
delivery_route(const struct delivery *d, const struct envelope *envelope)
{
	(void)envelope;
	for (unsigned i = 0; i < d->config->n_upstreams; i++)
		if (d->upstreams[i] != NULL && d->upstreams[i]->breaker.state == BREAKER_CLOSED)
			return i;
	return 0;
}

/* What waits for an upstream that is down goes to the next one that is not. Where only an accepted
 * message can prove that it is mended, one stays. Told as loudly as the outage. */
static void
switch_from(struct delivery *d, unsigned from)
{
	struct queue_entry *e;
	size_t moved = 0, keep = d->upstreams[from]->breaker.by_message ? 1 : 0;
	unsigned to = 0;

	while (to < d->config->n_upstreams &&
	       (to == from || d->upstreams[to]->breaker.state != BREAKER_CLOSED))
		to++;
	if (to == d->config->n_upstreams)
		return;
	for (; queue_count_ready(d->queue, from) > keep; moved++) {
		e = queue_take(d->queue, from);
		queue_hold(d->queue, e);
		queue_reroute(d->queue, e, to);
		queue_ready(d->queue, e);
	}
	if (moved == 0 || d->upstreams[from]->is_switched)
		return;
	d->upstreams[from]->is_switched = true;
	log_warning("upstream.switched", KV_STR("upstream", d->config->upstreams[to].name),
	    KV_STR("from", d->config->upstreams[from].name), KV_INT("messages", (int64_t)moved),
	    KV_WHY(d->upstreams[from]->why), KV_FIX(d->upstreams[from]->fix));
}

uint64_t
delivery_age_ms(const struct delivery *d, const struct queue_entry *e)
{
	int64_t now_s = (int64_t)(os_boot_ms() / 1000);

	(void)d;
	return now_s > e->born_s ? (uint64_t)(now_s - e->born_s) * 1000 : 0;
}

const char *
delivery_paused(const struct delivery *d)
{
	if (d->stopping)
		return "it is stopping";
	if (spool_writer_is_failed(d->journal) || outcomes_are_failed(d))
		return "the spool cannot be written: outcomes could not be kept";
	if (catalog_is_unsure(d->catalog))
		return "the spool is being read, and a part of it that may take mail back could "
		       "not be: nothing goes out before all is";
	if (d->is_full)
		return "the disk is slow: outcomes wait to be written";
	return "";
}

/* --- what is on disk -------------------------------------------------------------------------- */

static int
on_message(void *arg, const struct catalog_message *found)
{
	mail_enter(arg, found);
	return 0;
}

static void
on_segment(void *arg, const struct catalog_segment *s)
{
	mail_segment_read(arg, s);
}

static const char *
fix_of(int error)
{
	return error == EPROTONOSUPPORT ? "run the newer version again" : NULL;
}

static const char *
why_damaged(int error, uint64_t bytes)
{
	if (error == 0 && bytes == 0)
		return "the file is empty, and what it held is lost: somebody has cut it";
	if (error == 0)
		return "bytes that were durable have changed; they are set aside in quarantine/";
	if (segment_is_strange(-error))
		return "this is no file of relayd's: it is passed over";
	if (error == EPROTONOSUPPORT)
		return "a newer relayd wrote it, and it may say what was delivered: nothing is "
		       "sent without it";
	return "it cannot be read: what it holds waits until it can, and relayd is started again";
}

static void
on_damage(void *arg, const struct spool_damage *damage)
{
	struct delivery *d = arg;

	compaction_damage(d, damage);
	if (damage->range != SPOOL_RANGE_CORRUPT)
		return;
	if (damage->id != 0 && damage->error == ENOENT && damage->length_bytes == 0) {
		log_error("spool.lost", KV_ID("queue_id", damage->id), KV_STR("file", damage->file),
		    KV_WHY("it was tried, is not done, and stands nowhere: the file is gone"));
		return;
	}
	log_error("spool.damaged", KV_STR("file", damage->file),
	    KV_INT("offset", (int64_t)damage->offset),
	    KV_INT("bytes", (int64_t)damage->length_bytes),
	    KV_STR("error", damage->error != 0 ? strerror(damage->error) : NULL),
	    KV_WHY(why_damaged(damage->error, damage->length_bytes)),
	    KV_FIX(fix_of(damage->error)));
	if (damage->error != 0)
		return; /* it may be there the next time */
	if (damage->first_missing != 0)
		log_error("spool.lost", KV_STR("file", damage->file),
		    KV_INT("first", (int64_t)damage->first_missing),
		    KV_INT("last", (int64_t)damage->last_missing),
		    KV_WHY("records with these numbers are missing"));
}

static void
on_report(void *arg, const struct spool_report *r)
{
	struct delivery *d = arg;

	switch (r->kind) {
	case SPOOL_REPORT_FAILED:
		d->spool_error = r->error;
		log_error("spool.failed", KV_STR("directory", d->config->spool.directory),
		    KV_STR("file", r->file), KV_STR("operation", r->operation),
		    KV_STR("error", strerror(r->error)), KV_INT("offset", (int64_t)r->offset),
		    KV_INT("revoked", r->revoked), KV_INT("unknown", r->unknown),
		    KV_WHY(
		        "the file is not used any more; what it should have got goes into another"),
		    KV_FIX("look at the disk: make room, or mend what the error says"));
		break;
	case SPOOL_REPORT_DOWN:
		d->spool_error = r->error;
		log_error("spool.failed", KV_STR("directory", d->config->spool.directory),
		    KV_STR("operation", r->operation), KV_STR("error", strerror(r->error)),
		    KV_WHY("no file of the spool can be written: delivery waits"),
		    KV_FIX("make room on the file system, or mend it; delivery goes on by itself"));
		break;
	case SPOOL_REPORT_RECOVERED:
		log_info("spool.recovered", KV_STR("directory", d->config->spool.directory),
		    KV_STR("file", r->file));
		break;
	case SPOOL_REPORT_COMPACTED:
		history_renew(d->history);
		log_debug("spool.compacted", KV_INT("bytes_before", (int64_t)r->bytes_before),
		    KV_INT("bytes_after", (int64_t)r->bytes_after));
		break;
	}
}

static void
foretell(struct delivery *d, uint64_t n)
{
	char why[256];

	if (n == 0)
		return;
	d->counts.possible_duplicates += n;
	snprintf(why, sizeof(why),
	    "relayd ended at once while mail was sent (no power, no memory, kill -9): at most "
	    "%" PRIu64 " message%s may be sent twice, perhaps none",
	    n, n == 1 ? "" : "s");
	log_warning("message.repeated", KV_INT("messages", (int64_t)n), KV_WHY(why));
}

/* What a death may repeat is told by name as it is met; what has no name, as a number: before any of it
 * can be sent, unless there is less mail than that. */
static void
foretell_unnamed(struct delivery *d)
{
	const struct catalog_summary *found = catalog_summary(d->catalog);
	uint64_t n = in_flight_unnamed(d->in_flight, found->ended_well);

	if (d->was_foretold || (found->messages < n && !catalog_is_read(d->catalog)))
		return;
	d->was_foretold = true;
	in_flight_told(d->in_flight);
	foretell(d, n < found->messages ? n : found->messages);
}

/* It ends before all is met, and in good order: whoever starts after it need not know of these any more. */
static void
foretell_unmet(struct delivery *d)
{
	uint64_t n = in_flight_named(d->in_flight);

	if (!d->was_foretold)
		n += in_flight_unnamed(d->in_flight, catalog_summary(d->catalog)->ended_well);
	foretell(d, n);
}

static void
on_read(struct delivery *d)
{
	const struct catalog_summary *found = catalog_summary(d->catalog);

	d->is_read = true;
	in_flight_forget(d->in_flight);
	if (found->newer)
		log_warning("spool.damaged",
		    KV_WHY("the spool holds records of a newer relayd: no segment is freed"),
		    KV_FIX(fix_of(EPROTONOSUPPORT)));
	else
		mail_may_free(d);
	log_info("spool.opened", KV_INT("messages", (int64_t)found->messages),
	    KV_INT("done", (int64_t)found->done), KV_INT("revoked", (int64_t)found->revoked),
	    KV_INT("uncommitted", (int64_t)found->uncommitted),
	    KV_INT("corrupt", (int64_t)found->corrupt_ranges),
	    KV_INT("bytes", (int64_t)found->bytes), KV_MS("took", os_boot_ms() - d->opened_ms));
}

static void
on_unreadable(struct delivery *d, int error)
{
	if (error == -ESTALE) { /* what a REVOKE names is in the queue, and has not left (I6) */
		log_error("spool.failed", KV_STR("directory", d->config->spool.directory),
		    KV_WHY("it says only now which mail was never accepted: it is read anew"));
		delivery_stop(d, true);
	} else if (!d->read_failed) {
		log_error("spool.failed", KV_STR("directory", d->config->spool.directory),
		    KV_STR("error", strerror(-error)),
		    KV_WHY("a file of the spool cannot be read: its mail waits"),
		    KV_FIX("mend what the error says; it is tried again every second"));
	}
}

/* A step of what is to be read. True: there is more. What cannot be read is tried again with each tick. */
static bool
read_spool(struct delivery *d)
{
	int r;

	if (d->stopping)
		return false;
	r = catalog_step(d->catalog, READ_AT_ONCE);
	if (r < 0)
		on_unreadable(d, r);
	d->read_failed = r < 0;
	foretell_unnamed(d);
	if (!d->is_read && catalog_is_read(d->catalog))
		on_read(d);
	/* until then the catalog keeps its places where the history has them */
	return (d->is_read && history_step(d->history, READ_AT_ONCE)) || r > 0;
}

/* --- the pump --------------------------------------------------------------------------------- */

void
delivery_kick(struct delivery *d)
{
	event_active(d->pump, EV_TIMEOUT, 0);
}

static bool
is_quiet(const struct delivery *d)
{
	for (size_t i = 0; i < d->config->n_upstreams; i++)
		if (!upstream_is_quiet(d->upstreams[i]))
			return false;
	/* what cannot be written now is sent again after the restart, and counted (F9) */
	return outcomes_waiting(d) == 0 || (outcomes_are_failed(d) && d->quick);
}

static void
on_pump(evutil_socket_t fd, short what, void *arg)
{
	struct delivery *d = arg;
	uint64_t now_ms, next_ms;
	struct timeval tv;
	bool has_more;

	(void)fd;
	(void)what;
	has_more = read_spool(d);
	outcomes_pump(d);
	now_ms = os_boot_ms();
	d->is_full = outcomes_are_failed(d) || spool_writer_is_failed(d->journal) ||
	             catalog_is_unsure(d->catalog);
	queue_wake(d->queue, now_ms);
	for (unsigned i = 0; i < d->config->n_upstreams && d->config->n_upstreams > 1; i++) {
		if (d->upstreams[i]->breaker.state == BREAKER_CLOSED)
			d->upstreams[i]->is_switched = false;
		else
			switch_from(d, i);
	}
	mail_pump(d);
	compaction_pump(d, now_ms);
	next_ms = queue_next_due_ms(d->queue);
	for (size_t i = 0; i < d->config->n_upstreams; i++) {
		uint64_t wish_ms = upstream_pump(d->upstreams[i], now_ms);

		if (wish_ms < next_ms)
			next_ms = wish_ms;
	}
	if (d->stopping && is_quiet(d)) {
		loop_end(d->loop);
		return;
	}
	if (next_ms == UINT64_MAX && !has_more)
		return; /* the tick comes anyway */
	tv = loop_timeval(next_ms > now_ms ? next_ms - now_ms : 1);
	if (has_more) /* by way of the timer: others' events come in between */
		tv = loop_timeval(0);
	event_add(d->timer, &tv);
}

static void
look_at_clock(struct delivery *d)
{
	int64_t difference = (int64_t)os_now_ms() - (int64_t)os_boot_ms();
	int64_t jump = difference - d->wall_minus_boot;

	d->wall_minus_boot = difference;
	if (jump > CLOCK_JUMP_MS || jump < -CLOCK_JUMP_MS)
		log_warning("clock.jumped", KV_MS("by", jump),
		    KV_WHY("the wall clock was set; the schedule of the queue goes on as it was"));
}

static void
on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct delivery *d = arg;

	(void)fd;
	(void)what;
	look_at_clock(d);
	if (os_boot_ms() >= d->look_ms) {
		d->look_ms = os_boot_ms() + LOOK_EVERY_MS;
		mail_look_for_removed(d);
	}
	for (size_t i = 0; i < d->config->n_upstreams; i++)
		upstream_tick(d->upstreams[i], os_boot_ms());
	delivery_kick(d);
}

static void
on_wake(evutil_socket_t fd, short what, void *arg)
{
	(void)what;
	os_event_clear(fd);
	delivery_kick(arg);
}

static void
on_journal(evutil_socket_t fd, short what, void *arg)
{
	struct delivery *d = arg;

	(void)fd;
	(void)what;
	spool_writer_dispatch(d->journal);
	delivery_kick(d);
}

static void
on_letters(evutil_socket_t fd, short what, void *arg)
{
	struct delivery *d = arg;

	(void)fd;
	(void)what;
	spool_writer_dispatch(d->letters);
	delivery_kick(d);
}

static void
on_drained(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	delivery_stop(arg, true); /* long enough: what has no reply yet is unknown, and counted */
}

void
delivery_stop(struct delivery *d, bool quick)
{
	struct timeval tv = loop_timeval(d->config->drain_ms);

	if (!d->stopping) {
		event_add(d->drain, &tv);
		if (!d->is_read)
			foretell_unmet(d);
	}
	d->stopping = true;
	d->quick = d->quick || quick;
	for (size_t i = 0; i < d->config->n_upstreams; i++)
		upstream_stop(d->upstreams[i], d->quick);
	delivery_kick(d);
}

void
delivery_password(struct delivery *d, unsigned upstream, int status, struct span secret)
{
	if (upstream < d->config->n_upstreams)
		upstream_password(d->upstreams[upstream], status, secret);
}

/* --- life ------------------------------------------------------------------------------------- */

static int
watch_fd(struct delivery *d, int fd, event_callback_fn callback, struct event **out)
{
	*out = event_new(d->base, fd, EV_READ | EV_PERSIST, callback, d);
	return *out != NULL && event_add(*out, NULL) == 0 ? 0 : -ENOMEM;
}

/* Who is not watched is not heard, ever: then another start is better. */
static int
watch_writers(struct delivery *d)
{
	int r = watch_fd(d, spool_writer_fd(d->journal), on_journal, &d->journal_ready);

	if (r == 0)
		r = watch_fd(d, spool_writer_fd(d->letters), on_letters, &d->letters_ready);
	if (r == 0 && d->wake_fd >= 0)
		r = watch_fd(d, d->wake_fd, on_wake, &d->wake);
	if (r < 0)
		log_error("daemon.failed", KV_WHY("the writers of the spool cannot be watched"),
		    KV_STR("error", strerror(-r)));
	return r;
}

/* What is on its way at once is bounded by the connections and by what waits for the journal. */
static struct in_flight *
open_in_flight(const struct delivery *d)
{
	uint32_t most = OUTCOMES_WAITING_MAX;

	for (size_t i = 0; i < d->config->n_upstreams; i++)
		most += d->config->upstreams[i].connections * CONN_WINDOW;
	return in_flight_open(d->page, most);
}

static int
open_catalog(struct delivery *d)
{
	struct catalog_options options = { .dirfd = d->dirfd,
		.store = d->store,
		.page = d->page,
		.places = history_places(d->history),
		.distrust = true,
		.sweep = true,
		.message = on_message,
		.segment = on_segment,
		.damage = on_damage,
		.arg = d };

	return catalog_open(&options, &d->catalog);
}

static int
open_spool(struct delivery *d)
{
	struct spool_writer_options options = { .dirfd = d->dirfd,
		.kind = SEGMENT_JOURNAL,
		.segment_bytes = d->config->spool.segment_bytes,
		.report = on_report,
		.report_arg = d,
		.wake_fd = -1 };
	int r;

	d->opened_ms = os_boot_ms();
	d->in_flight = open_in_flight(d);
	r = spool_store_open(d->dirfd, false, &d->store);
	/* first the past is known, then a new journal begins: never the other way round */
	if (r == 0)
		r = open_catalog(d);
	if (r == 0) {
		journal_drop_empty(d->dirfd);
		r = spool_writer_open(&options, &d->journal);
	}
	options.kind = SEGMENT_DELIVERY;
	options.page = d->page;
	options.wake_fd = d->wake_fd;
	if (r == 0)
		r = spool_writer_open(&options, &d->letters);
	if (r < 0)
		log_error("spool.failed", KV_STR("directory", d->config->spool.directory),
		    KV_STR("error", strerror(-r)), KV_WHY("the spool cannot be opened"),
		    KV_FIX(fix_of(-r)));
	return r;
}

static void
open_events(struct delivery *d)
{
	struct timeval tv = loop_timeval(TICK_MS);

	d->pump = event_new(d->base, -1, 0, on_pump, d);
	d->timer = evtimer_new(d->base, on_pump, d);
	d->drain = evtimer_new(d->base, on_drained, d);
	d->tick = event_new(d->base, -1, EV_PERSIST, on_tick, d);
	event_add(d->tick, &tv);
}

int
delivery_open(const struct delivery_options *options, struct delivery **out)
{
	struct delivery *d = xcalloc(1, sizeof(*d));
	const struct config *config = options->config;
	int r;

	d->config = config;
	d->retry = (struct retry_policy){ config->retry.first_ms, config->retry.max_ms,
		config->retry.expire_ms, config->retry.warn_ms };
	d->loop = options->loop;
	d->base = loop_base(options->loop);
	d->dirfd = options->dirfd;
	d->page = options->page;
	d->wake_fd = options->wake_fd;
	d->started_ms = os_now_ms();
	d->wall_minus_boot = (int64_t)d->started_ms - (int64_t)os_boot_ms();
	d->queue = queue_new();
	d->places = mail_places_new();
	d->history = history_new(d->dirfd, d->queue);
	d->outcomes = outcomes_new(d);
	d->notify = notify_new(d);
	d->compaction = compaction_new();
	d->upstreams = xcalloc(config->n_upstreams, sizeof(struct upstream *));
	open_events(d);
	r = open_spool(d);
	if (r == 0)
		r = watch_writers(d);
	if (r < 0) {
		delivery_close(d);
		return r;
	}
	d->resolver = resolver_open(d->base);
	for (size_t i = 0; i < config->n_upstreams; i++)
		d->upstreams[i] = upstream_new(d, (unsigned)i);
	for (size_t i = 0; i < config->n_upstreams; i++)
		upstream_look_at_secret(d->upstreams[i]);
	delivery_kick(d);
	*out = d;
	return 0;
}

void
delivery_close(struct delivery *d)
{
	struct event *events[7];

	if (d == NULL)
		return;
	/* the writers first: their last callbacks still want everything else */
	spool_writer_close(d->letters);
	spool_writer_close(d->journal);
	events[0] = d->pump;
	events[1] = d->timer;
	events[2] = d->tick;
	events[3] = d->wake;
	events[4] = d->journal_ready;
	events[5] = d->letters_ready;
	events[6] = d->drain;
	for (size_t i = 0; i < ARRAY_LEN(events); i++)
		if (events[i] != NULL)
			event_free(events[i]);
	for (size_t i = 0; i < d->config->n_upstreams; i++)
		upstream_free(d->upstreams[i]);
	free(d->upstreams);
	if (d->resolver != NULL)
		resolver_close(d->resolver);
	catalog_close(d->catalog);
	spool_store_close(d->store);
	outcomes_free(d->outcomes);
	compaction_free(d->compaction);
	in_flight_close(d->in_flight);
	notify_free(d->notify);
	history_free(d->history);
	mail_places_free(d->places);
	queue_free(d->queue);
	free(d);
}
