/* client_parts.h - what the four files of the client session share, and nobody else: client.c (its life and
 * what happens when), client_flight.c (how much is in flight, and when a reply counts), client_send.c
 * (what leaves), client_take.c (what comes back). */
#ifndef RELAYD_SMTP_CLIENT_PARTS_H
#define RELAYD_SMTP_CLIENT_PARTS_H

#include "smtp/client.h"

/* How a command leaves and what its reply means. `t` is NULL for the session's own commands; `i` is the
 * recipient of a RCPT. send composes only, take never composes: see smtp_client_next(). */
struct client_stage {
	void (*send)(struct smtp_client *, struct smtp_client_transaction *t, size_t i);
	void (*take)(struct smtp_client *, struct smtp_client_transaction *t, size_t i);
};
extern const struct client_stage client_stages[]; /* by enum smtp_stage */

/* client.c: the end of a session; only the first reason counts. */
void client_end(struct smtp_client *c, enum smtp_end_kind kind);
void client_protocol_error(struct smtp_client *c, const char *what);
void client_out_of_step(struct smtp_client *c, const char *what);
void client_end_by_reply(struct smtp_client *c, enum smtp_end_kind kind, const char *what);

/* client.c: transactions. */
struct smtp_client_transaction *client_nth(const struct smtp_client *c, unsigned i);
struct smtp_client_transaction *client_oldest_unanswered(const struct smtp_client *c);
bool client_is_pipelining(const struct smtp_client *c);
size_t client_mail_step(const struct smtp_client_transaction *t);
size_t client_data_step(const struct smtp_client_transaction *t);
enum smtp_stage client_stage_of(const struct smtp_client_transaction *t, size_t step);
void client_give_verdict(struct smtp_client *c, struct smtp_client_transaction *t, size_t i,
    const struct upstream_reply *reply, enum verdict verdict);
void client_give_verdicts(struct smtp_client *c, struct smtp_client_transaction *t,
    const struct upstream_reply *reply, enum verdict verdict);
void client_finish_oldest(struct smtp_client *c);
void client_skip_unsent(struct smtp_client_transaction *t);
void client_finish_complete(struct smtp_client *c);

/* client_flight.c */
bool client_is_complete(const struct smtp_client_transaction *t);
unsigned client_count_under_way(const struct smtp_client *c);
bool client_is_used_up(const struct smtp_client *c);
bool client_goes_by_bdat(const struct smtp_client *c, unsigned i);
bool client_holds(const struct smtp_client *c);
void client_settle(struct smtp_client *c);
void client_support(struct smtp_client *c, const struct smtp_client_transaction *t);
void client_settle_certain(struct smtp_client *c, struct smtp_client_transaction *t);
enum verdict client_verdict_at_end(
    const struct smtp_client *c, const struct smtp_client_transaction *t, uint64_t flushed);

/* client_send.c */
void client_trace(struct smtp_client *c, char direction, struct span line);
void client_send_ehlo(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_send_starttls(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_send_auth(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_send_rset(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_send_mail(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_send_rcpt(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_end_body(struct smtp_client *c, struct smtp_client_transaction *t);
void client_send_data(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_send_end(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_send_quit(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_check(struct smtp_client *c, struct smtp_client_transaction *t);

/* client_take.c */
void client_take_greeting(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_take_ehlo(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_take_starttls(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_take_auth(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_take_quit(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_take_rset(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_take_mail(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_take_rcpt(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_take_data(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);
void client_take_end(struct smtp_client *c, struct smtp_client_transaction *t, size_t i);

#endif
