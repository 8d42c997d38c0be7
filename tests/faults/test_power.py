"""Rows 3 and 4: the power goes. An ext4 forgets what was not synced; relayd starts again on what is left of it."""

import random
import threading
import time

import pytest

from alone import Alone, Inject
from disks import disks  # noqa: F401 pylint: disable=unused-import
from ledger import Ledger
from tools import wait_for

CYCLES = 5


@pytest.fixture
def relayd(disks, relayd):  # noqa: F811 pylint: disable=redefined-outer-name
    """Its spool is a disk of its own; small segments, so that files come and go all the time."""
    relayd.disk = disks.ext4(relayd.spool)
    relayd.set("spool", {"segment": "1M"})
    relayd.set("retry", {"first": "1s"})
    return relayd


def cut(relayd, moment_s=0.0):
    """The disk goes first, the processes see that for a moment, then all is dark and the machine boots again."""
    relayd.disk.cut()
    time.sleep(moment_s)
    relayd.kill_all()
    relayd.disk.umount()
    relayd.disk.again()


def nothing_looks_damaged(relayd):
    """What a power cut leaves is a torn tail, not corruption. (What cannot be read because the disk is dead says so.)"""
    damaged = [e for e in relayd.events("spool.damaged") if e.get("error") != "Input/output error"]
    assert not damaged + relayd.events("spool.lost"), (damaged + relayd.events("spool.lost"))[:3]
    assert not list((relayd.spool / "quarantine").glob("*"))


@pytest.mark.parametrize("seed", range(3))
def test_at_any_time_under_load(relayd, sink, ledger, seed):
    """Mail comes in and goes out; large bodies, several recipients."""
    dice = random.Random(seed)
    relayd.to_sink(sink)
    for _ in range(CYCLES):
        relayd.start()
        loads = [ledger.load(1500, size=1500, rate=2000, r=2), ledger.load(20, size=400000, connections=4, rate=40)]
        loads[0].wait_acknowledged(1)
        time.sleep(dice.uniform(0, 0.7))
        cut(relayd, dice.choice((0, 0, 0.1)))
        for load in loads:
            load.stop()
    relayd.start()
    ledger.settle()
    nothing_looks_damaged(relayd)
    found = ledger.check("test_power.load", rows=[3, 4], crashes=CYCLES, power_cuts=CYCLES)
    assert found["messages_acknowledged"] > CYCLES


# Chosen moments: the process is stopped behind a thread's k-th call of one kind, and then the power goes.

BODIES = [b"small\r\n", b"large" * 70000 + b"\r\n", *[b"inline" * 40000 + b"\r\n"] * 8, b"last\r\n"]
CALLS = ("fdatasync", "fsync", "renameat2", "pwritev")
MOMENTS_MOST = 16  # segments that are never freed add calls to the next run


@pytest.fixture
def alone(disks, programs, own, sink, request):  # noqa: F811 pylint: disable=redefined-outer-name
    daemon = Alone(programs, own / "alone", spool={"segment": "1M"}, retry={"first": "1s"})
    request.node.relayd = daemon.to_sink(sink)
    daemon.disk = disks.ext4(daemon.spool)
    yield daemon
    daemon.kill_all()


def cut_behind(alone, is_idle):
    """Whether the moment came before there was nothing more to do; then the power is gone."""
    wait_for(lambda: alone.strace.is_stopped() or not alone.is_running() or is_idle(), 20, why=alone.log)
    came = alone.strace.is_stopped()
    cut(alone)
    return came


def nothing_was_lost(alone, ledger, test, cuts):
    alone.start_delivery()
    ledger.settle()
    nothing_looks_damaged(alone)
    found = ledger.check(test, rows=[3], crashes=cuts, power_cuts=cuts)
    assert found["messages_acknowledged"] > 0 and cuts > 1


@pytest.mark.parametrize("call", CALLS)
def test_behind_each_call_of_intake(alone, sink, own, call):
    ledger = Ledger(alone, sink, own)
    cuts, came = 0, True
    while came and cuts < MOMENTS_MOST:
        alone.start_intake(Inject(call, "signal=STOP", cuts + 1))
        sending = threading.Thread(target=lambda: [ledger.send(body=body, timeout=5) for body in BODIES])
        sending.start()
        came = cut_behind(alone, lambda thread=sending: not thread.is_alive())
        sending.join()
        cuts += 1
    nothing_was_lost(alone, ledger, f"test_power.intake.{call}", cuts)


@pytest.mark.parametrize("call", [*CALLS, "unlinkat"])
def test_behind_each_call_of_delivery(alone, sink, own, call):
    """With a full segment to deliver and to free, and a large body."""
    ledger = Ledger(alone, sink, own)
    cuts, came = 0, True
    while came and cuts < MOMENTS_MOST:
        alone.start_intake()
        for body in BODIES[:6]:
            assert ledger.send(body=body).is_acknowledged
        alone.stop()
        alone.start_delivery(Inject(call, "signal=STOP", cuts + 1))
        came = cut_behind(alone, lambda: has_freed(alone))
        cuts += 1
    nothing_was_lost(alone, ledger, f"test_power.delivery.{call}", cuts)


def has_freed(alone):
    return not list(alone.spool.glob("intake-*.seg")) and not list(alone.spool.glob("large/*"))


def test_a_sync_that_does_nothing_is_noticed(alone, sink, own):
    """These tests can fail: strace answers 0 in place of the disk."""
    ledger = Ledger(alone, sink, own)
    alone.start_intake(Inject("fdatasync", "retval=0", "1+"))
    assert ledger.send().is_acknowledged
    cut(alone)
    alone.start_delivery()
    ledger.settle()
    with pytest.raises(AssertionError, match="L1"):
        ledger.check("test_power.no_sync")
