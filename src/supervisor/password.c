/* password.c - see password.h. A job ends when its command was reaped: what is in the pipe then is its
 * answer, even if a grandchild still holds the other end. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/worker.h"
#include "supervisor/password.h"

#define READS_AT_ONCE 64 /* of 1 KiB each */

struct job {
	struct password_runner *runner;
	unsigned upstream;
	struct event *timer;  /* running: the deadline; else: the next run, if pending */
	struct event *output; /* NULL: not running */
	pid_t pid;            /* 0: not running */
	int fd;
	bool is_late;         /* killed at the deadline */
	bool is_wanted_again; /* asked for while it ran */
	uint64_t started_ms;  /* of the last run; 0: never */
	size_t len;
	char bytes[WORKER_PASSWORD_MAX + 2]; /* room to see a newline, and that it is too long */
};

struct password_runner {
	struct event_base *base;
	const struct config *config;
	int channel_fd;
	struct job **jobs; /* by upstream; NULL: it has no command */
};

static void job_start(struct job *job);

static void
set_timer(struct job *job, uint64_t ms)
{
	struct timeval after = loop_timeval(ms);

	event_add(job->timer, &after);
}

/* Reads what there is; returns false at the end of file. A command may write faster than we read: so
 * much at once, and then it is the others' turn. */
static bool
read_output(struct job *job)
{
	for (int i = 0; i < READS_AT_ONCE; i++) {
		size_t room = sizeof(job->bytes) - job->len;
		char dropped[1024]; /* what is too long is read, so that the command can end */
		ssize_t n = room > 0 ? read(job->fd, job->bytes + job->len, room)
		                     : read(job->fd, dropped, sizeof(dropped));

		wipe(dropped, sizeof(dropped));
		if (n <= 0)
			return n < 0 && errno == EAGAIN;
		if (room > 0)
			job->len += (size_t)n;
	}
	return true;
}

static void
on_output(evutil_socket_t fd, short what, void *arg)
{
	struct job *job = arg;

	(void)fd;
	(void)what;
	if (!read_output(job)) /* the exit status is still to come */
		event_del(job->output);
}

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct job *job = arg;

	(void)fd;
	(void)what;
	if (job->pid == 0) {
		job_start(job);
		return;
	}
	job->is_late = true;
	(void)kill(-job->pid, SIGKILL);
}

/* Tells delivery, and the operator if it failed. */
static void
report(struct job *job, int status)
{
	const struct config_upstream *upstream = &job->runner->config->upstreams[job->upstream];
	struct worker_password message = {
		.kind = WORKER_PASSWORD, .upstream = job->upstream, .status = status
	};
	char why[160];

	if (status == 0) {
		message.len_bytes = (uint32_t)job->len;
		memcpy(message.bytes, job->bytes, job->len);
	} else {
		if (status == -ETIMEDOUT)
			snprintf(why, sizeof(why),
			    "password-command took longer than %d s and was killed",
			    PASSWORD_DEADLINE_MS / 1000);
		else if (status == -E2BIG)
			snprintf(why, sizeof(why), "password-command said more than %d bytes",
			    WORKER_PASSWORD_MAX);
		else if (status < 0)
			snprintf(why, sizeof(why), "password-command could not be run: %s",
			    strerror(-status));
		else if (status >= 128)
			snprintf(why, sizeof(why), "password-command was ended by signal %d",
			    status - 128);
		else
			snprintf(
			    why, sizeof(why), "password-command failed with exit code %d", status);
		log_error("secret.failed", KV_STR("upstream", upstream->name), KV_WHY(why),
		    KV_FIX("run the command by hand as relayd's user, with an empty environment"));
	}
	/* a full channel means that delivery hangs: it will ask again when it is back */
	(void)send(job->runner->channel_fd, &message, sizeof(message), MSG_DONTWAIT | MSG_NOSIGNAL);
	wipe(&message, sizeof(message));
}

static void
job_clear(struct job *job)
{
	if (job->output != NULL)
		event_free(job->output);
	job->output = NULL;
	if (job->fd >= 0)
		close(job->fd);
	job->fd = -1;
	job->pid = 0;
	job->len = 0;
	job->is_late = false;
	wipe(job->bytes, sizeof(job->bytes));
}

static void
job_end(struct job *job, int status)
{
	uint64_t refresh_ms = job->runner->config->upstreams[job->upstream].password_refresh_ms;
	uint64_t next_ms = status == 0 ? refresh_ms : 6 * PASSWORD_PAUSE_MS;

	event_del(job->timer);
	report(job, status);
	job_clear(job);
	if (job->is_wanted_again && (next_ms == 0 || next_ms > PASSWORD_PAUSE_MS))
		next_ms = PASSWORD_PAUSE_MS;
	job->is_wanted_again = false;
	if (next_ms > 0)
		set_timer(job, next_ms);
}

/* In the new process: nothing of ours but the pipe, and a world as after login without a profile. */
static void
become_command(const char *command, int out_fd)
{
	static char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	static char *const environment[] = { path, NULL };
	struct rlimit files;
	int null_fd = open("/dev/null", O_RDONLY);
	sigset_t none;

	setpgid(0, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int sig = 1; sig < NSIG; sig++)
		(void)signal(sig, SIG_DFL); /* ignored ones would stay ignored */
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur > 1024) {
		files.rlim_cur = 1024;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	if (null_fd >= 0 && dup2(null_fd, 0) == 0 && dup2(out_fd, 1) == 1)
		execle("/bin/sh", "sh", "-c", command, (char *)NULL, environment);
	_exit(127);
}

static int
spawn(struct job *job, const char *command)
{
	int pipe_fds[2];
	pid_t pid;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid == 0)
		become_command(command, pipe_fds[1]);
	close(pipe_fds[1]);
	if (pid < 0 || fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK) < 0) {
		close(pipe_fds[0]);
		return -errno;
	}
	(void)setpgid(pid, pid); /* whoever is first: the group is there before we could kill it */
	job->pid = pid;
	job->fd = pipe_fds[0];
	return 0;
}

static void
job_start(struct job *job)
{
	struct password_runner *runner = job->runner;
	int r = spawn(job, runner->config->upstreams[job->upstream].password_command);

	job->started_ms = loop_now_ms();
	if (r < 0) {
		job_end(job, r);
		return;
	}
	job->output = event_new(runner->base, job->fd, EV_READ | EV_PERSIST, on_output, job);
	event_add(job->output, NULL);
	set_timer(job, PASSWORD_DEADLINE_MS);
}

struct password_runner *
password_runner_create(struct event_base *base, const struct config *config, int channel_fd)
{
	struct password_runner *runner = xcalloc(1, sizeof(*runner));

	*runner = (struct password_runner){ .base = base,
		.config = config,
		.channel_fd = channel_fd,
		.jobs = xcalloc(config->n_upstreams, sizeof(struct job *)) };
	for (size_t i = 0; i < config->n_upstreams; i++) {
		struct job *job;

		if (config->upstreams[i].password_command == NULL)
			continue;
		job = runner->jobs[i] = xcalloc(1, sizeof(*job));
		job->runner = runner;
		job->upstream = (unsigned)i;
		job->fd = -1;
		job->timer = evtimer_new(base, on_timer, job);
		job_start(job);
	}
	return runner;
}

void
password_runner_free(struct password_runner *runner)
{
	if (runner == NULL)
		return;
	for (size_t i = 0; i < runner->config->n_upstreams; i++) {
		struct job *job = runner->jobs[i];

		if (job == NULL)
			continue;
		if (job->pid > 0)
			(void)kill(-job->pid, SIGKILL);
		job_clear(job);
		event_free(job->timer);
		free(job);
	}
	free(runner->jobs);
	free(runner);
}

void
password_runner_want(struct password_runner *runner, unsigned upstream)
{
	struct job *job;
	uint64_t age_ms;

	if (upstream >= runner->config->n_upstreams || runner->jobs[upstream] == NULL)
		return;
	job = runner->jobs[upstream];
	if (job->pid > 0) {
		job->is_wanted_again = true;
		return;
	}
	age_ms = loop_now_ms() - job->started_ms;
	if (age_ms >= PASSWORD_PAUSE_MS)
		job_start(job);
	else
		set_timer(job, PASSWORD_PAUSE_MS - age_ms);
}

bool
password_runner_reaped(struct password_runner *runner, pid_t pid, int wait_status)
{
	for (size_t i = 0; i < runner->config->n_upstreams; i++) {
		struct job *job = runner->jobs[i];
		int status;

		if (job == NULL || job->pid != pid)
			continue;
		(void)read_output(job);
		if (job->len > 0 && job->len <= WORKER_PASSWORD_MAX + 1 &&
		    job->bytes[job->len - 1] == '\n')
			job->len--;
		if (job->is_late)
			status = -ETIMEDOUT;
		else if (WIFSIGNALED(wait_status))
			status = 128 + WTERMSIG(wait_status);
		else
			status = WEXITSTATUS(wait_status);
		if (status == 0 && job->len > WORKER_PASSWORD_MAX)
			status = -E2BIG;
		job_end(job, status);
		return true;
	}
	return false;
}
