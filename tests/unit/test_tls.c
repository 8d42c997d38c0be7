/* test_tls.c - which certificates are believed, and which are not (I11). Both ends stand in this process, with nothing
 * between them; the server's is OpenSSL alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "base/base.h"
#include "delivery/tls.h"

#define DAY 86400

struct identity {
	EVP_PKEY *key;
	X509 *cert;
};

enum issuer { BY_CA, BY_OTHER_CA, BY_ITSELF };

static struct identity ca, other_ca;
static char ca_file[] = "/tmp/relayd-test-ca-XXXXXX",
            other_ca_file[] = "/tmp/relayd-test-ca-XXXXXX";

static void
add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509_EXTENSION *extension;
	X509V3_CTX context;

	X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
	extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
	assert_non_null(extension);
	assert_int_equal(X509_add_ext(cert, extension, -1), 1);
	X509_EXTENSION_free(extension);
}

static struct identity
make(const struct identity *issuer, const char *subject, const char *names, const char *usage,
    long from_s, long until_s)
{
	static long serial;
	struct identity i = { EVP_EC_gen("P-256"), X509_new() };
	const struct identity *by = issuer != NULL ? issuer : &i;
	X509_NAME *name = X509_get_subject_name(i.cert);

	X509_set_version(i.cert, X509_VERSION_3);
	ASN1_INTEGER_set(X509_get_serialNumber(i.cert), ++serial);
	X509_gmtime_adj(X509_getm_notBefore(i.cert), from_s);
	X509_gmtime_adj(X509_getm_notAfter(i.cert), until_s);
	X509_NAME_add_entry_by_txt(
	    name, "CN", MBSTRING_ASC, (const unsigned char *)subject, -1, -1, 0);
	X509_set_issuer_name(i.cert, X509_get_subject_name(by->cert));
	X509_set_pubkey(i.cert, i.key);
	if (names == NULL)
		add_extension(i.cert, by->cert, NID_basic_constraints, "critical,CA:TRUE");
	else if (names[0] != '\0')
		add_extension(i.cert, by->cert, NID_subject_alt_name, names);
	if (usage != NULL)
		add_extension(i.cert, by->cert, NID_ext_key_usage, usage);
	assert_true(X509_sign(i.cert, by->key, EVP_sha256()) > 0);
	return i;
}

static void
drop(struct identity i)
{
	EVP_PKEY_free(i.key);
	X509_free(i.cert);
}

static struct identity
make_ca(char *path, const char *name)
{
	struct identity i = make(NULL, name, NULL, NULL, -DAY, 10 * DAY);
	FILE *file = fdopen(mkstemp(path), "w");

	assert_int_equal(PEM_write_X509(file, i.cert), 1);
	assert_int_equal(fclose(file), 0);
	return i;
}

static int
set_up(void **state)
{
	(void)state;
	ca = make_ca(ca_file, "CA of the upstream");
	other_ca = make_ca(other_ca_file, "CA of somebody else");
	return setenv("SSL_CERT_FILE", other_ca_file, 1); /* that of the system, for this process */
}

static int
tear_down(void **state)
{
	(void)state;
	drop(ca);
	drop(other_ca);
	return unlink(ca_file) + unlink(other_ca_file);
}

/* Bytes from one end to the other until one of them has had enough. */
static enum tls_result
shake_hands(struct tls_session *client, SSL *server)
{
	enum tls_result r = TLS_MORE;
	char bytes[16384];

	for (int i = 0; i < 20 && r == TLS_MORE; i++) {
		struct smtp_buffer *out;
		int n;

		r = tls_session_handshake(client);
		out = tls_session_output(client);
		if (out->len > 0)
			BIO_write(SSL_get_rbio(server), out->data + out->start, (int)out->len);
		smtp_buffer_drain(out, out->len);
		SSL_do_handshake(server);
		while ((n = BIO_read(SSL_get_wbio(server), bytes, sizeof(bytes))) > 0)
			tls_session_input(client, (struct span){ bytes, (size_t)n });
	}
	return r;
}

static enum tls_result
connect_to(const struct config_upstream *upstream, struct identity server, int most, char why[640])
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	struct smtp_trouble trouble;
	struct tls_session *session;
	struct tls_client *client;
	enum tls_result r;
	SSL *ssl;

	SSL_CTX_use_certificate(ctx, server.cert);
	SSL_CTX_use_PrivateKey(ctx, server.key);
	if (most != 0) {
		SSL_CTX_set_security_level(ctx, 0);
		SSL_CTX_set_min_proto_version(ctx, TLS1_VERSION);
		SSL_CTX_set_max_proto_version(ctx, most);
	}
	ssl = SSL_new(ctx);
	SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	SSL_set_accept_state(ssl);
	assert_int_equal(tls_client_open(upstream, &client, &trouble), 0);
	session = tls_session_new(client);
	r = shake_hands(session, ssl);
	snprintf(why, 640, "%s", tls_session_trouble(session)->why);
	tls_session_free(session);
	tls_client_close(client);
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	return r;
}

static void
pin_of(X509 *cert, char out[80])
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned len;

	assert_int_equal(X509_digest(cert, EVP_sha256(), digest, &len), 1);
	strcpy(out, "sha256:");
	for (unsigned i = 0; i < len; i++)
		sprintf(out + 7 + 2 * i, "%02x", digest[i]);
}

static void
only_what_is_proven_is_believed(void **state)
{
	/* clang-format off */
	static const struct row {
		const char *what, *host, *names, *usage; /* names "": none but the subject's */
		enum issuer by;
		long from_s, until_s; /* 0, 0: now */
		int most;             /* version that the server can, 0: the newest */
		enum { NO_PIN, ITS_PIN, OTHER_PIN } pin;
		bool unverified, good;
		const char *why;
	} rows[] = {
		{ .what = "its name",              .host = "mail.example.com", .names = "DNS:mail.example.com", .good = true },
		{ .what = "one of its names",      .host = "mail.example.com", .names = "DNS:a.example,DNS:mail.example.com", .good = true },
		{ .what = "a wildcard",            .host = "mail.example.com", .names = "DNS:*.example.com", .good = true },
		{ .what = "its address",           .host = "192.0.2.1",        .names = "IP:192.0.2.1", .good = true },
		{ .what = "TLS 1.2",               .host = "mail.example.com", .names = "DNS:mail.example.com", .most = TLS1_2_VERSION, .good = true },
		{ .what = "for servers",           .host = "mail.example.com", .names = "DNS:mail.example.com", .usage = "serverAuth", .good = true },
		{ .what = "another name",          .host = "mail.example.com", .names = "DNS:mail.example.org", .why = "not for mail.example.com" },
		{ .what = "a part of its name",    .host = "mail.example.com", .names = "DNS:example.com", .why = "not for" },
		{ .what = "a partial wildcard",    .host = "mail.example.com", .names = "DNS:ma*.example.com", .why = "not for" },
		{ .what = "a wildcard too far up", .host = "mail.example.com", .names = "DNS:*.com", .why = "not for" },
		{ .what = "the subject's name",    .host = "subject.example",  .names = "", .why = "does not count" },
		{ .what = "another address",       .host = "192.0.2.1",        .names = "IP:192.0.2.2", .why = "not for" },
		{ .what = "an address as a name",  .host = "192.0.2.1",        .names = "DNS:192.0.2.1", .why = "not for" },
		{ .what = "expired",               .host = "mail.example.com", .names = "DNS:mail.example.com", .from_s = -9 * DAY, .until_s = -DAY, .why = "has expired" },
		{ .what = "not yet valid",         .host = "mail.example.com", .names = "DNS:mail.example.com", .from_s = DAY, .until_s = 9 * DAY, .why = "not yet valid" },
		{ .what = "self-signed",           .host = "mail.example.com", .names = "DNS:mail.example.com", .by = BY_ITSELF, .why = "self-signed" },
		{ .what = "the system's CA",       .host = "mail.example.com", .names = "DNS:mail.example.com", .by = BY_OTHER_CA, .why = "CA unknown here" },
		{ .what = "for clients",           .host = "mail.example.com", .names = "DNS:mail.example.com", .usage = "clientAuth", .why = "purpose" },
		{ .what = "TLS 1.1",               .host = "mail.example.com", .names = "DNS:mail.example.com", .most = TLS1_1_VERSION, .why = "older than 1.2" },
		{ .what = "the pinned one",        .host = "mail.example.com", .names = "DNS:a.example", .by = BY_ITSELF, .pin = ITS_PIN, .good = true },
		{ .what = "not the pinned one",    .host = "mail.example.com", .names = "DNS:mail.example.com", .pin = OTHER_PIN, .why = "not the pinned one" },
		{ .what = "tls-verify = false",    .host = "mail.example.com", .names = "DNS:a.example", .by = BY_ITSELF, .unverified = true, .good = true },
	};
	/* clang-format on */

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct row *row = &rows[i];
		const struct identity *issuer = row->by == BY_CA         ? &ca
		                                : row->by == BY_OTHER_CA ? &other_ca
		                                                         : NULL;
		struct identity server = make(issuer, "subject.example", row->names, row->usage,
		    row->until_s != 0 ? row->from_s : -DAY,
		    row->until_s != 0 ? row->until_s : 9 * DAY);
		char pin[80], why[640];
		struct config_upstream upstream = { .name = "u",
			.host = row->host,
			.port = 587,
			.tls_ca = ca_file,
			.tls_verify = !row->unverified,
			.tls_fingerprint = row->pin != NO_PIN ? pin : NULL };
		enum tls_result r;

		pin_of(row->pin == OTHER_PIN ? ca.cert : server.cert, pin);
		r = connect_to(&upstream, server, row->most, why);
		if (r != (row->good ? TLS_DONE : TLS_FAILED))
			fail_msg("%s: %d, %s", row->what, (int)r, why);
		if (row->why != NULL && strstr(why, row->why) == NULL)
			fail_msg("%s: %s", row->what, why);
		drop(server);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_what_is_proven_is_believed),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
