/* presets.h - providers that relayd knows, one row each. A row holds the texts of settings; what the
 * file says wins. Facts change: the EHLO of the day is trusted over this table. */
#ifndef RELAYD_BASE_PRESETS_H
#define RELAYD_BASE_PRESETS_H

#include <stddef.h>
#include <stdbool.h>

enum preset_username {
	PRESET_USERNAME_OPTIONAL, /* by address list, or a user name */
	PRESET_USERNAME_ANY,      /* needed */
	PRESET_USERNAME_ADDRESS,  /* needed, and a whole address */
	PRESET_USERNAME_FIXED,    /* the row gives it */
	PRESET_USERNAME_PASSWORD, /* the token is user name and password */
};

struct preset {
	const char *name;
	const char *host; /* may hold %s: the region */
	const char *port, *tls;
	enum preset_username username_rule;
	const char *username;      /* PRESET_USERNAME_FIXED */
	const char *username_hint; /* what it is, for messages */
	const char *password_hint;
	const char *connections, *messages_per_connection, *recipients_per_message, *rate, *daily;
};

struct preset_region {
	const char *preset;
	const char *region;
	const char *host;
};

extern const struct preset presets[]; /* a row without a name ends it */

const struct preset *presets_find(const char *name); /* NULL: no such preset */
void presets_list(char *out, size_t size);           /* their names, with commas */

/* Writes the host for the region (NULL: none given). NULL if that is fine, else what would be right
 * (borrows a static text or `why`). */
const char *presets_host(const struct preset *preset, const char *region, char *host, size_t size,
    char *why, size_t why_size);

#endif
