# relayd between real neighbours. Needs root (Postfix does) and contrib/install-deps check.
# One file or test: make check-e2e E2E="-k wrong_password". These tests wait more than they work: three at a time.
E2E = -n 3
EXTRA_DIST += tests/e2e/pytest.ini tests/e2e/conftest.py tests/e2e/fixtures.py tests/e2e/tools.py tests/e2e/sink.py \
	tests/e2e/relayd.py tests/e2e/neighbours.py tests/e2e/test_demo_provider.py tests/e2e/test_neighbours.py \
	tests/e2e/test_bodies.py tests/e2e/test_clients.py tests/e2e/test_daemon.py \
	tests/e2e/test_outages.py tests/e2e/test_outcomes.py tests/e2e/test_relayctl.py
e2e_python = /usr/bin/python3
EXTRA_PROGRAMS += e2e-inside
CLEANFILES += e2e-inside
e2e_inside_SOURCES = tests/e2e/inside.c
check-e2e: all e2e-inside$(EXEEXT)
	RELAYD_BUILD=$(abs_builddir) PYTHONDONTWRITEBYTECODE=1 $(e2e_python) -m pytest \
		-c $(srcdir)/tests/e2e/pytest.ini -p no:cacheprovider $(srcdir)/tests/e2e $(E2E)
.PHONY: check-e2e
EXTRA_DIST += tests/e2e/test_intake.py
EXTRA_DIST += tests/e2e/test_robust.py
EXTRA_DIST += tests/e2e/test_sandbox.py
