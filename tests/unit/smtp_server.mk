TESTS += tests/unit/test_sendmail.py
dist_check_SCRIPTS += tests/unit/test_sendmail.py
