/* relayd.c - the service: the main() of the supervisor. In the foreground only; what starts it
 * (systemd, a container, a shell) watches it. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/config.h"
#include "supervisor/supervisor.h"

/* A descriptor that we open must never become 0, 1 or 2: something printed would go into it. */
static void
fill_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
	for (fd = 0; fd <= STDERR_FILENO; fd++)
		(void)fcntl(fd, F_SETFD, 0);
}

/* The directory that we were started from: a build tree, or any prefix. NULL: nobody can tell. */
static char *
own_directory(const char *argv0)
{
	char path[PATH_MAX];
	ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 1);
	char *slash;

	if (len < 0) {
		if (strchr(argv0, '/') == NULL || realpath(argv0, path) == NULL)
			return NULL;
	} else {
		path[len] = '\0';
	}
	slash = strrchr(path, '/');
	return slash != NULL ? xstrndup(path, (size_t)(slash - path)) : NULL;
}

static int
usage(FILE *out, int code)
{
	fputs("usage: relayd [-nv] [-c FILE]\n"
	      "  -c, --config FILE  the configuration (default: " RELAYD_SYSCONFDIR
	      "/relayd.conf)\n"
	      "  -n, --check        check it and what it names, then exit: 0 it is good, 78 it is "
	      "not\n"
	      "  -v, --verbose      log at level debug\n"
	      "  -V, --version      print the version\n"
	      "  -h, --help         print this\n"
	      "Runs in the foreground. SIGHUP reloads, SIGTERM stops. See relayd(8).\n",
	    out);
	return code;
}

static void
on_problem(void *arg, const char *text)
{
	(void)arg;
	fprintf(stderr, "%srelayd: %s\n", log_mark(LOG_ERROR), text);
}

static void
on_doubt(void *arg, const char *why, const char *fix)
{
	unsigned *n_doubts = arg;

	(*n_doubts)++;
	fprintf(stderr, "%srelayd: warning: %s; to mend it: %s\n", log_mark(LOG_WARNING), why, fix);
}

static int
check(const char *path)
{
	unsigned problems, doubts = 0;
	struct config *config;
	char but[64] = "";
	int r = config_load(path, on_problem, NULL, &config);

	if (r == -EACCES && geteuid() != 0) {
		fprintf(stderr, "%srelayd: %s cannot be looked at: run this as root\n",
		    log_mark(LOG_ERROR), path);
		return EX_NOPERM;
	}
	if (r < 0) {
		fprintf(stderr, "%srelayd: %s is not good: mend what stands above\n",
		    log_mark(LOG_ERROR), path);
		return EX_CONFIG;
	}
	problems = config_check_system(config, on_problem, on_doubt, &doubts);
	config_doubts(config, on_doubt, &doubts);
	if (doubts > 0)
		snprintf(but, sizeof(but), ", with %u warning%s", doubts, doubts == 1 ? "" : "s");
	if (problems > 0)
		fprintf(stderr,
		    "%srelayd: %s can be read, but %u thing%s it needs %s not in order\n",
		    log_mark(LOG_ERROR), path, problems, problems == 1 ? "" : "s",
		    problems == 1 ? "is" : "are");
	else
		printf("relayd: %s is good%s: %zu listener%s, %zu upstream%s\n", path, but,
		    config->n_listen, config->n_listen == 1 ? "" : "s", config->n_upstreams,
		    config->n_upstreams == 1 ? "" : "s");
	config_free(config);
	return problems > 0 ? EX_CONFIG : EX_OK;
}

int
main(int argc, char **argv)
{
	static const struct option long_options[] = { { "config", required_argument, NULL, 'c' },
		{ "check", no_argument, NULL, 'n' }, { "verbose", no_argument, NULL, 'v' },
		{ "version", no_argument, NULL, 'V' }, { "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 } };
	struct supervisor_options options = { .config_path = RELAYD_SYSCONFDIR "/relayd.conf" };
	bool is_check = false;
	char *directory;
	int option, code;

	fill_standard_descriptors();
	while ((option = getopt_long(argc, argv, "c:nvVh", long_options, NULL)) != -1)
		switch (option) {
		case 'c':
			options.config_path = optarg;
			break;
		case 'n':
			is_check = true;
			break;
		case 'v':
			options.is_verbose = true;
			break;
		case 'V':
			printf("relayd %s\n", PACKAGE_VERSION);
			return EX_OK;
		case 'h':
			return usage(stdout, EX_OK);
		default:
			return usage(stderr, EX_USAGE);
		}
	if (optind != argc)
		return usage(stderr, EX_USAGE);
	if (is_check)
		return check(options.config_path);
	directory = own_directory(argv[0]);
	options.directory = directory;
	code = supervisor_run(&options);
	free(directory);
	return code;
}
