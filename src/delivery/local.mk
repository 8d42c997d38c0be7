noinst_LIBRARIES += libdelivery.a
libdelivery_a_SOURCES = src/delivery/job.h src/delivery/conn.h src/delivery/tls.h src/delivery/resolver.h \
	src/delivery/sasl.h
libdelivery_a_CFLAGS = $(AM_CFLAGS) $(EVENT_CFLAGS) $(EVENT_NET_CFLAGS) $(OPENSSL_CFLAGS) $(GSASL_CFLAGS)
DELIVERY_LIBS = libdelivery.a libsmtp.a $(EVENT_NET_LIBS) $(EVENT_LIBS) $(OPENSSL_LIBS) $(GSASL_LIBS)
