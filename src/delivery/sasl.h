/* sasl.h - logging in: the mechanisms of libgsasl (met here only) and our own XOAUTH2 and OAUTHBEARER,
 * behind the client machine's struct smtp_auth. auth = auto takes the strongest that the upstream
 * offers and the secret allows; after a refusal there is no second, weaker try. */
#ifndef RELAYD_DELIVERY_SASL_H
#define RELAYD_DELIVERY_SASL_H

#include "base/config.h"
#include "base/span.h"
#include "smtp/client.h"

struct tls_session;
struct sasl;

/* `upstream` is borrowed for its life, the secret is copied and wiped at the end. data NULL: none. */
struct sasl *sasl_new(const struct config_upstream *upstream, struct span secret);
void sasl_free(struct sasl *sasl); /* before the tls session that it was told of */

/* For channel binding; borrowed. Call when TLS is up. */
void sasl_set_tls(struct sasl *sasl, const struct tls_session *tls);

/* NULL: nothing is configured to log in with, or auth = none. Lives as long as the sasl. */
struct smtp_auth *sasl_auth(struct sasl *sasl);

/* What the upstream said inside the mechanism before its refusal (OAuth's JSON); "". */
const char *sasl_refusal(const struct sasl *sasl);

#endif
