/* watch.c - see watch.h. */
#include "base/log.h"
#include "supervisor/service_manager.h"
#include "supervisor/watch.h"

#define SILENCE_MS 60000 /* a worker that says nothing for so long is killed */
#define DYING_MS 5000    /* what was killed and is still there then does not die */

void
watch_init(struct watch *w)
{
	*w = (struct watch){ .last_tick_ms = child_now_ms(),
		.watchdog_ms = service_manager_watchdog_ms() };
}

/* A machine that stood still (a stopped container, a paused guest) made everybody silent. */
static void
forgive_silence(struct watch *w, struct child *children, uint64_t now_ms)
{
	if (now_ms - w->last_tick_ms > 10 * WATCH_TICK_MS)
		for (struct child *child = children; child != NULL; child = child->next)
			child->alive_ms = child->killed_ms = now_ms;
	w->last_tick_ms = now_ms;
}

static void
watch_child(struct child *child, uint64_t now_ms)
{
	if (child->is_killed)
		return;
	if (child->deadline_ms != 0) {
		if (now_ms >= child->deadline_ms)
			child_kill(child);
	} else if (now_ms - child->alive_ms >= SILENCE_MS) {
		log_error("worker.hung", KV_STR("worker", child_program(child->role)),
		    KV_INT("pid", child->pid),
		    KV_MS("silent", (int64_t)(now_ms - child->alive_ms)));
		child_kill(child);
	}
}

/* It was killed and does not die (its disk hangs), and nobody can take its place: for an intake that was
 * told to stop another serves already, but of delivery there is only one at a time. */
static bool
is_in_the_way(const struct child *child, uint64_t now_ms)
{
	bool is_replaced = child->role == CHILD_INTAKE && child->deadline_ms != 0;

	return child->is_killed && !is_replaced && now_ms >= child->killed_ms + DYING_MS;
}

/* The watchdog is fed as long as each worker turns or is being replaced. Gives the one that starves it. */
static struct child *
find_undead(struct child *child, uint64_t now_ms)
{
	while (child != NULL && !is_in_the_way(child, now_ms))
		child = child->next;
	return child;
}

static void
feed_watchdog(struct watch *w, struct child *children, uint64_t now_ms)
{
	struct child *undead = find_undead(children, now_ms);

	if (undead != NULL && !undead->was_told) {
		undead->was_told = true;
		log_error("worker.hung", KV_STR("worker", child_program(undead->role)),
		    KV_INT("pid", undead->pid),
		    KV_WHY("it was killed and does not die: no other can be started, and "
		           "systemd's watchdog is not fed any more"),
		    KV_FIX("find out what it waits for (its state in ps, dmesg)"));
	}
	if (undead != NULL || w->watchdog_ms == 0 || now_ms - w->fed_ms < w->watchdog_ms / 4)
		return;
	w->fed_ms = now_ms;
	service_manager_alive();
}

void
watch_look(struct watch *w, struct child *children)
{
	uint64_t now_ms = child_now_ms();

	forgive_silence(w, children, now_ms);
	for (struct child *child = children; child != NULL; child = child->next)
		watch_child(child, now_ms);
	feed_watchdog(w, children, now_ms);
}
