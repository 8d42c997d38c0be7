/* config.h - the configuration in force: one immutable struct, made from /etc/relayd.conf and passed
 * down; there are no globals. The options stand in one table (options.c): name, type, default,
 * range, meaning; from it come the libconfuse parser, the checks, the commented etc/relayd.conf,
 * `relayctl config`, the canonical text that workers are started with, and the test that
 * relayd.conf(5) names them all. libconfuse is met in config.c only.
 *
 * Secrets are never in here, only where they are to be found; delivery alone opens them. */
#ifndef RELAYD_BASE_CONFIG_H
#define RELAYD_BASE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

#include "base/base.h"
#include "base/log.h"

enum config_tls { CONFIG_TLS_STARTTLS, CONFIG_TLS_IMPLICIT, CONFIG_TLS_NONE };

enum config_auth {
	CONFIG_AUTH_AUTO, /* the strongest that the upstream offers and we can do */
	CONFIG_AUTH_PLAIN,
	CONFIG_AUTH_LOGIN,
	CONFIG_AUTH_CRAM_MD5,
	CONFIG_AUTH_SCRAM_SHA_1,
	CONFIG_AUTH_SCRAM_SHA_256,
	CONFIG_AUTH_XOAUTH2,
	CONFIG_AUTH_OAUTHBEARER,
	CONFIG_AUTH_EXTERNAL,
	CONFIG_AUTH_NONE,
};

enum config_listen_auth { CONFIG_LISTEN_AUTH_NONE, CONFIG_LISTEN_AUTH_IGNORE };
enum config_line_end { CONFIG_LINE_END_NORMALIZE, CONFIG_LINE_END_REJECT };
enum config_nul { CONFIG_NUL_REJECT, CONFIG_NUL_SPACE };

struct config_listen {
	const char
	    *address; /* as written: "127.0.0.1:25", "[::1]:587", "unix:/run/relayd/submit" */
	struct sockaddr_storage sa;
	socklen_t sa_len;
	enum config_listen_auth auth;
	enum config_line_end line_end;
	enum config_nul nul;
	bool
	    optional; /* go on without it where it cannot be opened, as for the default listeners */
	unsigned line; /* where it stands in the file; 0: a default */
};

struct config_cidr {
	const char *text; /* as written */
	int family;       /* AF_INET or AF_INET6 */
	uint8_t address[16];
	unsigned prefix_bits;
};

/* A pace: `count` every `per_ms`; count 0: no limit. */
struct config_rate {
	unsigned count;
	uint64_t per_ms;
};

struct config_upstream {
	const char *name;
	unsigned
	    line; /* where its block stands in the file, for messages that say what to change */
	const char *place;  /* "FILE:LINE" of its block, for messages; a worker is told it too */
	const char *preset; /* NULL: none. What it gives is already in the fields below. */
	const char *region; /* NULL: none. The preset made the host of it. */
	const char *host;
	unsigned port;
	enum config_tls tls;
	const char *tls_ca;          /* NULL: the system's */
	bool tls_verify;             /* false only if the file says so in words (I11) */
	const char *tls_fingerprint; /* NULL or "sha256:<64 hex digits>" of the certificate */
	const char *tls_cert, *tls_key;
	enum config_auth auth;
	const char *username; /* NULL: none */
	bool
	    username_is_password; /* the provider wants the token as the user name too (postmark) */
	const char *password_file, *password_credential,
	    *password_command;        /* at most one not NULL */
	uint64_t password_refresh_ms; /* how often password-command runs again */
	unsigned connections;
	unsigned messages_per_connection;
	unsigned recipients_per_message;
	struct config_rate rate;
	unsigned daily;   /* messages a rolling day; 0: no limit */
	uint64_t idle_ms; /* how long an unused connection is kept */
	uint64_t connect_timeout_ms;
	uint64_t command_timeout_ms;
	uint64_t data_timeout_ms; /* the wait for the reply to the final dot (RFC 5321 4.5.3.2.6) */
	bool pipelining, chunking; /* use them when offered */
};

/* So many of segment are left free on the file system: for the files of delivery, and for those of one
 * start after a kill. */
#define CONFIG_FREE_SEGMENTS 6u
/* And so many files, where the file system counts them: with less new mail is refused as well. */
#define CONFIG_FREE_FILES 16u

struct config {
	const char *path; /* the file it came from, for messages; "" if from a descriptor */
	char **files;     /* path, and what it includes */
	size_t n_files;
	const char *hostname;   /* what EHLO, Received and DSNs say */
	const char *postmaster; /* NULL: none, double bounces are held */
	const char *user;       /* "" = stay who you are */
	struct config_listen *listen;
	size_t n_listen;
	struct config_cidr *clients;
	size_t n_clients;
	struct {
		const char *directory;
		uint64_t min_free_bytes; /* 0: no limit; else CONFIG_FREE_SEGMENTS at least */
		uint64_t max_message_bytes;
		uint64_t segment_bytes;
	} spool;
	struct {
		const char *socket;
	} control;
	struct {
		uint64_t first_ms, max_ms, expire_ms;
		uint64_t warn_ms; /* 0: no delay warning */
	} retry;
	struct {
		enum log_target target;
		enum log_level level;
	} log;
	struct {
		unsigned connections;            /* at once, in all */
		unsigned connections_per_client; /* at once, per IP address or local uid */
		unsigned recipients;             /* per message */
		unsigned errors;                 /* refused commands before a 421 */
		unsigned commands;               /* without a message in between, before a 421 */
		uint64_t command_timeout_ms; /* the whole of one command, or of one block of data */
		uint64_t session_timeout_ms;
		unsigned dsn_per_hour; /* DSNs that relayd itself writes */
	} limits;
	uint64_t drain_ms; /* how long old workers may finish after a reload or stop */
	struct config_upstream *upstreams;
	size_t n_upstreams;
};

/* Problems are given one by one, as "FILE:LINE: setting: what is wrong and what would be right". */
typedef void config_problem_fn(void *arg, const char *text);

/* Parses and validates. Gives *out (freed with config_free()); -EINVAL after telling every problem
 * it could find, or -errno if the file cannot be read (told as well): config_is_starved() then says
 * whether the same file may load in a moment. *out is untouched then. */
int config_load(
    const char *path, config_problem_fn *problem, void *arg, struct config **out) MUST_CHECK;
/* The same from a descriptor that holds canonical text (how the supervisor starts its workers, so
 * that a worker restarted later never sees a file that nobody validated). Borrows fd. */
int config_load_fd(int fd, config_problem_fn *problem, void *arg, struct config **out) MUST_CHECK;
bool config_is_starved(int r); /* for want of memory or descriptors, or by a failing disk */
void config_free(struct config *config);

/* What works and is hardly meant: a password in clear text, say. For people, each with what to do. */
typedef void config_doubt_fn(void *arg, const char *why, const char *fix);
void config_doubts(const struct config *config, config_doubt_fn *doubt, void *arg);

/* What can be checked without the network and beyond the grammar: readable secrets with sane
 * permissions, CA file, client certificate, spool directory, addresses. Sees things as the service
 * would, whoever asks; what the caller may not look at is a doubt. Returns the number of problems told. */
unsigned config_check_system(
    const struct config *config, config_problem_fn *problem, config_doubt_fn *doubt, void *arg);

/* The canonical text of what is in force: parses back to the same configuration. Holds no secrets
 * (there are none in it); in relayctl's version (`masked`) arguments of password-command are hidden. */
int config_print(const struct config *config, FILE *out, bool masked);

/* The commented default file: etc/relayd.conf in the tree is its output. */
void config_print_template(FILE *out);

/* Words for enums, as the file spells them. */
const char *config_tls_name(enum config_tls tls);
const char *config_auth_name(enum config_auth auth);

/* Is the address (AF_INET, AF_INET6; v4-mapped counts as IPv4) in one of the networks? */
bool config_may_submit(const struct config *config, const struct sockaddr *sa);

#endif
