/* guess.c - see guess.h. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/guess.h"

#define NAME_BYTES_MAX 40

/* Letters to add, drop or change (Levenshtein); '_' is a '-', and case does not count. */
static unsigned
distance(const char *a, const char *b)
{
	unsigned row[NAME_BYTES_MAX + 1];
	size_t a_len = strlen(a), b_len = strlen(b);

	if (a_len > NAME_BYTES_MAX || b_len > NAME_BYTES_MAX)
		return NAME_BYTES_MAX;
	for (unsigned j = 0; j <= b_len; j++)
		row[j] = j;
	for (unsigned i = 1; i <= a_len; i++) {
		unsigned diagonal = row[0];
		char c = a[i - 1] == '_' ? '-' : (char)tolower((unsigned char)a[i - 1]);

		row[0] = i;
		for (unsigned j = 1; j <= b_len; j++) {
			unsigned best = diagonal + (c != b[j - 1]);

			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[b_len];
}

/* ---- settings of other programs ---- */

#define PASSWORD                                                                                   \
	"the password does not stand here: write it into a file of its own, and name that in "     \
	"password-file"
#define HOST "it is host, and port apart, in upstream \"NAME\" { }"
#define TLS "it is tls = starttls, or tls = implicit for port 465"
#define SENDER "relayd changes no sender: set it in the program that sends (sendmail -f)"
#define RECIPIENT                                                                                  \
	"relayd changes no recipient: write the whole address where mail is made (MAILTO of cron)"

/* Of msmtp, ssmtp and Postfix; those with the same name here, or nearly, are not needed. */
static const struct {
	const char *name, *advice;
} foreign[] = {
	{ "password", PASSWORD },
	{ "authpass", PASSWORD },
	{ "passwordeval", "it is password-command: a command that prints the password" },
	{ "user", "it is username in an upstream" },
	{ "authuser", "it is username in upstream \"NAME\" { }" },
	{ "authmethod", "it is auth in upstream \"NAME\" { }" },
	{ "account", "each upstream \"NAME\" { } is one" },
	{ "mailhub", HOST },
	{ "relayhost", HOST },
	{ "smarthost", HOST },
	{ "tls-starttls", TLS },
	{ "usestarttls", TLS },
	{ "usetls", TLS },
	{ "tls-trust-file", "it is tls-ca; without it the system's authorities are trusted" },
	{ "tls-ca-file", "it is tls-ca; without it the system's authorities are trusted" },
	{ "tls-certcheck", "it is tls-verify" },
	{ "tls-cert-file", "it is tls-cert" },
	{ "tls-key-file", "it is tls-key" },
	{ "from", SENDER },
	{ "maildomain", SENDER },
	{ "rewritedomain", SENDER },
	{ "fromlineoverride", SENDER },
	{ "root", RECIPIENT },
	{ "aliases", RECIPIENT },
	{ "domain", "it is hostname, outside of all blocks" },
	{ "logfile", "it is log { target }: the journal, or standard error" },
	{ "syslog", "it is log { target }: the journal, or standard error" },
	{ "timeout", "it is connect-timeout, command-timeout or data-timeout" },
};

/* But for the letters' case. */
static bool
is_ours(enum option_block block, const char *name)
{
	for (const struct option *o = options; o->name != NULL; o++)
		if (o->block == block && distance(name, o->name) == 0)
			return true;
	return false;
}

static void
guess_foreign(enum option_block block, const char *name, char *out, size_t size)
{
	if ((block != BLOCK_TOP && block != BLOCK_UPSTREAM) || is_ours(block, name))
		return;
	for (size_t i = 0; i < ARRAY_LEN(foreign); i++)
		if (distance(name, foreign[i].name) == 0)
			snprintf(out, size, "%s", foreign[i].advice);
}

/* ---- the nearest of ours, or the same in another block ---- */

static void
guess_near(enum option_block block, const char *name, char *out, size_t size)
{
	unsigned best = strlen(name) > 3 ? 3 : 2; /* fewer changes than this is a slip */
	const char *other;

	for (const struct option *o = options; o->name != NULL; o++)
		if (o->block == block && distance(name, o->name) < best) {
			best = distance(name, o->name);
			snprintf(out, size, "did you mean \"%s\"?", o->name);
		}
	for (unsigned b = 1; b < BLOCK_COUNT && block == BLOCK_TOP; b++) {
		other = options_block_name(b);
		if (distance(name, other) < best) {
			best = distance(name, other);
			snprintf(out, size, "did you mean the block \"%s\"?", other);
		}
	}
}

static void
guess_place(const char *name, char *out, size_t size)
{
	for (const struct option *o = options; o->name != NULL && out[0] == '\0'; o++) {
		const char *other = options_block_name(o->block);

		if (distance(name, o->name) > 0)
			continue;
		if (o->block == BLOCK_TOP)
			snprintf(out, size, "it stands outside of all blocks");
		else if (o->block >= BLOCK_LISTEN)
			snprintf(out, size, "it belongs into %s \"...\" { }", other);
		else
			snprintf(out, size, "it belongs into %s { }", other);
	}
}

void
guess_option(enum option_block block, const char *name, char *out, size_t size)
{
	out[0] = '\0';
	guess_foreign(block, name, out, size);
	if (out[0] == '\0')
		guess_near(block, name, out, size);
	if (out[0] == '\0')
		guess_place(name, out, size);
}
