check_PROGRAMS += run_dialogues
run_dialogues_SOURCES = tests/dialogues/run_dialogues.c
run_dialogues_LDADD = $(SMTP_LIBS) libbase.a
TESTS += run_dialogues
EXTRA_DIST += tests/dialogues/README tests/dialogues/end-of-data.vectors $(DIALOGUES)
DIALOGUES = \
	tests/dialogues/addresses.txt \
	tests/dialogues/auth.txt \
	tests/dialogues/auth_initial.txt \
	tests/dialogues/auth_plain.txt \
	tests/dialogues/bdat.txt \
	tests/dialogues/bdat_bad1.txt \
	tests/dialogues/bdat_bad2.txt \
	tests/dialogues/bdat_bad3.txt \
	tests/dialogues/bdat_bad4.txt \
	tests/dialogues/bdat_bad5.txt \
	tests/dialogues/bdat_bad6.txt \
	tests/dialogues/bdat_bad7.txt \
	tests/dialogues/bdat_bad8.txt \
	tests/dialogues/bdat_bad9.txt \
	tests/dialogues/bdat_errors.txt \
	tests/dialogues/commands.txt \
	tests/dialogues/helo.txt \
	tests/dialogues/http.txt \
	tests/dialogues/line_end_reject.txt \
	tests/dialogues/line_ends.txt \
	tests/dialogues/long_command_pieces.txt \
	tests/dialogues/long_line.txt \
	tests/dialogues/loop.txt \
	tests/dialogues/loop_own.txt \
	tests/dialogues/nul_space.txt \
	tests/dialogues/parameters.txt \
	tests/dialogues/pipelining.txt \
	tests/dialogues/pipelining_all_refused.txt \
	tests/dialogues/results.txt \
	tests/dialogues/session.txt \
	tests/dialogues/smtputf8.txt \
	tests/dialogues/sync_data.txt \
	tests/dialogues/sync_ehlo.txt \
	tests/dialogues/sync_noop.txt \
	tests/dialogues/sync_quit.txt \
	tests/dialogues/tls_hello.txt \
	tests/dialogues/too_large.txt \
	tests/dialogues/too_many_commands.txt \
	tests/dialogues/too_many_errors.txt \
	tests/dialogues/too_many_recipients.txt
