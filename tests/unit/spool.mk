if HAVE_CMOCKA
SPOOL_TESTS = test_spool_writer test_spool_faults test_spool_damage test_spool_journal test_spool_golden test_spool_power
check_PROGRAMS += $(SPOOL_TESTS)
TESTS += $(SPOOL_TESTS)
test_spool_writer_SOURCES = tests/unit/test_spool_writer.c tests/unit/spool_fixture.h
test_spool_writer_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_spool_writer_LDADD = $(SPOOL_LIBS) libbase.a $(CMOCKA_LIBS)
test_spool_faults_SOURCES = tests/unit/test_spool_faults.c tests/unit/spool_fixture.h tests/unit/os_fault.h \
	tests/unit/os_fault.c
test_spool_faults_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_spool_faults_LDADD = $(SPOOL_LIBS) libbase.a $(CMOCKA_LIBS)
test_spool_damage_SOURCES = tests/unit/test_spool_damage.c tests/unit/spool_fixture.h
test_spool_damage_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_spool_damage_LDADD = $(SPOOL_LIBS) libbase.a $(CMOCKA_LIBS)
test_spool_journal_SOURCES = tests/unit/test_spool_journal.c tests/unit/spool_fixture.h
test_spool_journal_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_spool_journal_LDADD = $(SPOOL_LIBS) libbase.a $(CMOCKA_LIBS)
test_spool_golden_SOURCES = tests/unit/test_spool_golden.c tests/unit/spool_fixture.h
test_spool_golden_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_spool_golden_LDADD = $(SPOOL_LIBS) libbase.a $(CMOCKA_LIBS)
test_spool_power_SOURCES = tests/unit/test_spool_power.c tests/unit/spool_fixture.h tests/unit/os_power.h \
	tests/unit/os_power.c
test_spool_power_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_spool_power_LDADD = $(SPOOL_LIBS) libbase.a $(CMOCKA_LIBS)
endif
EXTRA_DIST += tests/mutation/spool.py tests/unit/golden/intake-1700000000.seg tests/unit/golden/journal-1700000001.log
