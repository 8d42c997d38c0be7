/* tls_explain.h - what fails in TLS, in words: why (dates, names presented, issuer) and fix (the setting of the
 * upstream to change). What OpenSSL has to say is taken from its queue of errors, and stays there. */
#ifndef RELAYD_DELIVERY_TLS_EXPLAIN_H
#define RELAYD_DELIVERY_TLS_EXPLAIN_H

#include <openssl/x509.h>

#include "base/config.h"
#include "smtp/client.h"

/* The last error, as OpenSSL puts it. */
const char *tls_explain_reason(void);

/* A file that a setting names cannot be used; OpenSSL does not always tell why. Returns -errno, -EINVAL where
 * its content is at fault. */
int tls_explain_file(struct smtp_trouble *t, const char *setting, const char *file);

/* The verification of a certificate failed; error: X509_V_ERR_... */
void tls_explain_certificate(
    struct smtp_trouble *t, const struct config_upstream *u, X509 *cert, int error);
/* The handshake failed. Where the reason is known already it stands. */
void tls_explain_handshake(struct smtp_trouble *t, const struct config_upstream *u);
/* It failed after the handshake. */
void tls_explain_broken(struct smtp_trouble *t, const struct config_upstream *u);

#endif
