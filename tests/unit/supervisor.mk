dist_check_SCRIPTS += tests/unit/relayd_test.py
TESTS += tests/unit/relayd_test.py
