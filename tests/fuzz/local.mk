# Fuzz targets. ./configure CC=clang --enable-fuzzing --enable-sanitizers && make fuzz [FUZZ=spool]
# Each room adds its own (tests/fuzz/<room>.mk): a name to fuzz_targets and its _SOURCES and _LDADD.
# A target's seeds stand in tests/fuzz/seeds/<target>/, if it has some; what fuzzing finds goes to
# ./fuzz-<target>/ in the build directory. Without --enable-fuzzing a target that adds $(FUZZ_MAIN) to its
# sources gets a main() that replays files; `make check` gives each target that is built its seeds.
FUZZ =
FUZZ_SECONDS = 30
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
EXTRA_DIST += tests/fuzz/replay.c
dist_check_SCRIPTS += tests/fuzz/replay_seeds
TESTS += tests/fuzz/replay_seeds

if FUZZING
noinst_PROGRAMS += $(fuzz_targets)
fuzz: $(fuzz_targets)
	@for target in $(fuzz_targets); do \
		test -z "$(FUZZ)" || test "$$target" = "fuzz_$(FUZZ)" || continue; \
		seeds=$(srcdir)/tests/fuzz/seeds/$$target; \
		test -d $$seeds || seeds=; \
		mkdir -p fuzz-$$target; \
		echo "== $$target"; \
		./$$target -max_total_time=$(FUZZ_SECONDS) -timeout=10 -verbosity=0 -print_final_stats=1 \
			-artifact_prefix=fuzz-$$target/ fuzz-$$target $$seeds || exit 1; \
	done
else
check_PROGRAMS += $(fuzz_targets)
endif
.PHONY: fuzz
