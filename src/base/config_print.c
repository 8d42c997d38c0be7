/* config_print.c - a configuration as text: what is in force, and the commented default file. */
#include <errno.h>
#include <stdlib.h>

#include "base/options.h"
#include "base/presets.h"
#include "base/span.h"

#define VALUE_MAX 4096

/* In double quotes, so that it reads back as it is: libconfuse knows \xNN, and would replace ${}. */
static void
print_quoted(FILE *out, const char *text)
{
	fputc('"', out);
	for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++) {
		if (*p == '"' || *p == '\\')
			fprintf(out, "\\%c", *p);
		else if (*p < 0x20 || *p == 0x7f || *p == '$')
			fprintf(out, "\\x%02x", *p);
		else
			fputc(*p, out);
	}
	fputc('"', out);
}

static bool
is_text(const struct option *option)
{
	return option->type != OPTION_COUNT && option->type != OPTION_BOOL &&
	       option->type != OPTION_WORD;
}

/* What could be a secret: arguments of a command; a user name where the provider's token is one. */
static void
mask(const struct option *option, const void *base, char *value)
{
	const struct config_upstream *up = base;
	const struct preset *preset;
	char *space = strchr(value, ' ');

	if (option->block != BLOCK_UPSTREAM)
		return;
	preset = up->preset != NULL ? presets_find(up->preset) : NULL;
	if (strcmp(option->name, "password-command") == 0 && space != NULL)
		strcpy(space, " ...");
	if (strcmp(option->name, "username") == 0 && preset != NULL &&
	    preset->username_rule == PRESET_USERNAME_PASSWORD)
		strcpy(value, "...");
}

static void
print_option(FILE *out, const struct option *option, const void *base, bool masked)
{
	char value[VALUE_MAX];

	if (!option_get(option, base, value, sizeof(value)) || (masked && option->meaning == NULL))
		return;
	if (masked)
		mask(option, base, value);
	fprintf(out, "%s%s = ", option->block == BLOCK_TOP ? "" : "\t", option->name);
	if (is_text(option))
		print_quoted(out, value);
	else
		fputs(value, out);
	fputc('\n', out);
}

static void
print_block(FILE *out, enum option_block kind, const char *title, const void *base, bool masked)
{
	if (kind != BLOCK_TOP) {
		fprintf(out, "%s ", options_block_name(kind));
		if (title != NULL)
			print_quoted(out, title);
		fputs(title != NULL ? " {\n" : "{\n", out);
	}
	for (const struct option *o = options; o->name != NULL; o++)
		if (o->block == kind)
			print_option(out, o, base, masked);
	if (kind != BLOCK_TOP)
		fputs("}\n", out);
}

int
config_print(const struct config *config, FILE *out, bool masked)
{
	print_block(out, BLOCK_TOP, NULL, config, masked);
	fputs("clients = {", out);
	for (size_t i = 0; i < config->n_clients; i++) {
		fputs(i > 0 ? ", " : "", out);
		print_quoted(out, config->clients[i].text);
	}
	fputs("}\n", out);
	for (unsigned kind = BLOCK_TOP + 1; kind < BLOCK_LISTEN; kind++)
		print_block(out, kind, NULL, config, masked);
	for (size_t i = 0; i < config->n_listen; i++)
		print_block(
		    out, BLOCK_LISTEN, config->listen[i].address, &config->listen[i], masked);
	for (size_t i = 0; i < config->n_upstreams; i++)
		print_block(
		    out, BLOCK_UPSTREAM, config->upstreams[i].name, &config->upstreams[i], masked);
	return fflush(out) == 0 && !ferror(out) ? 0 : -EIO;
}

/* ---- the template ---- */

static void
print_template_option(FILE *out, const struct option *option)
{
	const char *indent = option->block == BLOCK_TOP ? "" : "\t";
	const char *value = option->fallback != NULL ? option->fallback : option->example;

	if (option->meaning == NULL)
		return;
	fprintf(out, "%s# %s", indent, option->meaning);
	if (option->least != NULL && option->most != NULL)
		fprintf(out, " (%s to %s)", option->least, option->most);
	if (option->words != NULL && option->type != OPTION_BOOL) {
		fputs(" (", out);
		for (size_t i = 0; option->words[i] != NULL; i++)
			fprintf(out, "%s%s", i > 0 ? " | " : "", option->words[i]);
		fputc(')', out);
	}
	fprintf(out, "\n%s#%s = ", indent, option->name);
	if (is_text(option) && option->type != OPTION_NETWORKS)
		print_quoted(out, value);
	else
		fputs(value, out);
	fputc('\n', out);
}

static void
print_template_block(FILE *out, enum option_block kind)
{
	for (const struct option *o = options; o->name != NULL; o++)
		if (o->block == kind)
			print_template_option(out, o);
}

void
config_print_template(FILE *out)
{
	fputs("# relayd.conf - see relayd.conf(5). What is commented out shows the default.\n"
	      "# Check it with `relayd -n`, take it into force with `systemctl reload relayd`.\n"
	      "# Sizes: 512K 50M 2G. Durations: 500ms 30s 5m 4h 5d. Rates: 14/s 30/m 500/h.\n"
	      "# include(\"FILE\") reads another file; \"${NAME:-default}\" is an environment "
	      "variable.\n"
	      "# Made from the table in src/base/options.c: change it there.\n\n"
	      "# Where mail goes. This is all that most machines need:\n"
	      "#upstream \"gmail\" {\n"
	      "#\tpreset        = gmail\n"
	      "#\tusername      = \"me@gmail.com\"\n"
	      "#\tpassword-file = \"/etc/relayd/gmail.password\"\n"
	      "#}\n\n",
	    out);
	print_template_block(out, BLOCK_TOP);
	fputs("\n# Where relayd listens. Without a listen block: 127.0.0.1 and ::1, ports 25 and "
	      "587, and\n"
	      "# the socket that relayd-sendmail uses.\n"
	      "#listen \"127.0.0.1:25\" { }\n"
	      "#listen \"[::1]:587\" { }\n"
	      "#listen \"unix:/run/relayd/submit\" { }\n"
	      "#listen \"192.168.1.1:25\" {\n",
	    out);
	print_template_block(out, BLOCK_LISTEN);
	fputs("#}\n", out);
	for (unsigned kind = BLOCK_TOP + 1; kind < BLOCK_LISTEN; kind++) {
		fprintf(out, "\n%s {\n", options_block_name(kind));
		print_template_block(out, kind);
		fputs("}\n", out);
	}
	fputs("\n# All that can be said of an upstream:\n#upstream \"example\" {\n", out);
	print_template_block(out, BLOCK_UPSTREAM);
	fputs("#}\n", out);
}
