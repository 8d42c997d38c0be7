# relayctl: looks at the queue and asks delivery.
noinst_LIBRARIES += libctl.a
libctl_a_SOURCES = src/ctl/ctl.h src/ctl/ctl.c src/ctl/commands.h \
	src/ctl/base64.h src/ctl/base64.c \
	src/ctl/ctl_socket.h src/ctl/ctl_socket.c src/ctl/ctl_offline.h src/ctl/ctl_offline.c \
	src/ctl/ctl_status.c src/ctl/ctl_queue.c src/ctl/ctl_show.c src/ctl/ctl_change.c \
	src/ctl/ctl_test.c src/ctl/ctl_config.c
libctl_a_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
bin_PROGRAMS += relayctl
relayctl_SOURCES = src/relayctl.c
relayctl_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
relayctl_LDADD = libctl.a libreport.a $(SPOOL_LIBS) $(BASE_LIBS) $(JANSSON_LIBS) $(XXHASH_LIBS)
