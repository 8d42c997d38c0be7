noinst_LIBRARIES += libintake.a
libintake_a_SOURCES = src/intake/intake.h src/intake/intake.c src/intake/session.h \
	src/intake/session_parts.h src/intake/session.c src/intake/session_log.c src/intake/session_wait.c \
	src/intake/message.h src/intake/message.c src/intake/listener.h src/intake/listener.c \
	src/intake/peer.h src/intake/peer.c src/intake/cgroup_search.h src/intake/cgroup_search.c src/intake/tally.h src/intake/tally.c \
	src/intake/refusals.h src/intake/refusals.c
libintake_a_CFLAGS = $(AM_CFLAGS) $(EVENT_CFLAGS)
pkglibexec_PROGRAMS += relayd-intake
relayd_intake_SOURCES = src/relayd-intake.c
relayd_intake_CFLAGS = $(AM_CFLAGS) $(EVENT_CFLAGS)
relayd_intake_LDADD = libintake.a $(SMTP_LIBS) $(SPOOL_LIBS) $(BASE_LIBS)
