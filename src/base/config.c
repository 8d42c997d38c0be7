/* config.c - from text to a draft: each setting as a string, with its place. libconfuse is met here
 * only, and knows nothing but the grammar; what the strings mean is said in config_make.c, by the
 * table. So all problems of a file are told in one go, each with its place.
 *
 * libconfuse's callbacks take no argument of ours: `parse` is set while one file is parsed. */
#include <confuse.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/config.h"
#include "base/draft.h"
#include "base/guess.h"
#include "base/options.h"
#include "base/span.h"

#define INCLUDE_DEPTH_MAX 8
#define UNKNOWN_MAX 20
#define FILE_BYTES_MAX (1024 * 1024)
#define WHY_MAX 256
#define NAME_MAX_BYTES 128

/* What on_value() saw, for the block that libconfuse calls `cfg`. */
struct seen_block {
	cfg_t *cfg;
	struct draft_block *block;
};

struct parse {
	struct draft *draft;
	const char *file; /* that is read just now: changes with include() */
	unsigned depth;
	char **files; /* all names, freed at the end */
	size_t n_files;
	struct seen_block *seen;
	size_t n_seen;
	char *unknown[UNKNOWN_MAX]; /* names told already: the next try skips over them */
	size_t n_unknown;
	bool retry; /* an unknown name ended this try */
};

static struct parse *parse;

/* ---- what libconfuse tells us ---- */

static struct place
place_now(const cfg_t *cfg)
{
	return (struct place){ parse->file, cfg->line > 0 ? (unsigned)cfg->line : 0 };
}

static enum option_block
kind_of(const char *name)
{
	for (unsigned kind = BLOCK_TOP + 1; kind < BLOCK_COUNT; kind++)
		if (strcmp(name, options_block_name(kind)) == 0)
			return kind;
	return BLOCK_TOP;
}

static void
note_file(const char *path)
{
	parse->files = xrealloc(parse->files, parse->n_files + 1, sizeof(*parse->files));
	parse->file = parse->files[parse->n_files++] = xstrdup(path);
}

static struct draft_block *
block_of(cfg_t *cfg)
{
	struct draft_block *block;

	for (size_t i = 0; i < parse->n_seen; i++)
		if (parse->seen[i].cfg == cfg)
			return parse->seen[i].block;
	block = xcalloc(1, sizeof(*block));
	block->kind = kind_of(cfg_name(cfg));
	block->title = cfg_title(cfg) != NULL ? xstrdup(cfg_title(cfg)) : NULL;
	block->place = (struct place){ parse->file, 0 };
	parse->seen = xrealloc(parse->seen, parse->n_seen + 1, sizeof(*parse->seen));
	parse->seen[parse->n_seen++] = (struct seen_block){ cfg, block };
	return block;
}

static bool
is_told_unknown(const char *name)
{
	for (size_t i = 0; i < parse->n_unknown; i++)
		if (strcmp(parse->unknown[i], name) == 0)
			return true;
	return false;
}

/* A value was read. */
static int
on_value(cfg_t *cfg, cfg_opt_t *opt, const char *value, void *result)
{
	struct draft_block *block = block_of(cfg);
	const struct option *option = options_find(block->kind, cfg_opt_name(opt));
	const char **out = result;
	size_t i;

	*out = value;
	if (block->place.line == 0)
		block->place = place_now(cfg);
	if (option == NULL) /* told already */
		return 0;
	i = options_index(option);
	if (block->text[i] != NULL && option->type != OPTION_NETWORKS)
		draft_complain(parse->draft, place_now(cfg),
		    "%s is set twice (before in %s:%u): leave one of them", option->name,
		    block->where[i].file, block->where[i].line);
	free(block->text[i]);
	block->text[i] = xstrdup(value);
	block->where[i] = place_now(cfg);
	return 0;
}

/* A block with a title was closed: the first chance to learn where an empty one stands. */
static int
on_block(cfg_t *cfg, cfg_opt_t *opt)
{
	struct draft_block *block = block_of(cfg_opt_getnsec(opt, cfg_opt_size(opt) - 1));

	if (block->place.line == 0)
		block->place = place_now(cfg);
	return 0;
}

static void
complain_unknown(cfg_t *cfg, const char *name)
{
	enum option_block kind = kind_of(cfg_name(cfg));
	char guess[WHY_MAX];

	guess_option(kind, name, guess, sizeof(guess));
	draft_complain(parse->draft, place_now(cfg), "%s%s%s%s: there is no such setting%s%s",
	    options_block_name(kind), kind != BLOCK_TOP ? " { " : "", name,
	    kind != BLOCK_TOP ? " }" : "", guess[0] != '\0' ? ": " : "; relayd.conf(5) lists them",
	    guess);
	if (parse->n_unknown < UNKNOWN_MAX && strlen(name) < NAME_MAX_BYTES - 1 &&
	    !is_told_unknown(name)) {
		parse->unknown[parse->n_unknown++] = xstrdup(name);
		parse->retry = true;
	}
}

/* The text between the first two ' of libconfuse's message. */
static bool
quoted_name(const char *message, char *out, size_t size)
{
	const char *begin = strchr(message, '\''), *end = strrchr(message, '\'');

	if (begin == NULL || end <= begin)
		return false;
	snprintf(out, size, "%.*s", (int)(end - begin - 1), begin + 1);
	return true;
}

static const char *
advice_for(const char *message, const char *name)
{
	enum option_block kind = kind_of(name);

	if (strncmp(message, "found duplicate", 15) == 0)
		return ": give each block a name of its own";
	if (strncmp(message, "premature end", 13) == 0)
		return ": a } or a closing quote is missing somewhere above";
	if (kind == BLOCK_LISTEN)
		return ": write listen \"127.0.0.1:25\" { }";
	if (kind == BLOCK_UPSTREAM)
		return ": write upstream \"NAME\" { ... }";
	if (kind != BLOCK_TOP)
		return ": it is a block, NAME { ... }";
	if (strncmp(message, "missing equal sign", 18) == 0)
		return ": write NAME = VALUE";
	if (strncmp(message, "unexpected token", 16) == 0)
		return ": is a quote or a brace missing before it?";
	return "";
}

static void __attribute__((format(printf, 2, 0)))
on_error(cfg_t *cfg, const char *format, va_list args)
{
	char message[512], name[NAME_MAX_BYTES] = "";
	bool named;

	vsnprintf(message, sizeof(message), format, args);
	named = quoted_name(message, name, sizeof(name));
	if (named && strncmp(message, "no such option", 14) == 0) {
		complain_unknown(cfg, name);
		return;
	}
	if (parse->n_unknown > 0 && parse->draft->n_problems > 0 && is_told_unknown(name))
		return; /* what follows an unknown name that is not a simple setting */
	draft_complain(parse->draft, place_now(cfg), "%s%s", message, advice_for(message, name));
}

/* ---- the text of a file ---- */

/* The whole of the file, and a line's end behind it (libconfuse wants one behind a comment). */
static int
read_all(int fd, char **out, size_t *out_len)
{
	char *text = xcalloc(FILE_BYTES_MAX + 2, 1);
	size_t len = 0;
	ssize_t n;

	while ((n = pread(fd, text + len, FILE_BYTES_MAX + 1 - len, (off_t)len)) > 0)
		len += (size_t)n;
	if (n < 0 || len > FILE_BYTES_MAX) {
		n = n < 0 ? -errno : -EFBIG;
		free(text);
		return (int)n;
	}
	text[len++] = '\n';
	*out = text;
	*out_len = len;
	return 0;
}

/* The end of "${...}" at `p`, or NULL. Tells a variable that is not there. */
static char *
skip_variable(char *p, char *end, unsigned line)
{
	char *close = memchr(p, '}', (size_t)(end - p));
	char name[128];

	if (close == NULL)
		return NULL;
	snprintf(name, sizeof(name), "%.*s", (int)(close - p - 2), p + 2);
	if (strstr(name, ":-") == NULL && getenv(name) == NULL)
		draft_complain(parse->draft, (struct place){ parse->file, line },
		    "${%s}: there is no such environment variable; ${%s:-DEFAULT} gives a default",
		    name, name);
	return close;
}

/* The end of the string that begins at `p` with a quote, or `end`. */
static char *
skip_string(char *p, char *end, unsigned *line)
{
	char quote = *p++;

	for (; p < end && *p != quote; p++) {
		char *close = NULL;

		if (quote == '"' && p[0] == '$' && p + 1 < end && p[1] == '{')
			close = skip_variable(p, end, *line);
		if (close != NULL)
			p = close;
		else if (*p == '\\' && p + 1 < end)
			p++;
		*line += *p == '\n';
	}
	return p;
}

/* Overwrites comments with blanks, but for the ends of lines: libconfuse 3.3 counts lines wrong
 * behind each comment, and messages are worth nothing without the right line. Tells what libconfuse
 * would let pass: a block that the file does not close. */
static void
blank_comments(char *text, size_t len)
{
	enum { NONE, LINE, BLOCK } comment = NONE;
	unsigned line = 1, open_line = 0, depth = 0;
	char *end = text + len;

	for (char *p = text; p < end; p++) {
		bool two = comment == NONE && p[0] == '/' && p + 1 < end;

		if (*p == '\n') {
			line++;
			comment = comment == LINE ? NONE : comment;
		} else if (comment == BLOCK && p[0] == '*' && p + 1 < end && p[1] == '/') {
			p[0] = p[1] = ' ';
			comment = NONE;
		} else if (comment != NONE) {
			*p = ' ';
		} else if (*p == '#' || (two && p[1] == '/')) {
			*p = ' ';
			comment = LINE;
		} else if (two && p[1] == '*') {
			p[0] = p[1] = ' ';
			comment = BLOCK;
		} else if (*p == '"' || *p == '\'') {
			p = skip_string(p, end, &line);
		} else if (*p == '{' && depth++ == 0) {
			open_line = line;
		} else if (*p == '}' && depth > 0) {
			depth--;
		}
	}
	if (depth > 0)
		draft_complain(parse->draft, (struct place){ parse->file, open_line },
		    "the { of this line has no }");
}

/* ---- include("FILE"): relative to the file it stands in; * and ? match several ---- */

/* Changes the text. 0, or -1 after telling why. */
static int
parse_text(cfg_t *cfg, char *text, size_t len)
{
	FILE *in;
	int r;

	if (memchr(text, '\0', len) != NULL) {
		draft_complain(parse->draft, (struct place){ parse->file, 0 },
		    "there is a zero byte in it: this is not a text file");
		return -1;
	}
	blank_comments(text, len);
	in = fmemopen(text, len, "r");
	if (in == NULL)
		return -1;
	r = cfg_parse_fp(cfg, in);
	fclose(in);
	return r == CFG_SUCCESS ? 0 : -1;
}

static int
parse_file(cfg_t *cfg, const char *path)
{
	const char *outer_file = parse->file;
	int outer_line = cfg->line;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int r = fd >= 0 ? 0 : -errno;
	char *text = NULL;
	size_t len;

	if (r == 0)
		r = read_all(fd, &text, &len);
	if (fd >= 0)
		close(fd);
	if (r < 0) {
		draft_complain(parse->draft, place_now(cfg), "include: cannot read %s: %s", path,
		    strerror(-r));
		return -1;
	}
	note_file(path);
	parse->depth++;
	r = parse_text(cfg, text, len);
	parse->depth--;
	free(text);
	parse->file = outer_file;
	cfg->line = outer_line;
	return r;
}

/* In the order of their names; none is fine. */
static int
parse_matching(cfg_t *cfg, const char *pattern)
{
	glob_t found;
	int r = glob(pattern, GLOB_ERR, NULL, &found);

	if (r == GLOB_NOMATCH)
		return 0;
	if (r != 0) {
		draft_complain(parse->draft, place_now(cfg), "include: cannot look for %s: %s",
		    pattern, errno != 0 ? strerror(errno) : "no memory");
		return -1;
	}
	for (size_t i = 0; i < found.gl_pathc && r == 0; i++)
		r = parse_file(cfg, found.gl_pathv[i]);
	globfree(&found);
	return r;
}

static int
on_include(cfg_t *cfg, cfg_opt_t *opt, int argc, const char **argv)
{
	char *pattern;
	int r = 0;

	(void)opt;
	if (argc != 1 || parse->depth >= INCLUDE_DEPTH_MAX) {
		draft_complain(parse->draft, place_now(cfg),
		    argc != 1 ? "include takes one file: include(\"more.conf\")"
		              : "include: files include each other too deep");
		return -1;
	}
	pattern = draft_path(parse->file, argv[0]);
	if (strpbrk(pattern, "*?[") == NULL)
		r = parse_file(cfg, pattern);
	else
		r = parse_matching(cfg, pattern);
	free(pattern);
	return r;
}

/* ---- the grammar for libconfuse, made from the table ---- */

#define GRAMMAR_MAX (OPTIONS_MAX + UNKNOWN_MAX + 16)

/* Names that were told as unknown are known in the next try, so that it gets past them. */
static size_t
add_unknown(cfg_opt_t *grammar, enum option_block kind, size_t n)
{
	cfg_opt_t skip = CFG_STR_CB(NULL, NULL, CFGF_NODEFAULT, on_value);

	for (size_t i = 0; i < parse->n_unknown; i++) {
		skip.name = parse->unknown[i];
		if (options_find(kind, skip.name) == NULL &&
		    (kind != BLOCK_TOP || kind_of(skip.name) == BLOCK_TOP))
			grammar[n++] = skip;
	}
	return n;
}

static size_t
add_options(cfg_opt_t *grammar, enum option_block kind)
{
	cfg_opt_t one = CFG_STR_CB(NULL, NULL, CFGF_NODEFAULT, on_value);
	cfg_opt_t list = CFG_STR_LIST_CB(NULL, NULL, CFGF_NONE, on_value);
	cfg_opt_t include = CFG_FUNC("include", on_include);
	size_t n = 0;

	for (const struct option *o = options; o->name != NULL; o++) {
		if (o->block != kind)
			continue;
		grammar[n] = o->type == OPTION_NETWORKS ? list : one;
		if (o->type == OPTION_NETWORKS) {
			char *fallback = xstrdup(o->fallback); /* freed with the grammar */

			grammar[n].def.parsed = fallback;
		}
		grammar[n++].name = o->name;
	}
	grammar[n++] = include;
	return add_unknown(grammar, kind, n);
}

static cfg_t *
make_parser(void)
{
	static const cfg_opt_t end = CFG_END();
	cfg_opt_t top[GRAMMAR_MAX], blocks[BLOCK_COUNT][GRAMMAR_MAX];
	size_t n = add_options(top, BLOCK_TOP);
	cfg_t *cfg;

	for (unsigned kind = BLOCK_TOP + 1; kind < BLOCK_COUNT; kind++) {
		cfg_opt_t one = CFG_SEC(NULL, blocks[kind], CFGF_NONE);
		cfg_opt_t many =
		    CFG_SEC(NULL, blocks[kind], CFGF_MULTI | CFGF_TITLE | CFGF_NO_TITLE_DUPES);

		blocks[kind][add_options(blocks[kind], kind)] = end;
		top[n] = kind < BLOCK_LISTEN ? one : many;
		top[n++].name = options_block_name(kind);
	}
	top[n] = end;
	cfg = cfg_init(top, CFGF_NONE); /* copies it all */
	for (size_t i = 0; i < n; i++)
		if (top[i].def.parsed != NULL)
			free(top[i].def.parsed);
	if (cfg == NULL)
		return NULL;
	cfg_set_error_function(cfg, on_error);
	for (unsigned kind = BLOCK_LISTEN; kind < BLOCK_COUNT; kind++)
		cfg_set_validate_func(cfg, options_block_name(kind), on_block);
	return cfg;
}

/* ---- from libconfuse's tree to the draft ---- */

static struct draft_block **
blocks_of(cfg_t *cfg, enum option_block kind, size_t *n)
{
	const char *name = options_block_name(kind);
	struct draft_block **blocks;

	*n = cfg_size(cfg, name);
	blocks = xcalloc(*n, sizeof(struct draft_block *));
	for (unsigned i = 0; i < *n; i++)
		blocks[i] = block_of(cfg_getnsec(cfg, name, i));
	return blocks;
}

static void
collect(struct draft *draft, cfg_t *cfg)
{
	draft->single[BLOCK_TOP] = block_of(cfg);
	for (unsigned kind = BLOCK_TOP + 1; kind < BLOCK_LISTEN; kind++)
		draft->single[kind] = block_of(cfg_getsec(cfg, options_block_name(kind)));
	draft->listen = blocks_of(cfg, BLOCK_LISTEN, &draft->n_listen);
	draft->upstreams = blocks_of(cfg, BLOCK_UPSTREAM, &draft->n_upstreams);
	draft->n_clients = cfg_size(cfg, "clients");
	draft->clients = xcalloc(draft->n_clients, sizeof(*draft->clients));
	for (unsigned i = 0; i < draft->n_clients; i++)
		draft->clients[i] = cfg_getnstr(cfg, "clients", i);
}

/* ---- the door ---- */

static void
forget_blocks(struct parse *p)
{
	for (size_t i = 0; i < p->n_seen; i++) {
		struct draft_block *block = p->seen[i].block;

		for (size_t o = 0; o < OPTIONS_MAX; o++)
			free(block->text[o]);
		free(block->title);
		free(block);
	}
	free(p->seen);
	p->seen = NULL;
	p->n_seen = 0;
}

static void
ignore_problem(void *arg, const char *text)
{
	(void)arg;
	(void)text;
}

/* Reads the text into libconfuse's tree, again after each unknown name. NULL: it is no
 * configuration. */
static cfg_t *
parse_all(char *text, size_t len)
{
	cfg_t *cfg;

	do {
		forget_blocks(parse);
		parse->retry = false;
		cfg = make_parser();
		if (cfg == NULL)
			return NULL;
		if (parse_text(cfg, text, len) == 0)
			return cfg;
		cfg_free(cfg);
	} while (parse->retry);
	return NULL;
}

static int
load_text(const char *path, char *text, size_t len, config_problem_fn *problem, void *arg,
    struct config **out)
{
	struct draft draft = { .config = xcalloc(1, sizeof(struct config)),
		.problem = problem != NULL ? problem : ignore_problem,
		.arg = arg };
	struct parse p = { .draft = &draft };
	bool has_memory = true;
	cfg_t *cfg;

	parse = &p;
	draft.config->path = xstrdup(path);
	note_file(path[0] != '\0' ? path : "(configuration)");
	errno = 0;
	cfg = parse_all(text, len);
	if (cfg != NULL) {
		collect(&draft, cfg);
		draft_make(&draft);
		cfg_free(cfg);
	} else if (draft.n_problems == 0) { /* libconfuse had no words for it */
		has_memory = errno != ENOMEM;
		draft_complain(&draft, (struct place){ NULL, 0 }, "%s",
		    has_memory ? "this cannot be read as a configuration"
		               : "there is no memory to read it");
	}
	parse = NULL;
	forget_blocks(&p);
	draft.config->files = p.files;
	draft.config->n_files = p.n_files;
	for (size_t i = 0; i < p.n_unknown; i++)
		free(p.unknown[i]);
	free(draft.listen);
	free(draft.upstreams);
	free(draft.clients);
	for (size_t i = 0; i < draft.n_problems; i++)
		free(draft.told[i]);
	free(draft.told);
	if (draft.n_problems > 0) {
		config_free(draft.config);
		return has_memory ? -EINVAL : -ENOMEM;
	}
	*out = draft.config;
	return 0;
}

static int
load_fd(int fd, const char *path, config_problem_fn *problem, void *arg, struct config **out)
{
	char *text = NULL, *message;
	size_t len = 0;
	int r = read_all(fd, &text, &len);

	if (r < 0) {
		message = xasprintf("%s: cannot be read: %s", path, strerror(-r));
		if (problem != NULL)
			problem(arg, message);
		free(message);
		return r;
	}
	r = load_text(path, text, len, problem, arg, out);
	free(text);
	return r;
}

bool
config_is_starved(int r)
{
	return r == -ENOMEM || r == -EMFILE || r == -ENFILE || r == -EIO;
}

int
config_load(const char *path, config_problem_fn *problem, void *arg, struct config **out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int r = fd >= 0 ? 0 : -errno;

	if (r < 0) {
		char *message = xasprintf("%s: cannot be opened: %s", path, strerror(-r));

		if (problem != NULL)
			problem(arg, message);
		free(message);
	} else {
		r = load_fd(fd, path, problem, arg, out);
		close(fd);
	}
	return r;
}

int
config_load_fd(int fd, config_problem_fn *problem, void *arg, struct config **out)
{
	return load_fd(fd, "", problem, arg, out);
}
