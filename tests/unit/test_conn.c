/* test_conn.c - a connection against a server with faults (fake_upstream.py): what is delivered, what
 * each recipient is told, how the connection ends, and that nothing leaves in clear. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <event2/event.h>

#include "base/base.h"
#include "delivery/conn.h"
#include "delivery/resolver.h"
#include "delivery/tls.h"

#define JOBS_MAX 16
#define RECIPIENTS_MAX 8

struct message {
	struct delivery_job job;
	struct smtp_envelope_recipient recipients[RECIPIENTS_MAX];
	const char *body;
	enum verdict verdicts[RECIPIENTS_MAX];
	struct upstream_reply replies[RECIPIENTS_MAX];
	unsigned n_verdicts;
	bool finished, sent, fails;
};

static char certs[] = "/tmp/relayd-certs-XXXXXX";

static struct { /* fake_upstream.py */
	pid_t pid;
	FILE *to, *from;
} servers;

struct world {
	char dir[64];
	const char *cert; /* the kind that the server shows */
	struct event_base *base;
	struct resolver *resolver;
	struct tls_client *tls;
	struct config_upstream upstream;
	const char *secret;
	struct message messages[JOBS_MAX];
	size_t n_messages;
	struct conn_end end;
	unsigned ends;
	char trace[65536];
	size_t trace_len;
	char tls_name[128], mechanism[64];
	bool stay;                           /* do not quit when all is done */
	void (*at_ready)(struct conn *conn); /* instead of quitting */
	void (*at_open)(struct conn *conn);
	struct conn *conn;
};

/* ---- the server ---- */

static int
open_servers(void **state)
{
	int in[2], out[2];

	(void)state;
	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	servers.pid = fork();
	if (servers.pid == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		close(in[0]), close(in[1]), close(out[0]), close(out[1]);
		execlp("python3", "python3", FAKE_UPSTREAM, certs, NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	servers.to = fdopen(in[1], "w");
	servers.from = fdopen(out[0], "r");
	return 0;
}

static int
close_servers(void **state)
{
	(void)state;
	fclose(servers.to);
	fclose(servers.from);
	waitpid(servers.pid, NULL, 0);
	return 0;
}

/* Ends the one before, and gives the port of the next. */
static unsigned
ask_servers(const char *dir, const char *const *args)
{
	unsigned port;

	fprintf(servers.to, "%s", dir);
	for (; *args != NULL; args++)
		fprintf(servers.to, " %s", *args);
	fprintf(servers.to, "\n");
	fflush(servers.to);
	if (fscanf(servers.from, "%u", &port) != 1)
		fail_msg("the fake upstream does not start");
	return port;
}

static void
start_server(struct world *w, const char *const *args)
{
	w->cert = "good";
	for (size_t i = 0; args[i] != NULL; i++)
		if (strncmp(args[i], "cert=", 5) == 0)
			w->cert = args[i] + 5;
	w->upstream.port = ask_servers(w->dir, args);
}

static void
end_server(void)
{
	(void)ask_servers("", (const char *const[]){ NULL });
}

static void
world_begin(struct world *w, const char *const *args)
{
	*w = (struct world){ .upstream = { .name = "test",
		                 .host = "localhost",
		                 .tls = CONFIG_TLS_STARTTLS,
		                 .tls_verify = true,
		                 .auth = CONFIG_AUTH_AUTO,
		                 .username = "ann",
		                 .connections = 4,
		                 .messages_per_connection = 100,
		                 .recipients_per_message = 100,
		                 .idle_ms = 60000,
		                 .connect_timeout_ms = 3000,
		                 .command_timeout_ms = 3000,
		                 .data_timeout_ms = 3000,
		                 .pipelining = true,
		                 .chunking = true },
		.secret = "s3cret" };
	strcpy(w->dir, "/tmp/relayd-test-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	start_server(w, args);
	w->base = event_base_new();
	w->resolver = resolver_open(w->base);
	w->upstream.tls_ca = xasprintf("%s/%s/ca.pem", certs, w->cert);
}

static void
world_end(struct world *w)
{
	char *command = xasprintf("rm -rf %s", w->dir);

	end_server();
	tls_client_close(w->tls);
	resolver_close(w->resolver);
	event_base_loop(w->base, EVLOOP_NONBLOCK);
	event_base_free(w->base);
	free((char *)(uintptr_t)w->upstream.tls_ca);
	assert_int_equal(system(command), 0);
	free(command);
}

/* ---- messages ---- */

static int
read_message(struct delivery_job *job, uint64_t offset, void *buf, size_t len)
{
	struct message *m = job->arg;
	size_t left = (size_t)(job->envelope.bytes - offset);

	if (m->fails && offset > 0)
		return -EIO;
	if (left > len)
		left = len;
	if (left > 7000)
		left = 7000; /* callers must cope with short reads */
	memcpy(buf, m->body + offset, left);
	return (int)left;
}

static struct message *
add_message(struct world *w, const char *sender, const char *body, const char *recipients)
{
	struct message *m = &w->messages[w->n_messages++];
	struct smtp_envelope *e = &m->job.envelope;

	m->body = body;
	m->job = (struct delivery_job){ .read = read_message, .arg = m };
	e->sender = span_of(sender);
	e->bytes = strlen(body);
	e->recipients = m->recipients;
	while (*recipients != '\0') {
		size_t n = strcspn(recipients, " ");

		m->recipients[e->n_recipients++].address = (struct span){ recipients, n };
		recipients += n + (recipients[n] == ' ');
	}
	return m;
}

/* ---- events ---- */

static void
on_ready(void *ctx, struct conn *conn)
{
	struct world *w = ctx;
	size_t i, unfinished = 0;

	snprintf(w->tls_name, sizeof(w->tls_name), "%s", conn_tls(conn));
	snprintf(w->mechanism, sizeof(w->mechanism), "%s", conn_auth(conn));
	for (i = 0; i < w->n_messages; i++)
		unfinished += !w->messages[i].finished;
	for (i = 0; i < w->n_messages && w->messages[i].sent; i++)
		;
	if (i < w->n_messages && conn_room(conn) > 0) {
		w->messages[i].sent = true;
		assert_int_equal(conn_send(conn, &w->messages[i].job), 0);
	} else if (w->at_ready != NULL) {
		w->at_ready(conn);
	} else if (unfinished == 0 && !w->stay) {
		conn_quit(conn);
	}
}

static void
on_recipient(void *ctx, struct conn *conn, struct delivery_job *job, size_t i,
    const struct upstream_reply *reply, enum verdict verdict)
{
	struct message *m = job->arg;

	(void)ctx, (void)conn;
	assert_false(m->finished);
	m->verdicts[i] = verdict;
	m->replies[i] = *reply;
	m->n_verdicts++;
}

static void
on_finished(void *ctx, struct conn *conn, struct delivery_job *job)
{
	struct message *m = job->arg;

	(void)ctx, (void)conn;
	assert_false(m->finished);
	assert_int_equal(m->n_verdicts, job->envelope.n_recipients);
	m->finished = true;
}

static void
on_closed(void *ctx, struct conn *conn, const struct conn_end *end)
{
	struct world *w = ctx;

	(void)conn;
	w->end = *end;
	w->ends++;
	event_base_loopbreak(w->base);
}

static void
on_trace(void *ctx, struct conn *conn, char direction, struct span line)
{
	struct world *w = ctx;

	(void)conn;
	if (w->trace_len + line.len + 4 > sizeof(w->trace))
		return;
	w->trace_len += (size_t)sprintf(
	    w->trace + w->trace_len, "%c %.*s\n", direction, (int)line.len, line.data);
}

static void
run(struct world *w)
{
	static const struct conn_events events = { on_ready, on_recipient, on_finished, on_closed,
		on_trace };
	struct smtp_trouble trouble;
	struct conn_options o = { .base = w->base,
		.resolver = w->resolver,
		.upstream = &w->upstream,
		.helo = "client.example",
		.secret = span_of(w->secret) };

	if (w->tls == NULL && w->upstream.tls != CONFIG_TLS_NONE &&
	    tls_client_open(&w->upstream, &w->tls, &trouble) != 0)
		fail_msg("%s", trouble.why);
	o.tls = w->tls;
	w->ends = 0;
	w->conn = conn_open(&o, &events, w);
	assert_int_equal(w->ends, 0); /* nothing is told from inside conn_open() */
	if (w->at_open != NULL)
		w->at_open(w->conn);
	assert_int_equal(w->ends, 0);
	event_base_dispatch(w->base);
	assert_int_equal(w->ends, 1);
	for (size_t i = 0; i < w->n_messages; i++)
		assert_int_equal(w->messages[i].finished, w->messages[i].sent);
	if (w->secret != NULL) { /* I10: neither as it is nor as AUTH PLAIN sends it */
		assert_null(strstr(w->trace, w->secret));
		assert_null(strstr(w->end.why, w->secret));
		assert_null(strstr(w->trace, "AGFubgBzM2NyZXQ"));
		assert_null(strstr(w->end.why, "AGFubgBzM2NyZXQ"));
	}
	if (getenv("TEST_VERBOSE") != NULL)
		printf("%s--> %s at %s: %s / %s\n", w->trace, smtp_end_kind_name(w->end.kind),
		    smtp_stage_name(w->end.stage), w->end.why, w->end.fix);
}

/* The n-th message that the server took: "sender recipients\nbody". */
static char *
stored(struct world *w, unsigned n)
{
	char *path = xasprintf("%s/msg-%u", w->dir, n), *text = NULL;
	FILE *f = fopen(path, "r");

	if (f != NULL) {
		text = xcalloc(1 << 20, 1);
		(void)!fread(text, 1, (1 << 20) - 1, f);
		fclose(f);
	}
	free(path);
	return text;
}

static unsigned
count_stored(struct world *w)
{
	unsigned n = 0;

	for (char *text; (text = stored(w, n + 1)) != NULL; n++)
		free(text);
	return n;
}

static bool
log_has(struct world *w, const char *what)
{
	char *command = xasprintf("grep -qs -- '%s' %s/log", what, w->dir);
	bool has = system(command) == 0;

	free(command);
	return has;
}

static int
count_lines(struct world *w, const char *what)
{
	char *command = xasprintf("cat %2$s/log 2>/dev/null | grep -c -- '%1$s'", what, w->dir);
	FILE *f = popen(command, "r");
	int n = 0;

	assert_int_equal(fscanf(f, "%d", &n), 1);
	pclose(f);
	free(command);
	return n;
}

#define ARGS(...) ((const char *const[]){ __VA_ARGS__, NULL })
#define LOGIN "user=ann", "password=s3cret"
#define BODY "Subject: x\r\n\r\n.dot\r\n..\r\n.\r\nend\r\n"

/* ---- tests ---- */

static void
mail_goes_out_by_every_way(void **state)
{
	static const struct {
		const char *tls, *ext, *auth, *version, *mechanism;
		enum config_tls setting;
	} rows[] = {
		{ "tls=starttls", "ext=PIPELINING,8BITMIME,SIZE_100000,DSN", "auth=PLAIN,LOGIN", "",
		    "PLAIN", CONFIG_TLS_STARTTLS },
		{ "tls=implicit", "ext=PIPELINING,CHUNKING,8BITMIME", "auth=LOGIN", "", "LOGIN",
		    CONFIG_TLS_IMPLICIT },
		{ "tls=starttls", "ext=CHUNKING", "auth=CRAM-MD5,PLAIN", "", "CRAM-MD5",
		    CONFIG_TLS_STARTTLS },
		{ "tls=starttls", "ext=", "auth=SCRAM-SHA-1,PLAIN,SCRAM-SHA-256", "",
		    "SCRAM-SHA-256", CONFIG_TLS_STARTTLS },
		{ "tls=starttls", "ext=PIPELINING", "auth=SCRAM-SHA-1", "", "SCRAM-SHA-1",
		    CONFIG_TLS_STARTTLS },
		{ "tls=implicit", "ext=PIPELINING", "auth=SCRAM-SHA-256-PLUS,SCRAM-SHA-256",
		    "version=1.2", "SCRAM-SHA-256-PLUS", CONFIG_TLS_IMPLICIT },
		{ "tls=implicit", "ext=PIPELINING", "auth=XOAUTH2", "", "XOAUTH2",
		    CONFIG_TLS_IMPLICIT },
		{ "tls=implicit", "ext=PIPELINING", "auth=OAUTHBEARER,XOAUTH2", "", "OAUTHBEARER",
		    CONFIG_TLS_IMPLICIT },
		{ "tls=none", "ext=PIPELINING", "auth=PLAIN", "", "PLAIN", CONFIG_TLS_NONE },
		{ "tls=none", "ext=PIPELINING,CHUNKING", "auth=", "", "", CONFIG_TLS_NONE },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct world w;
		char *text;

		world_begin(&w, ARGS(rows[i].tls, rows[i].ext, rows[i].auth, LOGIN,
		                    rows[i].version[0] != '\0' ? rows[i].version : "x=y"));
		w.upstream.tls = rows[i].setting;
		if (rows[i].mechanism[0] == '\0')
			w.upstream.auth = CONFIG_AUTH_NONE;
		add_message(&w, "bob@here.example", BODY, "one@x.example two@x.example");
		add_message(&w, "", "From: x\r\n\r\n", "three@x.example");
		add_message(&w, "bob@here.example", BODY, "four@x.example");
		run(&w);
		assert_int_equal(w.end.kind, SMTP_END_QUIT);
		assert_int_equal(w.end.served, 3);
		assert_string_equal(w.mechanism, rows[i].mechanism);
		text = stored(&w, 1);
		assert_string_equal(text, "bob@here.example one@x.example,two@x.example\n" BODY);
		free(text);
		text = stored(&w, 2);
		assert_string_equal(text, " three@x.example\nFrom: x\r\n\r\n");
		free(text);
		assert_int_equal(count_stored(&w), 3);
		for (size_t j = 0; j < 3; j++)
			for (size_t k = 0; k < w.messages[j].job.envelope.n_recipients; k++) {
				assert_int_equal(w.messages[j].verdicts[k], VERDICT_ACCEPTED);
				assert_int_equal(w.messages[j].replies[k].code, 250);
			}
		world_end(&w);
	}
}

static void
a_token_can_be_user_name_and_password(void **state)
{
	struct world w;

	(void)state;
	world_begin(&w, ARGS("tls=starttls", "ext=PIPELINING", "auth=PLAIN,CRAM-MD5", "user=s3cret",
	                    "password=s3cret"));
	w.upstream.username = NULL;
	w.upstream.username_is_password = true;
	add_message(&w, "bob@here.example", BODY, "one@x.example");
	run(&w);
	assert_int_equal(w.end.kind, SMTP_END_QUIT);
	assert_int_equal(count_stored(&w), 1);
	world_end(&w);
}

static void
nothing_leaves_in_clear_when_tls_is_not_to_be_had(void **state)
{
	static const struct {
		const char *server[4];
		enum smtp_end_kind kind;
		const char *why;
	} rows[] = {
		{ { "tls=starttls", "fault=nostarttls", "auth=PLAIN", NULL }, SMTP_END_NO_STARTTLS,
		    "does not offer STARTTLS" },
		{ { "tls=starttls", "fault=starttls454", "auth=PLAIN", NULL }, SMTP_END_NO_STARTTLS,
		    "454 4.7.0 not now" },
		{ { "tls=starttls", "fault=inject", "auth=PLAIN", NULL }, SMTP_END_PROTOCOL,
		    "STARTTLS" },
		{ { "tls=starttls", "cert=expired", NULL, NULL }, SMTP_END_TLS,
		    "valid from 2020-01-01 00:00 UTC to 2021-01-01 00:00 UTC" },
		{ { "tls=starttls", "cert=wrong", NULL, NULL }, SMTP_END_TLS,
		    "a.example, *.b.example; not for localhost" },
		{ { "tls=starttls", "cert=self", NULL, NULL }, SMTP_END_TLS, "self-signed" },
		{ { "tls=starttls", "wants=cert", NULL, NULL }, SMTP_END_TLS,
		    "certificate required" },
		{ { "tls=none", NULL, NULL, NULL }, SMTP_END_NO_STARTTLS,
		    "nothing was sent in clear" },
		{ { "tls=implicit", NULL, NULL, NULL }, SMTP_END_TIMEOUT, "greeting" },
		{ { "tls=starttls", "fault=greet2", NULL, NULL }, SMTP_END_PROTOCOL,
		    "more than one reply" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct world w;

		world_begin(&w, rows[i].server);
		if (access(w.upstream.tls_ca, R_OK) != 0) {
			free((char *)(uintptr_t)w.upstream.tls_ca);
			w.upstream.tls_ca = NULL;
		}
		w.upstream.command_timeout_ms = 500;
		add_message(&w, "bob@here.example", BODY, "one@x.example");
		run(&w);
		assert_int_equal(w.end.kind, rows[i].kind);
		if (strstr(w.end.why, rows[i].why) == NULL)
			fail_msg("%s", w.end.why);
		if (w.end.fix[0] == '\0' && w.end.reply.code != 454)
			fail_msg("no word about what to change: %s", w.end.why);
		assert_false(w.end.was_ready);
		assert_false(w.messages[0].sent);
		assert_false(log_has(&w, "^C AUTH"));
		assert_false(log_has(&w, "MAIL"));
		world_end(&w);
	}
}

static void
a_failed_login_says_so_and_is_not_tried_weaker(void **state)
{
	static const struct {
		const char *server[4], *secret;
		enum smtp_end_kind kind;
		const char *why;
	} rows[] = {
		{ { "auth=PLAIN,LOGIN", NULL }, "wrong", SMTP_END_AUTH,
		    "535 5.7.8 bad credentials" },
		{ { "auth=SCRAM-SHA-256,PLAIN", NULL }, "wrong", SMTP_END_AUTH,
		    "535 5.7.8 bad proof" },
		{ { "auth=SCRAM-SHA-256", "fault=noproof", NULL }, "s3cret", SMTP_END_AUTH,
		    "without proving" },
		{ { "auth=SCRAM-SHA-256", "fault=badproof", NULL }, "s3cret", SMTP_END_AUTH,
		    "could not prove" },
		{ { "auth=SCRAM-SHA-256", "fault=rounds", NULL }, "s3cret", SMTP_END_AUTH,
		    "rounds" },
		{ { "auth=PLAIN", "fault=bad64", NULL }, "s3cret", SMTP_END_AUTH, "not base64" },
		{ { "auth=PLAIN", "fault=endless334", NULL }, "s3cret", SMTP_END_AUTH, "" },
		{ { "auth=XOAUTH2", NULL }, "wrong", SMTP_END_AUTH, "{\"status\":\"401\"}" },
		{ { "auth=PLAIN", "fault=echo", NULL }, "s3cret", SMTP_END_AUTH,
		    "500 5.5.2 what is: AUTH PLAIN ********" },
		{ { "auth=NTLM", NULL }, "s3cret", SMTP_END_NO_AUTH, "it offers: NTLM" },
		{ { "ext=SIZE", NULL }, "s3cret", SMTP_END_NO_AUTH, "offers no login" },
		{ { "auth=PLAIN", NULL }, NULL, SMTP_END_NO_SECRET, "no password" },
		{ { "auth=PLAIN", "fault=421-auth", NULL }, "s3cret", SMTP_END_REPLY, "421" },
		{ { "auth=PLAIN", "fault=drop-auth", NULL }, "s3cret", SMTP_END_LOST,
		    "logging in" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct world w;

		world_begin(&w, ARGS("tls=implicit", LOGIN, rows[i].server[0],
		                    rows[i].server[1] != NULL ? rows[i].server[1] : "x=y"));
		w.upstream.tls = CONFIG_TLS_IMPLICIT;
		w.secret = rows[i].secret;
		add_message(&w, "bob@here.example", BODY, "one@x.example");
		run(&w);
		assert_int_equal(w.end.kind, rows[i].kind);
		if (strstr(w.end.why, rows[i].why) == NULL)
			fail_msg("%s", w.end.why);
		assert_int_equal(w.end.stage, SMTP_STAGE_AUTH);
		assert_false(w.end.was_ready);
		assert_true(count_lines(&w, "^S AUTH ") <= 1);
		world_end(&w);
	}
}

static void
each_recipient_gets_its_own_verdict(void **state)
{
	static const char *const exts[] = { "ext=", "ext=PIPELINING", "ext=PIPELINING,CHUNKING",
		"ext=CHUNKING" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(exts); i++) {
		struct world w;
		struct message *m;
		bool by_bdat;

		world_begin(&w, ARGS("tls=none", exts[i]));
		w.upstream.tls = CONFIG_TLS_NONE;
		w.upstream.auth = CONFIG_AUTH_NONE;
		add_message(&w, "bob@x", BODY, "r450@x ok@x r550@x r552@x");
		add_message(&w, "bob@x", BODY, "r450@x r550@x");
		add_message(&w, "r550@x", BODY, "ok@x");
		add_message(&w, "d451@x", BODY, "ok@x r450@x");
		add_message(&w, "e554@x", BODY, "ok@x r450@x");
		add_message(&w, "bob@x", BODY, "ok@x");
		add_message(&w, "bob@x", "bad\nline\r\n", "");
		w.n_messages--;
		add_message(&w, "bob\r\nDATA@x", BODY, "ok@x");
		add_message(&w, "bob@x", BODY, "a@b>\r\nRCPT ok@x");
		run(&w);
		assert_int_equal(w.end.kind, SMTP_END_QUIT);
		m = &w.messages[0];
		assert_int_equal(m->replies[0].code, 450);
		assert_int_equal(m->replies[0].stage, SMTP_STAGE_RCPT);
		assert_int_equal(m->verdicts[1], VERDICT_ACCEPTED);
		assert_int_equal(m->replies[1].stage, SMTP_STAGE_END);
		assert_int_equal(m->replies[2].code, 550);
		assert_string_equal(m->replies[2].enhanced, "5.1.1");
		assert_string_equal(m->replies[2].text, "no");
		m = &w.messages[1];
		assert_int_equal(m->replies[0].code, 450);
		assert_int_equal(m->replies[1].code, 550);
		m = &w.messages[2];
		assert_int_equal(m->replies[0].code, 550);
		assert_int_equal(m->replies[0].stage, SMTP_STAGE_MAIL);
		m = &w.messages[3];
		by_bdat = m->replies[0].stage == SMTP_STAGE_END; /* there is no DATA to refuse */
		assert_true(!by_bdat || strcmp(exts[i], "ext=PIPELINING,CHUNKING") == 0);
		assert_int_equal(m->replies[0].code, by_bdat ? 250 : 451);
		if (!by_bdat)
			assert_int_equal(m->replies[0].stage, SMTP_STAGE_DATA);
		m = &w.messages[4];
		assert_int_equal(m->verdicts[0], VERDICT_REPLY);
		assert_int_equal(m->replies[0].code, 554);
		assert_int_equal(m->replies[0].stage, SMTP_STAGE_END);
		assert_int_equal(m->replies[1].code, 450);
		assert_int_equal(w.messages[5].verdicts[0], VERDICT_ACCEPTED);
		assert_int_equal(w.messages[6].verdicts[0], VERDICT_LOCAL);
		assert_int_equal(w.messages[7].verdicts[0], VERDICT_LOCAL);
		assert_int_equal(w.messages[7].verdicts[1], VERDICT_ACCEPTED);
		assert_int_equal(count_stored(&w), by_bdat ? 4 : 3);
		world_end(&w);
	}
}

static void
a_broken_connection_tells_unsent_from_unknown(void **state)
{
	static const struct {
		const char *fault;
		enum smtp_end_kind kind; /* NONE: any, it depends on how much had gone out */
		enum verdict verdict;    /* on the one recipient */
	} rows[] = {
		{ "fault=drop-mail", SMTP_END_LOST, VERDICT_UNSENT },
		{ "fault=drop-body", SMTP_END_LOST, VERDICT_UNKNOWN },
		{ "fault=drop-dot", SMTP_END_LOST, VERDICT_UNKNOWN },
		{ "fault=421-dot", SMTP_END_REPLY, VERDICT_REPLY },
		{ "fault=421-mail", SMTP_END_REPLY, VERDICT_REPLY },
		{ "fault=421-rcpt", SMTP_END_REPLY, VERDICT_REPLY },
		{ "fault=rst-after", SMTP_END_IDLE, VERDICT_ACCEPTED },
		{ "fault=silent-mail", SMTP_END_TIMEOUT, VERDICT_UNSENT },
		{ "fault=drip-mail", SMTP_END_TIMEOUT, VERDICT_UNSENT },
		{ "fault=extra-mail", SMTP_END_PROTOCOL, VERDICT_UNSENT },
		{ "fault=interrupt", SMTP_END_NONE, VERDICT_REPLY },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows) * 2; i++) {
		struct world w;

		world_begin(&w, ARGS("tls=implicit", rows[i / 2].fault,
		                    i % 2 == 1 ? "ext=PIPELINING,CHUNKING" : "ext=PIPELINING"));
		w.upstream.tls = CONFIG_TLS_IMPLICIT;
		w.upstream.auth = CONFIG_AUTH_NONE;
		w.upstream.command_timeout_ms = 700;
		w.stay = strcmp(rows[i / 2].fault, "fault=rst-after") == 0;
		add_message(&w, "bob@x", BODY, "ok@x");
		run(&w);
		assert_int_equal(w.messages[0].verdicts[0], rows[i / 2].verdict);
		if (rows[i / 2].kind != SMTP_END_NONE)
			assert_int_equal(w.end.kind, rows[i / 2].kind);
		world_end(&w);
	}
}

static void
a_pinned_certificate_needs_no_ca_and_a_client_certificate_is_shown(void **state)
{
	struct world w;
	char *command, *pin;
	FILE *f;
	char hex[100] = "";

	(void)state;
	world_begin(&w, ARGS("tls=starttls", "cert=self", "wants=cert", "auth=EXTERNAL", LOGIN));
	command = xasprintf(
	    "openssl x509 -in %s/self/server.crt -outform DER | sha256sum | cut -c1-64", certs);
	f = popen(command, "r");
	assert_non_null(fgets(hex, 65, f));
	pclose(f);
	free(command);
	pin = xasprintf("sha256:%s", hex);
	w.upstream.tls_fingerprint = pin;
	w.upstream.tls_cert = xasprintf("%s/self/client.crt", certs);
	w.upstream.tls_key = xasprintf("%s/self/client.key", certs);
	w.secret = NULL;
	add_message(&w, "bob@x", BODY, "ok@x");
	run(&w);
	assert_int_equal(w.end.kind, SMTP_END_QUIT);
	assert_string_equal(w.mechanism, "EXTERNAL");
	tls_client_close(w.tls);
	w.tls = NULL;
	pin[10] = pin[10] == '0' ? '1' : '0';
	w.messages[0].sent = w.messages[0].finished = false;
	run(&w);
	assert_int_equal(w.end.kind, SMTP_END_TLS);
	assert_non_null(strstr(w.end.why, hex));
	free((char *)(uintptr_t)w.upstream.tls_cert);
	free((char *)(uintptr_t)w.upstream.tls_key);
	free(pin);
	world_end(&w);
}

static void
a_second_connection_resumes_the_first_one_s_session(void **state)
{
	static const char *const versions[] = { "version=1.2", "version=1.3" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
		struct world w;

		world_begin(&w, ARGS("tls=implicit", versions[i]));
		w.upstream.tls = CONFIG_TLS_IMPLICIT;
		w.upstream.auth = CONFIG_AUTH_NONE;
		run(&w);
		assert_null(strstr(w.tls_name, "resumed"));
		run(&w);
		assert_int_equal(w.end.kind, SMTP_END_QUIT);
		assert_non_null(strstr(w.tls_name, "resumed"));
		world_end(&w);
	}
}

static void
a_large_message_flows_and_an_unreadable_one_is_never_completed(void **state)
{
	static const char *const exts[] = { "ext=PIPELINING", "ext=PIPELINING,CHUNKING" };
	size_t lines = 9000;
	char *body = xcalloc(lines * 80 + 1, 1);

	(void)state;
	for (size_t i = 0; i < lines; i++)
		sprintf(body + i * 80, "%c%077zu\r\n", i % 3 == 0 ? '.' : 'x', i);
	for (size_t i = 0; i < ARRAY_LEN(exts); i++) {
		struct world w;
		char *text;

		world_begin(&w, ARGS("tls=implicit", exts[i]));
		w.upstream.tls = CONFIG_TLS_IMPLICIT;
		w.upstream.auth = CONFIG_AUTH_NONE;
		add_message(&w, "bob@x", body, "ok@x");
		add_message(&w, "bob@x", body, "ok@x")->fails = true;
		add_message(&w, "bob@x", BODY, "ok@x");
		run(&w);
		assert_int_equal(w.end.kind, SMTP_END_LOCAL);
		assert_int_equal(w.messages[0].verdicts[0], VERDICT_ACCEPTED);
		assert_int_equal(w.messages[1].verdicts[0], VERDICT_LOCAL);
		assert_int_equal(w.messages[1].job.read_error, -EIO);
		assert_int_equal(count_stored(&w), 1);
		text = stored(&w, 1);
		assert_string_equal(strchr(text, '\n') + 1, body);
		free(text);
		world_end(&w);
	}
	free(body);
}

static void
names_and_addresses_that_lead_nowhere_say_so(void **state)
{
	static const struct {
		const char *host;
		unsigned port;
		enum smtp_end_kind kind;
		const char *why;
	} rows[] = {
		{ "127.0.0.1", 1, SMTP_END_CONNECT, "Connection refused" },
		{ "localhost", 1, SMTP_END_CONNECT, "Connection refused" },
		{ "no-such-host.invalid", 25, SMTP_END_DNS, "no-such-host.invalid" },
	};
	struct world w;

	(void)state;
	world_begin(&w, ARGS("tls=none"));
	w.upstream.tls = CONFIG_TLS_NONE;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		w.upstream.host = rows[i].host;
		w.upstream.port = rows[i].port;
		run(&w);
		assert_int_equal(w.end.kind, rows[i].kind);
		if (strstr(w.end.why, rows[i].why) == NULL)
			fail_msg("%s", w.end.why);
	}
	world_end(&w);
}

static void
a_connection_ends_when_it_is_told_to_or_has_nothing_to_do(void **state)
{
	static const struct {
		void (*at_open)(struct conn *conn), (*at_ready)(struct conn *conn);
		uint64_t idle_ms;
		unsigned messages;
		enum smtp_end_kind kind;
		enum smtp_stage stage;
	} rows[] = {
		{ conn_quit, NULL, 60000, 100, SMTP_END_DROPPED, SMTP_STAGE_RESOLVE },
		{ conn_drop, NULL, 60000, 100, SMTP_END_DROPPED, SMTP_STAGE_RESOLVE },
		{ NULL, conn_drop, 60000, 100, SMTP_END_DROPPED, SMTP_STAGE_IDLE },
		{ NULL, NULL, 300, 100, SMTP_END_QUIT, SMTP_STAGE_QUIT }, /* by itself, when idle */
		{ NULL, NULL, 60000, 1, SMTP_END_QUIT,
		    SMTP_STAGE_QUIT }, /* by itself, when used up */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct world w;

		world_begin(&w, ARGS("tls=none", "ext=PIPELINING"));
		w.upstream.tls = CONFIG_TLS_NONE;
		w.upstream.auth = CONFIG_AUTH_NONE;
		w.upstream.idle_ms = rows[i].idle_ms;
		w.upstream.messages_per_connection = rows[i].messages;
		w.at_open = rows[i].at_open;
		w.at_ready = rows[i].at_ready;
		w.stay = true;
		if (rows[i].at_open == NULL && rows[i].at_ready == NULL)
			add_message(&w, "bob@x", BODY, "ok@x");
		run(&w);
		assert_int_equal(w.end.kind, rows[i].kind);
		assert_int_equal(w.end.stage, rows[i].stage);
		world_end(&w);
	}
}

static void
an_upstream_that_loses_overlapping_envelopes_gets_them_one_by_one(void **state)
{
	struct world w;

	(void)state;
	world_begin(&w, ARGS("tls=implicit", "ext=PIPELINING", "fault=forget"));
	w.upstream.tls = CONFIG_TLS_IMPLICIT;
	w.upstream.auth = CONFIG_AUTH_NONE;
	w.upstream.command_timeout_ms = 600;
	add_message(&w, "bob@x", BODY, "one@x");
	add_message(&w, "bob@x", BODY, "two@x");
	run(&w);
	assert_int_equal(w.end.kind, SMTP_END_DROPPED);
	assert_int_equal(w.messages[0].verdicts[0], VERDICT_ACCEPTED);
	assert_int_equal(w.messages[1].verdicts[0], VERDICT_UNSENT);
	w.messages[1].sent = w.messages[1].finished = false;
	w.messages[1].n_verdicts = 0;
	add_message(&w, "bob@x", BODY, "three@x");
	run(&w);
	assert_int_equal(w.end.kind, SMTP_END_QUIT);
	assert_int_equal(w.messages[1].verdicts[0], VERDICT_ACCEPTED);
	assert_int_equal(w.messages[2].verdicts[0], VERDICT_ACCEPTED);
	assert_int_equal(count_stored(&w), 3);
	world_end(&w);
}

/* A peer that takes the bytes of a body too slowly is left (row 23): its window is full, and it reads no more. */
static void
a_peer_that_stops_reading_is_left(void **state)
{
	size_t size = 8 << 20;
	char *body = xcalloc(size + 1, 1);
	struct world w;

	(void)state;
	memset(body, 'x', size);
	memcpy(body + size - 2, "\r\n", 2);
	world_begin(&w, ARGS("tls=none", "ext=PIPELINING", "fault=deaf"));
	w.upstream.tls = CONFIG_TLS_NONE;
	w.upstream.auth = CONFIG_AUTH_NONE;
	w.upstream.command_timeout_ms = 500;
	add_message(&w, "bob@x", body, "ok@x");
	run(&w);
	assert_int_equal(w.end.kind, SMTP_END_TIMEOUT);
	assert_int_equal(w.end.stage, SMTP_STAGE_BODY);
	assert_int_equal(w.messages[0].verdicts[0], VERDICT_UNSENT);
	free(body);
	world_end(&w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mail_goes_out_by_every_way),
		cmocka_unit_test(a_token_can_be_user_name_and_password),
		cmocka_unit_test(nothing_leaves_in_clear_when_tls_is_not_to_be_had),
		cmocka_unit_test(a_failed_login_says_so_and_is_not_tried_weaker),
		cmocka_unit_test(each_recipient_gets_its_own_verdict),
		cmocka_unit_test(a_broken_connection_tells_unsent_from_unknown),
		cmocka_unit_test(
		    a_pinned_certificate_needs_no_ca_and_a_client_certificate_is_shown),
		cmocka_unit_test(a_second_connection_resumes_the_first_one_s_session),
		cmocka_unit_test(a_large_message_flows_and_an_unreadable_one_is_never_completed),
		cmocka_unit_test(names_and_addresses_that_lead_nowhere_say_so),
		cmocka_unit_test(a_connection_ends_when_it_is_told_to_or_has_nothing_to_do),
		cmocka_unit_test(an_upstream_that_loses_overlapping_envelopes_gets_them_one_by_one),
		cmocka_unit_test(a_peer_that_stops_reading_is_left),
	};

	char command[64];
	int r;

	signal(SIGPIPE, SIG_IGN);
	alarm(240);
	if (mkdtemp(certs) == NULL)
		return 99;
	r = cmocka_run_group_tests(tests, open_servers, close_servers);
	snprintf(command, sizeof(command), "rm -rf %s", certs);
	return system(command) != 0 ? 99 : r;
}
