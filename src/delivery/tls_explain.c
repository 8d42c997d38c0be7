/* tls_explain.c - words for what fails in TLS (tls_explain.h): OpenSSL's reasons are codes for programmers, and what
 * an operator can do about one depends on the upstream's settings. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "base/os.h"
#include "delivery/tls_explain.h"

const char *
tls_explain_reason(void)
{
	unsigned long e = ERR_peek_last_error();
	const char *reason = e != 0 ? ERR_reason_error_string(e) : NULL;

	return reason != NULL ? reason : "no reason given";
}

int
tls_explain_file(struct smtp_trouble *t, const char *setting, const char *file)
{
	FILE *f = fopen(file, "re");

	if (f == NULL) {
		int error = errno;

		smtp_trouble_why(t, "%s: cannot read %s: %s", setting, file, strerror(error));
		smtp_trouble_fix(
		    t, "make it readable for the user that relayd runs as, or change %s", setting);
		return -error;
	}
	fclose(f);
	smtp_trouble_why(t, "%s: %s holds nothing usable: %s", setting, file, tls_explain_reason());
	smtp_trouble_fix(t, "%s wants PEM (-----BEGIN ...-----)", setting);
	return -EINVAL;
}

/* ---- certificates ---- */

static void
date_of(const ASN1_TIME *t, char out[32])
{
	struct tm tm;

	if (t == NULL || ASN1_TIME_to_tm(t, &tm) != 1)
		snprintf(out, 32, "?");
	else
		strftime(out, 32, "%Y-%m-%d %H:%M UTC", &tm);
}

static void
name_of(const X509_NAME *name, char *out, size_t size)
{
	BIO *bio = BIO_new(BIO_s_mem());
	char *data;
	long len;

	X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB);
	len = BIO_get_mem_data(bio, &data);
	smtp_reply_clean((struct span){ data, len > 0 ? (size_t)len : 0 }, out, size);
	BIO_free(bio);
}

static void
add_name(char *out, size_t size, struct span name)
{
	size_t len = strlen(out);

	if (len > 0 && len + 3 < size) {
		memcpy(out + len, ", ", 3);
		len += 2;
	}
	smtp_reply_clean(name, out + len, size - len);
}

/* The names that a certificate is for, as a list. */
static void
names_of(X509 *cert, char *out, size_t size)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);

	out[0] = '\0';
	for (int i = 0; names != NULL && i < sk_GENERAL_NAME_num(names) && i < 10; i++) {
		const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
		char ip[INET6_ADDRSTRLEN];

		if (n->type == GEN_DNS) {
			add_name(out, size,
			    (struct span){ (const char *)ASN1_STRING_get0_data(n->d.dNSName),
			        (size_t)ASN1_STRING_length(n->d.dNSName) });
		} else if (n->type == GEN_IPADD) {
			int family = ASN1_STRING_length(n->d.iPAddress) == 4 ? AF_INET : AF_INET6;

			if (family == AF_INET6 && ASN1_STRING_length(n->d.iPAddress) != 16)
				continue;
			if (inet_ntop(
			        family, ASN1_STRING_get0_data(n->d.iPAddress), ip, sizeof(ip)))
				add_name(out, size, span_of(ip));
		}
	}
	GENERAL_NAMES_free(names);
	if (out[0] == '\0')
		snprintf(out, size, "no name at all (only its subject, which does not count)");
}

static void
explain_dates(struct smtp_trouble *t, X509 *cert, bool expired)
{
	char subject[128], from[32], until[32], now_text[32];
	time_t now = (time_t)(os_now_ms() / 1000);
	struct tm tm;

	name_of(X509_get_subject_name(cert), subject, sizeof(subject));
	date_of(X509_get0_notBefore(cert), from);
	date_of(X509_get0_notAfter(cert), until);
	gmtime_r(&now, &tm);
	strftime(now_text, sizeof(now_text), "%Y-%m-%d %H:%M UTC", &tm);
	smtp_trouble_why(t, "the upstream's certificate (%s) %s: it is valid from %s to %s",
	    subject, expired ? "has expired" : "is not yet valid", from, until);
	smtp_trouble_fix(t,
	    "the upstream has to renew it; or this machine's clock is wrong (it says %s)",
	    now_text);
}

static void
explain_name(struct smtp_trouble *t, const struct config_upstream *u, X509 *cert)
{
	char names[300];

	names_of(cert, names, sizeof(names));
	smtp_trouble_why(t, "the upstream's certificate is for %s; not for %s", names, u->host);
	smtp_trouble_fix(
	    t, "set host of upstream \"%s\" to a name that the certificate has", u->name);
}

static void
explain_issuer(struct smtp_trouble *t, const struct config_upstream *u, X509 *cert, bool self)
{
	char issuer[160];

	name_of(X509_get_issuer_name(cert), issuer, sizeof(issuer));
	smtp_trouble_why(t,
	    self ? "the upstream's certificate is self-signed (%s)"
	         : "the upstream's certificate was issued by a CA unknown here: %s",
	    issuer);
	if (u->tls_ca != NULL)
		smtp_trouble_fix(t,
		    "tls-ca of upstream \"%s\" is %s: put that CA's certificate there, or pin this "
		    "one "
		    "with tls-fingerprint",
		    u->name, u->tls_ca);
	else
		smtp_trouble_fix(t,
		    "set tls-ca of upstream \"%s\" to a file with that CA's certificate (public "
		    "CAs come "
		    "with the package ca-certificates), or pin this one with tls-fingerprint",
		    u->name);
}

void
tls_explain_certificate(
    struct smtp_trouble *t, const struct config_upstream *u, X509 *cert, int error)
{
	switch (error) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
	case X509_V_ERR_CERT_NOT_YET_VALID:
		explain_dates(t, cert, error == X509_V_ERR_CERT_HAS_EXPIRED);
		break;
	case X509_V_ERR_HOSTNAME_MISMATCH:
	case X509_V_ERR_IP_ADDRESS_MISMATCH:
		explain_name(t, u, cert);
		break;
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
		explain_issuer(t, u, cert, false);
		break;
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
		explain_issuer(t, u, cert, true);
		break;
	default:
		smtp_trouble_why(t, "the upstream's certificate was refused: %s",
		    X509_verify_cert_error_string(error));
		smtp_trouble_fix(t, "the upstream has to mend its certificate");
	}
}

/* ---- the handshake, and after it ---- */

/* TLS 1.3 tells a client that its certificate was refused only after the handshake. */
static void
suggest_client_certificate(struct smtp_trouble *t, const struct config_upstream *u, int reason)
{
	if (reason != SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED &&
	    reason != SSL_R_SSLV3_ALERT_BAD_CERTIFICATE &&
	    reason != SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED &&
	    reason != SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN &&
	    reason != SSL_R_TLSV1_ALERT_UNKNOWN_CA)
		return;
	smtp_trouble_fix(t,
	    "the upstream wants another client certificate: tls-cert and tls-key of upstream "
	    "\"%s\"",
	    u->name);
}

void
tls_explain_handshake(struct smtp_trouble *t, const struct config_upstream *u)
{
	unsigned long e = ERR_peek_last_error();
	int reason = ERR_GET_REASON(e);

	if (t->why[0] != '\0')
		return;
	if (reason == SSL_R_UNSUPPORTED_PROTOCOL || reason == SSL_R_TLSV1_ALERT_PROTOCOL_VERSION ||
	    reason == SSL_R_VERSION_TOO_LOW) {
		smtp_trouble_why(t, "the upstream has only TLS older than 1.2, which is broken");
		smtp_trouble_fix(t, "the upstream has to be upgraded");
	} else if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST ||
	           reason == SSL_R_PACKET_LENGTH_TOO_LONG ||
	           reason == SSL_R_RECORD_LENGTH_MISMATCH) {
		smtp_trouble_why(t, "the upstream does not speak TLS on port %u", u->port);
		smtp_trouble_fix(t,
		    "check port and tls of upstream \"%s\": 465 wants tls = implicit, 587 and 25 "
		    "want tls "
		    "= starttls",
		    u->name);
	} else {
		smtp_trouble_why(t, "the TLS handshake failed: %s", tls_explain_reason());
		suggest_client_certificate(t, u, reason);
	}
}

void
tls_explain_broken(struct smtp_trouble *t, const struct config_upstream *u)
{
	smtp_trouble_why(t, "TLS broke down: %s", tls_explain_reason());
	suggest_client_certificate(t, u, ERR_GET_REASON(ERR_peek_last_error()));
}
