/* child.c - see child.h. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/worker.h"
#include "supervisor/child.h"

#define EXIT_NOT_STARTED 127 /* as a shell says it */

static const char *const programs[CHILD_ROLES] = {
	[CHILD_INTAKE] = "relayd-intake",
	[CHILD_DELIVERY] = "relayd-delivery",
};

/* What a worker may know of our environment: where its log goes, the credentials' directory, where
 * OpenSSL looks for the system's certificates, the time zone, how sanitizers
 * report, and what tests ask of the sandbox (base/sandbox.h). */
static const char *const kept_environment[] = { "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "TZ", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS",
	"RELAYD_SANDBOX" };

const char *
child_program(enum child_role role)
{
	return programs[role];
}

uint64_t
child_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- in the new process ---- */

/* Puts fds[i] at 3 + i, without close-on-exec; everything else closes by itself. They are moved out
 * of the way first, because one may stand where another has to go. */
static bool
place_descriptors(int *fds, int n)
{
	for (int i = 0; i < n; i++) {
		fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, WORKER_FD_CONFIG + n);
		if (fds[i] < 0)
			return false;
	}
	for (int i = 0; i < n; i++)
		if (dup2(fds[i], WORKER_FD_CONFIG + i) < 0)
			return false;
	return true;
}

static char **
make_environment(void)
{
	char **environment = xcalloc(ARRAY_LEN(kept_environment) + 2, sizeof(char *));
	size_t n = 0;

	environment[n++] = xstrdup("PATH=/usr/sbin:/usr/bin:/sbin:/bin");
	for (size_t i = 0; i < ARRAY_LEN(kept_environment); i++) {
		const char *value = getenv(kept_environment[i]);

		if (value != NULL)
			environment[n++] = xasprintf("%s=%s", kept_environment[i], value);
	}
	return environment;
}

static void
execute(const char *directory, const char *program, char **environment)
{
	char *arguments[] = { xstrdup(program), (char[]){ "--worker" }, NULL };
	const char *const places[] = { directory, RELAYD_LIBEXECDIR };

	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		char *path;

		if (places[i] == NULL)
			continue;
		path = xasprintf("%s/%s", places[i], program);
		execve(path, arguments, environment);
		if (errno != ENOENT)
			fprintf(stderr, "%srelayd: cannot start %s: %s\n", log_mark(LOG_ERROR),
			    path, strerror(errno));
		free(path);
	}
	fprintf(
	    stderr, "relayd: %s is neither beside relayd nor in %s\n", program, RELAYD_LIBEXECDIR);
}

static void
become_worker(const struct child_start *start, int *fds, int n)
{
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		(void)signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (place_descriptors(fds, n))
		execute(start->directory, programs[start->role], make_environment());
	_exit(EXIT_NOT_STARTED);
}

/* ---- the channel ---- */

static void
take_report(struct child *child, const struct worker_report *report)
{
	child->alive_ms = child_now_ms();
	switch (report->kind) {
	case WORKER_READY:
		if (!child->is_ready) {
			child->is_ready = true;
			child->on_ready(child->arg, child);
		}
		break;
	case WORKER_PASSWORD_WANTED:
		if (child->passwords != NULL)
			password_runner_want(child->passwords, report->upstream);
		break;
	default:
		break; /* ALIVE has been noted; what we do not know does no harm */
	}
}

static void
on_channel(evutil_socket_t fd, short what, void *arg)
{
	struct child *child = arg;
	struct worker_report report;
	ssize_t len;

	(void)what;
	/* a bounded number at once: a mad worker does not keep us from the others */
	for (int i = 0; i < 64; i++) {
		len = recv(fd, &report, sizeof(report), MSG_DONTWAIT | MSG_TRUNC);
		if (len == (ssize_t)sizeof(report)) {
			take_report(child, &report);
		} else if (len == 0 || (len < 0 && errno != EAGAIN && errno != EINTR)) {
			event_del(child->channel_event); /* it ended: SIGCHLD tells how */
			return;
		} else if (len < 0) {
			return;
		}
	}
}

/* ---- start and end ---- */

/* Collects what the worker gets, in the order of base/worker.h. Returns how many, or -errno. */
static int
collect_descriptors(const struct child_start *start, int config_fd, int channel_fd, int *fds)
{
	const struct listeners *l = start->generation->listeners;
	int n = 0;

	fds[n++] = config_fd;
	fds[n++] = start->shared_fd;
	fds[n++] = start->wake_fd;
	fds[n++] = channel_fd;
	fds[n++] = start->spool_fd;
	if (start->role == CHILD_DELIVERY)
		fds[n++] = l->control.fd;
	else
		for (size_t i = 0; i < l->n; i++)
			fds[n++] = l->items[i].fd;
	fds[n++] = start->lock_fd; /* at the end: the worker holds it and never looks at it */
	return n;
}

static int
spawn(const struct child_start *start, int channel_fd, pid_t *pid)
{
	int *fds, n, r = 0, config_fd = generation_config_fd(start->generation);

	if (config_fd < 0)
		return config_fd;
	fds = xcalloc(WORKER_FD_FIRST_LISTENER + start->generation->listeners->n + 2, sizeof(*fds));
	n = collect_descriptors(start, config_fd, channel_fd, fds);
	*pid = fork();
	if (*pid == 0)
		become_worker(start, fds, n);
	if (*pid < 0)
		r = -errno;
	free(fds);
	close(config_fd);
	return r;
}

int
child_start(const struct child_start *start, struct child **out)
{
	struct child *child;
	int r, pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	r = spawn(start, pair[1], &pid);
	close(pair[1]);
	if (r < 0) {
		close(pair[0]);
		return r;
	}
	child = xcalloc(1, sizeof(*child));
	child->role = start->role;
	child->pid = pid;
	child->generation = generation_hold(start->generation);
	child->channel_fd = pair[0];
	child->started_ms = child->alive_ms = child_now_ms();
	child->on_ready = start->on_ready;
	child->arg = start->arg;
	child->channel_event =
	    event_new(start->base, pair[0], EV_READ | EV_PERSIST, on_channel, child);
	event_add(child->channel_event, NULL);
	if (start->role == CHILD_DELIVERY)
		child->passwords =
		    password_runner_create(start->base, child->generation->config, pair[0]);
	log_info("worker.started", KV_STR("worker", programs[child->role]), KV_INT("pid", pid));
	*out = child;
	return 0;
}

void
child_stop(struct child *child, uint64_t drain_ms)
{
	uint64_t deadline_ms = child_now_ms() + drain_ms;

	if (child->deadline_ms == 0 || child->deadline_ms > deadline_ms)
		child->deadline_ms = deadline_ms;
	(void)kill(child->pid, SIGTERM);
}

void
child_kill(struct child *child)
{
	child->is_killed = true;
	child->killed_ms = child_now_ms();
	(void)kill(child->pid, SIGKILL);
}

/* It was told to stop and did, or had to be killed for it: a crash on the way out is a death. */
static bool
is_stopped(const struct child *child, int wait_status)
{
	int sig = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;

	return child->deadline_ms != 0 &&
	       (child->is_killed || sig == 0 || sig == SIGTERM || sig == SIGKILL);
}

void
child_log_end(const struct child *child, int wait_status)
{
	int sig = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
	char how[192];

	if (child->is_killed && child->deadline_ms == 0)
		snprintf(how, sizeof(how), "killed: it was silent");
	else if (child->is_killed)
		snprintf(how, sizeof(how), "killed: it did not end in time");
	else if (sig == SIGSYS)
		snprintf(how, sizeof(how),
		    "ended by signal %d (%s): a sandbox forbids what it tried; the kernel's log "
		    "(dmesg) names it: type=1326 pid=%d syscall=...",
		    sig, strsignal(sig), (int)child->pid);
	else if (sig != 0)
		snprintf(how, sizeof(how), "ended by signal %d (%s)", sig, strsignal(sig));
	else
		snprintf(how, sizeof(how), "ended with exit code %d", WEXITSTATUS(wait_status));
	if (is_stopped(child, wait_status))
		log_info("worker.stopped", KV_STR("worker", programs[child->role]),
		    KV_INT("pid", child->pid), KV_WHY(how));
	else
		log_error("worker.died", KV_STR("worker", programs[child->role]),
		    KV_INT("pid", child->pid), KV_WHY(how));
}

void
child_free(struct child *child)
{
	password_runner_free(child->passwords);
	event_free(child->channel_event);
	close(child->channel_fd);
	generation_release(child->generation);
	free(child);
}
