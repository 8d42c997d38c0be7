/* client_flight.c - how much a client session has in flight, by DATA or by BDAT, and when a reply counts:
 * see client.h. */
#include "smtp/client_parts.h"

#define SPECULATE_BYTES (256 * 1024) /* more does not leave before its recipients' replies */

/* ---- how much, and how ---- */

bool
client_is_complete(const struct smtp_client_transaction *t)
{
	return t->over && t->taken == t->sent;
}

/* Those that something is still to be done for: the rest is held, or behind what is. */
unsigned
client_count_under_way(const struct smtp_client *c)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->count; i++)
		n += !client_is_complete(client_nth(c, i));
	return n;
}

static bool
is_chunking(const struct smtp_client *c)
{
	return c->o.chunking && smtp_capability_has(&c->caps, SMTP_CAP_CHUNKING);
}

static unsigned
messages_max(const struct smtp_client *c)
{
	unsigned most = c->o.messages_max;

	if (c->caps.mail_max > 0 && (most == 0 || c->caps.mail_max < most))
		most = c->caps.mail_max;
	return most;
}

bool
client_is_used_up(const struct smtp_client *c)
{
	return messages_max(c) > 0 && c->messages >= messages_max(c);
}

/* Does a flight take more than one message? */
static bool
has_flights(const struct smtp_client *c)
{
	return client_is_pipelining(c) && is_chunking(c) && c->in_step &&
	       c->overlap == SMTP_OVERLAP_PROVEN;
}

/* DATA ends a flight: nothing leaves behind it before its reply. */
static bool
is_flight_closed(const struct smtp_client *c)
{
	const struct smtp_client_transaction *t;

	if (c->count == 0)
		return false;
	t = client_nth(c, c->count - 1);
	return !t->bdat && !t->over && !t->body_wanted && t->sent > client_data_step(t);
}

/* The window bounds what a lost connection may repeat. The last one's body waits for its 354, so it is no
 * part of that. */
static unsigned
room_in_flight(const struct smtp_client *c)
{
	unsigned most = c->o.window + 1, under_way = client_count_under_way(c);
	unsigned left = SMTP_CLIENT_RING - c->count;

	if (is_flight_closed(c) || under_way >= most)
		return 0;
	return most - under_way < left ? most - under_way : left;
}

/* With PIPELINING the next envelope leaves with this body. */
static unsigned
room_by_data(const struct smtp_client *c)
{
	unsigned under_way = client_count_under_way(c);
	const struct smtp_client_transaction *t;

	if (c->count == SMTP_CLIENT_RING)
		return 0;
	if (under_way == 0)
		return 1;
	t = client_nth(c, c->count - 1);
	return client_is_pipelining(c) && c->overlap != SMTP_OVERLAP_NEVER && under_way == 1 &&
	       ((t->body_wanted && t->accepted > 0) || t->over);
}

unsigned
smtp_client_room(const struct smtp_client *c)
{
	unsigned room, most = messages_max(c);

	if (c->stage != SMTP_STAGE_IDLE || c->quitting || c->closing || c->end != SMTP_END_NONE ||
	    client_is_used_up(c))
		return 0;
	if (has_flights(c))
		room = room_in_flight(c);
	else
		room = room_by_data(c);
	if (most > 0 && room > most - c->messages)
		room = most - c->messages;
	return room;
}

/* Does a message that is to leave follow the i-th? */
static bool
is_followed(const struct smtp_client *c, unsigned i)
{
	while (++i < c->count)
		if (!client_nth(c, i)->over)
			return true;
	return false;
}

/* All but the last of a flight do; a large one ends its flight. */
bool
client_goes_by_bdat(const struct smtp_client *c, unsigned i)
{
	return has_flights(c) && is_followed(c, i) &&
	       client_nth(c, i)->envelope->bytes <= SPECULATE_BYTES;
}

/* ---- when a reply counts ---- */

/* Its own 354 shows that what came before its body is in step. */
static bool
has_mark(const struct smtp_client_transaction *t)
{
	return !t->bdat && t->body_wanted;
}

/* Is a reply held that needs a mark? */
bool
client_holds(const struct smtp_client *c)
{
	for (unsigned i = 0; i < c->count; i++)
		if (client_nth(c, i)->held && !has_mark(client_nth(c, i)))
			return true;
	return false;
}

/* What the upstream said of the recipient; NULL: nothing yet. */
static const struct upstream_reply *
heard(const struct smtp_client_transaction *t, size_t i)
{
	if (t->rcpt[i] == SMTP_RCPT_REFUSED)
		return &t->refusals[i];
	return t->all.code != 0 ? &t->all : NULL;
}

static void
give(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	const struct upstream_reply *reply = heard(t, i);

	if (reply != NULL)
		client_give_verdict(
		    c, t, i, reply, reply->code / 100 == 2 ? VERDICT_ACCEPTED : VERDICT_REPLY);
}

/* In step so far: all that is held counts. */
void
client_settle(struct smtp_client *c)
{
	for (unsigned n = 0; n < c->count; n++) {
		struct smtp_client_transaction *t = client_nth(c, n);

		t->held = false;
		for (size_t i = 0; i < t->envelope->n_recipients; i++)
			give(c, t, i);
	}
}

/* The RSET of `t` got its 2xx: no refusal of the BDAT in front of it was pushed there. If one of
 * its recipients was refused, that may be the refusal of the one before: only a mark tells. */
void
client_support(struct smtp_client *c, const struct smtp_client_transaction *t)
{
	struct smtp_client_transaction *before = NULL;

	for (unsigned i = 0; client_nth(c, i) != t; i++)
		if (client_nth(c, i)->sent > 0)
			before = client_nth(c, i);
	if (before != NULL)
		before->supported = before->accepted == before->envelope->n_recipients;
}

/* No mark came. One reply too many moves a refusal to the next recipient, or from the last one to the
 * end, and stands as a 2xx in front of it; no refusal comes from another message, for the RSET. */
static bool
is_certain(const struct smtp_client_transaction *t, size_t i, bool is_behind_2xx)
{
	const struct upstream_reply *reply = heard(t, i);

	if (reply == NULL)
		return false;
	if (has_mark(t) || t->mail_failed || reply->code == 421)
		return true;
	if (reply->code / 100 == 2)
		return t->supported;
	return !is_behind_2xx || (reply == &t->all && i + 1 == t->envelope->n_recipients);
}

/* The session is over. */
void
client_settle_certain(struct smtp_client *c, struct smtp_client_transaction *t)
{
	bool is_behind_2xx = false;

	for (size_t i = 0; i < t->envelope->n_recipients && c->end != SMTP_END_PROTOCOL; i++) {
		is_behind_2xx |= t->rcpt[i] == SMTP_RCPT_ACCEPTED;
		if (is_certain(t, i, is_behind_2xx))
			give(c, t, i);
	}
}

/* And of all others? */
enum verdict
client_verdict_at_end(
    const struct smtp_client *c, const struct smtp_client_transaction *t, uint64_t flushed)
{
	if (c->end == SMTP_END_LOCAL && t->job == c->body_job && t->body_wanted && !t->over)
		return VERDICT_LOCAL;
	if (t->end_offset == 0)
		return VERDICT_UNSENT;
	return client_is_complete(t) || (t->end_offset <= flushed && !c->closed) ? VERDICT_UNKNOWN
	                                                                         : VERDICT_UNSENT;
}
