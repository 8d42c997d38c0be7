"""Disk space comes back as the queue drains, whatever stays in it: compaction moves stragglers out of segments that are
nearly empty. Killed in the middle of that, delivery neither loses a message nor sends one twice."""

import pathlib
import re
import subprocess
import time

import pytest

from tools import wait_for

MIB = 1 << 20
SIZE = 4000
RECORDS = SIZE + 1000  # of one message, at most: body, envelope, Received
DELAYS = (0.1, 0.3, 0.05, 0.5, 0.2)  # seconds that delivery lives between two kills
SEGMENTS = 8           # relayd-spool(5): besides twice the bytes of what waits
NUMBER = re.compile(r"<r\d+\.(\d+)@")


def disk_bytes(relayd):
    """Of all files of messages. (One that goes away meanwhile is gone.)"""
    total = 0
    for pattern in ("intake-*.seg", "delivery-*.seg", "free-*.seg", "prep-*.seg"):
        for path in relayd.spool.glob(pattern):
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                pass
    return total


def bound(messages):
    return 2 * messages * RECORDS + SEGMENTS * MIB


class Stragglers:
    """The sink defers each n-th message until it is told to take them."""

    def __init__(self, relayd, sink, every):
        self.relayd, self.sink, self.every = relayd, sink, every
        sink.rules["RCPT"] = self.rcpt
        relayd.set("spool", {"segment": "1M"})
        relayd.set("retry", {"first": "10m", "max": "10m"})  # until then nobody tries again
        relayd.set("log", {"level": "debug"})
        relayd.to_sink(sink)

    def rcpt(self, session, argument):
        number = NUMBER.search(argument)
        return "450 4.2.0 later" if self.every and number and int(number[1]) % self.every == 0 else None

    def take(self):
        self.every = 0

    def wait_deferred(self, messages, seconds=60):
        wait_for(lambda: self.counts() == {"deferred": messages}, seconds, 0.1,
                 why=lambda: f"{messages} deferred, nothing else: {self.counts()}\n{self.relayd.log()[-3000:]}")

    def counts(self):
        counts = {}
        for message in self.relayd.queue():
            counts[message["state"]] = counts.get(message["state"], 0) + 1
        return counts

    def finish(self, ledger):
        """Everything arrives, once, with the attempts before it remembered."""
        waiting = self.relayd.queue()
        assert {r["attempts"] for m in waiting for r in m["recipients"]} <= {1}
        self.take()
        self.relayd.ctl("retry", "--all")
        ledger.settle()


class SlowSyncs:
    """Each fdatasync of delivery, and of each delivery that comes after it, takes that long."""

    def __init__(self, relayd, seconds):
        pids = [relayd.process.pid, relayd.pid_of("relayd-delivery")]
        self.process = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync",
             "-e", f"inject=fdatasync:delay_enter={int(seconds * 1e6)}", *(f"-p{pid}" for pid in pids)],
            stdin=subprocess.DEVNULL)
        wait_for(lambda: all(is_traced(pid) for pid in pids), why="strace to be there")

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


def is_traced(pid):
    return "TracerPid:\t0\n" not in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii")


@pytest.fixture
def slow_syncs(relayd):
    running = []
    yield lambda seconds: running.append(SlowSyncs(relayd, seconds)) or running[-1]
    for one in running:
        one.stop()


def moved(relayd, field="messages"):
    return sum(int(event[field]) for event in relayd.events("spool.compacted") if "segments" in event)


def test_the_disk_shrinks_while_stragglers_wait(relayd, sink, ledger):
    stragglers = Stragglers(relayd, sink, 50)
    relayd.start()
    assert ledger.load(3000, SIZE).wait() == 3000
    stragglers.wait_deferred(60)
    wait_for(lambda: disk_bytes(relayd) <= bound(60), 10, 0.1,
             why=lambda: f"{disk_bytes(relayd)} bytes on disk, not {bound(60)}:\n{relayd.log()[-3000:]}")
    assert moved(relayd) > 10 and moved(relayd, "segments") > 5, "they stood in 13 segments, and not all moved by chance"
    assert moved(relayd, "bytes_after") <= moved(relayd, "bytes_before") // 2
    stragglers.finish(ledger)
    wait_for(lambda: disk_bytes(relayd) <= bound(0), 10, 0.1, why=lambda: f"{disk_bytes(relayd)} bytes on disk")
    ledger.check("test_stragglers.shrinks", exact=True)


def test_killed_while_stragglers_move(relayd, sink, ledger, slow_syncs):
    """Nothing is in flight to the upstream: so nothing may repeat, however often delivery dies."""
    stragglers = Stragglers(relayd, sink, 4)
    sink.stop()
    relayd.start()
    assert ledger.load(6000, SIZE).wait() == 6000
    slow_syncs(0.05)
    sink.start()
    relayd.ctl("retry", "--all")
    stragglers.wait_deferred(1500)
    for delay in DELAYS:
        victim = relayd.pid_of("relayd-delivery")
        relayd.kill(victim)
        wait_for(lambda old=victim: relayd.pid_of("relayd-delivery") not in (None, old), 20, why="a new delivery")
        relayd.wait_ready()
        time.sleep(delay)
    before = moved(relayd)
    wait_for(lambda: moved(relayd) > before, 30, 0.1, why="there was still something to move after the last kill")
    wait_for(lambda: disk_bytes(relayd) <= bound(1500), 30, 0.1,
             why=lambda: f"{disk_bytes(relayd)} bytes on disk, not {bound(1500)}:\n{relayd.log()[-3000:]}")
    stragglers.wait_deferred(1500)
    stragglers.finish(ledger)
    found = ledger.check("test_stragglers.killed", rows=[6], exact=True, crashes=len(DELAYS))
    assert found["duplicates"] == 0
