/* What a configuration means, and what is said about a wrong one. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "base/config.h"
#include "base/netaddr.h"
#include "base/options.h"
#include "base/presets.h"
#include "base/span.h"

#define MINUTE 60000u
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
#define M (1024u * 1024)
#define UP "upstream \"a\" { host = \"smtp.example.com\" }\n"

/* ---- a directory of our own, and problems remembered ---- */

static char directory[64];
static char told[16384]; /* each problem and a newline */
static unsigned n_told;

static void
remember(void *arg, const char *text)
{
	size_t len = strlen(told);

	(void)arg;
	n_told++;
	snprintf(told + len, sizeof(told) - len, "%s\n", text);
}

static char doubted[4096]; /* each warning, what to do, and a newline */

static void
remember_doubt(void *arg, const char *why, const char *fix)
{
	size_t len = strlen(doubted);

	(void)arg;
	snprintf(doubted + len, sizeof(doubted) - len, "%s; %s\n", why, fix);
}

static const char *
path_of(const char *name)
{
	static char paths[4][256];
	static unsigned next;
	char *path = paths[next++ % ARRAY_LEN(paths)];

	snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
	return path;
}

static const char *
write_file(const char *name, const char *text, mode_t mode)
{
	const char *path = path_of(name);
	int fd;

	unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);
	assert_true(fd >= 0);
	assert_int_equal(fchmod(fd, mode), 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	return path;
}

static int
try_load(const char *text, struct config **config)
{
	told[0] = '\0';
	n_told = 0;
	return config_load(write_file("relayd.conf", text, 0644), remember, NULL, config);
}

static struct config *
load(const char *text)
{
	struct config *config = NULL;

	if (try_load(text, &config) != 0)
		fail_msg("refused: %s", told);
	assert_int_equal(n_told, 0);
	return config;
}

static char *
text_of(const struct config *config, bool masked)
{
	char *text;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	assert_int_equal(config_print(config, out, masked), 0);
	fclose(out);
	return text;
}

static int
make_directory(void **state)
{
	(void)state;
	snprintf(directory, sizeof(directory), "/tmp/test_config.XXXXXX");
	return mkdtemp(directory) == NULL;
}

static int
remove_directory(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", directory);
	return system(command);
}

/* ---- what is right ---- */

static void
the_smallest_config_works(void **state)
{
	struct config *c =
	    load("upstream \"gmail\" {\n    preset        = gmail\n    username      = "
	         "\"me@gmail.com\"\n    password-file = \"/etc/relayd/gmail.password\"\n}\n");
	const struct config_upstream *up = c->upstreams;

	(void)state;
	assert_int_equal(c->n_upstreams, 1);
	assert_string_equal(up->name, "gmail");
	assert_string_equal(up->host, "smtp.gmail.com");
	assert_int_equal(up->port, 587);
	assert_int_equal(up->tls, CONFIG_TLS_STARTTLS);
	assert_true(up->tls_verify);
	assert_int_equal(up->auth, CONFIG_AUTH_AUTO);
	assert_string_equal(up->username, "me@gmail.com");
	assert_string_equal(up->password_file, "/etc/relayd/gmail.password");
	assert_int_equal(up->daily, 500);
	assert_int_equal(up->line, 2);
	config_free(c);
}

static void
the_defaults_are_the_designs(void **state)
{
	struct config *c = load(UP);
	char text[NETADDR_TEXT_MAX];

	(void)state;
	assert_true(c->hostname[0] != '\0');
	assert_null(c->postmaster);
	assert_string_equal(c->user, "relayd");
	assert_int_equal(c->n_listen, 5);
	netaddr_print_port((struct sockaddr *)&c->listen[3].sa, text);
	assert_string_equal(text, "[::1]:587");
	assert_string_equal(c->listen[4].address, "unix:/run/relayd/submit");
	for (size_t i = 0; i < c->n_listen; i++) {
		assert_true(c->listen[i].optional);
		assert_int_equal(c->listen[i].line, 0);
		assert_int_equal(c->listen[i].auth, CONFIG_LISTEN_AUTH_NONE);
	}
	assert_int_equal(c->n_clients, 2);
	assert_string_equal(c->spool.directory, "/var/spool/relayd");
	assert_int_equal(c->spool.min_free_bytes, 96 * M);
	assert_int_equal(c->spool.max_message_bytes, 50 * M);
	assert_int_equal(c->spool.segment_bytes, 16 * M);
	assert_string_equal(c->control.socket, "/run/relayd/control");
	assert_int_equal(c->retry.first_ms, MINUTE);
	assert_int_equal(c->retry.max_ms, 4 * HOUR);
	assert_int_equal(c->retry.expire_ms, 5 * DAY);
	assert_int_equal(c->retry.warn_ms, 4 * HOUR);
	assert_int_equal(c->log.target, LOG_TO_AUTO);
	assert_int_equal(c->log.level, LOG_INFO);
	assert_int_equal(c->upstreams[0].connections, 4);
	assert_int_equal(c->upstreams[0].messages_per_connection, 100);
	assert_int_equal(c->upstreams[0].rate.count, 0);
	assert_int_equal(c->upstreams[0].daily, 0);
	assert_true(c->upstreams[0].pipelining && c->upstreams[0].chunking);
	config_free(c);
}

/* The settings as DESIGN spells them. */
static const char everything[] =
    "hostname   = \"web1.example.com\"\n"
    "postmaster = \"ops@example.com\"\n"
    "user       = \"\"                   # who the workers run as\n"
    "listen \"127.0.0.1:2525\" { auth = ignore }\n"
    "listen \"[::1]:5870\"    { }\n"
    "listen \"unix:/run/relayd/submit\" { }\n"
    "clients    = {\"127.0.0.0/8\", \"::1\", \"10.0.0.0/8\"}\n"
    "spool      { directory = \"/var/spool/relayd\"  min-free = \"64M\"  max-message = \"50M\" }\n"
    "control    { socket = \"/run/relayd/control\" }\n"
    "retry      { first = \"1m\"  max = \"4h\"  expire = \"5d\"  warn = \"0\" }\n"
    "log        { target = json  level = debug }\n"
    "upstream \"NAME\" {\n"
    "    host = \"smtp.example.com\"  port = 587\n"
    "    tls  = starttls                     # starttls | implicit | none\n"
    "    tls-ca = \"ca.pem\"  tls-verify = false\n"
    "    tls-fingerprint = "
    "\"sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"\n"
    "    tls-cert = \"/c\"  tls-key = \"/k\"\n"
    "    auth = scram-sha-256\n"
    "    username = \"a \\\"b\\\" \\\\ \\x24{HOME}\"  password-command = \"cat '/x y' --secret\"\n"
    "    connections = 4  messages-per-connection = 100\n"
    "    rate = \"14/s\"  daily = 2000\n"
    "}\n"
    "upstream second { host = 192.0.2.1 port = 2525 tls = none }\n";

static void
every_setting_of_the_design_is_taken(void **state)
{
	struct config *c = load(everything);
	const struct config_upstream *up = c->upstreams;

	(void)state;
	assert_string_equal(c->hostname, "web1.example.com");
	assert_string_equal(c->postmaster, "ops@example.com");
	assert_string_equal(c->user, "");
	assert_int_equal(c->n_listen, 3);
	assert_int_equal(c->listen[0].auth, CONFIG_LISTEN_AUTH_IGNORE);
	assert_int_equal(c->listen[1].line, 5);
	assert_false(c->listen[1].optional);
	assert_int_equal(c->n_clients, 3);
	assert_int_equal(c->retry.warn_ms, 0);
	assert_int_equal(c->log.target, LOG_TO_JSON);
	assert_int_equal(c->log.level, LOG_DEBUG);
	assert_int_equal(up->line, 13);
	assert_string_equal(up->tls_ca, path_of("ca.pem"));
	assert_false(up->tls_verify);
	assert_int_equal(up->auth, CONFIG_AUTH_SCRAM_SHA_256);
	assert_string_equal(up->username, "a \"b\" \\ ${HOME}");
	assert_int_equal(up->rate.count, 14);
	assert_int_equal(up->rate.per_ms, 1000);
	assert_int_equal(up->daily, 2000);
	assert_string_equal(c->upstreams[1].name, "second");
	assert_int_equal(c->upstreams[1].tls, CONFIG_TLS_NONE);
	config_free(c);
}

/* Loads the text as a worker would. */
static struct config *
load_canonical(const char *text)
{
	struct config *config = NULL;
	FILE *file = tmpfile();

	told[0] = '\0';
	fputs(text, file);
	fflush(file);
	if (config_load_fd(fileno(file), remember, NULL, &config) != 0)
		fail_msg("refused: %s in\n%s", told, text);
	fclose(file);
	return config;
}

static void
assert_round_trip(const char *text)
{
	struct config *c = load(text);
	char *first = text_of(c, false), *second;
	struct config *again = load_canonical(first);

	second = text_of(again, false);
	assert_string_equal(first, second);
	if (c->n_upstreams > 0) /* a worker names the line of the file, not that of its copy */
		assert_string_equal(c->upstreams[0].place, again->upstreams[0].place);
	assert_int_equal(c->n_upstreams > 0 && c->upstreams[0].username_is_password,
	    again->n_upstreams > 0 && again->upstreams[0].username_is_password);
	free(first);
	free(second);
	config_free(c);
	config_free(again);
}

static void
canonical_text_reads_back_to_the_same(void **state)
{
	static const char *const rows[] = {
		UP,
		everything,
		UP "retry { expire = 10s }\n",
		UP "retry { max = 10s }\n",
		UP "clients = {}\n",
		"upstream a { preset = google-relay auth = none }\n",
		"upstream a { preset = fastmail username = \"a@b\" password-file = x }\n",
		"upstream a { preset = postmark password-file = x }\n",
		"upstream a { preset = ses region = eu-west-1 username = AKIA password-file = x "
		"}\n",
		"upstream a { preset = sendgrid auth = none }\n",
		"upstream a { host = b port = 465 }\n",
		"upstream a { host = b tls = implicit }\n",
		"upstream \"a \\\"b\\\"\" { host = b }\n",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_round_trip(rows[i]);
}

static void
masked_text_hides_arguments_of_commands(void **state)
{
	struct config *c = load(everything);
	char *text = text_of(c, true);

	(void)state;
	assert_null(strstr(text, "--secret"));
	assert_non_null(strstr(text, "password-command = \"cat ...\""));
	free(text);
	config_free(c);
	c = load("upstream a { preset = postmark username = the-token password-file = x }\n"
	         "upstream b { preset = mailtrap password-file = x }\n");
	text = text_of(c, true);
	assert_null(strstr(text, "the-token"));
	assert_non_null(strstr(text, "username = \"api\""));
	free(text);
	config_free(c);
}

/* With less delivery could not write what became of the mail that has taken the room. */
static void
an_optional_listener_may_collide(void **state)
{
	(void)state;
	config_free(
	    load(UP "listen \"0.0.0.0:25\" { }\nlisten \"127.0.0.1:25\" { optional = true }\n"));
}

static void
min_free_is_six_segments_or_no_limit(void **state)
{
	static const struct {
		const char *spool;
		uint64_t min_free_bytes;
	} rows[] = {
		{ "", 96 * M },
		{ "segment = 64M", 384 * M },
		{ "segment = 1M", 96 * M },
		{ "min-free = 1M", 96 * M },
		{ "min-free = 1M segment = 1M", 6 * M },
		{ "min-free = 7M segment = 1M", 7 * M },
		{ "min-free = 0", 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char text[256];
		struct config *c;

		snprintf(text, sizeof(text), UP "spool { %s }\n", rows[i].spool);
		c = load(text);
		assert_int_equal(c->spool.min_free_bytes, rows[i].min_free_bytes);
		config_free(c);
	}
}

static void
port_and_tls_follow_each_other(void **state)
{
	static const struct {
		const char *settings;
		unsigned port;
		enum config_tls tls;
	} rows[] = {
		{ "", 587, CONFIG_TLS_STARTTLS },
		{ "port = 465", 465, CONFIG_TLS_IMPLICIT },
		{ "port = 2465", 2465, CONFIG_TLS_IMPLICIT },
		{ "port = 2525", 2525, CONFIG_TLS_STARTTLS },
		{ "tls = implicit", 465, CONFIG_TLS_IMPLICIT },
		{ "tls = implicit port = 4650", 4650, CONFIG_TLS_IMPLICIT },
		{ "tls = none port = 25", 25, CONFIG_TLS_NONE },
		{ "preset = gmail port = 465", 465, CONFIG_TLS_IMPLICIT },
		{ "preset = gmail tls = implicit", 465, CONFIG_TLS_IMPLICIT },
		{ "preset = fastmail", 465, CONFIG_TLS_IMPLICIT },
		{ "preset = fastmail port = 587", 587, CONFIG_TLS_STARTTLS },
		{ "preset = fastmail tls = starttls", 587, CONFIG_TLS_STARTTLS },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char text[256];
		struct config *c;

		snprintf(text, sizeof(text),
		    "upstream a { host = b %s username = \"a@b\" password-file = x }",
		    rows[i].settings);
		c = load(text);
		assert_int_equal(c->upstreams[0].port, rows[i].port);
		assert_int_equal(c->upstreams[0].tls, rows[i].tls);
		config_free(c);
	}
}

static void
each_preset_works_with_what_it_asks_for(void **state)
{
	static const char *const expected[] = { "gmail", "google-relay", "office365", "ses",
		"sendgrid", "mailgun", "postmark", "brevo", "sparkpost", "mailjet", "zoho",
		"fastmail", "yahoo", "icloud", "smtp2go", "mailtrap", "resend" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(expected); i++)
		assert_non_null(presets_find(expected[i]));
	for (const struct preset *p = presets; p->name != NULL; p++) {
		bool own_name = p->username_rule == PRESET_USERNAME_FIXED ||
		                p->username_rule == PRESET_USERNAME_PASSWORD;
		char text[256];
		struct config *c;

		snprintf(text, sizeof(text),
		    "upstream a { preset = %s %s %s password-file = \"/x\" }", p->name,
		    own_name ? "" : "username = \"a@example.com\"",
		    strcmp(p->name, "ses") == 0 ? "region = us-east-1" : "");
		c = load(text);
		assert_null(strchr(c->upstreams[0].host, '%'));
		assert_true(c->upstreams[0].tls != CONFIG_TLS_NONE);
		assert_true(
		    c->upstreams[0].username != NULL || c->upstreams[0].username_is_password);
		config_free(c);
	}
}

static void
what_the_file_says_wins_over_the_preset(void **state)
{
	struct config *c =
	    load("upstream a { preset = office365 host = \"127.0.0.1\" port = 2587 rate = 5/s "
	         "connections = 9 username = \"a@b\" password-file = x }\n"
	         "upstream b { preset = sparkpost username = \"SMTP_Injection:X=1\" "
	         "password-file = x region = eu }\n"
	         "upstream c { preset = ses region = eu-central-1 username = AKIA "
	         "password-file = x }");

	(void)state;
	assert_string_equal(c->upstreams[0].host, "127.0.0.1");
	assert_int_equal(c->upstreams[0].port, 2587);
	assert_int_equal(c->upstreams[0].rate.per_ms, 1000);
	assert_int_equal(c->upstreams[0].connections, 9);
	assert_int_equal(c->upstreams[0].daily, 10000);
	assert_string_equal(c->upstreams[1].username, "SMTP_Injection:X=1");
	assert_string_equal(c->upstreams[1].host, "smtp.eu.sparkpostmail.com");
	assert_string_equal(c->upstreams[2].host, "email-smtp.eu-central-1.amazonaws.com");
	config_free(c);
}

static void
variables_and_includes_are_read(void **state)
{
	struct config *c;

	(void)state;
	setenv("TEST_CONFIG_HOST", "from.environment", 1);
	unsetenv("TEST_CONFIG_NONE");
	mkdir(path_of("conf.d"), 0755);
	write_file("conf.d/1.conf",
	    "# one\nupstream one { host = \"${TEST_CONFIG_HOST}\" tls-ca = ca.pem }\n", 0644);
	write_file("conf.d/2.conf",
	    "upstream two { host = \"${TEST_CONFIG_NONE:-fall.back}\" include(\"inner\") }\n",
	    0644);
	write_file("conf.d/inner", "port = 2525", 0644);
	c = load("include(\"conf.d/*.conf\")\ninclude(\"conf.d/none*\")\npostmaster = "
	         "\"${TEST_CONFIG_NONE:-}\"");
	assert_null(c->postmaster);
	assert_int_equal(c->n_upstreams, 2);
	assert_string_equal(c->upstreams[0].host, "from.environment");
	assert_string_equal(c->upstreams[0].tls_ca, path_of("conf.d/ca.pem"));
	assert_string_equal(c->upstreams[1].host, "fall.back");
	assert_int_equal(c->upstreams[1].port, 2525);
	config_free(c);
}

static void
who_may_submit_is_what_clients_says(void **state)
{
	static const struct {
		const char *address;
		bool may;
	} rows[] = { { "127.5.0.1:1", true }, { "[::1]:1", true }, { "[::ffff:127.0.0.1]:1", true },
		{ "10.1.2.3:1", false }, { "[::2]:1", false } };
	struct config *c = load(UP), *none = load(UP "clients = {}");

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct sockaddr_storage sa;
		socklen_t len;

		assert_int_equal(netaddr_parse(rows[i].address, &sa, &len), 0);
		assert_int_equal(config_may_submit(c, (struct sockaddr *)&sa), rows[i].may);
		assert_false(config_may_submit(none, (struct sockaddr *)&sa));
	}
	config_free(c);
	config_free(none);
}

static void
a_host_is_a_name_or_an_address(void **state)
{
	static const char *const hosts[] = { "localhost", "smtp.example.com", "192.0.2.1", "::1",
		"2001:db8::25", "::ffff:192.0.2.1" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(hosts); i++) {
		char text[128];
		struct config *c;

		snprintf(
		    text, sizeof(text), "upstream a { host = \"%s\" port = 2525 }\n", hosts[i]);
		c = load(text);
		assert_string_equal(c->upstreams[0].host, hosts[i]);
		config_free(c);
	}
}

/* ---- what is wrong ---- */

static void
a_mistake_is_told_with_its_line_and_what_would_be_right(void **state)
{
	static const struct {
		const char *text;
		const char *told; /* behind the file's name */
	} rows[] = {
		{ UP "hostnam = a\n",
		    ":2: hostnam: there is no such setting: did you mean \"hostname\"?" },
		{ "# one\n\n/* two\n */ user = \"\" // three\n" UP "foo = 1\n",
		    ":6: foo: there is no such setting; relayd.conf(5) lists them" },
		{ UP "first = 1m\n",
		    ":2: first: there is no such setting: it belongs into retry { }" },
		{ UP "host = a\n", ":2: host: there is no such setting: it belongs into upstream" },
		{ "upstream a {\n host = b\n password = secret\n}\n",
		    ":3: upstream { password }: there is no such setting: the password does not "
		    "stand here: write it into a file of its own, and name that in password-file" },
		{ "upstream a {\n host = b\n user = c\n}\n",
		    ":3: upstream { user }: there is no such setting: it is username" },
		{ "upstream a {\n host = b\n from = \"a@b\"\n}\n", "relayd changes no sender" },
		{ UP "AuthPass = secret\n", "the password does not stand here" },
		{ UP "User = c\n", ":2: User: there is no such setting: did you mean \"user\"?" },
		{ UP "UseSTARTTLS = YES\n",
		    ":2: UseSTARTTLS: there is no such setting: it is tls = starttls" },
		{ UP "mailhub = \"a:587\"\n", ":2: mailhub: there is no such setting: it is host" },
		{ UP "upstrem \"b\" { host = b }\n", "did you mean the block \"upstream\"?" },
		{ UP "retry { fist = 1m }\n",
		    ":2: retry { fist }: there is no such setting: did you mean \"first\"?" },
		{ "upstream a {\n host = b\n password_file = c\n}\n",
		    ":3: upstream { password_file }: there is no such setting: did you mean "
		    "\"password-file\"?" },
		{ UP "spool {\n min-free = 64X\n}\n",
		    ":3: spool { min-free } = 64X: it should be a size" },
		{ UP "retry { first = 5 }\n",
		    ":2: retry { first } = 5: it should be a duration: 500ms" },
		{ UP "retry { first = 100d }\n", "it should be from 1s to 1d" },
		{ UP "log { level = verbose }\n", "it should be error, warning, info or debug" },
		{ UP "listen \"127.0.0.1:25\" { auth = maybe }\n", "it should be none or ignore" },
		{ UP "listen \"localhost:25\" { }\n",
		    ":2: listen \"localhost:25\": it should be an address" },
		{ UP "listen \"[::1]:25\" { }\nlisten \"[0::1]:25\" { }\n",
		    ":3: listen \"[0::1]:25\": listen \"[::1]:25\" has this address already" },
		{ UP "listen \"0.0.0.0:25\" { }\nlisten \"127.0.0.1:25\" { }\n",
		    ":3: listen \"127.0.0.1:25\": listen \"0.0.0.0:25\" has this address already" },
		{ UP "listen \"[fd00::1]:25\" { }\nlisten \"[::]:25\" { }\n",
		    ":3: listen \"[::]:25\": listen \"[fd00::1]:25\" has this address already" },
		{ "upstream a {\n host = localhost\n port = 2525\n}\nlisten \"[::1]:2525\" { }\n",
		    ":2: upstream \"a\": host = localhost, port = 2525: that is relayd itself "
		    "(listen "
		    "\"[::1]:2525\")" },
		{ "listen \"0.0.0.0:2525\" { }\nupstream a { host = 127.0.0.1 port = 2525 }\n",
		    ":2: upstream \"a\": host = 127.0.0.1, port = 2525: that is relayd itself" },
		{ "listen \"192.0.2.1:2525\" { }\nupstream a { host = 192.0.2.1 port = 2525 }\n",
		    "that is relayd itself (listen \"192.0.2.1:2525\")" },
		{ UP "listen = \"127.0.0.1:25\"\n",
		    ":2: missing title for section 'listen': write listen" },
		{ UP "clients = {\"10.0.0.1/8\"}\n", ":2: clients: 10.0.0.1/8 should be" },
		{ UP "hostname = \"a b\"\n", ":2: hostname = a b: it should be a name" },
		{ UP "postmaster = ops\n", ":2: postmaster = ops: it should be one address" },
		{ UP "user = \"a\\nb\"\n", ":2: user: control characters have no place here" },
		{ UP "user = a\nuser = b\n", ":3: user is set twice" },
		{ UP "user = \"${TEST_CONFIG_NONE}\"\n",
		    ":2: ${TEST_CONFIG_NONE}: there is no such environment variable" },
		{ UP "user = \"a\n", "premature end of file: a } or a closing quote is missing" },
		{ UP "spool {\n", ":2: the { of this line has no }" },
		{ UP "}\n", ":2: unexpected closing brace" },
		{ UP "user \"a\"\n",
		    ":2: missing equal sign after option 'user': write NAME = VALUE" },
		{ UP UP, ":2: found duplicate title 'a'" },
		{ UP "include(\"missing.conf\")\n", ":2: include: cannot read " },
		{ "include(\"relayd.conf\")\n", "include each other too deep" },
		{ "", ": upstream: there is none; say where mail goes" },
		{ "upstream a { }\n", ":1: upstream \"a\": host is missing" },
		{ "upstream a { host = \"smtp.example.com:587\" tls-verify = maybe }\n",
		    "tls-verify = maybe: it should be false or true" },
		{ "upstream a {\n host = \"localhost:2525\" }\n",
		    ":2: upstream \"a\": host = localhost:2525: the port is a setting of its own: "
		    "host = \"localhost\" and port = 2525" },
		{ "upstream a { host = \"[::1]:2525\" }\n",
		    "it should be the name or address alone" },
		{ "upstream a { host = \"smtp.example.com:smtp\" }\n",
		    "it should be the name or address alone" },
		{ "upstream a { host = \"2001:db8:::1\" }\n",
		    "it should be the name or address alone" },
		{ "upstream a { host = \"https//x\" }\n",
		    "it should be the name or address alone" },
		{ "upstream a {\n host = b\n port = 465\n tls = starttls\n}\n",
		    ":3: upstream \"a\": port = 465 with tls = starttls: a provider's 465 wants "
		    "tls = "
		    "implicit" },
		{ "upstream a { host = b port = 587 tls = implicit }\n",
		    "587 wants tls = starttls" },
		{ "upstream a { host = b port = 70000 }\n",
		    "port = 70000: it should be from 1 to 65535" },
		{ "upstream a { preset = gmail tls = none username = \"a@b\" password-file = c }\n",
		    "tls = none with preset = gmail" },
		{ "upstream a { preset = gmial }\n",
		    "preset = gmial: it should be one of gmail, google-" },
		{ "upstream a { preset = gmail }\n",
		    "username is missing: for preset = gmail it is your whole Gmail address" },
		{ "upstream a { preset = gmail username = me password-file = c }\n",
		    "username = me: for preset = gmail it is your whole Gmail address" },
		{ "upstream a { preset = gmail username = \"a@b\" }\n", "the password is missing" },
		{ "upstream a { preset = ses username = b password-file = c }\n",
		    "preset = ses wants the region that the account sends from, such as region = "
		    "\"eu-west-1\", or host" },
		{ "upstream a { preset = mailgun region = ap username = \"b@c\" password-file = c "
		  "}\n",
		    "preset = mailgun wants one of us, eu" },
		{ "upstream a { preset = gmail region = eu username = \"b@c\" password-file = c "
		  "}\n",
		    "gmail has no regions" },
		{ "upstream a { host = b username = c }\n", "username without a password" },
		{ "upstream a { host = b password-file = c }\n",
		    "there is a password, but no username" },
		{ "upstream a { host = b username = c password-file = d password-command = e }\n",
		    "one of them is enough" },
		{ "upstream a { host = b auth = none username = c password-file = d }\n",
		    "auth = none with a user name or password" },
		{ "upstream a { host = b auth = external }\n", "they are missing" },
		{ "upstream a { host = b auth = xoauth2 password-file = c }\n",
		    "auth = xoauth2 wants a username" },
		{ "upstream a { host = b tls-cert = c }\n", "tls-key is missing" },
		{ "upstream a { host = b tls-fingerprint = \"sha256:12\" }\n",
		    "64 hexadecimal digits" },
		{ "upstream a { host = b username = c password-credential = \"d/e\" }\n",
		    "the name from LoadCredential=, not a path" },
		{ "upstream a { host = b rate = 14 }\n", "rate = 14: it should be a rate: 14/s" },
		{ UP "retry { first = 2h max = 1h }\n", "first } is longer than max" },
		{ UP "retry { expire = 1h warn = 2h }\n", "warn } is longer than expire" },
	};

	(void)state;
	unsetenv("TEST_CONFIG_NONE");
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct config *config = NULL;

		assert_int_equal(try_load(rows[i].text, &config), -EINVAL);
		assert_null(config);
		if (strstr(told, rows[i].told) == NULL)
			fail_msg(
			    "%s\nwas told as\n%swithout\n%s", rows[i].text, told, rows[i].told);
		assert_int_equal(strncmp(told, directory, strlen(directory)), 0);
	}
}

static void
several_mistakes_are_told_in_one_go_and_each_once(void **state)
{
	static const char text[] =
	    "hostnam = a\nspool { min-free = x }\nfoo { }\nlog { level = y }\n"
	    "retry { foo = 1 foo = 2 }\nuser = a user = b\n" UP;
	struct config *config;

	(void)state;
	assert_int_equal(try_load(text, &config), -EINVAL);
	assert_non_null(strstr(told, ":1: hostnam"));
	assert_non_null(strstr(told, ":3: foo"));
	assert_int_equal(n_told, 2); /* behind an unknown block nothing is sure */
	assert_int_equal(
	    try_load(
	        "hostnam = a\nspool { min-free = x }\nuser = a user = b\nfoo = 1\n" UP, &config),
	    -EINVAL);
	assert_int_equal(n_told, 4);
}

static void
a_file_that_cannot_be_read_is_told(void **state)
{
	struct config *config = NULL;
	int fd;

	(void)state;
	told[0] = '\0';
	assert_int_equal(config_load("/nonexistent.conf", remember, NULL, &config), -ENOENT);
	assert_string_equal(
	    told, "/nonexistent.conf: cannot be opened: No such file or directory\n");
	assert_int_equal(config_load("/tmp", NULL, NULL, &config), -EISDIR);
	fd = open(write_file("zero", UP, 0600), O_WRONLY | O_APPEND);
	assert_int_equal(write(fd, "\0", 1), 1);
	close(fd);
	assert_int_equal(config_load(path_of("zero"), remember, NULL, &config), -EINVAL);
	assert_non_null(strstr(told, "zero: there is a zero byte in it"));
	assert_null(config);
}

/* Mutations of a good text: whatever happens, it is told or it loads. */
static void
no_text_ends_the_program(void **state)
{
	char text[sizeof(everything)];
	uint32_t random = 1;

	(void)state;
	for (unsigned round = 0; round < 400; round++) {
		struct config *config = NULL;

		memcpy(text, everything, sizeof(text));
		for (unsigned i = 0; i <= round % 8; i++) {
			random = random * 1664525 + 1013904223;
			text[(random >> 8) % (sizeof(text) - 1)] =
			    "{}\"'#=\\$/*(),\n x\xff\x01"[random >> 28];
		}
		if (try_load(text, &config) == 0)
			config_free(config);
		else
			assert_true(n_told > 0);
	}
}

/* ---- what is hardly meant ---- */

static void
an_open_relay_is_doubted(void **state)
{
	static const struct {
		const char *clients, *listen;
		bool is_open;
	} rows[] = {
		{ "\"0.0.0.0/0\"", "0.0.0.0:25", true },
		{ "\"10.0.0.0/8\", \"0.0.0.0/0\"", "192.0.2.1:25", true },
		{ "\"::/0\"", "[::]:25", true },
		{ "\"::/0\"", "[2001:db8::1]:25", true },
		{ "\"0.0.0.0/0\"", "127.0.0.1:25", false },
		{ "\"0.0.0.0/0\"", "127.1.2.3:25", false },
		{ "\"::/0\"", "[::1]:25", false },
		{ "\"::/0\"", "0.0.0.0:25", false },  /* no IPv4 address is in it */
		{ "\"0.0.0.0/0\"", "[::]:25", true }, /* where systemd opened it for both */
		{ "\"0.0.0.0/0\"", "unix:/run/x", false },
		{ "\"10.0.0.0/8\"", "0.0.0.0:25", false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct config *config;
		char text[256];

		snprintf(text, sizeof(text), UP "clients = {%s}\nlisten \"%s\" { }\n",
		    rows[i].clients, rows[i].listen);
		config = load(text);
		doubted[0] = '\0';
		config_doubts(config, remember_doubt, NULL);
		config_free(config);
		if (rows[i].is_open)
			assert_non_null(strstr(doubted, "an open relay"));
		else
			assert_string_equal(doubted, "");
	}
}

/* ---- the machine ---- */

static void
check(const char *text)
{
	struct config *config = load(text);
	unsigned n;

	doubted[0] = '\0';
	n = config_check_system(config, remember, remember_doubt, NULL);
	assert_int_equal(n, n_told);
	config_free(config);
}

static void
a_secret_is_for_the_service_alone(void **state)
{
	static const struct {
		mode_t mode;
		const char *content, *told;
	} rows[] = {
		{ 0600, "secret\n", NULL },
		{ 0400, "secret\n", NULL },
		{ 0640, "secret\n", NULL },
		{ 0644, "secret\n", "everybody may read or change it: chmod o= " },
		{ 0602, "secret\n", "everybody may read or change it: chmod o= " },
		{ 0600, "", "the file is empty" },
	};
	char text[1024];

	(void)state;
	snprintf(text, sizeof(text),
	    "user = \"\"\nspool { directory = spool }\ncontrol { socket = control }\n"
	    "listen \"unix:submit\" { }\n"
	    "upstream a { host = b\n tls = none username = c password-file = secret }\n");
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		write_file("secret", rows[i].content, rows[i].mode);
		check(text);
		if (rows[i].told == NULL)
			assert_string_equal(told, "");
		else
			assert_non_null(strstr(told, rows[i].told));
	}
	unlink(path_of("secret"));
	check(text);
	assert_non_null(strstr(told, "relayd.conf:5: password-file = "));
	assert_non_null(strstr(told, "there is no such file"));
}

static void
files_that_are_not_what_they_should_be_are_told(void **state)
{
	(void)state;
	write_file("ca.pem", "not a certificate\n", 0644);
	write_file("key.pem", "-----BEGIN PRIVATE KEY-----\n", 0644);
	write_file("spool", "", 0600);
	check("user = \"\"\nspool { directory = spool }\ncontrol { socket = control }\n"
	      "listen \"203.0.113.77:25\" { }\n"
	      "upstream a { host = b tls-ca = ca.pem tls-cert = ca.pem tls-key = key.pem "
	      "username = c password-command = \"/nonexistent/command x\" }\n");
	assert_non_null(strstr(told, "spool { directory } = "));
	assert_non_null(strstr(told, "it should be a directory"));
	assert_non_null(strstr(told, "there is no PEM certificate in it"));
	assert_non_null(strstr(told, "tls-key = "));
	assert_non_null(strstr(told, "everybody may read or change it"));
	assert_non_null(strstr(told, "password-command: /nonexistent/command: No such file"));
	assert_non_null(
	    strstr(told, ":4: listen \"203.0.113.77:25\": this machine has no such address"));
	unlink(path_of("spool"));
}

static void
a_configuration_is_not_for_everybody_to_change(void **state)
{
	struct config *config =
	    load("user = \"\"\nspool { directory = spool }\ncontrol { socket = c }\n"
	         "listen \"unix:submit\" { }\nupstream a { host = b tls = none }\n");

	(void)state;
	chmod(path_of("relayd.conf"), 0646);
	assert_int_equal(config_check_system(config, remember, remember_doubt, NULL), 1);
	assert_non_null(strstr(told, "everybody may change this file: chmod o-w "));
	config_free(config);
}

static void
a_spool_is_the_services_own(void **state)
{
	static const char text[] =
	    "user = \"\"\nspool { directory = spool }\ncontrol { socket = c }\n"
	    "listen \"unix:submit\" { }\nupstream a { host = b tls = none }\n";

	(void)state;
	mkdir(path_of("spool"), 0755);
	chmod(path_of("spool"), 0755);
	check(text);
	assert_non_null(strstr(told, "others may look into it: chmod 700"));
	chmod(path_of("spool"), 0700);
	check(text);
	assert_string_equal(told, "");
	rmdir(path_of("spool"));
}

static void
a_file_system_without_room_is_doubted(void **state)
{
	struct config *config =
	    load("user = \"\"\nspool { directory = \"not/there/yet\" }\ncontrol { socket = c }\n"
	         "listen \"unix:submit\" { }\nupstream a { host = b tls = none }\n");

	(void)state;
	doubted[0] = '\0';
	config->spool.min_free_bytes = 0;
	assert_int_equal(config_check_system(config, remember, remember_doubt, NULL), 0);
	assert_string_equal(doubted, "");
	config->spool.min_free_bytes = UINT64_MAX;
	assert_int_equal(config_check_system(config, remember, remember_doubt, NULL), 0);
	assert_non_null(strstr(doubted, "M: new mail is answered with 452; make room, or lower"));
	config_free(config);
}

static void
the_service_is_seen_from_outside_by_root(void **state)
{
	const struct passwd *pw = getpwnam("nobody");

	(void)state;
	if (geteuid() != 0 || pw == NULL)
		skip();
	chmod(directory, 0755);
	write_file("secret", "s", 0600);
	check("user = nobody\nspool { directory = spool }\ncontrol { socket = c }\n"
	      "listen \"unix:submit\" { }\n"
	      "upstream a { host = b tls = none username = c password-file = secret }\n");
	assert_non_null(strstr(told, "user nobody may not read it: chgrp "));
	check("user = \"no-such-user\"\nspool { directory = spool }\ncontrol { socket = c }\n"
	      "listen \"unix:submit\" { }\nupstream a { host = b tls = none }\n");
	assert_non_null(strstr(told, "user = no-such-user: there is no such user"));
	chmod(directory, 0700);
}

static void
the_service_can_read_its_configuration(void **state)
{
	static const struct {
		mode_t file, included, directory;
		const char *told;
	} rows[] = {
		{ 0644, 0644, 0755, "" },
		{ 0600, 0644, 0755, "/relayd.conf: user nobody may not read it: chgrp " },
		{ 0644, 0600, 0755, "/more.conf\"): user nobody may not read it: chgrp " },
		{ 0644, 0646, 0755, "/more.conf\"): everybody may change this file: chmod o-w " },
		{ 0644, 0644, 0700, "/relayd.conf: user nobody may not enter " },
	};
	struct config *config;

	(void)state;
	if (geteuid() != 0 || getpwnam("nobody") == NULL)
		skip();
	write_file("more.conf", "upstream a { host = b tls = none }\n", 0644);
	config = load("user = nobody\nspool { directory = spool }\ncontrol { socket = c }\n"
	              "listen \"unix:submit\" { }\ninclude(\"more.conf\")\n");
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		told[0] = '\0';
		chmod(path_of("relayd.conf"), rows[i].file);
		chmod(path_of("more.conf"), rows[i].included);
		chmod(directory, rows[i].directory);
		(void)config_check_system(config, remember, remember_doubt, NULL);
		assert_non_null(strstr(told, rows[i].told));
		assert_true(rows[i].told[0] != '\0' || told[0] == '\0');
	}
	chmod(directory, 0700);
	unlink(path_of("more.conf"));
	config_free(config);
}

static void
somebody_else_looks_as_the_service_and_says_what_is_hidden(void **state)
{
	static const char text[] =
	    "user = nobody\nspool { directory = spool }\ncontrol { socket = c }\n"
	    "listen \"unix:submit\" { }\n"
	    "upstream a { host = b tls = none username = c password-file = \"closed/secret\" }\n"
	    "upstream d { host = b tls = none username = c password-file = \"open\" }\n";
	const struct passwd *pw = getpwnam("nobody");
	struct config *config;

	(void)state;
	if (geteuid() != 0 || pw == NULL)
		skip();
	chmod(directory, 0755);
	mkdir(path_of("spool"), 0700);
	mkdir(path_of("closed"), 0700);
	write_file("closed/secret", "s", 0600);
	write_file("open", "s", 0600);
	assert_int_equal(chown(path_of("spool"), pw->pw_uid, pw->pw_gid), 0);
	assert_int_equal(chown(path_of("closed"), pw->pw_uid, pw->pw_gid), 0);
	config = load(text);
	doubted[0] = '\0';
	assert_int_equal(seteuid(12345), 0);
	assert_int_equal(config_check_system(config, remember, remember_doubt, NULL), 1);
	assert_int_equal(seteuid(0), 0);
	assert_non_null(strstr(told, "/open: user nobody may not read it"));
	assert_non_null(
	    strstr(doubted, "/closed/secret: it cannot be looked at; run this as root\n"));
	assert_null(strstr(told, "closed"));
	assert_non_null(strstr(doubted, "all this was looked at as that user, not as you; "
	                                "set user = \"\" if it is you who starts relayd\n"));
	config_free(config);
	unlink(path_of("closed/secret"));
	unlink(path_of("open"));
	rmdir(path_of("closed"));
	rmdir(path_of("spool"));
	chmod(directory, 0700);
}

static void
nothing_is_given_to_root_while_the_user_is_missing(void **state)
{
	(void)state;
	mkdir(path_of("spool"), 0700);
	write_file("secret", "s", 0600);
	if (geteuid() == 0) {
		assert_int_equal(chown(path_of("spool"), 12345, 12345), 0);
		assert_int_equal(chown(path_of("secret"), 12345, 12345), 0);
	}
	check("user = no-such-user\nspool { directory = spool }\ncontrol { socket = c }\n"
	      "listen \"unix:submit\" { }\n"
	      "upstream a { host = b tls = none username = c password-file = secret }\n");
	assert_non_null(strstr(told, "user = no-such-user: there is no such user"));
	assert_null(strstr(told, "root"));
	assert_null(strstr(told, "chown"));
	assert_int_equal(n_told, 1);
	if (geteuid() == 0) {
		check("user = \"\"\nspool { directory = other }\ncontrol { socket = c }\n"
		      "listen \"unix:submit\" { }\n"
		      "upstream a { host = b tls = none username = c password-file = secret }\n");
		assert_non_null(strstr(told, "it should be root: chown root "));
	}
	unlink(path_of("secret"));
	rmdir(path_of("spool"));
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_smallest_config_works),
		cmocka_unit_test(the_defaults_are_the_designs),
		cmocka_unit_test(every_setting_of_the_design_is_taken),
		cmocka_unit_test(canonical_text_reads_back_to_the_same),
		cmocka_unit_test(masked_text_hides_arguments_of_commands),
		cmocka_unit_test(an_optional_listener_may_collide),
		cmocka_unit_test(min_free_is_six_segments_or_no_limit),
		cmocka_unit_test(port_and_tls_follow_each_other),
		cmocka_unit_test(each_preset_works_with_what_it_asks_for),
		cmocka_unit_test(what_the_file_says_wins_over_the_preset),
		cmocka_unit_test(variables_and_includes_are_read),
		cmocka_unit_test(who_may_submit_is_what_clients_says),
		cmocka_unit_test(a_host_is_a_name_or_an_address),
		cmocka_unit_test(a_mistake_is_told_with_its_line_and_what_would_be_right),
		cmocka_unit_test(several_mistakes_are_told_in_one_go_and_each_once),
		cmocka_unit_test(a_file_that_cannot_be_read_is_told),
		cmocka_unit_test(no_text_ends_the_program),
		cmocka_unit_test(an_open_relay_is_doubted),
		cmocka_unit_test(a_secret_is_for_the_service_alone),
		cmocka_unit_test(files_that_are_not_what_they_should_be_are_told),
		cmocka_unit_test(a_configuration_is_not_for_everybody_to_change),
		cmocka_unit_test(a_spool_is_the_services_own),
		cmocka_unit_test(a_file_system_without_room_is_doubted),
		cmocka_unit_test(the_service_is_seen_from_outside_by_root),
		cmocka_unit_test(the_service_can_read_its_configuration),
		cmocka_unit_test(somebody_else_looks_as_the_service_and_says_what_is_hidden),
		cmocka_unit_test(nothing_is_given_to_root_while_the_user_is_missing),
	};

	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
