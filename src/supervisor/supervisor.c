/* supervisor.c - see supervisor.h. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/config.h"
#include "base/log.h"
#include "base/loop.h"
#include "supervisor/acquire.h"
#include "supervisor/child.h"
#include "supervisor/generation.h"
#include "supervisor/listeners.h"
#include "supervisor/page.h"
#include "supervisor/service_manager.h"
#include "supervisor/supervisor.h"
#include "supervisor/watch.h"

#define RESTART_FIRST_MS 200    /* the second start in a row waits so long, ... */
#define RESTART_MOST_MS 30000   /* ... each further twice as long, to this */
#define RESTART_FORGET_MS 60000 /* a run of so long was a good one */
#define HOPELESS_MS 10000       /* after an exit code that says that a restart will not help */
#define KILL_GRACE_MS 3000      /* what a worker gets beyond drain_ms to end by itself */
#define DEGRADED_AFTER 3        /* failed starts of delivery after which intake alone is "ready" */
#define RELOAD_TRIES 3          /* failed starts of a new intake after which a reload is off */

struct place {
	enum child_role role;
	struct supervisor *sup;
	struct event *restart; /* pending: the worker is to be started then */
	unsigned failures;     /* in a row */
	bool was_ready;        /* once since the start: the next one is a restart */
};

struct supervisor {
	const struct supervisor_options *options;
	struct event_base *base;
	struct event *signals[4], *tick;
	struct holdings held;
	struct page *page;
	struct generation *current;
	struct generation *next; /* a reload waits for its new intake; else NULL */
	struct child *children;  /* all that were not reaped yet, the newest first */
	struct place places[CHILD_ROLES];
	unsigned reload_failures;
	struct watch watch;
	bool reload_wanted; /* SIGHUP came during a reload */
	bool is_ready;      /* said so to systemd, since the start or the last reload */
	bool was_started;   /* said daemon.started */
	bool was_committed; /* a reload took hold and was not said yet */
	bool is_stopping;
	char status[256];
};

/* ---- telling ---- */

static void
on_stderr(void *arg, const char *text)
{
	(void)arg;
	fprintf(stderr, "%srelayd: %s\n", log_mark(LOG_ERROR), text);
}

static void
on_reload_problem(void *arg, const char *text)
{
	(void)arg;
	log_error("config.rejected", KV_WHY(text));
}

PRINTF_LIKE(2, 3)
static void
set_status(struct supervisor *sup, const char *fmt, ...)
{
	char text[sizeof(sup->status)];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (strcmp(text, sup->status) == 0)
		return;
	memcpy(sup->status, text, sizeof(text));
	service_manager_status(sup->status);
}

/* ---- children ---- */

static struct child *
find_child(const struct supervisor *sup, pid_t pid)
{
	struct child *child = sup->children;

	while (child != NULL && child->pid != pid)
		child = child->next;
	return child;
}

/* The worker of this role that is meant to serve: not one that was told to stop. */
static struct child *
serving(const struct supervisor *sup, enum child_role role, const struct generation *g)
{
	struct child *child = sup->children;

	while (child != NULL &&
	       (child->role != role || child->deadline_ms != 0 || child->generation != g))
		child = child->next;
	return child;
}

static void
remove_child(struct supervisor *sup, struct child *gone)
{
	struct child **link = &sup->children;

	while (*link != gone)
		link = &(*link)->next;
	*link = gone->next;
}

static bool
is_running(const struct supervisor *sup, enum child_role role)
{
	for (const struct child *child = sup->children; child != NULL; child = child->next)
		if (child->role == role)
			return true;
	return false;
}

static void
restart_later(struct supervisor *sup, enum child_role role, uint64_t least_ms)
{
	struct place *place = &sup->places[role];
	uint64_t wait_ms = 0;
	struct timeval after;

	if (place->failures > 1)
		wait_ms = (uint64_t)RESTART_FIRST_MS
		          << (place->failures < 10 ? place->failures - 2 : 8);
	if (wait_ms < least_ms)
		wait_ms = least_ms;
	if (wait_ms > RESTART_MOST_MS)
		wait_ms = RESTART_MOST_MS;
	after = loop_timeval(wait_ms);
	event_add(place->restart, &after);
}

static void on_child_ready(void *arg, struct child *child);

static void
start_child(struct supervisor *sup, enum child_role role, struct generation *g)
{
	struct place *place = &sup->places[role];
	struct child_start start = { .role = role,
		.directory = sup->options->directory,
		.generation = g,
		.shared_fd = page_shared_fd(sup->page),
		.wake_fd = page_wake_fd(sup->page),
		.spool_fd = sup->held.home.dir_fd,
		.lock_fd = sup->held.home.lock_fd,
		.base = sup->base,
		.on_ready = on_child_ready,
		.arg = sup };
	struct child *child;
	int r = child_start(&start, &child);

	if (r < 0) {
		log_error("worker.died", KV_STR("worker", child_program(role)),
		    KV_WHY(strerror(-r)),
		    KV_FIX("free memory, processes or descriptors: relayd tries again"));
		place->failures++;
		restart_later(sup, role, RESTART_FIRST_MS);
		return;
	}
	child->next = sup->children;
	sup->children = child;
	page_note_start(sup->page, role, child->pid, place->was_ready && g == sup->current);
}

static void
on_restart(evutil_socket_t fd, short what, void *arg)
{
	struct place *place = arg;
	struct supervisor *sup = place->sup;
	struct generation *g =
	    sup->next != NULL && place->role == CHILD_INTAKE ? sup->next : sup->current;

	(void)fd;
	(void)what;
	if (!sup->is_stopping && serving(sup, place->role, g) == NULL)
		start_child(sup, place->role, g);
}

static void
stop_child(struct supervisor *sup, struct child *child)
{
	if (child->role == CHILD_DELIVERY)
		sup->places[child->role].was_ready = false; /* what follows is no restart */
	child_stop(child, child->generation->config->drain_ms + KILL_GRACE_MS);
}

/* ---- ready ---- */

static void
note_ready(struct supervisor *sup)
{
	const struct config *config = sup->current->config;
	const struct child *intake = serving(sup, CHILD_INTAKE, sup->current);
	const struct child *delivery = serving(sup, CHILD_DELIVERY, sup->current);
	bool intake_ready = intake != NULL && intake->is_ready;
	bool delivery_ready = delivery != NULL && delivery->is_ready;
	unsigned delivery_failures = sup->places[CHILD_DELIVERY].failures;

	if (sup->is_stopping || sup->next != NULL)
		return;
	if (intake_ready && delivery_ready)
		set_status(sup, "serving %zu listener%s, %zu upstream%s", config->n_listen,
		    config->n_listen == 1 ? "" : "s", config->n_upstreams,
		    config->n_upstreams == 1 ? "" : "s");
	else
		set_status(sup, "%s%s", intake_ready ? "accepting mail" : "not accepting mail",
		    delivery_ready ? ""
		                   : ", not delivering: relayd-delivery does not run, see the log");
	if (sup->is_ready || !intake_ready ||
	    (!delivery_ready && delivery_failures < DEGRADED_AFTER))
		return;
	sup->is_ready = true;
	service_manager_ready(sup->status);
	if (!sup->was_started)
		log_info("daemon.started", KV_STR("version", PACKAGE_VERSION),
		    KV_INT("pid", getpid()), KV_STR("config", config->path),
		    KV_INT("listeners", (int64_t)config->n_listen),
		    KV_INT("upstreams", (int64_t)config->n_upstreams));
	else if (sup->was_committed)
		log_info("config.reloaded", KV_STR("config", config->path));
	sup->was_started = true;
	sup->was_committed = false;
}

static void
commit_reload(struct supervisor *sup)
{
	struct generation *old = sup->current;
	struct child *child;

	sup->current = sup->next;
	sup->next = NULL;
	sup->was_committed = true;
	for (child = sup->children; child != NULL; child = child->next)
		if (child->generation == old && child->deadline_ms == 0)
			stop_child(sup, child);
	listeners_close(old->listeners, sup->current->listeners);
	old->listeners = NULL;
	generation_release(old);
	if (!is_running(sup, CHILD_DELIVERY)) {
		event_del(sup->places[CHILD_DELIVERY].restart);
		start_child(sup, CHILD_DELIVERY, sup->current);
	}
}

static void
on_child_ready(void *arg, struct child *child)
{
	struct supervisor *sup = arg;

	sup->places[child->role].was_ready = true;
	if (sup->next != NULL && child->role == CHILD_INTAKE && child->generation == sup->next)
		commit_reload(sup);
	note_ready(sup);
}

/* ---- the end of a child ---- */

static void finish_stop(struct supervisor *sup);
static void reload(struct supervisor *sup);
static bool may_reload(const struct supervisor *sup);

static void
abandon_reload(struct supervisor *sup, const char *why)
{
	struct generation *next = sup->next;

	sup->next = NULL;
	for (struct child *child = sup->children; child != NULL; child = child->next)
		if (child->generation == next && child->deadline_ms == 0)
			stop_child(sup, child);
	event_del(sup->places[CHILD_INTAKE].restart);
	sup->places[CHILD_INTAKE].failures = 0;
	listeners_close(next->listeners, sup->current->listeners);
	next->listeners = NULL;
	generation_release(next);
	log_error("config.rejected", KV_WHY(why));
	if (serving(sup, CHILD_INTAKE, sup->current) == NULL && !sup->is_stopping)
		start_child(sup, CHILD_INTAKE, sup->current);
	note_ready(sup);
}

/* A worker that nobody told to end did. */
static void
replace(struct supervisor *sup, const struct child *gone, int wait_status)
{
	struct place *place = &sup->places[gone->role];
	int code = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 0;
	bool is_hopeless = code >= EX_USAGE && code <= EX_CONFIG;

	if (child_now_ms() - gone->started_ms >= RESTART_FORGET_MS)
		place->failures = 0;
	place->failures++;
	if (sup->next != NULL && gone->role == CHILD_INTAKE) {
		if (gone->generation == sup->next &&
		    (is_hopeless || ++sup->reload_failures >= RELOAD_TRIES)) {
			abandon_reload(sup,
			    "relayd-intake does not start with the new configuration: "
			    "the old one stays in force");
			return;
		}
	}
	restart_later(sup, gone->role, is_hopeless ? HOPELESS_MS : 0);
	note_ready(sup);
}

static void
on_child_gone(struct supervisor *sup, struct child *child, int wait_status)
{
	remove_child(sup, child);
	child_log_end(child, wait_status);
	page_note_end(sup->page, child->role, child->pid);
	if (sup->is_stopping)
		finish_stop(sup);
	else if (child->deadline_ms == 0)
		replace(sup, child, wait_status);
	else if (child->role == CHILD_DELIVERY && !is_running(sup, CHILD_DELIVERY))
		start_child(sup, CHILD_DELIVERY, sup->current);
	child_free(child);
	if (sup->reload_wanted && may_reload(sup))
		reload(sup);
}

/* As PID 1 of a container we inherit orphans: every child is reaped, also those we do not know. */
static void
on_sigchld(evutil_socket_t sig, short what, void *arg)
{
	struct supervisor *sup = arg;
	int wait_status;
	pid_t pid;

	(void)sig;
	(void)what;
	while ((pid = waitpid(-1, &wait_status, WNOHANG)) > 0) {
		struct child *child = find_child(sup, pid);

		if (child != NULL) {
			on_child_gone(sup, child, wait_status);
			continue;
		}
		for (child = sup->children; child != NULL; child = child->next)
			if (child->passwords != NULL &&
			    password_runner_reaped(child->passwords, pid, wait_status))
				break;
	}
}

/* ---- reload ---- */

/* What cannot change without a restart: what we locked, and who we became. */
static bool
is_reloadable(const struct supervisor *sup, const struct config *config)
{
	const struct config *now = sup->current->config;
	char why[1024];

	if (strcmp(now->spool.directory, config->spool.directory) == 0)
		return true;
	snprintf(why, sizeof(why),
	    "spool { directory } changed: that needs a restart, a reload keeps the spool; mail "
	    "that "
	    "waits stays in %.300s: move what is in there to %.300s while relayd is stopped",
	    now->spool.directory, config->spool.directory);
	on_reload_problem(NULL, why);
	return false;
}

static int
load(const struct supervisor_options *options, config_problem_fn *problem, struct config **out)
{
	int r = config_load(options->config_path, problem, NULL, out);

	if (r == 0 && options->is_verbose)
		(*out)->log.level = LOG_DEBUG;
	return r;
}

static void
on_doubt(void *arg, const char *why, const char *fix)
{
	(void)arg;
	log_warning("config.warned", KV_WHY(why), KV_FIX(fix));
}

static void
reload(struct supervisor *sup)
{
	bool was_ready = sup->is_ready;
	struct listeners *listeners;
	struct config *config;

	sup->reload_wanted = false;
	service_manager_reloading();
	sup->is_ready = false;
	if (load(sup->options, on_reload_problem, &config) < 0)
		goto rejected;
	if (!is_reloadable(sup, config) ||
	    listeners_open(config, &sup->held.privileges, sup->held.passed, sup->current->listeners,
	        on_reload_problem, NULL, &listeners) < 0) {
		config_free(config);
		goto rejected;
	}
	config_doubts(config, on_doubt, NULL);
	sup->next = generation_create(config, listeners);
	sup->reload_failures = 0;
	event_del(sup->places[CHILD_INTAKE].restart);
	sup->places[CHILD_INTAKE].failures = 0;
	start_child(sup, CHILD_INTAKE, sup->next);
	return;
rejected:
	/* systemd has to hear that the reload is over; what serves is what served before */
	sup->is_ready = was_ready;
	if (was_ready)
		service_manager_ready(sup->status);
}

/* Not amid another reload; but a config with which intake does not start may always be replaced. */
static bool
may_reload(const struct supervisor *sup)
{
	const struct child *intake = serving(sup, CHILD_INTAKE, sup->current);

	return !sup->is_stopping && sup->next == NULL &&
	       (sup->is_ready || intake == NULL || !intake->is_ready);
}

static void
on_sighup(evutil_socket_t sig, short what, void *arg)
{
	struct supervisor *sup = arg;

	(void)sig;
	(void)what;
	if (may_reload(sup))
		reload(sup);
	else
		sup->reload_wanted = true;
}

/* ---- stop ---- */

static void
finish_stop(struct supervisor *sup)
{
	if (sup->children == NULL)
		event_base_loopbreak(sup->base);
}

static void
on_sigterm(evutil_socket_t sig, short what, void *arg)
{
	struct supervisor *sup = arg;
	bool is_second = sup->is_stopping;

	(void)sig;
	(void)what;
	sup->is_stopping = true;
	service_manager_stopping("stopping: finishing what is in flight");
	for (int role = 0; role < CHILD_ROLES; role++)
		event_del(sup->places[role].restart);
	for (struct child *child = sup->children; child != NULL; child = child->next)
		if (is_second)
			child_stop(child, KILL_GRACE_MS);
		else if (child->deadline_ms == 0)
			stop_child(sup, child);
	finish_stop(sup);
}

/* ---- the tick ---- */

static void
on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *sup = arg;

	(void)fd;
	(void)what;
	watch_look(&sup->watch, sup->children);
	listeners_refuse(sup->held.passed, sup->current->listeners,
	    sup->next != NULL ? sup->next->listeners : NULL);
	note_ready(sup);
	if (sup->reload_wanted && may_reload(sup))
		reload(sup);
}

/* ---- start ---- */

static int
open_base(struct supervisor *sup)
{
	static const struct {
		int signal;
		event_callback_fn call;
	} handlers[] = { { SIGHUP, on_sighup }, { SIGTERM, on_sigterm }, { SIGINT, on_sigterm },
		{ SIGCHLD, on_sigchld } };
	struct timeval every = loop_timeval(WATCH_TICK_MS);

	sup->base = event_base_new();
	if (sup->base == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_LEN(handlers); i++) {
		sup->signals[i] =
		    evsignal_new(sup->base, handlers[i].signal, handlers[i].call, sup);
		event_add(sup->signals[i], NULL);
	}
	for (int role = 0; role < CHILD_ROLES; role++) {
		struct place *place = &sup->places[role];

		place->role = (enum child_role)role;
		place->sup = sup;
		place->restart = evtimer_new(sup->base, on_restart, place);
	}
	sup->tick = event_new(sup->base, -1, EV_PERSIST, on_tick, sup);
	event_add(sup->tick, &every);
	return 0;
}

static int
start(struct supervisor *sup)
{
	struct listeners *listeners;
	struct config *config;
	int r = load(sup->options, on_stderr, &config);

	if (r < 0) /* EX_CONFIG is for good: systemd does not start us again */
		return config_is_starved(r) ? EX_OSERR : EX_CONFIG;
	log_open("relayd", config->log.target, config->log.level);
	r = acquire(config, &sup->held, &listeners);
	if (r < 0) {
		config_free(config);
		return acquire_exit_code(r);
	}
	config_doubts(config, on_doubt, NULL);
	sup->current = generation_create(config, listeners);
	r = page_create(&sup->page);
	if (r == 0)
		r = open_base(sup);
	if (r < 0)
		log_error("daemon.failed", KV_WHY(strerror(-r)));
	return acquire_exit_code(r);
}

static void
finish(struct supervisor *sup)
{
	for (int role = 0; role < CHILD_ROLES; role++)
		if (sup->places[role].restart != NULL)
			event_free(sup->places[role].restart);
	for (size_t i = 0; i < ARRAY_LEN(sup->signals); i++)
		if (sup->signals[i] != NULL)
			event_free(sup->signals[i]);
	if (sup->tick != NULL)
		event_free(sup->tick);
	generation_release(sup->next);
	generation_release(sup->current);
	page_free(sup->page);
	acquire_release(&sup->held);
	if (sup->base != NULL)
		event_base_free(sup->base);
}

int
supervisor_run(const struct supervisor_options *options)
{
	struct supervisor sup = { .options = options, .held = HOLDINGS_NONE };
	int code;

	loop_use_memory();
	acquire_confine();
	code = start(&sup);
	if (code == EX_OK) {
		watch_init(&sup.watch);
		service_manager_status("starting the workers");
		start_child(&sup, CHILD_DELIVERY, sup.current);
		start_child(&sup, CHILD_INTAKE, sup.current);
		if (event_base_dispatch(sup.base) < 0)
			code = EX_OSERR;
		log_info("daemon.stopped", KV_INT("pid", getpid()));
	}
	finish(&sup);
	return code;
}
