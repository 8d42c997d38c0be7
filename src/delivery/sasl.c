/* sasl.c - the only file that meets libgsasl. Mechanisms are rows; what differs from RFC to RFC is in
 * a row's step. The iteration count of SCRAM is bounded here, because hashing a billion times in an
 * event loop is how a hostile upstream would stop all the others; what the upstream has to prove is
 * demanded in finish(): a 235 without a verified server signature is not a login (RFC 5802 5). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <gsasl.h>

#include "delivery/sasl.h"
#include "delivery/tls.h"
#include "smtp/base64.h"

#define SCRAM_ITERATIONS_MIN 4096 /* RFC 7677 4 */
#define SCRAM_ITERATIONS_MAX 600000
#define SECRET_MAX 8192

enum needs { NEEDS_NOTHING, NEEDS_PASSWORD, NEEDS_TOKEN };

typedef enum smtp_auth_result sasl_step_fn(
    struct sasl *s, struct span challenge, char *out, size_t *len, struct smtp_trouble *trouble);

struct mechanism {
	const char *name;
	enum config_auth setting; /* which auth = ... allows it, besides auto */
	enum needs needs;
	bool client_first;
	bool binds;   /* -PLUS: only with a channel binding */
	bool is_auto; /* auth = auto may take it */
	bool proves;  /* the upstream has to prove that it knows the password too */
	sasl_step_fn *step;
};

static sasl_step_fn library_step, xoauth2_step, oauthbearer_step;

/* Strongest first: auto takes the first row that is offered and can be done. A token mechanism comes
 * last in auto: when nothing else is offered, the secret can only be a token. */
/* clang-format off */
static const struct mechanism mechanisms[] = {
	/* name                  setting                    needs           first  binds  auto   proves step */
	{ "SCRAM-SHA-256-PLUS",  CONFIG_AUTH_SCRAM_SHA_256, NEEDS_PASSWORD, true,  true,  true,  true,  library_step },
	{ "SCRAM-SHA-256",       CONFIG_AUTH_SCRAM_SHA_256, NEEDS_PASSWORD, true,  false, true,  true,  library_step },
	{ "SCRAM-SHA-1-PLUS",    CONFIG_AUTH_SCRAM_SHA_1,   NEEDS_PASSWORD, true,  true,  true,  true,  library_step },
	{ "SCRAM-SHA-1",         CONFIG_AUTH_SCRAM_SHA_1,   NEEDS_PASSWORD, true,  false, true,  true,  library_step },
	{ "CRAM-MD5",            CONFIG_AUTH_CRAM_MD5,      NEEDS_PASSWORD, false, false, true,  false, library_step },
	{ "PLAIN",               CONFIG_AUTH_PLAIN,         NEEDS_PASSWORD, true,  false, true,  false, library_step },
	{ "LOGIN",               CONFIG_AUTH_LOGIN,         NEEDS_PASSWORD, false, false, true,  false, library_step },
	{ "OAUTHBEARER",         CONFIG_AUTH_OAUTHBEARER,   NEEDS_TOKEN,    true,  false, true,  false, oauthbearer_step },
	{ "XOAUTH2",             CONFIG_AUTH_XOAUTH2,       NEEDS_TOKEN,    true,  false, true,  false, xoauth2_step },
	{ "EXTERNAL",            CONFIG_AUTH_EXTERNAL,      NEEDS_NOTHING,  true,  false, true,  false, library_step },
};
/* clang-format on */

struct sasl {
	struct smtp_auth auth; /* first: the client machine holds a pointer to it */
	const struct config_upstream *upstream;
	char *secret;
	size_t secret_len;
	const struct tls_session *tls;
	const struct mechanism *mechanism;
	Gsasl *library;
	Gsasl_session *session;
	unsigned steps;
	bool proven;
	struct smtp_buffer said; /* our responses in base64, a space after each */
	char refusal[200];       /* what the upstream said inside the mechanism (OAuth's JSON) */
};

static void hide(struct smtp_auth *auth, char *text);

static struct sasl *
sasl_of(struct smtp_auth *auth)
{
	return (struct sasl *)(void *)auth;
}

/* ---- choosing ---- */

static size_t
channel_binding(const struct sasl *s, unsigned char out[64], Gsasl_property *property)
{
	size_t n = 0;

	if (s->tls == NULL)
		return 0;
	*property = GSASL_CB_TLS_EXPORTER;
	n = tls_session_exporter(s->tls, out);
	if (n > 0)
		return n;
	*property = GSASL_CB_TLS_UNIQUE;
	return tls_session_unique(s->tls, out);
}

static bool
is_allowed(const struct sasl *s, const struct mechanism *m)
{
	unsigned char cb[64];
	Gsasl_property property = GSASL_CB_TLS_EXPORTER;

	if (s->upstream->auth != CONFIG_AUTH_AUTO)
		return s->upstream->auth == m->setting &&
		       (!m->binds || channel_binding(s, cb, &property));
	if (m->setting == CONFIG_AUTH_EXTERNAL &&
	    (s->upstream->tls_cert == NULL || s->secret != NULL))
		return false;
	return m->is_auto && (m->needs == NEEDS_NOTHING || s->secret != NULL) &&
	       (!m->binds || channel_binding(s, cb, &property));
}

/* Some providers want the token as user name and password (Postmark). */
static const char *
user_name(const struct sasl *s)
{
	return s->upstream->username_is_password ? s->secret : s->upstream->username;
}

static int
set_property(struct sasl *s, Gsasl_property property, const char *value)
{
	return value != NULL ? gsasl_property_set(s->session, property, value) : GSASL_OK;
}

static bool
start_library(struct sasl *s, struct smtp_trouble *trouble)
{
	unsigned char cb[64];
	Gsasl_property property = GSASL_CB_TLS_EXPORTER;
	size_t n = channel_binding(s, cb, &property);
	char text[BASE64_SIZE(64)];
	int r = gsasl_init(&s->library);

	if (r == GSASL_OK)
		r = gsasl_client_start(s->library, s->mechanism->name, &s->session);
	if (r == GSASL_OK)
		r = set_property(s, GSASL_AUTHID, user_name(s));
	if (r == GSASL_OK && s->mechanism->setting == CONFIG_AUTH_EXTERNAL)
		r = set_property(s, GSASL_AUTHZID, s->upstream->username);
	if (r == GSASL_OK)
		r = set_property(s, GSASL_PASSWORD, s->secret);
	if (r == GSASL_OK && n > 0 && s->mechanism->binds) {
		base64_encode((struct span){ (const char *)cb, n }, text);
		r = gsasl_property_set(s->session, property, text);
	}
	if (r != GSASL_OK)
		smtp_trouble_why(
		    trouble, "%s cannot be begun: %s", s->mechanism->name, gsasl_strerror(r));
	return r == GSASL_OK;
}

static void
explain_no_mechanism(
    const struct sasl *s, const struct smtp_capabilities *caps, struct smtp_trouble *trouble)
{
	const char *setting = config_auth_name(s->upstream->auth);

	if (!smtp_capability_has(caps, SMTP_CAP_AUTH)) {
		smtp_trouble_why(trouble, "the upstream offers no login (AUTH) here");
		smtp_trouble_fix(trouble,
		    "check host, port and tls of upstream \"%s\"; auth = none if it wants no login",
		    s->upstream->name);
		return;
	}
	smtp_trouble_why(trouble,
	    "the upstream offers no login that auth = %s allows; it offers:%s", setting,
	    caps->mechanisms);
	smtp_trouble_fix(trouble, "set auth of upstream \"%s\" to one of those", s->upstream->name);
}

static const char *
choose(struct smtp_auth *auth, const struct smtp_capabilities *caps, struct smtp_trouble *trouble,
    enum smtp_end_kind *kind)
{
	struct sasl *s = sasl_of(auth);
	const struct config_upstream *u = s->upstream;

	*trouble = (struct smtp_trouble){ 0 };
	if (s->secret == NULL && u->auth != CONFIG_AUTH_EXTERNAL &&
	    !(u->auth == CONFIG_AUTH_AUTO && u->tls_cert != NULL)) {
		*kind = SMTP_END_NO_SECRET;
		smtp_trouble_why(trouble, "there is no password for \"%s\"",
		    u->username != NULL ? u->username : "");
		smtp_trouble_fix(trouble,
		    "set password-file, password-credential or password-command of upstream \"%s\"",
		    u->name);
		return NULL;
	}
	for (size_t i = 0; i < ARRAY_LEN(mechanisms); i++) {
		const struct mechanism *m = &mechanisms[i];

		if (!smtp_capability_has_mechanism(caps, m->name) || !is_allowed(s, m))
			continue;
		s->mechanism = m;
		auth->client_first = m->client_first;
		*kind = SMTP_END_AUTH;
		if (m->step == library_step && !start_library(s, trouble))
			return NULL;
		return m->name;
	}
	*kind = SMTP_END_NO_AUTH;
	explain_no_mechanism(s, caps, trouble);
	return NULL;
}

/* ---- the library's mechanisms ---- */

/* The iteration count in SCRAM's server-first message "r=...,s=...,i=4096"; -1: there is none. */
static long
scram_iterations(struct span message)
{
	long n = 0;

	for (size_t i = 0; i + 2 < message.len; i++) {
		if (message.data[i] != 'i' || message.data[i + 1] != '=' ||
		    (i > 0 && message.data[i - 1] != ','))
			continue;
		for (i += 2; i < message.len && message.data[i] >= '0' && message.data[i] <= '9';
		     i++)
			if (n <= SCRAM_ITERATIONS_MAX)
				n = n * 10 + (message.data[i] - '0');
		return n;
	}
	return -1;
}

static bool
is_bearable(const struct sasl *s, struct span challenge, struct smtp_trouble *trouble)
{
	long n = s->mechanism->proves && s->steps == 2 ? scram_iterations(challenge) : -1;

	if (n < 0 || (n >= SCRAM_ITERATIONS_MIN && n <= SCRAM_ITERATIONS_MAX))
		return true;
	smtp_trouble_why(trouble, "the upstream wants %ld rounds of %s; between %d and %d are sane",
	    n, s->mechanism->name, SCRAM_ITERATIONS_MIN, SCRAM_ITERATIONS_MAX);
	return false;
}

static enum smtp_auth_result
library_step(
    struct sasl *s, struct span challenge, char *out, size_t *len, struct smtp_trouble *trouble)
{
	char *response = NULL;
	size_t n = 0;
	int r;

	if (!is_bearable(s, challenge, trouble))
		return SMTP_AUTH_CANCEL;
	r = gsasl_step(s->session, challenge.data, challenge.len, &response, &n);
	if (r == GSASL_OK)
		s->proven = true;
	if ((r != GSASL_OK && r != GSASL_NEEDS_MORE) || n > SMTP_AUTH_BYTES_MAX) {
		smtp_trouble_why(trouble, "%s failed on our side: %s", s->mechanism->name,
		    r == GSASL_AUTHENTICATION_ERROR
		        ? "the upstream could not prove that it knows the password"
		        : gsasl_strerror(r));
		r = GSASL_AUTHENTICATION_ERROR;
	} else if (n > 0) {
		memcpy(out, response, n);
		*len = n;
	}
	if (response != NULL)
		wipe(response, n);
	gsasl_free(response);
	return r == GSASL_OK || r == GSASL_NEEDS_MORE ? SMTP_AUTH_SEND : SMTP_AUTH_CANCEL;
}

/* ---- ours ---- */

/* After the token went out, a challenge is an error in JSON; `answer` asks for the final 535. */
static enum smtp_auth_result
token_refused(struct sasl *s, struct span challenge, struct span answer, char *out, size_t *len)
{
	smtp_reply_clean(challenge, s->refusal, sizeof(s->refusal));
	hide(&s->auth, s->refusal);
	if (answer.len > 0)
		memcpy(out, answer.data, answer.len);
	*len = answer.len;
	return SMTP_AUTH_SEND;
}

static enum smtp_auth_result
too_long(struct smtp_trouble *trouble)
{
	smtp_trouble_why(trouble, "user name and token are too long for one AUTH command");
	return SMTP_AUTH_CANCEL;
}

static enum smtp_auth_result
xoauth2_step(
    struct sasl *s, struct span challenge, char *out, size_t *len, struct smtp_trouble *trouble)
{
	int n;

	if (s->steps > 1)
		return token_refused(s, challenge, SPAN(""), out, len);
	n = snprintf(out, SMTP_AUTH_BYTES_MAX, "user=%s\001auth=Bearer %s\001\001",
	    s->upstream->username != NULL ? s->upstream->username : "", s->secret);
	if (n >= SMTP_AUTH_BYTES_MAX)
		return too_long(trouble);
	*len = (size_t)n;
	return SMTP_AUTH_SEND;
}

/* RFC 5801 4: "=" and "," in a saslname are =3D and =2C. */
static void
saslname(const char *name, char *out, size_t size)
{
	size_t n = 0;

	for (; name != NULL && *name != '\0' && n + 4 < size; name++) {
		if (*name == '=' || *name == ',') {
			memcpy(out + n, *name == '=' ? "=3D" : "=2C", 3);
			n += 3;
		} else {
			out[n++] = *name;
		}
	}
	out[n] = '\0';
}

static enum smtp_auth_result
oauthbearer_step(
    struct sasl *s, struct span challenge, char *out, size_t *len, struct smtp_trouble *trouble)
{
	char name[800];
	int n;

	if (s->steps > 1)
		return token_refused(s, challenge, SPAN("\001"), out, len);
	saslname(s->upstream->username, name, sizeof(name));
	n = snprintf(out, SMTP_AUTH_BYTES_MAX,
	    "n,%s%s,\001host=%s\001port=%u\001auth=Bearer %s\001\001", name[0] != '\0' ? "a=" : "",
	    name, s->upstream->host, s->upstream->port, s->secret);
	if (n >= SMTP_AUTH_BYTES_MAX)
		return too_long(trouble);
	*len = (size_t)n;
	return SMTP_AUTH_SEND;
}

/* ---- the object ---- */

static void
remember(struct sasl *s, struct span response)
{
	char *text = smtp_buffer_reserve(&s->said, BASE64_SIZE(response.len));
	size_t n = base64_encode(response, text);

	text[n] = ' ';
	smtp_buffer_commit(&s->said, n + 1);
}

static void
hide(struct smtp_auth *auth, char *text)
{
	static const char base64[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
	struct sasl *s = sasl_of(auth);
	struct span said = smtp_buffer_span(&s->said);
	char *at;

	if (s->secret != NULL && s->secret_len >= 4)
		for (at = text; (at = strstr(at, s->secret)) != NULL; at += s->secret_len)
			memset(at, '*', s->secret_len);
	for (at = text; *at != '\0'; at += *at != '\0') {
		size_t n = strspn(at, base64);

		if (n >= 8 && said.len > 0 && memmem(said.data, said.len, at, n) != NULL)
			memset(at, '*', n);
		at += n;
	}
}

static enum smtp_auth_result
step(struct smtp_auth *auth, struct span challenge, char *out, size_t *len,
    struct smtp_trouble *trouble)
{
	struct sasl *s = sasl_of(auth);

	s->steps++;
	if (!s->mechanism->client_first && s->steps == 1)
		s->steps++; /* step 1 is always ours, whether it is sent or not */
	if (s->mechanism->step(s, challenge, out, len, trouble) != SMTP_AUTH_SEND)
		return SMTP_AUTH_CANCEL;
	remember(s, (struct span){ out, *len });
	return SMTP_AUTH_SEND;
}

static bool
finish(struct smtp_auth *auth, struct smtp_trouble *trouble)
{
	struct sasl *s = sasl_of(auth);

	if (!s->mechanism->proves || s->proven)
		return true;
	smtp_trouble_why(trouble,
	    "the upstream said yes to the login without proving that it knows the password (%s)",
	    s->mechanism->name);
	smtp_trouble_fix(
	    trouble, "somebody may stand between here and upstream \"%s\"", s->upstream->name);
	return false;
}

struct sasl *
sasl_new(const struct config_upstream *upstream, struct span secret)
{
	struct sasl *s = xcalloc(1, sizeof(*s));

	s->upstream = upstream;
	s->auth =
	    (struct smtp_auth){ .choose = choose, .step = step, .finish = finish, .hide = hide };
	/* A NUL would cut the secret short in silence: such a one cannot be right. */
	if (secret.data != NULL && secret.len <= SECRET_MAX &&
	    memchr(secret.data, '\0', secret.len) == NULL) {
		s->secret = xstrndup(secret.data, secret.len);
		s->secret_len = secret.len;
	}
	return s;
}

void
sasl_free(struct sasl *s)
{
	if (s == NULL)
		return;
	if (s->session != NULL)
		gsasl_finish(s->session);
	if (s->library != NULL)
		gsasl_done(s->library);
	wipe(s->secret, s->secret_len);
	free(s->secret);
	wipe(s->said.data, s->said.size);
	smtp_buffer_fini(&s->said);
	free(s);
}

void
sasl_set_tls(struct sasl *s, const struct tls_session *tls)
{
	s->tls = tls;
}

struct smtp_auth *
sasl_auth(struct sasl *s)
{
	const struct config_upstream *u = s->upstream;

	if (u->auth == CONFIG_AUTH_NONE || (u->auth == CONFIG_AUTH_AUTO && u->username == NULL &&
	                                       s->secret == NULL && u->tls_cert == NULL))
		return NULL;
	return &s->auth;
}

const char *
sasl_refusal(const struct sasl *s)
{
	return s->refusal;
}
