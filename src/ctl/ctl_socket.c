/* ctl_socket.c - see ctl_socket.h. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ctl/ctl_socket.h"

#define DEFAULT_SOCKET "/run/relayd/control"
#define ANSWER_MS 5000 /* a line of most answers: delivery never sleeps so long */
#define TEST_MS 600000 /* a step of a test: an upstream may take its time */
#define LINE_MAX_BYTES (64u << 20)

struct talk {
	int fd;
	int wait_ms;
	char *buffer;
	size_t len, size, scanned;
};

static const char *
socket_path(const struct ctl *ctl)
{
	if (ctl->socket_path != NULL)
		return ctl->socket_path;
	return ctl->config != NULL ? ctl->config->control.socket : DEFAULT_SOCKET;
}

static int
open_socket(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	memcpy(sa.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	return fd;
}

static int
send_line(int fd, const json_t *request)
{
	char *text = json_dumps(request, JSON_COMPACT), *line;
	size_t len, done = 0;
	int r = 0;

	if (text == NULL)
		return -EINVAL;
	line = xasprintf("%s\n", text);
	len = strlen(line);
	while (r == 0 && done < len) {
		ssize_t n = send(fd, line + done, len - done, MSG_NOSIGNAL);

		if (n >= 0)
			done += (size_t)n;
		else if (errno != EINTR)
			r = errno == EPIPE ? -EPROTO : -errno;
	}
	free(line);
	free(text);
	return r;
}

/* Gives the next line as an object. */
static int
read_line(struct talk *t, json_t **out)
{
	for (;;) {
		char *end = t->len > t->scanned
		                ? memchr(t->buffer + t->scanned, '\n', t->len - t->scanned)
		                : NULL;
		struct pollfd poll_fd = { .fd = t->fd, .events = POLLIN };
		ssize_t n;

		if (end != NULL) {
			size_t used = (size_t)(end - t->buffer) + 1;

			*out = json_loadb(t->buffer, used, 0, NULL);
			memmove(t->buffer, t->buffer + used, t->len - used);
			t->len -= used;
			t->scanned = 0;
			return json_is_object(*out) ? 0 : -EPROTO;
		}
		t->scanned = t->len;
		if (t->len == t->size) {
			t->size = t->size == 0 ? 65536 : t->size * 2;
			if (t->size > LINE_MAX_BYTES)
				return -EPROTO;
			t->buffer = xrealloc(t->buffer, t->size, 1);
		}
		n = poll(&poll_fd, 1, t->wait_ms);
		if (n == 0)
			return -ETIMEDOUT;
		n = read(t->fd, t->buffer + t->len, t->size - t->len);
		if (n == 0)
			return -EPROTO;
		if (n < 0 && errno != EINTR)
			return errno == ECONNRESET ? -EPROTO : -errno;
		if (n > 0)
			t->len += (size_t)n;
	}
}

/* A line with the error of one message ("id") is not the end; that of a test ("phase") is. */
static bool
is_last(const json_t *object)
{
	if (json_object_get(object, "error") == NULL)
		return json_object_get(object, "ok") != NULL;
	return json_object_get(object, "id") == NULL || json_object_get(object, "count") != NULL ||
	       json_object_get(object, "phase") != NULL;
}

static int
read_answer(struct talk *t, ctl_line_fn *line, void *arg, json_t **last)
{
	for (;;) {
		json_t *object = NULL;
		int r = read_line(t, &object);

		if (r < 0) {
			json_decref(object);
			return r;
		}
		if (is_last(object)) {
			*last = object;
			return 0;
		}
		if (line != NULL)
			line(arg, object);
		json_decref(object);
	}
}

int
ctl_ask(const struct ctl *ctl, json_t *request, ctl_line_fn *line, void *arg, json_t **last)
{
	struct talk t = { .wait_ms = strcmp(ctl->command, "test") == 0 ? TEST_MS : ANSWER_MS };
	int r;

	t.fd = open_socket(socket_path(ctl));
	r = t.fd < 0 ? t.fd : send_line(t.fd, request);
	if (r == 0)
		r = read_answer(&t, line, arg, last);
	if (t.fd >= 0)
		close(t.fd);
	free(t.buffer);
	json_decref(request);
	return r;
}

bool
ctl_is_down(int r)
{
	return r == -ENOENT || r == -ECONNREFUSED || r == -ETIMEDOUT || r == -ENOTDIR;
}

int
ctl_fail_ask(const struct ctl *ctl, int r)
{
	const char *path = socket_path(ctl);

	switch (-r) {
	case ENOENT:
	case ENOTDIR:
	case ECONNREFUSED:
		return ctl_fail("relayd does not run: nobody answers on %s (start it, or name its "
		                "socket or config by -s or -c)",
		    path);
	case ETIMEDOUT:
		return ctl_fail("relayd-delivery does not answer on %s: see the log", path);
	case EACCES:
	case EPERM:
		return ctl_fail("%s: only root and relayd's own user may ask", path);
	case EPROTO:
		return ctl_fail("the answer on %s broke off: see the log", path);
	default:
		return ctl_fail("%s: %s", path, strerror(-r));
	}
}

int
ctl_end(const json_t *last)
{
	const json_t *error = json_object_get(last, "error");

	if (error == NULL)
		return CTL_OK;
	return ctl_fail("%s", ctl_text(json_string_value(error)));
}
