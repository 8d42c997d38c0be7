/* fuzz_control.c - anything on the control socket of a delivery that runs, with a queue of mail in a spool.
 * Input: u8 length of the pieces (0: whole), then what a peer sends.
 *
 * What must hold: each line gets one answer that ends as control.h says, in JSON lines of bounded length;
 * a request longer than 64 KiB is refused and ends the connection; nothing that is asked ends the
 * process (I8) or makes it deaf: afterwards `status` still counts a queue that is the sum of its
 * parts. Delivery's upstream is a port of loopback where nobody listens. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/queue_id.h"
#include "delivery/control.h"
#include "delivery/delivery.h"
#include "spool_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MESSAGES = 8, ROUNDS = 400, SOCKET_NAME = 1, ANSWER_MOST = 4 << 20, WAIT_MS = 5000 };

static struct {
	struct config *config;
	struct loop *loop;
	struct shared_page *page;
	struct delivery *delivery;
	struct control *control;
	int dirfd, listener, wake, page_fd;
	unsigned rounds;
} world = { .dirfd = -1 };

static char answer[ANSWER_MOST];
static size_t answer_len;

/* ---- The spool and who owns it ---- */

static void
make_spool(void)
{
	struct envelope_recipient recipients[] = { { .address = SPAN("ann@example.org") },
		{ .address = SPAN("bob@example.org") } };
	static struct image mail, journal;

	image_begin(&mail, SEGMENT_INTAKE, 1000, 8, 0x31);
	image_begin(&journal, SEGMENT_JOURNAL, 10, 8, 0x32);
	for (unsigned k = 0; k < MESSAGES; k++) {
		struct journal_recipient r = { .state = k % 2 ? JOURNAL_HELD : JOURNAL_DEFERRED,
			.attempts = 1,
			.next_attempt_ms = 4102444800000, /* 2100 */
			.code = 450,
			.enhanced = SPAN("4.2.1"),
			.reply = SPAN("not \xff now"),
			.upstream = SPAN("up") };
		struct journal_outcome o = { .id = queue_id_make(1000, k + 1),
			.time_ms = 1000,
			.n_all = 1,
			.recipients = &r,
			.n_recipients = 1 };
		struct envelope e = { .id = o.id,
			.arrived_ms = 1700000000000,
			.uid = 1000 + k,
			.unit = SPAN("cron.service"),
			.sender = SPAN("app@example.org"),
			.body_bytes = 5,
			.recipients = recipients,
			.n_recipients = 1 + k % 2 };
		void *bytes;
		size_t len;

		assert(envelope_encode(&e, &bytes, &len) == 0);
		image_add(&mail, RECORD_ENVELOPE, 0, bytes, len);
		image_add(&mail, RECORD_BODY, 0, "x\r\ny\n", 5);
		free(bytes);
		assert(journal_encode(&o, &bytes, &len) == 0);
		image_add(&journal, RECORD_OUTCOME, 0, bytes, len);
		free(bytes);
	}
	image_commit(&mail);
	image_commit(&journal);
	image_write(world.dirfd, "intake-1000.seg", mail.bytes, mail.blocks * RECORD_BLOCK);
	image_write(world.dirfd, "journal-10.log", journal.bytes, journal.blocks * RECORD_BLOCK);
	assert(segment_prepare_directory(world.dirfd) == 0);
}

static void
tell(void *arg, const char *text)
{
	(void)arg;
	fprintf(stderr, "%s\n", text);
}

static void
load_config(void)
{
	static const char text[] =
	    "hostname = \"relay.example.com\"\npostmaster = \"ops@example.com\"\nuser = \"\"\n"
	    "upstream \"up\" { host = \"127.0.0.1\" port = 1 tls = none auth = none }\n";
	const int fd = memfd_create("config", MFD_CLOEXEC);

	assert(write(fd, text, sizeof(text) - 1) == (ssize_t)sizeof(text) - 1);
	assert(config_load_fd(fd, tell, NULL, &world.config) == 0);
	close(fd);
	world.config->spool.segment_bytes = SEGMENT_BYTES_LEAST;
	world.config->upstreams[0].command_timeout_ms = 1000;
}

static void
on_stop(void *arg, bool quick)
{
	(void)arg, (void)quick;
}

static void
open_listener(void)
{
	/* in the abstract, so that no file is left */
	struct sockaddr_un sun = { .sun_family = AF_UNIX };

	world.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert(bind(world.listener, (struct sockaddr *)&sun, sizeof(sun.sun_family)) == 0);
	assert(listen(world.listener, 8) == 0);
}

static void
open_world(void)
{
	struct loop_options loop = { .supervisor_fd = -1, .on_stop = on_stop };
	struct delivery_options options = { .config = world.config };

	if (world.config == NULL) {
		log_open("fuzz", LOG_TO_STDERR, LOG_ERROR);
		load_config();
		options.config = world.config;
		world.dirfd = image_directory();
	}
	image_empty(".");
	make_spool();
	assert(loop_open(&loop, &world.loop) == 0);
	assert(shared_page_create(&world.page_fd, &world.page) == 0);
	world.wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	options.loop = world.loop;
	options.dirfd = world.dirfd;
	options.page = world.page;
	options.wake_fd = world.wake;
	assert(delivery_open(&options, &world.delivery) == 0);
	open_listener();
	assert(control_open(world.delivery, world.listener, &world.control) == 0);
	world.rounds = 0;
}

static void
close_world(void)
{
	control_close(world.control);
	delivery_close(world.delivery);
	control_free(world.control);
	loop_close(world.loop);
	shared_page_unmap(world.page);
	close(world.page_fd);
	close(world.listener);
	close(world.wake);
	world.loop = NULL;
}

/* ---- A peer ---- */

static void
turn(void)
{
	(void)event_base_loop(loop_base(world.loop), EVLOOP_NONBLOCK);
}

static int
connect_peer(void)
{
	struct sockaddr_un sun;
	socklen_t len = sizeof(sun);
	const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert(getsockname(world.listener, (struct sockaddr *)&sun, &len) == 0);
	assert(connect(fd, (struct sockaddr *)&sun, len) == 0);
	answer_len = 0;
	return fd;
}

/* False: it hung up. */
static bool
hear(int fd)
{
	ssize_t n;

	while ((n = read(fd, answer + answer_len, sizeof(answer) - answer_len)) > 0)
		answer_len += (size_t)n;
	assert(answer_len < sizeof(answer));
	return n != 0 && (n > 0 || errno == EAGAIN);
}

/* As relayctl knows the last line of an answer. */
static bool
is_last(const json_t *line)
{
	if (json_object_get(line, "error") == NULL)
		return json_object_get(line, "ok") != NULL;
	return json_object_get(line, "id") == NULL || json_object_get(line, "count") != NULL ||
	       json_object_get(line, "phase") != NULL;
}

/* Looks at all whole lines that came: how many answers are complete. */
static unsigned
count_answers(void)
{
	unsigned n = 0;

	for (size_t at = 0; at < answer_len;) {
		const char *lf = memchr(answer + at, '\n', answer_len - at);
		json_t *line;

		if (lf == NULL)
			break;
		line = json_loadb(answer + at, (size_t)(lf - answer) - at, 0, NULL);
		assert(json_is_object(line));
		n += is_last(line);
		json_decref(line);
		at = (size_t)(lf - answer) + 1;
	}
	return n;
}

/* Sends; turns the loop until so many answers are there or the other end hung up. False: it did. */
static bool
talk(int fd, struct span bytes, size_t piece, unsigned answers)
{
	const uint64_t begin_ms = loop_now_ms();
	bool is_open = true;
	size_t heard = 0;

	while (is_open) {
		const size_t n = bytes.len < piece ? bytes.len : piece;
		const ssize_t sent = n > 0 ? send(fd, bytes.data, n, MSG_NOSIGNAL) : 0;

		bytes = span_skip(bytes, sent > 0 ? (size_t)sent : 0);
		if (sent < 0 && errno == EPIPE)
			bytes.len = 0;
		turn();
		is_open = hear(fd);
		if (bytes.len > 0)
			continue;
		if ((answer_len != heard || answers == 0) && count_answers() >= answers)
			break;
		heard = answer_len;
		assert(loop_now_ms() - begin_ms < WAIT_MS); /* it has to say something */
		if (is_open)
			usleep(200);
	}
	return is_open;
}

static void
check_status(void)
{
	static const char *const parts[] = { "queued", "active", "deferred", "held" };
	const int fd = connect_peer();
	json_int_t sum = 0;
	json_t *line, *queue;

	assert(talk(fd, SPAN("{\"command\":\"status\"}\n"), 100, 1));
	line = json_loadb(
	    answer, (size_t)((char *)memchr(answer, '\n', answer_len) - answer), 0, NULL);
	queue = json_object_get(json_object_get(line, "status"), "queue");
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		sum += json_integer_value(json_object_get(queue, parts[i]));
	assert(json_is_object(queue));
	assert(sum == json_integer_value(json_object_get(queue, "total")));
	json_decref(line);
	close(fd);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct span in = { (const char *)data + 1, size - 1 };
	unsigned lines = 0;
	size_t longest = 0;
	int fd;

	if (size < 2)
		return 0;
	if (world.loop != NULL &&
	    (world.rounds++ >= ROUNDS || queue_count_all(world.delivery->queue) < 2 ||
	        queue_count_all(world.delivery->queue) > 100))
		close_world();
	if (world.loop == NULL)
		open_world();
	for (struct span rest = in; rest.len > 0;) {
		const char *lf = memchr(rest.data, '\n', rest.len);
		const size_t len = lf != NULL ? (size_t)(lf - rest.data) + 1 : rest.len;

		longest = len > longest ? len : longest;
		lines += lf != NULL;
		rest = span_skip(rest, len);
	}
	fd = connect_peer();
	if (longest < CONTROL_REQUEST_MAX) {
		assert(talk(fd, in, data[0] > 0 ? data[0] : in.len, lines));
		assert(count_answers() == lines);
	} else {
		(void)talk(fd, in, data[0] > 0 ? data[0] * 64 : in.len, 1);
	}
	close(fd);
	turn();
	if (world.rounds % 16 == 1)
		check_status();
	return 0;
}
