/* letter.h - the message on standard input, made ready to be sent: lines ended by CR LF, NUL and stray
 * CR as spaces, Bcc taken out, the recipients of its header found, addresses without a domain completed.
 * Read to its end before a connection is made, for cron and others write while their job runs.
 * Bounded memory: what is longer than LETTER_MEMORY goes to an unlinked temporary file. */
#ifndef RELAYD_SENDMAIL_LETTER_H
#define RELAYD_SENDMAIL_LETTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "base/span.h"

#define LETTER_MEMORY ((size_t)1 << 20) /* the header has to fit in */
#define LETTER_RECIPIENTS_MAX 20000

struct letter_list {
	char **addresses; /* each once */
	size_t n;
};

struct letter {
	struct span header; /* as it will be sent, without the empty line */
	struct span body;   /* from the empty line on; what fits in memory */
	int file;           /* the rest of the body, from its start; -1: there is none */
	uint64_t file_bytes;
	bool has_from;
	bool has_8bit;
	bool needs_separator; /* there was no empty line behind the header */

	char *memory;    /* private */
	char *qualified; /* private */
};

/* Reads `fd` to its end, or to a line with a lone dot. 0; -E2BIG: the header does not end within
 * LETTER_MEMORY; -errno: reading, or writing the temporary file, failed. Gives what
 * letter_fini() frees, also after a failure. */
int letter_read(int fd, bool ignore_dots, struct letter *out) MUST_CHECK;
void letter_fini(struct letter *letter);

/* Adds the recipients that the header names (Resent-* before the others) to the list, and then takes
 * every Bcc out. Call it once. -EINVAL, -E2BIG: something is not an address; `why` (256 bytes)
 * names the field. */
int letter_take_recipients(
    struct letter *letter, bool collect, struct letter_list *list, char *why) MUST_CHECK;

/* Gives the addresses without a domain in From, Sender, Reply-To, To, Cc and their Resent- forms this
 * one, as sendmail(1) always did: cron writes "From: root", and providers refuse it. A field that
 * is not certain to be read rightly stays as it is, and so does one that would get a line longer
 * than SMTP allows. Call it once, after letter_take_recipients(). */
void letter_qualify(struct letter *letter, struct span domain);

/* Adds the addresses in `text`, an address list. -EINVAL, -E2BIG as header_addresses(); control
 * bytes are -EINVAL. */
int letter_list_add(struct letter_list *list, struct span text) MUST_CHECK;
void letter_list_fini(struct letter_list *list);

#endif
