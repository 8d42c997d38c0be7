# The benchmark's ends are built for `make bench` only: BENCH="--quick --only c,g" gives it arguments.
EXTRA_PROGRAMS += $(bench_programs)
bench_programs = bench-load bench-sink bench-far bench-nest
bench_load_SOURCES = tests/bench/load.c tests/bench/wire.c tests/bench/wire.h tests/bench/end.c tests/bench/end.h
bench_load_CFLAGS = $(AM_CFLAGS) $(EVENT_CFLAGS) $(OPENSSL_CFLAGS)
bench_load_LDADD = $(EVENT_LIBS) $(EVENT_NET_LIBS) $(OPENSSL_LIBS) -lm
bench_sink_SOURCES = tests/bench/sink.c tests/bench/wire.c tests/bench/wire.h tests/bench/end.c tests/bench/end.h
bench_sink_CFLAGS = $(bench_load_CFLAGS)
bench_sink_LDADD = $(EVENT_LIBS) $(EVENT_NET_LIBS) $(OPENSSL_LIBS)
bench_far_SOURCES = tests/bench/far.c tests/bench/wire.c tests/bench/wire.h tests/bench/end.c tests/bench/end.h
bench_far_CFLAGS = $(bench_load_CFLAGS)
bench_far_LDADD = $(EVENT_LIBS) $(EVENT_NET_LIBS) $(OPENSSL_LIBS)
bench_nest_SOURCES = tests/bench/nest.c
CLEANFILES += $(bench_programs)
EXTRA_DIST += tests/bench/run tests/bench/ends.py tests/bench/measures.py tests/bench/meter.py \
	tests/bench/table.py tests/bench/peers/__init__.py tests/bench/peers/peer.py \
	tests/bench/peers/relayd.py tests/bench/peers/postfix.py tests/bench/peers/opensmtpd.py \
	tests/bench/peers/exim.py
bench: all $(bench_programs)
	$(srcdir)/tests/bench/run $(abs_builddir) $(BENCH)
.PHONY: bench
