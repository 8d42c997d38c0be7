/* fuzz_ctl.c - relayctl with a relayd that answers anything. Input: u8 command, u8 options, then the
 * answer, to every connection.
 *
 * What must hold: the command ends, with an exit code of its own; what it prints for people holds no
 * control byte that a terminal would obey, whatever the texts in the answer are; with --json each
 * line is one line. */
#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/queue_id.h"
#include "ctl/commands.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef int command_fn(const struct ctl *ctl);

static const struct {
	const char *name;
	command_fn *run;
	bool has_id;
} commands[] = {
	{ "status", ctl_status, false },
	{ "queue", ctl_queue, false },
	{ "show", ctl_show, true },
	{ "hold", ctl_change, true },
	{ "remove", ctl_change, true },
	{ "test", ctl_test, true },
	{ "config", ctl_config, false },
	{ "metrics", ctl_metrics, false },
};

enum { JSON = 1, BODY = 2 };

static char directory[64], path[96];
static int listener = -1;
static const uint8_t *answer;
static size_t answer_len;
static atomic_bool is_busy; /* the other end reads `answer` */

/* ---- The other end ---- */

static void *
serve(void *arg)
{
	char request[65536];

	(void)arg;
	for (;;) {
		const int fd = accept(listener, NULL, NULL);
		ssize_t n;

		if (fd < 0)
			return NULL;
		atomic_store(&is_busy, true);
		n = read(fd, request, sizeof(request));
		assert(n > 0 && request[n - 1] == '\n');
		for (size_t done = 0; done < answer_len; done += (size_t)n) {
			n = send(fd, answer + done, answer_len - done, MSG_NOSIGNAL);
			if (n <= 0)
				break;
		}
		close(fd);
		atomic_store(&is_busy, false);
	}
}

static void
clean(void)
{
	unlink(path);
	rmdir(directory);
}

static void
open_listener(void)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	pthread_t thread;

	strcpy(directory, "/tmp/relayd-fuzz-XXXXXX");
	assert(mkdtemp(directory) != NULL);
	snprintf(path, sizeof(path), "%s/control", directory);
	strcpy(sun.sun_path, path);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert(bind(listener, (struct sockaddr *)&sun, sizeof(sun)) == 0);
	assert(listen(listener, 8) == 0);
	assert(pthread_create(&thread, NULL, serve, NULL) == 0);
	atexit(clean);
}

/* ---- What is printed ---- */

static void
check_printed(const char *text, size_t len, bool is_raw)
{
	for (size_t i = 0; i < len; i++) {
		const unsigned char c = (unsigned char)text[i];

		if (is_raw)
			continue;
		assert(c >= 0x20 || c == '\n' || c == '\t');
		assert(c != 0x7f);
		/* the C1 controls: a terminal takes U+009B for ESC [ */
		assert(c != 0xc2 || i + 1 == len || (unsigned char)text[i + 1] >= 0xa0);
	}
}

static void
run(const struct ctl *ctl, command_fn *command, bool is_raw)
{
	FILE *const kept_out = stdout, *const kept_err = stderr;
	char *out, *err;
	size_t out_len, err_len;
	int code;

	stdout = open_memstream(&out, &out_len);
	stderr = open_memstream(&err, &err_len);
	code = command(ctl);
	fclose(stdout);
	fclose(stderr);
	stdout = kept_out;
	stderr = kept_err;
	assert(code == CTL_OK || code == CTL_FAILED || code == CTL_USAGE);
	assert(code != CTL_FAILED || err_len > 0 || ctl->is_json);
	check_printed(err, err_len, false);
	if (!ctl->is_json)
		check_printed(out, out_len, is_raw);
	for (size_t i = 0; ctl->is_json && i < out_len; i++)
		assert((unsigned char)out[i] >= 0x20 || out[i] == '\n');
	free(out);
	free(err);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char id[QUEUE_ID_LEN + 1], *arguments[] = { id };
	struct ctl ctl = { .socket_path = path, .is_sure = true, .arguments = arguments };
	size_t i;

	if (size < 2)
		return 0;
	if (listener < 0)
		open_listener();
	i = data[0] % ARRAY_LEN(commands);
	queue_id_print(queue_id_make(1000, 1), id);
	ctl.command = commands[i].name;
	ctl.n_arguments = commands[i].has_id;
	ctl.is_json = (data[1] & JSON) != 0;
	ctl.wants_body = (data[1] & BODY) != 0;
	answer = data + 2;
	answer_len = size - 2;
	run(&ctl, commands[i].run, ctl.wants_body); /* a body goes raw to what is no terminal */
	while (atomic_load(&is_busy)) /* it heard something, so it was accepted before */
		usleep(50);
	return 0;
}
