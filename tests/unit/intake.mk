if HAVE_CMOCKA
intake_unit_tests = test_tally test_refusals test_peer test_loop test_sandbox test_message
check_PROGRAMS += $(intake_unit_tests)
TESTS += $(intake_unit_tests)
test_tally_SOURCES = tests/unit/test_tally.c
test_tally_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_tally_LDADD = libintake.a $(BASE_LIBS) $(CMOCKA_LIBS)
test_refusals_SOURCES = tests/unit/test_refusals.c
test_refusals_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_refusals_LDADD = libintake.a $(BASE_LIBS) $(CMOCKA_LIBS)
test_peer_SOURCES = tests/unit/test_peer.c
test_peer_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_peer_LDADD = libintake.a $(BASE_LIBS) $(CMOCKA_LIBS)
test_loop_SOURCES = tests/unit/test_loop.c
test_loop_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(EVENT_CFLAGS)
test_loop_LDADD = $(BASE_LIBS) $(CMOCKA_LIBS)
test_sandbox_SOURCES = tests/unit/test_sandbox.c
test_sandbox_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_sandbox_LDADD = $(BASE_LIBS) $(CMOCKA_LIBS)
test_message_SOURCES = tests/unit/test_message.c src/intake/message.c
test_message_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(EVENT_CFLAGS)
test_message_LDADD = $(SMTP_LIBS) $(SPOOL_LIBS) $(BASE_LIBS) $(CMOCKA_LIBS)
endif
