dist_check_SCRIPTS += tests/systemd/check_units.sh
TESTS += tests/systemd/check_units.sh
tests/systemd/check_units.log: systemd/relayd.service
EXTRA_DIST += tests/systemd/in-systemd
