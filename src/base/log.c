/* log.c - see log.h. One line is built in one bounded buffer on the stack and goes out in one system
 * call that does not wait. Nothing here allocates, locks or ends the process.
 *
 * The journal is spoken to in its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): KEY=value
 * lines in a datagram. sd_journal_sendv() would do the same, but it waits when journald is stuck, and
 * an event loop that waits for the log answers nobody and misses its watchdog. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "base/events.h"
#include "base/log.h"
#include "base/queue_id.h"

#define LINE_MAX_BYTES 24576
#define TRIES_MOST 4

struct line {
	size_t len;
	char data[LINE_MAX_BYTES];
};

static struct {
	const char *program;
	pid_t pid; /* kept: getpid() is a system call, and there may be a line for each message */
	enum log_target target; /* never LOG_TO_AUTO */
	enum log_level most;
	int journal_fd; /* -1: not open */
	struct sockaddr_un journal;
	int text_fd;         /* stderr, or its non-blocking twin */
	bool text_is_socket; /* then send() knows how not to wait */
	bool text_is_file;   /* then write() does not wait */
	bool text_is_stream; /* of the journal: it keeps the time and takes "<level>" */
	bool torn;           /* the last line went out in part: begin the next on a new line */
	atomic_ulong dropped;
} logger = {
	.program = "relayd",
	.target = LOG_TO_STDERR,
	.most = LOG_INFO,
	.journal_fd = -1,
	.journal = { .sun_family = AF_UNIX, .sun_path = "/run/systemd/journal/socket" },
	.text_fd = STDERR_FILENO,
};

/* ---- escaping ---- */

/* The length of the valid UTF-8 character at `p` (2 to 4), or 0. RFC 3629: no overlong forms, no
 * surrogates, nothing above U+10FFFF. */
static size_t
utf8_length(const unsigned char *p, size_t left, uint32_t *character)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t len = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
	uint32_t c = p[0] & (0x7fu >> len);

	if (p[0] < 0xc2 || p[0] > 0xf4 || left < len)
		return 0;
	for (size_t i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3fu);
	}
	if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	*character = c;
	return len;
}

/* Characters that change what the reader sees of the others, that end a line somewhere, that look like
 * the space behind a value, or that no standard gives a look. */
static bool
is_deceptive(uint32_t c)
{
	/* clang-format off */
	static const struct { uint32_t first, last; } ranges[] = {
		{ 0x80, 0xa0 },         /* C1 controls: CSI and NEL among them; the no-break space */
		{ 0xad, 0xad },         /* soft hyphen */
		{ 0x061c, 0x061c },     /* Arabic letter mark */
		{ 0x115f, 0x1160 },     /* Hangul fillers, as 0x3164 and 0xffa0 */
		{ 0x1680, 0x1680 },     /* a space */
		{ 0x180b, 0x180f },     /* Mongolian variation selectors, vowel separator */
		{ 0x2000, 0x200f },     /* spaces, zero width, direction marks */
		{ 0x2028, 0x202f },     /* line and paragraph separators, embeddings, overrides; a space */
		{ 0x205f, 0x206f },     /* a space, invisible operators, isolates */
		{ 0x3000, 0x3000 },     /* a space */
		{ 0x3164, 0x3164 },
		{ 0xe000, 0xf8ff },     /* private use */
		{ 0xfdd0, 0xfdef },     /* noncharacters */
		{ 0xfe00, 0xfe0f },     /* variation selectors */
		{ 0xfeff, 0xfeff },     /* byte order mark */
		{ 0xffa0, 0xffa0 },
		{ 0xfff0, 0xfffb },     /* interlinear annotation */
		{ 0xe0000, 0x10ffff },  /* tags, more variation selectors, private use */
	};
	/* clang-format on */

	for (size_t i = 0; i < ARRAY_LEN(ranges); i++)
		if (c >= ranges[i].first && c <= ranges[i].last)
			return true;
	return (c & 0xfffe) == 0xfffe; /* the last two of each plane are no characters */
}

/* How the next bytes of `in` (not empty) are shown: sets *shown (at most 4 bytes in buf or in `in`),
 * returns how many bytes of `in` that takes. */
static size_t
escape_next(struct span in, char buf[4], struct span *shown)
{
	static const char hex[] = "0123456789abcdef";
	const unsigned char *p = (const unsigned char *)in.data;
	uint32_t character;
	size_t len;

	if (p[0] == '\\') {
		*shown = SPAN("\\\\");
		return 1;
	}
	if (p[0] >= 0x20 && p[0] < 0x7f) {
		*shown = (struct span){ in.data, 1 };
		return 1;
	}
	len = utf8_length(p, in.len, &character);
	if (len > 0 && !is_deceptive(character)) {
		*shown = (struct span){ in.data, len };
		return len;
	}
	buf[0] = '\\';
	buf[1] = 'x';
	buf[2] = hex[p[0] >> 4];
	buf[3] = hex[p[0] & 15];
	*shown = (struct span){ buf, 4 };
	return 1;
}

/* How many bytes at the beginning of `in` stay as they are: nearly always all of them. */
static size_t
plain_length(struct span in)
{
	size_t n = 0;

	while (n < in.len && in.data[n] >= 0x20 && in.data[n] < 0x7f && in.data[n] != '\\')
		n++;
	return n;
}

size_t
log_quote(struct span in, char *out, size_t size)
{
	static const struct span more = SPAN("...");
	size_t len = 0, safe = 0; /* safe: the longest length that "..." still fits behind */
	size_t plain = plain_length(in);

	if (size == 0)
		return 0;
	if (plain + more.len < size) {
		if (plain > 0)
			memcpy(out, in.data, plain);
		len = safe = plain;
		in = span_skip(in, plain);
	}
	while (in.len > 0) {
		char buf[4];
		struct span shown;
		size_t taken = escape_next(in, buf, &shown);

		if (len + shown.len > size - 1) {
			len = safe;
			if (more.len <= size - 1 - len) {
				memcpy(out + len, more.data, more.len);
				len += more.len;
			}
			break;
		}
		memcpy(out + len, shown.data, shown.len);
		len += shown.len;
		if (len + more.len <= size - 1)
			safe = len;
		in = span_skip(in, taken);
	}
	out[len] = '\0';
	return len;
}

/* ---- building a line; what does not fit is left out ---- */

static void
put_span(struct line *line, struct span text)
{
	size_t room = sizeof(line->data) - line->len;

	if (text.len > room)
		text.len = room;
	if (text.len > 0)
		memcpy(line->data + line->len, text.data, text.len);
	line->len += text.len;
}

static void
put_string(struct line *line, const char *text)
{
	put_span(line, span_of(text));
}

static void
put_char(struct line *line, char c)
{
	put_span(line, (struct span){ &c, 1 });
}

static void
put_int(struct line *line, int64_t number)
{
	char text[24];
	size_t at = sizeof(text);
	uint64_t left = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;

	do
		text[--at] = (char)('0' + left % 10);
	while ((left /= 10) > 0);
	if (number < 0)
		text[--at] = '-';
	put_span(line, (struct span){ text + at, sizeof(text) - at });
}

/* ".042" */
static void
put_thousandths(struct line *line, int64_t ms)
{
	put_char(line, '.');
	put_char(line, (char)('0' + ms / 100 % 10));
	put_char(line, (char)('0' + ms / 10 % 10));
	put_char(line, (char)('0' + ms % 10));
}

static void
put_seconds(struct line *line, int64_t ms)
{
	if (ms < 0)
		put_char(line, '-');
	put_int(line, ms < 0 ? -(ms / 1000) : ms / 1000);
	put_thousandths(line, ms < 0 ? -(ms % 1000) : ms % 1000);
}

static void
put_time(struct line *line)
{
	static _Thread_local time_t second = -1; /* of `text`: most lines share one */
	static _Thread_local char text[32];
	struct timespec now;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &now);
	if (now.tv_sec != second && gmtime_r(&now.tv_sec, &tm) != NULL &&
	    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm) > 0)
		second = now.tv_sec;
	put_string(line, text);
	put_thousandths(line, now.tv_nsec / 1000000);
	put_char(line, 'Z');
}

/* A word of a line: as it is if nothing in it could be taken for something else, else in quotes. */
static void
put_word(struct line *line, struct span text)
{
	bool plain = text.len > 0;

	for (size_t i = 0; i < text.len && plain; i++)
		plain = text.data[i] != ' ' && text.data[i] != '"' && text.data[i] != '=' &&
		        text.data[i] != '\\';
	if (plain) {
		put_span(line, text);
		return;
	}
	put_char(line, '"');
	for (size_t i = 0; i < text.len; i++) {
		if (text.data[i] == '"')
			put_char(line, '\\');
		put_char(line, text.data[i]);
	}
	put_char(line, '"');
}

/* `text` went through log_quote(): only the quote and the backslash mean something to JSON. */
static void
put_json_string(struct line *line, struct span text)
{
	put_char(line, '"');
	for (size_t i = 0; i < text.len; i++) {
		if (text.data[i] == '"' || text.data[i] == '\\')
			put_char(line, '\\');
		put_char(line, text.data[i]);
	}
	put_char(line, '"');
}

/* ---- fields: each is brought to text once, then shown in the way of the target ---- */

enum style { STYLE_LINE, STYLE_JSON, STYLE_JOURNAL };

static bool
is_left_out(const struct log_field *field)
{
	return field->type == LOG_FIELD_SPAN && field->text.len == 0;
}

static void
put_key(struct line *line, const char *key, enum style style)
{
	switch (style) {
	case STYLE_LINE:
		put_char(line, ' ');
		put_string(line, key);
		put_char(line, '=');
		break;
	case STYLE_JSON:
		put_string(line, ",\"");
		put_string(line, key);
		put_string(line, "\":");
		break;
	case STYLE_JOURNAL:
		put_string(line, "RELAYD_");
		for (; *key != '\0'; key++)
			put_char(
			    line, *key >= 'a' && *key <= 'z' ? (char)(*key - 'a' + 'A') : *key);
		put_char(line, '=');
		break;
	}
}

static void
put_text(struct line *line, struct span text, enum style style)
{
	if (style == STYLE_LINE)
		put_word(line, text);
	else if (style == STYLE_JSON)
		put_json_string(line, text);
	else
		put_span(line, text);
}

static void
put_field(struct line *line, const struct log_field *field, enum style style)
{
	char text[LOG_VALUE_MAX + 1] UNINITIALIZED;
	size_t len;

	put_key(line, field->key, style);
	switch (field->type) {
	case LOG_FIELD_SPAN:
		len = log_quote(field->text, text, sizeof(text));
		put_text(line, (struct span){ text, len }, style);
		break;
	case LOG_FIELD_INT:
		put_int(line, field->number);
		break;
	case LOG_FIELD_MS:
		put_seconds(line, field->number);
		if (style == STYLE_LINE)
			put_char(line, 's');
		break;
	case LOG_FIELD_ID:
		queue_id_print((uint64_t)field->number, text);
		put_text(line, (struct span){ text, QUEUE_ID_LEN }, style);
		break;
	case LOG_FIELD_END:
		break;
	}
	if (style == STYLE_JOURNAL)
		put_char(line, '\n');
}

static void
put_fields(struct line *line, const struct log_field *fields, enum style style)
{
	for (; fields->type != LOG_FIELD_END; fields++)
		if (!is_left_out(fields))
			put_field(line, fields, style);
}

static const char *
level_name(enum log_level level)
{
	switch (level) {
	case LOG_ERROR:
		return "error";
	case LOG_WARNING:
		return "warning";
	case LOG_INFO:
		return "info";
	case LOG_DEBUG:
		break;
	}
	return "debug";
}

/* A line that is full still ends like a line. */
static void
end_line(struct line *line, const char *end)
{
	size_t len = strlen(end);

	if (line->len + len > sizeof(line->data))
		line->len = sizeof(line->data) - len;
	put_string(line, end);
}

/* A process that forks and goes on logging says log_open() again. */
static pid_t
own_pid(void)
{
	if (logger.pid == 0)
		logger.pid = getpid();
	return logger.pid;
}

static void
build_text(
    struct line *line, enum log_level level, const char *event, const struct log_field *fields)
{
	if (logger.torn)
		put_char(line, '\n');
	if (logger.text_is_stream) {
		put_char(line, '<');
		put_int(line, level);
		put_char(line, '>');
	} else {
		put_time(line);
		put_char(line, ' ');
		put_string(line, level_name(level));
		put_char(line, ' ');
		put_string(line, logger.program);
		put_char(line, '[');
		put_int(line, own_pid());
		put_string(line, "]: ");
	}
	put_string(line, event);
	put_fields(line, fields, STYLE_LINE);
	end_line(line, "\n");
}

static void
build_json(
    struct line *line, enum log_level level, const char *event, const struct log_field *fields)
{
	if (logger.torn)
		put_char(line, '\n');
	put_string(line, "{\"time\":\"");
	put_time(line);
	put_string(line, "\",\"level\":\"");
	put_string(line, level_name(level));
	put_string(line, "\",\"program\":\"");
	put_string(line, logger.program);
	put_string(line, "\",\"pid\":");
	put_int(line, own_pid());
	put_string(line, ",\"event\":\"");
	put_string(line, event);
	put_char(line, '"');
	/* a field that would not fit is left out whole, so that the line stays JSON */
	for (; fields->type != LOG_FIELD_END; fields++)
		if (!is_left_out(fields) && line->len < sizeof(line->data) - 4 * LOG_VALUE_MAX)
			put_field(line, fields, STYLE_JSON);
	put_string(line, "}\n");
}

static void
build_journal(
    struct line *line, enum log_level level, const char *event, const struct log_field *fields)
{
	const struct event *row = events_find(event);

	put_string(line, "MESSAGE=");
	put_string(line, event);
	put_fields(line, fields, STYLE_LINE);
	if (line->len > sizeof(line->data) / 2)
		line->len = sizeof(line->data) / 2; /* the fields say the rest */
	put_string(line, "\nPRIORITY=");
	put_int(line, level);
	put_string(line, "\nSYSLOG_IDENTIFIER=");
	put_string(line, logger.program);
	if (row != NULL) {
		put_string(line, "\nMESSAGE_ID=");
		put_string(line, row->uuid);
	}
	put_string(line, "\nRELAYD_EVENT=");
	put_string(line, event);
	put_char(line, '\n');
	put_fields(line, fields, STYLE_JOURNAL);
	end_line(line, "\n");
}

/* ---- sending without waiting: each returns false if the line did not go out whole ---- */

static ssize_t
try_text(const struct line *line)
{
	struct pollfd ready = { .fd = logger.text_fd, .events = POLLOUT };

	if (logger.text_is_socket)
		return send(logger.text_fd, line->data, line->len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (!logger.text_is_file && (poll(&ready, 1, 0) != 1 || (ready.revents & POLLOUT) == 0))
		return 0;
	return write(logger.text_fd, line->data, line->len);
}

static bool
send_text(const struct line *line)
{
	unsigned tries = 0;
	ssize_t n;

	do /* a signal came between */
		n = try_text(line);
	while (n < 0 && errno == EINTR && ++tries < TRIES_MOST);
	if (n > 0)
		logger.torn = (size_t)n < line->len;
	return n == (ssize_t)line->len;
}

/* 1: sent, 0: not now, -1: there is no journal here. */
static int
send_journal(const struct line *line)
{
	unsigned tries = 0;
	ssize_t n;

	if (logger.journal_fd < 0)
		return -1;
	do
		n = sendto(logger.journal_fd, line->data, line->len, MSG_DONTWAIT | MSG_NOSIGNAL,
		    (const struct sockaddr *)&logger.journal, sizeof(logger.journal));
	while (n < 0 && errno == EINTR && ++tries < TRIES_MOST);
	if (n >= 0)
		return 1;
	return errno == ENOENT || errno == ECONNREFUSED || errno == EACCES || errno == EPERM ? -1
	                                                                                     : 0;
}

static bool
write_event(enum log_level level, const char *event, const struct log_field *fields)
{
	struct line line UNINITIALIZED; /* 24 KiB that would be zeroed for each line */
	int sent;

	if (logger.target == LOG_TO_JOURNAL) {
		line.len = 0;
		build_journal(&line, level, event, fields);
		sent = send_journal(&line);
		if (sent >= 0)
			return sent > 0;
	}
	line.len = 0;
	if (logger.target == LOG_TO_JSON)
		build_json(&line, level, event, fields);
	else
		build_text(&line, level, event, fields);
	return send_text(&line);
}

/* ---- the door ---- */

/* systemd tells us the device and inode of the stream that it gave us; a child whose stderr was
 * moved elsewhere still has the variable, so the numbers are compared. */
static bool
is_journal_stream(const struct stat *st)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;

	return stream != NULL && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
	       device == st->st_dev && inode == st->st_ino;
}

static void
open_text(void)
{
	struct stat st;
	int fd;

	if (fstat(STDERR_FILENO, &st) < 0)
		return;
	logger.text_is_file = S_ISREG(st.st_mode);
	logger.text_is_socket = S_ISSOCK(st.st_mode);
	logger.text_is_stream = is_journal_stream(&st);
	if (!S_ISFIFO(st.st_mode))
		return;
	/* a description of our own: O_NONBLOCK on the shared one would surprise its other users */
	fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0)
		logger.text_fd = fd;
}

void
log_open(const char *program, enum log_target target, enum log_level most)
{
	if (logger.text_fd != STDERR_FILENO)
		close(logger.text_fd);
	logger.text_fd = STDERR_FILENO;
	logger.program = program;
	logger.pid = getpid();
	logger.most = most;
	open_text();
	if (target == LOG_TO_AUTO)
		target = logger.text_is_stream ? LOG_TO_JOURNAL : LOG_TO_STDERR;
	logger.target = target;
	if (target == LOG_TO_JOURNAL && logger.journal_fd < 0)
		logger.journal_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

void
log_use_journal(const char *path)
{
	snprintf(logger.journal.sun_path, sizeof(logger.journal.sun_path), "%s", path);
}

const char *
log_mark(enum log_level level)
{
	static const char *const marks[] = {
		[LOG_ERROR] = "<3>", [LOG_WARNING] = "<4>", [LOG_INFO] = "<6>", [LOG_DEBUG] = "<7>"
	};
	struct stat st;

	return fstat(STDERR_FILENO, &st) == 0 && is_journal_stream(&st) ? marks[level] : "";
}

bool
log_is_on(enum log_level level)
{
	return level <= logger.most;
}

void
log_event(enum log_level level, const char *event, const struct log_field *fields)
{
	unsigned long dropped;
	int saved = errno;

	if (!log_is_on(level))
		return;
	dropped = atomic_load(&logger.dropped);
	if (dropped > 0 &&
	    write_event(LOG_WARNING, "log.dropped", LOG_FIELDS(KV_INT("lines", dropped))))
		atomic_fetch_sub(&logger.dropped, dropped);
	if (!write_event(level, event, fields))
		atomic_fetch_add(&logger.dropped, 1);
	errno = saved;
}
