# What holds sources, tables and pages together. The scripts find the sources in $srcdir and the
# built programs where they run.
lint_tests = tests/lint/check-config tests/lint/check-events tests/lint/check-walls tests/lint/check-os tests/lint/check-faults \
	tests/lint/check-format tests/lint/check-man tests/lint/check-hardening
TESTS += $(lint_tests)
dist_check_SCRIPTS += $(lint_tests)
