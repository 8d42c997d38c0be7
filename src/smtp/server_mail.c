/* server_mail.c - the memory of one envelope: bounded (I9), and none in an idle session but one block. */
#include <stdlib.h>

#include "smtp/server_internal.h"

/* Blocks, newest first; the addresses in them never move. A session keeps one small block between
 * messages, so that the usual message costs no allocation and an idle session no memory. */
struct smtp_arena {
	struct smtp_arena *older;
	size_t size, len;
	char bytes[];
};

enum { BLOCK_FIRST = 1000, BLOCK_MORE = 16000, RECIPIENTS_KEPT = 8 };

static char *
arena_take(struct smtp_server *s, size_t len)
{
	struct smtp_arena *a = s->arena;

	if (a == NULL || a->size - a->len < len) {
		size_t size = a == NULL ? BLOCK_FIRST : BLOCK_MORE;

		if (size < len)
			size = len;
		a = xcalloc(1, sizeof(*a) + size);
		a->size = size;
		a->older = s->arena;
		s->arena = a;
	}
	a->len += len;
	s->arena_bytes += len;
	return a->bytes + a->len - len;
}

bool
server_mail_store(
    struct smtp_server *s, struct span a, struct span b, struct span c, struct span *out)
{
	const struct span parts[] = { a, b, c };
	const size_t len = a.len + b.len + c.len;
	char *to;

	if (len > SMTP_ENVELOPE_MAX - s->arena_bytes)
		return false;
	*out = (struct span){ NULL, 0 };
	if (len == 0)
		return true;
	to = arena_take(s, len);
	*out = (struct span){ to, len };
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		if (parts[i].len > 0)
			memcpy(to, parts[i].data, parts[i].len);
		to += parts[i].len;
	}
	return true;
}

void
server_mail_add(struct smtp_server *s, const struct smtp_recipient *recipient)
{
	struct smtp_mail *mail = &s->mail;

	if (mail->n_recipients == s->recipients_size) {
		s->recipients_size =
		    s->recipients_size > 0 ? 2 * s->recipients_size : RECIPIENTS_KEPT;
		mail->recipients =
		    xrealloc(mail->recipients, s->recipients_size, sizeof(*mail->recipients));
	}
	mail->recipients[mail->n_recipients++] = *recipient;
}

static void
drop_blocks(struct smtp_server *s, bool keep_one)
{
	struct smtp_arena *a;

	while (
	    (a = s->arena) != NULL && (a->older != NULL || !keep_one || a->size != BLOCK_FIRST)) {
		s->arena = a->older;
		free(a);
	}
	if (a != NULL)
		a->len = 0;
	s->arena_bytes = 0;
}

void
server_mail_clear(struct smtp_server *s)
{
	struct smtp_recipient *kept = s->mail.recipients;

	if (s->recipients_size > RECIPIENTS_KEPT) {
		free(kept);
		kept = NULL;
		s->recipients_size = 0;
	}
	s->mail = (struct smtp_mail){ .recipients = kept };
	drop_blocks(s, true);
}

void
server_mail_free(struct smtp_server *s)
{
	free(s->mail.recipients);
	s->mail = (struct smtp_mail){ .recipients = NULL };
	s->recipients_size = 0;
	drop_blocks(s, false);
}
