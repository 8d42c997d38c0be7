/* tls.h - TLS towards an upstream; only tls*.c meet OpenSSL. TLS 1.2 and up, the chain and
 * the configured host name (or IP) verified, SNI, the system's CA store or the configured file, client
 * certificate, fingerprint pin, resumption bound to the upstream's own context.
 *
 * A session is a pure transformation between wire bytes and plain bytes: it never touches a socket.
 * What fails gives words: why (dates, names presented, issuer) and fix (the setting to change). */
#ifndef RELAYD_DELIVERY_TLS_H
#define RELAYD_DELIVERY_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/base.h"
#include "base/config.h"
#include "base/span.h"
#include "smtp/buffer.h"
#include "smtp/client.h"

/* Once, before anything else of OpenSSL: where there is no memory the process ends as in xcalloc().
 * OpenSSL's allocations are bounded by what TLS allows a peer to send, and it does not come back to
 * life by itself when one failed at the wrong moment: its start is tried only once. */
void tls_use_memory(void);

/* One per upstream: settings, trust store, client certificate, sessions to resume. */
struct tls_client;

/* Gives *out, ended by tls_client_close() after its sessions. `upstream` is borrowed for its life.
 * Fails (-EINVAL, -ENOENT...) with `trouble` telling which file is wrong and how. */
int tls_client_open(const struct config_upstream *upstream, struct tls_client **out,
    struct smtp_trouble *trouble) MUST_CHECK;
void tls_client_close(struct tls_client *tls);

/* One per connection. */
struct tls_session;

struct tls_session *tls_session_new(struct tls_client *tls);
void tls_session_free(struct tls_session *s);

enum tls_result {
	TLS_DONE,   /* hand shaken and verified */
	TLS_MORE,   /* needs bytes from the wire */
	TLS_EOF,    /* close_notify: nothing more will come */
	TLS_FAILED, /* tls_session_trouble() */
};

/* Wire bytes in: they are used up by the calls below, or kept. */
void tls_session_input(struct tls_session *s, struct span wire);
/* Wire bytes out: drain what was sent. */
struct smtp_buffer *tls_session_output(struct tls_session *s);

enum tls_result tls_session_handshake(struct tls_session *s);
/* Plain bytes that arrived: *len is 0 with TLS_MORE. Only after TLS_DONE. */
enum tls_result tls_session_read(struct tls_session *s, char *buf, size_t size, size_t *len);
/* Encrypts all of it into the output. false: failed. */
bool tls_session_write(struct tls_session *s, struct span plain) MUST_CHECK;
void tls_session_shutdown(struct tls_session *s); /* close_notify into the output */

const struct smtp_trouble *tls_session_trouble(const struct tls_session *s);
/* "TLSv1.3 TLS_AES_256_GCM_SHA384, resumed"; valid as long as the session. */
const char *tls_session_name(const struct tls_session *s);

/* Channel bindings (32 bytes of RFC 9266 tls-exporter, or tls-unique with TLS 1.2 that hand shook in
 * full with extended master secret). Returns the length, 0 if not to be had. */
size_t tls_session_exporter(const struct tls_session *s, unsigned char out[64]);
size_t tls_session_unique(const struct tls_session *s, unsigned char out[64]);

#endif
