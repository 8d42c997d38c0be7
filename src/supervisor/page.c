/* page.c - see page.h. */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "spool/shared_page.h"
#include "supervisor/page.h"

struct page {
	struct shared_page *shared;
	int shared_fd, wake_fd;
};

int
page_create(struct page **out)
{
	struct page page = { .shared_fd = -1 };
	struct timespec now;
	int r;

	page.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (page.wake_fd < 0)
		return -errno;
	r = shared_page_create(&page.shared_fd, &page.shared);
	if (r < 0) {
		close(page.wake_fd);
		return r;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	page.shared->start_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
	page.shared->supervisor_pid = (uint32_t)getpid();
	*out = xcalloc(1, sizeof(page));
	**out = page;
	return 0;
}

void
page_free(struct page *page)
{
	if (page == NULL)
		return;
	shared_page_unmap(page->shared);
	close(page->shared_fd);
	close(page->wake_fd);
	free(page);
}

int
page_shared_fd(const struct page *page)
{
	return page->shared_fd;
}

int
page_wake_fd(const struct page *page)
{
	return page->wake_fd;
}

void
page_note_start(struct page *page, enum child_role role, pid_t pid, bool is_restart)
{
	bool is_intake = role == CHILD_INTAKE;

	*(is_intake ? &page->shared->intake_pid : &page->shared->delivery_pid) = (uint32_t)pid;
	if (is_restart)
		++*(is_intake ? &page->shared->intake_restarts : &page->shared->delivery_restarts);
}

void
page_note_end(struct page *page, enum child_role role, pid_t pid)
{
	_Atomic uint32_t *current =
	    role == CHILD_INTAKE ? &page->shared->intake_pid : &page->shared->delivery_pid;
	uint32_t expected = (uint32_t)pid;
	uint64_t one = 1;

	/* the last intake took its sessions with it, whatever it could still count */
	if (atomic_compare_exchange_strong(current, &expected, 0) && role == CHILD_INTAKE)
		page->shared->sessions_now = 0;
	if (shared_page_orphan(page->shared, pid) > 0 &&
	    write(page->wake_fd, &one, sizeof(one)) < 0)
		return; /* it is full: delivery has been woken already */
}
