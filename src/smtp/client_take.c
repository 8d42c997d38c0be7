/* client_take.c - what comes back to a client session: each reply goes to the oldest unanswered command, and
 * what is no answer to it ends the session. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "smtp/client_parts.h"

void
client_take_greeting(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	if (c->reply.code / 100 != 2)
		client_end_by_reply(
		    c, SMTP_END_REPLY, "the upstream turned us away at its greeting");
	else
		c->todo = SMTP_STAGE_EHLO;
}

void
client_take_ehlo(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	bool may_helo = c->o.tls == CONFIG_TLS_NONE && c->o.auth == NULL && !c->helo;

	(void)t, (void)i;
	if (c->reply.code / 100 != 2) {
		if (c->reply.code / 100 == 5 && may_helo) {
			c->helo = true;
			c->todo = SMTP_STAGE_EHLO;
			return;
		}
		client_end_by_reply(c, SMTP_END_REPLY, "the upstream refused our EHLO");
		return;
	}
	if (c->o.tls == CONFIG_TLS_STARTTLS && !c->secured) {
		if (smtp_capability_has(&c->caps, SMTP_CAP_STARTTLS)) {
			c->todo = SMTP_STAGE_STARTTLS;
			return;
		}
		smtp_trouble_why(
		    &c->trouble, "the upstream does not offer STARTTLS; nothing was sent in clear");
		smtp_trouble_fix(&c->trouble,
		    "check host and port: 587 has STARTTLS, 465 wants tls = "
		    "implicit; tls = none only on a network you trust");
		client_end(c, SMTP_END_NO_STARTTLS);
		return;
	}
	c->stage = SMTP_STAGE_IDLE;
	if (c->o.auth != NULL)
		c->todo = SMTP_STAGE_AUTH;
}

void
client_take_starttls(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	if (c->reply.code / 100 == 2)
		c->start_tls = true;
	else if (c->reply.code == 421)
		client_end_by_reply(c, SMTP_END_REPLY, "the upstream closed the session");
	else
		client_end_by_reply(c, SMTP_END_NO_STARTTLS,
		    "the upstream refused STARTTLS; nothing was sent in clear");
}

void
client_take_auth(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	if (c->auth_cancelled) {
		c->end_reply = c->reply;
		client_end(c, SMTP_END_AUTH);
	} else if (c->reply.code == 334) {
		c->todo = SMTP_STAGE_AUTH;
	} else if (c->reply.code / 100 == 3) {
		client_protocol_error(c, "a reply that cannot follow AUTH");
	} else if (c->reply.code / 100 != 2) {
		client_end_by_reply(c, c->reply.code == 421 ? SMTP_END_REPLY : SMTP_END_AUTH,
		    "the upstream refused the login");
	} else if (!c->o.auth->finish(c->o.auth, &c->trouble)) {
		c->end_reply = c->reply;
		client_end(c, SMTP_END_AUTH);
	} else {
		c->stage = SMTP_STAGE_IDLE;
		c->parser.line_max = SMTP_REPLY_LINE_MAX;
	}
}

void
client_take_quit(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)t, (void)i;
	if (c->reply.code == 221)
		client_settle(c);
	else if (c->reply.code / 100 == 2 || (c->reply.code != 421 && client_holds(c)))
		client_out_of_step(c, "no 221 to QUIT");
	client_end(c, SMTP_END_QUIT);
}

void
client_take_rset(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)i;
	if (c->reply.code / 100 != 2 && c->reply.code != 421)
		client_out_of_step(c, "RSET refused");
	else if (c->reply.code != 421)
		client_support(c, t);
}

/* Its verdicts are given at the next mark. */
static void
hold(struct smtp_client *c, struct smtp_client_transaction *t)
{
	t->all = c->reply;
	t->held = true;
}

void
client_take_mail(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)i;
	if (c->reply.code / 100 == 3) {
		client_out_of_step(c, "a 3xx reply to MAIL");
	} else if (c->reply.code / 100 != 2) {
		t->mail_failed = true;
		hold(c, t);
	}
}

void
client_take_rcpt(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	if (c->reply.code / 100 == 3) {
		client_out_of_step(c, "a 3xx reply to RCPT");
	} else if (t->mail_failed) {
		return; /* that is its answer */
	} else if (c->reply.code / 100 == 2) {
		t->rcpt[i] = SMTP_RCPT_ACCEPTED;
		t->accepted++;
	} else {
		if (t->refusals == NULL)
			t->refusals = xcalloc(t->envelope->n_recipients, sizeof(*t->refusals));
		t->refusals[i] = c->reply;
		t->rcpt[i] = SMTP_RCPT_REFUSED;
		t->held = true;
	}
}

void
client_take_data(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	(void)i;
	if (c->reply.code / 100 == 3) {
		t->body_wanted = true;
		c->in_step = true;
		c->offered = false; /* the next envelopes may travel with this body */
		client_settle(c);
	} else if (c->reply.code / 100 == 2) {
		client_out_of_step(c, "a 2xx reply to DATA");
	} else {
		if (t->accepted > 0)
			hold(c, t);
		t->over = true;
		c->offered = false; /* is there more, with a mark for what is held? */
	}
}

/* More input, though nothing more was asked? A 421 may come at any time. */
static bool
is_followed_by_nonsense(const struct smtp_client *c)
{
	return c->input_left.len > 0 && memcmp(c->input_left.data, "421",
	                                    c->input_left.len < 3 ? c->input_left.len : 3) != 0;
}

void
client_take_end(struct smtp_client *c, struct smtp_client_transaction *t, size_t i)
{
	int class = c->reply.code / 100;

	(void)i;
	if (class == 3 || (class == 2 && t->end_offset == 0)) {
		client_out_of_step(c, class == 3 ? "a 3xx reply to the end of the message"
		                                 : "success before the end of the message");
	} else if (t->accepted > 0) {
		c->served += class == 2;
		hold(c, t);
	}
}

/* Nothing more was asked. Then what went by DATA counts if nothing more has come: one reply too many
 * would credit it with the answer to another command. */
static void
settle_when_quiet(struct smtp_client *c)
{
	if (client_oldest_unanswered(c) != NULL || client_holds(c))
		return;
	for (unsigned i = 0; i < c->count; i++) {
		if (!client_nth(c, i)->held)
			continue;
		if (is_followed_by_nonsense(c))
			client_out_of_step(c, "more replies than commands");
		else
			client_settle(c);
		return;
	}
}

/* A reply to nothing. 421 is always allowed (RFC 5321 3.8); a refusal in the middle of DATA's body
 * is rude but clear; everything else means that replies and commands are out of step. */
static void
take_unasked(struct smtp_client *c)
{
	struct smtp_client_transaction *t = c->count > 0 ? client_nth(c, 0) : NULL;
	bool in_body = t != NULL && t->body_wanted && !t->over && !t->bdat;

	c->reply.stage = in_body ? SMTP_STAGE_BODY : SMTP_STAGE_IDLE;
	if (in_body && c->reply.code >= 400) {
		client_give_verdicts(c, t, &c->reply, VERDICT_REPLY);
		client_end_by_reply(c, SMTP_END_REPLY, "the upstream interrupted the message");
	} else if (c->reply.code == 421) {
		client_end_by_reply(c, c->count == 0 ? SMTP_END_IDLE : SMTP_END_REPLY,
		    "the upstream closed the session");
	} else {
		client_out_of_step(c, c->served == 0
		                          ? "a reply although nothing was asked"
		                          : "a reply although nothing was asked (one that counted "
		                            "before may have been the answer to another command)");
	}
}

static void
take_421(struct smtp_client *c)
{
	if (c->end != SMTP_END_NONE || c->closing)
		return;
	c->closing = true;
	c->end_reply = c->reply;
	smtp_trouble_why(&c->trouble, "the upstream closed the session: 421 %s%s%s",
	    c->reply.enhanced, c->reply.enhanced[0] != '\0' ? " " : "", c->reply.text);
}

static void
take_transaction_reply(struct smtp_client *c, struct smtp_client_transaction *t)
{
	size_t step = t->taken++;

	if (t->overlapped && c->overlap == SMTP_OVERLAP_TRY && c->reply.code != 421)
		c->overlap = SMTP_OVERLAP_PROVEN;
	c->reply.stage = client_stage_of(t, step);
	client_stages[c->reply.stage].take(
	    c, t, c->reply.stage == SMTP_STAGE_RCPT ? step - client_mail_step(t) - 1 : 0);
	if (c->end == SMTP_END_NONE)
		client_skip_unsent(t);
	if (c->end == SMTP_END_NONE)
		settle_when_quiet(c);
	if (c->end != SMTP_END_NONE) /* out of step: smtp_client_abandon() gives what is left */
		return;
	if (c->reply.code == 421)
		take_421(c);
	client_finish_complete(c);
	if (c->closing && client_oldest_unanswered(c) == NULL)
		client_end(c, SMTP_END_REPLY);
}

static void
take_reply(struct smtp_client *c)
{
	struct smtp_client_transaction *t = client_oldest_unanswered(c);

	c->replies++;
	if (c->stage != SMTP_STAGE_IDLE || c->todo != SMTP_STAGE_NONE) {
		c->reply.stage = c->stage;
		if (!c->awaiting || c->todo != SMTP_STAGE_NONE || c->start_tls) {
			client_protocol_error(c, "more than one reply to one command");
			return;
		}
		c->awaiting = false;
		client_stages[c->stage].take(c, NULL, 0);
	} else if (t != NULL) {
		take_transaction_reply(c, t);
	} else {
		take_unasked(c);
	}
}

static void
hide(struct smtp_client *c, char *text)
{
	if (c->stage == SMTP_STAGE_AUTH && c->o.auth->hide != NULL)
		c->o.auth->hide(c->o.auth, text);
}

static void
trace_line(struct smtp_client *c)
{
	char text[600];
	size_t n = (size_t)snprintf(
	    text, sizeof(text), "%03d%c", c->parser.code, c->parser.is_last ? ' ' : '-');

	smtp_reply_clean(c->parser.line, text + n, sizeof(text) - n);
	hide(c, text);
	client_trace(c, '<', span_of(text));
}

static void
take_line(struct smtp_client *c)
{
	bool first = !c->reply_begun;

	c->reply_begun = !c->parser.is_last;
	smtp_reply_collect(&c->reply, &c->parser, first);
	hide(c, c->reply.text);
	if (c->stage == SMTP_STAGE_EHLO && c->awaiting && !c->helo && !first &&
	    c->reply.code / 100 == 2)
		smtp_capability_line(&c->caps, c->parser.line);
	if (c->o.trace != NULL)
		trace_line(c);
	if (c->parser.is_last)
		take_reply(c);
}

void
smtp_client_input(struct smtp_client *c, struct span in)
{
	size_t used;

	assert(c->secured || c->o.tls != CONFIG_TLS_IMPLICIT);
	while (in.len > 0 && c->end == SMTP_END_NONE) {
		enum smtp_reply_event event;

		if (c->start_tls) { /* CVE-2011-0411 the other way round: injected before TLS */
			client_protocol_error(c, "bytes in clear after agreeing to STARTTLS");
			return;
		}
		event = smtp_reply_input(&c->parser, in, &used);
		in = span_skip(in, used);
		c->input_left = in;
		if (event == SMTP_REPLY_LINE)
			take_line(c);
		else if (event == SMTP_REPLY_BAD)
			client_protocol_error(c, c->parser.problem);
	}
}
