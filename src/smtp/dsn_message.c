/* dsn_message.c - a report in three parts: for people, for programs, and what it is about. Everything
 * that came from a peer passes clean() on its way in: a reply with a line end in it would otherwise
 * write headers of its own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "smtp/buffer.h"
#include "smtp/dsn_message.h"

#define FOLD_COLUMNS 76
#define LISTED_BYTES_MAX (DSN_MESSAGE_MAX / 4) /* of recipients, in each of the two parts */

/* clang-format off */
static const struct wording {
	const char *action, *subject, *text;
} wordings[] = {
	[DSN_FAILED]  = { "failed", "Mail could not be delivered",
	                  "Your message could not be delivered to the recipients below. It will not be\r\n"
	                  "tried again." },
	[DSN_DELAYED] = { "delayed", "Mail is delayed",
	                  "Your message could not be delivered to the recipients below yet. It is kept and\r\n"
	                  "tried again; you need not send it again." },
	[DSN_RELAYED] = { "relayed", "Mail was relayed",
	                  "Your message was handed to the mail server below, which does not send reports\r\n"
	                  "of delivery. No further notice will come from here." },
};
/* clang-format on */

void
dsn_message_date(int64_t realtime_ms, char out[DSN_DATE_SIZE])
{
	static const char days[] = "SunMonTueWedThuFriSat";
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	time_t t = (time_t)(realtime_ms / 1000);
	struct tm tm = { 0 };

	gmtime_r(&t, &tm);
	snprintf(out, DSN_DATE_SIZE, "%.3s, %d %.3s %04d %02d:%02d:%02d +0000",
	    days + 3 * tm.tm_wday, tm.tm_mday, months + 3 * tm.tm_mon, (tm.tm_year + 1900) % 10000,
	    tm.tm_hour, tm.tm_min, tm.tm_sec);
}

/* ---- words from elsewhere ---- */

static void
make_ascii(char *text)
{
	for (; *text != '\0'; text++)
		if ((unsigned char)*text >= 0x80)
			*text = '?';
}

/* One line's worth of `in`: no control bytes, valid UTF-8, and ASCII only unless the DSN may be more. */
static void
clean(const struct dsn_message *dsn, struct span in, char *out, size_t size)
{
	smtp_reply_clean(in, out, size);
	if (!dsn->utf8)
		make_ascii(out);
}

static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* RFC 3461 4: +XX is a byte. What is not xtext is taken as it stands. */
static void
clean_xtext(const struct dsn_message *dsn, struct span in, char *out, size_t size)
{
	char raw[600];
	size_t n = 0;

	for (size_t i = 0; i < in.len && n < sizeof(raw); i++) {
		if (in.data[i] == '+' && i + 2 < in.len && hex_value(in.data[i + 1]) >= 0 &&
		    hex_value(in.data[i + 2]) >= 0) {
			raw[n++] =
			    (char)(hex_value(in.data[i + 1]) * 16 + hex_value(in.data[i + 2]));
			i += 2;
		} else {
			raw[n++] = in.data[i];
		}
	}
	clean(dsn, (struct span){ raw, n }, out, size);
}

/* Adds text in lines of at most FOLD_COLUMNS (where it has spaces), each later one indented. */
static void
add_folded(struct smtp_buffer *b, const char *text, const char *indent, size_t column)
{
	for (bool first = true; *text != '\0'; first = false) {
		size_t len;

		text += strspn(text, " ");
		len = strcspn(text, " ");
		if (!first && column + 1 + len > FOLD_COLUMNS) {
			smtp_buffer_printf(b, "\r\n%s", indent);
			column = strlen(indent);
		} else if (!first && len > 0) {
			smtp_buffer_add(b, SPAN(" "));
			column++;
		}
		smtp_buffer_add(b, (struct span){ text, len });
		column += len;
		text += len;
	}
	smtp_buffer_add(b, SPAN("\r\n"));
}

static bool
has_reply(const struct dsn_recipient *r)
{
	return r->reply != NULL && r->reply->code != 0;
}

static void
reply_text(const struct dsn_message *dsn, const struct dsn_recipient *r, char *out, size_t size)
{
	char raw[600];

	snprintf(raw, sizeof(raw), "%d %s%s%s", r->reply->code, r->reply->enhanced,
	    r->reply->enhanced[0] != '\0' ? " " : "", r->reply->text);
	clean(dsn, span_of(raw), out, size);
}

/* "x.y.z" with the class that the action allows. */
static void
status_of(const struct dsn_recipient *r, char out[12])
{
	static const char *const defaults[] = {
		[DSN_FAILED] = "5.0.0", [DSN_DELAYED] = "4.0.0", [DSN_RELAYED] = "2.0.0"
	};
	const char *status = r->status;

	if ((status == NULL || status[0] == '\0') && r->reply != NULL)
		status = r->reply->enhanced;
	if (status == NULL ||
	    smtp_reply_enhanced(span_of(status), (status[0] - '0') * 100, out) == 0)
		snprintf(out, 12, "%s",
		    r->action == DSN_FAILED && has_reply(r) && r->reply->code < 500
		        ? "4.0.0"
		        : defaults[r->action]);
	if ((r->action == DSN_DELAYED && out[0] != '4') ||
	    (r->action == DSN_RELAYED && out[0] != '2') ||
	    (r->action == DSN_FAILED && out[0] == '2'))
		snprintf(out, 12, "%s", defaults[r->action]);
}

/* ---- the parts ---- */

static size_t
listed_most(const struct dsn_message *dsn)
{
	return dsn->seven_bit ? LISTED_BYTES_MAX / 3 : LISTED_BYTES_MAX; /* encoded it grows */
}

static enum dsn_action
worst_action(const struct dsn_message *dsn)
{
	enum dsn_action worst = DSN_RELAYED;

	for (size_t i = 0; i < dsn->n_recipients; i++)
		if (dsn->recipients[i].action < worst)
			worst = dsn->recipients[i].action;
	return worst;
}

static void
add_header(struct smtp_buffer *b, const struct dsn_message *dsn, const char *boundary)
{
	const char *subject = wordings[worst_action(dsn)].subject;
	char to[320], date[DSN_DATE_SIZE];

	clean(dsn, dsn->to, to, sizeof(to));
	dsn_message_date(dsn->now_ms, date);
	smtp_buffer_printf(b, "From: Mail Delivery System <MAILER-DAEMON@%s>\r\n", dsn->hostname);
	smtp_buffer_printf(b, "To: <%s>\r\n", to);
	smtp_buffer_printf(b, "Date: %s\r\n", date);
	smtp_buffer_printf(b, "Subject: %s\r\n", subject);
	smtp_buffer_printf(b, "Message-ID: <%s@%s>\r\n", dsn->unique, dsn->hostname);
	smtp_buffer_printf(b, "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n");
	smtp_buffer_printf(b,
	    "Content-Type: multipart/report; "
	    "report-type=%sdelivery-status;\r\n\tboundary=\"%s\"\r\n",
	    dsn->utf8 ? "global-" : "", boundary);
	smtp_buffer_printf(b, "\r\nThis is a report of delivery in MIME format.\r\n");
}

static void
explain_recipient(
    struct smtp_buffer *b, const struct dsn_message *dsn, const struct dsn_recipient *r)
{
	char address[320], text[600], date[DSN_DATE_SIZE];

	clean(dsn, r->address, address, sizeof(address));
	smtp_buffer_printf(b, "\r\n<%s>\r\n", address);
	if (r->explanation != NULL) {
		clean(dsn, span_of(r->explanation), text, sizeof(text));
		smtp_buffer_printf(b, "    ");
		add_folded(b, text, "    ", 4);
	}
	if (has_reply(r)) {
		reply_text(dsn, r, text, sizeof(text));
		smtp_buffer_printf(
		    b, "    %s said: ", r->remote_mta != NULL ? r->remote_mta : dsn->hostname);
		add_folded(b, text, "    ", 24);
	}
	if (r->action == DSN_DELAYED && r->retry_until_ms != 0) {
		dsn_message_date(r->retry_until_ms, date);
		smtp_buffer_printf(b, "    It is tried again until %s.\r\n", date);
	}
}

static void
add_text_part(struct smtp_buffer *b, const struct dsn_message *dsn)
{
	char date[DSN_DATE_SIZE], sender[320];
	size_t from = b->len, i;

	smtp_buffer_printf(b, "This is relayd at %s.\r\n\r\n", dsn->hostname);
	if (dsn->to_postmaster) {
		clean(dsn, dsn->sender, sender, sizeof(sender));
		smtp_buffer_printf(b,
		    "The sender of this message (<%s>) cannot be told; so you are.\r\n\r\n",
		    sender);
	}
	smtp_buffer_printf(b, "%s\r\n", wordings[worst_action(dsn)].text);
	for (i = 0;
	     i < dsn->n_recipients && i < DSN_RECIPIENTS_MAX && b->len - from < listed_most(dsn);
	     i++)
		explain_recipient(b, dsn, &dsn->recipients[i]);
	if (i < dsn->n_recipients)
		smtp_buffer_printf(
		    b, "\r\n... and %zu more recipients.\r\n", dsn->n_recipients - i);
	dsn_message_date(dsn->arrived_ms, date);
	smtp_buffer_printf(
	    b, "\r\nIt was accepted here on %s\r\nwith the queue ID %s.\r\n", date, dsn->queue_id);
}

static void
add_field(struct smtp_buffer *b, const char *name, const char *type, const char *value)
{
	smtp_buffer_printf(b, "%s: %s; ", name, type);
	add_folded(b, value, "    ", strlen(name) + strlen(type) + 4);
}

static void
add_date_field(struct smtp_buffer *b, const char *name, int64_t at_ms)
{
	char date[DSN_DATE_SIZE];

	if (at_ms == 0)
		return;
	dsn_message_date(at_ms, date);
	smtp_buffer_printf(b, "%s: %s\r\n", name, date);
}

static void
report_recipient(
    struct smtp_buffer *b, const struct dsn_message *dsn, const struct dsn_recipient *r)
{
	char text[600], status[12];

	smtp_buffer_add(b, SPAN("\r\n"));
	if (r->orcpt.len > 0) {
		clean_xtext(dsn, r->orcpt, text, sizeof(text));
		smtp_buffer_printf(b, "Original-Recipient: %s\r\n", text);
	}
	clean(dsn, r->address, text, sizeof(text));
	smtp_buffer_printf(b, "Final-Recipient: %s; %s\r\n", dsn->utf8 ? "utf-8" : "rfc822", text);
	status_of(r, status);
	smtp_buffer_printf(b, "Action: %s\r\nStatus: %s\r\n", wordings[r->action].action, status);
	if (r->remote_mta != NULL)
		add_field(b, "Remote-MTA", "dns", r->remote_mta);
	if (has_reply(r)) {
		reply_text(dsn, r, text, sizeof(text));
		add_field(b, "Diagnostic-Code", r->remote_mta != NULL ? "smtp" : "x-relayd", text);
	} else if (r->explanation != NULL) {
		clean(dsn, span_of(r->explanation), text, sizeof(text));
		add_field(b, "Diagnostic-Code", "x-relayd", text);
	}
	add_date_field(b, "Last-Attempt-Date", r->last_attempt_ms);
	if (r->action == DSN_DELAYED)
		add_date_field(b, "Will-Retry-Until", r->retry_until_ms);
}

static void
add_status_part(struct smtp_buffer *b, const struct dsn_message *dsn)
{
	char text[600];
	size_t from = b->len;

	if (dsn->envid.len > 0) {
		clean_xtext(dsn, dsn->envid, text, sizeof(text));
		smtp_buffer_printf(b, "Original-Envelope-Id: %s\r\n", text);
	}
	add_field(b, "Reporting-MTA", "dns", dsn->hostname);
	add_date_field(b, "Arrival-Date", dsn->arrived_ms);
	smtp_buffer_printf(b, "X-Relayd-Queue-ID: %s\r\n", dsn->queue_id);
	clean(dsn, dsn->sender, text, sizeof(text));
	if (text[0] != '\0')
		smtp_buffer_printf(
		    b, "X-Relayd-Sender: %s; %s\r\n", dsn->utf8 ? "utf-8" : "rfc822", text);
	for (size_t i = 0;
	     i < dsn->n_recipients && i < DSN_RECIPIENTS_MAX && b->len - from < listed_most(dsn);
	     i++)
		report_recipient(b, dsn, &dsn->recipients[i]);
}

/* The header section of the original with its empty line, cut at a line if it is too long. */
static struct span
headers_of(struct span original)
{
	const char *end =
	    original.len > 0 ? memmem(original.data, original.len, "\r\n\r\n", 4) : NULL;
	size_t len = end != NULL ? (size_t)(end - original.data) + 2 : original.len;

	if (original.len >= 2 && memcmp(original.data, "\r\n", 2) == 0)
		return (struct span){ original.data, 0 };
	if (len > DSN_HEADERS_MAX)
		len = DSN_HEADERS_MAX;
	while (len > 0 && original.data[len - 1] != '\n')
		len--;
	return (struct span){ original.data, len };
}

static bool
has_8bit(struct span text)
{
	for (size_t i = 0; i < text.len; i++)
		if ((unsigned char)text.data[i] >= 0x80)
			return true;
	return false;
}

/* message/rfc822 may not be encoded (RFC 2046 5.2.1), message/global may (RFC 6532 3.7). */
static bool
is_full(const struct dsn_message *dsn)
{
	if (dsn->seven_bit && !dsn->utf8 && has_8bit(dsn->original))
		return false;
	return worst_action(dsn) == DSN_FAILED && dsn->ret != SMTP_ENVELOPE_RET_HDRS &&
	       dsn->original.len == dsn->original_bytes && dsn->original_bytes <= DSN_ORIGINAL_MAX;
}

/* RFC 2045 6.7: lines of at most 76 columns; what is ASCII stays readable. */
static void
add_quoted_printable(struct smtp_buffer *b, struct span text)
{
	size_t column = 0;

	for (size_t i = 0; i < text.len; i++) {
		const unsigned char c = (unsigned char)text.data[i];
		const bool is_end = c == '\r' && i + 1 < text.len && text.data[i + 1] == '\n';
		const bool ends_line =
		    i + 2 < text.len && text.data[i + 1] == '\r' && text.data[i + 2] == '\n';
		const bool is_plain = (c > ' ' && c < 0x7f && c != '=') ||
		                      ((c == ' ' || c == '\t') && !ends_line && i + 1 < text.len);

		if (is_end) {
			smtp_buffer_add(b, SPAN("\r\n"));
			column = 0;
			i++;
			continue;
		}
		if (column + (is_plain ? 1 : 3) > FOLD_COLUMNS - 1) {
			smtp_buffer_add(b, SPAN("=\r\n"));
			column = 0;
		}
		if (is_plain)
			smtp_buffer_add(b, (struct span){ text.data + i, 1 });
		else
			smtp_buffer_printf(b, "=%02X", c);
		column += is_plain ? 1 : 3;
	}
}

static void
add_part(struct smtp_buffer *b, const struct dsn_message *dsn, const char *boundary,
    const char *type, struct span text)
{
	const bool is_8bit = has_8bit(text), is_encoded = is_8bit && dsn->seven_bit;

	smtp_buffer_printf(b, "\r\n--%s\r\nContent-Type: %s\r\n", boundary, type);
	if (is_8bit)
		smtp_buffer_printf(b, "Content-Transfer-Encoding: %s\r\n",
		    is_encoded ? "quoted-printable" : "8bit");
	smtp_buffer_add(b, SPAN("\r\n"));
	if (is_encoded)
		add_quoted_printable(b, text);
	else
		smtp_buffer_add(b, text);
}

/* A delimiter that the original does not have, whoever wrote it. */
static void
choose_boundary(const struct dsn_message *dsn, char *out, size_t size)
{
	for (unsigned i = 0;; i++) {
		snprintf(out, size, "=_%.40s_%u", dsn->unique, i);
		if (dsn->original.len == 0 ||
		    memmem(dsn->original.data, dsn->original.len, out, strlen(out)) == NULL)
			return;
	}
}

void
dsn_message_build(const struct dsn_message *dsn, char **out, size_t *len, bool *is_8bit)
{
	struct smtp_buffer b = { 0 }, part = { 0 };
	struct span original = is_full(dsn) ? dsn->original : headers_of(dsn->original);
	char boundary[64];

	choose_boundary(dsn, boundary, sizeof(boundary));
	add_header(&b, dsn, boundary);
	add_text_part(&part, dsn);
	add_part(&b, dsn, boundary, "text/plain; charset=utf-8", smtp_buffer_span(&part));
	smtp_buffer_clear(&part);
	add_status_part(&part, dsn);
	add_part(&b, dsn, boundary,
	    dsn->utf8 ? "message/global-delivery-status" : "message/delivery-status",
	    smtp_buffer_span(&part));
	if (is_full(dsn))
		add_part(
		    &b, dsn, boundary, dsn->utf8 ? "message/global" : "message/rfc822", original);
	else
		add_part(&b, dsn, boundary,
		    dsn->utf8 ? "message/global-headers" : "text/rfc822-headers", original);
	if (original.len > 0 && original.data[original.len - 1] != '\n')
		smtp_buffer_add(&b, SPAN("\r\n"));
	smtp_buffer_printf(&b, "\r\n--%s--\r\n", boundary);
	smtp_buffer_fini(&part);
	*len = b.len;
	*is_8bit = has_8bit(smtp_buffer_span(&b));
	*out = b.data;
}
