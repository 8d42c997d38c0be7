/* capability.c - the EHLO reply as a table of keywords. */
#include <string.h>

#include "base/base.h"
#include "smtp/capability.h"

#define SIZE_DIGITS_MAX 19 /* fits 64 bits */

static bool
parse_number(struct span text, uint64_t *out)
{
	uint64_t n = 0;

	if (text.len == 0 || text.len > SIZE_DIGITS_MAX)
		return false;
	for (size_t i = 0; i < text.len; i++) {
		if (text.data[i] < '0' || text.data[i] > '9')
			return false;
		n = n * 10 + (uint64_t)(text.data[i] - '0');
	}
	*out = n;
	return true;
}

/* Cuts the next word off; an empty span: there is none. */
static struct span
next_word(struct span *rest)
{
	struct span word;
	size_t n = 0;

	while (rest->len > 0 && (rest->data[0] == ' ' || rest->data[0] == '\t'))
		*rest = span_skip(*rest, 1);
	while (n < rest->len && rest->data[n] != ' ' && rest->data[n] != '\t')
		n++;
	word = (struct span){ rest->data, n };
	*rest = span_skip(*rest, n);
	return word;
}

static void
take_size(struct smtp_capabilities *caps, struct span rest)
{
	struct span word = next_word(&rest);

	if (!parse_number(word, &caps->size_bytes))
		caps->size_bytes = 0;
}

/* Mechanism names are at most 20 of [A-Z0-9-_] (RFC 4422 3.1). Keeps those not kept yet. */
static void
take_mechanism(struct smtp_capabilities *caps, struct span word)
{
	char name[23] = " ";
	size_t len = strlen(caps->mechanisms);

	if (word.len == 0 || word.len > 20)
		return;
	for (size_t i = 0; i < word.len; i++) {
		char c = word.data[i];

		if (c >= 'a' && c <= 'z')
			c = (char)(c - 'a' + 'A');
		if (!((c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_'))
			return;
		name[i + 1] = c;
	}
	name[word.len + 1] = ' ';
	name[word.len + 2] = '\0';
	if (strstr(caps->mechanisms, name) != NULL)
		return;
	if (len + word.len + 2 >= sizeof(caps->mechanisms))
		return;
	if (len == 0)
		memcpy(caps->mechanisms, name, word.len + 3);
	else
		memcpy(caps->mechanisms + len, name + 1, word.len + 2);
}

static void
take_auth(struct smtp_capabilities *caps, struct span rest)
{
	for (struct span word = next_word(&rest); word.len > 0; word = next_word(&rest))
		take_mechanism(caps, word);
}

/* The smallest of what is told counts; malformed limits are ignored (RFC 9422 4). */
static void
take_limits(struct smtp_capabilities *caps, struct span rest)
{
	static const struct span rcptmax = { "RCPTMAX=", 8 }, mailmax = { "MAILMAX=", 8 };

	for (struct span word = next_word(&rest); word.len > 0; word = next_word(&rest)) {
		unsigned *limit = span_starts_nocase(word, rcptmax)   ? &caps->rcpt_max
		                  : span_starts_nocase(word, mailmax) ? &caps->mail_max
		                                                      : NULL;
		uint64_t n;

		if (limit == NULL || word.len - 8 > 6 || !parse_number(span_skip(word, 8), &n) ||
		    n == 0)
			continue;
		if (*limit == 0 || n < *limit)
			*limit = (unsigned)n;
	}
}

/* clang-format off */
static const struct keyword {
	const char *name;
	unsigned bit;
	void (*take)(struct smtp_capabilities *, struct span rest);
} keywords[] = {
	{ "STARTTLS",            SMTP_CAP_STARTTLS,            NULL },
	{ "AUTH",                SMTP_CAP_AUTH,                take_auth },
	{ "PIPELINING",          SMTP_CAP_PIPELINING,          NULL },
	{ "SIZE",                SMTP_CAP_SIZE,                take_size },
	{ "8BITMIME",            SMTP_CAP_8BITMIME,            NULL },
	{ "SMTPUTF8",            SMTP_CAP_SMTPUTF8,            NULL },
	{ "CHUNKING",            SMTP_CAP_CHUNKING,            NULL },
	{ "DSN",                 SMTP_CAP_DSN,                 NULL },
	{ "ENHANCEDSTATUSCODES", SMTP_CAP_ENHANCEDSTATUSCODES, NULL },
	{ "LIMITS",              SMTP_CAP_LIMITS,              take_limits },
};
/* clang-format on */

void
smtp_capability_reset(struct smtp_capabilities *caps)
{
	*caps = (struct smtp_capabilities){ 0 };
}

void
smtp_capability_line(struct smtp_capabilities *caps, struct span line)
{
	static const struct span old_auth = { "AUTH=",
		5 }; /* a form older than RFC 2554, still met */
	struct span rest = line, word;

	if (span_starts_nocase(line, old_auth)) {
		caps->set |= SMTP_CAP_AUTH;
		take_auth(caps, span_skip(line, old_auth.len));
		return;
	}
	word = next_word(&rest);
	for (size_t i = 0; i < ARRAY_LEN(keywords); i++) {
		if (!span_equals_nocase(word, span_of(keywords[i].name)))
			continue;
		caps->set |= keywords[i].bit;
		if (keywords[i].take != NULL)
			keywords[i].take(caps, rest);
	}
}

bool
smtp_capability_has_mechanism(const struct smtp_capabilities *caps, const char *name)
{
	struct span rest = span_of(caps->mechanisms);

	for (struct span word = next_word(&rest); word.len > 0; word = next_word(&rest))
		if (span_equals_nocase(word, span_of(name)))
			return true;
	return false;
}
