/* model_server.c - see model_server.h. Long rather than clever; nothing in it is fast. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "model_server.h"

enum { LINE_MOST = 4096, LINE_AUTH_MOST = 12290, SKIP_MOST = 65536, OWN_HOPS = 5 };

enum state { START, READY, MAIL, RCPT, CHUNKS, CHUNKS_FAILED, AUTH_USER, AUTH_LAST };

struct server {
	const struct model_options *o;
	struct model *out;
	struct span in;
	size_t at;
	enum state state;
	bool said_helo, said_auth;
	unsigned errors, commands, overshoot;
	size_t begins, commits;
	struct model_message mail;
	struct span *chunks; /* of the message under way, as received */
	size_t n_chunks;
};

/* ---- Answers ---- */

static void
reset(struct server *s)
{
	s->mail = (struct model_message){ .n_recipients = 0 };
	s->n_chunks = 0;
	s->overshoot = 0;
	s->state = s->said_helo ? READY : START;
}

static void
push(struct server *s, const int *codes, unsigned n)
{
	struct model *m = s->out;

	m->replies = realloc(m->replies, (m->n_replies + 1) * sizeof(*m->replies));
	m->replies[m->n_replies].n_codes = n;
	memcpy(m->replies[m->n_replies++].codes, codes, n * sizeof(*codes));
}

static void
answer_one_of(struct server *s, const int *codes, unsigned n)
{
	const int enough = 421;

	s->errors += codes[0] / 100 == 5;
	if (s->errors <= s->o->max_errors || s->out->closed) {
		push(s, codes, n);
		return;
	}
	push(s, &enough, 1);
	s->out->closed = true;
}

static void
answer(struct server *s, int code)
{
	answer_one_of(s, &code, 1);
}

static void
answer_and_close(struct server *s, int code)
{
	s->out->closed = true;
	answer(s, code);
}

int
model_begin_refusal(const struct model_options *o, size_t n)
{
	return (o->refused_begins >> n % 4 & 1) != 0 ? 452 : 0;
}

int
model_commit_refusal(const struct model_options *o, size_t n)
{
	const unsigned choice = o->refused_commits >> 2 * (n % 4) & 3;

	return choice == 1 ? 451 : choice == 2 ? 452 : 0;
}

/* ---- Texts ---- */

static bool
is(struct span text, const char *word)
{
	return text.len == strlen(word) &&
	       (text.len == 0 || strncasecmp(text.data, word, text.len) == 0);
}

static size_t
index_of(struct span text, char c)
{
	for (size_t i = 0; i < text.len; i++)
		if (text.data[i] == c)
			return i;
	return text.len;
}

static struct span
first(struct span text, size_t n)
{
	return (struct span){ text.data, n < text.len ? n : text.len };
}

static struct span
after(struct span text, size_t n)
{
	return (struct span){ n < text.len ? text.data + n : "", n < text.len ? text.len - n : 0 };
}

static struct span
trim(struct span text)
{
	while (text.len > 0 && (text.data[0] == ' ' || text.data[0] == '\t'))
		text = after(text, 1);
	while (text.len > 0 && (text.data[text.len - 1] == ' ' || text.data[text.len - 1] == '\t'))
		text.len--;
	return text;
}

static void
append(struct model_text *to, struct span text)
{
	if (to->len + text.len > MODEL_TEXT)
		abort();
	if (text.len > 0)
		memcpy(to->bytes + to->len, text.data, text.len);
	to->len += text.len;
}

static bool
is_letter_or_digit(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* RFC 3629, and no control characters: 0-1f, 7f, 80-9f. */
static bool
is_utf8(struct span text)
{
	for (size_t i = 0; i < text.len;) {
		const unsigned char lead = (unsigned char)text.data[i++];
		unsigned more, point, least;

		if (lead < 0x80) {
			if (lead < 0x20 || lead == 0x7f)
				return false;
			continue;
		}
		if (lead >= 0xc0 && lead <= 0xdf)
			more = 1, point = lead - 0xc0u, least = 0x80;
		else if (lead >= 0xe0 && lead <= 0xef)
			more = 2, point = lead - 0xe0u, least = 0x800;
		else if (lead >= 0xf0 && lead <= 0xf7)
			more = 3, point = lead - 0xf0u, least = 0x10000;
		else
			return false;
		for (; more > 0; more--, i++) {
			if (i >= text.len || ((unsigned char)text.data[i] & 0xc0) != 0x80)
				return false;
			point = point * 64 + ((unsigned char)text.data[i] & 0x3f);
		}
		if (point < least || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff) ||
		    (point >= 0x80 && point <= 0x9f))
			return false;
	}
	return true;
}

static bool
has_8bit(struct span text)
{
	for (size_t i = 0; i < text.len; i++)
		if ((unsigned char)text.data[i] >= 0x80)
			return true;
	return false;
}

/* ---- Addresses: address.h says what is taken ---- */

static bool
is_local_part(struct span text)
{
	if (text.len == 0 || text.len > 256)
		return false;
	if (text.data[0] != '"') {
		for (size_t i = 0; i < text.len; i++)
			if (!is_letter_or_digit(text.data[i]) &&
			    (unsigned char)text.data[i] < 0x80 &&
			    (text.data[i] == '\0' ||
			        strchr("!#$%&'*+-/=?^_`{|}~.", text.data[i]) == NULL))
				return false;
		return true;
	}
	for (size_t i = 1; i < text.len; i++) {
		const bool is_escape = text.data[i] == '\\';

		if (text.data[i] == '"')
			return i + 1 == text.len;
		i += is_escape;
		if (i < text.len && ((unsigned char)text.data[i] < 0x20 || text.data[i] == 0x7f))
			return false;
	}
	return false;
}

static bool
is_domain(struct span text)
{
	size_t label = 0;

	if (text.len == 0 || text.len > 255)
		return false;
	if (text.data[0] == '[') {
		for (size_t i = 1; i + 1 < text.len; i++)
			if (!is_letter_or_digit(text.data[i]) && text.data[i] != '.' &&
			    text.data[i] != ':' && text.data[i] != '-' && text.data[i] != '_')
				return false;
		return text.len > 2 && text.data[text.len - 1] == ']';
	}
	for (size_t i = 0; i < text.len; i++) {
		const char c = text.data[i];

		if (c == '.' && label == 0)
			return false;
		if (c != '.' && c != '-' && c != '_' && !is_letter_or_digit(c) &&
		    (unsigned char)c < 0x80)
			return false;
		label = c == '.' ? 0 : label + 1;
		if (label > 63)
			return false;
	}
	return label > 0;
}

/* Where the local part ends: at the closing quote, or at the first byte that cannot be in one. */
static size_t
local_end(struct span text)
{
	if (text.len == 0 || text.data[0] != '"')
		return first(text, index_of(text, '@')).len;
	for (size_t i = 1; i < text.len; i++) {
		if (text.data[i] == '"')
			return i + 1;
		i += text.data[i] == '\\';
	}
	return text.len;
}

static bool
is_address(struct span text, const char *hostname, struct model_text *out)
{
	const size_t end = local_end(text);
	const struct span local = first(text, end), domain = after(text, end + 1);

	if (!is_local_part(local) || !is_utf8(text))
		return false;
	if (end < text.len && (text.data[end] != '@' || !is_domain(domain)))
		return false;
	append(out, text);
	if (end == text.len) {
		append(out, SPAN("@"));
		append(out, span_of(hostname));
	}
	return true;
}

/* "@one,@two:" in front of an address. False: a bad one. */
static bool
skip_route(struct span *text)
{
	struct span hops;
	size_t at;

	if (text->data[0] != '@')
		return true;
	/* the first ':' may stand in a literal */
	for (at = 0; at < text->len; at++) {
		at += text->data[at] == '[' ? index_of(after(*text, at), ']') : 0;
		if (at < text->len && text->data[at] == ':')
			break;
	}
	if (at >= text->len)
		return false;
	hops = first(*text, at);
	*text = after(*text, at + 1);
	while (hops.len > 0) {
		const size_t comma = index_of(hops, ',');

		if (hops.data[0] != '@' || !is_domain(after(first(hops, comma), 1)))
			return false;
		if (comma + 1 == hops.len)
			return false;
		hops = after(hops, comma + 1);
	}
	return true;
}

/* Where the path at the start of `text` ends; 0: there is none. A '>' in quotes is no end. */
static size_t
path_end(struct span text)
{
	const bool is_angle = text.len > 0 && text.data[0] == '<';
	bool is_quoted = false;

	for (size_t i = is_angle; i < text.len; i++) {
		if (is_quoted && text.data[i] == '\\')
			i++;
		else if (text.data[i] == '"')
			is_quoted = !is_quoted;
		else if (!is_quoted && text.data[i] == (is_angle ? '>' : ' '))
			return is_angle ? i + 1 : i;
	}
	return is_angle ? 0 : text.len;
}

/* "FROM:<path> params". False: 501. An empty `out` is <>. */
static bool
take_path(struct span arg, const char *keyword, const char *hostname, struct model_text *out,
    struct span *params)
{
	size_t end;
	struct span path;

	out->len = 0;
	if (!is(first(arg, strlen(keyword)), keyword))
		return false;
	arg = after(arg, strlen(keyword));
	while (arg.len > 0 && arg.data[0] == ' ')
		arg = after(arg, 1);
	end = path_end(arg);
	if (end == 0)
		return false;
	*params = after(arg, end);
	if (params->len > 0 && params->data[0] != ' ')
		return false;
	if (arg.data[0] != '<')
		return is_address(first(arg, end), hostname, out);
	path = (struct span){ arg.data + 1, end - 2 };
	if (path.len == 0)
		return true;
	return skip_route(&path) && is_address(path, hostname, out);
}

/* ---- Parameters ---- */

static int
hex(char c)
{
	const char *digits = "0123456789ABCDEF", *at = c != '\0' ? strchr(digits, c) : NULL;

	return at != NULL ? (int)(at - digits) : -1;
}

/* RFC 3461 section 4. The length of what it means; -1: no xtext, or with control characters. */
static int
xtext(struct span text, bool *is_ascii)
{
	int n = 0;

	*is_ascii = true;
	for (size_t i = 0; i < text.len; i++, n++) {
		int c = (unsigned char)text.data[i];

		if (c < '!' || c > '~' || c == '=')
			return -1;
		if (c == '+') {
			if (i + 2 >= text.len || hex(text.data[i + 1]) < 0 ||
			    hex(text.data[i + 2]) < 0)
				return -1;
			c = hex(text.data[i + 1]) * 16 + hex(text.data[i + 2]);
			i += 2;
		}
		if (c < 0x20 || c == 0x7f)
			return -1;
		*is_ascii &= c < 0x80;
	}
	return n;
}

static int
take_size(struct server *s, struct span value)
{
	uint64_t n = 0;

	if (value.len == 0 || value.len > 20)
		return 501;
	for (size_t i = 0; i < value.len; i++) {
		if (value.data[i] < '0' || value.data[i] > '9')
			return 501;
		if (__builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (unsigned)(value.data[i] - '0'), &n))
			n = UINT64_MAX; /* and stays there */
	}
	s->mail.declared = n;
	return s->o->max_message > 0 && n > s->o->max_message ? 552 : 250;
}

static int
mail_param(struct server *s, struct span key, struct span value, bool has_value)
{
	bool is_ascii;
	int n;

	if (is(key, "SIZE"))
		return take_size(s, value);
	if (is(key, "BODY")) {
		s->mail.body = is(value, "7BIT") ? '7' : is(value, "8BITMIME") ? '8' : 0;
		return s->mail.body != 0 ? 250 : 501;
	}
	if (is(key, "SMTPUTF8")) {
		s->mail.smtputf8 = true;
		return has_value ? 501 : 250;
	}
	if (is(key, "RET")) {
		s->mail.ret = is(value, "FULL") ? 'F' : is(value, "HDRS") ? 'H' : 0;
		return s->mail.ret != 0 ? 250 : 501;
	}
	if (is(key, "ENVID")) {
		n = xtext(value, &is_ascii);
		if (n < 1 || n > 100 || !is_ascii)
			return 501;
		append(&s->mail.envid, value);
		return 250;
	}
	if (is(key, "AUTH") && s->o->auth_ignore) {
		n = xtext(value, &is_ascii);
		return n < 1 || n > 512 ? 501 : 250;
	}
	return 555;
}

static int
take_notify(struct model_recipient *r, struct span value)
{
	static const char *const words[] = { "NEVER", "SUCCESS", "FAILURE", "DELAY" };

	for (;;) {
		const size_t comma = index_of(value, ',');
		unsigned i = 0;

		while (i < 4 && !is(first(value, comma), words[i]))
			i++;
		if (i == 4 || (r->notify & 1u << i) != 0)
			return 501;
		r->notify |= 1u << i;
		if (comma == value.len)
			return r->notify != 1 && (r->notify & 1) != 0 ? 501 : 250;
		value = after(value, comma + 1);
	}
}

static int
rcpt_param(struct server *s, struct model_recipient *r, struct span key, struct span value)
{
	const size_t semicolon = index_of(value, ';');
	const struct span type = first(value, semicolon), address = after(value, semicolon + 1);
	bool is_ascii;

	if (is(key, "NOTIFY"))
		return take_notify(r, value);
	if (!is(key, "ORCPT"))
		return 555;
	if (value.len > 500 || type.len == 0 || address.len == 0)
		return 501;
	for (size_t i = 0; i < type.len; i++)
		if ((unsigned char)type.data[i] <= 0x20 || (unsigned char)type.data[i] >= 0x7f ||
		    strchr("()<>[]:;@\\,.\"=+", type.data[i]) != NULL)
			return 501;
	if (xtext(address, &is_ascii) < 1 &&
	    !(s->mail.smtputf8 && is(type, "utf-8") && is_utf8(address)))
		return 501;
	append(&r->orcpt, value);
	return 250;
}

/* 250, or what is wrong with the first parameter with which something is. `r`: of RCPT. */
static int
take_params(struct server *s, struct model_recipient *r, struct span params)
{
	struct span seen[16];
	unsigned n_seen = 0;

	while (params.len > 0) {
		const struct span word = first(params, index_of(params, ' '));
		const size_t equals = index_of(word, '=');
		const struct span key = first(word, equals), value = after(word, equals + 1);
		int code;

		params = after(params, word.len + 1);
		if (word.len == 0)
			continue;
		for (unsigned i = 0; i < n_seen; i++)
			if (seen[i].len == key.len &&
			    strncasecmp(seen[i].data, key.data, key.len) == 0)
				return 501;
		code = r != NULL ? rcpt_param(s, r, key, value)
		                 : mail_param(s, key, value, equals < word.len);
		if (code != 250)
			return code;
		seen[n_seen++] = key; /* there are fewer than 16 that are known */
	}
	return 250;
}

/* ---- Content ---- */

struct content {
	char *text;
	size_t len;
	size_t used; /* of the raw bytes, the end of data included */
	bool is_ended;
	bool has_nul, has_bare, has_8bit;
};

static void
put(struct content *c, char byte)
{
	c->text[c->len++] = byte;
}

static void
put_line(struct content *c, struct span line, const struct model_options *o)
{
	for (size_t i = 0; i < line.len; i++) {
		c->has_nul |= line.data[i] == '\0';
		c->has_bare |= line.data[i] == '\r';
		if (line.data[i] == '\r' || (line.data[i] == '\0' && o->nul_space))
			put(c, ' ');
		else
			put(c, line.data[i]);
	}
}

/* D1-D4, B6: lines are what ends in LF. With `dots` (DATA) it stops at the end of data. What follows the
 * last LF belongs to the content if this is all (`is_all`), and else is a line of which more may come. */
static struct content
read_content(struct span raw, bool dots, bool is_all, const struct model_options *o)
{
	struct content c = { .text = malloc(3 * raw.len + 3) };
	bool after_crlf = true;

	while (c.used < raw.len && !c.is_ended) {
		struct span line = after(raw, c.used);
		const size_t lf = index_of(line, '\n');
		const bool has_lf = lf < line.len;
		const bool is_crlf = has_lf && lf > 0 && line.data[lf - 1] == '\r';

		if (!has_lf && dots)
			break; /* DATA: the end is still to come */
		line = first(line, is_crlf ? lf - 1 : lf);
		c.used += has_lf ? lf + 1 : line.len;
		c.has_bare |= has_lf && !is_crlf;
		if (dots && is(line, ".")) {
			c.is_ended = is_crlf && after_crlf;
			after_crlf = is_crlf;
			continue;
		}
		if (dots && line.len > 0 && line.data[0] == '.')
			line = after(line, 1);
		if (!has_lf && !is_all && line.data[line.len - 1] == '\r')
			line.len--; /* its LF may come */
		put_line(&c, line, o);
		if (has_lf || is_all) {
			put(&c, '\r');
			put(&c, '\n');
		}
		after_crlf = is_crlf;
	}
	c.has_8bit = has_8bit((struct span){ c.text, c.len });
	return c;
}

static bool
is_field(struct span line, struct span *name)
{
	size_t n = 0, colon;

	while (n < line.len && line.data[n] > ' ' && line.data[n] < 0x7f && line.data[n] != ':')
		n++;
	for (colon = n; colon < line.len && (line.data[colon] == ' ' || line.data[colon] == '\t');)
		colon++;
	*name = first(line, n);
	return n > 0 && colon < line.len && line.data[colon] == ':';
}

static bool
is_mbox_line(struct span line)
{
	const size_t n = line.len > 0 && line.data[0] == '>' ? 6 : 5;

	return line.len >= n && memcmp(line.data + n - 5, "From", 4) == 0 &&
	       (line.data[n - 1] == ' ' || line.data[n - 1] == '\t');
}

/* The Received lines of stored content; what is cut off at its end is a line as well. */
static void
count_hops(struct span text, const char *hostname, unsigned *received, unsigned *own)
{
	char by[400] = "\tby ";
	bool in_received = false;

	strcat(strcat(by, hostname), " (relayd) ");
	*received = *own = 0;
	for (bool is_first = true; text.len > 0; is_first = false) {
		const size_t lf = index_of(text, '\n');
		struct span line = first(text, lf), name;

		text = after(text, lf + 1);
		if (line.len > 0 && line.data[line.len - 1] == '\r')
			line.len--;
		if (line.len > 0 && (line.data[0] == ' ' || line.data[0] == '\t') && !is_first) {
			*own += in_received && line.len >= strlen(by) &&
			        memcmp(line.data, by, strlen(by)) == 0;
		} else if (is_field(line, &name)) {
			in_received = is(name, "Received");
			*received += in_received;
		} else if (is_first && is_mbox_line(line)) {
			in_received = false;
		} else {
			return;
		}
	}
}

/* What is wrong with the content: how many of `codes` were filled in. */
static unsigned
judge(const struct server *s, const struct content *c, int codes[MODEL_CODES])
{
	const struct model_options *o = s->o;
	unsigned n = 0, received, own;

	count_hops((struct span){ c->text, c->len }, o->hostname, &received, &own);
	if ((o->max_message > 0 && c->len > o->max_message) ||
	    (o->body_most > 0 && c->len > o->body_most))
		codes[n++] = 552;
	if ((c->has_nul && !o->nul_space) || (c->has_bare && o->reject_bare))
		codes[n++] = 550;
	if (received >= o->max_received || own >= OWN_HOPS)
		codes[n++] = 554;
	return n;
}

/* The content is complete: takes it. */
static void
end_message(struct server *s, struct content *c)
{
	struct model *m = s->out;
	int codes[MODEL_CODES], code;
	unsigned n = judge(s, c, codes);

	if (n > 0) {
		reset(s);
		answer_one_of(s, codes, n);
		return;
	}
	s->mail.content = c->text;
	s->mail.len = c->len;
	s->mail.has_8bit = c->has_8bit;
	count_hops(
	    (struct span){ c->text, c->len }, s->o->hostname, &s->mail.received, &s->mail.own);
	c->text = NULL;
	m->messages = realloc(m->messages, (m->n_messages + 1) * sizeof(*m->messages));
	m->messages[m->n_messages++] = s->mail;
	code = model_commit_refusal(s->o, s->commits++);
	reset(s);
	if (code == 0)
		s->errors = s->commands = 0;
	answer(s, code == 0 ? 250 : code);
}

static void
do_data(struct server *s)
{
	struct content c;

	answer(s, 354);
	if (s->out->closed)
		return;
	c = read_content(after(s->in, s->at), true, false, s->o);
	if (c.is_ended) {
		s->at += c.used;
		end_message(s, &c);
	} else {
		s->at = s->in.len;
	}
	free(c.text);
}

/* All chunks so far as one. */
static struct content
read_chunks(const struct server *s, bool is_all)
{
	struct span raw = { NULL, 0 };
	struct content c;
	char *bytes = malloc(s->in.len + 1);

	for (size_t i = 0; i < s->n_chunks; i++) {
		memcpy(bytes + raw.len, s->chunks[i].data, s->chunks[i].len);
		raw.len += s->chunks[i].len;
	}
	raw.data = bytes;
	c = read_content(raw, false, is_all, s->o);
	free(bytes);
	return c;
}

/* B1: false if the length of what follows is not known. */
static bool
parse_bdat(struct span arg, uint64_t *count, bool *is_last)
{
	size_t digits = 0;

	*count = 0;
	while (digits < arg.len && arg.data[digits] >= '0' && arg.data[digits] <= '9')
		if (__builtin_mul_overflow(*count, 10, count) ||
		    __builtin_add_overflow(*count, (unsigned)(arg.data[digits++] - '0'), count))
			return false;
	*is_last = is(after(arg, digits), " LAST");
	return digits > 0 && (*is_last || digits == arg.len);
}

static int
bdat_problem(const struct server *s, uint64_t count, bool is_last)
{
	struct content c;
	uint64_t stored;

	if (s->state == START || s->state == READY)
		return 503;
	if (s->state == MAIL)
		return 554;
	if (s->state == CHUNKS_FAILED || (count == 0 && !is_last))
		return 551;
	c = read_chunks(s, false);
	stored = c.len;
	free(c.text);
	if (s->o->max_message > 0 &&
	    (count > s->o->max_message || stored + count > s->o->max_message))
		return 552; /* B5 */
	return 0;
}

static void
do_bdat(struct server *s, struct span arg)
{
	uint64_t count;
	bool is_last;
	struct content c;
	int codes[MODEL_CODES];
	unsigned n_codes = 1;

	if (!parse_bdat(arg, &count, &is_last)) {
		answer_and_close(s, 521);
		return;
	}
	codes[0] = bdat_problem(s, count, is_last);
	if (codes[0] == 0 && count >= 512)
		s->commands--;           /* not a tiny one */
	if (count > s->in.len - s->at) { /* B7: the rest never comes */
		s->at = s->in.len;
		return;
	}
	if (codes[0] == 0) {
		s->chunks = realloc(s->chunks, (s->n_chunks + 1) * sizeof(*s->chunks));
		s->chunks[s->n_chunks++] = first(after(s->in, s->at), (size_t)count);
	}
	s->at += count; /* B2 */
	if (codes[0] == 0) {
		c = read_chunks(s, is_last);
		n_codes = judge(s, &c, codes);
		if (n_codes == 0 && is_last)
			end_message(s, &c);
		free(c.text);
		if (n_codes == 0 && is_last)
			return;
	}
	if (n_codes == 0) {
		s->state = CHUNKS;
		answer(s, 250);
		return;
	}
	reset(s);
	if (!is_last)
		s->state = CHUNKS_FAILED; /* B3 */
	answer_one_of(s, codes, n_codes);
}

/* ---- Commands ---- */

static void
do_mail(struct server *s, struct span arg)
{
	struct span params;
	int code;

	if (s->state != READY) {
		answer(s, 503);
		return;
	}
	code = take_path(arg, "FROM:", s->o->hostname, &s->mail.sender, &params)
	           ? take_params(s, NULL, params)
	           : 501;
	if (code == 250 && !s->mail.smtputf8 &&
	    has_8bit((struct span){ s->mail.sender.bytes, s->mail.sender.len }))
		code = 553;
	if (code == 250) {
		code = model_begin_refusal(s->o, s->begins++);
		code = code == 0 ? 250 : code;
	}
	if (code == 250)
		s->state = MAIL;
	else
		reset(s); /* D11 */
	answer(s, code);
}

static void
do_rcpt(struct server *s, struct span arg)
{
	struct model_recipient r = { .notify = 0 };
	struct span params;
	int code;

	if (s->state != MAIL && s->state != RCPT) {
		answer(s, 503);
		return;
	}
	code = take_path(arg, "TO:", s->o->hostname, &r.address, &params) && r.address.len > 0
	           ? take_params(s, &r, params)
	           : 501;
	if (code == 250 && !s->mail.smtputf8 &&
	    has_8bit((struct span){ r.address.bytes, r.address.len }))
		code = 553;
	if (code == 250 && s->mail.n_recipients == s->o->max_recipients) {
		code = 452;
		s->errors += ++s->overshoot > s->o->max_recipients;
	}
	if (code == 250) {
		s->mail.recipients[s->mail.n_recipients++] = r;
		s->state = RCPT;
		s->commands--;
	}
	answer(s, code);
}

static void
do_hello(struct server *s, struct span arg)
{
	const size_t name = index_of(arg, ' ');

	if (name == 0 || name > 255) {
		answer(s, 501);
		return;
	}
	s->said_helo = true;
	reset(s);
	answer(s, 250);
}

static void
auth_over(struct server *s)
{
	s->said_auth = true;
	s->state = READY;
	answer(s, 235);
}

static void
do_auth(struct server *s, struct span arg)
{
	const size_t name = index_of(arg, ' ');
	const bool has_initial = name < arg.len;

	if (s->state != READY)
		answer(s, 503);
	else if (!s->o->auth_ignore)
		answer(s, 502);
	else if (s->said_auth)
		answer(s, 503);
	else if (is(first(arg, name), "PLAIN") && has_initial)
		auth_over(s);
	else if (is(first(arg, name), "PLAIN") || is(first(arg, name), "LOGIN")) {
		s->state = is(first(arg, name), "PLAIN") || has_initial ? AUTH_LAST : AUTH_USER;
		answer(s, 334);
	} else {
		answer(s, 504);
	}
}

static bool
is_one_of(struct span word, const char *const *words)
{
	while (*words != NULL && !is(word, *words))
		words++;
	return *words != NULL;
}

static void
command(struct server *s, struct span line, bool more_follows)
{
	static const char *const last_in_group[] = { "DATA", "EHLO", "HELO", "NOOP", "QUIT", "VRFY",
		"AUTH", "STARTTLS", "EXPN", "TURN", "ETRN", NULL };
	static const char *const not_here[] = { "EXPN", "TURN", "ETRN", "SEND", "SOML", "SAML",
		"STARTTLS", NULL };
	static const char *const http[] = { "GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT",
		NULL };
	const size_t space = index_of(line, ' ');
	const struct span verb = first(line, space), arg = trim(after(line, space));

	if (is_one_of(verb, last_in_group)) {
		s->out->waits =
		    realloc(s->out->waits, (s->out->n_waits + 1) * sizeof(*s->out->waits));
		s->out->waits[s->out->n_waits++] = s->at;
		if (more_follows && s->o->never_waits) {
			answer_and_close(s, 554); /* D10 */
			return;
		}
	}
	if (is(verb, "EHLO") || is(verb, "HELO"))
		do_hello(s, arg);
	else if (is(verb, "MAIL"))
		do_mail(s, arg);
	else if (is(verb, "RCPT"))
		do_rcpt(s, arg);
	else if (is(verb, "BDAT"))
		do_bdat(s, arg);
	else if (is(verb, "DATA") && s->state != RCPT)
		answer(s, s->state == MAIL ? 554 : 503);
	else if ((is(verb, "DATA") || is(verb, "RSET")) && arg.len > 0)
		answer(s, 501);
	else if (is(verb, "DATA"))
		do_data(s);
	else if (is(verb, "RSET")) {
		reset(s);
		answer(s, 250);
	} else if (is(verb, "AUTH"))
		do_auth(s, arg);
	else if (is(verb, "NOOP"))
		answer(s, 250);
	else if (is(verb, "VRFY"))
		answer(s, arg.len > 0 ? 252 : 501);
	else if (is(verb, "HELP"))
		answer(s, 214);
	else if (is(verb, "QUIT"))
		answer_and_close(s, 221);
	else if (is_one_of(verb, http))
		answer_and_close(s, 554);
	else
		answer(s, is_one_of(verb, not_here) ? 502 : 500);
}

/* A line without its LF. */
static void
take_line(struct server *s, struct span line, bool more_follows)
{
	const bool has_cr = line.len > 0 && line.data[line.len - 1] == '\r';
	bool has_control = false;

	line.len -= has_cr;
	for (size_t i = 0; i < line.len; i++)
		has_control |= ((unsigned char)line.data[i] < 0x20 && line.data[i] != '\t') ||
		               line.data[i] == 0x7f;
	if (++s->commands > s->o->max_commands)
		answer_and_close(s, 421);
	else if (!has_cr && s->o->reject_bare)
		answer_and_close(s, 550); /* D9 */
	else if (has_control) {
		if (s->state == AUTH_USER || s->state == AUTH_LAST)
			s->state = READY;
		answer(s, 500);
	} else if (s->state == AUTH_USER || s->state == AUTH_LAST) {
		if (is(line, "*")) {
			s->state = READY;
			answer(s, 501);
		} else if (s->state == AUTH_USER) {
			s->state = AUTH_LAST;
			answer(s, 334);
		} else {
			auth_over(s);
		}
	} else {
		command(s, line, more_follows);
	}
}

void
model_server(const struct model_options *options, struct span in, struct model *out)
{
	struct server s = { .o = options, .out = out, .in = in };
	const size_t most = options->auth_ignore ? LINE_AUTH_MOST : LINE_MOST;

	*out = (struct model){ .sure = in.len };
	if (options->is_early && in.len > 0)
		answer_and_close(&s, 554);
	else
		answer(&s, 220);
	while (s.at < in.len && !out->closed) {
		const struct span rest = after(in, s.at);
		const size_t lf = index_of(rest, '\n'), len = lf < rest.len ? lf + 1 : lf;

		if (s.state == START && rest.data[0] == 0x16) {
			answer_and_close(&s, 554); /* a TLS client */
		} else if (len > most + SKIP_MOST) {
			answer_and_close(&s, 421);
		} else if (len > SKIP_MOST) {
			out->sure = s.at;
			break;
		} else if (lf == rest.len) {
			break; /* the rest of the line never comes */
		} else {
			s.at += len;
			if (len > most) {
				s.commands++;
				answer(&s, 500);
			} else {
				take_line(&s, first(rest, lf), s.at < in.len);
			}
		}
	}
	free(s.chunks);
}

void
model_fini(struct model *m)
{
	for (size_t i = 0; i < m->n_messages; i++)
		free(m->messages[i].content);
	free(m->messages);
	free(m->replies);
	free(m->waits);
}
