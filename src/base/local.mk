noinst_LIBRARIES += libbase.a
libbase_a_SOURCES = src/base/span.h src/base/base.h src/base/base.c src/base/queue_id.h src/base/queue_id.c \
	src/base/log.h src/base/log.c src/base/events.h src/base/events.c src/base/config.h \
	src/base/config.c src/base/config_make.c src/base/config_validate.c src/base/config_print.c src/base/config_check.c src/base/config_doubts.c src/base/draft.h \
	src/base/options.h src/base/options.c src/base/presets.h src/base/presets.c \
	src/base/units.h src/base/units.c src/base/netaddr.h src/base/netaddr.c
libbase_a_CFLAGS = $(AM_CFLAGS) $(EVENT_CFLAGS) $(CONFUSE_CFLAGS) $(SYSTEMD_CFLAGS) $(SECCOMP_CFLAGS)
BASE_LIBS = libbase.a $(CONFUSE_LIBS) $(SYSTEMD_LIBS) $(EVENT_LIBS) $(SECCOMP_LIBS)
libbase_a_SOURCES += src/base/hash.h src/base/worker.h src/base/worker.c src/base/loop.h src/base/loop.c \
	src/base/sandbox.h src/base/sandbox.c
libbase_a_SOURCES += src/base/os.h src/base/os.c src/base/service.h src/base/service.c src/base/guess.h src/base/guess.c
