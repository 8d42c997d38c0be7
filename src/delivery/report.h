/* report.h - a message as `queue --json` and `show --json` print it, from the running queue
 * (control.c) and from the spool alone (relayctl). The names are a promise to scripts (DESIGN.md):
 *
 *   { "id": "0000QW...", "state": "queued" | "active" | "deferred" | "held", "sender": "a@b",
 *     "size": 1234, "arrived": "2026-11-24T02:27:04Z", "next_attempt": "..." | null,
 *     "uid": 33 | null, "unit": "apache2.service" | "", "upstream": "gmail",
 *     "recipients": [ { "recipient": "c@d", "state": "queued" | "deferred" | "delivered" |
 *                       "bounced" | "held" | "removed", "attempts": 2, "reply": "450 4.2.1 ..." } ] }
 *
 * and with details (show): "client", "listener", "helo", "envid", "dsn" (relayd wrote it),
 * "possible_duplicates", "headers" and "history": [ { "time": "...", "recipient": "c@d", "state":
 * "deferred", "attempt": 1, "reply": "...", "upstream": "gmail" } ].
 *
 * Bytes that are not UTF-8 are shown as the log shows them. Needs jansson and base only. */
#ifndef RELAYD_DELIVERY_REPORT_H
#define RELAYD_DELIVERY_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "base/span.h"

struct report_recipient {
	struct span address;
	const char *state; /* as above */
	unsigned attempts;
	/* the upstream's last words, shown as one text: code (0: none), enhanced code, the rest */
	unsigned code;
	struct span enhanced, reply;
};

struct report_attempt {
	uint64_t time_ms;
	struct span recipient;
	const char *state;
	unsigned attempt;
	struct span reply;
	struct span upstream;
};

struct report_message {
	uint64_t id;
	const char *state; /* as above */
	struct span sender;
	uint64_t size_bytes;
	uint64_t arrived_ms;      /* since 1970 */
	uint64_t next_attempt_ms; /* 0: null */
	int64_t uid;              /* -1: null */
	struct span unit;
	struct span upstream;
	const struct report_recipient *recipients;
	size_t n_recipients;
};

struct report_details {
	struct span client, listener, helo, envid;
	bool is_dsn;
	unsigned possible_duplicates;
	struct span headers;                  /* the message's, as they go out */
	const struct report_attempt *history; /* oldest first */
	size_t n_history;
};

/* A text that grows: zeros at first, `text` is freed by its owner. */
struct report_text {
	char *text; /* no NUL at its end */
	size_t len, room;
};

/* Adds the message as one line of JSON, without the line's end. This is how a message is shown; the object
 * is made of it. A list of a million prints it at once: making objects takes five times as long. */
void report_print(struct report_text *out, const struct report_message *message);
void report_put(struct report_text *out, struct span bytes);
void report_put_string(struct report_text *out, struct span text); /* any bytes, as JSON */
/* Gives a new object (json_decref()). */
json_t *report_message(const struct report_message *message) MUST_CHECK;
void report_add_details(json_t *object, const struct report_details *details);

/* How the filters of a list look for a part of a sender, a recipient or a unit. */
bool report_has_part(struct span text, const char *part);

/* A JSON string of any bytes. */
json_t *report_text(struct span text) MUST_CHECK;
/* "2026-11-24T02:27:04Z"; 0: null. */
json_t *report_time(uint64_t time_ms) MUST_CHECK;
#define REPORT_TIME_MAX 32
void report_time_print(uint64_t time_ms, char out[REPORT_TIME_MAX]);

#endif
