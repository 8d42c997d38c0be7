"""See fixtures.py."""

from fixtures import *  # pylint: disable=wildcard-import,unused-wildcard-import
from fixtures import pytest_runtest_makereport  # noqa: F401 (a hook is found by its name here)
