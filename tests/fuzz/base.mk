EXTRA_DIST += tests/fuzz/seeds/fuzz_config/everything.conf tests/fuzz/seeds/fuzz_config/smallest.conf
if FUZZING
fuzz_targets += fuzz_config fuzz_log
fuzz_config_SOURCES = tests/fuzz/fuzz_config.c
fuzz_config_LDADD = $(BASE_LIBS)
fuzz_config_LDFLAGS = $(FUZZ_LINK)
fuzz_log_SOURCES = tests/fuzz/fuzz_log.c
fuzz_log_LDADD = $(BASE_LIBS)
fuzz_log_LDFLAGS = $(FUZZ_LINK)
endif
