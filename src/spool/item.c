/* item.c - see item.h. */
#include "spool/item.h"

void
spool_item_message(struct spool_item *item, struct span envelope, const struct iovec *body,
    int n_body, struct large *large)
{
	struct spool_record *head = &item->records[0], *tail = &item->records[1];
	uint64_t bytes = 0;

	for (int i = 0; i < n_body; i++)
		bytes += body[i].iov_len;
	*head = (struct spool_record){
		.type = RECORD_ENVELOPE, .payload_bytes = (uint32_t)envelope.len, .n_iov = 1
	};
	head->one = (struct iovec){ (void *)(uintptr_t)envelope.data, envelope.len };
	head->iov = &head->one;
	item->n_records = large != NULL ? 1 : 2;
	item->large = large;
	*tail = (struct spool_record){ .type = RECORD_BODY,
		.payload_bytes = bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)bytes,
		.iov = body,
		.n_iov = n_body };
}

void
spool_item_copy(
    struct spool_item *item, uint32_t from, struct span envelope, const struct iovec *body)
{
	spool_item_message(item, envelope, body, body != NULL ? 1 : 0, NULL);
	item->n_records = body != NULL ? 2 : 1;
	item->above = from;
}

void
spool_item_outcome(struct spool_item *item, struct span payload)
{
	struct spool_record *record = &item->records[0];

	*record = (struct spool_record){
		.type = RECORD_OUTCOME, .payload_bytes = (uint32_t)payload.len, .n_iov = 1
	};
	record->one = (struct iovec){ (void *)(uintptr_t)payload.data, payload.len };
	record->iov = &record->one;
	item->n_records = 1;
	item->large = NULL;
}

uint64_t
spool_item_bytes(const struct spool_item *item)
{
	uint64_t bytes = 0;

	for (int i = 0; i < item->n_records; i++)
		bytes += record_bytes(item->records[i].payload_bytes);
	return bytes;
}

void
item_list_init(struct item_list *l)
{
	l->head = NULL;
	l->tail = &l->head;
}

void
item_list_add(struct item_list *l, struct spool_item *item)
{
	item->next = NULL;
	*l->tail = item;
	l->tail = &item->next;
}

struct spool_item *
item_list_take(struct item_list *l)
{
	struct spool_item *item = l->head;

	if (item == NULL)
		return NULL;
	l->head = item->next;
	if (l->head == NULL)
		l->tail = &l->head;
	item->next = NULL;
	return item;
}
