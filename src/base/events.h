/* events.h - the catalog of events: every name that log_event() may be given, once. From it come
 * MESSAGE_ID=, the journal's message catalog (systemd/relayd.catalog) and the list in relayd-log(7);
 * tests/lint/check-events holds sources, table, catalog and manual page together. */
#ifndef RELAYD_BASE_EVENTS_H
#define RELAYD_BASE_EVENTS_H

#include <stdio.h>

#include "base/log.h"

struct event {
	const char *name;     /* noun.past-participle */
	enum log_level level; /* its usual level */
	const char *uuid;     /* MESSAGE_ID: 32 hex digits that never change */
	const char *meaning;  /* one line */
	const char *action;   /* what the operator should do */
};

extern const struct event events[]; /* sorted by name; a row without a name ends it */

const struct event *events_find(const char *name); /* NULL: no such event */
void events_print_catalog(FILE *out);              /* systemd/relayd.catalog */

#endif
