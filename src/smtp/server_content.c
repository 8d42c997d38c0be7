/* server_content.c - what follows DATA and BDAT: kept while it is wanted, skipped when it is refused. */
#include "smtp/server_internal.h"

/* A mailing list on this host may see a message twice, an upstream that is ourselves never ends. */
enum { DISCARD_MIN = 16 << 20, OWN_HOPS = 5 };

void
server_refuse_message(struct smtp_server *s, struct span reply)
{
	s->refusal = reply;
	s->abort_pending |= s->begun;
	s->begun = false;
}

void
server_begin_content(struct smtp_server *s, bool dots)
{
	data_begin(&s->data, dots, s->options->nul == SMTP_NUL_SPACE);
	header_scan_begin(&s->header);
	s->header.own = s->options->hostname;
	s->skipped_bytes = 0;
}

/* What the content itself says against the message. */
static void
judge_content(struct smtp_server *s)
{
	const unsigned hops = s->options->max_received > 0 ? s->options->max_received : 100;
	const uint64_t most = s->options->max_message_bytes;
	const bool is_bare = s->data.has_bare_cr || s->data.has_bare_lf;

	if (s->refusal.len > 0)
		return;
	if (most > 0 && s->mail.body_bytes > most)
		server_refuse_message(s, server_reply(REPLY_TOO_LARGE));
	else if (s->data.has_nul && s->options->nul == SMTP_NUL_REJECT)
		server_refuse_message(s, server_reply(REPLY_NUL));
	else if (is_bare && s->options->line_end == SMTP_LINE_END_REJECT)
		server_refuse_message(s, server_reply(REPLY_BARE));
	else if (s->header.facts.received >= hops || s->header.facts.own >= OWN_HOPS)
		server_refuse_message(s, server_reply(REPLY_LOOP));
}

/* Is s->chunk part of a message that is still wanted? */
static bool
keep_chunk(struct smtp_server *s)
{
	if (s->refusal.len > 0)
		return false;
	s->mail.body_bytes += s->chunk.len;
	if (!s->header.is_over)
		header_scan_take(&s->header, s->chunk);
	judge_content(s);
	return s->refusal.len == 0;
}

/* D6: what is thrown away is read to its end, but not for ever. */
static bool
is_skipped_enough(struct smtp_server *s, size_t n)
{
	const uint64_t most = s->options->max_message_bytes;

	if (s->refusal.len == 0)
		return false;
	s->skipped_bytes += n;
	return s->skipped_bytes > (most > DISCARD_MIN ? most : DISCARD_MIN);
}

static enum smtp_server_action
commit(struct smtp_server *s)
{
	header_scan_finish(&s->header);
	s->mail.header = s->header.facts;
	s->mail.has_8bit = s->data.has_8bit;
	s->begun = false; /* from here on the caller answers for it */
	server_enter(s, SMTP_SERVER_COMMITTING);
	return SMTP_SERVER_COMMIT;
}

/* The message is over and refused. */
static enum smtp_server_action
answer_refusal(struct smtp_server *s)
{
	const struct span refusal = s->refusal;

	server_reset(s);
	server_answer_span(s, refusal);
	return server_next_pending(s);
}

enum smtp_server_action
server_take_data(struct smtp_server *s, struct span in, size_t *used)
{
	s->command = "end of data";
	s->argument = SPAN("");
	for (;;) {
		size_t n;
		const enum data_event event = data_take(&s->data, in, &n, &s->chunk);

		*used += n;
		in = span_skip(in, n);
		if (is_skipped_enough(s, n)) {
			server_close(s, REPLY_ENDLESS);
			return server_next_pending(s);
		}
		if (event == DATA_CHUNK && keep_chunk(s))
			return SMTP_SERVER_BODY;
		if (event == DATA_END)
			judge_content(s);
		if (s->abort_pending && event != DATA_END)
			return server_next_pending(s);
		if (event == DATA_END)
			return s->refusal.len > 0 ? answer_refusal(s) : commit(s);
		if (event == DATA_MORE)
			return SMTP_SERVER_MORE;
	}
}

/* B3: after an error in the middle, what is left of the message is skipped. */
static enum smtp_server_action
end_of_refused_chunk(struct smtp_server *s)
{
	const struct span refusal = s->refusal;

	server_reset(s);
	if (!s->chunk_is_last)
		server_enter(s, SMTP_SERVER_BDAT_ERROR);
	server_answer_span(s, refusal);
	return server_next_pending(s);
}

static enum smtp_server_action
end_of_chunk(struct smtp_server *s)
{
	if (s->refusal.len == 0 && s->chunk_is_last) {
		s->chunk = data_finish(&s->data);
		if (s->chunk.len > 0 && keep_chunk(s))
			return SMTP_SERVER_BODY;
	}
	judge_content(s);
	if (s->refusal.len > 0)
		return end_of_refused_chunk(s);
	if (s->chunk_is_last)
		return commit(s);
	server_enter(s, SMTP_SERVER_BDAT);
	server_answer(s, REPLY_OK);
	return server_next_pending(s);
}

enum smtp_server_action
server_take_chunk(struct smtp_server *s, struct span in, size_t *used)
{
	s->command = "BDAT";
	if (in.len > s->chunk_left)
		in.len = (size_t)s->chunk_left;
	while (s->chunk_left > 0) {
		size_t n = in.len;
		enum data_event event = DATA_MORE;

		if (s->refusal.len == 0)
			event = data_take(&s->data, in, &n, &s->chunk);
		s->chunk_left -= n;
		*used += n;
		in = span_skip(in, n);
		if (is_skipped_enough(s, n)) {
			server_close(s, REPLY_ENDLESS);
			return server_next_pending(s);
		}
		if (event == DATA_CHUNK && keep_chunk(s))
			return SMTP_SERVER_BODY;
		if (s->abort_pending)
			return server_next_pending(s);
		if (in.len == 0 && s->chunk_left > 0)
			return SMTP_SERVER_MORE;
	}
	return end_of_chunk(s);
}
