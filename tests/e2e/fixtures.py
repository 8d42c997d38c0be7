"""Fixtures: each test has its own relayd, upstream, ports, directory and log. tests/faults uses them as well.

The programs under test come from $RELAYD_BUILD (make check-e2e sets it)."""

import os
import pathlib
import shutil
import tempfile

import pytest

from neighbours import Chasquid, Exim, Postfix
from relayd import Relayd, copy_programs
from sink import Sink
from tools import Authority, forbidden_calls


@pytest.fixture(scope="session")
def scratch():
    """A directory that every user may enter: relayd and its neighbours do not stay root."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="relayd-e2e."))
    path.chmod(0o755)
    yield path
    if not os.environ.get("E2E_KEEP"):
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def own(scratch, request):
    """This test's directory."""
    path = pathlib.Path(tempfile.mkdtemp(prefix=request.node.originalname[5:25] + ".", dir=scratch))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def authority(scratch):
    return Authority(scratch / "certificates")


@pytest.fixture
def sink(authority):
    upstream = Sink(authority)
    yield upstream
    upstream.stop()


@pytest.fixture
def make_sink(authority):
    """make_sink(certificate="expired", auth=False, ...) for tests that want another or several."""
    made = []

    def make(**options):
        made.append(Sink(authority, **options))
        return made[-1]

    yield make
    for upstream in made:
        upstream.stop()


@pytest.fixture(scope="session")
def neighbour(scratch, authority):
    """neighbour("postfix"): started once for all tests of the run; its messages are told apart by Subject."""
    running = {}

    def get(name):
        if name not in running:
            kind = {"postfix": Postfix, "exim": Exim, "chasquid": Chasquid}[name]
            running[name] = kind(scratch / name, authority)
        return running[name]

    yield get
    for peer in running.values():
        peer.stop()


@pytest.fixture(scope="session")
def programs(scratch):
    return copy_programs(os.environ["RELAYD_BUILD"], scratch / "programs")


@pytest.fixture
def relayd(programs, own, request):
    """This test's relayd, not started yet. Its log is shown if the test fails. No test is good if a
    worker died in it by itself (I8), also by its sandbox, or a sanitizer complained."""
    daemon = Relayd(programs, own / "relayd")
    request.node.relayd = daemon
    yield daemon
    status = daemon.stop()
    died = [event for event in daemon.events("worker.died") if event["pid"] not in daemon.killed]
    assert not died, (died, [call for event in died for call in forbidden_calls(event["pid"])])
    assert "Sanitizer" not in daemon.log(), daemon.log()[-20000:]
    assert status in (None, 0), f"relayd ended with {status}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    daemon = getattr(item, "relayd", None)
    if report.when == "call" and report.failed and daemon:
        report.sections.append(("relayd's log", daemon.log()[-8000:]))
        report.sections.append(("relayd.conf", daemon.config.read_text() if daemon.config.exists() else "not written"))
