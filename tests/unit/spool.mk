if HAVE_CMOCKA
SPOOL_TESTS = test_spool_writer
check_PROGRAMS += $(SPOOL_TESTS)
TESTS += $(SPOOL_TESTS)
test_spool_writer_SOURCES = tests/unit/test_spool_writer.c tests/unit/spool_fixture.h
test_spool_writer_CPPFLAGS = $(AM_CPPFLAGS) $(CMOCKA_CFLAGS)
test_spool_writer_LDADD = $(SPOOL_LIBS) libbase.a $(CMOCKA_LIBS)
endif
