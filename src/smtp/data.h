/* data.h - where a message ends, and what its lines are. One machine for DATA and BDAT, for messages
 * that are stored and for those that are thrown away: a second one would disagree (Exim's
 * receive_swallow_smtp() did).
 *
 * The rules (durability rules D1-D5, B6; invariant I12), on raw bytes:
 *   - end of data is exactly CR LF . CR LF; the CR LF of the command line before counts as the first;
 *   - a bare LF ends a content line and is stored as CR LF, but makes no end of data: a line that is
 *     only a dot, where its own end or the end of the line before is a bare LF, is left out and data
 *     goes on;
 *   - a bare CR never ends a line; it is stored as a space;
 *   - one dot at the start of a line is taken away (not in BDAT);
 *   - NUL is content.
 *
 *   state          CR              LF               "."            other
 *   LINE           CR      hold    BARE   crlf      DOT    skip    TEXT  pass    after a real CR LF
 *   LINE_DOT       DOT_CR  hold    BARE   skip      TEXT   pass    TEXT  pass
 *   LINE_DOT_CR    TEXT    space*  the end          TEXT   space*  TEXT  space*
 *   BARE           CR      hold    BARE   crlf      B_DOT  skip    TEXT  pass    after a bare LF
 *   BARE_DOT       B_DOT_CR hold   BARE   skip      TEXT   pass    TEXT  pass
 *   BARE_DOT_CR    TEXT    space*  LINE   skip      TEXT   space*  TEXT  space*
 *   TEXT           CR      hold    BARE   crlf      TEXT   pass    TEXT  pass
 *   CR             TEXT    space*  LINE   pass      TEXT   space*  TEXT  space*
 *   (space*: the held CR becomes a space, the byte itself is looked at again in TEXT)
 *
 * Content that needs no change is given as long spans of the input, without a copy. */
#ifndef RELAYD_SMTP_DATA_H
#define RELAYD_SMTP_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "base/span.h"

enum data_state {
	DATA_LINE,
	DATA_LINE_DOT,
	DATA_LINE_DOT_CR,
	DATA_BARE,
	DATA_BARE_DOT,
	DATA_BARE_DOT_CR,
	DATA_TEXT,
	DATA_CR,
};

struct data {
	enum data_state state;
	bool dots;      /* DATA: dots mean something. BDAT: they do not. */
	bool nul_space; /* NUL is given as a space */
	/* What was met so far: */
	bool has_nul, has_8bit, has_bare_cr, has_bare_lf;
};

enum data_event {
	DATA_MORE,  /* all of the input is used, nothing is to be stored */
	DATA_CHUNK, /* *chunk is to be stored; call again with what was not used */
	DATA_END,   /* this was the end (DATA only); what was not used are commands */
};

void data_begin(struct data *d, bool dots, bool nul_space);
enum data_event data_take(
    struct data *d, struct span in, size_t *used, struct span *chunk) MUST_CHECK;

/* After the last chunk of BDAT: what completes the last line ("", "\r\n" or " \r\n"). */
struct span data_finish(struct data *d);

#endif
