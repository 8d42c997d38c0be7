/* control_test.c - `relayctl test`: a message of our own takes the real way (spool, queue, connection,
 * login, journal), on a connection of its own, and everything that happens is told line by line. */
#include <stdlib.h>

#include "base/os.h"
#include "base/queue_id.h"
#include "delivery/control.h"
#include "delivery/notify.h"
#include "delivery/report.h"
#include "delivery/request.h"
#include "delivery/upstream.h"
#include "smtp/dsn_message.h"

struct testing {
	struct request *request;
	uint64_t id;
	struct upstream *upstream;
	struct upstream_watch watch;
	struct link *link;
	bool is_claimed, is_over;
};

static void
say_step(struct testing *t, const char *fmt, const char *what)
{
	char *text = xasprintf("%s%s", fmt, what);

	request_say(t->request,
	    json_pack("{s:s, s:o}", "event", "step", "text", report_text(span_of(text))));
	free(text);
}

static void
on_step(void *arg, const char *text)
{
	say_step(arg, "", text);
}

static void
on_line(void *arg, char direction, struct span line)
{
	struct testing *t = arg;
	char text[2] = { direction, '\0' };

	request_say(t->request, json_pack("{s:s, s:s, s:o}", "event", "dialogue", "direction", text,
	                            "line", report_text(line)));
}

/* What each phase is, for somebody who does not know SMTP. */
static const struct {
	const char *phase, *words;
} phases[] = {
	{ "prepare", "No connection could be begun" },
	{ "resolve", "The upstream's name could not be looked up" },
	{ "connect", "No connection to the upstream" },
	{ "greeting", "Connected, but the upstream did not greet" },
	{ "ehlo", "The upstream refused our greeting" },
	{ "starttls", "Encryption could not be started" },
	{ "tls", "The encrypted connection failed" },
	{ "auth", "The login failed" },
	{ "mail", "The sender was refused" },
	{ "rcpt", "The recipient was refused" },
	{ "data", "The upstream did not want the message" },
	{ "body", "The connection broke while the message was sent" },
	{ "end", "The upstream did not take the message" },
	{ "spool", "The spool could not be used" },
};

static const char *
phase_words(const char *phase)
{
	for (size_t i = 0; i < ARRAY_LEN(phases); i++)
		if (strcmp(phases[i].phase, phase) == 0)
			return phases[i].words;
	return "The test failed";
}

static void
say_verdict(struct testing *t, bool delivered, const char *phase, const char *why, const char *fix)
{
	char id[QUEUE_ID_LEN + 1], *text;

	queue_id_print(t->id, id);
	if (delivered) {
		text = xasprintf("The upstream accepted the message: %s", why);
		request_say(
		    t->request, json_pack("{s:b, s:s, s:s, s:o}", "ok", 1, "id", id, "verdict",
		                    "delivered", "text", report_text(span_of(text))));
	} else {
		text = xasprintf("%s: %s", phase_words(phase), why);
		request_say(
		    t->request, json_pack("{s:o, s:s, s:s, s:o, s:o}", "error",
		                    report_text(span_of(text)), "id", id, "phase", phase, "why",
		                    report_text(span_of(why)), "fix", report_text(span_of(fix))));
	}
	free(text);
}

static void
on_ended(void *arg, bool delivered, const char *phase, const char *why, const char *fix)
{
	struct testing *t = arg;
	struct request *r = t->request;

	if (t->is_over)
		return;
	t->is_over = true;
	t->link = NULL;
	say_verdict(t, delivered, phase, why, fix);
	if (!delivered)
		control_forget(r->control, t->id);
	request_wake(r);
}

bool
control_test_claim(struct request *r, struct queue_entry *e)
{
	struct testing *t = r->state;

	if (t == NULL || t->id != e->id || t->is_claimed)
		return false;
	t->is_claimed = true;
	e->is_watched = true;
	if (t->is_over || r->peer == NULL) {
		control_forget(r->control, e->id);
		return true;
	}
	say_step(
	    t, "the message is in the queue; opening a connection to ", t->upstream->config->host);
	queue_claim(r->d->queue, e);
	t->link = upstream_test(t->upstream, e, &t->watch);
	return true;
}

static void
on_letter(struct letter *letter, int result)
{
	struct request *r = letter->arg;
	struct testing *t = r->state;

	notify_letter_free(letter);
	if (result == 0) {
		say_step(t, "the message is durable in the spool", "");
	} else if (!t->is_over) {
		t->is_over = true;
		say_verdict(
		    t, false, "spool", "the spool cannot be written", "see relayctl status");
	}
	if (request_returned(r))
		request_wake(r);
	/* it is met by the follower like any other message: control_test_claim() */
}

static char *
test_text(const struct delivery *d, const char *sender, const char *recipient, size_t *len)
{
	char date[DSN_DATE_SIZE], *text;

	dsn_message_date((int64_t)os_now_ms(), date);
	text = xasprintf("From: %s\r\n"
	                 "To: %s\r\n"
	                 "Subject: Test from relayd on %s\r\n"
	                 "Date: %s\r\n"
	                 "Message-ID: <relayd-test.%llx.%x@%s>\r\n"
	                 "Auto-Submitted: auto-generated\r\n"
	                 "MIME-Version: 1.0\r\n"
	                 "Content-Type: text/plain; charset=us-ascii\r\n"
	                 "\r\n"
	                 "This is a test: \"relayctl test\" on %s sent it.\r\n"
	                 "If you can read it, mail from that host reaches you.\r\n",
	    sender[0] != '\0' ? sender : "<>", recipient, d->config->hostname, date,
	    (unsigned long long)os_now_ms(), (unsigned)delivery_random(), d->config->hostname,
	    d->config->hostname);
	*len = strlen(text);
	return text;
}

static bool
is_address(const char *text)
{
	size_t len = strlen(text);

	if (len == 0 || len > 254 || strchr(text, '@') == NULL)
		return false;
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] <= ' ' || text[i] == 127 ||
		    strchr("<>\"", text[i]) != NULL)
			return false;
	return true;
}

static char *
default_sender(const struct delivery *d, const struct upstream *u)
{
	if (u->config->username != NULL && is_address(u->config->username))
		return xstrdup(u->config->username);
	if (d->config->postmaster != NULL && is_address(d->config->postmaster))
		return xstrdup(d->config->postmaster);
	return xasprintf("relayd@%s", d->config->hostname);
}

enum request_progress
control_test_start(struct request *r)
{
	struct testing *t = xcalloc(1, sizeof(*t));
	const char *recipient = request_text(r, "recipient"), *name = request_text(r, "upstream");
	int index = name != NULL ? request_upstream(r->d, name) : 0;
	struct letter *letter;
	char *sender, *text;
	size_t len;

	r->state = t;
	t->request = r;
	t->watch = (struct upstream_watch){ on_step, on_line, on_ended, t };
	if (recipient == NULL || !is_address(recipient))
		return request_error(
		    r, "\"%s\" is not an address", recipient != NULL ? recipient : "");
	if (index < 0 || (size_t)index >= r->d->config->n_upstreams)
		return request_error(r, "no upstream \"%s\"", name != NULL ? name : "");
	t->upstream = r->d->upstreams[index];
	sender = request_text(r, "sender") != NULL ? xstrdup(request_text(r, "sender"))
	                                           : default_sender(r->d, t->upstream);
	if (sender[0] != '\0' && !is_address(sender)) {
		(void)request_error(r, "\"%s\" is not an address", sender);
		free(sender);
		return REQUEST_DONE;
	}
	text = test_text(r->d, sender, recipient, &len);
	if (notify_compose(r->d, span_of(sender), span_of(recipient), text, len, false, false,
	        false, &letter) < 0) {
		free(sender);
		return request_error(r, "the message cannot be written");
	}
	free(sender);
	t->id = letter->id;
	letter->done = on_letter;
	letter->arg = r;
	r->pending++;
	notify_submit(letter);
	return REQUEST_AGAIN;
}

enum request_progress
control_test_step(struct request *r)
{
	struct testing *t = r->state;

	return t->is_over ? REQUEST_DONE : REQUEST_WAIT;
}

void
control_test_end(struct request *r)
{
	struct testing *t = r->state;

	if (t->link != NULL) { /* nobody listens any more: the message goes when it is done */
		upstream_unwatch(t->link);
		control_forget(r->control, t->id);
	}
	free(t);
}
