/* session.c - see session.h. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/queue_id.h"
#include "intake/message.h"
#include "intake/session_parts.h"

#define OUTBOX_MOST (64u << 10) /* unread replies: then the client is not read any more (I9) */
#define BLOCK_BYTES (64u << 10) /* of a body: what has to come within one deadline */
#define STRESS_ERRORS 2         /* mistakes that a client may make when connections run out */
#define LINGER_BYTES (1u << 20)

#define NOTHING_NEW ((struct span){ NULL, 0 }) /* go on with what is in the inbox */

static void session_pump(struct session *s, struct span in);

struct session *
session_next(const struct session *s)
{
	return s->next;
}

static void
enter(struct session *s, enum session_state state)
{
	static const unsigned from[] = {
		[SESSION_TALKING] = 1u << SESSION_COMMITTING | 1u << SESSION_TALKING,
		[SESSION_COMMITTING] = 1u << SESSION_TALKING,
		[SESSION_FLUSHING] = 1u << SESSION_TALKING,
		[SESSION_LINGERING] = 1u << SESSION_FLUSHING,
	};

	assert(from[state] & 1u << s->state);
	s->state = state;
	s->since_ms = loop_now_ms();
	s->block_bytes = 0;
}

/* ---- output ---- */

static void
outbox_add(struct session *s, struct span text)
{
	struct session_outbox *out = &s->outbox;

	if (s->is_broken || text.len == 0)
		return;
	if (out->len + text.len > out->size) {
		out->size = (out->len + text.len) * 2;
		out->data = xrealloc(out->data, out->size, 1);
	}
	memcpy(out->data + out->len, text.data, text.len);
	out->len += text.len;
}

bool
session_has_output(const struct session *s)
{
	return s->outbox.len > s->outbox.sent;
}

static void
outbox_clear(struct session *s)
{
	free(s->outbox.data);
	s->outbox = (struct session_outbox){ 0 };
}

static void
on_writable(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	session_pump(arg, NOTHING_NEW);
}

static void
break_off(struct session *s, const char *why)
{
	s->is_broken = true;
	if (s->why == NULL)
		s->why = why;
	outbox_clear(s);
}

/* One send() for what the pump has gathered. */
static void
flush(struct session *s)
{
	struct session_outbox *out = &s->outbox;
	ssize_t n;

	if (!session_has_output(s))
		return;
	n = send(s->fd, out->data + out->sent, out->len - out->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		break_off(s, "the client closed the connection");
		return;
	}
	out->sent += n > 0 ? (size_t)n : 0;
	if (!session_has_output(s)) {
		outbox_clear(s);
		s->since_ms = loop_now_ms(); /* it has our words: now it is the client's turn */
		return;
	}
	if (s->writable == NULL)
		s->writable = event_new(s->intake->base, s->fd, EV_WRITE, on_writable, s);
	if (s->writable == NULL || event_add(s->writable, NULL) < 0)
		break_off(s, "out of memory");
}

/* ---- input ---- */

static void
set_reading(struct session *s, bool wanted)
{
	if (wanted == s->is_reading)
		return;
	if ((wanted ? event_add(&s->readable, NULL) : event_del(&s->readable)) < 0)
		break_off(s, "out of memory");
	else
		s->is_reading = wanted;
}

static bool
may_read(const struct session *s)
{
	if (s->is_broken || s->is_eof)
		return false;
	if (s->state == SESSION_LINGERING)
		return true;
	return s->state == SESSION_TALKING && s->inbox.len == 0 &&
	       s->outbox.len - s->outbox.sent < OUTBOX_MOST;
}

static bool
has_unread(const struct session *s)
{
	int n = 0;

	return ioctl(s->fd, FIONREAD, &n) == 0 && n > 0;
}

/* Keeps what the machine has not taken; `in` may point into what is kept already. */
static void
keep_input(struct session *s, struct span in)
{
	struct session_inbox *inbox = &s->inbox;

	if (in.len == 0) {
		free(inbox->data);
		inbox->data = NULL;
	} else if (inbox->data != NULL) {
		memmove(inbox->data, in.data, in.len);
	} else {
		inbox->data = xcalloc(in.len, 1); /* at most INTAKE_READ_BYTES */
		memcpy(inbox->data, in.data, in.len);
	}
	inbox->len = in.len;
}

static void
take_eof(struct session *s, const char *why)
{
	s->is_eof = true;
	if (s->why == NULL)
		s->why = why;
}

/* The event stays with epoll while the disk works, for most clients wait for our reply: only one that
 * sends ahead costs the system call that takes it out. */
static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct session *s = arg;
	struct intake *intake = s->intake;
	ssize_t n;

	(void)what;
	if (!may_read(s)) {
		set_reading(s, false);
		return;
	}
	n = recv(fd, intake->buffer, sizeof(intake->buffer), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n == 0)
		take_eof(s, "the client closed the connection");
	else if (n < 0)
		break_off(s, strerrordesc_np(errno));
	session_pump(s, (struct span){ intake->buffer, n > 0 ? (size_t)n : 0 });
}

/* ---- what the machine asks for ---- */

static void
take_reply(struct session *s)
{
	outbox_add(s, s->smtp.reply);
	s->since_ms = loop_now_ms();
	s->block_bytes = 0;
	session_log_reply(s);
}

static void
begin_message(struct session *s)
{
	const char *refusal = intake_refusal(s->intake, s->smtp.mail.declared_bytes);

	s->is_turned_down = refusal != NULL;
	if (refusal != NULL)
		smtp_server_refuse(&s->smtp, refusal);
	else
		s->message = message_begin(s->intake, s->smtp.mail.declared_bytes);
}

static void
drop_message(struct session *s)
{
	message_drop(s->message);
	s->message = NULL;
}

static void
abort_message(struct session *s)
{
	if (s->why != NULL && s->message != NULL)
		session_log_lost(s);
	drop_message(s);
}

static void
refuse_message(struct session *s, int r)
{
	char reply[512];

	if (r == -EMSGSIZE)
		snprintf(reply, sizeof(reply), "552 5.3.4 message too big for the spool");
	else
		snprintf(reply, sizeof(reply), "452 4.3.1 cannot store the message in %.200s: %s",
		    s->intake->config->spool.directory, strerror(-r));
	s->is_turned_down = r != -EMSGSIZE;
	smtp_server_refuse(&s->smtp, reply);
	drop_message(s);
}

static void
add_chunk(struct session *s)
{
	int r;

	s->block_bytes += s->smtp.chunk.len;
	if (s->block_bytes >= BLOCK_BYTES) {
		s->block_bytes = 0;
		s->since_ms = loop_now_ms();
	}
	if (s->message == NULL)
		return;
	r = message_append(s->message, s->smtp.chunk);
	if (r < 0)
		refuse_message(s, r);
}

/* The disk answered. 0 is the only way to a 250 (I1); where nobody knows, nothing is said (I5). */
static void
on_committed(void *arg, int result)
{
	struct session *s = arg;
	char id[QUEUE_ID_LEN + 1];

	queue_id_print(message_id(s->message), id);
	if (result == 0)
		session_log_accepted(s, loop_now_ms() - s->since_ms);
	s->message = NULL; /* it ends by itself */
	s->is_turned_down = result < 0 && result != -EMSGSIZE;
	enter(s, SESSION_TALKING);
	if (result == -EIO)
		break_off(s, "the spool failed: whether the message is stored is not known");
	else if (result == -EMSGSIZE)
		smtp_server_refuse(&s->smtp, "552 5.3.4 message too big for the spool");
	else
		smtp_server_committed(&s->smtp, result, id);
	session_pump(s, NOTHING_NEW);
}

void
session_give_up_waiting(struct session *s)
{
	session_log_unanswered(s);
	message_let_go(s->message);
	s->message = NULL;
	enter(s, SESSION_TALKING);
	break_off(s, "the disk did not answer in time");
	session_pump(s, NOTHING_NEW);
}

static void
commit_message(struct session *s)
{
	char client[PEER_TEXT_MAX];
	const struct message_origin origin = {
		.peer = &s->peer,
		.client = client,
		.listener = s->listen->address,
		.helo = s->smtp.helo,
		.esmtp = s->smtp.esmtp,
	};
	int r;

	peer_print(&s->peer, client);
	r = message_commit(s->message, &s->smtp.mail, &origin, on_committed, s);
	if (r < 0)
		refuse_message(s, r);
	else
		enter(s, SESSION_COMMITTING);
}

/* False: the machine has nothing more to say about this input. */
static bool
perform(struct session *s, enum smtp_server_action action, bool has_input)
{
	/* clang-format off */
	switch (action) {
	case SMTP_SERVER_MORE:   return has_input;
	case SMTP_SERVER_REPLY:  take_reply(s); return true;
	case SMTP_SERVER_BEGIN:  begin_message(s); return true;
	case SMTP_SERVER_BODY:   add_chunk(s); return true;
	case SMTP_SERVER_ABORT:  abort_message(s); return true;
	case SMTP_SERVER_COMMIT: commit_message(s); return true;
	case SMTP_SERVER_WAIT:   return false;
	case SMTP_SERVER_CLOSE:  enter(s, SESSION_FLUSHING); return false;
	}
	/* clang-format on */
	return false;
}

/* ---- the pump, and the end ---- */

/* Our last words are on their way. After QUIT nobody is sending; else give the client a moment to
 * read them. */
static void
linger(struct session *s)
{
	if (s->state != SESSION_FLUSHING || session_has_output(s))
		return;
	enter(s, SESSION_LINGERING);
	if (s->is_eof ||
	    (s->smtp.command != NULL && strcmp(s->smtp.command, "QUIT") == 0 && s->inbox.len == 0))
		s->is_broken = true;
	else if (shutdown(s->fd, SHUT_WR) < 0)
		break_off(s, "the client closed the connection");
}

static bool
is_over(const struct session *s)
{
	if (s->state == SESSION_COMMITTING)
		return false; /* the message has to be answered, or given up by its deadline */
	if (s->is_broken)
		return true;
	return s->is_eof && !session_has_output(s) &&
	       (s->state != SESSION_TALKING || s->inbox.len == 0);
}

static void
unlink_session(struct session *s)
{
	struct intake *intake = s->intake;

	if (s->previous != NULL)
		s->previous->next = s->next;
	else
		intake->sessions = s->next;
	if (s->next != NULL)
		s->next->previous = s->previous;
	intake->n_sessions--;
	tally_drop(&intake->clients, &s->peer);
	atomic_fetch_sub(&intake->page->sessions_now, 1);
}

static void
session_free(struct session *s)
{
	struct intake *intake = s->intake;

	if (s->message != NULL)
		session_log_lost(s);
	session_log_closed(s);
	drop_message(s);
	event_del(&s->readable);
	if (s->writable != NULL)
		event_free(s->writable);
	close(s->fd);
	unlink_session(s);
	smtp_server_fini(&s->smtp);
	outbox_clear(s);
	free(s->inbox.data);
	free(s);
	intake_settle(intake);
}

static void
discard(struct session *s, struct span in)
{
	s->block_bytes += in.len;
	if (s->block_bytes > LINGER_BYTES)
		s->is_broken = true;
}

/* Feeds the machine until it needs what only time brings. True: it stopped because the client has to
 * read first. */
static bool
feed(struct session *s, struct span in)
{
	bool is_full = in.len == INTAKE_READ_BYTES || !s->is_reading, goes_on = true;

	if (in.len == 0) /* what waited comes first; nothing is read while something waits */
		in = (struct span){ s->inbox.data, s->inbox.len };
	while (goes_on && s->state == SESSION_TALKING && s->outbox.len < OUTBOX_MOST) {
		bool more = is_full && has_unread(s);
		enum smtp_server_action action;
		size_t used = 0;

		action = smtp_server_input(&s->smtp, in, more, &used);
		goes_on = perform(s, action, in.len > used);
		in = span_skip(in, used);
	}
	if (s->state == SESSION_TALKING || s->state == SESSION_COMMITTING)
		keep_input(s, in);
	return goes_on && s->state == SESSION_TALKING;
}

/* Moves the session as far as it goes, with one send() for each batch of replies. Nobody touches s
 * after this. */
static void
session_pump(struct session *s, struct span in)
{
	bool is_blocked;

	if (s->state == SESSION_LINGERING)
		discard(s, in);
	do {
		is_blocked = !s->is_broken && feed(s, in);
		in = NOTHING_NEW;
		flush(s);
	} while (is_blocked && !s->is_broken && !session_has_output(s));
	linger(s);
	if (!s->is_reading && may_read(s))
		set_reading(s, true);
	if (is_over(s))
		session_free(s);
}

void
session_end(struct session *s, const char *reply)
{
	if (s->state != SESSION_TALKING) {
		if (s->state != SESSION_COMMITTING)
			break_off(s, NULL);
		return session_pump(s, NOTHING_NEW);
	}
	if (reply == NULL)
		break_off(s, NULL);
	else
		smtp_server_stop(&s->smtp, reply);
	session_pump(s, NOTHING_NEW);
}

/* ---- the beginning ---- */

static struct smtp_server_options
options_for(const struct intake *intake, const struct config_listen *listen)
{
	const struct config *config = intake->config;
	unsigned errors = config->limits.errors;

	if (intake_is_stressed(intake) && errors > STRESS_ERRORS)
		errors = STRESS_ERRORS;
	return (struct smtp_server_options){
		.hostname = config->hostname,
		.max_message_bytes = config->spool.max_message_bytes,
		.max_recipients = config->limits.recipients,
		.max_errors = errors,
		.max_commands = config->limits.commands,
		.auth_ignore = listen->auth == CONFIG_LISTEN_AUTH_IGNORE,
		.line_end = listen->line_end == CONFIG_LINE_END_REJECT ? SMTP_LINE_END_REJECT
		                                                       : SMTP_LINE_END_NORMALIZE,
		.nul = listen->nul == CONFIG_NUL_SPACE ? SMTP_NUL_SPACE : SMTP_NUL_REJECT,
	};
}

static void
link_session(struct session *s)
{
	struct intake *intake = s->intake;

	s->next = intake->sessions;
	if (s->next != NULL)
		s->next->previous = s;
	intake->sessions = s;
	intake->n_sessions++;
	s->number = ++intake->session_number;
	atomic_fetch_add(&intake->page->sessions_now, 1);
}

void
session_open(struct intake *intake, int fd, const struct peer *peer,
    const struct config_listen *listen, const char *refusal)
{
	struct session *s = xcalloc(1, sizeof(*s));

	s->intake = intake;
	s->fd = fd;
	s->listen = listen;
	s->peer = *peer;
	s->opened_ms = s->since_ms = loop_now_ms();
	link_session(s);
	s->smtp_options = options_for(intake, listen);
	smtp_server_init(&s->smtp, &s->smtp_options);
	event_assign(&s->readable, intake->base, fd, EV_READ | EV_PERSIST, on_readable, s);
	session_log_opened(s);
	if (refusal != NULL) {
		s->why = "the client may not submit";
		smtp_server_stop(&s->smtp, refusal);
	}
	set_reading(s, true);
	session_pump(s, NOTHING_NEW);
}
