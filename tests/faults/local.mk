# Nothing that got a 250 is lost: the fault matrix (FAULTS), under 15 minutes on two cores. Needs root and
# contrib/install-deps check. One part, file or test: make check-faults FAULTS="pytest -k disk"
# Programs of `make check` that have a long form (RELAYD_LONG=1), or are there for the figures of their rows:
long_tests =
long_tests += test_spool_faults test_spool_power test_spool_images test_compaction
long_tests += test_vectors test_in_step
long_tests += test_spool_damage test_spool_golden
EXTRA_DIST += tests/faults tests/mutation
check-faults: all $(check_PROGRAMS) bench-load$(EXEEXT) fill-spool$(EXEEXT)
	RELAYD_BUILD=$(abs_builddir) FAULT_PROGRAMS="$(long_tests)" PYTHONDONTWRITEBYTECODE=1 \
		$(e2e_python) $(srcdir)/tests/faults/run $(FAULTS)
.PHONY: check-faults
# A spool of a million messages in seconds (test_scale.py)
EXTRA_PROGRAMS += fill-spool
fill_spool_SOURCES = tests/faults/fill_spool.c
fill_spool_LDADD = $(SPOOL_LIBS) $(BASE_LIBS) $(XXHASH_LIBS)
CLEANFILES += fill-spool
