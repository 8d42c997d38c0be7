# Two libraries: what relayctl needs to show a queue without the daemon, and the rest: first the
# connections to upstreams, then the queue and what is around it.
noinst_LIBRARIES += libreport.a libdelivery.a
libreport_a_SOURCES = src/delivery/report.h src/delivery/report.c
libreport_a_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
REPORT_LIBS = libreport.a $(JANSSON_LIBS)

libdelivery_a_SOURCES = src/delivery/job.h src/delivery/conn.h src/delivery/tls.h src/delivery/resolver.h \
	src/delivery/sasl.h
libdelivery_a_CFLAGS = $(AM_CFLAGS) $(EVENT_CFLAGS) $(EVENT_NET_CFLAGS) $(OPENSSL_CFLAGS) $(GSASL_CFLAGS) \
	$(JANSSON_CFLAGS)
DELIVERY_LIBS = libdelivery.a libsmtp.a $(EVENT_NET_LIBS) $(EVENT_LIBS) $(OPENSSL_LIBS) $(GSASL_LIBS)

libdelivery_a_SOURCES += src/delivery/breaker.h src/delivery/breaker.c src/delivery/classify.h \
	src/delivery/classify.c src/delivery/control.h src/delivery/pace.h src/delivery/pace.c \
	src/delivery/queue.h src/delivery/queue.c src/delivery/retry.h src/delivery/retry.c
