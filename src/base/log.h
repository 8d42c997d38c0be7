/* log.h - events. A log line is an event with typed fields: log_info("message.delivered", KV_...).
 * The event's name is a literal `noun.past-participle` that stands in the catalog (events.c), in
 * the journal's message catalog and in relayd-log(7); tests/lint holds the three together.
 *
 * Where lines go: to the journal with one RELAYD_<KEY>= field for each key, MESSAGE_ID=, PRIORITY=
 * and a readable MESSAGE=; or to stderr, readable ("message.delivered queue_id=... reply="250 ok"");
 * or to stderr as one JSON object a line. target = auto is the journal when stderr is connected to
 * it ($JOURNAL_STREAM), else stderr.
 *
 * Values may hold any byte a peer sent: the logger escapes everything outside printable ASCII and
 * valid UTF-8, and bounds each value (LOG_VALUE_MAX). Secrets are never given to it (I10).
 * Line and JSON values hold the escaped text, so that all three targets say the same.
 * Logging never blocks and never fails: lines that cannot be written are counted, and the count is
 * reported in a line of its own (log.dropped) when writing works again.
 *
 * Lower rooms do not log; the caller who can name the message or the peer logs once. */
#ifndef RELAYD_BASE_LOG_H
#define RELAYD_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/span.h"

#define LOG_VALUE_MAX 1024 /* bytes of one value that are kept */

/* error: somebody must act. warning: we will retry. info: a fact in a mail's life. debug: bytes. */
enum log_level { LOG_ERROR = 3, LOG_WARNING = 4, LOG_INFO = 6, LOG_DEBUG = 7 };
enum log_target { LOG_TO_AUTO, LOG_TO_JOURNAL, LOG_TO_STDERR, LOG_TO_JSON };

enum log_field_type { LOG_FIELD_END, LOG_FIELD_SPAN, LOG_FIELD_INT, LOG_FIELD_MS, LOG_FIELD_ID };

struct log_field {
	enum log_field_type type;
	const char
	    *key; /* lower case, a literal: "queue_id", "sender", "recipient", "upstream", ... */
	struct span text;
	int64_t number;
};

#define KV_STR(k, s) ((struct log_field){ .type = LOG_FIELD_SPAN, .key = (k), .text = span_of(s) })
#define KV_SPAN(k, s) ((struct log_field){ .type = LOG_FIELD_SPAN, .key = (k), .text = (s) })
#define KV_INT(k, n)                                                                               \
	((struct log_field){ .type = LOG_FIELD_INT, .key = (k), .number = (int64_t)(n) })
/* A duration, given in milliseconds, shown in seconds: delay=1.234s, RELAYD_DELAY=1.234 */
#define KV_MS(k, n) ((struct log_field){ .type = LOG_FIELD_MS, .key = (k), .number = (int64_t)(n) })
/* A queue ID (base/queue_id.h): printed as users see it. */
#define KV_ID(k, id)                                                                               \
	((struct log_field){ .type = LOG_FIELD_ID, .key = (k), .number = (int64_t)(id) })
/* What an operator reads at 3 a.m.: the cause in plain words, and the setting to change. */
#define KV_WHY(s) KV_STR("why", s)
#define KV_FIX(s) KV_STR("fix", s)

/* Fields with an empty text are left out of the line. */
#define LOG_FIELDS(...)                                                                            \
	((const struct log_field[]){ __VA_ARGS__ __VA_OPT__(, ){ .type = LOG_FIELD_END } })
#define log_error(event, ...) log_event(LOG_ERROR, event, LOG_FIELDS(__VA_ARGS__))
#define log_warning(event, ...) log_event(LOG_WARNING, event, LOG_FIELDS(__VA_ARGS__))
#define log_info(event, ...) log_event(LOG_INFO, event, LOG_FIELDS(__VA_ARGS__))
#define log_debug(event, ...) log_event(LOG_DEBUG, event, LOG_FIELDS(__VA_ARGS__))

/* `program` is a literal: the SYSLOG_IDENTIFIER. Before log_open() lines go to stderr at info. */
void log_open(const char *program, enum log_target target, enum log_level most);
/* Where the journal is: tests put a socket of their own there, before log_open(). Borrows path. */
void log_use_journal(const char *path);
/* What a line for people begins with that goes to stderr and is no event: where stderr is the journal's
 * stream, its priority ("<3>", sd-daemon(3)), so that `journalctl -p` finds it; else nothing. A literal. */
const char *log_mark(enum log_level level);
bool log_is_on(enum log_level level); /* ask before costly debug fields */
void log_event(enum log_level level, const char *event, const struct log_field *fields);

/* Escapes `in` as log values are escaped, for other places that show peers' bytes to people
 * (relayctl, DSN): a control byte, a byte that is not part of valid UTF-8, and the bytes of invisible
 * or direction-changing characters become \xNN, a backslash is doubled, all else stays. Writes at
 * most size-1 bytes and a NUL (what does not fit ends in "..."), returns the length written. */
size_t log_quote(struct span in, char *out, size_t size);

#endif
