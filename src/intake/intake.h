/* intake.h - what all sessions of this process share, and what is decided above a single session: who
 * may come in, how many, whether there is room for mail, when to stop. The room's own header. */
#ifndef RELAYD_INTAKE_INTAKE_H
#define RELAYD_INTAKE_INTAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/config.h"
#include "base/loop.h"
#include "intake/listener.h"
#include "intake/peer.h"
#include "intake/refusals.h"
#include "intake/tally.h"
#include "smtp/server.h"
#include "spool/shared_page.h"
#include "spool/writer.h"

#define INTAKE_READ_BYTES (64u << 10)  /* read at once; the process has one such buffer */
#define INTAKE_BODIES_MAX (64u << 20)  /* bodies in memory of all sessions; beyond it on disk */
#define INTAKE_STRESS_TIMEOUT_MS 10000 /* a command's deadline when connections run out */
#define INTAKE_STALL_MS 10000          /* the disk is silent so long: no new message */
#define INTAKE_ROOMY_MS 5000        /* there is room for so long: the disk is not full any more */
#define INTAKE_DRAIN_IDLE_MS 1000   /* stopping: a session that is idle so long is ended */
#define INTAKE_DRAIN_SILENT_MS 5000 /* or within its envelope; a body may take until end_ms */
#define INTAKE_QUICK_MS 5000        /* stopping quickly: what the disk gets to answer */

struct session;

enum intake_state { INTAKE_SERVING, INTAKE_DRAINING, INTAKE_ENDING };

struct intake {
	const struct config *config;
	struct loop *loop;
	struct event_base *base;
	struct shared_page *page;
	struct spool_writer *writer;
	struct peer_finder *finder;
	struct listeners *listeners;
	int spool_fd; /* the spool directory */
	int wake_fd;

	struct session *sessions; /* all of them, in no order */
	unsigned n_sessions;
	unsigned n_messages; /* submitted to the writer, not answered yet; some without a session */
	struct tally *clients;
	uint64_t session_number; /* of the last one, for the log */
	uint64_t body_bytes;     /* bodies in memory now */

	enum intake_state state;
	unsigned max_sessions;
	uint64_t end_ms;     /* draining: until then */
	uint64_t refused_ms; /* when a limit was logged last: not once for each connection */
	bool is_full;        /* no room on the disk: logged, as will be its end */
	bool is_stalled;     /* the disk is silent: the same */
	bool is_moved;       /* the spool's name leads elsewhere: the same */
	uint64_t full_since_ms, full_ms; /* when the first, and when the last message had no room */
	uint64_t full_bytes;             /* room for that much is wanted before it is over */
	struct refusals refusals;
	char refusal[512]; /* the last one */

	struct event *sweep, *committed;
	char buffer[INTAKE_READ_BYTES];
};

struct intake_options {
	const struct config *config; /* all borrowed */
	struct loop *loop;
	struct shared_page *page;
	struct peer_finder *finder;
	int first_listener_fd; /* -1: bind them */
};

/* Opens the listeners; nobody is accepted before the loop turns. Gives *out; -errno after logging
 * the cause. */
int intake_open(const struct intake_options *options, struct intake **out) MUST_CHECK;
/* Opens the spool for writing (the directory `spool_fd` and `wake_fd` are borrowed): from here on
 * mail is taken; on a full disk, as soon as there is room. -errno, logged: the spool cannot be used. */
int intake_start(struct intake *intake, int spool_fd, int wake_fd) MUST_CHECK;
/* Stops accepting; ends the loop when the last session is gone, at the latest after drain_ms. quick:
 * only what the disk has not answered yet may finish. */
void intake_stop(struct intake *intake, bool quick);
/* Waits for the disk, then closes the spool cleanly. NULL is fine. */
void intake_close(struct intake *intake);

bool intake_is_stressed(const struct intake *intake);
/* May a message begin? NULL: yes; else the reply that says why not. `bytes`: what the client
 * declared. The text lives until the next call. */
const char *intake_refusal(struct intake *intake, uint64_t bytes);
/* A client was told 4xx for the spool's sake. Is it worth a line of its own? If not it is counted, and
 * told as a number. */
bool intake_is_worth_telling(struct intake *intake);
/* A session or a message without session has ended: counters, paused listeners, end of a drain. */
void intake_settle(struct intake *intake);

#endif
