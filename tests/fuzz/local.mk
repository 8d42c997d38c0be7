# Fuzz targets: make fuzz [FUZZ=spool] [FUZZ_SECONDS=60]; make check-fuzz runs all of them.
# Each room adds its own (tests/fuzz/<room>.mk): a name to fuzz_targets and its _SOURCES and _LDADD.
# A target's seeds stand in tests/fuzz/seeds/<target>/, if it has some; what fuzzing finds goes to
# ./fuzz-<target>/ in the build directory (run_fuzzers). Without --enable-fuzzing a target that adds
# $(FUZZ_MAIN) to its sources gets a main() that replays files, `make check` gives each target its
# seeds, and `make fuzz` builds with clang in ./fuzzing/.
FUZZ =
FUZZ_SECONDS = 60
FUZZ_JOBS = 2
FUZZ_CC = clang
if FUZZING
FUZZ_MAIN =
FUZZ_LINK = $(AM_LDFLAGS) -fsanitize=fuzzer
else
FUZZ_MAIN = tests/fuzz/replay.c
FUZZ_LINK = $(AM_LDFLAGS)
endif
fuzz_targets =
include tests/fuzz/base.mk
include tests/fuzz/client.mk
include tests/fuzz/spool.mk
include tests/fuzz/server.mk
include tests/fuzz/ctl.mk
EXTRA_DIST += tests/fuzz/replay.c
dist_check_SCRIPTS += tests/fuzz/replay_seeds tests/fuzz/run_fuzzers tests/fuzz/dialogue_seeds
TESTS += tests/fuzz/replay_seeds

if FUZZING
noinst_PROGRAMS += $(fuzz_targets)
fuzz check-fuzz: $(fuzz_targets)
	@test -z "$(FUZZ)" || set -- fuzz_$(FUZZ); \
	test $$# -gt 0 || set -- $(fuzz_targets); \
	FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_JOBS=$(FUZZ_JOBS) $(srcdir)/tests/fuzz/run_fuzzers "$$@"
else
check_PROGRAMS += $(fuzz_targets)
fuzz check-fuzz:
	@mkdir -p fuzzing && here=$$(cd $(srcdir) && pwd) && cd fuzzing && \
	{ test -e config.status || "$$here/configure" -q CC="$(FUZZ_CC)" --enable-fuzzing --enable-sanitizers; }
	@$(MAKE) -C fuzzing -s all
	@$(MAKE) -C fuzzing --no-print-directory $@ FUZZ="$(FUZZ)" FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_JOBS=$(FUZZ_JOBS)
endif
.PHONY: fuzz check-fuzz
