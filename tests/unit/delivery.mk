if HAVE_CMOCKA
delivery_unit_tests = test_retry test_queue
check_PROGRAMS += $(delivery_unit_tests)
TESTS += $(delivery_unit_tests)
test_retry_SOURCES = tests/unit/test_retry.c
test_retry_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_retry_LDADD = libdelivery.a libbase.a $(CMOCKA_LIBS)
test_queue_SOURCES = tests/unit/test_queue.c
test_queue_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_queue_LDADD = libdelivery.a libbase.a $(CMOCKA_LIBS)
endif
