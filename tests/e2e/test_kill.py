"""I1, I4: every 250 is delivered, or in the queue after the restart, whoever is killed and whenever.

The ledger: numbered messages from the benchmark's generator, which notes each number that was answered 250."""

import os
import pathlib
import re
import subprocess
import time

import pytest

from tools import wait_for

BUILD = pathlib.Path(os.environ["RELAYD_BUILD"])
MESSAGES = 3000
# What one kill may repeat: 4 connections with 8 messages in flight each, and 256 outcomes on their
# way to the disk.
REPEATS = 4 * 8 + 256


class Load:
    """The generator, with a ledger, pacing so that the kills happen in the middle."""

    running = []  # a test that fails in the middle must not leave one behind

    def __init__(self, port, where, messages=MESSAGES, rate=1000):
        self.ledger = where / "ledger"
        self.ledger.touch()
        self.process = subprocess.Popen([BUILD / "bench-load", "-c", "20", "-n", str(messages), "-s", "2000", "-R",
                                         str(rate), "-l", self.ledger, str(port)], stdout=subprocess.PIPE)
        Load.running.append(self)

    def acknowledged(self):
        return {int(number) for number in self.ledger.read_text().splitlines()}

    def wait_acknowledged(self, count):
        wait_for(lambda: len(self.acknowledged()) >= count or self.process.poll() is not None, 60)
        return self

    def wait(self, seconds=90):
        self.process.communicate(timeout=seconds)
        return self.acknowledged()

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        return self.acknowledged()


def numbers(sink):
    return [int(re.search(rb"^Subject: bench (\d+)\r$", m.data, re.M)[1]) for m in list(sink.messages)]


@pytest.fixture
def relayd(relayd):  # pylint: disable=redefined-outer-name
    """What was cut off in the middle waits for its next attempt: not a minute in these tests."""
    relayd.set("retry", {"first": "1s"})
    yield relayd
    while Load.running:
        Load.running.pop().stop()


def all_arrive(relayd, sink, acknowledged):
    assert acknowledged
    wait_for(lambda: acknowledged <= set(numbers(sink)), 60,
             why=lambda: f"lost: {sorted(acknowledged - set(numbers(sink)))[:20]}, queue {len(relayd.queue())}")
    relayd.wait_empty(30)


@pytest.mark.parametrize("program", ["relayd-intake", "relayd-delivery"])
def test_a_worker_killed_under_load_loses_nothing(relayd, sink, own, program):
    relayd.to_sink(sink).start()
    load = Load(relayd.port, own)
    for share in (1, 2, 3):
        load.wait_acknowledged(share * MESSAGES // 5)
        victim = relayd.pid_of(program)
        relayd.kill(victim)
        wait_for(lambda old=victim: relayd.pid_of(program) not in (None, old), 20, why=f"a new {program}")
        relayd.wait_ready()
    acknowledged = load.wait()
    assert len(acknowledged) > MESSAGES // 2
    all_arrive(relayd, sink, acknowledged)
    repeated = len(numbers(sink)) - len(set(numbers(sink)))
    assert repeated <= 3 * REPEATS, "a kill may repeat what was in flight, not more"
    assert relayd.process.poll() is None


def test_the_supervisor_killed_under_load_loses_nothing(relayd, sink, own):
    relayd.to_sink(sink).start()
    load = Load(relayd.port, own)
    for share in (1, 2):
        load.wait_acknowledged(share * MESSAGES // 5)
        workers = relayd.pids()[1:]
        relayd.process.kill()
        relayd.process.wait()
        wait_for(lambda: not any(pathlib.Path(f"/proc/{pid}/exe").exists() for pid in workers), 20,  # pylint: disable=cell-var-from-loop
                 why="the workers to end")
        relayd.start()
    acknowledged = load.wait()
    all_arrive(relayd, sink, acknowledged)


def test_everything_killed_at_once_loses_nothing(relayd, sink, own):
    sink.stop()
    relayd.to_sink(sink).start()
    load = Load(relayd.port, own, rate=3000)
    load.wait_acknowledged(MESSAGES // 3)
    relayd.kill_all()
    acknowledged = load.stop()
    assert len(acknowledged) < MESSAGES
    relayd.start()
    assert len(relayd.queue()) >= len(acknowledged)
    sink.start()
    all_arrive(relayd, sink, acknowledged)
    assert len(numbers(sink)) == len(set(numbers(sink))), "nothing was in flight, so nothing may repeat"


def test_killed_while_it_drains_a_queue(relayd, sink, own):
    """Delivery dies again and again with a full queue: everything arrives, little is repeated."""
    sink.stop()
    relayd.to_sink(sink).start()
    acknowledged = Load(relayd.port, own, messages=1500, rate=5000).wait()
    assert len(acknowledged) == 1500
    sink.start()
    for count in (300, 700, 1100):
        wait_for(lambda at=count: len(sink.messages) >= at, 40)
        relayd.kill(relayd.pid_of("relayd-delivery"))
        time.sleep(0.1)
    all_arrive(relayd, sink, acknowledged)
    assert len(numbers(sink)) <= 1500 + 3 * REPEATS


def test_restart_under_load_loses_nothing(relayd, sink, own):
    relayd.to_sink(sink).start()
    load = Load(relayd.port, own)
    for share in (1, 2):
        load.wait_acknowledged(share * MESSAGES // 5)
        assert relayd.stop() == 0
        relayd.start()
    acknowledged = load.wait()
    all_arrive(relayd, sink, acknowledged)
    assert len(numbers(sink)) == len(set(numbers(sink))), "an orderly stop repeats nothing"


def test_reload_under_load_refuses_no_one(relayd, sink, own):
    """The new intake takes the listeners over while the old one finishes its sessions."""
    relayd.to_sink(sink).start()
    load = Load(relayd.port, own)
    for share in (1, 2, 3):
        load.wait_acknowledged(share * MESSAGES // 5)
        relayd.reload()
    acknowledged = load.wait()
    relayd.wait_event("config.reloaded", count=1)
    all_arrive(relayd, sink, acknowledged)
    assert len(numbers(sink)) == len(set(numbers(sink)))
