/* memory.c - LD_PRELOAD for tests: the N-th allocation from now on fails, and if wanted each one behind it. Whose
 * allocations, $MEMORY_OF says: words of which one stands in a library's name, "relayd" for the program itself;
 * nothing for all. With $MEMORY_LOOP only what is allocated once there is an event loop: not while the configuration is
 * read, for libconfuse does not survive it. The file $MEMORY is a struct memory, shared with the test, which counts and
 * decides while the program runs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RANGES_MOST 64

struct memory {
	_Atomic int64_t left;      /* 1: the next one fails; 0: none does */
	_Atomic int64_t is_sticky; /* it stays 1 */
	_Atomic int64_t calls, failed;
};

struct range {
	uintptr_t begin, end;
};

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

static struct memory *memory;
static struct range ranges[RANGES_MOST];
static size_t n_ranges;
static bool is_everybody, is_early;

static bool
is_named(const char *library)
{
	const char *words = getenv("MEMORY_OF");
	char copy[256], *word, *rest = copy;

	strncat(strcpy(copy, ""), words, sizeof(copy) - 1);
	while ((word = strsep(&rest, " ")) != NULL)
		if (library[0] == '\0' ? strcmp(word, "relayd") == 0
		                       : strstr(library, word) != NULL)
			return true;
	return false;
}

static int
add_library(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)size;
	(void)arg;
	for (size_t i = 0; i < info->dlpi_phnum && is_named(info->dlpi_name); i++) {
		const ElfW(Phdr) *part = &info->dlpi_phdr[i];

		if (part->p_type != PT_LOAD || !(part->p_flags & PF_X) || n_ranges == RANGES_MOST)
			continue;
		ranges[n_ranges].begin = info->dlpi_addr + part->p_vaddr;
		ranges[n_ranges].end = ranges[n_ranges].begin + part->p_memsz;
		n_ranges++;
	}
	return 0;
}

__attribute__((constructor)) static void
open_memory(void)
{
	int fd = open(getenv("MEMORY"), O_RDWR | O_CLOEXEC);
	void *shared = mmap(NULL, sizeof(*memory), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	is_early = getenv("MEMORY_LOOP") != NULL;
	is_everybody = getenv("MEMORY_OF")[0] == '\0';
	dl_iterate_phdr(add_library, NULL);
	if (fd < 0 || shared == MAP_FAILED || (n_ranges == 0 && !is_everybody))
		abort();
	close(fd);
	memory = shared;
}

static bool
is_meant(uintptr_t caller)
{
	for (size_t i = 0; i < n_ranges; i++)
		if (caller >= ranges[i].begin && caller < ranges[i].end)
			return true;
	return is_everybody;
}

static bool
fails(const void *caller)
{
	int64_t left, next;

	if (memory == NULL || is_early || !is_meant((uintptr_t)caller))
		return false;
	atomic_fetch_add(&memory->calls, 1);
	left = atomic_load(&memory->left);
	do
		next = left == 1 && memory->is_sticky ? 1 : left - 1;
	while (left > 0 && !atomic_compare_exchange_weak(&memory->left, &left, next));
	if (left != 1)
		return false;
	atomic_fetch_add(&memory->failed, 1);
	errno = ENOMEM;
	return true;
}

#define CALLER __builtin_extract_return_addr(__builtin_return_address(0))

void *
malloc(size_t size)
{
	return fails(CALLER) ? NULL : __libc_malloc(size);
}

void *
calloc(size_t count, size_t size)
{
	return fails(CALLER) ? NULL : __libc_calloc(count, size);
}

void *
realloc(void *old, size_t size)
{
	return fails(CALLER) ? NULL : __libc_realloc(old, size);
}

void *
memalign(size_t alignment, size_t size)
{
	return fails(CALLER) ? NULL : __libc_memalign(alignment, size);
}

void *
aligned_alloc(size_t alignment, size_t size)
{
	return fails(CALLER) ? NULL : __libc_memalign(alignment, size);
}

int
posix_memalign(void **out, size_t alignment, size_t size)
{
	void *got = fails(CALLER) ? NULL : __libc_memalign(alignment, size);

	if (got != NULL)
		*out = got;
	return got != NULL ? 0 : ENOMEM;
}

/* libevent's */
void *
event_base_new_with_config(const void *config)
{
	void *(*real)(const void *) =
	    (void *(*)(const void *))dlsym(RTLD_NEXT, "event_base_new_with_config");

	is_early = false;
	return real(config);
}
