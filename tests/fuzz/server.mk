fuzz_targets += fuzz_server
fuzz_server_SOURCES = tests/fuzz/fuzz_server.c $(FUZZ_MAIN)
fuzz_server_LDFLAGS = $(FUZZ_LINK)
fuzz_server_LDADD = $(SMTP_LIBS) libbase.a
fuzz_targets += fuzz_header
fuzz_header_SOURCES = tests/fuzz/fuzz_header.c $(FUZZ_MAIN)
fuzz_header_LDFLAGS = $(FUZZ_LINK)
fuzz_header_LDADD = $(SMTP_LIBS) libbase.a
EXTRA_DIST += tests/fuzz/seeds/fuzz_server tests/fuzz/seeds/fuzz_header tests/fuzz/server.words

# The same target over random commands, in every make check.
if !FUZZING
check_PROGRAMS += replay_server
replay_server_SOURCES = tests/fuzz/fuzz_server.c tests/fuzz/replay_words.c
replay_server_LDADD = $(SMTP_LIBS) libbase.a
dist_check_SCRIPTS += tests/fuzz/random_commands
TESTS += tests/fuzz/random_commands
endif
