#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "spool/shared_page.h"

int
shared_page_create(int *fd, struct shared_page **out)
{
	struct shared_page *page;
	int memfd, r;

	memfd = memfd_create("relayd-shared", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (memfd < 0)
		return -errno;
	if (ftruncate(memfd, sizeof(*page)) < 0 ||
	    fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		r = -errno;
		goto fail;
	}
	page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (page == MAP_FAILED) {
		r = -errno;
		goto fail;
	}
	page->magic = SHARED_PAGE_MAGIC;
	*fd = memfd;
	*out = page;
	return 0;
fail:
	close(memfd);
	return r;
}

int
shared_page_map(int fd, struct shared_page **out)
{
	struct shared_page *page;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_size != (off_t)sizeof(*page))
		return -EINVAL;
	page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return -errno;
	if (page->magic != SHARED_PAGE_MAGIC) {
		munmap(page, sizeof(*page));
		return -EINVAL;
	}
	*out = page;
	return 0;
}

void
shared_page_unmap(struct shared_page *page)
{
	if (page != NULL)
		munmap(page, sizeof(*page));
}

bool
shared_page_take_slot(
    struct shared_page *page, uint32_t segment_number, uint64_t committed, bool forced)
{
	struct shared_slot *slot = shared_page_slot(page, segment_number);
	uint32_t state = atomic_load(&slot->state);

	do {
		if (state == SHARED_SLOT_LIVE || shared_slot_is_taken(state))
			return false;
		if (state != SHARED_SLOT_FREE && !forced)
			return false;
	} while (
	    !atomic_compare_exchange_weak(&slot->state, &state, shared_slot_taken_by(getpid())));
	atomic_store(&slot->owner_pid, (uint32_t)getpid());
	atomic_store(&slot->segment_number, segment_number);
	atomic_store(&slot->committed_bytes, committed);
	atomic_store(&slot->state, SHARED_SLOT_LIVE);
	return true;
}

unsigned
shared_page_orphan(struct shared_page *page, pid_t owner)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SHARED_PAGE_SLOTS; i++) {
		struct shared_slot *slot = &page->slots[i];
		uint32_t state = atomic_load(&slot->state);

		if (state == shared_slot_taken_by(owner)) {
			atomic_store(&slot->state, SHARED_SLOT_FREE); /* its file has no name yet */
			continue;
		}
		if (state == SHARED_SLOT_LIVE && atomic_load(&slot->owner_pid) == (uint32_t)owner) {
			atomic_store(&slot->state, SHARED_SLOT_ORPHANED);
			n++;
		}
	}
	return n;
}

bool
shared_page_look(struct shared_page *page, uint32_t segment_number, uint64_t *committed_bytes,
    enum shared_slot_state *state)
{
	struct shared_slot *slot = shared_page_slot(page, segment_number);
	uint32_t before, after;
	uint64_t number, committed;

	do { /* whoever retakes the slot makes it TAKEN first */
		before = atomic_load(&slot->state);
		number = atomic_load(&slot->segment_number);
		committed = atomic_load(&slot->committed_bytes);
		after = atomic_load(&slot->state);
	} while (before != after || atomic_load(&slot->segment_number) != number);
	if (number != segment_number ||
	    (before != SHARED_SLOT_LIVE && before != SHARED_SLOT_SEALED))
		return false;
	*committed_bytes = committed;
	*state = (enum shared_slot_state)before;
	return true;
}

void
shared_page_release_slot(struct shared_page *page, uint32_t segment_number)
{
	struct shared_slot *slot = shared_page_slot(page, segment_number);
	uint32_t state = atomic_load(&slot->state);

	if (atomic_load(&slot->segment_number) != segment_number)
		return;
	if (state == SHARED_SLOT_SEALED || state == SHARED_SLOT_ORPHANED)
		atomic_compare_exchange_strong(&slot->state, &state, SHARED_SLOT_FREE);
}
