/* config_make.c - from the settings of a draft to struct config. What they mean one by one stands in
 * the table (options.c), what they mean for each other in config_validate.c. */
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/config.h"
#include "base/draft.h"
#include "base/netaddr.h"
#include "base/options.h"
#include "base/span.h"

#define WHY_MAX 256

static const char *const default_listeners[] = { "127.0.0.1:25", "[::1]:25", "127.0.0.1:587",
	"[::1]:587", "unix:/run/relayd/submit" };

/* ---- telling problems ---- */

void
draft_complain(struct draft *draft, struct place place, const char *format, ...)
{
	char text[1024], what[768], raw[768];
	va_list args;

	va_start(args, format);
	vsnprintf(raw, sizeof(raw), format, args);
	va_end(args);
	log_quote(span_of(raw), what, sizeof(what)); /* whatever it quotes: one line */
	if (place.line > 0)
		snprintf(text, sizeof(text), "%.200s:%u: %s", place.file, place.line, what);
	else
		snprintf(text, sizeof(text), "%.200s: %s",
		    place.file != NULL ? place.file : draft->config->path, what);
	for (size_t i = 0; i < draft->n_problems; i++)
		if (strcmp(draft->told[i], text) == 0)
			return; /* told in the try before */
	draft->told = xrealloc(draft->told, draft->n_problems + 1, sizeof(*draft->told));
	draft->told[draft->n_problems++] = xstrdup(text);
	draft->problem(draft->arg, text);
}

struct place
draft_where(const struct draft_block *block, const char *option)
{
	const struct option *o = options_find(block->kind, option);

	return o != NULL && block->text[options_index(o)] != NULL ? block->where[options_index(o)]
	                                                          : block->place;
}

bool
draft_is_set(const struct draft_block *block, const char *option)
{
	const struct option *o = options_find(block->kind, option);

	return o != NULL && block->text[options_index(o)] != NULL;
}

char *
draft_path(const char *file, const char *path)
{
	const char *slash = strrchr(file, '/');
	int len = slash != NULL ? (int)(slash - file) : 0;
	char here[PATH_MAX];

	if (path[0] == '/')
		return xstrdup(path);
	if (file[0] == '/')
		return xasprintf("%.*s/%s", len, file, path);
	if (getcwd(here, sizeof(here)) == NULL)
		return xstrdup(path);
	return xasprintf("%s/%.*s%s%s", here, len, file, len > 0 ? "/" : "", path);
}

/* ---- from settings to the struct ---- */

static void *
base_of(struct draft *draft, enum option_block kind, size_t i)
{
	if (kind == BLOCK_LISTEN)
		return &draft->config->listen[i];
	if (kind == BLOCK_UPSTREAM)
		return &draft->config->upstreams[i];
	return draft->config;
}

/* The setting as a person would say it: user, spool { min-free }, upstream "gmail": port. */
static void
name_setting(const struct draft_block *block, const struct option *option, char *out, size_t size)
{
	if (block->kind == BLOCK_TOP)
		snprintf(out, size, "%s", option->name);
	else if (block->title == NULL)
		snprintf(out, size, "%s { %s }", options_block_name(block->kind), option->name);
	else
		snprintf(out, size, "%s \"%s\": %s", options_block_name(block->kind), block->title,
		    option->name);
}

static void
apply_option(
    struct draft *draft, struct draft_block *block, const struct option *option, void *base)
{
	const char *text = block->text[options_index(option)];
	struct place where = block->where[options_index(option)];
	char why[WHY_MAX], name[WHY_MAX];
	char *path = NULL;

	name_setting(block, option, name, sizeof(name));
	if (text == NULL)
		text = option->fallback != NULL ? option->fallback : "";
	else if (strpbrk(text, "\r\n\x1b\x7f") != NULL)
		draft_complain(draft, where, "%s: control characters have no place here", name);
	else if (option->type == OPTION_PATH && text[0] != '\0')
		text = path = draft_path(where.file, text);
	if (option_set(option, base, text, why, sizeof(why)) < 0)
		draft_complain(draft, where, "%s = %s: it should be %s", name, text, why);
	free(path);
}

static void
apply_block(struct draft *draft, struct draft_block *block, size_t i)
{
	for (const struct option *o = options; o->name != NULL; o++)
		if (o->block == block->kind && o->type != OPTION_NETWORKS)
			apply_option(draft, block, o, base_of(draft, block->kind, i));
}

static void
apply_clients(struct draft *draft)
{
	struct config *config = draft->config;

	config->clients = xcalloc(draft->n_clients, sizeof(*config->clients));
	for (size_t i = 0; i < draft->n_clients; i++) {
		const char *text = draft->clients[i];

		if (netaddr_parse_network(text, &config->clients[config->n_clients]) < 0) {
			draft_complain(draft, draft_where(draft->single[BLOCK_TOP], "clients"),
			    "clients: %s should be an address or a network without host bits, such "
			    "as 192.168.1.0/24 or fd00::/8",
			    text);
			continue;
		}
		config->clients[config->n_clients++].text = xstrdup(text);
	}
}

static void
set_listener(struct draft *draft, const char *address, struct place place, size_t i)
{
	struct config_listen *listen = &draft->config->listen[i];
	int r;

	listen->line = place.line;
	if (strncmp(address, "unix:", 5) == 0 && place.line > 0) {
		char *path = draft_path(place.file, address + 5);

		listen->address = xasprintf("unix:%s", path);
		free(path);
	} else {
		listen->address = xstrdup(address);
	}
	r = netaddr_parse(listen->address, &listen->sa, &listen->sa_len);
	if (r == -ENAMETOOLONG)
		draft_complain(draft, place,
		    "listen \"%s\": the path of a socket has at most 107 bytes", address);
	else if (r < 0)
		draft_complain(draft, place,
		    "listen \"%s\": it should be an address with a port or a socket's path: "
		    "\"127.0.0.1:25\", \"[::1]:587\", \"0.0.0.0:25\", \"unix:/run/relayd/submit\"",
		    address);
}

static void
apply_listeners(struct draft *draft)
{
	struct config *config = draft->config;
	size_t n = draft->n_listen;

	config->n_listen = n > 0 ? n : ARRAY_LEN(default_listeners);
	config->listen = xcalloc(config->n_listen, sizeof(*config->listen));
	for (size_t i = 0; i < n; i++) {
		apply_block(draft, draft->listen[i], i);
		set_listener(draft, draft->listen[i]->title, draft->listen[i]->place, i);
	}
	for (size_t i = 0; n == 0 && i < config->n_listen; i++) {
		set_listener(draft, default_listeners[i], (struct place){ NULL, 0 }, i);
		config->listen[i].optional = true;
	}
}

static void
apply_upstreams(struct draft *draft)
{
	struct config *config = draft->config;

	config->n_upstreams = draft->n_upstreams;
	config->upstreams = xcalloc(config->n_upstreams, sizeof(*config->upstreams));
	for (size_t i = 0; i < config->n_upstreams; i++) {
		struct draft_block *block = draft->upstreams[i];

		config->upstreams[i].name = xstrdup(block->title);
		config->upstreams[i].line = block->place.line;
		apply_block(draft, block, i);
		if (config->upstreams[i].place == NULL)
			config->upstreams[i].place = xasprintf("%s:%u",
			    block->place.file != NULL ? block->place.file : config->path,
			    block->place.line);
	}
}

void
draft_make(struct draft *draft)
{
	for (unsigned kind = BLOCK_TOP; kind < BLOCK_LISTEN; kind++)
		apply_block(draft, draft->single[kind], 0);
	apply_clients(draft);
	apply_listeners(draft);
	apply_upstreams(draft);
	draft_complete(draft);
	draft_validate(draft);
}

/* ---- the made thing ---- */

static void
free_strings(enum option_block first, enum option_block last, void *base)
{
	for (const struct option *o = options; o->name != NULL; o++)
		if (o->block >= first && o->block <= last)
			option_free(o, base);
}

static void
free_text(const char *text)
{
	free((void *)(uintptr_t)text);
}

void
config_free(struct config *config)
{
	if (config == NULL)
		return;
	free_strings(BLOCK_TOP, BLOCK_LISTEN - 1, config);
	for (size_t i = 0; i < config->n_listen; i++) {
		free_strings(BLOCK_LISTEN, BLOCK_LISTEN, &config->listen[i]);
		free_text(config->listen[i].address);
	}
	for (size_t i = 0; i < config->n_upstreams; i++) {
		free_strings(BLOCK_UPSTREAM, BLOCK_UPSTREAM, &config->upstreams[i]);
		free_text(config->upstreams[i].name);
	}
	for (size_t i = 0; i < config->n_clients; i++)
		free_text(config->clients[i].text);
	for (size_t i = 0; i < config->n_files; i++)
		free(config->files[i]);
	free(config->files);
	free(config->listen);
	free(config->upstreams);
	free(config->clients);
	free_text(config->path);
	free(config);
}

bool
config_may_submit(const struct config *config, const struct sockaddr *sa)
{
	for (size_t i = 0; i < config->n_clients; i++)
		if (netaddr_is_in(sa, &config->clients[i]))
			return true;
	return false;
}
