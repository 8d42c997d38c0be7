if HAVE_CMOCKA
delivery_unit_tests = test_retry test_queue test_classify test_secret test_report \
	test_compaction test_reading test_growth
check_PROGRAMS += $(delivery_unit_tests)
TESTS += $(delivery_unit_tests)
test_retry_SOURCES = tests/unit/test_retry.c
test_retry_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_retry_LDADD = libdelivery.a libbase.a $(CMOCKA_LIBS)
test_queue_SOURCES = tests/unit/test_queue.c
test_queue_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_queue_LDADD = libdelivery.a libbase.a $(CMOCKA_LIBS)
test_classify_SOURCES = tests/unit/test_classify.c
test_classify_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_classify_LDADD = libdelivery.a libsmtp.a libbase.a $(CMOCKA_LIBS)
test_secret_SOURCES = tests/unit/test_secret.c
test_secret_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_secret_LDADD = libdelivery.a libbase.a $(CMOCKA_LIBS)
test_report_SOURCES = tests/unit/test_report.c
test_report_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(JANSSON_CFLAGS)
test_report_LDADD = $(REPORT_LIBS) $(BASE_LIBS) $(CMOCKA_LIBS)
test_reading_SOURCES = tests/unit/test_reading.c tests/unit/delivery_fixture.h tests/unit/spool_fixture.h tests/unit/os_disk.h tests/unit/os_disk.c
test_reading_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(EVENT_CFLAGS)
test_reading_LDADD = $(DELIVERY_LIBS) $(REPORT_LIBS) $(SPOOL_LIBS) $(BASE_LIBS) $(XXHASH_LIBS) $(CMOCKA_LIBS)
test_compaction_SOURCES = tests/unit/test_compaction.c tests/unit/delivery_fixture.h tests/unit/spool_fixture.h tests/unit/os_disk.h \
	tests/unit/os_disk.c tests/unit/figures.h
test_compaction_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(EVENT_CFLAGS)
test_compaction_LDADD = $(DELIVERY_LIBS) $(REPORT_LIBS) $(SPOOL_LIBS) $(BASE_LIBS) $(XXHASH_LIBS) $(CMOCKA_LIBS)
# The same sources, with a call in each basic block.
check_LIBRARIES += libcounted.a
libcounted_a_SOURCES = $(libdelivery_a_SOURCES) $(libspool_a_SOURCES)
libcounted_a_CFLAGS = $(libdelivery_a_CFLAGS) $(libspool_a_CFLAGS) -fsanitize-coverage=trace-pc
test_growth_SOURCES = tests/unit/test_growth.c tests/unit/delivery_fixture.h tests/unit/spool_fixture.h \
	tests/unit/os_disk.h tests/unit/os_disk.c
test_growth_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(EVENT_CFLAGS)
test_growth_LDADD = libcounted.a $(DELIVERY_LIBS) $(REPORT_LIBS) $(SPOOL_LIBS) $(BASE_LIBS) $(XXHASH_LIBS) $(CMOCKA_LIBS)
endif
