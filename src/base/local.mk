noinst_LIBRARIES += libbase.a
libbase_a_SOURCES = src/base/span.h src/base/base.h src/base/base.c src/base/queue_id.h src/base/queue_id.c \
	src/base/log.h src/base/log.c src/base/events.h src/base/events.c src/base/config.h
libbase_a_CFLAGS = $(AM_CFLAGS) $(EVENT_CFLAGS) $(CONFUSE_CFLAGS) $(SYSTEMD_CFLAGS) $(SECCOMP_CFLAGS)
BASE_LIBS = libbase.a $(CONFUSE_LIBS) $(SYSTEMD_LIBS) $(EVENT_LIBS) $(SECCOMP_LIBS)
libbase_a_SOURCES += src/base/worker.h src/base/worker.c src/base/loop.h src/base/loop.c \
	src/base/sandbox.h src/base/sandbox.c
libbase_a_SOURCES += src/base/os.h src/base/os.c
