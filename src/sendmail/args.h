/* args.h - the command line of sendmail(1) as thirty years of programs write it. What matters is
 * read, what cannot matter is ignored, and what would write a file, read another configuration or
 * change the queue is refused: web applications let strangers add options (CVE-2016-10033). */
#ifndef RELAYD_SENDMAIL_ARGS_H
#define RELAYD_SENDMAIL_ARGS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/base.h"

enum sendmail_mode {
	SENDMAIL_SUBMIT,     /* -bm */
	SENDMAIL_SMTP,       /* -bs */
	SENDMAIL_MAILQ,      /* -bp, mailq */
	SENDMAIL_NEWALIASES, /* -bi, -I, newaliases */
	SENDMAIL_FLUSH,      /* -q...: relayd tries again by itself */
	SENDMAIL_HELP,
	SENDMAIL_VERSION,
};

struct sendmail_args {
	enum sendmail_mode mode;
	const char *sender;    /* -f, -r; NULL: who calls */
	const char *full_name; /* -F; NULL: from the password file */
	const char *body;      /* -B: "7BIT" or "8BITMIME"; NULL */
	const char *notify;    /* -N: checked, in capitals of the user; NULL */
	const char *ret;       /* -R: "FULL" or "HDRS"; NULL */
	const char *envid;     /* -V; NULL */
	const char *submit;    /* --submit; NULL */
	bool from_header;      /* -t */
	bool ignore_dots;      /* -i, -oi */
	bool verbose;          /* -v */
	char **recipients;     /* borrowed from argv */
	size_t n_recipients;
};

/* Reads argv; argv[0] counts. 0, or -EINVAL after one line in `why`. */
int args_parse(int argc, char **argv, struct sendmail_args *out, char why[256]) MUST_CHECK;

#endif
