/* control.h - the control socket: relayctl's way to the running queue. Changing things goes to the
 * one writer, and that is delivery.
 *
 * Protocol: lines of one JSON object each, both ways, UTF-8, LF. One request at a time; the answer is
 * zero or more lines, and ends with one that has "ok" or "error":
 *
 *   > {"command": "queue", "state": "deferred"}
 *   < {"message": {...}}                            (report.h)
 *   < {"ok": true, "count": 1}
 *   > {"command": "fetch"}
 *   < {"error": "unknown command \"fetch\""}
 *
 * After the answer the next request may follow on the same connection. A request line is at most
 * 64 KiB (else the error, and the connection ends). Only root and the uid that the service runs as
 * may connect; anybody else gets {"error": ...} and the end.
 *
 * command   fields of the request                  lines of the answer before {"ok": true}
 * --------  -------------------------------------  ---------------------------------------------
 * status    -                                      {"status": {...}}  see below
 * queue     id, sender, recipient, upstream,       {"message":{...}} each, or, with rows, {"row":"..."} for
 *           state, unit, uid (all optional, must   each line that people see (report_row.h); without spaces
 *           all fit; sender and recipient fit if   and with nothing else in the line. Beside "ok": "count";
 *           they are part of it, any case); rows   "queued": true if any is; "reading": true while the spool
 *           (true)                                 is not all read. Streamed: the reader sets the pace, a
 *                                                  million messages need no memory
 * show      id; body (true: all of it)             {"message": {... with details, and "waits_for" if its
 *                                                  upstream is down}} then, with body,
 *                                                  {"data": "<base64>"} pieces of the whole message
 *                                                  as it goes upstream, in order
 * retry     id: one or a list; or all: true        {"id": "...", "result": "queued" | "held" |
 * hold      (retry --all also ends every            "released" | "bounced" | "removed"} or
 * release    upstream's pause: a probe goes out    {"id": "...", "error": "..."} each; "count" is how
 * bounce     at once)                              many were changed. If one was not, the last line
 * remove                                           is {"error": "..."} and still has "count", and
 *                                                  "failed": how many were not. A spool that cannot
 *                                                  be written ends no request: each message has its
 *                                                  "error" at once.
 * test      recipient; sender (optional, "" for    {"event": "step", "text": "..."} what happens, and
 *           the null sender), upstream (optional)  {"event": "dialogue", "direction": ">" | "<" | "=",
 *                                                  "line": "..."} with secrets masked; then {"ok":
 *                                                  true, "id": "...", "verdict": "delivered", "text":
 *                                                  "..."} or {"error": "<plain words>", "id": "...",
 *                                                  "phase": "auth", "why": "...", "fix": "..."}
 * config    -                                      {"config": "<canonical text, masked>"}
 * metrics   -                                      {"metrics": "<Prometheus text>"}
 *
 * {"status": {
 *   "version": "0.1.0", "hostname": "...", "started": "<RFC 3339>", "paused": "" | "why delivery waits",
 *   "reading": null | {"segments": 40, "unread": 12}  (of what was in the spool at the start),
 *   "processes": [ {"name": "relayd" | "relayd-intake" | "relayd-delivery", "pid": 1, "restarts": 0} ],
 *   "intake": {"connections": 0, "sessions": 0, "accepted": 0, "rejected": 0, "bytes": 0,
 *              "spool_failed": false},
 *   "queue": {"queued": 0, "active": 0, "deferred": 0, "held": 0, "total": 0, "oldest_s": 0},
 *   "counts": {"delivered": 0, "deferred": 0, "bounced": 0, "held": 0, "removed": 0,
 *              "possible_duplicates": 0, "dsn": 0},              (recipients, since the start)
 *   "spool": {"directory": "...", "free_bytes": 0, "size_bytes": 0, "min_free_bytes": 0,
 *             "segments": 0, "failed": false, "full": false, "why": "", "fix": ""},
 *   "upstreams": [ {"name": "gmail", "host": "...", "port": 587, "tls": "starttls", "auth": "auto",
 *                   "state": "up" | "down" | "probing" | "unused", "since": "..." | null,
 *                   "why": "", "fix": "", "next_probe": "..." | null, "last_success": "..." | null,
 *                   "last_error": "", "connections": 0, "connections_max": 4, "queued": 0,
 *                   "delivered": 0, "rate_per_s": 0.0, "paced": false, "sent_today": 0,
 *                   "daily": 0} ] }}
 *
 * Times are RFC 3339 in UTC. New fields may appear; readers skip what they do not know. */
#ifndef RELAYD_DELIVERY_CONTROL_H
#define RELAYD_DELIVERY_CONTROL_H

#include "base/base.h"

struct control;
struct delivery;

#define CONTROL_REQUEST_MAX (64 * 1024)

/* Serves the listening socket (borrowed, non-blocking) from the delivery's event loop. -errno. */
int control_open(struct delivery *d, int listener_fd, struct control **out) MUST_CHECK;
/* Hangs up on everybody; before delivery_close(). Requests that wait for the disk end in there, so the
 * rest goes afterwards, by control_free(). NULL is fine for both. */
void control_close(struct control *control);
void control_free(struct control *control);

#endif
