/* intake.c - see intake.h. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "intake/intake.h"
#include "intake/message.h"
#include "intake/session.h"

#define FDS_FOR_OTHERS 48 /* segments, large bodies, the logger, what the process is started with */
#define SWEEP_MOST_MS 1000
#define SWEEP_LEAST_MS 20
#define SWEEP_STOPPING_MS 50

/* ---- who may come in ---- */

bool
intake_is_stressed(const struct intake *intake)
{
	return intake->n_sessions >= intake->max_sessions - intake->max_sessions / 4;
}

/* Refused before it costs a session. Logged once a second: a flood is not to fill the log. */
static void
turn_away(struct intake *intake, int fd, const struct peer *peer, const char *client,
    const struct config_listen *listen, const char *reply)
{
	uint64_t now_ms = loop_now_ms();
	char line[512];
	int n = snprintf(line, sizeof(line), "%s\r\n", reply);

	(void)!send(fd, line, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
	close(fd);
	tally_drop(&intake->clients, peer);
	atomic_fetch_add(&intake->page->rejected, 1);
	if (intake->refused_ms != 0 && now_ms - intake->refused_ms < 1000)
		return;
	intake->refused_ms = now_ms;
	log_warning("session.limited", KV_STR("reply", reply), KV_STR("client", client),
	    KV_STR("unit", peer->unit), KV_STR("listener", listen->address));
}

static void
let_in(struct intake *intake, int fd, const struct peer *peer, const char *client,
    const struct sockaddr *sa, const struct config_listen *listen)
{
	char reply[256];

	if (peer->family == AF_UNIX || config_may_submit(intake->config, sa))
		return session_open(intake, fd, peer, listen, NULL);
	snprintf(reply, sizeof(reply),
	    "550 5.7.1 %s may not submit here: see \"clients\" in relayd.conf", client);
	atomic_fetch_add(&intake->page->rejected, 1);
	log_warning("session.refused", KV_STR("client", client), KV_STR("reply", reply),
	    KV_STR("listener", listen->address));
	session_open(intake, fd, peer, listen, reply);
}

static void
on_accepted(void *arg, int fd, const struct sockaddr *sa, const struct config_listen *listen)
{
	struct intake *intake = arg;
	char client[PEER_TEXT_MAX], reply[256];
	struct peer peer;
	unsigned n;

	peer_find(intake->finder, fd, sa, &peer);
	peer_print(&peer, client);
	atomic_fetch_add(&intake->page->connections, 1);
	n = tally_add(&intake->clients, &peer);
	if (intake->n_sessions >= intake->max_sessions)
		snprintf(reply, sizeof(reply),
		    "421 4.3.2 too many connections: see \"limits { connections }\" in "
		    "relayd.conf");
	else if (n > intake->config->limits.connections_per_client)
		snprintf(reply, sizeof(reply),
		    "421 4.7.0 too many connections from %s: see \"limits { connections-per-client "
		    "}\" in relayd.conf",
		    client);
	else
		return let_in(intake, fd, &peer, client, sa, listen);
	turn_away(intake, fd, &peer, client, listen, reply);
}

/* ---- is there room for a message ---- */

static const char *
refuse_full(struct intake *intake, const struct os_room *room, uint64_t bytes)
{
	const struct config *config = intake->config;
	uint64_t now_ms = loop_now_ms();

	snprintf(intake->refusal, sizeof(intake->refusal),
	    "452 4.3.1 not enough room in %.200s: try again later", config->spool.directory);
	if (!intake->is_full) {
		intake->full_since_ms = now_ms;
		intake->full_bytes = 0;
		log_error("spool.full", KV_STR("directory", config->spool.directory),
		    KV_INT("free_bytes", (int64_t)room->free_bytes),
		    KV_INT("min_free_bytes", (int64_t)config->spool.min_free_bytes),
		    KV_INT("free_files",
		        room->free_files == UINT64_MAX ? -1 : (int64_t)room->free_files),
		    KV_FIX("make room, or lower \"spool { min-free }\" (and segment: six of it "
		           "are left free)"));
	}
	intake->is_full = true;
	intake->full_ms = now_ms;
	if (bytes > intake->full_bytes)
		intake->full_bytes = bytes;
	return intake->refusal;
}

static const char *
refuse_stalled(struct intake *intake, uint64_t waiting_ms)
{
	snprintf(intake->refusal, sizeof(intake->refusal),
	    "451 4.3.2 the disk of %.200s does not answer: try again later",
	    intake->config->spool.directory);
	if (!intake->is_stalled)
		log_error("spool.failed", KV_STR("directory", intake->config->spool.directory),
		    KV_MS("waiting", (int64_t)waiting_ms),
		    KV_WHY("the disk does not answer; new mail is refused until it does"));
	intake->is_stalled = true;
	return intake->refusal;
}

static const char *
refuse_failed(struct intake *intake)
{
	snprintf(intake->refusal, sizeof(intake->refusal),
	    "452 4.3.1 the spool in %.200s cannot be written: try again later",
	    intake->config->spool.directory);
	return intake->refusal;
}

static const char *
refuse_moved(struct intake *intake)
{
	snprintf(intake->refusal, sizeof(intake->refusal),
	    "452 4.3.1 the spool is not in %.200s any more: try again later",
	    intake->config->spool.directory);
	return intake->refusal;
}

const char *
intake_refusal(struct intake *intake, uint64_t bytes)
{
	uint64_t least = intake->config->spool.min_free_bytes, waiting_ms;
	struct os_room room;

	if (intake->state == INTAKE_ENDING)
		return "421 4.3.2 relayd stops: try again later";
	if (spool_writer_is_failed(intake->writer))
		return refuse_failed(intake);
	if (intake->is_moved)
		return refuse_moved(intake);
	waiting_ms = spool_writer_waiting_ms(intake->writer);
	if (waiting_ms >= INTAKE_STALL_MS)
		return refuse_stalled(intake, waiting_ms);
	if (spool_writer_room(intake->writer, &room) == 0 && !spool_has_room(&room, least, bytes))
		return refuse_full(intake, &room, bytes);
	return NULL;
}

bool
intake_is_worth_telling(struct intake *intake)
{
	return refusals_add(&intake->refusals, loop_now_ms());
}

/* That there is no room is told when it is so, not when the first mail is refused for it. Where a disk is
 * full to the brim each freed block is gone at once: it is over when there is room for some seconds, and
 * for what had none. */
static void
look_for_room(struct intake *intake, uint64_t now_ms)
{
	const struct config *config = intake->config;
	uint64_t wanted_bytes = intake->is_full ? intake->full_bytes : 0;
	struct os_room room;

	if (spool_writer_room(intake->writer, &room) < 0)
		intake->full_ms = now_ms;
	else if (!spool_has_room(&room, config->spool.min_free_bytes, wanted_bytes))
		(void)refuse_full(intake, &room, wanted_bytes);
	if (!intake->is_full || now_ms < intake->full_ms + INTAKE_ROOMY_MS)
		return;
	intake->is_full = false;
	log_info("spool.has-room", KV_STR("directory", config->spool.directory),
	    KV_INT("free_bytes", (int64_t)room.free_bytes),
	    KV_INT("refused", (int64_t)refusals_end(&intake->refusals)),
	    KV_MS("down", (int64_t)(now_ms - intake->full_since_ms)));
}

static void
look_for_an_answer(struct intake *intake)
{
	if (!intake->is_stalled || spool_writer_waiting_ms(intake->writer) >= INTAKE_STALL_MS)
		return;
	intake->is_stalled = false;
	log_info("spool.recovered", KV_STR("directory", intake->config->spool.directory),
	    KV_INT("refused", (int64_t)refusals_end(&intake->refusals)),
	    KV_WHY("the disk answers again"));
}

/* Does the name of the spool lead to another directory than the one that we write, or to none? */
static bool
is_moved(const struct intake *intake)
{
	struct stat ours, named;

	if (fstat(intake->spool_fd, &ours) < 0)
		return false;
	if (stat(intake->config->spool.directory, &named) < 0)
		return errno == ENOENT || errno == ENOTDIR;
	return ours.st_dev != named.st_dev || ours.st_ino != named.st_ino;
}

/* Whoever starts next looks where the name leads: what goes into a directory that was moved away, or
 * removed, would not be found. */
static void
look_for_directory(struct intake *intake)
{
	bool moved = is_moved(intake);

	/* each time: the writer says on this page as well when it works */
	if ((moved || intake->is_moved) && !spool_writer_is_failed(intake->writer))
		atomic_store(&intake->page->spool_failed, moved ? ENOENT : 0);
	if (moved == intake->is_moved)
		return;
	intake->is_moved = moved;
	if (moved)
		log_error("spool.failed", KV_STR("directory", intake->config->spool.directory),
		    KV_WHY("it was moved away, removed or mounted over: new mail is refused, for "
		           "the next start would not find it; what is queued is still delivered"),
		    KV_FIX("put it back (the mail that was accepted is in it), or restart relayd, "
		           "which begins with what stands there now"));
	else
		log_info("spool.recovered", KV_STR("directory", intake->config->spool.directory),
		    KV_INT("refused", (int64_t)refusals_end(&intake->refusals)),
		    KV_WHY("the directory is back"));
}

/* What came to an end, and what is still so. */
static void
look_at_spool(struct intake *intake, uint64_t now_ms)
{
	uint64_t refused;

	look_for_room(intake, now_ms);
	look_for_an_answer(intake);
	look_for_directory(intake);
	refused = refusals_due(&intake->refusals, now_ms);
	if (refused > 0)
		log_warning("message.rejected", KV_INT("refused", (int64_t)refused),
		    KV_STR("reply", intake->refusal),
		    KV_WHY("so many more since the line before: the spool takes no mail"));
}

/* ---- what the writer tells ---- */

static void
on_report(void *arg, const struct spool_report *report)
{
	struct intake *intake = arg;

	switch (report->kind) {
	case SPOOL_REPORT_FAILED:
	case SPOOL_REPORT_DOWN:
		log_error("spool.failed", KV_STR("directory", intake->config->spool.directory),
		    KV_STR("operation", report->operation), KV_STR("file", report->file),
		    KV_INT("offset", (int64_t)report->offset),
		    KV_INT("revoked", (int64_t)report->revoked),
		    KV_INT("unknown", (int64_t)report->unknown),
		    KV_STR("error", strerror(report->error)),
		    KV_WHY(report->kind == SPOOL_REPORT_DOWN
		               ? "no file of the spool can be written: new mail is refused"
		               : "the file is not used any more; clients are told to try again"),
		    KV_FIX("look at the disk: make room, or mend what the error says; mail is "
		           "taken again by itself"));
		break;
	case SPOOL_REPORT_RECOVERED:
		log_info("spool.recovered", KV_STR("directory", intake->config->spool.directory),
		    KV_STR("file", report->file),
		    KV_INT("refused", (int64_t)refusals_end(&intake->refusals)));
		break;
	case SPOOL_REPORT_COMPACTED:
		break;
	}
}

static void
on_commits(evutil_socket_t fd, short what, void *arg)
{
	struct intake *intake = arg;

	(void)fd;
	(void)what;
	spool_writer_dispatch(intake->writer);
}

/* ---- deadlines, and the end ---- */

static void
end_sessions(struct intake *intake, const char *reply)
{
	struct session *session, *next;

	for (session = intake->sessions; session != NULL; session = next) {
		next = session_next(session);
		session_end(session, reply);
	}
}

/* One timer for all deadlines: a session costs no timer of its own. */
static void
on_sweep(evutil_socket_t fd, short what, void *arg)
{
	struct intake *intake = arg;
	uint64_t now_ms = loop_now_ms();
	struct session *session, *next;

	(void)fd;
	(void)what;
	for (session = intake->sessions; session != NULL; session = next) {
		next = session_next(session);
		session_check(session, now_ms);
	}
	look_at_spool(intake, now_ms);
	if (intake->state != INTAKE_SERVING && now_ms >= intake->end_ms + INTAKE_QUICK_MS)
		loop_end(intake->loop);
}

void
intake_settle(struct intake *intake)
{
	listeners_resume(intake->listeners);
	if (intake->state != INTAKE_SERVING && intake->n_sessions == 0 && intake->n_messages == 0)
		loop_end(intake->loop);
}

void
intake_stop(struct intake *intake, bool quick)
{
	const struct timeval often = loop_timeval(SWEEP_STOPPING_MS);
	uint64_t now_ms = loop_now_ms();

	listeners_close(intake->listeners);
	intake->listeners = NULL;
	event_add(intake->sweep, &often);
	intake->state = quick ? INTAKE_ENDING : INTAKE_DRAINING;
	intake->end_ms = now_ms + (quick ? 0 : intake->config->drain_ms);
	if (quick)
		end_sessions(intake, "421 4.3.2 relayd stops: try again later");
	intake_settle(intake);
}

/* ---- the beginning ---- */

/* As many sessions as the config allows and descriptors last. */
static unsigned
count_sessions(const struct config *config)
{
	struct rlimit files;
	uint64_t most = config->limits.connections;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		(void)!setrlimit(RLIMIT_NOFILE, &files);
		if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < most + FDS_FOR_OTHERS)
			most =
			    files.rlim_cur > FDS_FOR_OTHERS ? files.rlim_cur - FDS_FOR_OTHERS : 1;
	}
	return (unsigned)most;
}

static uint64_t
sweep_every_ms(const struct config *config)
{
	uint64_t every_ms = config->limits.command_timeout_ms / 4;

	if (every_ms > SWEEP_MOST_MS)
		return SWEEP_MOST_MS;
	return every_ms < SWEEP_LEAST_MS ? SWEEP_LEAST_MS : every_ms;
}

int
intake_open(const struct intake_options *options, struct intake **out)
{
	struct intake *intake = xcalloc(1, sizeof(*intake));
	char why[256];
	int r;

	intake->config = options->config;
	intake->loop = options->loop;
	intake->base = loop_base(options->loop);
	intake->page = options->page;
	intake->finder = options->finder;
	intake->spool_fd = -1;
	intake->max_sessions = count_sessions(options->config);
	r = listeners_open(options->config, options->first_listener_fd, intake->base, on_accepted,
	    intake, &intake->listeners, why);
	if (r < 0) {
		log_error("listener.failed", KV_WHY(why));
		free(intake);
		return r;
	}
	*out = intake;
	return 0;
}

static int
open_writer(struct intake *intake)
{
	const struct spool_writer_options options = {
		.dirfd = intake->spool_fd,
		.kind = SEGMENT_INTAKE,
		.segment_bytes = intake->config->spool.segment_bytes,
		.page = intake->page,
		.wake_fd = intake->wake_fd,
		.report = on_report,
		.report_arg = intake,
	};
	int r = spool_writer_open(&options, &intake->writer);

	if (r < 0)
		return r;
	intake->committed = event_new(intake->base, spool_writer_fd(intake->writer),
	    EV_READ | EV_PERSIST, on_commits, intake);
	if (intake->committed == NULL || event_add(intake->committed, NULL) < 0)
		return -ENOMEM;
	return 0;
}

int
intake_start(struct intake *intake, int spool_fd, int wake_fd)
{
	const struct timeval every = loop_timeval(sweep_every_ms(intake->config));
	int r;

	intake->spool_fd = spool_fd;
	intake->wake_fd = wake_fd;
	intake->sweep = event_new(intake->base, -1, EV_PERSIST, on_sweep, intake);
	if (intake->sweep == NULL || event_add(intake->sweep, &every) < 0)
		return -ENOMEM;
	r = open_writer(intake);
	if (r < 0)
		log_error("spool.failed", KV_STR("directory", intake->config->spool.directory),
		    KV_STR("error", strerror(-r)),
		    KV_WHY("its first file cannot be made: no mail is taken"),
		    KV_FIX("mend what the error says; it is tried again"));
	return r;
}

void
intake_close(struct intake *intake)
{
	if (intake == NULL)
		return;
	listeners_close(intake->listeners);
	intake->listeners = NULL;
	intake->state = INTAKE_ENDING;
	end_sessions(intake, NULL);
	spool_writer_close(intake->writer); /* answers what is under way; sessions hear it */
	end_sessions(intake, NULL);
	assert(intake->n_sessions == 0 && intake->n_messages == 0);
	if (intake->sweep != NULL)
		event_free(intake->sweep);
	if (intake->committed != NULL)
		event_free(intake->committed);
	free(intake);
}
