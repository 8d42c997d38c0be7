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
#define BUFFER_BYTES (256u << 10)
#define LINE_MAX_BYTES (64u << 20)

struct talk {
	int fd;
	int wait_ms;
	char *buffer;
	size_t used, len, size; /* lines that were given; what was read */
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
		else if (errno == EPIPE)
			break; /* whoever does not listen may have said why */
		else if (errno != EINTR)
			r = -errno;
	}
	free(line);
	free(text);
	return r;
}

/* What was read already and not yet used moves to the front; there is room for more then. */
static int
make_room(struct talk *t)
{
	if (t->used > 0)
		memmove(t->buffer, t->buffer + t->used, t->len - t->used);
	t->len -= t->used;
	t->used = 0;
	if (t->len < t->size)
		return 0;
	if (t->size >= LINE_MAX_BYTES)
		return -EPROTO;
	t->size = t->size == 0 ? BUFFER_BYTES : t->size * 2;
	t->buffer = xrealloc(t->buffer, t->size, 1);
	return 0;
}

/* Gives the next line, good until the next call. */
static int
read_line(struct talk *t, struct span *line)
{
	size_t scanned = t->used;

	for (;;) {
		char *end =
		    t->len > scanned ? memchr(t->buffer + scanned, '\n', t->len - scanned) : NULL;
		struct pollfd poll_fd = { .fd = t->fd, .events = POLLIN };
		ssize_t n;
		int r;

		if (end != NULL) {
			*line = (struct span){ t->buffer + t->used,
				(size_t)(end - t->buffer) - t->used };
			t->used = (size_t)(end - t->buffer) + 1;
			return 0;
		}
		r = make_room(t);
		if (r < 0)
			return r;
		scanned = t->len;
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

/* Who listens to the lines before the last one. */
struct listener {
	ctl_line_fn *line;
	const char *key; /* of lines for value() */
	ctl_value_fn *value;
	void *arg;
};

/* The inside of {"KEY":...}. */
static bool
is_value(const struct listener *to, struct span line, struct span *value)
{
	size_t len = to->key != NULL ? strlen(to->key) : 0;

	if (len == 0 || line.len < len + 5 || memcmp(line.data, "{\"", 2) != 0 ||
	    memcmp(line.data + 2, to->key, len) != 0 || memcmp(line.data + 2 + len, "\":", 2) != 0)
		return false;
	*value = (struct span){ line.data + len + 4, line.len - len - 5 };
	return true;
}

static int
read_answer(struct talk *t, const struct listener *to, json_t **last)
{
	for (;;) {
		struct span line = { NULL, 0 }, value;
		json_t *object;
		int r = read_line(t, &line);

		if (r == 0 && is_value(to, line, &value)) {
			r = to->value(to->arg, value);
			if (r == 0)
				continue;
		}
		if (r < 0)
			return r;
		object = json_loadb(line.data, line.len, 0, NULL);
		if (!json_is_object(object)) {
			json_decref(object);
			return -EPROTO;
		}
		if (is_last(object)) {
			*last = object;
			return 0;
		}
		if (to->line != NULL)
			to->line(to->arg, object);
		json_decref(object);
	}
}

static int
ask(const struct ctl *ctl, json_t *request, const struct listener *to, json_t **last)
{
	struct talk t = { .wait_ms = strcmp(ctl->command, "test") == 0 ? TEST_MS : ANSWER_MS };
	int r;

	t.fd = open_socket(socket_path(ctl));
	r = t.fd < 0 ? t.fd : send_line(t.fd, request);
	if (r == 0)
		r = read_answer(&t, to, last);
	if (t.fd >= 0)
		close(t.fd);
	free(t.buffer);
	json_decref(request);
	return r;
}

int
ctl_ask(const struct ctl *ctl, json_t *request, ctl_line_fn *line, void *arg, json_t **last)
{
	return ask(ctl, request, &(struct listener){ .line = line, .arg = arg }, last);
}

int
ctl_ask_list(const struct ctl *ctl, json_t *request, const char *key, ctl_value_fn *value,
    void *arg, json_t **last)
{
	return ask(
	    ctl, request, &(struct listener){ .key = key, .value = value, .arg = arg }, last);
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
