if HAVE_CMOCKA
client_unit_tests = test_client test_in_step test_dsn_message test_sasl test_tls test_conn
check_PROGRAMS += $(client_unit_tests)
TESTS += $(client_unit_tests)
test_client_SOURCES = tests/unit/test_client.c
test_client_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_client_LDADD = $(SMTP_LIBS) $(BASE_LIBS) $(CMOCKA_LIBS)
test_in_step_SOURCES = tests/unit/test_in_step.c
test_in_step_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_in_step_LDADD = $(SMTP_LIBS) $(BASE_LIBS) $(CMOCKA_LIBS)
test_dsn_message_SOURCES = tests/unit/test_dsn_message.c
test_dsn_message_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_dsn_message_LDADD = $(SMTP_LIBS) $(BASE_LIBS) $(CMOCKA_LIBS)
test_sasl_SOURCES = tests/unit/test_sasl.c
test_sasl_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(GSASL_CFLAGS)
test_sasl_LDADD = $(DELIVERY_LIBS) $(BASE_LIBS) $(CMOCKA_LIBS)
test_tls_SOURCES = tests/unit/test_tls.c
test_tls_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(OPENSSL_CFLAGS)
test_tls_LDADD = $(DELIVERY_LIBS) $(BASE_LIBS) $(CMOCKA_LIBS)
test_conn_SOURCES = tests/unit/test_conn.c
test_conn_CPPFLAGS = $(AM_CPPFLAGS) -DFAKE_UPSTREAM='"$(abs_srcdir)/tests/unit/fake_upstream.py"'
test_conn_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(EVENT_CFLAGS)
test_conn_LDADD = $(DELIVERY_LIBS) $(BASE_LIBS) $(CMOCKA_LIBS)
endif
EXTRA_DIST += tests/unit/fake_upstream.py
