fuzz_targets += fuzz_config fuzz_log
fuzz_config_SOURCES = tests/fuzz/fuzz_config.c $(FUZZ_MAIN)
fuzz_config_LDADD = $(BASE_LIBS)
fuzz_config_LDFLAGS = $(FUZZ_LINK)
fuzz_log_SOURCES = tests/fuzz/fuzz_log.c $(FUZZ_MAIN)
fuzz_log_LDADD = $(BASE_LIBS)
fuzz_log_LDFLAGS = $(FUZZ_LINK)
EXTRA_DIST += tests/fuzz/seeds/fuzz_config tests/fuzz/seeds/fuzz_log
