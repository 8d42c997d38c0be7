TESTS += tests/unit/test_sendmail.py
dist_check_SCRIPTS += tests/unit/test_sendmail.py
# relayd-sendmail that waits for seconds where the real one waits for minutes, and looks for the socket and
# relayd.conf where it is started
check_PROGRAMS += hasty-sendmail
hasty_sendmail_SOURCES = src/relayd-sendmail.c $(libsendmail_a_SOURCES)
hasty_sendmail_CPPFLAGS = $(relayd_sendmail_CPPFLAGS) -DREACH_WAIT_S=2 -DREACH_GREETING_WAIT_S=1 \
	-DREACH_SOCKET='"submit"' -URELAYD_SYSCONFDIR -DRELAYD_SYSCONFDIR='"."'
hasty_sendmail_CFLAGS = $(AM_CFLAGS)
hasty_sendmail_LDADD = $(SMTP_LIBS) $(BASE_LIBS)

if HAVE_CMOCKA
smtp_server_unit_tests = test_server test_syntax test_vectors
check_PROGRAMS += $(smtp_server_unit_tests)
TESTS += $(smtp_server_unit_tests)
test_server_SOURCES = tests/unit/test_server.c
test_server_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_server_LDADD = $(SMTP_LIBS) libbase.a $(CMOCKA_LIBS)
test_syntax_SOURCES = tests/unit/test_syntax.c
test_syntax_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_syntax_LDADD = $(SMTP_LIBS) libbase.a $(CMOCKA_LIBS)
test_vectors_SOURCES = tests/unit/test_vectors.c tests/unit/figures.h
test_vectors_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_vectors_LDADD = $(SMTP_LIBS) libbase.a $(CMOCKA_LIBS)
endif
