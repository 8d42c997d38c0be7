/* session_log.c - what the log says of a session (session.h): each line names the client in the same fields. */
#include <string.h>

#include "base/log.h"
#include "intake/message.h"
#include "intake/session_parts.h"

/* The fields that say who: the same in each line about a session. */
#define KV_WHO(s, client)                                                                          \
	KV_STR("client", client),                                                                  \
	    KV_INT("uid", (s)->peer.uid == PEER_UID_UNKNOWN ? -1 : (int64_t)(s)->peer.uid),        \
	    KV_STR("unit", (s)->peer.unit), KV_STR("listener", (s)->listen->address),              \
	    KV_INT("session", (int64_t)(s)->number)

void
session_log_opened(const struct session *s)
{
	char client[PEER_TEXT_MAX];

	if (!log_is_on(LOG_DEBUG))
		return;
	peer_print(&s->peer, client);
	log_debug("session.opened", KV_WHO(s, client));
}

static bool
is_refusal(const struct session *s)
{
	return s->smtp.reply.data[0] == '4';
}

/* Not the client's fault: the spool took no message, and who sends ahead is told 503 for the rest of it. */
static bool
is_for_the_spool(const struct session *s)
{
	return s->is_turned_down && (is_refusal(s) || memcmp(s->smtp.reply.data, "503", 3) == 0);
}

void
session_log_reply(const struct session *s)
{
	char client[PEER_TEXT_MAX];
	struct span reply = s->smtp.reply;
	enum log_level level = LOG_WARNING;
	bool is_limit;

	if (s->why != NULL || reply.len < 4 || (reply.data[0] != '4' && reply.data[0] != '5'))
		return;
	is_limit = memcmp(reply.data, "421", 3) == 0;
	if (!is_limit)
		atomic_fetch_add(&s->intake->page->rejected, 1);
	if (!is_limit && is_for_the_spool(s))
		level =
		    is_refusal(s) && intake_is_worth_telling(s->intake) ? LOG_WARNING : LOG_DEBUG;
	if (!log_is_on(level))
		return;
	peer_print(&s->peer, client);
	log_event(level, is_limit ? "session.limited" : "message.rejected",
	    LOG_FIELDS(KV_SPAN("reply", ((struct span){ reply.data, reply.len - 2 })),
	        KV_STR("command", s->smtp.command), KV_SPAN("argument", s->smtp.argument),
	        KV_SPAN("sender", s->smtp.mail.sender), KV_WHO(s, client)));
}

void
session_log_accepted(const struct session *s, uint64_t took_ms)
{
	const struct smtp_mail *mail = &s->smtp.mail;
	char client[PEER_TEXT_MAX];

	if (!log_is_on(LOG_INFO))
		return;
	peer_print(&s->peer, client);
	log_info("message.accepted", KV_ID("queue_id", message_id(s->message)),
	    KV_SPAN("sender", mail->sender), KV_SPAN("recipient", mail->recipients[0].address),
	    KV_INT("recipients", (int64_t)mail->n_recipients),
	    KV_INT("size", (int64_t)message_bytes(s->message)), KV_WHO(s, client),
	    KV_MS("delay", (int64_t)took_ms));
}

void
session_log_lost(const struct session *s)
{
	char client[PEER_TEXT_MAX];

	peer_print(&s->peer, client);
	log_info("session.lost", KV_STR("command", s->smtp.command),
	    KV_INT("size", (int64_t)message_bytes(s->message)),
	    KV_SPAN("sender", s->smtp.mail.sender), KV_WHY(s->why), KV_WHO(s, client));
}

void
session_log_unanswered(const struct session *s)
{
	char client[PEER_TEXT_MAX];

	peer_print(&s->peer, client);
	log_error("session.lost", KV_ID("queue_id", message_id(s->message)),
	    KV_SPAN("sender", s->smtp.mail.sender), KV_WHO(s, client),
	    KV_WHY("the disk did not answer in time: the client got no reply and may send the "
	           "message again"));
}

void
session_log_closed(const struct session *s)
{
	char client[PEER_TEXT_MAX];

	if (!log_is_on(LOG_DEBUG))
		return;
	peer_print(&s->peer, client);
	log_debug("session.closed", KV_WHY(s->why), KV_INT("messages", (int64_t)s->smtp.n_messages),
	    KV_WHO(s, client));
}
