/* catalog - prints what the tables of base/ say, for the lint tests and to make the files that stand
 * in the tree. catalog settings | presets | events | template | journal */
#include <stdio.h>
#include <string.h>

#include "base/config.h"
#include "base/events.h"
#include "base/options.h"
#include "base/presets.h"

static void
print_settings(FILE *out)
{
	for (const struct option *o = options; o->name != NULL; o++) {
		if (o->meaning == NULL)
			continue;
		fprintf(out, "%s %s %s\n",
		    o->block == BLOCK_TOP ? "-" : options_block_name(o->block), o->name,
		    o->fallback != NULL ? o->fallback : "-");
	}
}

static void
print_presets(FILE *out)
{
	for (const struct preset *p = presets; p->name != NULL; p++)
		fprintf(out, "%s %s\n", p->name, p->host);
}

static void
print_events(FILE *out)
{
	for (const struct event *e = events; e->name != NULL; e++)
		fprintf(out, "%s %s\n", e->name,
		    e->level == LOG_ERROR     ? "error"
		    : e->level == LOG_WARNING ? "warning"
		    : e->level == LOG_INFO    ? "info"
		                              : "debug");
}

int
main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*print)(FILE *);
	} parts[] = { { "settings", print_settings }, { "presets", print_presets },
		{ "events", print_events }, { "template", config_print_template },
		{ "journal", events_print_catalog } };

	for (size_t i = 0; i < ARRAY_LEN(parts) && argc == 2; i++)
		if (strcmp(argv[1], parts[i].name) == 0) {
			parts[i].print(stdout);
			return fflush(stdout) == 0 ? 0 : 1;
		}
	fputs("usage: catalog settings | presets | events | template | journal\n", stderr);
	return 2;
}
