/* server_verbs.c - the commands of the server session: the table at the end says when each is valid. */
#include "smtp/address.h"
#include "smtp/server_internal.h"

#define IN(state) (1u << SMTP_SERVER_##state)

enum {
	IN_MESSAGE = IN(MAIL) | IN(RCPT) | IN(BDAT) | IN(BDAT_ERROR),
	ANYWHERE = IN(START) | IN(READY) | IN_MESSAGE,
};

/* What every command gets: its argument, without white space around it. */
typedef void verb_fn(struct smtp_server *s, struct span arg);

static bool
takes_nothing(struct smtp_server *s, struct span arg)
{
	if (arg.len > 0)
		server_answer(s, REPLY_NO_ARGUMENT);
	return arg.len == 0;
}

/* ---- Session ---- */

static bool
take_helo_name(struct smtp_server *s, struct span arg)
{
	const char *space = arg.len > 0 ? memchr(arg.data, ' ', arg.len) : NULL;

	if (space != NULL)
		arg.len = (size_t)(space - arg.data);
	if (arg.len == 0 || arg.len > SMTP_HELO_MAX) {
		server_answer(s, REPLY_HELO_NAME);
		return false;
	}
	memcpy(s->helo_text, arg.data, arg.len);
	s->helo = (struct span){ s->helo_text, arg.len };
	s->said_helo = true;
	server_reset(s);
	return true;
}

static void
do_helo(struct smtp_server *s, struct span arg)
{
	if (!take_helo_name(s, arg))
		return;
	s->esmtp = false;
	server_answer_text(s, "250 %.255s\r\n", s->options->hostname);
}

static void
do_ehlo(struct smtp_server *s, struct span arg)
{
	if (!take_helo_name(s, arg))
		return;
	s->esmtp = true;
	server_answer_text(s,
	    "250-%.255s\r\n250-PIPELINING\r\n250-SIZE %llu\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
	    "250-CHUNKING\r\n250-DSN\r\n%s250 ENHANCEDSTATUSCODES\r\n",
	    s->options->hostname, (unsigned long long)s->options->max_message_bytes,
	    s->options->auth_ignore ? "250-AUTH PLAIN LOGIN\r\n" : "");
}

static void
do_rset(struct smtp_server *s, struct span arg)
{
	if (!takes_nothing(s, arg))
		return;
	server_reset(s);
	server_answer(s, REPLY_OK);
}

static void
do_noop(struct smtp_server *s, struct span arg)
{
	(void)arg;
	server_answer(s, REPLY_OK);
}

static void
do_vrfy(struct smtp_server *s, struct span arg)
{
	server_answer(s, arg.len > 0 ? REPLY_VRFY : REPLY_ARGUMENT);
}

static void
do_help(struct smtp_server *s, struct span arg)
{
	(void)arg;
	server_answer(s, REPLY_HELP);
}

static void
do_quit(struct smtp_server *s, struct span arg)
{
	(void)arg;
	server_close(s, REPLY_BYE);
}

static void
do_nothing(struct smtp_server *s, struct span arg)
{
	(void)arg;
	server_answer(s, REPLY_NOT_HERE);
}

static void
do_starttls(struct smtp_server *s, struct span arg)
{
	(void)arg;
	server_answer(s, REPLY_NO_TLS);
}

/* A browser was tricked into talking to us: what follows is its body. */
static void
do_http(struct smtp_server *s, struct span arg)
{
	(void)arg;
	server_close(s, REPLY_HTTP);
}

/* ---- AUTH: any credentials are taken and forgotten ---- */

static void
auth_done(struct smtp_server *s)
{
	s->said_auth = true;
	server_enter(s, SMTP_SERVER_READY);
	server_answer(s, REPLY_AUTH_OK);
}

static void
do_auth(struct smtp_server *s, struct span arg)
{
	const char *space = arg.len > 0 ? memchr(arg.data, ' ', arg.len) : NULL;
	const struct span name = { arg.data, space != NULL ? (size_t)(space - arg.data) : arg.len };
	const bool has_initial = space != NULL;

	if (!s->options->auth_ignore)
		server_answer(s, REPLY_AUTH_OFF);
	else if (s->said_auth)
		server_answer(s, REPLY_AUTH_TWICE);
	else if (span_equals_nocase(name, SPAN("PLAIN")) && has_initial)
		auth_done(s);
	else if (span_equals_nocase(name, SPAN("PLAIN"))) {
		server_enter(s, SMTP_SERVER_AUTH_PLAIN);
		server_answer(s, REPLY_AUTH_ASK);
	} else if (span_equals_nocase(name, SPAN("LOGIN"))) {
		server_enter(s, has_initial ? SMTP_SERVER_AUTH_PASSWORD : SMTP_SERVER_AUTH_USER);
		server_answer(s, has_initial ? REPLY_AUTH_PASSWORD : REPLY_AUTH_USER);
	} else {
		server_answer(s, REPLY_AUTH_MECHANISM);
	}
}

void
server_auth_line(struct smtp_server *s, struct span line)
{
	s->command = "AUTH";
	s->argument = SPAN("");
	if (span_equals(line, SPAN("*"))) {
		server_enter(s, SMTP_SERVER_READY);
		server_answer(s, REPLY_AUTH_CANCELLED);
	} else if (s->state == SMTP_SERVER_AUTH_USER) {
		server_enter(s, SMTP_SERVER_AUTH_PASSWORD);
		server_answer(s, REPLY_AUTH_PASSWORD);
	} else {
		auth_done(s);
	}
}

/* ---- The envelope ---- */

/* "FROM:" or "TO:", then a path; *params is what follows it. */
static enum reply
take_path(struct span arg, struct span keyword, enum reply bad_keyword, enum reply bad_address,
    struct address *address, struct span *params)
{
	size_t used = 0;

	if (!span_starts_nocase(arg, keyword))
		return bad_keyword;
	arg = span_skip(arg, keyword.len);
	while (arg.len > 0 && arg.data[0] == ' ') /* old programs write "FROM: <...>" */
		arg = span_skip(arg, 1);
	switch (address_parse_path(arg, address, &used)) {
	case ADDRESS_OK:
		break;
	case ADDRESS_TOO_LONG:
		return REPLY_ADDRESS_LONG;
	case ADDRESS_BAD_UTF8:
		return REPLY_ADDRESS_UTF8;
	default:
		return bad_address;
	}
	*params = span_skip(arg, used);
	if (params->len > 0 && params->data[0] != ' ')
		return bad_address;
	return REPLY_OK;
}

/* RFC 6409 5.1: an address without a domain is one of this host. */
static bool
store_address(struct smtp_server *s, const struct address *a, struct span *out)
{
	const struct span at = a->local.len > 0 ? SPAN("@") : SPAN("");
	const struct span domain =
	    a->local.len == 0 || a->domain.len > 0 ? a->domain : span_of(s->options->hostname);

	return server_mail_store(s, a->local, at, domain, out);
}

static enum reply
take_mail(struct smtp_server *s, struct span arg)
{
	struct smtp_mail *mail = &s->mail;
	struct span params;
	struct address sender;
	enum reply r =
	    take_path(arg, SPAN("FROM:"), REPLY_MAIL_SYNTAX, REPLY_SENDER, &sender, &params);

	if (r != REPLY_OK)
		return r;
	if (!store_address(s, &sender, &mail->sender))
		return REPLY_ADDRESS_LONG;
	r = server_mail_params(s, params, mail);
	if (r != REPLY_OK)
		return r;
	if (sender.is_utf8 && !mail->smtputf8)
		return REPLY_NEEDS_SMTPUTF8;
	if (!server_mail_store(s, mail->envid, SPAN(""), SPAN(""), &mail->envid))
		return REPLY_ADDRESS_LONG;
	return REPLY_OK;
}

static void
do_mail(struct smtp_server *s, struct span arg)
{
	const enum reply r = take_mail(s, arg);

	if (r != REPLY_OK) {
		s->mail.envid = (struct span){ NULL, 0 }; /* points into the line */
		server_reset(s);
		server_answer(s, r);
		return;
	}
	s->begun = true;
	server_enter(s, SMTP_SERVER_MAIL);
	server_answer(s, REPLY_MAIL_OK);
}

static enum reply
take_rcpt(struct smtp_server *s, struct span arg)
{
	const unsigned most = s->options->max_recipients > 0 ? s->options->max_recipients : 1000;
	struct smtp_recipient recipient = { .notify = 0 };
	struct address address;
	struct span params;
	enum reply r =
	    take_path(arg, SPAN("TO:"), REPLY_RCPT_SYNTAX, REPLY_RECIPIENT, &address, &params);

	if (r == REPLY_OK && address.local.len == 0)
		r = REPLY_RECIPIENT; /* <> is no recipient */
	if (r == REPLY_OK)
		r = server_rcpt_params(s, params, &recipient);
	if (r != REPLY_OK)
		return r;
	if (address.is_utf8 && !s->mail.smtputf8)
		return REPLY_NEEDS_SMTPUTF8;
	if (s->mail.n_recipients >= most || !store_address(s, &address, &recipient.address) ||
	    !server_mail_store(s, recipient.orcpt, SPAN(""), SPAN(""), &recipient.orcpt)) {
		/* Once as many as were taken is patience enough. */
		if (++s->overshoot > most)
			s->errors++;
		return REPLY_TOO_MANY_RCPT;
	}
	server_mail_add(s, &recipient);
	return REPLY_OK;
}

static void
do_rcpt(struct smtp_server *s, struct span arg)
{
	const enum reply r = take_rcpt(s, arg);

	if (r != REPLY_OK) {
		server_answer(s, r);
		return;
	}
	s->commands--; /* a long list of recipients is no idle talk */
	server_enter(s, SMTP_SERVER_RCPT);
	server_answer(s, REPLY_RCPT_OK);
}

/* ---- The content ---- */

static void
do_data(struct smtp_server *s, struct span arg)
{
	if (!takes_nothing(s, arg))
		return;
	if (s->refusal.len > 0) { /* the caller lost his room meanwhile */
		const struct span refusal = s->refusal;

		server_reset(s);
		s->reply = refusal;
		s->reply_pending = true;
		return;
	}
	server_begin_content(s, true);
	server_enter(s, SMTP_SERVER_DATA);
	server_answer(s, REPLY_DATA_GO);
}

/* "count [LAST]". False: the bytes that follow are of unknown length (B1). */
static bool
parse_bdat(struct span arg, uint64_t *count, bool *is_last)
{
	uint64_t n = 0;
	size_t i = 0;

	for (; i < arg.len && arg.data[i] >= '0' && arg.data[i] <= '9'; i++) {
		const unsigned digit = (unsigned)(arg.data[i] - '0');

		if (n > (UINT64_MAX - digit) / 10)
			return false;
		n = n * 10 + digit;
	}
	*count = n;
	*is_last = span_equals_nocase(span_skip(arg, i), SPAN(" LAST"));
	return i > 0 && (*is_last || i == arg.len);
}

/* Why a chunk of this size cannot be taken now, or REPLY_OK. */
static enum reply
bdat_problem(const struct smtp_server *s, uint64_t count, bool is_last)
{
	const uint64_t most = s->options->max_message_bytes;

	switch (s->state) {
	case SMTP_SERVER_START:
		return REPLY_HELO_FIRST;
	case SMTP_SERVER_READY:
		return REPLY_NO_MAIL;
	case SMTP_SERVER_MAIL:
		return REPLY_NO_RCPT;
	case SMTP_SERVER_BDAT_ERROR:
		return REPLY_BDAT_SKIPPED;
	default:
		break;
	}
	if (count == 0 && !is_last)
		return REPLY_BDAT_EMPTY;
	if (most > 0 && (s->mail.body_bytes > most || count > most - s->mail.body_bytes))
		return REPLY_TOO_LARGE;
	return REPLY_OK;
}

static void
do_bdat(struct smtp_server *s, struct span arg)
{
	uint64_t count;
	bool is_last;
	enum reply problem;

	if (!parse_bdat(arg, &count, &is_last)) {
		server_close(s, REPLY_BDAT_SYNTAX);
		return;
	}
	problem = bdat_problem(s, count, is_last);
	if (s->state == SMTP_SERVER_RCPT && problem == REPLY_OK)
		server_begin_content(s, false);
	s->chunk_left = count;
	s->chunk_is_last = is_last;
	if (problem != REPLY_OK)
		server_refuse_message(s, server_reply(problem));
	else if (count >= 512)
		s->commands--; /* tiny chunks count as commands, or they could go on for ever */
	server_enter(s, SMTP_SERVER_CHUNK);
}

/* ---- The table ---- */

/* clang-format off */
static const struct verb {
	const char *name;
	unsigned valid_in;       /* set of states */
	bool ends_group;         /* RFC 2920 3.1: the client must wait for the reply (D10) */
	verb_fn *run;
} verbs[] = {
	{ "MAIL",     IN(READY),           false, do_mail },
	{ "RCPT",     IN(MAIL) | IN(RCPT), false, do_rcpt },
	{ "DATA",     IN(RCPT),            true,  do_data },
	{ "BDAT",     ANYWHERE,            false, do_bdat }, /* takes its bytes whatever is wrong (B2) */
	{ "RSET",     ANYWHERE,            false, do_rset },
	{ "EHLO",     ANYWHERE,            true,  do_ehlo },
	{ "HELO",     ANYWHERE,            true,  do_helo },
	{ "NOOP",     ANYWHERE,            true,  do_noop },
	{ "QUIT",     ANYWHERE,            true,  do_quit },
	{ "VRFY",     ANYWHERE,            true,  do_vrfy },
	{ "HELP",     ANYWHERE,            false, do_help },
	{ "AUTH",     IN(READY),           true,  do_auth },
	{ "STARTTLS", ANYWHERE,            true,  do_starttls },
	{ "EXPN",     ANYWHERE,            true,  do_nothing },
	{ "TURN",     ANYWHERE,            true,  do_nothing },
	{ "ETRN",     ANYWHERE,            true,  do_nothing },
	{ "SEND",     ANYWHERE,            false, do_nothing },
	{ "SOML",     ANYWHERE,            false, do_nothing },
	{ "SAML",     ANYWHERE,            false, do_nothing },
	{ "GET",      ANYWHERE,            false, do_http },
	{ "POST",     ANYWHERE,            false, do_http },
	{ "PUT",      ANYWHERE,            false, do_http },
	{ "HEAD",     ANYWHERE,            false, do_http },
	{ "OPTIONS",  ANYWHERE,            false, do_http },
	{ "CONNECT",  ANYWHERE,            false, do_http },
};
/* clang-format on */

static const struct verb *
find_verb(struct span name)
{
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		if (span_equals_nocase(name, span_of(verbs[i].name)))
			return &verbs[i];
	return NULL;
}

/* Why a known command is not valid now. */
static enum reply
out_of_order(const struct smtp_server *s, const struct verb *verb)
{
	const bool is_mail = verb->run == do_mail, is_auth = verb->run == do_auth;

	switch (s->state) {
	case SMTP_SERVER_START:
		return REPLY_HELO_FIRST;
	case SMTP_SERVER_READY:
		return REPLY_NO_MAIL;
	case SMTP_SERVER_BDAT:
		return REPLY_IN_BDAT;
	case SMTP_SERVER_BDAT_ERROR:
		return REPLY_AFTER_BDAT_ERROR;
	default: /* MAIL, RCPT */
		return is_mail ? REPLY_NESTED_MAIL : is_auth ? REPLY_IN_MAIL : REPLY_NO_RCPT;
	}
}

static struct span
trimmed(struct span text)
{
	while (text.len > 0 && (text.data[0] == ' ' || text.data[0] == '\t'))
		text = span_skip(text, 1);
	while (text.len > 0 && (text.data[text.len - 1] == ' ' || text.data[text.len - 1] == '\t'))
		text.len--;
	return text;
}

/* For the log: which address was it that was refused? */
static void
note_argument(struct smtp_server *s, const struct verb *verb, struct span arg)
{
	size_t len = arg.len < SMTP_ARGUMENT_MAX ? arg.len : SMTP_ARGUMENT_MAX;

	if (verb == NULL || verb->run == do_auth)
		len = 0; /* it may be a password */
	if (len > 0)
		memcpy(s->argument_text, arg.data, len);
	s->argument = (struct span){ s->argument_text, len };
}

bool
server_command(struct smtp_server *s, struct span line)
{
	const char *space = line.len > 0 ? memchr(line.data, ' ', line.len) : NULL;
	const size_t name_len = space != NULL ? (size_t)(space - line.data) : line.len;
	const struct verb *verb = find_verb((struct span){ line.data, name_len });

	const struct span arg = trimmed(span_skip(line, name_len));

	s->command = verb != NULL ? verb->name : "command";
	note_argument(s, verb, arg);
	if (verb == NULL) {
		server_answer(s, REPLY_UNKNOWN);
		return false;
	}
	if (verb->ends_group && s->input_pending) {
		server_close(s, REPLY_SYNC);
		return false;
	}
	if ((verb->valid_in & 1u << s->state) == 0) {
		server_answer(s, out_of_order(s, verb));
		return false;
	}
	verb->run(s, arg);
	return verb->run == do_mail && s->state == SMTP_SERVER_MAIL;
}
