/* server_params.c - what stands behind the address of MAIL and RCPT. */
#include "smtp/address.h"
#include "smtp/server_internal.h"

enum { ENVID_MAX = 100, ORCPT_MAX = 500 }; /* RFC 3461 4.2, 4.4 */

/* The part of `rest` up to `end`, which is taken off together with it; all if there is no `end`. */
static struct span
take_until(struct span *rest, char end)
{
	const char *at = rest->len > 0 ? memchr(rest->data, end, rest->len) : NULL;
	const struct span part = { rest->data, at != NULL ? (size_t)(at - rest->data) : rest->len };

	if (rest->len == 0)
		return part;
	*rest = span_skip(*rest, at != NULL ? part.len + 1 : part.len);
	return part;
}

static bool
parse_number(struct span text, uint64_t *out)
{
	uint64_t n = 0;

	if (text.len == 0 || text.len > 20)
		return false;
	for (size_t i = 0; i < text.len; i++) {
		const unsigned digit = (unsigned char)text.data[i] - (unsigned)'0';

		if (digit > 9)
			return false;
		n = n > (UINT64_MAX - digit) / 10 ? UINT64_MAX : n * 10 + digit;
	}
	*out = n;
	return true;
}

/* ---- MAIL ---- */

static enum reply
take_size(struct smtp_server *s, struct span value, struct smtp_mail *mail)
{
	const uint64_t most = s->options->max_message_bytes;

	if (!parse_number(value, &mail->declared_bytes))
		return REPLY_PARAM_VALUE;
	return most > 0 && mail->declared_bytes > most ? REPLY_TOO_LARGE : REPLY_OK;
}

static enum reply
take_body(struct smtp_server *s, struct span value, struct smtp_mail *mail)
{
	(void)s;
	if (span_equals_nocase(value, SPAN("BINARYMIME")))
		return REPLY_BODY_BINARY;
	if (span_equals_nocase(value, SPAN("7BIT")))
		mail->body = SMTP_BODY_7BIT;
	else if (span_equals_nocase(value, SPAN("8BITMIME")))
		mail->body = SMTP_BODY_8BITMIME;
	else
		return REPLY_PARAM_VALUE;
	return REPLY_OK;
}

static enum reply
take_smtputf8(struct smtp_server *s, struct span value, struct smtp_mail *mail)
{
	(void)s;
	if (value.data != NULL)
		return REPLY_PARAM_VALUE;
	mail->smtputf8 = true;
	return REPLY_OK;
}

static enum reply
take_ret(struct smtp_server *s, struct span value, struct smtp_mail *mail)
{
	(void)s;
	if (span_equals_nocase(value, SPAN("FULL")))
		mail->ret = SMTP_RET_FULL;
	else if (span_equals_nocase(value, SPAN("HDRS")))
		mail->ret = SMTP_RET_HDRS;
	else
		return REPLY_PARAM_VALUE;
	return REPLY_OK;
}

static enum reply
take_envid(struct smtp_server *s, struct span value, struct smtp_mail *mail)
{
	char decoded[ENVID_MAX];
	const long len = xtext_decode(value, decoded, sizeof(decoded));

	(void)s;
	if (len <= 0)
		return REPLY_PARAM_VALUE;
	for (long i = 0; i < len; i++)
		if (((unsigned char)decoded[i] & 0x80) != 0)
			return REPLY_PARAM_VALUE;
	mail->envid = value;
	return REPLY_OK;
}

/* RFC 4954 section 5: who is said to have sent it. We believe nobody, so it is read and forgotten. */
static enum reply
take_auth(struct smtp_server *s, struct span value, struct smtp_mail *mail)
{
	char decoded[ADDRESS_MAX];

	(void)mail;
	if (!s->options->auth_ignore)
		return REPLY_PARAM_UNKNOWN;
	return xtext_decode(value, decoded, sizeof(decoded)) > 0 ? REPLY_OK : REPLY_PARAM_VALUE;
}

/* ---- RCPT ---- */

static enum reply
take_notify(struct smtp_server *s, struct span value, struct smtp_recipient *recipient)
{
	static const struct {
		const char *word;
		unsigned bit;
	} words[] = {
		{ "SUCCESS", SMTP_NOTIFY_SUCCESS },
		{ "FAILURE", SMTP_NOTIFY_FAILURE },
		{ "DELAY", SMTP_NOTIFY_DELAY },
		{ "NEVER", SMTP_NOTIFY_NEVER },
	};
	unsigned set = 0;

	(void)s;
	do {
		const bool is_last = value.len == 0 || memchr(value.data, ',', value.len) == NULL;
		const struct span word = take_until(&value, ',');
		unsigned bit = 0;

		for (size_t i = 0; i < ARRAY_LEN(words); i++)
			if (span_equals_nocase(word, span_of(words[i].word)))
				bit = words[i].bit;
		if (bit == 0 || (set & bit) != 0)
			return REPLY_PARAM_VALUE;
		set |= bit;
		if (is_last)
			break;
	} while (true);
	if ((set & SMTP_NOTIFY_NEVER) != 0 && set != SMTP_NOTIFY_NEVER)
		return REPLY_PARAM_VALUE;
	recipient->notify = set;
	return REPLY_OK;
}

static bool
is_atom(struct span text)
{
	for (size_t i = 0; i < text.len; i++)
		if (text.data[i] <= 0x20 || text.data[i] == 0x7f ||
		    strchr("()<>[]:;@\\,.\"=+", text.data[i]) != NULL)
			return false;
	return text.len > 0;
}

static enum reply
take_orcpt(struct smtp_server *s, struct span value, struct smtp_recipient *recipient)
{
	char decoded[ORCPT_MAX];
	struct span address = value;
	const struct span type = take_until(&address, ';');

	if (value.len > ORCPT_MAX || address.len == 0 || !is_atom(type))
		return REPLY_PARAM_VALUE;
	/* RFC 6533: after "utf-8;" the address may stand as it is, if the message is SMTPUTF8. */
	if (!(s->mail.smtputf8 && span_equals_nocase(type, SPAN("utf-8")) &&
	        address_is_utf8(address)) &&
	    xtext_decode(address, decoded, sizeof(decoded)) <= 0)
		return REPLY_PARAM_VALUE;
	recipient->orcpt = value;
	return REPLY_OK;
}

/* ---- The tables ---- */

/* clang-format off */
static const struct mail_param {
	const char *key;
	enum reply (*take)(struct smtp_server *, struct span, struct smtp_mail *);
} mail_params[] = {
	{ "SIZE", take_size },         /* RFC 1870 */
	{ "BODY", take_body },         /* RFC 6152 */
	{ "SMTPUTF8", take_smtputf8 }, /* RFC 6531 */
	{ "RET", take_ret },           /* RFC 3461 */
	{ "ENVID", take_envid },
	{ "AUTH", take_auth },         /* RFC 4954 */
};

static const struct rcpt_param {
	const char *key;
	enum reply (*take)(struct smtp_server *, struct span, struct smtp_recipient *);
} rcpt_params[] = {
	{ "NOTIFY", take_notify },     /* RFC 3461 */
	{ "ORCPT", take_orcpt },
};
/* clang-format on */

/* The next " KEY[=VALUE]" of `rest`. VALUE of a parameter without '=' has no data. */
static bool
next_param(struct span *rest, struct span *key, struct span *value)
{
	struct span param = { NULL, 0 };

	while (rest->len > 0 && param.len == 0)
		param = take_until(rest, ' ');
	if (param.len == 0)
		return false;
	*value = param;
	*key = take_until(value, '=');
	if (key->len == param.len)
		*value = (struct span){ NULL, 0 };
	return true;
}

enum reply
server_mail_params(struct smtp_server *s, struct span params, struct smtp_mail *mail)
{
	struct span key, value;
	unsigned seen = 0;

	while (next_param(&params, &key, &value)) {
		size_t i = 0;
		enum reply r;

		while (i < ARRAY_LEN(mail_params) &&
		       !span_equals_nocase(key, span_of(mail_params[i].key)))
			i++;
		if (i == ARRAY_LEN(mail_params))
			return REPLY_PARAM_UNKNOWN;
		if ((seen & 1u << i) != 0)
			return REPLY_PARAM_TWICE;
		seen |= 1u << i;
		r = mail_params[i].take(s, value, mail);
		if (r != REPLY_OK)
			return r;
	}
	return REPLY_OK;
}

enum reply
server_rcpt_params(struct smtp_server *s, struct span params, struct smtp_recipient *recipient)
{
	struct span key, value;
	unsigned seen = 0;

	while (next_param(&params, &key, &value)) {
		size_t i = 0;
		enum reply r;

		while (i < ARRAY_LEN(rcpt_params) &&
		       !span_equals_nocase(key, span_of(rcpt_params[i].key)))
			i++;
		if (i == ARRAY_LEN(rcpt_params))
			return REPLY_PARAM_UNKNOWN;
		if ((seen & 1u << i) != 0)
			return REPLY_PARAM_TWICE;
		seen |= 1u << i;
		r = rcpt_params[i].take(s, value, recipient);
		if (r != REPLY_OK)
			return r;
	}
	return REPLY_OK;
}
