/* test_dsn_message.c - reports are complete, honest and bounded, whatever the original or the upstream says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/base.h"
#include "smtp/dsn_message.h"

static const struct upstream_reply no_user = { .stage = SMTP_STAGE_RCPT,
	.code = 550,
	.enhanced = "5.1.1",
	.text = "No such user here, and a long story about it that has to be folded somewhere" };

static struct dsn_message
about(const struct dsn_recipient *recipients, size_t n, const char *original)
{
	return (struct dsn_message){ .hostname = "web1.example.com",
		.to = SPAN("bob@example.org"),
		.queue_id = "0123456789ABC",
		.unique = "0123456789ABC.1",
		.now_ms = 1795488000000,
		.arrived_ms = 1795487000000,
		.sender = SPAN("bob@example.org"),
		.recipients = recipients,
		.n_recipients = n,
		.original = span_of(original),
		.original_bytes = strlen(original) };
}

static char *
build(const struct dsn_message *dsn, bool *is_8bit)
{
	char *out, *text;
	size_t len;

	dsn_message_build(dsn, &out, &len, is_8bit);
	assert_true(len <= DSN_MESSAGE_MAX);
	for (size_t i = 0; i < len; i++) { /* clean CRLF, no NUL */
		assert_int_not_equal(out[i], '\0');
		assert_int_equal(out[i] == '\r', i + 1 < len && out[i + 1] == '\n');
	}
	assert_memory_equal(out + len - 2, "\r\n", 2);
	text = xstrndup(out, len);
	free(out);
	return text;
}

static void
has(const char *text, const char *part)
{
	if (strstr(text, part) == NULL)
		fail_msg("missing: %s\nin: %s", part, text);
}

static void
a_failure_is_reported_in_three_parts(void **state)
{
	struct dsn_recipient r = { .action = DSN_FAILED,
		.address = SPAN("ann@example.net"),
		.orcpt = SPAN("rfc822;ann+2Btag@example.net"),
		.remote_mta = "smtp.example.net",
		.reply = &no_user,
		.last_attempt_ms = 1795487500000 };
	struct dsn_message dsn = about(&r, 1, "Subject: hi\r\nFrom: b\r\n\r\nbody\r\n");
	bool is_8bit;
	char *text;

	(void)state;
	dsn.envid = SPAN("env+3D1");
	text = build(&dsn, &is_8bit);
	assert_false(is_8bit);
	has(text, "From: Mail Delivery System <MAILER-DAEMON@web1.example.com>\r\n");
	has(text, "To: <bob@example.org>\r\n");
	has(text, "Auto-Submitted: auto-replied\r\n");
	has(text, "Message-ID: <0123456789ABC.1@web1.example.com>\r\n");
	has(text,
	    "multipart/report; report-type=delivery-status;\r\n\tboundary=\"=_0123456789ABC.1_0\"");
	has(text, "\r\nOriginal-Envelope-Id: env=1\r\nReporting-MTA: dns; web1.example.com\r\n");
	has(text, "\r\n\r\nOriginal-Recipient: rfc822;ann+tag@example.net\r\n"
	          "Final-Recipient: rfc822; ann@example.net\r\nAction: failed\r\nStatus: 5.1.1\r\n"
	          "Remote-MTA: dns; smtp.example.net\r\n"
	          "Diagnostic-Code: smtp; 550 5.1.1 No such user here, and a long story about\r\n"
	          "    it that has to be folded somewhere\r\nLast-Attempt-Date: ");
	has(text,
	    "Content-Type: message/rfc822\r\n\r\nSubject: hi\r\nFrom: b\r\n\r\nbody\r\n\r\n--=_");
	has(text, "0123456789ABC");
	free(text);
}

static void
what_a_peer_says_writes_no_lines_of_its_own(void **state)
{
	struct upstream_reply evil = { .code = 550,
		.text = "a\r\nBcc: x@y\r\n\r\n.\r\n\033[2J\303\244" };
	struct dsn_recipient r = { .action = DSN_FAILED,
		.address = SPAN("a\r\nb@x"),
		.reply = &evil,
		.orcpt = SPAN("rfc822;+0D+0AX-Evil:+201"),
		.remote_mta = "m" };
	struct dsn_message dsn = about(&r, 1, "Subject: x\r\n\r\n--=_0123456789ABC.1_0--\r\n");
	bool is_8bit;
	char *text;

	(void)state;
	text = build(&dsn, &is_8bit);
	assert_null(strstr(text, "\r\nBcc:"));
	assert_null(strstr(text, "\r\nX-Evil"));
	assert_null(strstr(text, "\033"));
	has(text, "Status: 5.0.0\r\n");
	has(text, "boundary=\"=_0123456789ABC.1_1\""); /* not the one in the original */
	has(text, "a??Bcc: x@y????.??\?[2J??");
	assert_false(is_8bit);
	free(text);
}

/* An upstream that refuses 8-bit text (5.6.3, 5.6.7) gets a report without any. */
static void
a_seven_bit_way_gets_seven_bits(void **state)
{
	struct dsn_recipient r = { .action = DSN_FAILED,
		.address = SPAN("j\303\266rg@example.net"),
		.reply = &no_user,
		.remote_mta = "m" };
	struct dsn_message dsn =
	    about(&r, 1, "Subject: gr\303\274n = \r\nX: y\r\n\r\n\303\244\377 end \r\n.\r\n");
	bool is_8bit;
	char *text;

	(void)state;
	text = build(&dsn, &is_8bit);
	assert_true(is_8bit);
	free(text);
	dsn.seven_bit = true;
	text = build(&dsn, &is_8bit);
	assert_false(is_8bit);
	has(text, "Final-Recipient: rfc822; j??rg@example.net\r\n");
	has(text, "Content-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: "
	          "quoted-printable\r\n\r\nSubject: gr=C3=BCn =3D=20\r\nX: y\r\n");
	free(text);
	dsn.utf8 = true;
	text = build(&dsn, &is_8bit);
	assert_false(is_8bit);
	has(text, "Final-Recipient: utf-8; j=C3=B6rg@example.net\r\n");
	has(text, "Content-Type: message/global\r\nContent-Transfer-Encoding: quoted-printable\r\n"
	          "\r\nSubject: gr=C3=BCn =3D=20\r\nX: y\r\n\r\n=C3=A4=FF end=20\r\n.\r\n");
	free(text);
	dsn.to = SPAN("j\303\266rg@example.net");
	text = build(&dsn, &is_8bit);
	assert_true(is_8bit); /* he can only be told with SMTPUTF8 */
	free(text);
}

static void
the_original_comes_back_as_asked_and_never_too_large(void **state)
{
	static const struct {
		enum dsn_action action;
		enum smtp_envelope_ret ret;
		size_t body;
		const char *type;
	} rows[] = {
		{ DSN_FAILED, SMTP_ENVELOPE_RET_NONE, 100, "message/rfc822" },
		{ DSN_FAILED, SMTP_ENVELOPE_RET_FULL, 100, "message/rfc822" },
		{ DSN_FAILED, SMTP_ENVELOPE_RET_HDRS, 100, "text/rfc822-headers" },
		{ DSN_FAILED, SMTP_ENVELOPE_RET_FULL, DSN_ORIGINAL_MAX, "text/rfc822-headers" },
		{ DSN_DELAYED, SMTP_ENVELOPE_RET_FULL, 100, "text/rfc822-headers" },
		{ DSN_RELAYED, SMTP_ENVELOPE_RET_FULL, 100, "text/rfc822-headers" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct dsn_recipient r = { .action = rows[i].action,
			.address = SPAN("a@x"),
			.reply = &no_user,
			.remote_mta = "m",
			.retry_until_ms = 1795499000000 };
		char *original = xcalloc(rows[i].body + 100, 1), *text;
		struct dsn_message dsn;
		bool is_8bit;

		strcpy(original, "Subject: x\r\n\r\n");
		memset(original + strlen(original), 'y', rows[i].body);
		strcat(original, "\r\n");
		dsn = about(&r, 1, original);
		dsn.ret = rows[i].ret;
		text = build(&dsn, &is_8bit);
		has(text, rows[i].type);
		has(text, "Subject: x\r\n");
		assert_int_equal(strstr(text, "yyy") != NULL, rows[i].type[0] == 'm');
		if (rows[i].action == DSN_DELAYED) {
			has(text, "Status: 4.0.0\r\n");
			has(text, "Will-Retry-Until: ");
			has(text, "It is tried again until ");
		}
		free(text);
		free(original);
	}
}

static void
reports_about_utf8_mail_are_global(void **state)
{
	struct dsn_recipient r = { .action = DSN_FAILED,
		.address = SPAN("\303\244@x"),
		.explanation = "It was tried for 5 days." };
	struct dsn_message dsn = about(&r, 1, "Subject: \303\244\r\n\r\n");
	bool is_8bit;
	char *text;

	(void)state;
	dsn.utf8 = true;
	text = build(&dsn, &is_8bit);
	assert_true(is_8bit);
	has(text, "report-type=global-delivery-status");
	has(text,
	    "Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n");
	has(text, "Final-Recipient: utf-8; \303\244@x\r\n");
	has(text, "Diagnostic-Code: x-relayd; It was tried for 5 days.\r\n");
	has(text, "message/global\r\n");
	free(text);
}

static void
many_recipients_and_endless_headers_are_bounded(void **state)
{
	size_t n = 5000;
	struct dsn_recipient *r = xcalloc(n, sizeof(*r));
	char *original = xcalloc(DSN_HEADERS_MAX * 3, 1), *text, address[250];
	struct dsn_message dsn;
	bool is_8bit;

	(void)state;
	memset(address, 'a', sizeof(address));
	for (size_t i = 0; i < n; i++)
		r[i] = (struct dsn_recipient){ .action = DSN_FAILED,
			.reply = &no_user,
			.address = { address, sizeof(address) },
			.remote_mta = "m" };
	while (strlen(original) < DSN_HEADERS_MAX * 2)
		strcat(original,
		    "X-Long: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n");
	dsn = about(r, n, original);
	dsn.original_bytes = 1000000;
	dsn.to_postmaster = true;
	text = build(&dsn, &is_8bit);
	has(text, " more recipients.");
	has(text, "cannot be told");
	assert_true(strlen(text) < DSN_MESSAGE_MAX);
	free(text);
	free(original);
	free(r);
}

static void
dates_are_those_of_rfc_5322(void **state)
{
	char out[DSN_DATE_SIZE];

	(void)state;
	dsn_message_date(1795488000000, out);
	assert_string_equal(out, "Tue, 24 Nov 2026 02:40:00 +0000");
	dsn_message_date(INT64_MAX, out);
	assert_true(strlen(out) < sizeof(out));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_failure_is_reported_in_three_parts),
		cmocka_unit_test(what_a_peer_says_writes_no_lines_of_its_own),
		cmocka_unit_test(a_seven_bit_way_gets_seven_bits),
		cmocka_unit_test(the_original_comes_back_as_asked_and_never_too_large),
		cmocka_unit_test(reports_about_utf8_mail_are_global),
		cmocka_unit_test(many_recipients_and_endless_headers_are_bounded),
		cmocka_unit_test(dates_are_those_of_rfc_5322),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
