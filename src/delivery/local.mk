# Two libraries: what relayctl needs to show a queue without the daemon, and the rest: first the
# connections to upstreams, then the queue and what is around it.
noinst_LIBRARIES += libreport.a libdelivery.a
libreport_a_SOURCES = src/delivery/report.h src/delivery/report.c src/delivery/report_row.h \
	src/delivery/report_row.c
libreport_a_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
REPORT_LIBS = libreport.a $(JANSSON_LIBS)

libdelivery_a_SOURCES = src/delivery/job.h src/delivery/conn.h src/delivery/conn_parts.h src/delivery/conn.c \
	src/delivery/conn_connect.c src/delivery/conn_wait.c src/delivery/conn_wire.c \
	src/delivery/tls.h src/delivery/tls.c src/delivery/tls_explain.h src/delivery/tls_explain.c \
	src/delivery/resolver.h src/delivery/resolver.c src/delivery/sasl.h src/delivery/sasl.c
libdelivery_a_CFLAGS = $(AM_CFLAGS) $(EVENT_CFLAGS) $(EVENT_NET_CFLAGS) $(OPENSSL_CFLAGS) $(GSASL_CFLAGS) \
	$(JANSSON_CFLAGS)
DELIVERY_LIBS = libdelivery.a libsmtp.a $(BASE_LIBS) $(EVENT_NET_LIBS) $(EVENT_LIBS) $(OPENSSL_LIBS) $(GSASL_LIBS)

libdelivery_a_SOURCES += src/delivery/breaker.h src/delivery/breaker.c src/delivery/classify.h \
	src/delivery/classify.c src/delivery/control.h src/delivery/pace.h src/delivery/pace.c \
	src/delivery/queue.h src/delivery/queue.c src/delivery/retry.h src/delivery/retry.c
libdelivery_a_SOURCES += src/delivery/compaction.h src/delivery/compaction.c
libdelivery_a_SOURCES += src/delivery/attempt.h src/delivery/attempt.c src/delivery/delivery.h \
	src/delivery/delivery.c src/delivery/history.h src/delivery/history.c \
	src/delivery/mail.h src/delivery/mail.c src/delivery/notify.h \
	src/delivery/notify.c src/delivery/outcome.h src/delivery/outcome.c src/delivery/secret.h \
	src/delivery/secret.c src/delivery/upstream.h src/delivery/upstream_parts.h src/delivery/upstream.c \
	src/delivery/upstream_health.c src/delivery/upstream_link.c src/delivery/request.h \
	src/delivery/control.c src/delivery/control_change.c src/delivery/control_queue.c \
	src/delivery/control_status.c src/delivery/control_test.c
libdelivery_a_SOURCES += src/delivery/confine.h src/delivery/confine.c
pkglibexec_PROGRAMS += relayd-delivery
relayd_delivery_SOURCES = src/relayd-delivery.c
relayd_delivery_CFLAGS = $(AM_CFLAGS) $(EVENT_CFLAGS)
relayd_delivery_LDADD = $(DELIVERY_LIBS) $(REPORT_LIBS) $(SPOOL_LIBS) $(BASE_LIBS) $(XXHASH_LIBS)
