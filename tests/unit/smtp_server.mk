TESTS += tests/unit/test_sendmail.py
dist_check_SCRIPTS += tests/unit/test_sendmail.py

if HAVE_CMOCKA
smtp_server_unit_tests = test_server test_syntax
check_PROGRAMS += $(smtp_server_unit_tests)
TESTS += $(smtp_server_unit_tests)
test_server_SOURCES = tests/unit/test_server.c
test_server_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_server_LDADD = $(SMTP_LIBS) libbase.a $(CMOCKA_LIBS)
test_syntax_SOURCES = tests/unit/test_syntax.c
test_syntax_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_syntax_LDADD = $(SMTP_LIBS) libbase.a $(CMOCKA_LIBS)
endif
