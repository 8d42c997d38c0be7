/* page.h - the supervisor's side of the shared page (spool/shared_page.h): who runs, and what becomes
 * of the segments of an intake that died. */
#ifndef RELAYD_SUPERVISOR_PAGE_H
#define RELAYD_SUPERVISOR_PAGE_H

#include <sys/types.h>

#include "base/base.h"
#include "supervisor/child.h"

struct page;

/* Makes the page and the wake-up. Gives *out; -errno. */
int page_create(struct page **out) MUST_CHECK;
void page_free(struct page *page);

int page_shared_fd(const struct page *page); /* borrowed */
int page_wake_fd(const struct page *page);

void page_note_start(struct page *page, enum child_role role, pid_t pid, bool is_restart);

/* An intake ended: what it had not sealed is an orphan now, and delivery is woken to look at it like
 * after a crash, so that what it made durable goes out. */
void page_note_end(struct page *page, enum child_role role, pid_t pid);

#endif
