/* conn_wait.c - how long a connection waits for what (conn.h), and what it means when that does not come. */
#include <errno.h>

#include "base/os.h"
#include "delivery/conn_parts.h"

#define LEAST_RATE_BYTES 500  /* a second, while something is being sent (row 23) */
#define NEXT_ADDRESS_MS 10000 /* a silent address is left sooner if there is another */
#define PROVING_MS 5000       /* for the first reply to an envelope that travelled with a body */
#define FAREWELL_MS 5000      /* for the reply to QUIT, and for EOF after a 421 */

static int64_t
now_ms(void)
{
	return (int64_t)os_boot_ms();
}

static enum smtp_stage
what_it_waits_for(struct conn *c)
{
	switch (c->phase) {
	case CONN_RESOLVE:
		return SMTP_STAGE_RESOLVE;
	case CONN_CONNECT:
		return SMTP_STAGE_CONNECT;
	case CONN_TLS:
		return SMTP_STAGE_TLS;
	default:
		return conn_unsent_bytes(c) > 0 ? SMTP_STAGE_BODY
		                                : smtp_client_waits_for(&c->client);
	}
}

static uint64_t
timeout_ms(const struct conn *c, enum smtp_stage stage)
{
	const struct config_upstream *u = c->o.upstream;

	if (c->client.closing || stage == SMTP_STAGE_QUIT)
		return FAREWELL_MS;
	if (smtp_client_is_proving(&c->client) && stage != SMTP_STAGE_BODY &&
	    u->command_timeout_ms > PROVING_MS)
		return PROVING_MS;
	switch (stage) {
	case SMTP_STAGE_CONNECT:
		if (c->address + 1 < c->n_addresses && u->connect_timeout_ms > NEXT_ADDRESS_MS)
			return NEXT_ADDRESS_MS;
		return u->connect_timeout_ms;
	case SMTP_STAGE_RESOLVE:
	case SMTP_STAGE_TLS:
		return u->connect_timeout_ms;
	case SMTP_STAGE_END:
		return u->data_timeout_ms;
	case SMTP_STAGE_IDLE:
		return u->idle_ms;
	default:
		return u->command_timeout_ms;
	}
}

/* The timer is set when a wait begins that ends sooner than it would fire; a later deadline is
 * noticed when it fires. So a busy connection does not touch the timer for each message. */
void
conn_set_deadline(struct conn *c)
{
	enum smtp_stage stage = what_it_waits_for(c);
	bool begun = stage != c->waits_for || c->replies != c->client.replies;
	int64_t now = now_ms(), old = c->deadline_ms;
	struct timeval tv;

	if (!begun)
		return;
	c->waits_for = stage;
	c->replies = c->client.replies;
	c->wait_since_ms = now;
	c->wait_sent = c->wire_sent;
	c->deadline_ms = now + (int64_t)timeout_ms(c, stage);
	if (old != 0 && old <= c->deadline_ms && evtimer_pending(c->timer, NULL))
		return;
	tv.tv_sec = (c->deadline_ms - now) / 1000;
	tv.tv_usec = (c->deadline_ms - now) % 1000 * 1000;
	evtimer_add(c->timer, &tv);
}

const char *
conn_waiting(const struct conn *conn, uint64_t *waited_ms)
{
	int64_t waited = now_ms() - conn->wait_since_ms;

	*waited_ms = waited > 0 ? (uint64_t)waited : 0;
	return smtp_stage_phrase(conn->waits_for);
}

static void
on_deadline(struct conn *c)
{
	const char *phrase = smtp_stage_phrase(c->waits_for);
	int64_t waited_ms = now_ms() - c->wait_since_ms;

	if (smtp_client_is_proving(&c->client) && c->waits_for != SMTP_STAGE_BODY) {
		conn_learn(c, SMTP_OVERLAP_NEVER);
		conn_fail_words(c, SMTP_END_DROPPED,
		    "the upstream lost the envelope that came with the body before it; from now on "
		    "each "
		    "waits for the one before");
		return;
	}
	switch (c->waits_for) {
	case SMTP_STAGE_IDLE:
		smtp_client_quit(&c->client);
		return;
	case SMTP_STAGE_QUIT:
		smtp_client_eof(&c->client);
		return;
	case SMTP_STAGE_RESOLVE:
		conn_fail_words(c, SMTP_END_DNS, "no name server answered within %lld s about %s",
		    (long long)(waited_ms + 500) / 1000, c->o.upstream->host);
		return;
	case SMTP_STAGE_CONNECT:
		conn_next_address(c, ETIMEDOUT);
		return;
	case SMTP_STAGE_BODY:
		if (c->wire_sent - c->wait_sent >= (uint64_t)waited_ms * LEAST_RATE_BYTES / 1000) {
			c->waits_for = SMTP_STAGE_NONE; /* fast enough: another window */
			return;
		}
		break;
	default:
		break;
	}
	conn_fail_words(c, SMTP_END_TIMEOUT, "the upstream did not answer within %lld s while %s",
	    (long long)(waited_ms + 500) / 1000, phrase);
}

void
conn_on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;
	int64_t left_ms = c->deadline_ms - now_ms();
	struct timeval tv = { .tv_sec = left_ms / 1000, .tv_usec = left_ms % 1000 * 1000 };

	(void)fd, (void)what;
	if (left_ms > 0) {
		evtimer_add(c->timer, &tv);
		return;
	}
	on_deadline(c);
	conn_pump(c);
}
