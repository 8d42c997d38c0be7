# The generator and the sink are built for `make bench` only: BENCH="--quick" gives it arguments.
EXTRA_PROGRAMS = bench-load bench-sink
bench_load_SOURCES = tests/bench/load.c tests/bench/wire.c tests/bench/wire.h
bench_load_CFLAGS = $(AM_CFLAGS) $(EVENT_CFLAGS) $(OPENSSL_CFLAGS)
bench_load_LDADD = $(EVENT_LIBS) $(OPENSSL_LIBS) -lm
bench_sink_SOURCES = tests/bench/sink.c tests/bench/wire.c tests/bench/wire.h
bench_sink_CFLAGS = $(bench_load_CFLAGS)
bench_sink_LDADD = $(EVENT_LIBS) $(EVENT_NET_LIBS) $(OPENSSL_LIBS)
CLEANFILES += bench-load bench-sink
EXTRA_DIST += tests/bench/run
bench: all bench-load bench-sink
	RELAYD_BUILD=$(abs_builddir) $(srcdir)/tests/bench/run $(BENCH)
.PHONY: bench
