/* fill_spool - fills a spool directory with a million messages in seconds, as intake and delivery
 * would have left it: the same writer, the same records, only without clients.
 *
 *   fill_spool [-d DONE] [-f FRESH] [-D DEFERRED] [-H HELD] [-g GROUP] [-b BYTES] [-S SEGMENT] DIRECTORY MESSAGES
 *
 * The first DONE messages get an outcome that says delivered, the next FRESH ones none, and of the others so
 * many say deferred (due in hours) or held, spread evenly. GROUP messages share a sync; a body has BYTES; a
 * file has SEGMENT bytes. Prints one JSON object. The directory must be there, and no relayd in it. */
#include <err.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "spool/envelope.h"
#include "spool/journal.h"
#include "spool/writer.h"

#define HOUR_MS (60u * 60 * 1000)
#define GROUP_MOST 400 /* two records of two pieces each have to fit into one write */

struct fill {
	int dirfd;
	uint64_t messages, done, fresh, deferred, held;
	unsigned group;
	size_t body_bytes, segment_bytes;
	char *body;
	uint64_t *ids;
	uint64_t now_ms;
};

/* What is on its way to the disk. */
struct batch {
	struct spool_writer *writer;
	struct spool_item *items;
	void **payloads;
	struct iovec *bodies;
	unsigned n, waiting;
};

static void
on_done(struct spool_item *item, void *arg)
{
	struct batch *b = arg;

	if (item->result != 0)
		errx(1, "the spool cannot be written: %s", strerror(-item->result));
	b->waiting--;
}

static void
batch_open(struct batch *b, const struct fill *f, enum segment_kind kind)
{
	struct spool_writer_options options = {
		.dirfd = f->dirfd, .kind = kind, .segment_bytes = f->segment_bytes, .wake_fd = -1
	};
	int r;

	*b = (struct batch){ .items = xcalloc(f->group, sizeof(b->items[0])),
		.payloads = xcalloc(f->group, sizeof(b->payloads[0])),
		.bodies = xcalloc(f->group, sizeof(b->bodies[0])) };
	r = spool_writer_open(&options, &b->writer);
	if (r < 0)
		errx(1, "the spool cannot be opened: %s", strerror(-r));
}

/* Waits for all that was submitted. */
static void
batch_flush(struct batch *b)
{
	struct pollfd p = { spool_writer_fd(b->writer), POLLIN, 0 };

	for (unsigned i = 0; i < b->n; i++)
		spool_writer_submit(b->writer, &b->items[i]);
	while (b->waiting > 0) {
		if (poll(&p, 1, 60000) != 1)
			errx(1, "the disk does not answer");
		spool_writer_dispatch(b->writer);
	}
	for (unsigned i = 0; i < b->n; i++)
		free(b->payloads[i]);
	b->n = 0;
}

static void
batch_close(struct batch *b)
{
	batch_flush(b);
	spool_writer_close(b->writer);
	free(b->items);
	free(b->payloads);
	free(b->bodies);
}

static struct spool_item *
batch_next(struct batch *b, const struct fill *f)
{
	struct spool_item *item;

	if (b->n == f->group)
		batch_flush(b);
	item = &b->items[b->n++];
	*item = (struct spool_item){ 0 };
	b->waiting++;
	return item;
}

static void
add_message(struct batch *b, struct fill *f, uint64_t i)
{
	char sender[64], recipient[64], prefix[256];
	struct envelope_recipient to = { 0 };
	struct envelope e = { .arrived_ms = f->now_ms - HOUR_MS,
		.uid = (uint32_t)getuid(),
		.trace_count = 1,
		.unit = SPAN("newsletter.service"),
		.client = SPAN("127.0.0.1"),
		.listener = SPAN("127.0.0.1:25"),
		.helo = SPAN("localhost"),
		.body_bytes = f->body_bytes,
		.recipients = &to,
		.n_recipients = 1 };
	struct spool_item *item = batch_next(b, f);
	unsigned slot = b->n - 1;
	size_t len;

	e.id = f->ids[i] = spool_writer_next_id(b->writer);
	snprintf(sender, sizeof(sender), "news+%ju@lists.example.com", (uintmax_t)i);
	snprintf(recipient, sizeof(recipient), "reader%ju@example.net", (uintmax_t)i);
	snprintf(prefix, sizeof(prefix),
	    "Received: from localhost (localhost [127.0.0.1])\r\n\tby relay.test with ESMTP id "
	    "%ju\r\n\tfor <%s>; Tue, 24 Nov 2026 02:27:04 +0000\r\n",
	    (uintmax_t)e.id, recipient);
	e.sender = span_of(sender);
	e.prefix = span_of(prefix);
	to.address = span_of(recipient);
	if (envelope_encode(&e, &b->payloads[slot], &len) < 0)
		errx(1, "no envelope");
	b->bodies[slot] = (struct iovec){ f->body, f->body_bytes };
	spool_item_message(
	    item, (struct span){ b->payloads[slot], len }, &b->bodies[slot], 1, NULL);
	item->done = on_done;
	item->arg = b;
}

static void
add_outcome(struct batch *b, const struct fill *f, uint64_t id, enum journal_state state)
{
	struct journal_recipient to = { .state = state,
		.attempts = 1,
		.code = 450,
		.enhanced = SPAN("4.2.1"),
		.reply = SPAN("The mailbox of this reader is busy, try again later"),
		.upstream = SPAN("up") };
	struct journal_outcome o = {
		.id = id, .time_ms = f->now_ms, .n_all = 1, .recipients = &to, .n_recipients = 1
	};
	struct spool_item *item = batch_next(b, f);
	size_t len;

	if (state == JOURNAL_DEFERRED)
		to.next_attempt_ms = f->now_ms + 3 * HOUR_MS;
	if (state == JOURNAL_DELIVERED) {
		o.flags = JOURNAL_DONE;
		to.code = 250;
		to.reply = SPAN("OK");
	}
	if (journal_encode(&o, &b->payloads[b->n - 1], &len) < 0)
		errx(1, "no outcome");
	spool_item_outcome(item, (struct span){ b->payloads[b->n - 1], len });
	item->done = on_done;
	item->arg = b;
}

/* Is i the next of `part` numbers spread evenly over `all`? */
static bool
is_one_of(uint64_t i, uint64_t part, uint64_t all)
{
	return all > 0 && (i + 1) * part / all > i * part / all;
}

static void
fill_messages(struct fill *f)
{
	struct batch b;

	batch_open(&b, f, SEGMENT_INTAKE);
	for (uint64_t i = 0; i < f->messages; i++)
		add_message(&b, f, i);
	batch_close(&b);
}

static void
fill_outcomes(struct fill *f)
{
	uint64_t first = f->done + f->fresh, rest = f->messages - first, deferred = 0, held = 0;
	struct batch b;

	batch_open(&b, f, SEGMENT_JOURNAL);
	for (uint64_t i = 0; i < f->messages; i++) {
		if (i < f->done)
			add_outcome(&b, f, f->ids[i], JOURNAL_DELIVERED);
		else if (i >= first && is_one_of(i - first, f->held, rest) && ++held)
			add_outcome(&b, f, f->ids[i], JOURNAL_HELD);
		else if (i >= first && is_one_of(i - first, f->deferred, rest) && ++deferred)
			add_outcome(&b, f, f->ids[i], JOURNAL_DEFERRED);
	}
	batch_close(&b);
	f->held = held;
	f->deferred = deferred; /* one that is both is held */
}

static uint64_t
number(const char *text, uint64_t least, uint64_t most)
{
	char *end;
	uint64_t n = strtoull(text, &end, 10);

	if (*text == '\0' || *end != '\0' || n < least || n > most)
		errx(2, "\"%s\" is not a number from %ju to %ju", text, (uintmax_t)least,
		    (uintmax_t)most);
	return n;
}

static void
parse(struct fill *f, int argc, char **argv)
{
	int option;

	while ((option = getopt(argc, argv, "d:f:D:H:g:b:S:")) != -1) {
		switch (option) {
		case 'd':
			f->done = number(optarg, 0, 1u << 30);
			break;
		case 'f':
			f->fresh = number(optarg, 0, 1u << 30);
			break;
		case 'D':
			f->deferred = number(optarg, 0, 1u << 30);
			break;
		case 'H':
			f->held = number(optarg, 0, 1u << 30);
			break;
		case 'g':
			f->group = (unsigned)number(optarg, 1, GROUP_MOST);
			break;
		case 'b':
			f->body_bytes = number(optarg, 1, 65536);
			break;
		case 'S':
			f->segment_bytes = number(optarg, SEGMENT_BYTES_LEAST, SEGMENT_BYTES_MOST);
			break;
		default:
			errx(2, "see the head of fill_spool.c");
		}
	}
	if (argc - optind != 2)
		errx(2, "which directory, how many messages?");
	f->messages = number(argv[optind + 1], 1, 1u << 30);
	if (f->done + f->fresh + f->deferred + f->held > f->messages)
		errx(2, "more than there are");
}

int
main(int argc, char **argv)
{
	static const char line[] = "A line of a message that somebody may read one day.\r\n";
	struct fill f = { .group = 128, .body_bytes = 106, .now_ms = os_now_ms() };

	parse(&f, argc, argv);
	f.dirfd = open(argv[optind], O_RDONLY | O_DIRECTORY);
	if (f.dirfd < 0)
		err(1, "%s", argv[optind]);
	if (segment_prepare_directory(f.dirfd) < 0)
		errx(1, "%s cannot be a spool", argv[optind]);
	f.ids = xcalloc(f.messages, sizeof(f.ids[0]));
	f.body = xcalloc(1, f.body_bytes + sizeof(line));
	for (size_t at = 0; at < f.body_bytes; at += sizeof(line) - 1)
		memcpy(f.body + at, line,
		    sizeof(line) - 1 < f.body_bytes - at ? sizeof(line) - 1 : f.body_bytes - at);
	if (f.body_bytes > 1)
		memcpy(f.body + f.body_bytes - 2, "\r\n", 2);
	fill_messages(&f);
	if (f.done + f.deferred + f.held > 0)
		fill_outcomes(&f);
	printf("{\"messages\": %ju, \"done\": %ju, \"deferred\": %ju, \"held\": %ju}\n",
	    (uintmax_t)f.messages, (uintmax_t)f.done, (uintmax_t)f.deferred, (uintmax_t)f.held);
	free(f.body);
	free(f.ids);
	close(f.dirfd);
	return 0;
}
