/* What a refusal means: rows as upstreams really said them (providers.md, RFC 5321, peers). */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/base.h"
#include "delivery/classify.h"

#define UP FAILURE_OF_UPSTREAM
#define MSG FAILURE_OF_MESSAGE
#define RCPT FAILURE_OF_RECIPIENT

/* clang-format off */
static const struct row {
	enum smtp_stage stage;
	int code;
	const char *enhanced, *text;
	enum failure_class class;
	enum failure_scope scope;
	enum breaker_cause cause; /* with UP */
} rows[] = {
	/* the digits of RFC 5321 */
	{ SMTP_STAGE_RCPT, 450, "4.2.1", "Mailbox busy",                      FAILURE_TEMPORARY, RCPT, 0 },
	{ SMTP_STAGE_RCPT, 451, "4.7.1", "Greylisting in action, come back",  FAILURE_TEMPORARY, RCPT, 0 },
	{ SMTP_STAGE_RCPT, 550, "5.1.1", "No such user here",                 FAILURE_PERMANENT, RCPT, 0 },
	{ SMTP_STAGE_RCPT, 556, "5.1.10", "null MX",                          FAILURE_PERMANENT, RCPT, 0 },
	{ SMTP_STAGE_MAIL, 451, "",      "local error",                       FAILURE_TEMPORARY, MSG, 0 },
	{ SMTP_STAGE_DATA, 554, "5.5.1", "no valid recipients",               FAILURE_PERMANENT, MSG, 0 },
	{ SMTP_STAGE_END,  452, "4.3.1", "insufficient system storage",       FAILURE_TEMPORARY, MSG, 0 },
	{ SMTP_STAGE_END,  552, "5.3.4", "message too big",                   FAILURE_PERMANENT, MSG, 0 },
	{ SMTP_STAGE_END,  554, "5.7.1", "looks like spam",                   FAILURE_PERMANENT, MSG, 0 },
	/* what is wrong with us, and not with the message */
	{ SMTP_STAGE_RCPT, 554, "5.7.1", "<vm[192.0.2.1]>: Client host rejected: Access denied", FAILURE_OPERATOR, UP, BREAKER_OPERATOR },
	{ SMTP_STAGE_END,  550, "5.7.1", "Service unavailable; Client host [192.0.2.1] blocked using zen.example", FAILURE_OPERATOR, UP, BREAKER_OPERATOR },
	{ SMTP_STAGE_MAIL, 550, "5.7.708", "Service unavailable. Access denied, traffic not accepted from this IP.", FAILURE_OPERATOR, UP, BREAKER_OPERATOR },
	{ SMTP_STAGE_MAIL, 550, "5.7.501", "Service unavailable. Access denied, banned sender", FAILURE_OPERATOR, UP, BREAKER_OPERATOR },
	{ SMTP_STAGE_MAIL, 550, "",      "Credits exhausted",                 FAILURE_OPERATOR, UP, BREAKER_OPERATOR },
	{ SMTP_STAGE_END,  550, "5.7.60", "SMTP; Client does not have permissions to send as this sender", FAILURE_OPERATOR, MSG, BREAKER_OPERATOR },
	{ SMTP_STAGE_RCPT, 550, "",      "Domain x.example has exceeded the max emails per hour (101/100) allowed. Message discarded.", FAILURE_PACE, UP, BREAKER_NETWORK },
	{ SMTP_STAGE_END,  554, "5.3.0", "Server configuration problem",      FAILURE_TEMPORARY, MSG, 0 },
	/* and what is with it: the link in its body, the recipient's own rules */
	{ SMTP_STAGE_END,  554, "5.7.1", "Message contains a URL listed in a blocklist", FAILURE_PERMANENT, MSG, 0 },
	{ SMTP_STAGE_RCPT, 550, "5.7.1", "Recipient does not accept mail from strangers", FAILURE_PERMANENT, RCPT, 0 },
	{ SMTP_STAGE_END,  550, "5.7.1", "Message refused by content filter, ask your hosting provider", FAILURE_PERMANENT, MSG, 0 },
	{ SMTP_STAGE_END,  550, "5.7.1", "Sent from your iPhone? Looks like spam", FAILURE_PERMANENT, MSG, 0 },
	{ SMTP_STAGE_MAIL, 550, "5.7.23", "SPF: sending IP is not permitted for bad.example", FAILURE_PERMANENT, MSG, 0 },
	{ SMTP_STAGE_RCPT, 554, "5.7.1", "Service unavailable; Sender address [a@bad.example] blocked using dbl.example", FAILURE_PERMANENT, RCPT, 0 },
	{ SMTP_STAGE_RCPT, 550, "",      "mail server of y.example is misconfigured", FAILURE_PERMANENT, RCPT, 0 },
	{ SMTP_STAGE_END,  550, "",      "Blocked by DMARC policy (misconfigured SPF for the sender's domain)", FAILURE_PERMANENT, MSG, 0 },
	{ SMTP_STAGE_MAIL, 550, "5.7.1", "rejected: \"Account blocked\"",      FAILURE_OPERATOR, UP, BREAKER_OPERATOR },
	/* our own words sent back, and those of a third server */
	{ SMTP_STAGE_RCPT, 550, "5.1.1", "<hourly-limit.daily@x.example>: User unknown", FAILURE_PERMANENT, RCPT, 0 },
	{ SMTP_STAGE_RCPT, 550, "5.1.1", "<\"client host rejected\"@x.example>: User unknown", FAILURE_PERMANENT, RCPT, 0 },
	{ SMTP_STAGE_RCPT, 550, "5.1.1", "\"client host rejected: no credit\"@x.example: User unknown", FAILURE_PERMANENT, RCPT, 0 },
	{ SMTP_STAGE_RCPT, 550, "5.1.1", "no-credit.out-of-credit@x.example unknown", FAILURE_PERMANENT, RCPT, 0 },
	{ SMTP_STAGE_RCPT, 550, "5.1.1", "<a@x.example>: Recipient address rejected: undeliverable address: host mx.x.example said: 550 Client host [192.0.2.1] blocked using zen", FAILURE_PERMANENT, RCPT, 0 },
	/* our account, or the recipient's */
	{ SMTP_STAGE_MAIL, 550, "5.7.1", "Account blocked, contact support",  FAILURE_OPERATOR, UP, BREAKER_OPERATOR },
	{ SMTP_STAGE_MAIL, 550, "",      "Your account is locked",            FAILURE_OPERATOR, UP, BREAKER_OPERATOR },
	{ SMTP_STAGE_END,  554, "5.7.1", "This account is suspended",         FAILURE_OPERATOR, UP, BREAKER_OPERATOR },
	{ SMTP_STAGE_RCPT, 550, "5.2.1", "User account is disabled",          FAILURE_PERMANENT, RCPT, 0 },
	/* 552 on RCPT is temporary (RFC 5321 4.5.3.1.10) */
	{ SMTP_STAGE_RCPT, 552, "",      "too many recipients",               FAILURE_TEMPORARY, RCPT, 0 },
	{ SMTP_STAGE_RCPT, 552, "5.2.2", "mailbox full",                      FAILURE_TEMPORARY, RCPT, 0 },
	{ SMTP_STAGE_RCPT, 452, "4.5.3", "too many recipients",               FAILURE_TEMPORARY, RCPT, 0 },
	/* a session that ends */
	{ SMTP_STAGE_GREETING, 421, "",  "Service not available",             FAILURE_TEMPORARY, UP, BREAKER_NETWORK },
	{ SMTP_STAGE_RCPT, 421, "4.3.2", "shutting down",                     FAILURE_TEMPORARY, UP, BREAKER_NETWORK },
	{ SMTP_STAGE_GREETING, 554, "",  "No SMTP service here",              FAILURE_OPERATOR, UP, BREAKER_OPERATOR },
	{ SMTP_STAGE_EHLO, 421, "4.7.0", "Try again later, closing connection.", FAILURE_PACE, UP, BREAKER_NETWORK },
	/* the login: a password is never a bounce */
	{ SMTP_STAGE_AUTH, 535, "5.7.8", "Username and Password not accepted", FAILURE_OPERATOR, UP, BREAKER_PASSWORD },
	{ SMTP_STAGE_AUTH, 535, "5.7.139", "Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant", FAILURE_OPERATOR, UP, BREAKER_PASSWORD },
	{ SMTP_STAGE_AUTH, 534, "5.7.9", "Application-specific password required", FAILURE_OPERATOR, UP, BREAKER_PASSWORD },
	{ SMTP_STAGE_AUTH, 550, "5.7.30", "Basic authentication is not supported for Client Submission", FAILURE_OPERATOR, UP, BREAKER_PASSWORD },
	{ SMTP_STAGE_AUTH, 432, "4.7.12", "a password transition is needed",  FAILURE_OPERATOR, UP, BREAKER_PASSWORD },
	{ SMTP_STAGE_AUTH, 454, "4.7.0", "Too many login attempts, please try again later", FAILURE_OPERATOR, UP, BREAKER_PASSWORD },
	{ SMTP_STAGE_AUTH, 454, "4.7.0", "Temporary authentication failure",  FAILURE_TEMPORARY, UP, BREAKER_NETWORK },
	{ SMTP_STAGE_AUTH, 432, "4.3.2", "Concurrent connections limit exceeded", FAILURE_PACE, UP, BREAKER_NETWORK },
	{ SMTP_STAGE_AUTH, 451, "",      "Authentication failed: Maximum credits exceeded", FAILURE_OPERATOR, UP, BREAKER_OPERATOR }, /* SendGrid */
	{ SMTP_STAGE_AUTH, 535, "",      "Authentication Failed: credit expired", FAILURE_OPERATOR, UP, BREAKER_OPERATOR },          /* ZeptoMail */
	{ SMTP_STAGE_MAIL, 530, "5.7.0", "Authentication Required",           FAILURE_OPERATOR, UP, BREAKER_PASSWORD },
	{ SMTP_STAGE_RCPT, 535, "5.7.0", "Not logged in",                     FAILURE_OPERATOR, UP, BREAKER_PASSWORD },
	{ SMTP_STAGE_MAIL, 530, "5.7.57", "Client not authenticated to send mail", FAILURE_OPERATOR, UP, BREAKER_PASSWORD },
	/* too fast */
	{ SMTP_STAGE_END,  454, "",      "Throttling failure: Maximum sending rate exceeded.", FAILURE_PACE, UP, BREAKER_NETWORK },   /* SES */
	{ SMTP_STAGE_RCPT, 450, "4.2.1", "Peak SMTP relay limit exceeded for customer", FAILURE_PACE, UP, BREAKER_NETWORK },          /* Google */
	{ SMTP_STAGE_MAIL, 421, "4.7.28", "unusual rate of mail",             FAILURE_PACE, UP, BREAKER_NETWORK },
	{ SMTP_STAGE_END,  432, "4.3.2", "STOREDRV.ClientSubmit; sender thread limit exceeded", FAILURE_PACE, UP, BREAKER_NETWORK }, /* M365 */
	/* enough for today: kept, whatever the digits say */
	{ SMTP_STAGE_END,  454, "",      "Throttling failure: Daily message quota exceeded.", FAILURE_OPERATOR, UP, BREAKER_OPERATOR },
	{ SMTP_STAGE_END,  550, "5.4.5", "Daily user sending limit exceeded", FAILURE_OPERATOR, UP, BREAKER_OPERATOR },
	{ SMTP_STAGE_RCPT, 550, "5.7.1", "Daily SMTP relay limit exceeded for customer", FAILURE_OPERATOR, UP, BREAKER_OPERATOR },
	{ SMTP_STAGE_END,  554, "5.2.0", "STOREDRV.Submission.Exception:SubmissionQuotaExceededException", FAILURE_OPERATOR, UP, BREAKER_OPERATOR },
	{ SMTP_STAGE_END,  554, "5.2.2", "mailbox full",                      FAILURE_OPERATOR, UP, BREAKER_OPERATOR }, /* the account's own */
	/* this sender is not ours: others may go on */
	{ SMTP_STAGE_END,  554, "5.2.0", "STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied", FAILURE_OPERATOR, MSG, 0 },
	{ SMTP_STAGE_END,  554, "",      "Message rejected: Email address is not verified.", FAILURE_OPERATOR, MSG, 0 },
	{ SMTP_STAGE_MAIL, 403, "",      "You are not authorized to send from that email address", FAILURE_OPERATOR, MSG, 0 },
	{ SMTP_STAGE_MAIL, 553, "5.7.1", "Sender address rejected: not owned by user", FAILURE_OPERATOR, MSG, 0 },
	{ SMTP_STAGE_RCPT, 553, "",      "Relaying disallowed as me@example.com", FAILURE_OPERATOR, MSG, 0 },
	{ SMTP_STAGE_RCPT, 554, "5.7.1", "<a@b>: Relay access denied",         FAILURE_OPERATOR, MSG, 0 },
	/* nonsense waits: it is never a success and never a bounce (row 32) */
	{ SMTP_STAGE_RCPT, 199, "",      "",                                  FAILURE_TEMPORARY, MSG, 0 },
	{ SMTP_STAGE_END,  354, "",      "go on",                             FAILURE_TEMPORARY, MSG, 0 },
	{ SMTP_STAGE_MAIL, 0,   "",      "",                                  FAILURE_TEMPORARY, MSG, 0 },
	{ SMTP_STAGE_DATA, 503, "5.5.1", "bad sequence of commands",          FAILURE_TEMPORARY, MSG, 0 },
};
/* clang-format on */

static struct upstream_reply
reply_of(const struct row *row)
{
	struct upstream_reply reply = { .stage = row->stage, .code = row->code };

	snprintf(reply.enhanced, sizeof(reply.enhanced), "%s", row->enhanced);
	snprintf(reply.text, sizeof(reply.text), "%s", row->text);
	return reply;
}

static void
each_refusal_has_its_class(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct upstream_reply reply = reply_of(&rows[i]);
		struct failure f = classify(&reply);

		if (f.class != rows[i].class || f.scope != rows[i].scope ||
		    (f.scope == UP && f.cause != rows[i].cause))
			fail_msg("%s %d %s %s: %s, scope %d, cause %d",
			    smtp_stage_name(reply.stage), reply.code, reply.enhanced, reply.text,
			    classify_class_name(f.class), f.scope, f.cause);
	}
}

static void
what_an_operator_can_mend_names_what_to_change(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct upstream_reply reply = reply_of(&rows[i]);
		struct failure f = classify(&reply);

		assert_non_null(f.fix);
		if (f.class == FAILURE_OPERATOR)
			assert_true(strlen(f.fix) > 10);
	}
}

static void
too_many_recipients_are_split(void **state)
{
	struct upstream_reply reply = { .stage = SMTP_STAGE_RCPT, .code = 452 };

	(void)state;
	strcpy(reply.enhanced, "4.5.3");
	assert_true(classify(&reply).is_split);
	strcpy(reply.enhanced, "4.2.2");
	assert_false(classify(&reply).is_split);
	reply = (struct upstream_reply){ .stage = SMTP_STAGE_RCPT, .code = 552 };
	assert_true(classify(&reply).is_split);
}

static void
any_reply_at_any_stage_gets_an_answer(void **state)
{
	struct upstream_reply reply = { 0 };

	(void)state;
	for (int stage = SMTP_STAGE_NONE; stage <= SMTP_STAGE_QUIT; stage++)
		for (int code = -1; code <= 1000; code++) {
			reply.stage = (enum smtp_stage)stage;
			reply.code = code;
			/* before anything was sent nothing can be the message's fault */
			if (stage < SMTP_STAGE_IDLE && code >= 400 && code <= 599 &&
			    stage >= SMTP_STAGE_GREETING)
				assert_int_equal(classify(&reply).scope, FAILURE_OF_UPSTREAM);
			if (code < 400 || code > 599)
				assert_int_equal(classify(&reply).class, FAILURE_TEMPORARY);
		}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_refusal_has_its_class),
		cmocka_unit_test(what_an_operator_can_mend_names_what_to_change),
		cmocka_unit_test(too_many_recipients_are_split),
		cmocka_unit_test(any_reply_at_any_stage_gets_an_answer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
