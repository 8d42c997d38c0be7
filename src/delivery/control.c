/* control.c - the control socket: peers, lines, the list of commands. See control.h. */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <utlist.h>

#include "base/log.h"
#include "delivery/control.h"
#include "delivery/request.h"

#define PEERS_MOST 32
#define OUTPUT_ENOUGH (64 * 1024) /* a reader that is slow lets its answer wait here */
#define STEPS_AT_ONCE 16
#define FORGET_EVERY_MS 200

struct control_peer {
	struct control *control;
	struct bufferevent *bev;
	struct event *again;
	struct request *request;
	struct request_asker asker;
	bool is_ending; /* hang up when all is sent */
	struct control_peer *next, *prev;
};

struct control {
	struct delivery *d;
	struct event *listener, *timer;
	struct control_peer *peers;
	struct request_list {
		struct request *request;
		struct request_list *next, *prev;
	} * requests; /* all, also those whose peer has gone */
	unsigned n_peers;
	uint64_t *forget;
	size_t n_forget;
};

/* clang-format off */
const struct request_command request_commands[] = {
	{ "status",  control_status,       NULL,                NULL },
	{ "queue",   control_queue_start,  control_queue_step,  control_queue_end },
	{ "show",    control_show_start,   control_show_step,   control_show_end },
	{ "retry",   control_change_start, control_change_step, control_change_end },
	{ "hold",    control_change_start, control_change_step, control_change_end },
	{ "release", control_change_start, control_change_step, control_change_end },
	{ "bounce",  control_change_start, control_change_step, control_change_end },
	{ "remove",  control_change_start, control_change_step, control_change_end },
	{ "test",    control_test_start,   control_test_step,   control_test_end },
	{ "config",  control_config,       NULL,                NULL },
	{ "metrics", control_metrics,      NULL,                NULL },
	{ NULL,      NULL,                 NULL,                NULL },
};
/* clang-format on */

/* --- requests --------------------------------------------------------------------------------- */

void
request_say(struct request *r, json_t *line)
{
	char *text;

	if (r->peer != NULL && (text = json_dumps(line, JSON_COMPACT)) != NULL) {
		bufferevent_write(r->peer->bev, text, strlen(text));
		bufferevent_write(r->peer->bev, "\n", 1);
		free(text);
	}
	json_decref(line);
}

void
request_say_lines(struct request *r, struct span lines)
{
	if (r->peer != NULL && lines.len > 0)
		bufferevent_write(r->peer->bev, lines.data, lines.len);
}

enum request_progress
request_ok(struct request *r)
{
	request_say(r, json_pack("{s:b}", "ok", 1));
	return REQUEST_DONE;
}

enum request_progress
request_error(struct request *r, const char *fmt, ...)
{
	char text[1024], clean[1200];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	log_quote(span_of(text), clean, sizeof(clean));
	request_say(r, json_pack("{s:s}", "error", clean));
	return REQUEST_DONE;
}

const char *
request_not_yet(const struct delivery *d)
{
	return d->is_read ? "" : " (yet: the spool is still being read, try again in a moment)";
}

const char *
request_text(const struct request *r, const char *key)
{
	return json_string_value(json_object_get(r->json, key));
}

int
request_upstream(const struct delivery *d, const char *name)
{
	for (size_t i = 0; i < d->config->n_upstreams; i++)
		if (strcmp(d->config->upstreams[i].name, name) == 0)
			return (int)i;
	return -1;
}

void
request_wake(struct request *r)
{
	static const struct timeval now = { 0, 0 };

	if (r->peer != NULL) /* by way of a timer: others' events come in between */
		event_add(r->peer->again, &now);
}

static void
request_free(struct request *r)
{
	struct request_list *item;

	LL_SEARCH_SCALAR(r->control->requests, item, request, r);
	if (item != NULL)
		DL_DELETE(r->control->requests, item);
	free(item);
	if (r->command->end != NULL && r->state != NULL)
		r->command->end(r);
	json_decref(r->json);
	free(r);
}

static void
request_leave(struct request *r) /* its peer lets go of it */
{
	r->peer = NULL;
	if (r->pending == 0)
		request_free(r);
}

bool
request_returned(struct request *r)
{
	r->pending--;
	if (r->pending > 0 || r->peer != NULL)
		return true;
	request_free(r);
	return false;
}

/* It may have waited in our socket for longer than whoever asked. */
bool
request_is_deserted(const struct request *r)
{
	struct pollfd fd = { .fd = bufferevent_getfd(r->peer->bev) };

	return poll(&fd, 1, 0) == 1 && (fd.revents & POLLHUP) != 0;
}

/* --- peers ------------------------------------------------------------------------------------ */

static void
peer_free(struct control_peer *peer)
{
	if (peer->request != NULL)
		request_leave(peer->request);
	DL_DELETE(peer->control->peers, peer);
	peer->control->n_peers--;
	event_free(peer->again);
	bufferevent_free(peer->bev);
	free(peer);
}

static struct request *
request_new(struct control_peer *peer, json_t *json, const struct request_command *command)
{
	struct request *r = xcalloc(1, sizeof(*r));
	struct request_list *item = xcalloc(1, sizeof(*item));

	r->d = peer->control->d;
	r->control = peer->control;
	r->peer = peer;
	r->asker = peer->asker;
	r->command = command;
	r->json = json;
	item->request = r;
	DL_APPEND(peer->control->requests, item);
	return r;
}

static void
say_error(struct control_peer *peer, const char *text)
{
	struct request r = { .peer = peer };

	(void)request_error(&r, "%s", text);
}

static void
begin(struct control_peer *peer, const char *line, size_t len)
{
	json_t *json = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
	const char *name = json_string_value(json_object_get(json, "command"));
	const struct request_command *command = request_commands;

	while (name != NULL && command->name != NULL && strcmp(command->name, name) != 0)
		command++;
	if (name == NULL || command->name == NULL) {
		say_error(peer,
		    name == NULL ? "not a JSON object with a \"command\"" : "unknown command");
		json_decref(json);
		return;
	}
	peer->request = request_new(peer, json, command);
	if (command->start(peer->request) == REQUEST_DONE)
		peer->request->is_done = true;
}

/* Answers until the answer waits, the reader is full, or it is others' turn. */
static void
peer_pump(struct control_peer *peer)
{
	struct evbuffer *in = bufferevent_get_input(peer->bev);
	struct evbuffer *out = bufferevent_get_output(peer->bev);
	size_t len;
	char *line;

	for (unsigned steps = 0;; steps++) {
		struct request *r = peer->request;
		enum request_progress progress;

		if (evbuffer_get_length(out) >= OUTPUT_ENOUGH)
			return; /* on_drained() goes on */
		if (r != NULL && r->is_done) {
			peer->request = NULL;
			request_leave(r);
			continue;
		}
		if (r == NULL) {
			line = peer->is_ending ? NULL : evbuffer_readln(in, &len, EVBUFFER_EOL_LF);
			if (line != NULL) {
				begin(peer, line, len);
				free(line);
				continue;
			}
			if (!peer->is_ending && evbuffer_get_length(in) >= CONTROL_REQUEST_MAX) {
				say_error(peer, "the request is longer than 64 KiB");
				peer->is_ending = true;
			}
			break;
		}
		if (steps >= STEPS_AT_ONCE) {
			request_wake(r);
			return;
		}
		progress = r->command->step(r);
		if (progress == REQUEST_WAIT)
			return;
		r->is_done = progress == REQUEST_DONE;
	}
	if (peer->is_ending && evbuffer_get_length(out) == 0)
		peer_free(peer); /* nobody touches it after peer_pump() */
}

static void
on_readable(struct bufferevent *bev, void *arg)
{
	(void)bev;
	peer_pump(arg);
}

static void
on_drained(struct bufferevent *bev, void *arg)
{
	(void)bev;
	peer_pump(arg);
}

static void
on_again(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	peer_pump(arg);
}

static void
on_hangup(struct bufferevent *bev, short what, void *arg)
{
	struct control_peer *peer = arg;

	(void)bev;
	/* half closed (`echo ... | nc -N`): the answer is still wanted */
	if ((what & BEV_EVENT_EOF) != 0 && (what & BEV_EVENT_WRITING) == 0 &&
	    peer->request != NULL && !peer->is_ending) {
		peer->is_ending = true;
		return;
	}
	if ((what & BEV_EVENT_EOF) != 0 && evbuffer_get_length(bufferevent_get_output(bev)) > 0 &&
	    !peer->is_ending) {
		peer->is_ending = true;
		return;
	}
	peer_free(peer);
}

/* Only root and we ourselves. The refused one gets a line, so that relayctl can say why. */
static bool
may_ask(int fd, struct request_asker *asker)
{
	static const char no[] =
	    "{\"error\":\"only root and the user that relayd runs as may ask here\"}\n";
	struct ucred who = { .uid = (uid_t)-1 };
	socklen_t len = sizeof(who);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 &&
	    (who.uid == 0 || who.uid == geteuid())) {
		*asker = (struct request_asker){ .uid = who.uid, .pid = who.pid };
		return true;
	}
	(void)!send(fd, no, sizeof(no) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	log_warning("control.refused", KV_INT("uid", who.uid), KV_INT("pid", who.pid));
	return false;
}

static void
on_connection(evutil_socket_t listener, short what, void *arg)
{
	struct control *control = arg;
	struct control_peer *peer;
	struct request_asker asker;
	int fd;

	(void)what;
	fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0)
		return; /* level triggered: what is left comes again */
	if (control->n_peers >= PEERS_MOST || !may_ask(fd, &asker)) {
		close(fd);
		return;
	}
	peer = xcalloc(1, sizeof(*peer));
	peer->control = control;
	peer->asker = asker;
	peer->bev = bufferevent_socket_new(control->d->base, fd, BEV_OPT_CLOSE_ON_FREE);
	peer->again = evtimer_new(control->d->base, on_again, peer);
	bufferevent_setcb(peer->bev, on_readable, on_drained, on_hangup, peer);
	bufferevent_setwatermark(peer->bev, EV_READ, 0, CONTROL_REQUEST_MAX);
	bufferevent_setwatermark(peer->bev, EV_WRITE, OUTPUT_ENOUGH / 2, 0);
	bufferevent_set_max_single_write(peer->bev, OUTPUT_ENOUGH);
	DL_APPEND(control->peers, peer);
	control->n_peers++;
	bufferevent_enable(peer->bev, EV_READ | EV_WRITE);
}

/* --- what tests leave behind ------------------------------------------------------------------ */

static void
on_forget(evutil_socket_t fd, short what, void *arg)
{
	struct control *control = arg;
	struct timeval tv = loop_timeval(FORGET_EVERY_MS);
	size_t kept = 0;

	(void)fd;
	(void)what;
	for (size_t i = 0; i < control->n_forget; i++) {
		struct queue_entry *e = queue_find(control->d->queue, control->forget[i]);

		if (e != NULL && !control_remove(control->d, e))
			control->forget[kept++] = control->forget[i];
	}
	control->n_forget = kept;
	if (kept > 0)
		event_add(control->timer, &tv);
}

void
control_forget(struct control *control, uint64_t id)
{
	struct timeval tv = loop_timeval(FORGET_EVERY_MS);

	control->forget =
	    xrealloc(control->forget, control->n_forget + 1, sizeof(control->forget[0]));
	control->forget[control->n_forget++] = id;
	event_add(control->timer, &tv);
}

static bool
on_claim(void *arg, struct queue_entry *e)
{
	struct control *control = arg;
	struct request_list *item;

	DL_FOREACH(control->requests, item)
	if (item->request->command->start == control_test_start &&
	    control_test_claim(item->request, e))
		return true;
	return false;
}

int
control_open(struct delivery *d, int listener_fd, struct control **out)
{
	struct control *control = xcalloc(1, sizeof(*control));

	control->d = d;
	evutil_make_socket_nonblocking(listener_fd);
	control->listener =
	    event_new(d->base, listener_fd, EV_READ | EV_PERSIST, on_connection, control);
	control->timer = evtimer_new(d->base, on_forget, control);
	if (event_add(control->listener, NULL) < 0) {
		event_free(control->listener);
		event_free(control->timer);
		free(control);
		return -ENOMEM;
	}
	d->claim = on_claim;
	d->claim_arg = control;
	*out = control;
	return 0;
}

void
control_close(struct control *control)
{
	struct control_peer *peer, *next;

	if (control == NULL)
		return;
	DL_FOREACH_SAFE(control->peers, peer, next)
	peer_free(peer);
	event_free(control->listener);
	event_free(control->timer);
	control->d->claim = NULL;
	free(control->forget);
}

void
control_free(struct control *control)
{
	free(control);
}
