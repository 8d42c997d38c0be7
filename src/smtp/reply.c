/* reply.c - lines of replies out of bytes in any slices, and their words made fit to be shown.
 * Everything works on (pointer, length): a cut code or a missing text is input, not an accident
 * (CVE-2026-43964). */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "smtp/reply.h"

/* clang-format off */
static const struct stage_words {
	const char *name, *phrase;
} stages[] = {
	[SMTP_STAGE_NONE]     = { "none",     "before anything" },
	[SMTP_STAGE_RESOLVE]  = { "resolve",  "looking up its address" },
	[SMTP_STAGE_CONNECT]  = { "connect",  "connecting" },
	[SMTP_STAGE_GREETING] = { "greeting", "waiting for its greeting" },
	[SMTP_STAGE_EHLO]     = { "ehlo",     "waiting for the reply to EHLO" },
	[SMTP_STAGE_STARTTLS] = { "starttls", "waiting for the reply to STARTTLS" },
	[SMTP_STAGE_TLS]      = { "tls",      "shaking hands for TLS" },
	[SMTP_STAGE_AUTH]     = { "auth",     "logging in" },
	[SMTP_STAGE_IDLE]     = { "idle",     "being idle" },
	[SMTP_STAGE_MAIL]     = { "mail",     "waiting for the reply to MAIL FROM" },
	[SMTP_STAGE_RCPT]     = { "rcpt",     "waiting for the reply to RCPT TO" },
	[SMTP_STAGE_DATA]     = { "data",     "waiting for the reply to DATA" },
	[SMTP_STAGE_BODY]     = { "body",     "sending the message" },
	[SMTP_STAGE_END]      = { "end",      "waiting for the reply to the end of the message (it may be sent more than once)" },
	[SMTP_STAGE_RSET]     = { "rset",     "waiting for the reply to RSET" },
	[SMTP_STAGE_QUIT]     = { "quit",     "waiting for the reply to QUIT" },
};
/* clang-format on */

const char *
smtp_stage_name(enum smtp_stage stage)
{
	return (size_t)stage < ARRAY_LEN(stages) ? stages[stage].name : "unknown";
}

const char *
smtp_stage_phrase(enum smtp_stage stage)
{
	return (size_t)stage < ARRAY_LEN(stages) ? stages[stage].phrase : "doing something unknown";
}

void
smtp_reply_init(struct smtp_reply_parser *p)
{
	p->code = 0;
	p->is_last = true;
	p->line = (struct span){ 0 };
	p->problem = NULL;
	p->lines = 0;
	p->reply_bytes = 0;
	p->line_len = 0;
	p->line_max = SMTP_REPLY_LINE_MAX;
}

static enum smtp_reply_event
bad(struct smtp_reply_parser *p, const char *problem)
{
	p->problem = problem;
	return SMTP_REPLY_BAD;
}

/* Three digits, the first 2 to 5 (RFC 5321 4.2: Reply-code). 0: no code. */
static int
code_of(struct span line)
{
	if (line.len < 3 || line.data[0] < '2' || line.data[0] > '5' || line.data[1] < '0' ||
	    line.data[1] > '9' || line.data[2] < '0' || line.data[2] > '9')
		return 0;
	return (line.data[0] - '0') * 100 + (line.data[1] - '0') * 10 + (line.data[2] - '0');
}

static enum smtp_reply_event
take_line(struct smtp_reply_parser *p)
{
	struct span line = { p->line_bytes, p->line_len };
	int code;

	p->line_len = 0;
	if (line.len > 0 && line.data[line.len - 1] == '\r')
		line.len--;
	code = code_of(line);
	if (code == 0)
		return bad(p, "a line that is no SMTP reply");
	if (line.len > 3 && line.data[3] != '-' && line.data[3] != ' ')
		return bad(p, "a line that is no SMTP reply");
	if (p->is_last) { /* the reply before is complete: this line begins another */
		p->lines = 0;
		p->code = code;
	} else if (code != p->code) {
		return bad(p, "a reply whose code changes between its lines");
	}
	p->is_last = line.len <= 3 || line.data[3] == ' ';
	if (++p->lines > SMTP_REPLY_LINES_MAX)
		return bad(p, "a reply with too many lines");
	p->line = line.len > 4 ? span_skip(line, 4) : (struct span){ p->line_bytes, 0 };
	return SMTP_REPLY_LINE;
}

enum smtp_reply_event
smtp_reply_input(struct smtp_reply_parser *p, struct span in, size_t *used)
{
	const char *end = in.len > 0 ? memchr(in.data, '\n', in.len) : NULL;
	size_t len = end != NULL ? (size_t)(end - in.data) : in.len;

	*used = 0;
	if (p->line_len + len > p->line_max)
		return bad(p, "a reply line that is too long");
	if (p->is_last && p->line_len == 0)
		p->reply_bytes = 0; /* another reply begins */
	p->reply_bytes += len;
	if (p->reply_bytes > SMTP_REPLY_BYTES_MAX)
		return bad(p, "a reply that is too long");
	if (len > 0)
		memcpy(p->line_bytes + p->line_len, in.data, len);
	p->line_len += len;
	*used = len + (end != NULL);
	return end != NULL ? take_line(p) : SMTP_REPLY_MORE;
}

bool
smtp_reply_is_partial(const struct smtp_reply_parser *p)
{
	return p->line_len > 0 || !p->is_last;
}

static size_t
digits(struct span text, size_t at)
{
	size_t n = 0;

	while (at + n < text.len && n < 3 && text.data[at + n] >= '0' && text.data[at + n] <= '9')
		n++;
	return n;
}

size_t
smtp_reply_enhanced(struct span text, int code, char out[12])
{
	size_t at = 0;

	out[0] = '\0';
	if (text.len == 0 || text.data[0] != '0' + code / 100 ||
	    (code / 100 != 2 && code / 100 != 4 && code / 100 != 5))
		return 0;
	for (int part = 0; part < 3; part++) {
		size_t n = digits(text, at);

		if (n == 0 || (part == 0 && n != 1))
			return 0;
		at += n;
		if (part < 2 && (at == text.len || text.data[at++] != '.'))
			return 0;
	}
	if (at < text.len && text.data[at] != ' ' && text.data[at] != '\t')
		return 0;
	memcpy(out, text.data, at);
	out[at] = '\0';
	return at;
}

/* Length of the valid UTF-8 character at `s`; 0 if there is none (RFC 3629: no overlong forms, no
 * surrogates, nothing over U+10FFFF; and none of the C1 controls, which terminals obey). */
static size_t
character_len(const unsigned char *s, size_t len)
{
	size_t n;

	if (s[0] < 0x80)
		return 1;
	n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
	if (s[0] < 0xc2 || s[0] > 0xf4 || n > len)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f) ||
	    (s[0] == 0xc2 && s[1] < 0xa0))
		return 0;
	return n;
}

size_t
smtp_reply_clean(struct span in, char *out, size_t size)
{
	size_t len = 0;

	for (size_t i = 0; i < in.len;) {
		const unsigned char *s = (const unsigned char *)in.data + i;
		size_t n = character_len(s, in.len - i);
		bool is_control = n == 1 && (s[0] < 0x20 || s[0] == 0x7f);

		if (len + (n > 0 ? n : 1) >= size)
			break;
		if (n == 0 || is_control)
			out[len++] = n == 1 && s[0] == '\t' ? ' ' : '?';
		else
			for (size_t j = 0; j < n; j++)
				out[len++] = (char)s[j];
		i += n > 0 ? n : 1;
	}
	out[len] = '\0';
	return len;
}

void
smtp_reply_collect(struct upstream_reply *reply, const struct smtp_reply_parser *p, bool first)
{
	struct span text = p->line;
	char enhanced[12];
	size_t skip = smtp_reply_enhanced(text, p->code, enhanced), len;

	if (first) {
		reply->code = p->code;
		reply->text[0] = '\0';
		memcpy(reply->enhanced, enhanced, sizeof(enhanced));
	} else if (strcmp(enhanced, reply->enhanced) != 0) {
		skip = 0; /* another code on a later line is text that somebody may want to read */
	}
	text = span_skip(text, skip);
	while (text.len > 0 && text.data[0] == ' ')
		text = span_skip(text, 1);
	len = strlen(reply->text);
	if (len > 0 && text.len > 0 && len + 2 < sizeof(reply->text))
		reply->text[len++] = ' ';
	smtp_reply_clean(text, reply->text + len, sizeof(reply->text) - len);
}

void
smtp_reply_say(struct upstream_reply *reply, enum smtp_stage stage, int code, const char *enhanced,
    const char *text)
{
	reply->stage = stage;
	reply->code = code;
	snprintf(reply->enhanced, sizeof(reply->enhanced), "%s", enhanced);
	smtp_reply_clean(span_of(text), reply->text, sizeof(reply->text));
}
