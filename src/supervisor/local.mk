# relayd itself: the supervisor.
noinst_LIBRARIES += libsupervisor.a
libsupervisor_a_SOURCES = src/supervisor/supervisor.h src/supervisor/supervisor.c \
	src/supervisor/acquire.h src/supervisor/acquire.c \
	src/supervisor/child.h src/supervisor/child.c \
	src/supervisor/generation.h src/supervisor/generation.c \
	src/supervisor/listeners.h src/supervisor/listeners.c \
	src/supervisor/page.h src/supervisor/page.c \
	src/supervisor/password.h src/supervisor/password.c \
	src/supervisor/port_owner.h src/supervisor/port_owner.c \
	src/supervisor/privileges.h src/supervisor/privileges.c \
	src/supervisor/service_manager.h src/supervisor/service_manager.c \
	src/supervisor/spool_home.h src/supervisor/spool_home.c \
	src/supervisor/watch.h src/supervisor/watch.c
libsupervisor_a_CFLAGS = $(AM_CFLAGS) $(EVENT_CFLAGS) $(SYSTEMD_CFLAGS)
sbin_PROGRAMS += relayd
relayd_SOURCES = src/relayd.c
relayd_LDADD = libsupervisor.a $(SPOOL_LIBS) $(BASE_LIBS) $(XXHASH_LIBS)
