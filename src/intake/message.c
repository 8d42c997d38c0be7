/* message.c - see message.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "base/queue_id.h"
#include "intake/message.h"
#include "smtp/address.h"
#include "smtp/trace.h"
#include "spool/envelope.h"
#include "spool/large.h"

#define BODY_FIRST_BYTES 4096u
#define BODY_FIRST_MOST (64u << 10)

struct message {
	struct spool_item item;
	struct intake *intake;
	uint64_t id;
	uint64_t declared_bytes;
	uint64_t bytes; /* of the body */
	char *body;     /* while it is small */
	size_t size;    /* allocated */
	struct large *large;
	struct iovec iov;
	void *envelope;
	message_done_fn *done; /* NULL: the session let go */
	void *arg;
};

struct message *
message_begin(struct intake *intake, uint64_t declared_bytes)
{
	struct message *message = xcalloc(1, sizeof(*message));

	message->intake = intake;
	message->declared_bytes = declared_bytes;
	return message;
}

static void
free_body(struct message *message)
{
	message->intake->body_bytes -= message->size;
	free(message->body);
	message->body = NULL;
	message->size = 0;
}

void
message_drop(struct message *message)
{
	if (message == NULL)
		return;
	free_body(message);
	large_drop(message->large);
	free(message->envelope);
	free(message);
}

uint64_t
message_id(const struct message *message)
{
	return message->id;
}

uint64_t
message_bytes(const struct message *message)
{
	return message->bytes;
}

static int
name_it(struct message *message)
{
	if (message->id == 0)
		message->id = spool_writer_next_id(message->intake->writer);
	return message->id != 0 ? 0 : -EIO;
}

/* The first piece tells little, the declared size is a hint only: never more than what a small
 * message needs before its bytes are there. */
static size_t
next_size(const struct message *message, size_t wanted)
{
	size_t size = message->size > 0 ? message->size * 2 : BODY_FIRST_BYTES;

	if (message->size == 0 && message->declared_bytes > size)
		size = message->declared_bytes < BODY_FIRST_MOST ? (size_t)message->declared_bytes
		                                                 : BODY_FIRST_MOST;
	if (size < wanted)
		size = wanted;
	return size < LARGE_INLINE_MAX ? size : LARGE_INLINE_MAX;
}

static int
grow(struct message *message, size_t wanted)
{
	size_t size = next_size(message, wanted);
	char *body;

	if (wanted <= message->size)
		return 0;
	body = os_realloc(message->body, size);
	if (body == NULL)
		return -ENOMEM;
	message->intake->body_bytes += size - message->size;
	message->body = body;
	message->size = size;
	return 0;
}

/* From here on the body stands on disk. */
static int
spill(struct message *message)
{
	int r = name_it(message);

	if (r == 0)
		r = large_create(message->intake->spool_fd, message->id, &message->large);
	if (r == 0 && message->bytes > 0)
		r = large_append(
		    message->large, (struct span){ message->body, (size_t)message->bytes });
	if (r == 0)
		free_body(message);
	return r;
}

static bool
is_small(const struct message *message, size_t wanted)
{
	return wanted <= message->size ||
	       (wanted <= LARGE_INLINE_MAX && message->intake->body_bytes < INTAKE_BODIES_MAX);
}

int
message_append(struct message *message, struct span chunk)
{
	int r = 0;

	if (chunk.len == 0)
		return 0;
	if (message->large == NULL && !is_small(message, (size_t)message->bytes + chunk.len))
		r = spill(message);
	if (r == 0 && message->large != NULL)
		r = large_append(message->large, chunk);
	else if (r == 0)
		r = grow(message, (size_t)message->bytes + chunk.len);
	if (r < 0)
		return r;
	if (message->large == NULL)
		memcpy(message->body + message->bytes, chunk.data, chunk.len);
	message->bytes += chunk.len;
	return 0;
}

static uint8_t
envelope_notify(unsigned notify)
{
	return (uint8_t)((notify & SMTP_NOTIFY_NEVER ? ENVELOPE_NOTIFY_NEVER : 0) |
	                 (notify & SMTP_NOTIFY_SUCCESS ? ENVELOPE_NOTIFY_SUCCESS : 0) |
	                 (notify & SMTP_NOTIFY_FAILURE ? ENVELOPE_NOTIFY_FAILURE : 0) |
	                 (notify & SMTP_NOTIFY_DELAY ? ENVELOPE_NOTIFY_DELAY : 0));
}

static uint32_t
envelope_flags(const struct message *message, const struct smtp_mail *mail)
{
	return (mail->body == SMTP_BODY_8BITMIME ? ENVELOPE_8BITMIME : 0) |
	       (mail->smtputf8 ? ENVELOPE_SMTPUTF8 : 0) | (mail->has_8bit ? ENVELOPE_8BIT : 0) |
	       (message->large != NULL ? ENVELOPE_LARGE : 0);
}

static size_t
print_prefix(const struct message *message, const struct smtp_mail *mail,
    const struct message_origin *origin, uint64_t now_ms, char out[TRACE_MAX])
{
	char id[QUEUE_ID_LEN + 1], client[PEER_TEXT_MAX + 16];
	struct trace trace = {
		.helo = origin->helo,
		.client = client,
		.hostname = message->intake->config->hostname,
		.queue_id = id,
		.esmtp = origin->esmtp,
		.smtputf8 = mail->smtputf8,
		.time_s = (int64_t)(now_ms / 1000),
		.header = &mail->header,
	};

	queue_id_print(message->id, id);
	if (origin->peer->family == AF_UNIX)
		snprintf(client, sizeof(client), "%s", origin->client);
	else
		snprintf(client, sizeof(client), "[%s%s]",
		    origin->peer->family == AF_INET6 ? "IPv6:" : "", origin->client);
	if (mail->n_recipients == 1)
		trace.recipient = mail->recipients[0].address;
	return trace_print(&trace, out);
}

static int
encode(struct message *message, const struct smtp_mail *mail, const struct message_origin *origin,
    size_t *len)
{
	char prefix[TRACE_MAX];
	struct envelope envelope = {
		.id = message->id,
		.arrived_ms = loop_realtime_ms(),
		.uid = origin->peer->uid,
		.flags = envelope_flags(message, mail),
		.trace_count = mail->header.received,
		.ret = (uint8_t)mail->ret,
		.unit = span_of(origin->peer->unit),
		.client = span_of(origin->client),
		.listener = span_of(origin->listener),
		.helo = origin->helo,
		.sender = mail->sender,
		.envid = mail->envid,
		.body_bytes = message->bytes,
		.body_checksum = message->large != NULL ? large_checksum(message->large) : 0,
		.n_recipients = mail->n_recipients,
	};
	int r;

	envelope.prefix = (struct span){ prefix,
		print_prefix(message, mail, origin, envelope.arrived_ms, prefix) };
	envelope.recipients =
	    os_alloc((mail->n_recipients + 1) * sizeof(struct envelope_recipient));
	if (envelope.recipients == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < mail->n_recipients; i++)
		envelope.recipients[i] =
		    (struct envelope_recipient){ .address = mail->recipients[i].address,
			    .orcpt = mail->recipients[i].orcpt,
			    .notify = envelope_notify(mail->recipients[i].notify) };
	r = envelope_encode(&envelope, &message->envelope, len);
	free(envelope.recipients);
	return r;
}

static void
on_done(struct spool_item *item, void *arg)
{
	struct message *message = arg;
	struct intake *intake = message->intake;

	message->large = NULL; /* the writer took it */
	if (item->result == 0) {
		atomic_fetch_add(&intake->page->accepted, 1);
		atomic_fetch_add(&intake->page->accepted_bytes, message->bytes);
	}
	intake->n_messages--;
	if (message->done != NULL)
		message->done(message->arg, item->result);
	else
		log_warning("session.lost", KV_ID("queue_id", message->id),
		    KV_STR("why", item->result == 0 ? "the disk answered after the client was "
		                                      "given up: the message is in the queue"
		                                    : "the disk answered after the client was "
		                                      "given up: the message is not in the queue"));
	message_drop(message);
	intake_settle(intake);
}

int
message_commit(struct message *message, const struct smtp_mail *mail,
    const struct message_origin *origin, message_done_fn *done, void *arg)
{
	size_t len;
	int r;

	r = name_it(message);
	if (r == 0)
		r = encode(message, mail, origin, &len);
	if (r < 0)
		return r;
	message->iov = (struct iovec){ message->body, (size_t)message->bytes };
	spool_item_message(&message->item, (struct span){ message->envelope, len },
	    message->large == NULL ? &message->iov : NULL,
	    message->large == NULL && message->bytes > 0 ? 1 : 0, message->large);
	message->item.done = on_done;
	message->item.arg = message;
	message->done = done;
	message->arg = arg;
	message->intake->n_messages++;
	spool_writer_submit(message->intake->writer, &message->item);
	return 0;
}

void
message_let_go(struct message *message)
{
	message->done = NULL;
}
