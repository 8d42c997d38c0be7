/* confine.c - see confine.h. */
#include <libgen.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/sandbox.h"
#include "delivery/confine.h"

/* What is read after the start. Files that are replaced by renaming (resolv.conf, hosts, secrets,
 * certificates) are reached through their directories: a rule for a file would hold for the one that
 * was there. So all of /etc can be read, as far as its permissions let us. */
static const struct sandbox_path system_paths[] = {
	{ "/etc", SANDBOX_READ },
	{ "/dev/urandom", SANDBOX_READ }, /* jansson: the seed of its hash tables */
	/* OpenSSL's own, and where the links of /etc/ssl/certs lead */
	{ "/usr/lib/ssl", SANDBOX_READ },
	{ "/usr/share/ca-certificates", SANDBOX_READ },
	{ "/usr/local/share/ca-certificates", SANDBOX_READ },
	{ "/usr/share/zoneinfo", SANDBOX_READ },
	{ "/run/credentials", SANDBOX_READ }, /* secret.c: without CREDENTIALS_DIRECTORY */
	/* where resolv.conf may point to one day, beside where it does now */
	{ "/run/systemd/resolve", SANDBOX_READ },
	{ "/run/NetworkManager", SANDBOX_READ },
	{ "/run/resolvconf", SANDBOX_READ },
	{ "/run/connman", SANDBOX_READ },
};

struct reach {
	struct sandbox_path *paths; /* each path is ours */
	size_t n_paths;
	uint16_t *ports;
	size_t n_ports;
};

/* takes path */
static void
reach_path(struct reach *reach, char *path, enum sandbox_access access)
{
	reach->paths = xrealloc(reach->paths, reach->n_paths + 1, sizeof(*reach->paths));
	reach->paths[reach->n_paths++] = (struct sandbox_path){ path, access };
}

static void
reach_directory_of(struct reach *reach, const char *file)
{
	char *copy = xstrdup(file);

	reach_path(reach, xstrdup(dirname(copy)), SANDBOX_READ);
	free(copy);
}

/* By its name, and where that leads. */
static void
reach_file(struct reach *reach, const char *file)
{
	char *target;

	if (file == NULL)
		return;
	reach_directory_of(reach, file);
	target = realpath(file, NULL);
	if (target != NULL)
		reach_directory_of(reach, target);
	free(target);
}

/* Directories with colons between them, or NULL. */
static void
reach_directories(struct reach *reach, const char *list)
{
	char *copy, *rest, *one;

	if (list == NULL)
		return;
	rest = copy = xstrdup(list);
	while ((one = strsep(&rest, ":")) != NULL)
		reach_path(reach, xstrdup(one), SANDBOX_READ);
	free(copy);
}

static void
reach_environment(struct reach *reach)
{
	reach_directories(reach, getenv("CREDENTIALS_DIRECTORY"));
	reach_directories(reach, getenv("SSL_CERT_DIR"));
	reach_file(reach, getenv("SSL_CERT_FILE"));
	reach_file(reach, "/etc/resolv.conf");
	if (access("/etc/resolv.conf", F_OK) < 0) /* the network comes later */
		reach_path(reach, xstrdup("/run"), SANDBOX_READ);
}

static void
reach_port(struct reach *reach, unsigned port)
{
	reach->ports = xrealloc(reach->ports, reach->n_ports + 1, sizeof(*reach->ports));
	reach->ports[reach->n_ports++] = (uint16_t)port;
}

static void
reach_upstream(struct reach *reach, const struct config_upstream *upstream)
{
	reach_file(reach, upstream->password_file);
	reach_file(reach, upstream->tls_ca);
	reach_file(reach, upstream->tls_cert);
	reach_file(reach, upstream->tls_key);
	reach_port(reach, upstream->port);
}

static void
reach_fini(struct reach *reach)
{
	for (size_t i = 0; i < reach->n_paths; i++) {
		char *path;

		memcpy(&path, &reach->paths[i].path, sizeof(path));
		free(path);
	}
	free(reach->paths);
	free(reach->ports);
}

bool
confine(const struct config *config, int spool_fd, char why[SANDBOX_WHY_MAX])
{
	struct sandbox_options options = { .profile = SANDBOX_DELIVERY };
	struct reach reach = { 0 };
	bool whole;

	for (size_t i = 0; i < ARRAY_LEN(system_paths); i++)
		reach_path(&reach, xstrdup(system_paths[i].path), system_paths[i].access);
	reach_environment(&reach);
	for (size_t i = 0; i < config->n_upstreams; i++)
		reach_upstream(&reach, &config->upstreams[i]);
	options.writable_fd = spool_fd;
	options.paths = reach.paths;
	options.n_paths = reach.n_paths;
	options.ports = reach.ports;
	options.n_ports = reach.n_ports;
	whole = sandbox_enter(&options, why);
	reach_fini(&reach);
	return whole;
}
