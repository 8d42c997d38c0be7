/* delivery_fixture.h - delivery itself, without a network, on a disk of os_disk.h: nobody listens where its only
 * upstream should be. */
#ifndef RELAYD_TESTS_DELIVERY_FIXTURE_H
#define RELAYD_TESTS_DELIVERY_FIXTURE_H

#include "os_disk.h"
#include "spool_fixture.h"
#include "base/config.h"
#include "base/loop.h"
#include "delivery/delivery.h"

struct running {
	struct config *config;
	struct loop *loop;
	struct shared_page *page;
	int page_fd, wake_fd;
	struct delivery *d; /* NULL: it did not open */
};

static inline void
running_on_stop(void *arg, bool quick)
{
	(void)arg;
	(void)quick;
}

/* -errno of delivery_open(). To be ended in either case. Segments may have fewer bytes than a file may say. */
static inline int
running_begin(struct running *x, int dirfd, uint64_t segment_bytes)
{
	struct loop_options loop_options = { .supervisor_fd = -1, .on_stop = running_on_stop };
	struct delivery_options options;
	FILE *file = tmpfile();

	fprintf(file, "hostname = \"relay.test\"\n"
	              "upstream \"up\" { host = \"127.0.0.1\" port = 1 tls = none auth = none }\n");
	fflush(file);
	assert_int_equal(config_load_fd(fileno(file), NULL, NULL, &x->config), 0);
	fclose(file);
	x->config->spool.segment_bytes = segment_bytes;
	assert_int_equal(shared_page_create(&x->page_fd, &x->page), 0);
	x->wake_fd = os_event_open();
	assert_int_equal(loop_open(&loop_options, &x->loop), 0);
	options = (struct delivery_options){ .config = x->config,
		.loop = x->loop,
		.dirfd = dirfd,
		.page = x->page,
		.wake_fd = x->wake_fd };
	x->d = NULL;
	return delivery_open(&options, &x->d);
}

static inline void
running_end(struct running *x)
{
	delivery_close(x->d);
	loop_close(x->loop);
	os_close(x->wake_fd);
	close(x->page_fd);
	shared_page_unmap(x->page);
	config_free(x->config);
}

#endif
