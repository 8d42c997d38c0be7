if HAVE_CMOCKA
client_unit_tests = test_conn
check_PROGRAMS += $(client_unit_tests)
TESTS += $(client_unit_tests)
test_conn_SOURCES = tests/unit/test_conn.c
test_conn_CPPFLAGS = $(AM_CPPFLAGS) -DFAKE_UPSTREAM='"$(abs_srcdir)/tests/unit/fake_upstream.py"'
test_conn_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(EVENT_CFLAGS)
test_conn_LDADD = $(DELIVERY_LIBS) $(BASE_LIBS) $(CMOCKA_LIBS)
endif
EXTRA_DIST += tests/unit/fake_upstream.py
