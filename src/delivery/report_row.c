/* report_row.c - see report_row.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/queue_id.h"
#include "delivery/report_row.h"
#include "spool/writer.h"

#define TEXT_MOST 2048

void
report_row_age(int64_t seconds, char out[REPORT_WORDS_MAX])
{
	int64_t s = seconds < 0 ? 0 : seconds;

	if (s < 60)
		snprintf(out, REPORT_WORDS_MAX, "%" PRId64 " s", s);
	else if (s < 3600)
		snprintf(out, REPORT_WORDS_MAX, "%" PRId64 " min", s / 60);
	else if (s < 86400)
		snprintf(out, REPORT_WORDS_MAX, "%" PRId64 " h %" PRId64 " min", s / 3600,
		    s % 3600 / 60);
	else
		snprintf(out, REPORT_WORDS_MAX, "%" PRId64 " d %" PRId64 " h", s / 86400,
		    s % 86400 / 3600);
}

void
report_row_when(int64_t seconds_from_now, char out[REPORT_WORDS_MAX])
{
	bool is_to_come = seconds_from_now > 0;
	char age[REPORT_WORDS_MAX];

	report_row_age(is_to_come ? seconds_from_now : -seconds_from_now, age);
	snprintf(out, REPORT_WORDS_MAX, is_to_come ? "in %.32s" : "%.32s ago", age);
}

void
report_row_bytes(int64_t bytes, char out[REPORT_WORDS_MAX])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double n = (double)bytes;
	size_t unit = 0;

	while (n >= 1024 && unit + 1 < ARRAY_LEN(units)) {
		n /= 1024;
		unit++;
	}
	snprintf(
	    out, REPORT_WORDS_MAX, unit == 0 || n >= 100 ? "%.0f %s" : "%.1f %s", n, units[unit]);
}

bool
report_spool_is_full(const struct report_spool *spool)
{
	return !spool_has_room(&spool->room, spool->min_free_bytes, 0);
}

const char *
report_spool_why(const struct report_spool *spool, char why[REPORT_SPOOL_MAX])
{
	static const char on_disk[] =
	    "look at the disk (dmesg) and mend what the error says; relayd goes on by itself";
	static const char gone[] =
	    "the directory was moved or removed: put it back if it can be; while mail is refused "
	    "after that, or if it cannot, then restart relayd";
	bool is_for_room = spool->error == ENOSPC || spool->error == EDQUOT;
	char is[REPORT_WORDS_MAX], wanted[REPORT_WORDS_MAX];

	why[0] = '\0';
	if (spool->error != 0 && !is_for_room) {
		snprintf(why, REPORT_SPOOL_MAX, "it cannot be written: %s", strerror(spool->error));
		return spool->error == ENOENT ? gone : on_disk;
	}
	report_row_bytes((int64_t)spool->room.free_bytes, is);
	report_row_bytes((int64_t)spool->min_free_bytes, wanted);
	if (spool->room.free_bytes < spool->min_free_bytes) {
		snprintf(why, REPORT_SPOOL_MAX, "full: %s free, min-free wants %s", is, wanted);
		return "make room, or lower spool { min-free } (and segment: six of it are left "
		       "free at least)";
	}
	if (report_spool_is_full(spool)) {
		snprintf(why, REPORT_SPOOL_MAX, "full: the file system has no more files");
		return "remove files from the file system";
	}
	if (is_for_room) {
		snprintf(
		    why, REPORT_SPOOL_MAX, "full: %s, with %s free", strerror(spool->error), is);
		return "make room on the file system, or raise the quota; relayd goes on by itself";
	}
	if (spool->waiting_ms < REPORT_STALL_MS)
		return "";
	snprintf(why, REPORT_SPOOL_MAX, "the disk does not answer, for %" PRIu64 " s",
	    spool->waiting_ms / 1000);
	return "look at the disk (dmesg); relayd goes on by itself";
}

static void
put_quoted(struct report_text *out, struct span text)
{
	char safe[TEXT_MOST];

	report_put(out, (struct span){ safe, log_quote(text, safe, sizeof(safe)) });
}

static void
put_spaces(struct report_text *out, size_t used, size_t width)
{
	static const struct span spaces = SPAN("                ");

	if (used < width)
		report_put(out, (struct span){ spaces.data, width - used });
}

static void
put_column(struct report_text *out, const char *text, size_t width)
{
	report_put(out, span_of(text));
	put_spaces(out, strlen(text), width);
	report_put(out, SPAN("  "));
}

static void
put_column_right(struct report_text *out, const char *text, size_t width)
{
	put_spaces(out, strlen(text), width);
	report_put(out, span_of(text));
	report_put(out, SPAN("  "));
}

static void
put_time(struct report_text *out, uint64_t time_ms, uint64_t now_ms)
{
	char words[REPORT_WORDS_MAX] = "-";

	if (time_ms != 0)
		report_row_when((int64_t)(time_ms / 1000) - (int64_t)(now_ms / 1000), words);
	put_column(out, words, 12);
}

static void
put_recipient(
    struct report_text *out, const struct report_message *m, const struct report_recipient *r)
{
	report_put(out, SPAN("               -> "));
	put_quoted(out, r->address);
	if (strcmp(r->state, m->state) != 0) {
		report_put(out, SPAN("  ["));
		report_put(out, span_of(r->state));
		report_put(out, SPAN("]"));
	}
	if (r->code > 0 || r->reply.len > 0) {
		char text[32];

		snprintf(text, sizeof(text), r->code > 0 ? "  %u " : "  ", r->code);
		report_put(out, span_of(text));
		put_quoted(out, r->enhanced);
		if (r->enhanced.len > 0)
			report_put(out, SPAN(" "));
		put_quoted(out, r->reply);
	}
	report_put(out, SPAN("\n"));
}

void
report_row_print_title(struct report_text *out)
{
	put_column(out, "ID", 13);
	put_column(out, "STATE", 8);
	put_column_right(out, "SIZE", 9);
	put_column(out, "ARRIVED", 12);
	put_column(out, "NEXT TRY", 12);
	report_put(out, SPAN("SENDER -> RECIPIENTS\n"));
}

void
report_row_print(struct report_text *out, const struct report_message *m, uint64_t now_ms)
{
	char id[QUEUE_ID_LEN + 1], size[REPORT_WORDS_MAX];

	queue_id_print(m->id, id);
	report_row_bytes((int64_t)m->size_bytes, size);
	put_column(out, id, 13);
	put_column(out, m->state, 8);
	put_column_right(out, size, 9);
	put_time(out, m->arrived_ms, now_ms);
	if (strcmp(m->state, "queued") == 0)
		put_column(out, "now", 12);
	else
		put_time(out, m->next_attempt_ms, now_ms);
	if (m->sender.len == 0)
		report_put(out, SPAN("<>"));
	else
		put_quoted(out, m->sender);
	report_put(out, SPAN("\n"));
	for (size_t i = 0; i < m->n_recipients; i++)
		put_recipient(out, m, &m->recipients[i]);
}
