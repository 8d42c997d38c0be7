/* tls.c - see tls.h. Why a BIO of our own over two buffers: the socket, its deadlines and its one write per
 * flight stay in conn*.c, and a session can be tested without one.
 *
 * What is refused: TLS below 1.2, renegotiation, compression, names from the subject's CN, partial
 * wildcards, going on after a failed verification. Sessions to resume are kept per upstream, so a
 * ticket of one never meets another's name, port or CA (Postfix 20260805). */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include "delivery/tls.h"
#include "delivery/tls_explain.h"

#define SESSIONS_KEPT 8 /* TLS 1.3 tickets are good for one use each */
#define PIN_BYTES 32

struct tls_client {
	const struct config_upstream *upstream;
	SSL_CTX *ctx;
	BIO_METHOD *method;
	SSL_SESSION *sessions[SESSIONS_KEPT];
	unsigned n_sessions;
	bool has_pin, is_ip;
	unsigned char pin[PIN_BYTES];
};

struct tls_session {
	struct tls_client *client;
	SSL *ssl;
	struct smtp_buffer in, out;
	struct smtp_trouble trouble;
	char name[96];
	bool done;
};

/* ---- memory ---- */

static void *
reallocate(void *old, size_t size_bytes, const char *file, int line)
{
	(void)file, (void)line;
	if (size_bytes > 0)
		return xrealloc(old, size_bytes, 1);
	free(old);
	return NULL;
}

static void *
allocate(size_t size_bytes, const char *file, int line)
{
	return reallocate(NULL, size_bytes, file, line);
}

static void
deallocate(void *old, const char *file, int line)
{
	(void)file, (void)line;
	free(old);
}

void
tls_use_memory(void)
{
	int is_set = CRYPTO_set_mem_functions(allocate, reallocate, deallocate);

	assert(is_set);
}

/* ---- the upstream's context ---- */

static int
bio_write(BIO *bio, const char *data, int len)
{
	struct tls_session *s = BIO_get_data(bio);

	if (len <= 0)
		return 0;
	smtp_buffer_add(&s->out, (struct span){ data, (size_t)len });
	return len;
}

static int
bio_read(BIO *bio, char *data, int len)
{
	struct tls_session *s = BIO_get_data(bio);
	size_t n = len > 0 ? (size_t)len : 0;

	BIO_clear_retry_flags(bio);
	if (s->in.len == 0) {
		BIO_set_retry_read(bio);
		return -1;
	}
	if (n > s->in.len)
		n = s->in.len;
	memcpy(data, s->in.data + s->in.start, n);
	smtp_buffer_drain(&s->in, n);
	return (int)n;
}

static long
bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
	(void)bio, (void)number, (void)pointer;
	return command == BIO_CTRL_FLUSH;
}

/* Called for each certificate of the chain; only notes why, never overrules. */
static int
on_verify(int ok, X509_STORE_CTX *store)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls_session *s = ssl != NULL ? SSL_get_app_data(ssl) : NULL;
	X509 *cert = X509_STORE_CTX_get_current_cert(store);

	if (!ok && s != NULL && cert != NULL && s->trouble.why[0] == '\0')
		tls_explain_certificate(
		    &s->trouble, s->client->upstream, cert, X509_STORE_CTX_get_error(store));
	return ok;
}

static void
keep_session(struct tls_client *tls, SSL_SESSION *session)
{
	if (tls->n_sessions == SESSIONS_KEPT) {
		SSL_SESSION_free(tls->sessions[0]);
		memmove(tls->sessions, tls->sessions + 1,
		    (SESSIONS_KEPT - 1) * sizeof(tls->sessions[0]));
		tls->n_sessions--;
	}
	tls->sessions[tls->n_sessions++] = session;
}

/* A ticket came (TLS 1.3: after the handshake). It is kept only if that handshake was verified. */
static int
on_new_session(SSL *ssl, SSL_SESSION *session)
{
	struct tls_session *s = SSL_get_app_data(ssl);

	if (s == NULL || !s->done || !SSL_SESSION_is_resumable(session))
		return 0;
	keep_session(s->client, session);
	return 1; /* we hold the reference */
}

static bool
parse_pin(const char *text, unsigned char pin[PIN_BYTES])
{
	size_t n = 0;

	if (strncasecmp(text, "sha256:", 7) == 0)
		text += 7;
	for (; *text != '\0' && n < PIN_BYTES; n++) {
		unsigned v;

		if (*text == ':')
			text++;
		if (sscanf(text, "%2x", &v) != 1 || strspn(text, "0123456789abcdefABCDEF") < 2)
			return false;
		pin[n] = (unsigned char)v;
		text += 2;
	}
	return n == PIN_BYTES && *text == '\0';
}

static int
load_files(struct tls_client *tls, struct smtp_trouble *t)
{
	const struct config_upstream *u = tls->upstream;
	const char *key = u->tls_key != NULL ? u->tls_key : u->tls_cert;

	ERR_clear_error();
	if (u->tls_ca == NULL) {
		if (SSL_CTX_set_default_verify_paths(tls->ctx) != 1)
			return tls_explain_file(t, "tls-ca", X509_get_default_cert_dir());
	} else if (SSL_CTX_load_verify_file(tls->ctx, u->tls_ca) != 1) {
		return tls_explain_file(t, "tls-ca", u->tls_ca);
	}
	if (u->tls_cert == NULL)
		return 0;
	if (SSL_CTX_use_certificate_chain_file(tls->ctx, u->tls_cert) != 1)
		return tls_explain_file(t, "tls-cert", u->tls_cert);
	if (SSL_CTX_use_PrivateKey_file(tls->ctx, key, SSL_FILETYPE_PEM) != 1)
		return tls_explain_file(t, "tls-key", key);
	if (SSL_CTX_check_private_key(tls->ctx) != 1) {
		smtp_trouble_why(t, "tls-key %s does not belong to tls-cert %s", key, u->tls_cert);
		smtp_trouble_fix(t, "set both to files that belong together");
		return -EINVAL;
	}
	return 0;
}

static bool
is_ip(const char *host)
{
	unsigned char raw[16];

	return inet_pton(AF_INET, host, raw) == 1 || inet_pton(AF_INET6, host, raw) == 1;
}

int
tls_client_open(
    const struct config_upstream *upstream, struct tls_client **out, struct smtp_trouble *trouble)
{
	struct tls_client *tls = xcalloc(1, sizeof(*tls));
	int r = -EINVAL;

	*trouble = (struct smtp_trouble){ 0 };
	tls->upstream = upstream;
	tls->is_ip = is_ip(upstream->host);
	tls->ctx = SSL_CTX_new(TLS_client_method());
	tls->method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "buffers");
	if (tls->ctx == NULL || tls->method == NULL) {
		smtp_trouble_why(trouble, "OpenSSL does not start: %s", tls_explain_reason());
		goto fail;
	}
	BIO_meth_set_write(tls->method, bio_write);
	BIO_meth_set_read(tls->method, bio_read);
	BIO_meth_set_ctrl(tls->method, bio_ctrl);
	if (upstream->tls_fingerprint != NULL) {
		tls->has_pin = parse_pin(upstream->tls_fingerprint, tls->pin);
		if (!tls->has_pin) {
			smtp_trouble_why(
			    trouble, "tls-fingerprint is not sha256: and 64 hex digits");
			goto fail;
		}
	}
	SSL_CTX_set_min_proto_version(tls->ctx, TLS1_2_VERSION);
	SSL_CTX_set_options(tls->ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
	/* A pinned certificate is known itself: who signed it and for which name adds nothing. */
	SSL_CTX_set_verify(tls->ctx,
	    upstream->tls_verify && !tls->has_pin ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, on_verify);
	SSL_CTX_set_session_cache_mode(
	    tls->ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL_STORE);
	SSL_CTX_sess_set_new_cb(tls->ctx, on_new_session);
	r = load_files(tls, trouble);
	if (r < 0)
		goto fail;
	*out = tls;
	return 0;
fail:
	tls_client_close(tls);
	return r;
}

static void
forget_sessions(struct tls_client *tls)
{
	while (tls->n_sessions > 0)
		SSL_SESSION_free(tls->sessions[--tls->n_sessions]);
}

void
tls_client_close(struct tls_client *tls)
{
	if (tls == NULL)
		return;
	forget_sessions(tls);
	SSL_CTX_free(tls->ctx);
	BIO_meth_free(tls->method);
	free(tls);
}

/* ---- a connection ---- */

static void
offer_session(struct tls_session *s)
{
	struct tls_client *tls = s->client;
	SSL_SESSION *session;

	if (tls->n_sessions == 0)
		return;
	session = tls->sessions[tls->n_sessions - 1];
	SSL_set_session(s->ssl, session);
	if (SSL_SESSION_get_protocol_version(session) >= TLS1_3_VERSION) {
		SSL_SESSION_free(
		    session); /* one use (RFC 8446 C.4); the SSL has its own reference */
		tls->n_sessions--;
	}
}

/* Whom the certificate has to name. Without it any name would do: no session begins then. */
static bool
expect_name(struct tls_session *s)
{
	const struct tls_client *tls = s->client;
	const char *host = tls->upstream->host;

	SSL_set_hostflags(
	    s->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
	if (tls->is_ip)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(s->ssl), host) == 1;
	return SSL_set1_host(s->ssl, host) == 1 &&
	       SSL_ctrl(s->ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name,
	           (void *)(uintptr_t)host) == 1;
}

struct tls_session *
tls_session_new(struct tls_client *tls)
{
	struct tls_session *s = xcalloc(1, sizeof(*s));
	BIO *bio = BIO_new(tls->method);

	s->client = tls;
	s->ssl = SSL_new(tls->ctx);
	if (s->ssl == NULL || bio == NULL || !expect_name(s)) {
		fputs("OpenSSL has no memory; exiting to be started again\n", stderr);
		exit(71);
	}
	BIO_set_data(bio, s);
	BIO_set_init(bio, 1);
	SSL_set_bio(s->ssl, bio, bio);
	SSL_set_app_data(s->ssl, s);
	offer_session(s);
	SSL_set_connect_state(s->ssl);
	return s;
}

void
tls_session_free(struct tls_session *s)
{
	if (s == NULL)
		return;
	SSL_free(s->ssl);
	smtp_buffer_fini(&s->in);
	smtp_buffer_fini(&s->out);
	free(s);
}

void
tls_session_input(struct tls_session *s, struct span wire)
{
	smtp_buffer_add(&s->in, wire);
}

struct smtp_buffer *
tls_session_output(struct tls_session *s)
{
	return &s->out;
}

static bool
is_pinned(struct tls_session *s, X509 *cert)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned len = 0;
	char hex[PIN_BYTES * 2 + 1] = "";

	if (cert != NULL && X509_digest(cert, EVP_sha256(), digest, &len) == 1 &&
	    len == PIN_BYTES && CRYPTO_memcmp(digest, s->client->pin, PIN_BYTES) == 0)
		return true;
	for (unsigned i = 0; i < len && i < PIN_BYTES; i++)
		snprintf(hex + 2 * i, 3, "%02x", digest[i]);
	smtp_trouble_why(&s->trouble,
	    "the upstream's certificate is not the pinned one: its own is sha256:%s", hex);
	smtp_trouble_fix(&s->trouble,
	    "if the upstream changed its certificate, set tls-fingerprint of upstream \"%s\" to "
	    "that",
	    s->client->upstream->name);
	return false;
}

/* The handshake is complete: is everything proven? A resumed session brings the verdict of the one
 * it continues, but time goes on: its certificate may have expired since. */
static bool
is_verified(struct tls_session *s)
{
	const struct config_upstream *u = s->client->upstream;
	X509 *cert = SSL_get0_peer_certificate(s->ssl);

	if (s->client->has_pin)
		return is_pinned(s, cert);
	if (!u->tls_verify)
		return true;
	if (cert == NULL || SSL_get_verify_result(s->ssl) != X509_V_OK) {
		smtp_trouble_why(&s->trouble, "the upstream's certificate was refused: %s",
		    X509_verify_cert_error_string(SSL_get_verify_result(s->ssl)));
		return false;
	}
	if (SSL_session_reused(s->ssl) && X509_cmp_current_time(X509_get0_notAfter(cert)) < 0) {
		tls_explain_certificate(&s->trouble, u, cert, X509_V_ERR_CERT_HAS_EXPIRED);
		return false;
	}
	return true;
}

enum tls_result
tls_session_handshake(struct tls_session *s)
{
	int r;

	ERR_clear_error();
	r = SSL_do_handshake(s->ssl);
	if (r == 1 && is_verified(s)) {
		s->done = true;
		snprintf(s->name, sizeof(s->name), "%s %s%s", SSL_get_version(s->ssl),
		    SSL_get_cipher_name(s->ssl), SSL_session_reused(s->ssl) ? ", resumed" : "");
		/* TLS 1.2: the ticket came during the handshake, when it was not yet verified. */
		if (SSL_version(s->ssl) == TLS1_2_VERSION && !SSL_session_reused(s->ssl) &&
		    SSL_SESSION_is_resumable(SSL_get0_session(s->ssl)))
			keep_session(s->client, SSL_get1_session(s->ssl));
		return TLS_DONE;
	}
	if (r != 1 && SSL_get_error(s->ssl, r) == SSL_ERROR_WANT_READ)
		return TLS_MORE;
	if (r != 1)
		tls_explain_handshake(&s->trouble, s->client->upstream);
	forget_sessions(s->client);
	return TLS_FAILED;
}

enum tls_result
tls_session_read(struct tls_session *s, char *buf, size_t size, size_t *len)
{
	int r, error;

	*len = 0;
	ERR_clear_error();
	if (SSL_read_ex(s->ssl, buf, size, len) == 1)
		return TLS_DONE;
	r = 0;
	error = SSL_get_error(s->ssl, r);
	if (error == SSL_ERROR_WANT_READ)
		return TLS_MORE;
	if (error == SSL_ERROR_ZERO_RETURN)
		return TLS_EOF;
	tls_explain_broken(&s->trouble, s->client->upstream);
	return TLS_FAILED;
}

bool
tls_session_write(struct tls_session *s, struct span plain)
{
	size_t n;

	if (plain.len == 0)
		return true;
	ERR_clear_error();
	if (SSL_write_ex(s->ssl, plain.data, plain.len, &n) == 1 && n == plain.len)
		return true;
	tls_explain_broken(&s->trouble, s->client->upstream);
	return false;
}

void
tls_session_shutdown(struct tls_session *s)
{
	ERR_clear_error();
	if (s->done)
		SSL_shutdown(s->ssl);
}

const struct smtp_trouble *
tls_session_trouble(const struct tls_session *s)
{
	return &s->trouble;
}

const char *
tls_session_name(const struct tls_session *s)
{
	return s->name;
}

/* ---- channel binding ---- */

size_t
tls_session_exporter(const struct tls_session *s, unsigned char out[64])
{
	static const char label[] = "EXPORTER-Channel-Binding";

	if (!s->done || SSL_version(s->ssl) < TLS1_3_VERSION)
		return 0;
	return SSL_export_keying_material(s->ssl, out, 32, label, sizeof(label) - 1, NULL, 0, 0) ==
	               1
	           ? 32
	           : 0;
}

size_t
tls_session_unique(const struct tls_session *s, unsigned char out[64])
{
	size_t n;

	if (!s->done || SSL_version(s->ssl) != TLS1_2_VERSION || SSL_get_extms_support(s->ssl) != 1)
		return 0;
	n = SSL_session_reused(s->ssl) ? SSL_get_peer_finished(s->ssl, out, 64)
	                               : SSL_get_finished(s->ssl, out, 64);
	return n <= 64 ? n : 0;
}
