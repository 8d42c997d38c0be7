/* config_validate.c - what a setting means for the others: presets, and contradictions. Each problem
 * says what would be right. */
#include <arpa/inet.h>
#include <ctype.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/draft.h"
#include "base/netaddr.h"
#include "base/presets.h"
#include "base/span.h"

/* ---- completing an upstream ---- */

/* Gives the option a value that the file did not. */
static void
fill(struct draft *draft, size_t i, const char *name, const char *text)
{
	const struct option *option = options_find(BLOCK_UPSTREAM, name);
	char why[128];

	if (text != NULL && !draft_is_set(draft->upstreams[i], name) &&
	    option_set(option, &draft->config->upstreams[i], text, why, sizeof(why)) < 0)
		abort(); /* the tests try every row of presets[] */
}

/* The host that the preset means: needed unless the file says one. */
static void
fill_host(struct draft *draft, size_t i, const struct preset *preset)
{
	struct config_upstream *up = &draft->config->upstreams[i];
	char host[256], why[256];
	const char *problem;

	if (draft_is_set(draft->upstreams[i], "host"))
		return;
	problem = presets_host(preset, up->region, host, sizeof(host), why, sizeof(why));
	if (problem != NULL)
		draft_complain(draft, draft_where(draft->upstreams[i], "region"),
		    "upstream \"%s\": region: preset = %s wants %s", up->name, preset->name,
		    problem);
	else
		fill(draft, i, "host", host);
}

static void
fill_preset(struct draft *draft, size_t i, const struct preset *preset)
{
	struct config_upstream *up = &draft->config->upstreams[i];

	fill_host(draft, i, preset);
	if (!draft_is_set(draft->upstreams[i], "tls"))
		fill(draft, i, "port", preset->port);
	if (!draft_is_set(draft->upstreams[i], "port"))
		fill(draft, i, "tls", preset->tls);
	if (up->auth != CONFIG_AUTH_NONE)
		fill(draft, i, "username", preset->username);
	fill(draft, i, "connections", preset->connections);
	fill(draft, i, "messages-per-connection", preset->messages_per_connection);
	fill(draft, i, "recipients-per-message", preset->recipients_per_message);
	fill(draft, i, "rate", preset->rate);
	fill(draft, i, "daily", preset->daily);
	up->username_is_password =
	    preset->username_rule == PRESET_USERNAME_PASSWORD && up->username == NULL;
}

/* Ports where a provider speaks TLS from the first byte. */
static bool
is_implicit_port(unsigned port)
{
	return port == 465 || port == 2465 || port == 8465 || port == 443;
}

static bool
is_starttls_port(unsigned port)
{
	return port == 25 || port == 587 || port == 2525 || port == 2587 || port == 8025;
}

static void
complete_upstream(struct draft *draft, size_t i)
{
	struct config_upstream *up = &draft->config->upstreams[i];
	const struct draft_block *block = draft->upstreams[i];
	const struct preset *preset = up->preset != NULL ? presets_find(up->preset) : NULL;

	if (preset != NULL)
		fill_preset(draft, i, preset);
	if (draft_is_set(block, "port") && is_implicit_port(up->port))
		fill(draft, i, "tls", "implicit");
	if (draft_is_set(block, "tls") && up->tls == CONFIG_TLS_IMPLICIT)
		fill(draft, i, "port", "465");
}

/* ---- completing the rest ---- */

static bool
is_host(const char *host)
{
	if (host[0] == '\0' || strlen(host) > 253)
		return false;
	for (const char *p = host; *p != '\0'; p++)
		if (!isalnum((unsigned char)*p) && strchr("-._:", *p) == NULL)
			return false;
	return true;
}

static void
complete_hostname(struct config *config)
{
	char name[HOST_NAME_MAX + 1] = "";

	if (config->hostname != NULL)
		return;
	if (gethostname(name, sizeof(name) - 1) < 0 || !is_host(name))
		strcpy(name, "localhost");
	config->hostname = xstrdup(name);
}

/* Only one of two was set: the other follows. */
static void
complete_retry(struct config *config, const struct draft_block *retry)
{
	if (config->retry.first_ms > config->retry.max_ms && !draft_is_set(retry, "first"))
		config->retry.first_ms = config->retry.max_ms;
	if (config->retry.first_ms > config->retry.max_ms && !draft_is_set(retry, "max"))
		config->retry.max_ms = config->retry.first_ms;
	if (config->retry.warn_ms > config->retry.expire_ms && !draft_is_set(retry, "warn"))
		config->retry.warn_ms = 0;
}

/* Where mail has taken the room that delivery needs for its next files, nothing leaves any more, and no room comes back. */
static void
complete_min_free(struct config *config)
{
	uint64_t least = CONFIG_FREE_SEGMENTS * config->spool.segment_bytes;

	if (config->spool.min_free_bytes > 0 && config->spool.min_free_bytes < least)
		config->spool.min_free_bytes = least;
}

void
draft_complete(struct draft *draft)
{
	complete_hostname(draft->config);
	complete_min_free(draft->config);
	complete_retry(draft->config, draft->single[BLOCK_RETRY]);
	for (size_t i = 0; i < draft->config->n_upstreams; i++)
		complete_upstream(draft, i);
}

/* ---- contradictions ---- */

static void PRINTF_LIKE(4, 5)
    complain(struct draft *draft, size_t i, const char *setting, const char *format, ...)
{
	char text[640];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	draft_complain(draft, draft_where(draft->upstreams[i], setting), "upstream \"%s\": %s",
	    draft->config->upstreams[i].name, text);
}

static void
validate_preset(struct draft *draft, size_t i)
{
	const struct config_upstream *up = &draft->config->upstreams[i];
	char names[512];

	if (up->preset == NULL) {
		if (up->region != NULL)
			complain(draft, i, "region",
			    "region goes with a preset: leave it out, or add preset");
		return;
	}
	if (presets_find(up->preset) != NULL)
		return;
	presets_list(names, sizeof(names));
	complain(draft, i, "preset",
	    "preset = %s: it should be one of %s; or leave it out and give host", up->preset,
	    names);
}

static bool
is_port(const char *text)
{
	return text[0] != '\0' && strspn(text, "0123456789") == strlen(text);
}

static bool
is_ipv6(const char *host)
{
	struct in6_addr address;

	return inet_pton(AF_INET6, host, &address) == 1;
}

static void
validate_host(struct draft *draft, size_t i)
{
	const struct config_upstream *up = &draft->config->upstreams[i];
	const char *colon;

	if (up->host == NULL) {
		if (up->preset == NULL)
			complain(draft, i, "host",
			    "host is missing: the provider's server, such as host = "
			    "\"smtp.example.com\", "
			    "or a preset");
		return;
	}
	colon = strchr(up->host, ':');
	if (is_host(up->host) && colon != NULL && colon > up->host && is_port(colon + 1))
		complain(draft, i, "host",
		    "host = %s: the port is a setting of its own: host = \"%.*s\" and port = %s",
		    up->host, (int)(colon - up->host), up->host, colon + 1);
	else if (!is_host(up->host) || (colon != NULL && !is_ipv6(up->host)))
		complain(draft, i, "host",
		    "host = %s: it should be the name or address alone, such as "
		    "\"smtp.example.com\" "
		    "(the port is a setting of its own)",
		    up->host);
}

static bool
is_fingerprint(const char *text)
{
	size_t digits = 0;

	if (strncmp(text, "sha256:", 7) != 0)
		return false;
	for (const char *p = text + 7; *p != '\0'; p++) {
		if (!isxdigit((unsigned char)*p))
			return false;
		digits++;
	}
	return digits == 64;
}

static void
validate_tls(struct draft *draft, size_t i)
{
	const struct config_upstream *up = &draft->config->upstreams[i];

	if (up->tls == CONFIG_TLS_STARTTLS && up->port == 465)
		complain(draft, i, "port",
		    "port = 465 with tls = starttls: a provider's 465 wants tls = implicit");
	if (up->tls == CONFIG_TLS_IMPLICIT && is_starttls_port(up->port))
		complain(draft, i, "port",
		    "port = %u with tls = implicit: a provider's %u wants tls = starttls", up->port,
		    up->port);
	if (up->tls == CONFIG_TLS_NONE && up->preset != NULL)
		complain(draft, i, "tls",
		    "tls = none with preset = %s: this provider wants tls = starttls", up->preset);
	if (up->tls == CONFIG_TLS_NONE &&
	    (up->tls_ca != NULL || up->tls_fingerprint != NULL || up->tls_cert != NULL))
		complain(draft, i, "tls",
		    "tls = none with tls-ca, tls-fingerprint or tls-cert: leave those out, or use "
		    "tls = starttls");
	if (up->tls_fingerprint != NULL && !is_fingerprint(up->tls_fingerprint))
		complain(draft, i, "tls-fingerprint",
		    "tls-fingerprint should be sha256: and 64 hexadecimal digits: openssl x509 -in "
		    "cert.pem -outform der | sha256sum");
	if ((up->tls_cert == NULL) != (up->tls_key == NULL))
		complain(draft, i, up->tls_cert != NULL ? "tls-cert" : "tls-key",
		    "tls-cert and tls-key go together: %s is missing",
		    up->tls_cert != NULL ? "tls-key" : "tls-cert");
}

static bool
needs_password(enum config_auth auth)
{
	return auth != CONFIG_AUTH_AUTO && auth != CONFIG_AUTH_NONE && auth != CONFIG_AUTH_EXTERNAL;
}

static void
validate_auth(struct draft *draft, size_t i)
{
	const struct config_upstream *up = &draft->config->upstreams[i];
	unsigned sources = (up->password_file != NULL) + (up->password_credential != NULL) +
	                   (up->password_command != NULL);
	bool has_user = up->username != NULL || up->username_is_password;

	if (sources > 1)
		complain(draft, i, "password-file",
		    "password-file, password-credential and password-command: one of them is "
		    "enough");
	if (up->auth == CONFIG_AUTH_EXTERNAL && up->tls_cert == NULL)
		complain(draft, i, "auth",
		    "auth = external logs in by tls-cert and tls-key: they are missing");
	if (up->auth == CONFIG_AUTH_NONE && (up->username != NULL || sources > 0))
		complain(draft, i, "auth",
		    "auth = none with a user name or password: leave those out, or use auth = "
		    "auto");
	if (needs_password(up->auth) && !has_user)
		complain(
		    draft, i, "auth", "auth = %s wants a username", config_auth_name(up->auth));
	else if (sources > 0 && !has_user && up->auth == CONFIG_AUTH_AUTO && up->preset == NULL)
		complain(draft, i, "username", "there is a password, but no username");
	if (has_user && sources == 0 && up->auth != CONFIG_AUTH_NONE &&
	    up->auth != CONFIG_AUTH_EXTERNAL && up->preset == NULL)
		complain(draft, i, "username",
		    "username without a password: add password-file, password-credential or "
		    "password-command");
	if (up->password_credential != NULL && strchr(up->password_credential, '/') != NULL)
		complain(draft, i, "password-credential",
		    "password-credential = %s: it should be the name from LoadCredential=, not a "
		    "path",
		    up->password_credential);
}

/* What the provider of a preset wants. */
static void
validate_account(struct draft *draft, size_t i)
{
	const struct config_upstream *up = &draft->config->upstreams[i];
	const struct preset *preset = up->preset != NULL ? presets_find(up->preset) : NULL;
	bool has_password = up->password_file != NULL || up->password_credential != NULL ||
	                    up->password_command != NULL;

	if (preset == NULL || up->auth == CONFIG_AUTH_NONE || up->auth == CONFIG_AUTH_EXTERNAL)
		return;
	if (up->username == NULL && (preset->username_rule == PRESET_USERNAME_ANY ||
	                                preset->username_rule == PRESET_USERNAME_ADDRESS))
		complain(draft, i, "username", "username is missing: for preset = %s it is %s",
		    up->preset, preset->username_hint);
	else if (up->username != NULL && preset->username_rule == PRESET_USERNAME_ADDRESS &&
	         strchr(up->username, '@') == NULL)
		complain(draft, i, "username", "username = %s: for preset = %s it is %s",
		    up->username, up->preset, preset->username_hint);
	if (!has_password &&
	    (up->username != NULL || preset->username_rule == PRESET_USERNAME_PASSWORD))
		complain(draft, i, "password-file",
		    "the password is missing: add password-file (or password-credential, "
		    "password-command) with %s",
		    preset->password_hint);
}

/* Is this listener the end of that upstream's connections? Names other than localhost are not looked up
 * here: for them there is the count of our own Received lines. */
static bool
leads_to(const struct config_upstream *up, const struct config_listen *listen)
{
	static const char *const v4[] = { "127.0.0.1", "0.0.0.0" }, *const v6[] = { "[::1]",
		"[::]" };
	bool is_name = strcasecmp(up->host, "localhost") == 0, is_v6 = strcmp(up->host, "::1") == 0;
	bool is_v4 = strncmp(up->host, "127.", 4) == 0;
	char own[NETADDR_TEXT_MAX], text[NETADDR_TEXT_MAX];

	if (listen->optional || listen->sa_len == 0) /* another's server may have that port */
		return false;
	netaddr_print_port((const struct sockaddr *)&listen->sa, own);
	snprintf(text, sizeof(text), strchr(up->host, ':') != NULL ? "[%.80s]:%u" : "%.80s:%u",
	    up->host, up->port);
	if (strcmp(text, own) == 0)
		return true;
	for (size_t i = 0; i < ARRAY_LEN(v4); i++) {
		snprintf(text, sizeof(text), "%s:%u", v4[i], up->port);
		if ((is_name || (is_v4 && i > 0)) && strcmp(text, own) == 0)
			return true;
		snprintf(text, sizeof(text), "%s:%u", v6[i], up->port);
		if ((is_name || (is_v6 && i > 0)) && strcmp(text, own) == 0)
			return true;
	}
	return false;
}

static void
validate_loop(struct draft *draft, size_t i)
{
	const struct config *config = draft->config;
	const struct config_upstream *up = &config->upstreams[i];

	for (size_t j = 0; up->host != NULL && j < config->n_listen; j++)
		if (leads_to(up, &config->listen[j])) {
			complain(draft, i, "host",
			    "host = %s, port = %u: that is relayd itself (listen \"%s\"), and mail "
			    "would go in circles: set them to the provider's server",
			    up->host, up->port, config->listen[j].address);
			return;
		}
}

static void
validate_upstream(struct draft *draft, size_t i)
{
	if (draft->config->upstreams[i].name[0] == '\0')
		draft_complain(draft, draft->upstreams[i]->place,
		    "upstream \"\": give it a name, to be seen in logs and by relayctl");
	validate_preset(draft, i);
	validate_host(draft, i);
	validate_loop(draft, i);
	validate_tls(draft, i);
	validate_auth(draft, i);
	validate_account(draft, i);
}

/* Where one of them is optional it is passed over at the start, unless they are the same in other words. */
static bool
exclude_each_other(const struct config_listen *a, const struct config_listen *b)
{
	if (a->sa_len == 0 || b->sa_len == 0)
		return false;
	if (a->sa_len == b->sa_len && memcmp(&a->sa, &b->sa, a->sa_len) == 0)
		return true;
	return !a->optional && !b->optional && netaddr_collide(&a->sa, &b->sa);
}

static void
validate_listeners(struct draft *draft)
{
	const struct config *config = draft->config;

	for (size_t i = 0; i < config->n_listen; i++)
		for (size_t j = 0; j < i; j++)
			if (exclude_each_other(&config->listen[i], &config->listen[j]))
				draft_complain(draft, draft->listen[i]->place,
				    "listen \"%s\": listen \"%s\" has this address already: leave "
				    "one of them out",
				    config->listen[i].address, config->listen[j].address);
}

static void
validate_names(struct draft *draft)
{
	const struct config *config = draft->config;
	const struct draft_block *top = draft->single[BLOCK_TOP];

	if (!is_host(config->hostname) && config->hostname[0] != '[')
		draft_complain(draft, draft_where(top, "hostname"),
		    "hostname = %s: it should be a name such as \"web1.example.com\"",
		    config->hostname);
	if (config->postmaster != NULL && (strchr(config->postmaster, '@') == NULL ||
	                                      strpbrk(config->postmaster, " <>,") != NULL))
		draft_complain(draft, draft_where(top, "postmaster"),
		    "postmaster = %s: it should be one address such as \"ops@example.com\"",
		    config->postmaster);
}

static void
validate_times(struct draft *draft)
{
	const struct config *config = draft->config;
	const struct draft_block *retry = draft->single[BLOCK_RETRY];

	if (config->retry.first_ms > config->retry.max_ms)
		draft_complain(draft, draft_where(retry, "first"),
		    "retry { first } is longer than max: the first wait should be the shortest");
	if (draft_is_set(retry, "warn") && config->retry.warn_ms > config->retry.expire_ms)
		draft_complain(draft, draft_where(retry, "warn"),
		    "retry { warn } is longer than expire: use warn = 0 for no warning");
}

void
draft_validate(struct draft *draft)
{
	validate_names(draft);
	validate_times(draft);
	validate_listeners(draft);
	if (draft->config->n_upstreams == 0)
		draft_complain(draft, (struct place){ NULL, 0 },
		    "upstream: there is none; say where mail goes: upstream \"gmail\" { preset = "
		    "gmail "
		    "username = \"me@gmail.com\" password-file = \"/etc/relayd/gmail.password\" }");
	for (size_t i = 0; i < draft->config->n_upstreams; i++)
		validate_upstream(draft, i);
}
