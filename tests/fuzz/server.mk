fuzz_targets += fuzz_server
fuzz_server_SOURCES = tests/fuzz/fuzz_server.c tests/fuzz/model_server.h tests/fuzz/model_server.c $(FUZZ_MAIN)
fuzz_server_LDFLAGS = $(FUZZ_LINK)
fuzz_server_LDADD = $(SMTP_LIBS) libbase.a
fuzz_targets += fuzz_header
fuzz_header_SOURCES = tests/fuzz/fuzz_header.c $(FUZZ_MAIN)
fuzz_header_LDFLAGS = $(FUZZ_LINK)
fuzz_header_LDADD = $(SMTP_LIBS) libbase.a
EXTRA_DIST += tests/fuzz/header.dict tests/fuzz/seeds/fuzz_server tests/fuzz/seeds/fuzz_header tests/fuzz/server.dict
fuzz_targets += fuzz_sendmail
fuzz_sendmail_SOURCES = tests/fuzz/fuzz_sendmail.c tests/fuzz/model_server.h tests/fuzz/model_server.c $(FUZZ_MAIN)
fuzz_sendmail_LDFLAGS = $(FUZZ_LINK)
fuzz_sendmail_LDADD = libsendmail.a $(SMTP_LIBS) $(BASE_LIBS)
EXTRA_DIST += tests/fuzz/sendmail.dict tests/fuzz/seeds/fuzz_sendmail

# The same target over random commands, in every make check.
if !FUZZING
check_PROGRAMS += replay_server
replay_server_SOURCES = tests/fuzz/fuzz_server.c tests/fuzz/model_server.h tests/fuzz/model_server.c \
	tests/fuzz/replay_words.c
replay_server_LDADD = $(SMTP_LIBS) libbase.a
dist_check_SCRIPTS += tests/fuzz/random_commands
TESTS += tests/fuzz/random_commands
endif
