if HAVE_CMOCKA
SPOOL_TESTS = test_spool_writer test_spool_faults test_spool_damage test_spool_journal test_spool_golden test_spool_power test_spool_images test_in_flight
check_PROGRAMS += $(SPOOL_TESTS)
TESTS += $(SPOOL_TESTS)
test_spool_writer_SOURCES = tests/unit/test_spool_writer.c tests/unit/spool_fixture.h
test_spool_writer_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_spool_writer_LDADD = $(SPOOL_LIBS) libbase.a $(CMOCKA_LIBS)
spool_play = tests/unit/spool_play.c tests/unit/spool_play.h tests/unit/spool_fixture.h tests/unit/os_disk.c \
	tests/unit/os_disk.h tests/unit/figures.h
test_spool_faults_SOURCES = tests/unit/test_spool_faults.c $(spool_play)
test_spool_faults_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_spool_faults_LDADD = $(SPOOL_LIBS) libbase.a $(CMOCKA_LIBS)
test_spool_damage_SOURCES = tests/unit/test_spool_damage.c tests/unit/spool_fixture.h tests/unit/figures.h
test_spool_damage_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_spool_damage_LDADD = $(SPOOL_LIBS) libbase.a $(CMOCKA_LIBS)
test_spool_journal_SOURCES = tests/unit/test_spool_journal.c tests/unit/spool_fixture.h
test_spool_journal_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_spool_journal_LDADD = $(SPOOL_LIBS) libbase.a $(CMOCKA_LIBS)
test_spool_golden_SOURCES = tests/unit/test_spool_golden.c tests/unit/spool_fixture.h tests/unit/figures.h
test_spool_golden_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_spool_golden_LDADD = $(SPOOL_LIBS) libbase.a $(CMOCKA_LIBS)
test_spool_images_SOURCES = tests/unit/test_spool_images.c $(spool_play)
test_spool_images_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_spool_images_LDADD = $(SPOOL_LIBS) libbase.a $(CMOCKA_LIBS)
test_spool_power_SOURCES = tests/unit/test_spool_power.c $(spool_play)
test_spool_power_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_spool_power_LDADD = $(SPOOL_LIBS) libbase.a $(CMOCKA_LIBS)
test_in_flight_SOURCES = tests/unit/test_in_flight.c
test_in_flight_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_in_flight_LDADD = $(SPOOL_LIBS) libbase.a $(CMOCKA_LIBS)
endif
EXTRA_DIST += tests/unit/golden/intake-1700000000.seg tests/unit/golden/journal-1700000001.log
EXTRA_DIST += tests/unit/figures.h
