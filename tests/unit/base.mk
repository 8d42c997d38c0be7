check_PROGRAMS += catalog
catalog_SOURCES = tests/unit/catalog.c
catalog_LDADD = $(BASE_LIBS)

if HAVE_CMOCKA
base_unit_tests = test_units test_log test_config
check_PROGRAMS += $(base_unit_tests)
TESTS += $(base_unit_tests)
test_units_SOURCES = tests/unit/test_units.c
test_units_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_units_LDADD = $(BASE_LIBS) $(CMOCKA_LIBS)
test_log_SOURCES = tests/unit/test_log.c
test_log_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_log_LDADD = $(BASE_LIBS) $(CMOCKA_LIBS)
test_config_SOURCES = tests/unit/test_config.c
test_config_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_config_LDADD = $(BASE_LIBS) $(CMOCKA_LIBS)
endif
