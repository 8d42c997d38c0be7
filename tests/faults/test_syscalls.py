"""T5, T7, T16: each system call of each worker fails once, or is the last one (kill -9), wherever it stands: rows 1, 2, 5,
7, 8, 10, 11, 12. strace makes it so; it counts the calls of each thread for itself.

A worker under test runs alone (alone.py) with its sandbox on. Each case is one kind of call and one error; its runs
fail the calls k, k + STEP, k + 2 STEP, ... for k = 1 to STEP, so that after STEP runs each call has failed once. After
each run the worker takes or sends mail by itself again, or has ended with an exit code and does so after its restart."""

import collections
import random
import re
import shutil
import signal
import time

import pytest

from alone import Alone, Inject
from ledger import Ledger
from tools import wait_for

STEP = 4
CALLS_MOST = 120  # of one kind in one thread and run; what comes later is not tampered with
# Each of these costs a connection, and then a pause; or a pause until a file is tried again, which takes several of them.
CALLS_FEW = {"recvfrom": 24, "sendto": 24, "connect": 8, ("pwritev", "ENOSPC"): 8}
SMALL, INLINE, LARGE = b"small\r\n", b"inline" * 40000 + b"\r\n", b"large" * 70000 + b"\r\n"
BODIES = [SMALL, LARGE, *[INLINE] * 9, SMALL]  # more than two segments
SOON = 12  # seconds after the last fault: the second try of a new file comes after 3
ENDINGS = (0, 1, 69, 71, 74, 127)  # of one that ends by itself: as worker.h says, out of memory, not even loaded

WRITES = [("pwritev", "EIO"), ("pwritev", "ENOSPC"), ("fdatasync", "EIO"), ("fsync", "EIO"), ("fallocate", "ENOSPC"),
          ("fallocate", "EDQUOT"), ("fallocate", "EOPNOTSUPP"), ("fdatasync", "EDQUOT"), ("renameat2", "EIO"),
          ("openat", "EMFILE"), ("openat", "EIO"), ("close", "EIO")]
MEMORY = [("mmap", "ENOMEM"), ("brk", 0)]  # the kernel's brk() knows no errno: it does not give what was asked for
INTAKE = WRITES + [("brk", 0), ("fstatfs", "EIO"), ("accept4", "EMFILE"), ("accept4", "ECONNABORTED"),
                   ("accept4", "ENOMEM"), ("recvfrom", "ECONNRESET"), ("recvfrom", "EINTR"), ("sendto", "EPIPE"),
                   ("sendto", "EINTR"), ("epoll_wait", "EINTR"), ("epoll_ctl", "ENOMEM"), ("write", "EINTR")]
DELIVERY = WRITES + MEMORY + [("pread64", "EIO"), ("getdents64", "EIO"), ("newfstatat", "EIO"), ("unlinkat", "EIO"),
                              ("socket", "EMFILE"), ("connect", "ETIMEDOUT"), ("recvfrom", "ECONNRESET"),
                              ("readv", "EINTR"), ("sendto", "EPIPE"), ("writev", "ECONNRESET"), ("epoll_wait", "EINTR"),
                              ("epoll_ctl", "ENOMEM"), ("fadvise64", "EIO")]
START = [row for row in WRITES if row[0] != "fdatasync"] + MEMORY + [
    ("ftruncate", "EFBIG"), ("getdents64", "EIO"), ("clone", "EAGAIN"), ("eventfd2", "EMFILE"), ("epoll_create1", "EMFILE"),
    ("mkdirat", "ENOSPC")]
KILLS = ["pwritev", "fdatasync", "fsync", "openat", "renameat2", "fallocate", "close", "sendto", "recvfrom", "write"]


def names(rows):
    return [f"{call}-{error}" for call, error in rows]


def calls_most(call, error=None):
    return CALLS_FEW.get((call, error), CALLS_FEW.get(call, CALLS_MOST))


def what(error):
    return f"error={error}" if error else "retval=0"


def figure(call):
    return {"fdatasync": "sync_errors_injected", "fsync": "sync_errors_injected", "pwritev": "write_errors_injected",
            "fallocate": "write_errors_injected"}.get(call, "other_errors_injected")


@pytest.fixture
def alone(programs, own, sink, request):
    daemon = Alone(programs, own / "alone", spool={"segment": "1M"}, retry={"first": "1s", "max": "2s"})
    request.node.relayd = daemon.to_sink(sink, connect_timeout="2s", command_timeout="3s", data_timeout="3s")
    daemon.injected, daemon.endings = 0, collections.Counter()
    yield daemon
    daemon.kill_all()


@pytest.fixture
def ledger(alone, sink, own):
    return Ledger(alone, sink, own)


def note_end(alone):
    """It has ended by itself, and not by a signal."""
    status = alone.process.wait(10)
    alone.endings[status] += 1
    assert status in ENDINGS, f"ended with {status}\n{alone.log()[-3000:]}"
    alone.process = None


def takes_mail_again(alone, ledger):
    """By itself, or after a restart if it has ended."""
    deadline = time.monotonic() + SOON
    while True:
        if not alone.is_running():
            if alone.process is not None:
                note_end(alone)
            alone.start_intake()
        if ledger.send(timeout=5).is_acknowledged:
            return
        assert time.monotonic() < deadline, f"no mail is taken:\n{alone.log()[-4000:]}"
        time.sleep(0.1)


def deliver_all(alone, ledger):
    alone.stop()
    alone.start_delivery()
    ledger.settle()


def check(alone, ledger, test, call, **options):
    found = ledger.check(test, **{figure(call): alone.injected}, **options)
    assert not alone.events("spool.lost")
    return found


# Intake.

@pytest.mark.parametrize("call, error", INTAKE, ids=names(INTAKE))
def test_errors_while_intake_serves(alone, ledger, call, error):
    for k in range(1, STEP + 1):
        if not alone.is_running():
            alone.start_intake()
        tracer = alone.attach(Inject(call, what(error), f"{k}..{calls_most(call)}+{STEP}"))
        for body in BODIES:
            ledger.send(body=body, timeout=5)
        if call == "brk":
            flood = ledger.load(200, size=100000, connections=100)
            wait_for(lambda load=flood: load.process.poll() is not None or not alone.is_running(), 30, why=alone.log)
            flood.stop()
        tracer.detach()
        alone.injected += tracer.injected()
        takes_mail_again(alone, ledger)
    deliver_all(alone, ledger)
    check(alone, ledger, f"test_syscalls.intake.{call}.{error}", call, rows=[5, 8, 11, 12], exact=True)
    assert alone.injected


def calls_before_and_in_all(alone, call):
    """How often the first thread has called this before it looked at the spool, and in all the busiest one."""
    lines = alone.strace.lines()
    spool = next(i for i, line in enumerate(lines) if f'"{alone.spool}"' in line and "openat(" in line)
    is_call = re.compile(rf"\d+ +{call}\(")
    callers = [line.split()[0] for line in lines if is_call.match(line)]
    before = sum(bool(is_call.match(line)) for line in lines[:spool])
    return before, max(collections.Counter(callers).values(), default=0)


@pytest.mark.parametrize("call, error", START, ids=names(START))
def test_errors_while_intake_starts(alone, ledger, call, error):
    """From the moment it looks at the spool: each call of its first thread fails once."""
    assert not ledger.send().is_acknowledged
    alone.start_intake(calls=[call, "openat"])
    before, calls = calls_before_and_in_all(alone, call)
    for k in range(before + 1, min(calls, before + 40) + 1):
        alone.stop()
        alone.start_intake(Inject(call, what(error), k))
        takes_mail_again(alone, ledger)
        strace = alone.strace
        alone.stop()  # the spare file is made beside: now strace has told all
        alone.injected += strace.injected() if strace else 1
    deliver_all(alone, ledger)
    check(alone, ledger, f"test_syscalls.intake.start.{call}.{error}", call, rows=[7, 8, 9, 12], exact=True)
    assert alone.injected


@pytest.mark.parametrize("call", KILLS)
def test_intake_is_killed_at_each_call(alone, ledger, call):
    """Row 1. One after the other on the same spool, until there are no more calls."""
    kills = 0
    while kills < 24:
        alone.start_intake()
        tracer = alone.attach(Inject(call, "signal=KILL", kills + 1))
        for body in BODIES:
            if alone.is_running():
                ledger.send(body=body, timeout=5)
        tracer.detach()
        if alone.is_running() and alone.greets():  # the dead are not seen to be dead as long as they are traced
            break
        assert alone.process.wait(10) == -signal.SIGKILL
        kills += 1
    alone.kill_all()
    deliver_all(alone, ledger)
    found = ledger.check(f"test_syscalls.intake.kill.{call}", rows=[1], exact=True, crashes=kills)
    assert kills and found["messages_acknowledged"]


@pytest.mark.parametrize("share", range(3))
def test_intake_is_killed_as_it_starts(alone, ledger, share):
    """Row 1. Each kind of call that a start with mail in the spool makes: the first, the last, and one of the others by a
    seed that changes every day."""
    alone.start_intake(calls=["all"])
    calls = collections.Counter(found[1] for line in alone.strace.lines() if (found := re.match(r"\d+ +(\w+)\(", line)))
    assert ledger.send().is_acknowledged
    kills = 0
    for call, times in sorted(calls.items())[share::3]:
        for k in {1, times, random.Random(time.time() // 86400).randint(1, times)}:
            alone.stop()
            alone.start_intake(Inject(call, "signal=KILL", k))
            if not alone.is_running():
                assert alone.process.wait(10) == -signal.SIGKILL
                kills += 1
    if not alone.is_running():
        alone.start_intake()
    takes_mail_again(alone, ledger)
    deliver_all(alone, ledger)
    ledger.check("test_syscalls.intake.start.kill", rows=[1], exact=True, crashes=kills)
    assert kills


# Delivery.

class Queue:
    """A spool with mail in it, made once and laid out again for each run."""

    def __init__(self, alone, ledger, own):
        self.alone, self.ledger, self.template = alone, ledger, own / "template"
        alone.start_intake()
        for body in BODIES:
            assert ledger.send(body=body).is_acknowledged
        alone.stop()
        shutil.copytree(alone.spool, self.template)

    def lay_out(self):
        shutil.rmtree(self.alone.spool)
        shutil.copytree(self.template, self.alone.spool)
        self.ledger.sinks[0].messages.clear()
        self.alone.log_path.unlink()


@pytest.fixture
def queue(alone, ledger, own):
    return Queue(alone, ledger, own)


def is_empty(alone):
    """False as well if it dies while it tells."""
    done = alone.ctl("queue", "--json", check=False)
    return done.returncode == 0 and not done.stdout


def drains(alone, seconds=30):
    """By itself, or after a restart if it has ended."""
    deadline = time.monotonic() + seconds
    while True:
        if not alone.is_running():
            note_end(alone)
            alone.start_delivery()
        if alone.control_answers() and alone.ctl("retry", "--all", check=False).returncode == 0 and is_empty(alone):
            return
        assert time.monotonic() < deadline, f"it does not drain: {alone.queue()}\n{alone.log()[-6000:]}"
        time.sleep(0.1)


@pytest.mark.parametrize("call, error", DELIVERY, ids=names(DELIVERY))
def test_errors_while_delivery_sends(alone, ledger, queue, call, error):
    alone.start_delivery(calls=[call, "openat"])
    drains(alone)
    before, _ = calls_before_and_in_all(alone, call)
    for k in range(1, STEP + 1):
        alone.stop()
        queue.lay_out()
        alone.start_delivery(Inject(call, what(error), f"{before + k}..{before + calls_most(call, error)}+{STEP}"))
        drains(alone)
        alone.injected += alone.strace.injected() if alone.strace else 1
        alone.stop()  # what is left is read from the spool
        check(alone, ledger, f"test_syscalls.delivery.{call}.{error}", call, rows=[5, 7, 8, 11, 12])
    assert alone.injected


@pytest.mark.parametrize("call", KILLS + ["unlinkat", "pread64", "writev"])
def test_delivery_is_killed_at_each_call(alone, ledger, queue, call):
    """Row 2. Each run ends at a later call, until one sends all that is there."""
    alone.start_delivery(calls=[call, "openat"])
    drains(alone)
    before, calls = calls_before_and_in_all(alone, call)
    alone.stop()
    queue.lay_out()
    kills = 0
    for k in range(before + 1, calls + 1, max(1, (calls - before) // 16)):
        alone.start_delivery(Inject(call, "signal=KILL", k))
        wait_for(lambda: not alone.is_running() or (alone.control_answers() and is_empty(alone)), 30)
        if alone.is_running():
            alone.stop()
            queue.lay_out()
        else:
            assert alone.process.wait(10) == -signal.SIGKILL
            kills += 1
    alone.start_delivery()
    ledger.settle()
    ledger.check(f"test_syscalls.delivery.kill.{call}", rows=[2], crashes=kills)
    assert kills


# T16: the order of the calls.

def test_a_250_follows_the_sync_that_covers_it(alone, ledger):
    """I1: between a message's last write and its 250 a fdatasync of that descriptor has begun and returned 0."""
    alone.start_intake(calls=["pwritev", "fdatasync", "sendto"], shown=300000)
    for body in [SMALL, INLINE, SMALL]:
        assert ledger.send(body=body).is_acknowledged
    ledger.load(200, connections=20).wait()
    written, syncs, promised = {}, [], []
    calls = list(alone.strace.returned())
    for call in calls:
        if call.name == "pwritev" and call.result > 0:
            written.update((queue_id, call) for queue_id in re.findall(r"\bid ([0-9A-Z]{13})\b", call.arguments))
        elif call.name == "fdatasync" and call.result == 0:
            syncs.append(call)
        elif call.name == "sendto":
            promised += [(queue_id, call) for queue_id in re.findall(r"250 2.0.0 Ok: queued as (\w+)", call.arguments)]
    assert len(promised) == len(dict(promised)) == 203
    for queue_id, answer in promised:
        write = written[queue_id]
        assert any(sync.fd == write.fd and write.ended < sync.began and sync.ended < answer.began for sync in syncs), queue_id
    deliver_all(alone, ledger)
    ledger.check("test_syscalls.order", rows=[5], exact=True)


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
@pytest.mark.parametrize("worker", ["intake", "delivery"])
def test_a_file_that_failed_is_never_touched_again(alone, ledger, queue, sink, worker, call):
    """I5: after the error neither a write nor a sync goes to that descriptor before it is closed."""
    sink.stop()
    if worker == "intake":
        alone.start_intake()
    else:
        alone.start_delivery()
        wait_for(alone.control_answers)
    tracer = alone.attach(Inject(call, "error=EIO", f"2..{CALLS_MOST}+{STEP}"), ["pwritev", "fdatasync", "fsync", "close"])
    sink.start()
    if worker == "intake":
        for body in BODIES:
            ledger.send(body=body)
        tracer.detach()
        takes_mail_again(alone, ledger)
        deliver_all(alone, ledger)
    else:
        drains(alone)
        tracer.detach()
    alone.stop()
    failed, errors = set(), 0
    for done in tracer.returned():
        if done.name == "close":
            failed.discard(done.fd.rstrip(")"))
            continue
        assert done.fd not in failed, done
        if done.result < 0:
            errors += 1
            failed.add(done.fd)
    assert errors
    alone.injected = errors
    check(alone, ledger, f"test_syscalls.{worker}.untouched.{call}", call, rows=[5])
