/* fuzz_server.c - any bytes, in any pieces, to the server session: the contract of server.h holds, and
 * what is kept of a message is what may be kept. The first bytes of the input choose options and
 * the length of the pieces. */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#include "smtp/address.h"
#include "smtp/server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct watcher {
	struct smtp_server server;
	bool begun, closed;
	char last; /* of the content */
	uint64_t bytes;
	unsigned n;
	uint8_t choices; /* what the caller does, bit by bit */
};

/* I12, D4: what was kept holds CR LF and nothing else of line ends, and no NUL. */
static void
check_chunk(struct watcher *w, struct span chunk)
{
	assert(w->begun && chunk.len > 0);
	for (size_t i = 0; i < chunk.len; i++) {
		const char c = chunk.data[i];

		assert(c != '\0');
		assert((c == '\n') == (w->last == '\r'));
		w->last = c;
	}
	w->bytes += chunk.len;
}

static void
check_address(struct span address, bool utf8)
{
	struct address a;

	assert(address.len <= ADDRESS_MAX + 64);
	assert(address_parse(address, &a) == ADDRESS_OK && a.domain.len > 0);
	assert(utf8 || !a.is_utf8);
	for (size_t i = 0; i < address.len; i++)
		assert((unsigned char)address.data[i] >= 0x20 && address.data[i] != 0x7f);
}

static void
check_mail(struct watcher *w)
{
	const struct smtp_mail *mail = &w->server.mail;

	assert(w->begun && mail->n_recipients > 0 && mail->n_recipients <= 5);
	assert(mail->body_bytes == w->bytes && w->last != '\r');
	assert(w->bytes == 0 || w->last == '\n');
	assert(mail->body_bytes <= 5000);
	if (mail->sender.len > 0)
		check_address(mail->sender, mail->smtputf8);
	for (size_t i = 0; i < mail->n_recipients; i++)
		check_address(mail->recipients[i].address, mail->smtputf8);
}

static void
check_reply(struct span reply)
{
	assert(reply.len >= 6 && reply.len < SMTP_REPLY_MAX * 2);
	assert(reply.data[0] >= '2' && reply.data[0] <= '5');
	assert(reply.data[reply.len - 2] == '\r' && reply.data[reply.len - 1] == '\n');
}

static void
perform(struct watcher *w, enum smtp_server_action action)
{
	struct smtp_server *s = &w->server;
	const bool veto = (w->choices >> w->n++ % 8 & 1) != 0;

	switch (action) {
	case SMTP_SERVER_REPLY:
		check_reply(s->reply);
		break;
	case SMTP_SERVER_BEGIN:
		assert(!w->begun);
		w->begun = true;
		w->bytes = 0;
		w->last = '\n' - 3;
		if (veto) {
			smtp_server_refuse(s, "452 4.3.1 no");
			w->begun = false;
		}
		break;
	case SMTP_SERVER_BODY:
		check_chunk(w, s->chunk);
		if (veto && w->n % 5 == 0) {
			smtp_server_refuse(s, "451 4.3.0 no");
			w->begun = false;
		}
		break;
	case SMTP_SERVER_ABORT:
		assert(w->begun);
		w->begun = false;
		break;
	case SMTP_SERVER_COMMIT:
		check_mail(w);
		w->begun = false;
		smtp_server_committed(s, veto ? -EAGAIN : 0, "0000000000001");
		break;
	case SMTP_SERVER_CLOSE:
		assert(!w->begun);
		w->closed = true;
		break;
	case SMTP_SERVER_WAIT:
		abort();
	case SMTP_SERVER_MORE:
		break;
	}
	/* The invariant of the transaction. */
	if (s->state == SMTP_SERVER_READY && !s->mail_is_stale)
		assert(s->mail.n_recipients == 0 && s->mail.sender.len == 0 && !s->begun);
}

static void
feed(struct watcher *w, struct span in, bool more)
{
	enum smtp_server_action action;

	do {
		size_t used;

		action = smtp_server_input(&w->server, in, more, &used);
		assert(used <= in.len && (action != SMTP_SERVER_MORE || used == in.len));
		perform(w, action);
		in = span_skip(in, used);
	} while (action != SMTP_SERVER_MORE && action != SMTP_SERVER_CLOSE);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct watcher w = { .begun = false };
	struct span in = { (const char *)data, size };
	struct smtp_server_options options = { .hostname = "relay.example.com",
		.max_message_bytes = 5000,
		.max_recipients = 5,
		.max_errors = 1000 };
	size_t piece;

	if (size < 3)
		return 0;
	options.auth_ignore = data[0] & 1;
	options.nul = (data[0] & 2) != 0 ? SMTP_NUL_SPACE : SMTP_NUL_REJECT;
	options.line_end = (data[0] & 4) != 0 ? SMTP_LINE_END_REJECT : SMTP_LINE_END_NORMALIZE;
	piece = data[1] == 0 ? size : data[1];
	w.choices = data[2] == ' ' ? 0 : data[2];
	in = span_skip(in, 3);
	smtp_server_init(&w.server, &options);
	feed(&w, SPAN(""), false);
	while (in.len > 0 && !w.closed) {
		const size_t n = in.len < piece ? in.len : piece;

		feed(&w, (struct span){ in.data, n }, (data[0] & 8) != 0 && n < in.len);
		in = span_skip(in, n);
	}
	smtp_server_fini(&w.server);
	return 0;
}
