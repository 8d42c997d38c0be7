/* config_doubts.c - config_doubts(): what a configuration may say, and hardly means. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/config.h"
#include "base/netaddr.h"

struct doubting {
	config_doubt_fn *doubt;
	void *arg;
};

PRINTF_LIKE(3, 4)
static void
doubt(const struct doubting *to, const char *fix, const char *format, ...)
{
	char why[768];
	va_list args;

	va_start(args, format);
	vsnprintf(why, sizeof(why), format, args);
	va_end(args);
	to->doubt(to->arg, why, fix);
}

/* What goes there does not leave the machine. Names other than localhost are not looked up. */
static bool
is_this_host(const char *host)
{
	return strcasecmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0 ||
	       strcmp(host, "::1") == 0;
}

static bool
has_secret(const struct config_upstream *up)
{
	return up->password_file != NULL || up->password_credential != NULL ||
	       up->password_command != NULL;
}

static void
doubt_tls(const struct doubting *to, const struct config_upstream *up)
{
	if (up->tls == CONFIG_TLS_NONE && has_secret(up) && !is_this_host(up->host))
		doubt(to, "set tls = starttls, or implicit",
		    "%s: upstream \"%s\": tls = none: whoever is on the way to %s reads the "
		    "password "
		    "and the mail",
		    up->place, up->name, up->host);
	if (up->tls != CONFIG_TLS_NONE && !up->tls_verify && up->tls_fingerprint == NULL)
		doubt(to,
		    "take it out, and name a certificate that nobody signed in tls-ca or "
		    "tls-fingerprint",
		    "%s: upstream \"%s\": tls-verify = false: whoever answers as %s gets %sthe "
		    "mail",
		    up->place, up->name, up->host, has_secret(up) ? "the password and " : "");
}

static bool
is_loopback(const struct config_listen *listen)
{
	static const struct config_cidr loopback[] = {
		{ .family = AF_INET, .address = { 127 }, .prefix_bits = 8 },
		{ .family = AF_INET6, .address = { [15] = 1 }, .prefix_bits = 128 },
	};
	const struct sockaddr *sa = (const struct sockaddr *)&listen->sa;

	return netaddr_is_in(sa, &loopback[0]) || netaddr_is_in(sa, &loopback[1]);
}

/* Ours at [::] takes no IPv4, but one that systemd opened may. */
static bool
may_come_by(const struct config_listen *listen, int family)
{
	return listen->sa.ss_family == AF_INET6 || listen->sa.ss_family == family;
}

static void
doubt_open_relay(
    const struct doubting *to, const struct config *config, const struct config_listen *listen)
{
	for (size_t i = 0; i < config->n_clients; i++) {
		const struct config_cidr *network = &config->clients[i];

		if (network->prefix_bits > 0 || !may_come_by(listen, network->family) ||
		    is_loopback(listen))
			continue;
		doubt(to,
		    "name the networks of your own machines in clients, or listen at 127.0.0.1",
		    "%s: clients: %s with listen \"%s\": an open relay: whoever reaches that "
		    "address sends mail in your name",
		    config->path, network->text, listen->address);
		return;
	}
}

void
config_doubts(const struct config *config, config_doubt_fn *fn, void *arg)
{
	const struct doubting to = { fn, arg };

	if (config->spool.min_free_bytes == 0)
		doubt(&to, "take it out: the default is 96M, or six of segment if that is more",
		    "spool { min-free } = 0: mail may take the room that delivery needs for what "
		    "became of it; then nothing leaves until somebody makes room");
	for (size_t i = 0; i < config->n_listen; i++)
		doubt_open_relay(&to, config, &config->listen[i]);
	for (size_t i = 0; i < config->n_upstreams; i++)
		doubt_tls(&to, &config->upstreams[i]);
}
