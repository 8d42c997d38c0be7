/* submit.h - gives a letter to relayd, by SMTP, with no rights but those of the caller. To nobody else:
 * another server's 250 would be no promise of relayd's (I1), so who does not greet as relayd does
 * gets nothing. Says one line on stderr when something is wrong. */
#ifndef RELAYD_SENDMAIL_SUBMIT_H
#define RELAYD_SENDMAIL_SUBMIT_H

#include <stdbool.h>
#include <stddef.h>

#include "sendmail/args.h"
#include "sendmail/letter.h"
#include "sendmail/reach.h"

/* Who writes: for MAIL FROM, and for From where it is missing. */
struct submit_sender {
	const char *address;   /* "" is <>; may be without a domain */
	const char *full_name; /* may be empty */
};

/* The exit code (sysexits): 0 only after the 250 to the last byte (I1). Takes reach->fd. */
int submit_letter(const struct reach *reach, const struct sendmail_args *args,
    const struct submit_sender *sender, struct letter *letter,
    const struct letter_list *recipients);

/* -bs: what comes from standard input goes to relayd, its answers to standard output. Takes
 * reach->fd. */
int submit_pass_through(const struct reach *reach);

#endif
