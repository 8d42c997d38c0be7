/* args.c - see args.h. The table of options says what becomes of each letter. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "sendmail/args.h"

struct parser {
	struct sendmail_args *out;
	char *why;
	bool is_queue_run;
};

enum option_kind {
	FLAG,     /* stands alone; others may follow in the same word */
	VALUE,    /* takes the rest of the word or the next word */
	ATTACHED, /* takes the rest of the word, which may be empty */
};

typedef int option_fn(struct parser *p, const char *value);

static int
complain(struct parser *p, const char *text, const char *value)
{
	snprintf(p->why, 256, "%s%s%.100s", text, value[0] != '\0' ? ": " : "", value);
	return -EINVAL;
}

static int
take_nothing(struct parser *p, const char *value)
{
	(void)p;
	(void)value;
	return 0;
}

static int
take_dots(struct parser *p, const char *value)
{
	(void)value;
	p->out->ignore_dots = true;
	return 0;
}

static int
take_from_header(struct parser *p, const char *value)
{
	(void)value;
	p->out->from_header = true;
	return 0;
}

static int
take_verbose(struct parser *p, const char *value)
{
	(void)value;
	p->out->verbose = true;
	return 0;
}

static int
take_newaliases(struct parser *p, const char *value)
{
	(void)value;
	p->out->mode = SENDMAIL_NEWALIASES;
	return 0;
}

static int
take_sender(struct parser *p, const char *value)
{
	p->out->sender = value;
	return 0;
}

static int
take_full_name(struct parser *p, const char *value)
{
	p->out->full_name = value;
	return 0;
}

static int
take_envid(struct parser *p, const char *value)
{
	p->out->envid = value;
	return value[0] != '\0' ? 0 : complain(p, "-V needs an envelope identifier", "");
}

static int
take_body(struct parser *p, const char *value)
{
	if (strcasecmp(value, "7BIT") != 0 && strcasecmp(value, "8BITMIME") != 0)
		return complain(p, "-B takes 7BIT or 8BITMIME, not", value);
	p->out->body = strcasecmp(value, "7BIT") == 0 ? "7BIT" : "8BITMIME";
	return 0;
}

static int
take_ret(struct parser *p, const char *value)
{
	if (strcasecmp(value, "full") != 0 && strcasecmp(value, "hdrs") != 0)
		return complain(p, "-R takes full or hdrs, not", value);
	p->out->ret = strcasecmp(value, "full") == 0 ? "FULL" : "HDRS";
	return 0;
}

/* "never", or a list of success, failure, delay. */
static int
take_notify(struct parser *p, const char *value)
{
	static const char *const words[] = { "success", "failure", "delay", "never" };
	const char *rest = value;
	bool never = false;
	unsigned n = 0;

	do {
		const size_t len = strcspn(rest, ",");
		size_t i = 0;

		while (i < ARRAY_LEN(words) &&
		       (strlen(words[i]) != len || strncasecmp(rest, words[i], len) != 0))
			i++;
		if (i == ARRAY_LEN(words))
			return complain(p, "-N takes never, success, failure, delay, not", value);
		never |= i == 3;
		n++;
		rest += len;
	} while (*rest++ == ',');
	if (never && n > 1)
		return complain(p, "-N never stands alone", value);
	p->out->notify = value;
	return 0;
}

static int
take_mode(struct parser *p, const char *value)
{
	static const struct {
		char letter;
		enum sendmail_mode mode;
	} modes[] = {
		{ 'm', SENDMAIL_SUBMIT },
		{ 's', SENDMAIL_SMTP },
		{ 'p', SENDMAIL_MAILQ },
		{ 'i', SENDMAIL_NEWALIASES },
	};

	for (size_t i = 0; i < ARRAY_LEN(modes); i++)
		if (value[0] == modes[i].letter && value[1] == '\0') {
			p->out->mode = modes[i].mode;
			return 0;
		}
	if (value[0] == 'd' || value[0] == 'D')
		return complain(p, "-bd is not for relayd: the daemon is relayd(8)", "");
	return complain(p, "this mode is not known to relayd: -b", value);
}

/* -oX: of the old options only 'i' matters here. */
static int
take_old_option(struct parser *p, const char *value)
{
	if (value[0] == 'i') {
		p->out->ignore_dots = true;
		return 0;
	}
	if (value[0] != '\0' && strchr("deghjlmnrstTvw78BceEfFiIJuU", value[0]) != NULL)
		return 0;
	return complain(p, "refused: it could change where mail or files go: -o", value);
}

static int
take_queue_run(struct parser *p, const char *value)
{
	(void)value;
	p->is_queue_run = true;
	return 0;
}

static int
refuse_config(struct parser *p, const char *value)
{
	return complain(p, "-C is refused: relayd reads its own configuration only", value);
}

static int
refuse_file(struct parser *p, const char *value)
{
	return complain(p, "refused: -X and -D would write a file", value);
}

static int
refuse_option(struct parser *p, const char *value)
{
	return complain(p, "-O is refused: see relayd.conf(5) for what can be set", value);
}

/* clang-format off */
static const struct option {
	char letter;
	enum option_kind kind;
	option_fn *take;
} options[] = {
	{ 'A', ATTACHED, take_nothing },     /* -Ac, -Am: which sendmail.cf */
	{ 'B', VALUE,    take_body },
	{ 'b', VALUE,    take_mode },
	{ 'C', VALUE,    refuse_config },
	{ 'D', VALUE,    refuse_file },
	{ 'd', ATTACHED, take_nothing },     /* debugging */
	{ 'e', ATTACHED, take_nothing },     /* how errors are told: always on stderr and by the exit code */
	{ 'F', VALUE,    take_full_name },
	{ 'f', VALUE,    take_sender },
	{ 'G', FLAG,     take_nothing },
	{ 'h', VALUE,    take_nothing },     /* hop count */
	{ 'I', FLAG,     take_newaliases },
	{ 'i', FLAG,     take_dots },
	{ 'L', VALUE,    take_nothing },     /* syslog tag */
	{ 'm', FLAG,     take_nothing },     /* me too */
	{ 'N', VALUE,    take_notify },
	{ 'n', FLAG,     take_nothing },     /* no aliases */
	{ 'O', VALUE,    refuse_option },
	{ 'o', VALUE,    take_old_option },
	{ 'p', VALUE,    take_nothing },     /* protocol */
	{ 'q', ATTACHED, take_queue_run },
	{ 'R', VALUE,    take_ret },
	{ 'r', VALUE,    take_sender },
	{ 's', FLAG,     take_nothing },
	{ 't', FLAG,     take_from_header },
	{ 'U', FLAG,     take_nothing },     /* first submission */
	{ 'V', VALUE,    take_envid },
	{ 'v', FLAG,     take_verbose },
	{ 'X', VALUE,    refuse_file },
	{ 'x', FLAG,     take_nothing },
};
/* clang-format on */

static const struct option *
find_option(char letter)
{
	for (size_t i = 0; i < ARRAY_LEN(options); i++)
		if (options[i].letter == letter)
			return &options[i];
	return NULL;
}

static int
take_long(struct parser *p, const char *word)
{
	static const char submit[] = "--submit=";

	if (strncmp(word, submit, sizeof(submit) - 1) == 0)
		p->out->submit = word + sizeof(submit) - 1;
	else if (strcmp(word, "--help") == 0)
		p->out->mode = SENDMAIL_HELP;
	else if (strcmp(word, "--version") == 0)
		p->out->mode = SENDMAIL_VERSION;
	else
		return complain(p, "unknown option", word);
	return 0;
}

/* One word of options; *i moves on when the next word is a value. */
static int
take_word(struct parser *p, int argc, char **argv, int *i)
{
	for (const char *at = argv[*i] + 1; *at != '\0'; at++) {
		const struct option *option = find_option(*at);
		int r;

		if (option == NULL)
			return complain(p, "unknown option", argv[*i]);
		if (option->kind == FLAG) {
			r = option->take(p, "");
			if (r != 0)
				return r;
			continue;
		}
		if (option->kind == ATTACHED || at[1] != '\0')
			return option->take(p, at + 1);
		if (*i + 1 == argc)
			return complain(p, "a value is missing after", argv[*i]);
		return option->take(p, argv[++*i]);
	}
	return 0;
}

static enum sendmail_mode
mode_of_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash != NULL ? slash + 1 : path;

	if (strcmp(name, "mailq") == 0)
		return SENDMAIL_MAILQ;
	return strcmp(name, "newaliases") == 0 ? SENDMAIL_NEWALIASES : SENDMAIL_SUBMIT;
}

int
args_parse(int argc, char **argv, struct sendmail_args *out, char why[256])
{
	struct sendmail_args args = { .mode = argc > 0 ? mode_of_name(argv[0]) : SENDMAIL_SUBMIT };
	struct parser p = { .out = &args, .why = why };
	int i = 1, r = 0;

	for (; i < argc && argv[i][0] == '-' && argv[i][1] != '\0' && r == 0; i++) {
		if (strcmp(argv[i], "--") == 0) {
			i++;
			break;
		}
		r = argv[i][1] == '-' ? take_long(&p, argv[i]) : take_word(&p, argc, argv, &i);
	}
	if (r != 0)
		return r;
	if (i < argc) {
		args.recipients = argv + i;
		args.n_recipients = (size_t)(argc - i);
	}
	if (p.is_queue_run && args.mode == SENDMAIL_SUBMIT && args.n_recipients == 0)
		args.mode = SENDMAIL_FLUSH;
	*out = args;
	return 0;
}
