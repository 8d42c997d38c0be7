/* listeners.c - see listeners.h. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "supervisor/listeners.h"
#include "supervisor/port_owner.h"
#include "supervisor/service_manager.h"

#define REFUSALS_MOST 100 /* of one socket at a time */

struct opening {
	const struct config *config;
	const struct privileges *p;
	const struct listeners *passed, *old;
	config_problem_fn *problem;
	void *arg;
};

PRINTF_LIKE(3, 4)
static void
tell(config_problem_fn *problem, void *arg, const char *fmt, ...)
{
	char text[1024];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	problem(arg, text);
}

static unsigned
port_of(const struct sockaddr_storage *sa)
{
	if (sa->ss_family == AF_INET)
		return ntohs(((const struct sockaddr_in *)sa)->sin_port);
	if (sa->ss_family == AF_INET6)
		return ntohs(((const struct sockaddr_in6 *)sa)->sin6_port);
	return 0;
}

static const char *
path_of(const struct sockaddr_storage *sa)
{
	return ((const struct sockaddr_un *)sa)->sun_path;
}

static bool
is_same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	if (a->ss_family != b->ss_family || port_of(a) != port_of(b))
		return false;
	if (a->ss_family == AF_INET)
		return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
		       ((const struct sockaddr_in *)b)->sin_addr.s_addr;
	if (a->ss_family == AF_INET6)
		return memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
		           &((const struct sockaddr_in6 *)b)->sin6_addr,
		           sizeof(struct in6_addr)) == 0 &&
		       ((const struct sockaddr_in6 *)a)->sin6_scope_id ==
		           ((const struct sockaddr_in6 *)b)->sin6_scope_id;
	return a->ss_family == AF_UNIX && strcmp(path_of(a), path_of(b)) == 0;
}

static void
print_address(const struct sockaddr_storage *sa, char *out, size_t size)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (sa->ss_family == AF_UNIX) {
		snprintf(out, size, "unix:%s", path_of(sa));
	} else if (sa->ss_family == AF_INET6) {
		inet_ntop(
		    AF_INET6, &((const struct sockaddr_in6 *)sa)->sin6_addr, host, sizeof(host));
		snprintf(out, size, "[%s]:%u", host, port_of(sa));
	} else {
		inet_ntop(AF_INET, &((const struct sockaddr_in *)sa)->sin_addr, host, sizeof(host));
		snprintf(out, size, "%s:%u", host, port_of(sa));
	}
}

static const struct listener *
find_same(const struct listeners *in, const struct sockaddr_storage *sa)
{
	for (size_t i = 0; in != NULL && i < in->n; i++)
		if (is_same_address(&in->items[i].sa, sa))
			return &in->items[i];
	return NULL;
}

struct listeners *
listeners_passed(config_problem_fn *problem, void *arg)
{
	struct listeners *l = xcalloc(1, sizeof(*l));
	int first = 0, n = service_manager_listeners(&first);

	l->control.fd = -1;
	if (n <= 0)
		return l;
	l->items = xcalloc((size_t)n, sizeof(l->items[0]));
	for (int fd = first; fd < first + n; fd++) {
		struct listener *item = &l->items[l->n];
		int listening = 0;
		socklen_t len = sizeof(listening);

		item->sa_len = sizeof(item->sa);
		if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || !listening ||
		    getsockname(fd, (struct sockaddr *)&item->sa, &item->sa_len) < 0) {
			tell(problem, arg,
			    "descriptor %d, passed by the service manager, is no "
			    "listening socket: see relayd.socket",
			    fd);
			close(fd);
			continue;
		}
		(void)fcntl(fd, F_SETFL, O_NONBLOCK);
		(void)listen(fd, LISTENERS_BACKLOG);
		item->fd = fd;
		item->is_passed = true;
		l->n++;
	}
	return l;
}

static void
describe_tcp(
    const struct opening *o, const struct config_listen *listen, int error, char *out, size_t size)
{
	const char *address = listen->address;
	unsigned port = port_of(&listen->sa);
	char owner[128];

	if (error == EADDRINUSE && port_owner_find(&listen->sa, owner, sizeof(owner)))
		snprintf(out, size,
		    "listen \"%s\": port %u is in use by %s: stop that program, or choose another "
		    "port",
		    address, port, owner);
	else if (error == EADDRINUSE)
		snprintf(out, size,
		    "listen \"%s\": port %u is in use by another program: stop that one, or choose "
		    "another port; as root, ss -ltnp says which it is (and where systemd was to "
		    "open the port, systemctl status relayd.socket what came of that)",
		    address, port);
	else if (error == EACCES)
		snprintf(out, size,
		    "listen \"%s\": a port below 1024 needs a right that relayd does not have%s: "
		    "let systemd open it (ListenStream= in relayd.socket; systemctl status "
		    "relayd.socket says whether that works), start relayd as root, or choose a "
		    "port above 1023",
		    address,
		    o->old != NULL ? " any more (restart relayd instead of reloading it)" : "");
	else if (error == EADDRNOTAVAIL || error == EAFNOSUPPORT)
		snprintf(
		    out, size, "listen \"%s\": this machine does not have that address", address);
	else
		snprintf(out, size, "listen \"%s\": %s", address, strerror(error));
}

static void
describe_unix(const char *path, int error, char *out, size_t size)
{
	if (error == EADDRINUSE)
		snprintf(out, size,
		    "socket \"%s\": another program serves it: stop that one, or choose another "
		    "path",
		    path);
	else if (error == ENOTSOCK)
		snprintf(out, size,
		    "socket \"%s\": there is a file of that name that is no socket: remove it, or "
		    "choose "
		    "another path",
		    path);
	else if (error == ENOENT)
		snprintf(out, size,
		    "socket \"%s\": the directory above its directory does not exist", path);
	else if (error == EACCES || error == EROFS)
		snprintf(out, size,
		    "socket \"%s\": uid %u may not make it there: give that directory to relayd's "
		    "user, "
		    "or choose another path",
		    path, (unsigned)geteuid());
	else
		snprintf(out, size, "socket \"%s\": %s", path, strerror(error));
}

/* The directory of a unix socket: made for the service's user, to be entered by all. */
static int
make_directory(const struct opening *o, const char *path)
{
	const char *slash = strrchr(path, '/');
	char *dir;
	int r = 0;

	if (slash == NULL || slash == path)
		return 0;
	dir = xstrndup(path, (size_t)(slash - path));
	if (mkdir(dir, 0755) == 0) {
		int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

		if (fd < 0 || fchmod(fd, 0755) < 0 ||
		    (geteuid() == 0 && fchown(fd, o->p->uid, o->p->gid) < 0))
			r = -errno;
		if (fd >= 0)
			close(fd);
	} else if (errno != EEXIST) {
		r = -errno;
	}
	free(dir);
	return r;
}

/* A name left by a relayd that was killed is in the way; a living socket, or anything else, is not
 * ours to remove. */
static int
remove_stale(const struct sockaddr_storage *sa, socklen_t sa_len)
{
	struct stat st;
	int fd, r;

	if (lstat(path_of(sa), &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	r = connect(fd, (const struct sockaddr *)sa, sa_len) < 0 ? -errno : -EADDRINUSE;
	close(fd);
	if (r != -ECONNREFUSED)
		return r == -EAGAIN ? -EADDRINUSE : r;
	return unlink(path_of(sa)) < 0 ? -errno : 0;
}

static int
bind_unix(const struct opening *o, int fd, const struct sockaddr_storage *sa, socklen_t sa_len,
    mode_t mode)
{
	const char *path = path_of(sa);
	int r = make_directory(o, path);
	mode_t mask;

	if (r == 0)
		r = remove_stale(sa, sa_len);
	if (r < 0)
		return r;
	/* Born with its mode: the directory may be the service's user's, and chmod() by root would
	 * follow a link that was put in the socket's place. */
	mask = umask(0777 & ~mode);
	r = bind(fd, (const struct sockaddr *)sa, sa_len) < 0 ? -errno : 0;
	(void)umask(mask);
	if (r == 0 && geteuid() == 0 && lchown(path, o->p->uid, o->p->gid) < 0)
		r = -errno;
	return r;
}

static int
bind_tcp(int fd, const struct sockaddr_storage *sa, socklen_t sa_len)
{
	int error, on = 1;

	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
		return -errno;
	if (sa->ss_family == AF_INET6 &&
	    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0)
		return -errno;
	if (bind(fd, (const struct sockaddr *)sa, sa_len) == 0)
		return 0;
	error = errno;
	/* without the right to a low port the kernel does not say whether it is free */
	return error == EACCES && port_owner_is_there(sa) ? -EADDRINUSE : -error;
}

static ino_t
inode_of(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 ? st.st_ino : 0;
}

static int
bind_new(const struct opening *o, const struct sockaddr_storage *sa, socklen_t sa_len, mode_t mode,
    struct listener *out)
{
	int r, fd = socket(sa->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	r = sa->ss_family == AF_UNIX ? bind_unix(o, fd, sa, sa_len, mode)
	                             : bind_tcp(fd, sa, sa_len);
	if (r == 0 && listen(fd, LISTENERS_BACKLOG) < 0)
		r = -errno;
	if (r < 0) {
		close(fd);
		return r;
	}
	*out = (struct listener){ .fd = fd, .sa = *sa, .sa_len = sa_len };
	if (sa->ss_family == AF_UNIX)
		out->inode = inode_of(path_of(sa));
	return 0;
}

static int
take_over(const struct listener *from, struct listener *out)
{
	int fd = fcntl(from->fd, F_DUPFD_CLOEXEC, 3);

	if (fd < 0)
		return -errno;
	*out = *from;
	out->fd = fd;
	return 0;
}

/* Somebody has removed its name, or another one has it: nobody can come to it any more. */
static bool
is_unreachable(const struct listener *item)
{
	return item->inode != 0 && inode_of(path_of(&item->sa)) != item->inode;
}

static int
open_one(const struct opening *o, const struct config_listen *listen, struct listener *out)
{
	const struct listener *same = find_same(o->old, &listen->sa);

	if (same == NULL || is_unreachable(same))
		same = find_same(o->passed, &listen->sa);
	if (same != NULL)
		return take_over(same, out);
	return bind_new(o, &listen->sa, listen->sa_len, 0666, out);
}

static int
open_control(const struct opening *o, struct listener *out)
{
	struct sockaddr_storage sa = { .ss_family = AF_UNIX };
	struct sockaddr_un *un = (struct sockaddr_un *)&sa;
	const char *path = o->config->control.socket;
	char text[512];
	int r;

	if (strlen(path) >= sizeof(un->sun_path)) {
		tell(o->problem, o->arg,
		    "control { socket = \"%s\" }: longer than the %zu bytes that a "
		    "socket's path may have",
		    path, sizeof(un->sun_path) - 1);
		return -ENAMETOOLONG;
	}
	memcpy(un->sun_path, path, strlen(path) + 1);
	if (o->old != NULL && is_same_address(&o->old->control.sa, &sa) &&
	    !is_unreachable(&o->old->control))
		return take_over(&o->old->control, out);
	r = bind_new(o, &sa, sizeof(*un), 0600, out);
	if (r < 0) {
		describe_unix(path, -r, text, sizeof(text));
		tell(o->problem, o->arg, "control: %s", text);
	}
	return r;
}

static void
drop_listen(struct config *config, size_t i)
{
	free((char *)(uintptr_t)config->listen[i].address);
	config->n_listen--;
	memmove(&config->listen[i], &config->listen[i + 1],
	    (config->n_listen - i) * sizeof(config->listen[0]));
}

static int
open_all(const struct opening *o, struct config *config, struct listeners *l)
{
	bool skipped_tcp = false, has_tcp = false;
	int first_error = 0;

	for (size_t i = 0; i < config->n_listen;) {
		const struct config_listen *listen = &config->listen[i];
		bool is_unix = listen->sa.ss_family == AF_UNIX;
		int r = open_one(o, listen, &l->items[l->n]);
		char text[512];

		if (r == 0) {
			l->n++;
			i++;
			has_tcp |= !is_unix;
			continue;
		}
		if (is_unix)
			describe_unix(path_of(&listen->sa), -r, text, sizeof(text));
		else
			describe_tcp(o, listen, -r, text, sizeof(text));
		if (listen->optional) {
			log_warning(
			    "listener.skipped", KV_STR("listener", listen->address), KV_WHY(text));
			skipped_tcp |= !is_unix;
			drop_listen(config, i);
		} else {
			tell(o->problem, o->arg, "%s", text);
			first_error = first_error != 0 ? first_error : r;
			i++;
		}
	}
	if (first_error == 0 && (l->n == 0 || (skipped_tcp && !has_tcp))) {
		tell(o->problem, o->arg,
		    "none of the ports can be opened: mend what stands above, or "
		    "write the listen blocks you want");
		first_error = -EADDRNOTAVAIL;
	}
	return first_error;
}

static void
note_unused(const struct listeners *passed, const struct listeners *l)
{
	char address[160];

	for (size_t i = 0; passed != NULL && i < passed->n; i++)
		if (find_same(l, &passed->items[i].sa) == NULL) {
			print_address(&passed->items[i].sa, address, sizeof(address));
			log_warning("config.warned", KV_STR("listener", address),
			    KV_WHY("systemd passes this socket, but no listen block names it: who "
			           "connects there gets 421"),
			    KV_FIX("add the listen block, or take ListenStream= out of "
			           "relayd.socket"));
		}
}

int
listeners_open(struct config *config, const struct privileges *p, const struct listeners *passed,
    const struct listeners *old, config_problem_fn *problem, void *arg, struct listeners **out)
{
	struct opening o = { config, p, passed, old, problem, arg };
	struct listeners *l = xcalloc(1, sizeof(*l));
	int r;

	l->items = xcalloc(config->n_listen, sizeof(l->items[0]));
	l->control.fd = -1;
	r = open_all(&o, config, l);
	if (r == 0)
		r = open_control(&o, &l->control);
	if (r < 0) {
		listeners_close(l, old);
		return r;
	}
	note_unused(passed, l);
	*out = l;
	return 0;
}

static void
refuse(const struct listener *item)
{
	static const char reply[] =
	    "421 4.3.2 relayd does not serve this socket: no listen block names it\r\n";

	for (int i = 0; i < REFUSALS_MOST; i++) {
		int fd = accept4(item->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0)
			return;
		(void)!send(fd, reply, sizeof(reply) - 1, MSG_NOSIGNAL);
		close(fd);
	}
}

void
listeners_refuse(
    const struct listeners *passed, const struct listeners *now, const struct listeners *next)
{
	for (size_t i = 0; i < passed->n; i++)
		if (find_same(now, &passed->items[i].sa) == NULL &&
		    find_same(next, &passed->items[i].sa) == NULL)
			refuse(&passed->items[i]);
}

/* The name goes with the last one that has this very socket: one of the same name may be another. */
static void
close_one(struct listener *item, const struct listener *successor)
{
	bool lives_on = successor != NULL && successor->inode == item->inode;

	if (item->fd < 0)
		return;
	if (item->inode != 0 && !lives_on && inode_of(path_of(&item->sa)) == item->inode)
		(void)unlink(path_of(&item->sa));
	close(item->fd);
}

void
listeners_close(struct listeners *l, const struct listeners *successor)
{
	if (l == NULL)
		return;
	for (size_t i = 0; i < l->n; i++)
		close_one(&l->items[i], find_same(successor, &l->items[i].sa));
	close_one(&l->control, successor != NULL ? &successor->control : NULL);
	free(l->items);
	free(l);
}
