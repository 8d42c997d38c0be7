/* clock.c - LD_PRELOAD for tests: the wall clock is as many seconds wrong as the file $CLOCK_OFFSET says (an int64_t), at
 * each moment. The clocks that only count are right. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset_s;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void
open_offset(void)
{
	int fd = open(getenv("CLOCK_OFFSET"), O_RDONLY | O_CLOEXEC);

	real_clock_gettime =
	    (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	offset_s = mmap(NULL, sizeof(*offset_s), PROT_READ, MAP_SHARED, fd, 0);
	if (fd < 0 || real_clock_gettime == NULL || offset_s == MAP_FAILED)
		abort();
	close(fd);
}

int
clock_gettime(clockid_t clock, struct timespec *out)
{
	int r = real_clock_gettime(clock, out);

	if (r == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		out->tv_sec += *offset_s;
	return r;
}

time_t
time(time_t *out)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (out != NULL)
		*out = now.tv_sec;
	return now.tv_sec;
}

int
gettimeofday(struct timeval *restrict out, void *restrict zone)
{
	struct timespec now;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &now);
	*out = (struct timeval){ now.tv_sec, now.tv_nsec / 1000 };
	return 0;
}
