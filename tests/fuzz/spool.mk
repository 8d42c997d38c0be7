fuzz_targets += fuzz_spool
fuzz_spool_SOURCES = tests/fuzz/fuzz_spool.c $(FUZZ_MAIN)
fuzz_spool_LDFLAGS = $(FUZZ_LINK)
fuzz_spool_LDADD = $(SPOOL_LIBS) libbase.a
EXTRA_DIST += tests/fuzz/seeds/fuzz_spool
