fuzz_targets += fuzz_client fuzz_dsn
fuzz_client_SOURCES = tests/fuzz/fuzz_client.c $(FUZZ_MAIN)
fuzz_client_LDFLAGS = $(FUZZ_LINK)
fuzz_client_LDADD = $(SMTP_LIBS) libbase.a
fuzz_dsn_SOURCES = tests/fuzz/fuzz_dsn.c $(FUZZ_MAIN)
fuzz_dsn_LDFLAGS = $(FUZZ_LINK)
fuzz_dsn_LDADD = $(SMTP_LIBS) libbase.a
EXTRA_DIST += tests/fuzz/seeds/fuzz_client tests/fuzz/seeds/fuzz_dsn
