/* classify.c - see classify.h. */
#include <string.h>

#include "base/base.h"
#include "delivery/classify.h"

#define AT(stage) (1u << (stage))
#define AT_HELLO                                                                                   \
	(AT(SMTP_STAGE_CONNECT) | AT(SMTP_STAGE_GREETING) | AT(SMTP_STAGE_EHLO) |                  \
	    AT(SMTP_STAGE_STARTTLS) | AT(SMTP_STAGE_TLS))
#define AT_AUTH AT(SMTP_STAGE_AUTH)
#define AT_MAIL AT(SMTP_STAGE_MAIL)
#define AT_RCPT AT(SMTP_STAGE_RCPT)
#define AT_DATA (AT(SMTP_STAGE_DATA) | AT(SMTP_STAGE_BODY) | AT(SMTP_STAGE_END))
#define AT_SENDING (AT_MAIL | AT_RCPT | AT_DATA)
#define ANYWHERE (~0u)

#define TEMPORARY(scope)                                                                           \
	{                                                                                          \
		FAILURE_TEMPORARY, scope, BREAKER_NETWORK, false, false, ""                        \
	}
#define PERMANENT(scope)                                                                           \
	{                                                                                          \
		FAILURE_PERMANENT, scope, BREAKER_NETWORK, false, false, ""                        \
	}
#define NETWORK                                                                                    \
	{                                                                                          \
		FAILURE_TEMPORARY, FAILURE_OF_UPSTREAM, BREAKER_NETWORK, false, false, ""          \
	}
#define SLOWER                                                                                     \
	{                                                                                          \
		FAILURE_PACE, FAILURE_OF_UPSTREAM, BREAKER_NETWORK, false, false, FIX_RATE         \
	}
#define FEWER                                                                                      \
	{                                                                                          \
		FAILURE_PACE, FAILURE_OF_UPSTREAM, BREAKER_NETWORK, true, false, FIX_SESSIONS      \
	}
#define SPLIT                                                                                      \
	{                                                                                          \
		FAILURE_TEMPORARY, FAILURE_OF_RECIPIENT, BREAKER_NETWORK, false, true, ""          \
	}
#define PASSWORD(fix)                                                                              \
	{                                                                                          \
		FAILURE_OPERATOR, FAILURE_OF_UPSTREAM, BREAKER_PASSWORD, false, false, fix         \
	}
#define ACCOUNT(fix)                                                                               \
	{                                                                                          \
		FAILURE_OPERATOR, FAILURE_OF_UPSTREAM, BREAKER_OPERATOR, false, false, fix         \
	}
#define SENDER(fix)                                                                                \
	{                                                                                          \
		FAILURE_OPERATOR, FAILURE_OF_MESSAGE, BREAKER_OPERATOR, false, false, fix          \
	}

#define FIX_RATE "set `rate` to what the provider allows"
#define FIX_SESSIONS "set `connections` to what the provider allows"
#define FIX_LOGIN                                                                                  \
	"check `username` and the password (`password-file`, `-credential` or `-command`: a new "  \
	"one is tried at once); where the provider was at fault, `relayctl retry --all`"
#define FIX_NO_LOGIN                                                                               \
	"the provider wants a login: set `username` and `password-file`, and not `auth = none`"
#define FIX_APP_PASSWORD                                                                           \
	"the provider wants an app password or OAuth (`auth = xoauth2`), not the account's own "   \
	"password"
#define FIX_M365                                                                                   \
	"allow SMTP AUTH for this mailbox in the Microsoft 365 admin centre (and in security "     \
	"defaults), or use `auth = xoauth2`"
#define FIX_CREDIT "the account is out of credit, expired or blocked: see the provider's web page"
#define FIX_QUOTA "the account's quota is used up: wait, or raise it at the provider; set `daily`"
#define FIX_MAILBOX_FULL "the account's own mailbox is full (Sent Items counts): empty it"
#define FIX_SENDER "verify this sender (or its domain) at the provider, or send from one that is"
#define FIX_RELAY "the provider does not relay for us: log in, or have this host's address allowed"
#define FIX_ADDRESS                                                                                \
	"the server refuses this host's address: log in at its submission port (587 or 465), or "  \
	"have the address allowed or taken off the list that the reply names"
#define FIX_HOST "check `host`, `port` and `tls`: this server does not serve us"

static const struct row {
	unsigned stages;
	int code_from, code_to;
	const char *enhanced; /* NULL: any; else the whole of it */
	const char *words;    /* NULL: any; else alternatives in small letters, divided by | */
	struct failure failure;
} rows[] = {
	/* clang-format off */
	/* the login */
	{ AT_AUTH,    400, 599, NULL,      "credit|suspended|expired account|payment|quota",  ACCOUNT(FIX_CREDIT) },
	{ AT_AUTH,    400, 599, NULL,      "too many login|too many auth|too many failed",    PASSWORD("fewer logins: the provider locks out those who knock too often") },
	{ AT_AUTH,    432, 432, "4.3.2",   NULL,                                              FEWER },
	{ AT_AUTH,    400, 499, NULL,      "concurrent|too many connections|too many sessions", FEWER },
	{ AT_AUTH,    535, 535, "5.7.139", NULL,                                              PASSWORD(FIX_M365) },
	{ AT_AUTH,    500, 599, "5.7.30",  NULL,                                              PASSWORD("basic authentication has ended there: use `auth = xoauth2`") },
	{ AT_AUTH,    534, 534, NULL,      NULL,                                              PASSWORD(FIX_APP_PASSWORD) },
	{ AT_AUTH,    500, 599, NULL,      "application-specific|app password",               PASSWORD(FIX_APP_PASSWORD) },
	{ AT_AUTH,    432, 432, NULL,      NULL,                                              PASSWORD(FIX_LOGIN) },
	{ AT_AUTH,    421, 421, NULL,      NULL,                                              NETWORK },
	{ AT_AUTH,    400, 499, NULL,      "authentication failed|authentication credentials|password", PASSWORD(FIX_LOGIN) },
	{ AT_AUTH,    400, 499, NULL,      NULL,                                              NETWORK },
	{ AT_AUTH,    500, 599, NULL,      NULL,                                              PASSWORD(FIX_LOGIN) },
	/* too fast, too many: whatever the digits say, unless it is the day's end */
	{ AT_SENDING, 400, 599, NULL,      "daily user sending|daily smtp|daily outbound|daily sending|daily limit|daily quota|daily message|daily mail|daily email|daily recipient|daily relay|submissionquotaexceeded|quota exceeded for the day|per day", ACCOUNT(FIX_QUOTA) },
	{ AT_SENDING, 550, 550, "5.4.5",   NULL,                                              ACCOUNT(FIX_QUOTA) },
	{ ANYWHERE,   400, 499, NULL,      "concurrent|too many connections|too many sessions|connection limit|thread limit", FEWER },
	{ ANYWHERE,   432, 432, NULL,      NULL,                                              FEWER },
	{ AT_SENDING, 400, 499, NULL,      "throttl|rate limit|sending rate|rate exceeded|limit exceeded|too fast|slow down|too many messages|too much mail|too many emails", SLOWER },
	{ AT_SENDING, 400, 499, "4.7.28",  NULL,                                              SLOWER },
	{ AT_SENDING, 500, 599, NULL,      "emails per hour|mails per hour|messages per hour|hourly limit|hourly quota|messages per minute",                      SLOWER }, /* cPanel has no 4 for it */
	{ ANYWHERE,   421, 421, NULL,      "try again later, closing connection|throttl|rate|too many|too much", SLOWER },
	{ ANYWHERE,   421, 421, NULL,      NULL,                                              NETWORK },
	/* before anything is sent: never the message's fault */
	{ AT_HELLO,   400, 499, NULL,      NULL,                                              NETWORK },
	{ AT_HELLO,   500, 599, NULL,      NULL,                                              ACCOUNT(FIX_HOST) },
	/* the account */
	{ AT_SENDING, 530, 530, NULL,      NULL,                                              PASSWORD(FIX_NO_LOGIN) },
	{ AT_SENDING, 535, 535, NULL,      NULL,                                              PASSWORD(FIX_LOGIN) },
	{ AT_SENDING, 500, 599, "5.7.57",  NULL,                                              PASSWORD(FIX_NO_LOGIN) },
	{ AT_SENDING, 500, 599, NULL,      "authentication required|authentication is required|must authenticate|not authenticated|must issue a starttls", PASSWORD(FIX_NO_LOGIN) },
	{ AT_SENDING, 400, 599, NULL,      "maximum credits|out of credit|no credit|insufficient credit|credits exhausted|insufficient balance|trial expired|payment required", ACCOUNT(FIX_CREDIT) },
	/* (at RCPT it is the recipient's that is disabled) */
	{ AT_MAIL | AT_DATA, 400, 599, NULL, "account suspended|account is suspended|account disabled|account is disabled|account blocked|account is blocked|account locked|account is locked|account inactive|account is inactive|account is not active|account deactivated|account terminated|account expired|account has expired|account on hold|account has been", ACCOUNT(FIX_CREDIT) },
	{ AT_SENDING, 500, 599, NULL,      "banned sender",                                   ACCOUNT(FIX_CREDIT) },
	{ AT_SENDING, 500, 599, NULL,      "client host [|client host rejected|traffic not accepted from this ip|your ip address|your ip [", ACCOUNT(FIX_ADDRESS) },
	/* its own fault, and for a while */
	{ AT_SENDING, 500, 599, "5.3.5",   NULL,                                              TEMPORARY(FAILURE_OF_MESSAGE) },
	{ AT_SENDING, 500, 599, NULL,      "server configuration problem|server configuration error|system configuration error", TEMPORARY(FAILURE_OF_MESSAGE) },
	{ AT_MAIL | AT_DATA, 500, 599, "5.2.2", NULL,                                         ACCOUNT(FIX_MAILBOX_FULL) },
	/* the sender */
	{ AT_SENDING, 400, 599, NULL,      "not verified|unverified|verify your|verified sender|senderidentity|sender identity", SENDER(FIX_SENDER) },
	{ AT_SENDING, 400, 599, NULL,      "sendasdenied|not authorized to send|not authorised to send|not allowed to send|not permitted to send|not owned by|sender address blocked|relaying disallowed as|sender not allowed|invalid sender domain|does not belong to", SENDER(FIX_SENDER) },
	{ AT_SENDING, 500, 599, "5.7.60",  NULL,                                              SENDER(FIX_SENDER) },
	{ AT_SENDING, 403, 403, NULL,      NULL,                                              SENDER(FIX_SENDER) },
	{ AT_RCPT | AT_MAIL, 500, 599, NULL, "relay access denied|relaying denied|unable to relay|relay not permitted|not permitted to relay|relaying not allowed|relaying is not allowed|we do not relay", SENDER(FIX_RELAY) },
	/* the digits */
	{ AT_RCPT,    452, 452, "4.5.3",   NULL,                                              SPLIT },
	{ AT_RCPT,    552, 552, "5.2.2",   NULL,                                              TEMPORARY(FAILURE_OF_RECIPIENT) },
	{ AT_RCPT,    552, 552, NULL,      NULL,                                              SPLIT }, /* RFC 5321 4.5.3.1.10 */
	{ AT_RCPT,    452, 452, NULL,      "too many recipients",                             SPLIT },
	{ AT_SENDING, 503, 503, NULL,      NULL,                                              TEMPORARY(FAILURE_OF_MESSAGE) },
	{ AT_RCPT,    400, 499, NULL,      NULL,                                              TEMPORARY(FAILURE_OF_RECIPIENT) },
	{ AT_RCPT,    500, 599, NULL,      NULL,                                              PERMANENT(FAILURE_OF_RECIPIENT) },
	{ AT_SENDING, 500, 599, NULL,      NULL,                                              PERMANENT(FAILURE_OF_MESSAGE) },
	{ ANYWHERE,     0, 999, NULL,      NULL,                                              TEMPORARY(FAILURE_OF_MESSAGE) },
	/* clang-format on */
};

static bool
has_words(const char *text, const char *alternatives)
{
	char word[64];

	while (*alternatives != '\0') {
		size_t len = strcspn(alternatives, "|");

		if (len < sizeof(word)) {
			memcpy(word, alternatives, len);
			word[len] = '\0';
			if (strcasestr(text, word) != NULL)
				return true;
		}
		alternatives += len + (alternatives[len] == '|');
	}
	return false;
}

/* How long is the address that begins with a quoted local part, which may have spaces in it? `len` if it is
 * no address. */
static size_t
quoted_address(const char *text, size_t len)
{
	size_t end = 1 + strcspn(text + 1, "\"");

	return text[end] == '"' && text[end + 1] == '@' ? end + strcspn(text + end, " ") : len;
}

/* What the server says itself. Addresses in it are ours, sent back: whoever writes to hourly@example.com is
 * no quota. And what another server said to it is about that one's business with it. */
static void
own_words(const char *text, char out[SMTP_REPLY_TEXT_MAX])
{
	static const char *const quotes[] = { "undeliverable address", " said:", "response:" };
	size_t n = 0;

	for (const char *p = text; *p != '\0' && n < SMTP_REPLY_TEXT_MAX - 1;) {
		size_t len = strcspn(p, " ");

		if (*p == '<')
			len = strcspn(p, ">");
		else if (*p == '"')
			len = quoted_address(p, len);
		if (len > SMTP_REPLY_TEXT_MAX - 1 - n)
			len = SMTP_REPLY_TEXT_MAX - 1 - n;
		if (*p != '<' && memchr(p, '@', len) == NULL) {
			memcpy(out + n, p, len);
			n += len;
		}
		p += len;
		if (*p != '\0')
			out[n++] = *p++;
	}
	out[n] = '\0';
	for (size_t i = 0; i < ARRAY_LEN(quotes); i++) {
		char *at = strcasestr(out, quotes[i]);

		if (at != NULL)
			*at = '\0';
	}
}

struct failure
classify(const struct upstream_reply *reply)
{
	const struct row *row = rows;
	char words[SMTP_REPLY_TEXT_MAX];

	own_words(reply->text, words);

	for (; row < &rows[ARRAY_LEN(rows) - 1]; row++) {
		if ((row->stages & AT(reply->stage)) == 0 || reply->code < row->code_from ||
		    reply->code > row->code_to)
			continue;
		if (row->enhanced != NULL && strcmp(row->enhanced, reply->enhanced) != 0)
			continue;
		if (row->words != NULL && !has_words(words, row->words))
			continue;
		break;
	}
	return row->failure;
}

const char *classify_class_name(enum failure_class class)
{
	static const char *const names[] = { [FAILURE_TEMPORARY] = "temporary",
		[FAILURE_PACE] = "pace",
		[FAILURE_OPERATOR] = "operator",
		[FAILURE_PERMANENT] = "permanent" };

	return names[class];
}
