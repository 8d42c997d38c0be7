/* relayctl.c - the operator's tool: one table of commands, one request each. Changing goes to the one
 * who writes (delivery, by its control socket); looking works from the spool alone as well. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/commands.h"
#include "ctl/ctl.h"

enum option_set {
	FILTERS = 1u << 0, /* --sender --recipient --upstream --state --unit --uid */
	BODY = 1u << 1,
	ALL = 1u << 2, /* and --verbose */
	YES = 1u << 3,
	FROM = 1u << 4, /* --sender --upstream */
};

/* clang-format off */
static const struct command {
	const char *name;
	const char *arguments;
	int least, most; /* number of arguments; most -1: any */
	unsigned options;
	int (*run)(const struct ctl *);
	const char *meaning;
} commands[] = {
	{ "status",  "",                    0,  0, 0,         ctl_status,  "each process, each upstream, the queue, the spool" },
	{ "queue",   "[FILTER...]",         0,  0, FILTERS,   ctl_queue,   "the messages that are not done yet" },
	{ "show",    "ID [--body]",         1,  1, BODY,      ctl_show,    "one message: envelope, history, headers; --body: all of it" },
	{ "retry",   "ID... | --all [-v]",  0, -1, ALL,       ctl_change,  "try now; --all also probes upstreams that are down" },
	{ "hold",    "ID... | --all [-v]",  0, -1, ALL,       ctl_change,  "keep, and do not try, until release" },
	{ "release", "ID... | --all [-v]",  0, -1, ALL,       ctl_change,  "end a hold and try now" },
	{ "bounce",  "ID... | --all [-v]",  0, -1, ALL,       ctl_change,  "give up, and tell the sender by a DSN" },
	{ "remove",  "ID... | --all [-vy]", 0, -1, ALL | YES, ctl_change,  "take out of the queue; nobody is told" },
	{ "test",    "ADDRESS",             1,  1, FROM,      ctl_test,    "send a test message and show the dialogue (--sender, --upstream)" },
	{ "config",  "",                    0,  0, 0,         ctl_config,  "the configuration in force, secrets masked" },
	{ "metrics", "",                    0,  0, 0,         ctl_metrics, "counters in Prometheus' text format" },
};

static const struct filter {
	const char *name;
	size_t field;
	unsigned options; /* the sets that it belongs to */
} filters[] = {
	{ "sender",    offsetof(struct ctl, sender),    FILTERS | FROM },
	{ "recipient", offsetof(struct ctl, recipient), FILTERS },
	{ "upstream",  offsetof(struct ctl, upstream),  FILTERS | FROM },
	{ "state",     offsetof(struct ctl, state),     FILTERS },
	{ "unit",      offsetof(struct ctl, unit),      FILTERS },
	{ "uid",       offsetof(struct ctl, uid),       FILTERS },
};
/* clang-format on */

static int
usage(FILE *out, int code)
{
	fputs("usage: relayctl [-c FILE | -s SOCKET] [--json] COMMAND\n\n", out);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		fprintf(out, "  %-8s %-21s %s\n", commands[i].name, commands[i].arguments,
		    commands[i].meaning);
	fputs("\n  FILTER: --sender TEXT, --recipient TEXT, --upstream NAME, --unit NAME, --uid "
	      "NUMBER,\n"
	      "          --state queued|active|deferred|held\n\n"
	      "  -c, --config FILE    relayd's configuration (default: " RELAYD_SYSCONFDIR
	      "/relayd.conf)\n"
	      "  -s, --socket SOCKET  its control socket, if the configuration cannot tell\n"
	      "      --json           one JSON object a line, for scripts\n"
	      "  -v, --verbose        with --all: a line for each message, not only the total\n"
	      "  -y, --yes            remove without asking\n"
	      "  -V, --version        print the version\n"
	      "  -h, --help           print this\n"
	      "Exit code: 0 done, 1 it failed (one line says why), 2 wrong use. See relayctl(1).\n",
	    out);
	return code;
}

static const struct command *
find_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static void
on_problem(void *arg, const char *text)
{
	(void)arg;
	ctl_note("%s", text);
}

/* Without -c a config that does not load only costs what is in it: a daemon that runs with the one
 * before is still there to be asked. */
static bool
load_config(struct ctl *ctl)
{
	const char *path =
	    ctl->config_path != NULL ? ctl->config_path : RELAYD_SYSCONFDIR "/relayd.conf";

	if (config_load(path, on_problem, NULL, &ctl->config) == 0)
		return true;
	ctl->config = NULL;
	return ctl->config_path == NULL;
}

static bool
check_options(const struct command *command, const struct ctl *ctl)
{
	for (size_t i = 0; i < ARRAY_LEN(filters); i++) {
		const char *value =
		    *(const char *const *)(const void *)((const char *)ctl + filters[i].field);

		if (value != NULL && (command->options & filters[i].options) == 0) {
			ctl_fail("%s takes no --%s", command->name, filters[i].name);
			return false;
		}
	}
	if (((ctl->is_all || ctl->is_verbose) && !(command->options & ALL)) ||
	    (ctl->is_sure && !(command->options & YES)) ||
	    (ctl->wants_body && !(command->options & BODY))) {
		ctl_fail("%s does not take that option: relayctl --help", command->name);
		return false;
	}
	if (ctl->uid != NULL && ctl->uid[strspn(ctl->uid, "0123456789")] != '\0') {
		ctl_fail("--uid wants a number");
		return false;
	}
	return true;
}

enum long_option { OPT_JSON = 256, OPT_ALL, OPT_YES, OPT_BODY, OPT_FILTER };

static const struct option long_options[] = { { "config", required_argument, NULL, 'c' },
	{ "socket", required_argument, NULL, 's' }, { "version", no_argument, NULL, 'V' },
	{ "help", no_argument, NULL, 'h' }, { "json", no_argument, NULL, OPT_JSON },
	{ "all", no_argument, NULL, OPT_ALL }, { "verbose", no_argument, NULL, 'v' },
	{ "yes", no_argument, NULL, OPT_YES }, { "body", no_argument, NULL, OPT_BODY },
	{ "sender", required_argument, NULL, OPT_FILTER },
	{ "recipient", required_argument, NULL, OPT_FILTER + 1 },
	{ "upstream", required_argument, NULL, OPT_FILTER + 2 },
	{ "state", required_argument, NULL, OPT_FILTER + 3 },
	{ "unit", required_argument, NULL, OPT_FILTER + 4 },
	{ "uid", required_argument, NULL, OPT_FILTER + 5 }, { NULL, 0, NULL, 0 } };

/* Returns false with *code when there is nothing more to do. */
static bool
read_command_line(int argc, char **argv, struct ctl *ctl, int *code)
{
	int option;

	while ((option = getopt_long(argc, argv, "c:s:vyVh", long_options, NULL)) != -1)
		switch (option) {
		case 'c':
			ctl->config_path = optarg;
			break;
		case 's':
			ctl->socket_path = optarg;
			break;
		case OPT_JSON:
			ctl->is_json = true;
			break;
		case OPT_ALL:
			ctl->is_all = true;
			break;
		case 'v':
			ctl->is_verbose = true;
			break;
		case 'y':
		case OPT_YES:
			ctl->is_sure = true;
			break;
		case OPT_BODY:
			ctl->wants_body = true;
			break;
		case 'V':
			printf("relayctl %s\n", PACKAGE_VERSION);
			*code = CTL_OK;
			return false;
		case 'h':
			*code = usage(stdout, CTL_OK);
			return false;
		case '?':
			*code = usage(stderr, CTL_USAGE);
			return false;
		default:
			*(const char **)(void *)((char *)ctl + filters[option - OPT_FILTER].field) =
			    optarg;
		}
	return true;
}

int
main(int argc, char **argv)
{
	struct ctl ctl = { 0 };
	const struct command *command;
	int code;

	signal(SIGPIPE, SIG_DFL); /* a pager that ends ends us */
	if (!read_command_line(argc, argv, &ctl, &code))
		return code;
	if (optind == argc)
		return usage(stderr, CTL_USAGE);
	command = find_command(argv[optind]);
	if (command == NULL) {
		ctl_fail("there is no command \"%s\"", argv[optind]);
		return usage(stderr, CTL_USAGE);
	}
	ctl.command = command->name;
	ctl.arguments = argv + optind + 1;
	ctl.n_arguments = argc - optind - 1;
	if (ctl.n_arguments < command->least ||
	    (command->most >= 0 && ctl.n_arguments > command->most)) {
		ctl_fail(
		    "wrong number of arguments: relayctl %s %s", command->name, command->arguments);
		return CTL_USAGE;
	}
	if (!check_options(command, &ctl))
		return CTL_USAGE;
	if (!load_config(&ctl))
		return CTL_FAILED;
	code = command->run(&ctl);
	config_free(ctl.config);
	if (fflush(stdout) != 0 || ferror(stdout))
		return ctl_fail("the output cannot be written");
	return code;
}
