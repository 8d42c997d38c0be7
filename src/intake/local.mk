noinst_LIBRARIES += libintake.a
libintake_a_SOURCES = src/intake/intake.h src/intake/intake.c src/intake/session.h src/intake/session.c \
	src/intake/message.h src/intake/message.c src/intake/listener.h src/intake/listener.c \
	src/intake/peer.h src/intake/peer.c src/intake/tally.h src/intake/tally.c
libintake_a_CFLAGS = $(AM_CFLAGS) $(EVENT_CFLAGS)
