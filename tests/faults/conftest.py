"""The fixtures of tests/e2e, with what shows that nothing is lost: see ledger.py."""

import pytest

from fixtures import *  # pylint: disable=wildcard-import,unused-wildcard-import
from fixtures import pytest_runtest_makereport  # noqa: F401 (a hook is found by its name here)
from ledger import Ledger


@pytest.fixture
def ledger(relayd, sink, own):  # pylint: disable=redefined-outer-name
    """This test's ledger, with its relayd and its sink."""
    book = Ledger(relayd, sink, own)
    yield book
    book.stop()
