/* options.c - see options.h. */
#include <errno.h>
#include <stdlib.h>

#include "base/options.h"
#include "base/span.h"
#include "base/units.h"

static const char *const bool_words[] = { "false", "true", NULL };
static const char *const tls_words[] = { "starttls", "implicit", "none", NULL };
static const char *const auth_words[] = { "auto", "plain", "login", "cram-md5", "scram-sha-1",
	"scram-sha-256", "xoauth2", "oauthbearer", "external", "none", NULL };
static const char *const listen_auth_words[] = { "none", "ignore", NULL };
static const char *const line_end_words[] = { "normalize", "reject", NULL };
static const char *const nul_words[] = { "reject", "space", NULL };
static const char *const target_words[] = { "auto", "journal", "stderr", "json", NULL };
static const char *const level_words[] = { "error", "warning", "info", "debug", NULL };

#define TOP(member) offsetof(struct config, member)
#define LISTEN(member) offsetof(struct config_listen, member)
#define UPSTREAM(member) offsetof(struct config_upstream, member)

/* clang-format off */
const struct option options[] = {
	{ BLOCK_TOP, "hostname", OPTION_STRING, TOP(hostname), NULL, NULL, NULL, NULL,
	  "web1.example.com", "what relayd calls itself in EHLO, Received and delivery reports; default: the machine's name" },
	{ BLOCK_TOP, "postmaster", OPTION_STRING, TOP(postmaster), NULL, NULL, NULL, NULL,
	  "ops@example.com", "who is told what no sender can be told; without one such mail is held" },
	{ BLOCK_TOP, "user", OPTION_STRING, TOP(user), "relayd", NULL, NULL, NULL,
	  NULL, "who the workers run as when started as root; \"\" = stay who you are" },
	{ BLOCK_TOP, "clients", OPTION_NETWORKS, TOP(clients), "{\"127.0.0.0/8\", \"::1\"}", NULL, NULL, NULL,
	  NULL, "who may submit by TCP: addresses and networks" },
	{ BLOCK_TOP, "drain", OPTION_TIME, TOP(drain_ms), "30s", "1s", "15m", NULL,
	  NULL, "how long the old workers may finish their sessions after a reload or stop" },

	{ BLOCK_SPOOL, "directory", OPTION_PATH, TOP(spool.directory), "/var/spool/relayd", NULL, NULL, NULL,
	  NULL, "where accepted mail stands" },
	{ BLOCK_SPOOL, "min-free", OPTION_BYTES, TOP(spool.min_free_bytes), "96M", NULL, "1024G", NULL,
	  NULL, "room to leave on the file system, at least six of segment; with less, new mail is answered with 452" },
	{ BLOCK_SPOOL, "max-message", OPTION_BYTES, TOP(spool.max_message_bytes), "50M", "1K", "2G", NULL,
	  NULL, "the largest message accepted" },
	{ BLOCK_SPOOL, "segment", OPTION_BYTES, TOP(spool.segment_bytes), "16M", "1M", "1G", NULL,
	  NULL, "size of a spool file" },

	{ BLOCK_CONTROL, "socket", OPTION_PATH, TOP(control.socket), "/run/relayd/control", NULL, NULL, NULL,
	  NULL, "where relayctl finds relayd" },

	{ BLOCK_RETRY, "first", OPTION_TIME, TOP(retry.first_ms), "1m", "1s", "1d", NULL,
	  NULL, "the wait after the first failed attempt; it doubles each time" },
	{ BLOCK_RETRY, "max", OPTION_TIME, TOP(retry.max_ms), "4h", "1s", "7d", NULL,
	  NULL, "the longest wait between two attempts" },
	{ BLOCK_RETRY, "expire", OPTION_TIME, TOP(retry.expire_ms), "5d", "1s", "60d", NULL,
	  NULL, "the age at which a message goes back to its sender" },
	{ BLOCK_RETRY, "warn", OPTION_TIME, TOP(retry.warn_ms), "4h", NULL, "60d", NULL,
	  NULL, "the age at which the sender is told that a message is late; 0 = never" },

	{ BLOCK_LIMITS, "connections", OPTION_COUNT, TOP(limits.connections), "4000", "1", "100000", NULL,
	  NULL, "clients at once, in all" },
	{ BLOCK_LIMITS, "connections-per-client", OPTION_COUNT, TOP(limits.connections_per_client), "2000", "1", "100000", NULL,
	  NULL, "clients at once from one address, or one local user" },
	{ BLOCK_LIMITS, "recipients", OPTION_COUNT, TOP(limits.recipients), "1000", "1", "50000", NULL,
	  NULL, "recipients of one message" },
	{ BLOCK_LIMITS, "errors", OPTION_COUNT, TOP(limits.errors), "20", "1", "10000", NULL,
	  NULL, "refused commands before a session is ended" },
	{ BLOCK_LIMITS, "commands", OPTION_COUNT, TOP(limits.commands), "2000", "10", "1000000", NULL,
	  NULL, "commands without a message in between before a session is ended" },
	{ BLOCK_LIMITS, "command-timeout", OPTION_TIME, TOP(limits.command_timeout_ms), "5m", "1s", "1d", NULL,
	  NULL, "the time for one command, or one block of a message" },
	{ BLOCK_LIMITS, "session-timeout", OPTION_TIME, TOP(limits.session_timeout_ms), "1d", "1s", "30d", NULL,
	  NULL, "the time for one session" },
	{ BLOCK_LIMITS, "dsn-per-hour", OPTION_COUNT, TOP(limits.dsn_per_hour), "100", "0", "100000", NULL,
	  NULL, "delivery reports that relayd writes in an hour" },

	{ BLOCK_LOG, "target", OPTION_WORD, TOP(log.target), "auto", NULL, NULL, target_words,
	  NULL, "where events go; auto = the journal when started by systemd, else stderr" },
	{ BLOCK_LOG, "level", OPTION_WORD, TOP(log.level), "info", NULL, NULL, level_words,
	  NULL, "the least important events that are logged" },

	{ BLOCK_LISTEN, "auth", OPTION_WORD, LISTEN(auth), "none", NULL, NULL, listen_auth_words,
	  NULL, "ignore = offer AUTH, take any login and throw it away, for programs that insist" },
	{ BLOCK_LISTEN, "line-end", OPTION_WORD, LISTEN(line_end), "normalize", NULL, NULL, line_end_words,
	  NULL, "a bare LF or CR: normalize = it becomes CR LF or a space, reject = 550" },
	{ BLOCK_LISTEN, "nul", OPTION_WORD, LISTEN(nul), "reject", NULL, NULL, nul_words,
	  NULL, "a NUL byte in a message: reject = 550, space = becomes a space" },
	{ BLOCK_LISTEN, "optional", OPTION_BOOL, LISTEN(optional), "false", NULL, NULL, bool_words,
	  NULL, "go on without this listener where it cannot be opened" },

	/* relayd's own: canonical text has other lines than the file that it was made from */
	{ BLOCK_UPSTREAM, "place", OPTION_STRING, UPSTREAM(place), NULL, NULL, NULL, NULL,
	  NULL, NULL },
	{ BLOCK_UPSTREAM, "preset", OPTION_STRING, UPSTREAM(preset), NULL, NULL, NULL, NULL,
	  "gmail", "a provider that relayd knows: gives host, port, tls and limits; settings here win" },
	{ BLOCK_UPSTREAM, "region", OPTION_STRING, UPSTREAM(region), NULL, NULL, NULL, NULL,
	  "eu-west-1", "which of the provider's regions, for the presets that have some" },
	{ BLOCK_UPSTREAM, "host", OPTION_STRING, UPSTREAM(host), NULL, NULL, NULL, NULL,
	  "smtp.example.com", "name or address of the provider's server" },
	{ BLOCK_UPSTREAM, "port", OPTION_COUNT, UPSTREAM(port), "587", "1", "65535", NULL,
	  NULL, "its port; default with tls = implicit: 465" },
	{ BLOCK_UPSTREAM, "tls", OPTION_WORD, UPSTREAM(tls), "starttls", NULL, NULL, tls_words,
	  NULL, "how the connection is encrypted; default with port = 465: implicit" },
	{ BLOCK_UPSTREAM, "tls-ca", OPTION_PATH, UPSTREAM(tls_ca), NULL, NULL, NULL, NULL,
	  "ca.pem", "the certificate authorities to trust (PEM); default: the system's" },
	{ BLOCK_UPSTREAM, "tls-verify", OPTION_BOOL, UPSTREAM(tls_verify), "true", NULL, NULL, bool_words,
	  NULL, "false = send password and mail to whoever answers" },
	{ BLOCK_UPSTREAM, "tls-fingerprint", OPTION_STRING, UPSTREAM(tls_fingerprint), NULL, NULL, NULL, NULL,
	  "sha256:0123…", "trust exactly the certificate with this SHA-256, whoever signed it" },
	{ BLOCK_UPSTREAM, "tls-cert", OPTION_PATH, UPSTREAM(tls_cert), NULL, NULL, NULL, NULL,
	  "client.pem", "our own certificate, for upstreams that ask for one (PEM)" },
	{ BLOCK_UPSTREAM, "tls-key", OPTION_PATH, UPSTREAM(tls_key), NULL, NULL, NULL, NULL,
	  "client.key", "its private key (PEM)" },
	{ BLOCK_UPSTREAM, "auth", OPTION_WORD, UPSTREAM(auth), "auto", NULL, NULL, auth_words,
	  NULL, "how to log in; auto = the strongest that the upstream offers" },
	{ BLOCK_UPSTREAM, "username", OPTION_STRING, UPSTREAM(username), NULL, NULL, NULL, NULL,
	  "me@example.com", "the account's name" },
	{ BLOCK_UPSTREAM, "password-file", OPTION_PATH, UPSTREAM(password_file), NULL, NULL, NULL, NULL,
	  "/etc/relayd/password", "file that holds the password or token, readable by root or relayd only" },
	{ BLOCK_UPSTREAM, "password-credential", OPTION_STRING, UPSTREAM(password_credential), NULL, NULL, NULL, NULL,
	  "smtp-password", "name of a systemd credential (LoadCredential=) that holds it" },
	{ BLOCK_UPSTREAM, "password-command", OPTION_STRING, UPSTREAM(password_command), NULL, NULL, NULL, NULL,
	  "oama access me@example.com", "command that prints it" },
	{ BLOCK_UPSTREAM, "password-refresh", OPTION_TIME, UPSTREAM(password_refresh_ms), "50m", "1s", "365d", NULL,
	  NULL, "how often password-command runs again" },
	{ BLOCK_UPSTREAM, "connections", OPTION_COUNT, UPSTREAM(connections), "4", "1", "1000", NULL,
	  NULL, "connections at once" },
	{ BLOCK_UPSTREAM, "messages-per-connection", OPTION_COUNT, UPSTREAM(messages_per_connection), "100", "1", "1000000", NULL,
	  NULL, "messages sent before a connection is made anew" },
	{ BLOCK_UPSTREAM, "recipients-per-message", OPTION_COUNT, UPSTREAM(recipients_per_message), "100", "1", "50000", NULL,
	  NULL, "recipients sent in one go; a message with more is sent several times" },
	{ BLOCK_UPSTREAM, "rate", OPTION_RATE, UPSTREAM(rate), "0", NULL, NULL, NULL,
	  NULL, "the most messages in a time: 14/s, 30/m, 500/h; 0 = no limit" },
	{ BLOCK_UPSTREAM, "daily", OPTION_COUNT, UPSTREAM(daily), "0", NULL, NULL, NULL,
	  NULL, "the most messages in 24 hours; 0 = no limit" },
	{ BLOCK_UPSTREAM, "idle-timeout", OPTION_TIME, UPSTREAM(idle_ms), "30s", "1ms", "1h", NULL,
	  NULL, "how long an unused connection is kept" },
	{ BLOCK_UPSTREAM, "connect-timeout", OPTION_TIME, UPSTREAM(connect_timeout_ms), "30s", "100ms", "10m", NULL,
	  NULL, "the wait for a connection and its TLS" },
	{ BLOCK_UPSTREAM, "command-timeout", OPTION_TIME, UPSTREAM(command_timeout_ms), "5m", "100ms", "1h", NULL,
	  NULL, "the wait for a reply" },
	{ BLOCK_UPSTREAM, "data-timeout", OPTION_TIME, UPSTREAM(data_timeout_ms), "10m", "100ms", "1h", NULL,
	  NULL, "the wait for the reply to a whole message; too short a wait delivers twice" },
	{ BLOCK_UPSTREAM, "pipelining", OPTION_BOOL, UPSTREAM(pipelining), "true", NULL, NULL, bool_words,
	  NULL, "use PIPELINING where it is offered" },
	{ BLOCK_UPSTREAM, "chunking", OPTION_BOOL, UPSTREAM(chunking), "true", NULL, NULL, bool_words,
	  NULL, "use CHUNKING where it is offered" },
	{ BLOCK_COUNT, NULL, OPTION_STRING, 0, NULL, NULL, NULL, NULL, NULL, NULL },
};
/* clang-format on */

_Static_assert(ARRAY_LEN(options) <= OPTIONS_MAX, "OPTIONS_MAX is too small");
_Static_assert(sizeof(enum config_tls) == sizeof(unsigned), "enums are set as unsigned");

const char *
options_block_name(enum option_block block)
{
	static const char *const names[BLOCK_COUNT] = { "", "spool", "control", "retry", "limits",
		"log", "listen", "upstream" };

	return names[block];
}

const struct option *
options_find(enum option_block block, const char *name)
{
	for (const struct option *o = options; o->name != NULL; o++)
		if (o->block == block && strcmp(o->name, name) == 0)
			return o;
	return NULL;
}

size_t
options_index(const struct option *option)
{
	return (size_t)(option - options);
}

/* ---- fields ---- */

static void *
field_of(const struct option *option, void *base)
{
	return (char *)base + option->offset;
}

static const void *
const_field_of(const struct option *option, const void *base)
{
	return (const char *)base + option->offset;
}

static void
set_string(const struct option *option, void *base, const char *text)
{
	const char **field = field_of(option, base);

	option_free(option, base);
	*field = option->fallback == NULL && text[0] == '\0' ? NULL : xstrdup(text);
}

/* Compares two texts of the option's type. */
static int
compare_numbers(enum option_type type, uint64_t number, const char *limit)
{
	uint64_t other = 0;
	unsigned count;

	if (type == OPTION_COUNT && units_parse_count(limit, &count) == 0)
		other = count;
	else if (type == OPTION_BYTES && units_parse_bytes(limit, &other) < 0)
		abort();
	else if (type == OPTION_TIME && units_parse_ms(limit, &other) < 0)
		abort();
	return number < other ? -1 : number > other;
}

static int
check_range(const struct option *option, uint64_t number, char *why, size_t size)
{
	bool too_small =
	    option->least != NULL && compare_numbers(option->type, number, option->least) < 0;
	bool too_large =
	    option->most != NULL && compare_numbers(option->type, number, option->most) > 0;

	if (!too_small && !too_large)
		return 0;
	if (option->least == NULL)
		snprintf(why, size, "at most %s", option->most);
	else
		snprintf(why, size, "from %s to %s", option->least, option->most);
	return -EINVAL;
}

static int
set_count(const struct option *option, void *base, const char *text, char *why, size_t size)
{
	unsigned *field = field_of(option, base);
	unsigned number;
	int r = units_parse_count(text, &number);

	if (r < 0) {
		snprintf(why, size,
		    r == -ERANGE ? "a smaller number" : "a whole number, such as %s",
		    option->fallback);
		return -EINVAL;
	}
	if (check_range(option, number, why, size) < 0)
		return -EINVAL;
	*field = number;
	return 0;
}

static int
set_quantity(const struct option *option, void *base, const char *text, char *why, size_t size)
{
	uint64_t *field = field_of(option, base);
	bool is_time = option->type == OPTION_TIME;
	uint64_t number;
	int r = is_time ? units_parse_ms(text, &number) : units_parse_bytes(text, &number);

	if (r < 0) {
		snprintf(why, size, "%s",
		    r == -ERANGE ? "a smaller number"
		    : is_time    ? "a duration: 500ms, 30s, 5m, 4h, 5d"
		                 : "a size: 1048576, 512K, 50M, 2G");
		return -EINVAL;
	}
	if (check_range(option, number, why, size) < 0)
		return -EINVAL;
	*field = number;
	return 0;
}

static int
set_word(const struct option *option, void *base, const char *text, char *why, size_t size)
{
	static const unsigned levels[] = { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };
	size_t len = 0;

	for (unsigned i = 0; option->words[i] != NULL; i++) {
		if (strcasecmp(text, option->words[i]) != 0)
			continue;
		if (option->type == OPTION_BOOL)
			*(bool *)field_of(option, base) = i > 0;
		else
			*(unsigned *)field_of(option, base) =
			    option->words == level_words ? levels[i] : i;
		return 0;
	}
	for (unsigned i = 0; option->words[i] != NULL && len < size; i++)
		len += (size_t)snprintf(why + len, size - len, "%s%s",
		    i == 0                         ? ""
		    : option->words[i + 1] == NULL ? " or "
		                                   : ", ",
		    option->words[i]);
	return -EINVAL;
}

/* Also the other ways to say it that people know from elsewhere. */
static int
set_bool(const struct option *option, void *base, const char *text, char *why, size_t size)
{
	if (strcasecmp(text, "yes") == 0 || strcasecmp(text, "on") == 0)
		text = "true";
	else if (strcasecmp(text, "no") == 0 || strcasecmp(text, "off") == 0)
		text = "false";
	return set_word(option, base, text, why, size);
}

static int
set_rate(const struct option *option, void *base, const char *text, char *why, size_t size)
{
	if (units_parse_rate(text, field_of(option, base)) == 0)
		return 0;
	snprintf(why, size, "a rate: 14/s, 30/m, 500/h, or 0 for no limit");
	return -EINVAL;
}

int
option_set(const struct option *option, void *base, const char *text, char *why, size_t size)
{
	switch (option->type) {
	case OPTION_STRING:
	case OPTION_PATH:
		set_string(option, base, text);
		return 0;
	case OPTION_COUNT:
		return set_count(option, base, text, why, size);
	case OPTION_BYTES:
	case OPTION_TIME:
		return set_quantity(option, base, text, why, size);
	case OPTION_RATE:
		return set_rate(option, base, text, why, size);
	case OPTION_BOOL:
		return set_bool(option, base, text, why, size);
	case OPTION_WORD:
		return set_word(option, base, text, why, size);
	case OPTION_NETWORKS:
		break;
	}
	abort();
}

const char *
option_string(const struct option *option, const void *base)
{
	const char *text;

	memcpy(&text, const_field_of(option, base), sizeof(text));
	return text;
}

static const char *
word_of(const struct option *option, unsigned value)
{
	if (option->words == level_words)
		value = value == LOG_DEBUG     ? 3
		        : value == LOG_INFO    ? 2
		        : value == LOG_WARNING ? 1
		                               : 0;
	return option->words[value];
}

bool
option_get(const struct option *option, const void *base, char *out, size_t size)
{
	const void *field = const_field_of(option, base);
	char text[UNITS_TEXT_MAX];
	const char *string = text;

	switch (option->type) {
	case OPTION_STRING:
	case OPTION_PATH:
		string = option_string(option, base);
		break;
	case OPTION_COUNT:
		snprintf(text, sizeof(text), "%u", *(const unsigned *)field);
		break;
	case OPTION_BYTES:
		units_print_bytes(*(const uint64_t *)field, text);
		break;
	case OPTION_TIME:
		units_print_ms(*(const uint64_t *)field, text);
		break;
	case OPTION_RATE:
		units_print_rate(*(const struct config_rate *)field, text);
		break;
	case OPTION_BOOL:
		string = *(const bool *)field ? "true" : "false";
		break;
	case OPTION_WORD:
		string = word_of(option, *(const unsigned *)field);
		break;
	case OPTION_NETWORKS:
		return false;
	}
	if (string == NULL)
		return false;
	snprintf(out, size, "%s", string);
	return true;
}

void
option_free(const struct option *option, void *base)
{
	char **field = field_of(option, base);

	if (option->type != OPTION_STRING && option->type != OPTION_PATH)
		return;
	free(*field);
	*field = NULL;
}

const char *
config_tls_name(enum config_tls tls)
{
	return tls_words[tls];
}

const char *
config_auth_name(enum config_auth auth)
{
	return auth_words[auth];
}
