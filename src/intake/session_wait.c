/* session_wait.c - how long a session waits for what (session.h), and what it is told when that does not come. */
#include <stdio.h>

#include "intake/session_parts.h"

#define LINGER_MS 2000
#define LINGER_STOPPING_MS 200

static uint64_t
deadline_ms(const struct session *s)
{
	uint64_t calm_ms = s->intake->config->limits.command_timeout_ms;

	if (s->state == SESSION_LINGERING)
		return s->intake->state == INTAKE_SERVING ? LINGER_MS : LINGER_STOPPING_MS;
	if (s->state == SESSION_TALKING && intake_is_stressed(s->intake) &&
	    calm_ms > INTAKE_STRESS_TIMEOUT_MS)
		return INTAKE_STRESS_TIMEOUT_MS;
	return calm_ms;
}

static void
end_overdue(struct session *s)
{
	char reply[512];

	if (s->state == SESSION_COMMITTING)
		return session_give_up_waiting(s);
	if (s->why == NULL)
		s->why = "deadline: see \"limits { command-timeout }\"";
	snprintf(reply, sizeof(reply), "421 4.4.2 %.255s: nothing complete within %u s, closing",
	    s->intake->config->hostname, (unsigned)(deadline_ms(s) / 1000));
	/* a client that does not read hears nothing */
	session_end(s, session_has_output(s) ? NULL : reply);
}

/* Stopping: sessions that do nothing go, a body on its way may arrive until end_ms. */
static bool
must_leave(const struct session *s, uint64_t now_ms)
{
	const struct intake *intake = s->intake;

	if (intake->state == INTAKE_SERVING || s->state != SESSION_TALKING)
		return false;
	if (now_ms >= intake->end_ms)
		return true;
	if (smtp_server_is_idle(&s->smtp))
		return now_ms - s->since_ms >= INTAKE_DRAIN_IDLE_MS;
	return !smtp_server_is_in_body(&s->smtp) && now_ms - s->since_ms >= INTAKE_DRAIN_SILENT_MS;
}

void
session_check(struct session *s, uint64_t now_ms)
{
	char reply[512];

	if (now_ms - s->since_ms >= deadline_ms(s))
		return end_overdue(s);
	if (must_leave(s, now_ms)) {
		s->why = "relayd stops or restarts";
		snprintf(reply, sizeof(reply),
		    "421 4.3.2 %.255s: restarting, try again in a moment",
		    s->intake->config->hostname);
		return session_end(s, reply);
	}
	if (s->state == SESSION_TALKING &&
	    now_ms - s->opened_ms >= s->intake->config->limits.session_timeout_ms) {
		s->why = "session too long: see \"limits { session-timeout }\"";
		snprintf(reply, sizeof(reply), "421 4.4.2 %.255s: session too long, closing",
		    s->intake->config->hostname);
		session_end(s, reply);
	}
}
