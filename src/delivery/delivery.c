/* delivery.c - the pump of the delivery worker: looks at intake's page, wakes what is due, lets the
 * upstreams send, and waits. See delivery.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/log.h"
#include "base/os.h"
#include "delivery/delivery.h"
#include "delivery/notify.h"
#include "delivery/outcome.h"
#include "delivery/resolver.h"
#include "delivery/upstream.h"

#define FOLLOW_AT_ONCE 512 /* messages read from segments before the loop turns */
#define TICK_MS 1000
#define CLOCK_JUMP_MS 60000

uint32_t
delivery_random(void)
{
	uint32_t random = 0;

	(void)!getrandom(&random, sizeof(random), GRND_NONBLOCK);
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
	struct delivery *d = arg;

	if (d->follower != NULL && s->next_offset > 0 && s->state == SHARED_SLOT_LIVE)
		catalog_follower_add(d->follower, s);
	mail_segment_read(d, s);
}

static void
on_replayed_segment(void *arg, const struct catalog_segment *s)
{
	struct delivery *d = arg;

	catalog_follower_add(d->follower, s);
	mail_segment_read(d, s);
}

static void
on_damage(void *arg, const struct spool_damage *damage)
{
	struct delivery *d = arg;

	if (damage->range != SPOOL_RANGE_CORRUPT)
		return;
	log_error("spool.damaged", KV_STR("file", damage->file),
	    KV_INT("offset", (int64_t)damage->offset),
	    KV_INT("bytes", (int64_t)damage->length_bytes),
	    KV_STR("error", damage->error != 0 ? strerror(damage->error) : NULL),
	    KV_WHY("bytes that were durable have changed; they are set aside in quarantine/"));
	if (damage->first_missing != 0)
		log_error("spool.lost", KV_STR("file", damage->file),
		    KV_INT("first", (int64_t)damage->first_missing),
		    KV_INT("last", (int64_t)damage->last_missing),
		    KV_WHY("records with these numbers are missing"));
	(void)!spool_store_quarantine(d->store, damage);
}

static void
on_report(void *arg, const struct spool_report *r)
{
	(void)arg;
	switch (r->kind) {
	case SPOOL_REPORT_FAILED:
		log_error("spool.failed", KV_STR("file", r->file),
		    KV_STR("operation", r->operation), KV_STR("error", strerror(r->error)),
		    KV_INT("offset", (int64_t)r->offset), KV_INT("revoked", r->revoked),
		    KV_INT("unknown", r->unknown));
		break;
	case SPOOL_REPORT_DOWN:
		log_error("spool.failed", KV_STR("error", strerror(r->error)),
		    KV_WHY("no file of the spool can be written: delivery waits"),
		    KV_FIX("make room on the file system, or mend it; delivery goes on by itself"));
		break;
	case SPOOL_REPORT_RECOVERED:
		log_info("spool.recovered", KV_STR("file", r->file));
		break;
	case SPOOL_REPORT_COMPACTED:
		log_debug("spool.compacted", KV_INT("bytes_before", (int64_t)r->bytes_before),
		    KV_INT("bytes_after", (int64_t)r->bytes_after));
		break;
	}
}

static int
replay(struct delivery *d)
{
	struct catalog_options options = { .dirfd = d->dirfd,
		.store = d->store,
		.page = d->page,
		.distrust = true,
		.sweep = true,
		.message = on_message,
		.segment = on_replayed_segment,
		.damage = on_damage,
		.arg = d };
	struct catalog_summary summary = { 0 };
	uint64_t start_ms = os_boot_ms();
	int r;

	r = catalog_replay(&options, &summary);
	if (r < 0)
		return r;
	if (summary.newer)
		log_warning("spool.damaged",
		    KV_WHY("the spool holds records of a newer relayd: no segment is freed"),
		    KV_FIX("run the newer version again"));
	else
		mail_may_free(d);
	log_info("spool.opened", KV_INT("messages", (int64_t)summary.messages),
	    KV_INT("done", (int64_t)summary.done), KV_INT("revoked", (int64_t)summary.revoked),
	    KV_INT("uncommitted", (int64_t)summary.uncommitted),
	    KV_INT("corrupt", (int64_t)summary.corrupt_ranges),
	    KV_INT("bytes", (int64_t)summary.bytes), KV_MS("took", os_boot_ms() - start_ms));
	return 0;
}

static void
follow(struct delivery *d)
{
	struct catalog_options options = { .dirfd = d->dirfd,
		.store = d->store,
		.page = d->page,
		.message = on_message,
		.segment = on_segment,
		.damage = on_damage,
		.arg = d };
	int n;

	if (d->stopping)
		return;
	n = catalog_follow(d->follower, FOLLOW_AT_ONCE, &options);
	if (n >= FOLLOW_AT_ONCE)
		delivery_kick(d);
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

	(void)fd;
	(void)what;
	follow(d);
	outcomes_pump(d);
	now_ms = os_boot_ms();
	d->is_full = outcomes_are_failed(d) || spool_writer_is_failed(d->journal);
	queue_wake(d->queue, now_ms);
	for (unsigned i = 0; i < d->config->n_upstreams && d->config->n_upstreams > 1; i++) {
		if (d->upstreams[i]->breaker.state == BREAKER_CLOSED)
			d->upstreams[i]->is_switched = false;
		else
			switch_from(d, i);
	}
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
	if (next_ms == UINT64_MAX)
		return; /* the tick comes anyway */
	tv = loop_timeval(next_ms > now_ms ? next_ms - now_ms : 1);
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
	for (size_t i = 0; i < d->config->n_upstreams; i++)
		upstream_tick(d->upstreams[i], os_boot_ms());
	delivery_kick(d);
}

static void
on_wake(evutil_socket_t fd, short what, void *arg)
{
	uint64_t count;

	(void)what;
	(void)!read(fd, &count, sizeof(count));
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

	if (!d->stopping)
		event_add(d->drain, &tv);
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

static struct event *
watch_fd(struct delivery *d, int fd, event_callback_fn callback)
{
	struct event *ev = event_new(d->base, fd, EV_READ | EV_PERSIST, callback, d);

	event_add(ev, NULL);
	return ev;
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

	r = spool_store_open(d->dirfd, false, &d->store);
	if (r == 0)
		r = catalog_follower_open(d->dirfd, d->store, d->page, &d->follower);
	/* first the past is read, then a new journal begins: never the other way round */
	if (r == 0)
		r = replay(d);
	if (r == 0)
		r = spool_writer_open(&options, &d->journal);
	options.kind = SEGMENT_DELIVERY;
	options.page = d->page;
	options.wake_fd = d->wake_fd;
	if (r == 0)
		r = spool_writer_open(&options, &d->letters);
	if (r < 0)
		log_error("spool.failed", KV_STR("directory", d->config->spool.directory),
		    KV_STR("error", strerror(-r)), KV_WHY("the spool cannot be opened"));
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
	d->outcomes = outcomes_new(d);
	d->notify = notify_new(d);
	d->upstreams = xcalloc(config->n_upstreams, sizeof(struct upstream *));
	open_events(d);
	r = open_spool(d);
	if (r < 0) {
		delivery_close(d);
		return r;
	}
	d->resolver = resolver_open(d->base);
	for (size_t i = 0; i < config->n_upstreams; i++)
		d->upstreams[i] = upstream_new(d, (unsigned)i);
	d->journal_ready = watch_fd(d, spool_writer_fd(d->journal), on_journal);
	d->letters_ready = watch_fd(d, spool_writer_fd(d->letters), on_letters);
	if (d->wake_fd >= 0)
		d->wake = watch_fd(d, d->wake_fd, on_wake);
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
	catalog_follower_close(d->follower);
	spool_store_close(d->store);
	outcomes_free(d->outcomes);
	notify_free(d->notify);
	mail_places_free(d->places);
	queue_free(d->queue);
	free(d);
}
