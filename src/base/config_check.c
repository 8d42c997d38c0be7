/* config_check.c - config_check_system(): what the machine has to say about a configuration, looked
 * at as the service would see it. Looks, opens no secret, changes nothing. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/config.h"
#include "base/os.h"
#include "base/service.h"
#include "base/span.h"

#define SECRET_BYTES_MAX 8192

struct check {
	const struct config *config;
	config_problem_fn *problem;
	config_doubt_fn *doubt;
	void *arg;
	unsigned n_problems;
	struct service service;
};

static void
add_place(const struct check *check, unsigned line, const char *what, char *out, size_t size)
{
	if (line > 0)
		snprintf(out, size, "%.200s:%u: %s", check->config->path, line, what);
	else
		snprintf(out, size, "%.200s: %s", check->config->path, what);
}

static void PRINTF_LIKE(3, 4) complain(struct check *check, unsigned line, const char *format, ...)
{
	char what[768], text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	add_place(check, line, what, text, sizeof(text));
	check->n_problems++;
	check->problem(check->arg, text);
}

/* What we could not look at may be in order: no problem, and nothing to mend but who we are. False where the
 * error is one that the service will meet as well. */
static bool
is_hidden(struct check *check, unsigned line, const char *setting, const char *path, int error)
{
	char what[768], text[1024];

	if (error != EACCES || check->service.is_caller || geteuid() == 0)
		return false;
	snprintf(what, sizeof(what), "%s = %s: it cannot be looked at", setting, path);
	add_place(check, line, what, text, sizeof(text));
	check->doubt(check->arg, text, "run this as root");
	return true;
}

/* ---- who the service is ---- */

static void
check_user(struct check *check)
{
	const char *user = check->config->user;

	service_find(check->config, &check->service);
	if (!check->service.is_known)
		complain(check, 0,
		    "user = %s: there is no such user: systemd-sysusers, or useradd "
		    "--system %s, "
		    "or another user (\"\" = whoever starts relayd)",
		    user, user);
}

/* ---- files ---- */

/* Why the service may not read it, or not come to it where `st` is NULL, and what to do. NULL: it may.
 * Gives it. */
static char *
why_unreadable(const struct service *service, const char *path, const struct stat *st)
{
	char *closed = service_closed_directory(service, path), *why = NULL;

	if (closed != NULL)
		why = xasprintf("user %s may not enter %s: chgrp %u %s && chmod g+x %s",
		    service->name, closed, (unsigned)service->gid, closed, closed);
	else if (st != NULL && !service_may(service, st, 4))
		why = xasprintf("user %s may not read it: chgrp %u %s && chmod 640 %s",
		    service->name, (unsigned)service->gid, path, path);
	free(closed);
	return why;
}

/* Finds the file and whether the service may read it. False: told, and nothing more to say. */
static bool
check_readable(
    struct check *check, unsigned line, const char *setting, const char *path, struct stat *st)
{
	int error = stat(path, st) < 0 ? errno : 0;
	bool is_readable;
	char *why;

	if (error != 0 && error != EACCES) {
		complain(check, line, "%s = %s: %s", setting, path,
		    error == ENOENT ? "there is no such file" : strerror(error));
		return false;
	}
	if (error == 0 && S_ISDIR(st->st_mode)) {
		complain(
		    check, line, "%s = %s: it is a directory, it should be a file", setting, path);
		return false;
	}
	why = why_unreadable(&check->service, path, error == 0 ? st : NULL);
	if (why != NULL)
		complain(check, line, "%s = %s: %s", setting, path, why);
	else if (error != 0 && !is_hidden(check, line, setting, path, error))
		complain(check, line, "%s = %s: %s", setting, path, strerror(error));
	is_readable = why == NULL && error == 0;
	free(why);
	return is_readable;
}

/* A volume that is mounted read-only (secrets of containers) has the modes that it has. */
static bool
is_read_only(const char *path)
{
	struct statvfs fs;

	return statvfs(path, &fs) == 0 && (fs.f_flag & ST_RDONLY) != 0;
}

static void
check_secret(struct check *check, unsigned line, const char *setting, const char *path)
{
	struct stat st;

	if (!check_readable(check, line, setting, path, &st) || !S_ISREG(st.st_mode))
		return;
	if (st.st_size == 0)
		complain(check, line, "%s = %s: the file is empty", setting, path);
	if (st.st_size > SECRET_BYTES_MAX)
		complain(
		    check, line, "%s = %s: the file is too large for a password", setting, path);
	if (is_read_only(path))
		return;
	if ((st.st_mode & 7) != 0)
		complain(check, line, "%s = %s: everybody may read or change it: chmod o= %s",
		    setting, path, path);
	if (!check->service.is_known)
		return; /* whose it should be nobody can tell */
	if ((st.st_mode & 070) != 0 && st.st_gid != 0 &&
	    !service_has_group(&check->service, st.st_gid))
		complain(check, line,
		    "%s = %s: a group that is not the service's (gid %u) may read or change it: "
		    "chmod g= %s",
		    setting, path, (unsigned)st.st_gid, path);
	if (st.st_uid != 0 && st.st_uid != check->service.uid)
		complain(check, line,
		    "%s = %s: it belongs to user %u, it should be root%s%s: chown root %s", setting,
		    path, (unsigned)st.st_uid, check->service.uid != 0 ? " or " : "",
		    check->service.uid != 0 ? check->service.name : "", path);
}

/* Does the file hold `mark` in its first bytes? Not for secrets. */
static bool
has_mark(const char *path, const char *mark)
{
	static const size_t size = 1024 * 1024;
	char *text = xcalloc(size + 1, 1);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, text, size) : -1;
	bool found = n > 0 && strstr(text, mark) != NULL;

	if (fd >= 0)
		close(fd);
	free(text);
	return found;
}

static void
check_certificates(struct check *check, unsigned line, const char *setting, const char *path)
{
	struct stat st;

	if (!check_readable(check, line, setting, path, &st))
		return;
	if (access(path, R_OK) < 0) {
		(void)is_hidden(check, line, setting, path, errno);
		return;
	}
	if (!has_mark(path, "CERTIFICATE-----"))
		complain(check, line,
		    "%s = %s: there is no PEM certificate in it (-----BEGIN CERTIFICATE-----); "
		    "from DER: "
		    "openssl x509 -inform der -in FILE",
		    setting, path);
}

/* ---- upstreams ---- */

static bool
has_system_ca(void)
{
	static const char *const places[] = { "/etc/ssl/certs/ca-certificates.crt",
		"/etc/ssl/cert.pem", "/etc/pki/tls/certs/ca-bundle.crt", "/usr/lib/ssl/cert.pem" };

	if (getenv("SSL_CERT_FILE") != NULL || getenv("SSL_CERT_DIR") != NULL)
		return true;
	for (size_t i = 0; i < ARRAY_LEN(places); i++)
		if (access(places[i], R_OK) == 0)
			return true;
	return false;
}

static void
check_command(struct check *check, const struct config_upstream *up)
{
	char *program = xstrndup(up->password_command, strcspn(up->password_command, " \t;|&<>"));
	int error = 0;
	struct stat st;

	if (program[0] == '/' && stat(program, &st) < 0)
		error = errno;
	if (error != 0) {
		if (!is_hidden(check, up->line, "password-command", program, error))
			complain(check, up->line, "upstream \"%s\": password-command: %s: %s",
			    up->name, program, strerror(error));
	} else if (program[0] == '/' &&
	           (!S_ISREG(st.st_mode) || !service_may(&check->service, &st, 1))) {
		complain(check, up->line,
		    "upstream \"%s\": password-command: user %s may not run %s: chmod a+rx %s",
		    up->name, check->service.name, program, program);
	}
	free(program);
}

/* The directory is there only when systemd started us: a check by hand cannot know. */
static void
check_credential(struct check *check, const struct config_upstream *up)
{
	const char *directory = getenv("CREDENTIALS_DIRECTORY");
	char *path;

	/* systemd 252 names the directory to ExecReload= too, but hides it there */
	if (directory == NULL || access(directory, X_OK) < 0)
		return;
	path = xasprintf("%s/%s", directory, up->password_credential);
	if (access(path, F_OK) < 0)
		complain(check, up->line,
		    "upstream \"%s\": password-credential = %s: systemd gave no such credential: "
		    "add "
		    "LoadCredential=%s:/etc/relayd/%s to the unit (systemctl edit relayd)",
		    up->name, up->password_credential, up->password_credential,
		    up->password_credential);
	free(path);
}

static void
check_upstream(struct check *check, const struct config_upstream *up)
{
	if (up->password_file != NULL)
		check_secret(check, up->line, "password-file", up->password_file);
	if (up->password_credential != NULL)
		check_credential(check, up);
	if (up->password_command != NULL)
		check_command(check, up);
	if (up->tls_ca != NULL)
		check_certificates(check, up->line, "tls-ca", up->tls_ca);
	else if (up->tls != CONFIG_TLS_NONE && up->tls_verify && up->tls_fingerprint == NULL &&
	         !has_system_ca())
		complain(check, up->line,
		    "upstream \"%s\": the system has no certificate authorities: install the "
		    "package "
		    "ca-certificates, or set tls-ca",
		    up->name);
	if (up->tls_cert != NULL)
		check_certificates(check, up->line, "tls-cert", up->tls_cert);
	if (up->tls_key != NULL)
		check_secret(check, up->line, "tls-key", up->tls_key);
}

/* ---- directories and addresses ---- */

/* The nearest directory above `path` that exists. */
static char *
existing_parent(const char *path, struct stat *st)
{
	char *parent = xstrdup(path), *slash;

	while ((slash = strrchr(parent, '/')) != NULL) {
		slash[slash == parent ? 1 : 0] = '\0';
		if (stat(parent, st) == 0)
			return parent;
		if (slash == parent)
			break;
	}
	free(parent);
	return NULL;
}

/* Root makes what is missing, before it becomes the service; so may whoever starts it in our place. */
static void
check_can_create(struct check *check, const char *setting, const char *path)
{
	struct stat st;
	char *parent = existing_parent(path, &st);

	if (geteuid() != 0 && check->service.is_caller && parent != NULL &&
	    !service_may(&check->service, &st, 3))
		complain(check, 0,
		    "%s = %s: user %s may not create it in %s: give it a directory of its own",
		    setting, path, check->service.name, parent);
	free(parent);
}

/* Of the spool's file system, also where the spool is still to be made. */
static int
find_room(const char *path, struct os_room *out)
{
	struct stat st;
	char *parent = NULL;
	int r, fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 && (parent = existing_parent(path, &st)) != NULL)
		fd = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
	r = fd >= 0 ? os_room(fd, out) : -errno;
	if (fd >= 0)
		close(fd);
	free(parent);
	return r;
}

/* No mistake of the configuration; but who looks wonders why mail is refused where all is in order. */
static void
check_room(struct check *check)
{
	const char *path = check->config->spool.directory;
	uint64_t least_bytes = check->config->spool.min_free_bytes;
	const char *fix = "make room";
	char what[768], text[1024];
	struct os_room room;

	if (find_room(path, &room) < 0)
		return;
	if (room.free_bytes < least_bytes) {
		snprintf(what, sizeof(what),
		    "spool { directory } = %s: its file system has %juM of room, and min-free is "
		    "%juM: new mail is answered with 452",
		    path, (uintmax_t)(room.free_bytes >> 20), (uintmax_t)(least_bytes >> 20));
		fix = "make room, or lower spool { min-free } (and segment: six of it are left "
		      "free at least)";
	} else if (room.free_files < CONFIG_FREE_FILES) {
		snprintf(what, sizeof(what),
		    "spool { directory } = %s: its file system has room for %ju more files "
		    "(df -i): new mail is answered with 452",
		    path, (uintmax_t)room.free_files);
	} else {
		return;
	}
	add_place(check, 0, what, text, sizeof(text));
	check->doubt(check->arg, text, fix);
}

static void
check_spool(struct check *check)
{
	const char *path = check->config->spool.directory;
	const struct service *service = &check->service;
	struct stat st;
	char *closed;

	if (lstat(path, &st) < 0) {
		if (!is_hidden(check, 0, "spool { directory }", path, errno))
			check_can_create(check, "spool { directory }", path);
		return;
	}
	if (!S_ISDIR(st.st_mode)) {
		complain(check, 0, "spool { directory } = %s: it should be a directory", path);
		return;
	}
	if (service->is_known && st.st_uid != service->uid)
		complain(check, 0,
		    "spool { directory } = %s: it belongs to user %u, it should be %s: chown -R %s "
		    "%s",
		    path, (unsigned)st.st_uid, service->name, service->name, path);
	if ((st.st_mode & 027) != 0)
		complain(check, 0,
		    "spool { directory } = %s: others may look into it: chmod 700 %s", path, path);
	closed = service_closed_directory(service, path);
	if (closed != NULL)
		complain(check, 0, "spool { directory } = %s: user %s may not enter %s", path,
		    service->name, closed);
	free(closed);
}

static void
check_listener(struct check *check, const struct config_listen *listen)
{
	struct sockaddr_storage sa = listen->sa;
	int fd;

	if (listen->sa.ss_family == AF_UNIX) {
		check_can_create(check, "listen", listen->address + strlen("unix:"));
		return;
	}
	if (listen->optional)
		return;
	/* any port: is the address one of this machine's? */
	memset((char *)&sa + sizeof(sa.ss_family), 0, sizeof(uint16_t));
	fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 ||
	    (bind(fd, (struct sockaddr *)&sa, listen->sa_len) < 0 && errno == EADDRNOTAVAIL))
		complain(check, listen->line, "listen \"%s\": %s", listen->address,
		    fd < 0 ? strerror(errno)
		           : "this machine has no such address: see \"ip address\"");
	if (fd >= 0)
		close(fd);
}

/* It names commands that the service runs, and who may submit. The service reads it at a reload, and at the
 * start too where something else makes it the service (relayd.service: User=). */
static void
check_file(struct check *check, const char *path, const char *what)
{
	struct stat st;
	char *why;

	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	if ((st.st_mode & 2) != 0)
		complain(check, 0, "%severybody may change this file: chmod o-w %s", what, path);
	why = why_unreadable(&check->service, path, &st);
	if (why != NULL)
		complain(check, 0, "%s%s", what, why);
	free(why);
}

static void
check_files(struct check *check)
{
	const struct config *config = check->config;

	if (config->path[0] == '\0')
		return;
	check_file(check, config->path, "");
	for (size_t i = 1; i < config->n_files; i++) {
		char *what = xasprintf("include(\"%s\"): ", config->files[i]);

		check_file(check, config->files[i], what);
		free(what);
	}
}

/* Who starts relayd himself should not take what is said of the service for advice. */
static void
say_for_whom(struct check *check)
{
	char text[1024], what[128];

	if (check->n_problems == 0 || !check->service.is_known || check->service.is_caller ||
	    geteuid() == 0)
		return;
	snprintf(what, sizeof(what), "user = %s: all this was looked at as that user, not as you",
	    check->service.name);
	add_place(check, 0, what, text, sizeof(text));
	check->doubt(check->arg, text, "set user = \"\" if it is you who starts relayd");
}

unsigned
config_check_system(
    const struct config *config, config_problem_fn *problem, config_doubt_fn *doubt, void *arg)
{
	struct check check = { .config = config, .problem = problem, .doubt = doubt, .arg = arg };

	check_user(&check);
	check_files(&check);
	check_spool(&check);
	check_room(&check);
	check_can_create(&check, "control { socket }", config->control.socket);
	for (size_t i = 0; i < config->n_listen; i++)
		check_listener(&check, &config->listen[i]);
	for (size_t i = 0; i < config->n_upstreams; i++)
		check_upstream(&check, &config->upstreams[i]);
	say_for_whom(&check);
	return check.n_problems;
}
