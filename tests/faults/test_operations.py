"""Rows 11 to 14 and 48 to 52: what operators, kernels and clocks do to a relayd that works. Whoever is restarted,
reloaded, starved or stopped: nothing is lost."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from alone import Alone, Inject, Tracer
from cgroup import Group
from clock import Clock
from disks import limit
from evil import Evil
from ledger import Ledger
from sink import PASSWORD
from tools import cpu_seconds, wait_for

YEAR_S = 365 * 86400
WATCHDOG_S = 4


@pytest.fixture
def relayd(relayd):  # pylint: disable=redefined-outer-name
    relayd.set("retry", {"first": "1s", "max": "2s"})
    return relayd


def takes_mail(ledger, seconds):
    wait_for(lambda: ledger.send(timeout=5).is_acknowledged, seconds, step=0.05, why=lambda: ledger.relayd.log()[-3000:])


# Rows 48 to 50.

def test_restarts_under_load(relayd, sink, ledger):
    relayd.to_sink(sink).start()
    load = ledger.load(4000, rate=900)
    for share in range(1, 4):
        load.wait_acknowledged(share * 500)
        assert relayd.stop() == 0
        relayd.start()
    load.wait()
    ledger.settle()
    found = ledger.check("test_operations.restart", rows=[48], exact=True)
    assert found["duplicates"] == 0 and found["messages_acknowledged"] > 1500


def test_reloads_under_load(relayd, sink, ledger):
    """Good and bad configurations in turn, faster than they can be taken: no client notices, and in the end it is the last
    good one that serves."""
    relayd.to_sink(sink).start()
    load = ledger.load(2500, rate=500)
    load.wait_acknowledged(1)
    supervisor = relayd.process.pid
    for i in range(100):
        relayd.set("retry", {"first": "soon" if i % 4 == 3 else f"{1 + i % 3}s"})
        relayd.reload()
        time.sleep(0.03)
    relayd.set("retry", {"first": "1s"})
    relayd.reload()
    load.wait()
    wait_for(lambda: stays(lambda: len(relayd.events("worker.started"))), 30, why="the last reload")
    ledger.settle()
    found = ledger.check("test_operations.reload", rows=[49], exact=True)
    assert found["messages_refused"] == found["duplicates"] == 0 and found["answers_unknown"] == 0
    assert relayd.events("config.rejected") and len(relayd.events("config.reloaded")) > 1
    assert relayd.process.pid == supervisor and relayd.process.poll() is None


def test_reloads_that_change_the_upstream(relayd, ledger, authority):
    """Under load: upstream, user, password and limits change all together, and between them stands a mistake. Nobody sees
    a mixture: each upstream hears its own user and password alone, and gets no message from a reload that was refused."""
    evils = {name: Evil(authority) for name in ("first", "second")}
    ledger.sinks = list(evils.values())
    try:
        for name, evil in evils.items():
            evil.passwords = {name: f"{PASSWORD}-{name}"}
            evil.start()
        turn_to(relayd, evils, "first", 2).start()
        load = ledger.load(1500, rate=250)
        load.wait_acknowledged(20)
        for i in range(1, 7):
            name = list(evils)[i % 2]
            relayd.set("retry", {"first": "soon"})
            turn_to(relayd, evils, name, 1 + i % 3).reload()
            relayd.wait_event("config.rejected", count=i)
            relayd.set("retry", {"first": "1s"})
            relayd.reload()
            relayd.wait_event("config.reloaded", count=i)
            before = len(evils[name].messages)
            wait_for(lambda e=evils[name], n=before: len(e.messages) > n or load.process.poll() is not None, 10, why=relayd.log)
        load.wait()
        ledger.settle()
        for name, evil in evils.items():
            assert evil.logins and {(user, right) for user, _, right in evil.logins} == {(name, True)}, evil.logins
            assert evil.messages
        found = ledger.check("test_operations.reload.upstream", rows=[49], exact=True)
        assert found["messages_refused"] == found["duplicates"] == 0 and found["answers_unknown"] == 0
    finally:
        for evil in evils.values():
            evil.stop()


def turn_to(relayd, evils, name, connections):
    """The only upstream now."""
    password = relayd.password_file(f"{PASSWORD}-{name}", f"password-{name}")
    return relayd.to_sink(evils[name], username=name, password_file=password, connections=connections,
                          messages_per_connection=10 * connections)


def stays(what, seconds=1.5):
    """Gives the same now and then."""
    before = what()
    time.sleep(seconds)
    return what() == before


def test_stopped_in_the_middle_of_a_sync(relayd, sink, ledger):
    """SIGTERM, and when that takes too long SIGKILL: as kill -9 by itself."""
    relayd.to_sink(sink).start()
    for worker in ("relayd-intake", "relayd-delivery"):
        load = ledger.load(600, rate=600)
        load.wait_acknowledged(50)
        tracer = Tracer(relayd.pid_of(worker), ledger.where / f"trace-{worker}", ["fdatasync"],
                        Inject("fdatasync", "delay_enter=30000000", "1+"))
        time.sleep(0.3)
        relayd.process.terminate()
        time.sleep(0.5)
        assert relayd.process.poll() is None, "it waits for the disk"
        relayd.kill_all()
        tracer.detach()
        load.stop()
        relayd.start()
    ledger.settle()
    ledger.check("test_operations.stopped", rows=[50], crashes=2)


# Row 51.

def test_workers_that_stand_still_are_replaced(relayd, sink, ledger):
    """Their loops do not turn: after a minute they are killed, and others go on."""
    relayd.to_sink(sink).start()
    assert ledger.send().is_acknowledged
    stopped = {name: relayd.pid_of(name) for name in ("relayd-intake", "relayd-delivery")}
    relayd.killed.update(stopped.values())
    for pid in stopped.values():
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: len(relayd.events("worker.hung")) == 2, 80, why=relayd.log)
    assert {event["worker"]: event["pid"] for event in relayd.events("worker.hung")} == stopped
    wait_for(lambda: all(relayd.pid_of(name) not in (None, pid) for name, pid in stopped.items()), 20, why=relayd.log)
    relayd.wait_ready()
    takes_mail(ledger, 10)
    ledger.settle()
    ledger.check("test_operations.hung", rows=[51], crashes=2)


class Watchdog:
    """The socket on which systemd hears that relayd is alive; it wants to hear that every WATCHDOG_S."""

    def __init__(self, where, monkeypatch):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(where / "notify"))
        (where / "notify").chmod(0o777)
        monkeypatch.setenv("NOTIFY_SOCKET", str(where / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", str(WATCHDOG_S * 1000000))

    def is_fed(self):
        """In time? Has to be asked all the time: relayd waits for a reader when the socket is full."""
        deadline = time.monotonic() + WATCHDOG_S
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                if b"WATCHDOG=1" in self.socket.recv(4096):
                    return True
            except TimeoutError:
                break
        return False


AT_LEAST_S = {"relayd-intake": 60, "relayd-delivery": 5}  # silent; draining


@pytest.mark.parametrize("worker", AT_LEAST_S)
def test_a_worker_that_does_not_die_starves_the_watchdog(relayd, sink, ledger, monkeypatch, worker):
    """It was killed and the kernel does not let go of it, as when its disk hangs: what relayd's kill() does is nothing. No
    other can be started, and systemd has to hear of it. When it does die, another is started, and all is well. Intake hangs
    while it serves; delivery when a reload has told it to end, and its successor waits for that."""
    watchdog = Watchdog(ledger.where, monkeypatch)
    relayd.set("drain", "5s")
    relayd.to_sink(sink).start()
    intake, stuck, began = relayd.pid_of("relayd-intake"), relayd.pid_of(worker), time.monotonic()
    os.kill(stuck, signal.SIGSTOP)
    if worker == "relayd-delivery":
        relayd.reload()
        wait_for(lambda: intake not in relayd.pids(), 7, why=relayd.log)  # both were told to end
    tracer = Tracer(relayd.process.pid, ledger.where / "trace", ["kill"], Inject("kill", "retval=0", "1+"))
    wait_for(lambda: not watchdog.is_fed(), 100, why="the watchdog to starve")
    assert time.monotonic() - began > AT_LEAST_S[worker] and tracer.injected() and relayd.pid_of(worker) == stuck
    assert [event["fix"] for event in relayd.events("worker.hung", pid=stuck) if "does not die" in event.get("why", "")]
    tracer.detach()
    assert not watchdog.is_fed(), "nothing but the end of that worker helps"
    relayd.kill(stuck)
    wait_for(watchdog.is_fed, 10, why=relayd.log)
    watchdog.socket.close()  # nobody reads it any more
    relayd.wait_ready()
    takes_mail(ledger, 10)
    ledger.settle()
    ledger.check("test_operations.undead", rows=[51], crashes=1)


# Row 52.

def test_a_log_that_nobody_reads(relayd, sink, ledger):
    """A pipe that is full. What was left out is counted, and told when there is room."""
    relayd.to_sink(sink).write_config()
    reading, writing = os.pipe()
    relayd.process = subprocess.Popen([relayd.programs / "relayd", "-c", relayd.config], stdin=subprocess.DEVNULL,
                                      stdout=writing, stderr=writing)
    os.close(writing)
    relayd.wait_ready()
    assert ledger.load(1000).wait(30) == 1000
    relayd.wait_empty(30)
    os.set_blocking(reading, False)
    log = b""
    while chunk := read_some(reading):
        log += chunk
    ledger.send()
    ledger.settle()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and log.count(b'"log.dropped"') < 2:  # each worker has left out lines
        log += read_some(reading) or b""
        time.sleep(0.05)
    relayd.log_path.write_bytes(log)
    relayd.stop()
    os.close(reading)
    nothing_is_uncounted(log, "relayd-intake", "message.accepted", 1001)
    nothing_is_uncounted(log, "relayd-delivery", "message.delivered", 1001)
    relayd.start()
    ledger.check("test_operations.blocked_log", rows=[52], exact=True, log_is_cut=True)


def nothing_is_uncounted(log, program, name, messages):
    """Each message has its line, or is one of those that were left out. At this level the worker says little else."""
    events = [event for event in map(json.loads, log.splitlines()) if event["program"] == program]
    dropped = sum(event["lines"] for event in events if event["event"] == "log.dropped")
    seen = sum(event["event"] == name for event in events)
    assert dropped > 200 and seen + dropped == messages, (program, seen, dropped)


def read_some(fd):
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return None


# Row 11.

def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_no_descriptors_for_clients(relayd, sink, ledger):
    """Established sessions go on, nobody spins, and a second after there are descriptors again all is well."""
    relayd.to_sink(sink).start()
    pid = relayd.pid_of("relayd-intake")
    talking = relayd.smtp()
    talking.ehlo()
    limit(pid, "nofile", descriptors(pid) + 2)
    crowd = [socket.create_connection(("127.0.0.1", relayd.port)) for _ in range(20)]
    sent = ledger.new(body=b"large" * 100000 + b"\r\n")  # needs a file, and they are out
    small = ledger.new()
    for entry in (sent, small):
        talking.mail(entry.sender)
        talking.rcpt(entry.recipients[0])
        code, text = talking.data(entry.data)
        entry.answer = f"{code} {text.decode()}"
    assert small.is_acknowledged and (sent.is_acknowledged or sent.answer.startswith("452")), (small.answer, sent.answer)
    before = cpu_seconds([pid])
    time.sleep(2)
    assert cpu_seconds([pid]) - before < 0.1
    limit(pid, "nofile", 4096)
    takes_mail(ledger, 1.5)
    assert talking.noop()[0] == 250
    for connection in crowd:
        connection.close()
    talking.close()
    ledger.settle()
    ledger.check("test_operations.descriptors.intake", rows=[11], exact=True)
    assert pid == relayd.pid_of("relayd-intake")


def test_no_descriptors_for_delivery(relayd, sink, ledger):
    sink.stop()
    relayd.to_sink(sink).start()
    pid = relayd.pid_of("relayd-delivery")
    ledger.load(50).wait()
    limit(pid, "nofile", descriptors(pid))
    sink.start()
    before = cpu_seconds([pid])
    time.sleep(3)
    assert cpu_seconds([pid]) - before < 0.15 and not sink.messages
    limit(pid, "nofile", 4096)
    relayd.ctl("retry", "--all")
    ledger.settle()
    ledger.check("test_operations.descriptors.delivery", rows=[11], exact=True)
    assert pid == relayd.pid_of("relayd-delivery")


# Rows 12 and 13.

def virtual_bytes(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("worker", ["relayd-intake", "relayd-delivery"])
@pytest.mark.parametrize("more_kib", [0, 256, 2048])
def test_no_memory(relayd, sink, ledger, worker, more_kib):
    """An allocation fails: that message or session is refused, or the worker ends and is started again (worker.h)."""
    sink.stop()
    relayd.to_sink(sink).start()
    ledger.load(100, size=50000).wait()
    limit(relayd.pid_of(worker), "as", virtual_bytes(relayd.pid_of(worker)) + more_kib * 1024)
    relayd.killed.add(relayd.pid_of(worker))  # it may end
    sink.start()
    load = ledger.load(300, size=100000, connections=100)
    load.wait()
    takes_mail(ledger, 10)
    limit(relayd.pid_of(worker), "as", "unlimited", check=False)  # it may just have ended, and had no limit then
    relayd.ctl("retry", "--all", check=False)
    ledger.settle()
    found = ledger.check("test_operations.memory", rows=[12], other_errors_injected=1)
    died = [event["why"] for event in relayd.events("worker.died")]
    assert not [why for why in died if "exit code" not in why], "it ends by itself if it has to, not by a signal"
    if worker == "relayd-intake":  # delivery's share is test_syscalls.py: what it has suffices it here
        assert found["messages_refused"] > 20, "sessions are refused, one by one"


@pytest.mark.parametrize("worker", ["relayd-intake", "relayd-delivery"])
def test_killed_by_the_kernel_for_memory(relayd, sink, ledger, worker):
    """The worker's cgroup has no room for what it does next."""
    group = Group(f"relayd-test-{os.getpid()}-{worker}")
    try:
        sink.stop()
        relayd.to_sink(sink).start()
        assert ledger.load(200, size=20000, connections=50).wait() == 200
        victim = relayd.pid_of(worker)
        relayd.killed.add(victim)
        group.take(victim, 1 << 20)
        sink.start()
        relayd.ctl("retry", "--all", check=False)
        ledger.load(300, size=200000, connections=100).wait()
        wait_for(lambda: relayd.pid_of(worker) not in (None, victim), 20, why=lambda: relayd.log()[-3000:])
        relayd.wait_ready()
        ledger.settle()
        ledger.check("test_operations.oom", rows=[13], crashes=1)
    finally:
        group.remove()


# Row 14.

@pytest.fixture
def plain_sink(make_sink):
    """Certificates have dates."""
    return make_sink(starttls=False, auth=False)


@pytest.fixture
def alone(programs, own, plain_sink, request):
    daemon = Alone(programs, own / "alone", retry={"first": "1s", "max": "8s"})
    request.node.relayd = daemon.to_sink(plain_sink, auth="none")
    yield daemon
    daemon.kill_all()


def busy(session, argument):
    return "450 4.2.1 Mailbox busy"


@pytest.mark.parametrize("offset_s", [-YEAR_S, 10 * YEAR_S])
@pytest.mark.parametrize("when", ["between two starts", "while it runs"])
def test_the_clock_is_set(alone, plain_sink, own, offset_s, when):
    """No mail bounces for it, none is tried without a pause, none waits longer than the longest pause."""
    ledger, clock, sink = Ledger(alone, plain_sink, own), Clock(own), plain_sink
    alone.start_intake(environment=clock.environment())
    for _ in range(20):
        assert ledger.send().is_acknowledged
    alone.stop()
    sink.rules["RCPT"] = busy
    alone.start_delivery(environment=clock.environment())
    wait_for(lambda: len(alone.events("message.deferred")) >= 20, 10, why=alone.log)
    if when == "between two starts":
        alone.stop()
    clock.set(offset_s)
    if when == "between two starts":
        alone.start_delivery(environment=clock.environment())
    began, before = time.monotonic(), len(sink.commands)
    wait_for(lambda: len(alone.events("message.deferred")) >= 40, 12, why=lambda: alone.log()[-3000:])
    time.sleep(2)
    attempts = sum(verb == "RCPT" for verb, _ in sink.commands[before:])
    assert 20 <= attempts <= 20 * (2 + time.monotonic() - began), "each message waits before it is tried again"
    assert not alone.events("message.bounced")
    assert len(alone.events("clock.jumped")) == (1 if when == "while it runs" else 0)
    sink.rules.clear()
    began = time.monotonic()
    ledger.settle(15)
    assert time.monotonic() - began < 10
    ledger.check("test_operations.clock", rows=[14], exact=True)
