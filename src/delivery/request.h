/* request.h - one command of the control socket while it is answered (control.c runs it, the commands
 * are in control_*.c). The answer is made in steps, each as long as a screen: between two of them
 * mail flows, and the reader's pace decides when the next one comes. */
#ifndef RELAYD_DELIVERY_REQUEST_H
#define RELAYD_DELIVERY_REQUEST_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "delivery/delivery.h"

struct control_peer;
struct request;

enum request_progress {
	REQUEST_AGAIN, /* call the step again */
	REQUEST_WAIT,  /* for something: request_wake() */
	REQUEST_DONE,  /* the last line is said */
};

struct request_command {
	const char *name;
	/* Looks at r->json, sets up r->state. Says the last line itself if it is wrong. */
	enum request_progress (*start)(struct request *r);
	enum request_progress (*step)(struct request *r); /* NULL: start says all */
	void (*end)(struct request *r); /* frees r->state; NULL: nothing to free */
};

extern const struct request_command request_commands[]; /* ends with a NULL name */

/* Who is at the other end of a connection, by the kernel's word. Their names are not looked up: that may
 * ask the network, and an event loop must not wait. */
struct request_asker {
	uid_t uid;
	pid_t pid;
};

struct request {
	struct delivery *d;
	struct control *control;
	struct control_peer *peer; /* NULL: it has hung up */
	struct request_asker asker;
	const struct request_command *command;
	json_t *json;
	void *state;
	unsigned pending; /* callbacks that will still come: it lives until then */
	bool is_done;
};

void request_say(struct request *r, json_t *line);            /* takes the line */
void request_say_lines(struct request *r, struct span lines); /* as they are */
enum request_progress request_ok(struct request *r);
enum request_progress request_error(struct request *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
void request_wake(struct request *r);
/* Has the one who asked hung up (not only said that he asks no more)? He took it for refused. */
bool request_is_deserted(const struct request *r);
/* A pending callback came: ends the request if it was the last and nobody listens. False: r is
 * gone. */
bool request_returned(struct request *r) MUST_CHECK;

/* What to add where a message was not found: perhaps it will be. */
const char *request_not_yet(const struct delivery *d);
/* The text of a field; NULL: it is not there or not a text. */
const char *request_text(const struct request *r, const char *key);
/* An upstream by name; -1: none. */
int request_upstream(const struct delivery *d, const char *name);

/* A message that was written for a test has to go: soon, when nobody works on it. */
void control_forget(struct control *control, uint64_t id);

/* control_status.c */
enum request_progress control_status(struct request *r);
enum request_progress control_metrics(struct request *r);
enum request_progress control_config(struct request *r);
/* control_queue.c */
enum request_progress control_queue_start(struct request *r);
enum request_progress control_queue_step(struct request *r);
void control_queue_end(struct request *r);
enum request_progress control_show_start(struct request *r);
enum request_progress control_show_step(struct request *r);
void control_show_end(struct request *r);
/* control_change.c */
enum request_progress control_change_start(struct request *r);
enum request_progress control_change_step(struct request *r);
void control_change_end(struct request *r);
/* Gives a message up without telling anybody. False: it is being worked on now. */
bool control_remove(struct delivery *d, struct queue_entry *e);
/* control_test.c */
enum request_progress control_test_start(struct request *r);
enum request_progress control_test_step(struct request *r);
void control_test_end(struct request *r);
bool control_test_claim(struct request *r, struct queue_entry *e);

#endif
