/* relayd-sendmail - sendmail(1): brings the message on its standard input to relayd. Neither setuid nor
 * setgid: it may do what its caller may, and relayd asks the kernel who that is. Exits 0 only when
 * the message is on relayd's disk (I1). */
#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/config.h"
#include "base/log.h"
#include "sendmail/args.h"
#include "sendmail/letter.h"
#include "sendmail/reach.h"
#include "sendmail/submit.h"

static int
fail(int code, const char *what, const char *detail)
{
	char shown[LOG_VALUE_MAX];

	log_quote(span_of(detail), shown, sizeof(shown));
	fprintf(stderr, "relayd-sendmail: %s%s%s\n", what, detail[0] != '\0' ? ": " : "", shown);
	return code;
}

static void
ignore_problem(void *arg, const char *text)
{
	(void)arg;
	(void)text;
}

struct places {
	char path[PATH_MAX];
	char loopback[64];
};

/* The first listeners of the configuration, if we may read it; else the usual places. */
static void
find_places(struct places *out)
{
	struct config *config;

	snprintf(out->path, sizeof(out->path), "%s", REACH_SOCKET);
	snprintf(out->loopback, sizeof(out->loopback), "%s", REACH_LOOPBACK);
	if (config_load(RELAYD_SYSCONFDIR "/relayd.conf", ignore_problem, NULL, &config) != 0)
		return;
	for (size_t i = config->n_listen; i-- > 0;) { /* backwards: the first one stays */
		const char *address = config->listen[i].address;

		if (strncmp(address, "unix:", 5) == 0)
			snprintf(out->path, sizeof(out->path), "%s", address + 5);
		else if (reach_is_loopback(address))
			snprintf(out->loopback, sizeof(out->loopback), "%s", address);
	}
	config_free(config);
}

static int
open_connection(const struct sendmail_args *args, struct reach *out)
{
	struct places places = { "", "" };
	const char *where = args->submit != NULL ? args->submit : getenv("RELAYD_SUBMIT");

	if (where != NULL && strncmp(where, "unix:", 5) == 0)
		where += 5;
	if (where != NULL && where[0] == '\0')
		where = NULL;
	if (where == NULL)
		find_places(&places);
	return reach_relayd(where, places.path, places.loopback, out);
}

/* Who calls, as the password file knows him; GECOS up to the first comma is the name. */
static void
find_caller(char *user, size_t user_size, char *name, size_t name_size)
{
	const struct passwd *pw = getpwuid(getuid());

	name[0] = '\0';
	if (pw == NULL || pw->pw_name[0] == '\0') {
		snprintf(user, user_size, "uid%u", (unsigned)getuid());
		return;
	}
	snprintf(user, user_size, "%s", pw->pw_name);
	if (pw->pw_gecos != NULL)
		snprintf(name, name_size, "%.*s", (int)strcspn(pw->pw_gecos, ","), pw->pw_gecos);
}

/* The value of -f: one address, or nothing, with or without <>. */
static int
take_sender(const char *text, char *out, size_t size)
{
	struct letter_list list = { NULL, 0 };
	const int r = letter_list_add(&list, span_of(text));
	const bool fits =
	    r == 0 && list.n <= 1 && (list.n == 0 || strlen(list.addresses[0]) < size);
	const bool is_null = fits && list.n == 0;

	if (fits)
		snprintf(out, size, "%s", list.n == 1 ? list.addresses[0] : "");
	letter_list_fini(&list);
	if (is_null && text[0] != '\0' && strcmp(text, "<>") != 0)
		return -EINVAL;
	return fits ? 0 : -EINVAL;
}

static int
collect_recipients(
    const struct sendmail_args *args, struct letter *letter, struct letter_list *recipients)
{
	char why[256];

	for (size_t i = 0; i < args->n_recipients; i++)
		if (letter_list_add(recipients, span_of(args->recipients[i])) != 0)
			return fail(EX_DATAERR, "this is not an address", args->recipients[i]);
	if (letter_take_recipients(letter, args->from_header, recipients, why) != 0)
		return fail(EX_DATAERR, "the message was not sent", why);
	if (recipients->n == 0)
		return args->from_header
		           ? fail(EX_DATAERR, "no recipients in the header (-t)", "")
		           : fail(EX_USAGE, "no recipients: name them, or use -t", "");
	return EX_OK;
}

static int
send_letter(const struct sendmail_args *args, struct letter *letter)
{
	char user[256], name[256], address[1024];
	struct submit_sender sender = { .address = address };
	struct letter_list recipients = { NULL, 0 };
	struct reach reach;
	int r;

	find_caller(user, sizeof(user), name, sizeof(name));
	sender.full_name = args->full_name != NULL ? args->full_name
	                   : args->sender == NULL  ? name
	                                           : "";
	if (args->sender == NULL && take_sender(user, address, sizeof(address)) != 0)
		snprintf(address, sizeof(address), "uid%u", (unsigned)getuid());
	if (args->sender != NULL && take_sender(args->sender, address, sizeof(address)) != 0)
		return fail(EX_USAGE, "this is not a sender's address", args->sender);
	r = collect_recipients(args, letter, &recipients);
	if (r == EX_OK)
		r = open_connection(args, &reach) < 0
		        ? EX_TEMPFAIL
		        : submit_letter(&reach, args, &sender, letter, &recipients);
	letter_list_fini(&recipients);
	return r;
}

static int
do_submit(const struct sendmail_args *args)
{
	struct letter letter;
	int r;

	if (!args->from_header && args->n_recipients == 0)
		return fail(EX_USAGE, "no recipients: name them, or use -t", "");
	r = letter_read(STDIN_FILENO, args->ignore_dots, &letter);
	if (r == -E2BIG)
		r = fail(EX_DATAERR, "the header is longer than 1 MiB", "");
	else if (r != 0)
		r = fail(EX_IOERR, "the message could not be read", strerror(-r));
	else
		r = send_letter(args, &letter);
	letter_fini(&letter);
	return r;
}

static int
do_smtp(const struct sendmail_args *args)
{
	struct reach reach;

	return open_connection(args, &reach) < 0 ? EX_TEMPFAIL : submit_pass_through(&reach);
}

/* The one program that is ever started from here: relayctl, from where we stand or where it was
 * installed, and nothing of the caller's goes into its arguments. */
static int
do_mailq(void)
{
	char path[PATH_MAX];
	const ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - sizeof("relayctl"));
	char *slash;

	path[n > 0 ? n : 0] = '\0';
	slash = strrchr(path, '/');
	if (slash != NULL) {
		strcpy(slash + 1, "relayctl");
		execl(path, "relayctl", "queue", (char *)NULL);
	}
	execl(RELAYD_BINDIR "/relayctl", "relayctl", "queue", (char *)NULL);
	return fail(EX_OSFILE, "cannot start relayctl queue", strerror(errno));
}

static int
do_help(void)
{
	puts("usage: relayd-sendmail [-t] [-i] [-f sender] [-F name] [recipient...] < message\n"
	     "also:  -bs (SMTP on standard input), -bp or mailq (the queue); see "
	     "relayd-sendmail(1)");
	return EX_OK;
}

static int
do_version(void)
{
	puts("relayd-sendmail " PACKAGE_VERSION);
	return EX_OK;
}

int
main(int argc, char **argv)
{
	struct sendmail_args args;
	char why[256];

	signal(SIGPIPE, SIG_IGN);
	if (args_parse(argc, argv, &args, why) != 0)
		return fail(EX_USAGE, "wrong use", why);
	switch (args.mode) {
	case SENDMAIL_SUBMIT:
		return do_submit(&args);
	case SENDMAIL_SMTP:
		return do_smtp(&args);
	case SENDMAIL_MAILQ:
		return do_mailq();
	case SENDMAIL_HELP:
		return do_help();
	case SENDMAIL_VERSION:
		return do_version();
	case SENDMAIL_NEWALIASES: /* there are none */
	case SENDMAIL_FLUSH:
		break;
	}
	return EX_OK;
}
