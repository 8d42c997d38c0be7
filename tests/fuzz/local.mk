# libFuzzer targets: ./configure CC=clang --enable-fuzzing --enable-sanitizers && make fuzz
# Each room adds its own (tests/fuzz/<room>.mk): a name to fuzz_targets and its _SOURCES and _LDADD.
# A target's seeds stand in tests/fuzz/seeds/<target>/, if it has some; what fuzzing finds goes to
# ./fuzz-<target>/ in the build directory.
FUZZ_SECONDS = 30
FUZZ_LINK = $(AM_LDFLAGS) -fsanitize=fuzzer
fuzz_targets =
include tests/fuzz/base.mk

if FUZZING
noinst_PROGRAMS += $(fuzz_targets)
fuzz: $(fuzz_targets)
	@for target in $(fuzz_targets); do \
		seeds=$(srcdir)/tests/fuzz/seeds/$$target; \
		test -d $$seeds || seeds=; \
		mkdir -p fuzz-$$target; \
		echo "== $$target"; \
		./$$target -max_total_time=$(FUZZ_SECONDS) -timeout=10 -verbosity=0 -print_final_stats=1 \
			-artifact_prefix=fuzz-$$target/ fuzz-$$target $$seeds || exit 1; \
	done
endif
.PHONY: fuzz
