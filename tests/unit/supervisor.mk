dist_check_SCRIPTS += tests/unit/relayd_test.py tests/unit/relayctl_test.py
TESTS += tests/unit/relayd_test.py tests/unit/relayctl_test.py
if HAVE_CMOCKA
check_PROGRAMS += test_cgroup_search
TESTS += test_cgroup_search
test_cgroup_search_SOURCES = tests/unit/test_cgroup_search.c
test_cgroup_search_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
test_cgroup_search_LDADD = libintake.a $(BASE_LIBS) $(CMOCKA_LIBS)
endif
