if HAVE_CMOCKA
delivery_unit_tests = test_retry test_queue test_classify test_secret test_report
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
endif
