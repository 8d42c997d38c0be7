"""Row 12: one allocation fails, or each from some moment on, wherever it is made: in relayd's own code, in libevent, in
OpenSSL, in libc (memory.c). What is to hold: that message or session is refused with a 4xx, or the worker ends by itself,
in words, and is started again. Never by a signal, and what was acknowledged is there.

The workers run alone (alone.py) with their sandboxes on. Intake goes on from one failure to the next while it lives;
delivery is started anew for each, on the same queue. N = 1, 2, ... until all goes well; where there are more than MOST
allocations (a start's, OpenSSL's), MOST of them, spread evenly, the first one by a seed that changes every day."""

import os
import random
import socket
import subprocess
import time

import pytest

from alone import Inject
from figures import count
from memory import Memory
from test_syscalls import INLINE, LARGE, SMALL, alone, deliver_all, drains, is_empty  # noqa: F401 (fixtures, too)
from test_syscalls import ledger, queue, takes_mail_again  # noqa: F401 pylint: disable=unused-import
from tools import wait_for

MOST = 16  # allocations that fail, of one owner in one test
OUT_OF_MEMORY, IO, CONFIG = 71, 74, 78  # the workers' exit codes (worker.h)
SEED = int(os.environ.get("RELAYD_SEED", time.time() // 86400))


def some_of(calls):
    """All of them, or about MOST."""
    step = max(1, calls // MOST)
    return range(1 + random.Random(SEED).randrange(step), calls + 1, step)


def has_ended(alone, endings=(OUT_OF_MEMORY, IO)):
    """If it has, it was by itself, and it has said why."""
    if alone.is_running():
        return False
    status, log = alone.process.wait(10), alone.log()[-2000:]
    assert status in endings, f"ended with {status}: {log}"
    assert "memory" in log.rpartition("message.accepted")[2], f"no word about memory: {log}"
    alone.process = None
    return True


def finish(alone, ledger, name, failed):
    assert failed and not alone.events("spool.lost")
    return ledger.check(f"test_memory.{name}", rows=[12], other_errors_injected=failed)


def says_hello(alone):
    try:
        return socket.create_connection(("127.0.0.1", alone.port), timeout=5)
    except OSError:
        return None


@pytest.mark.parametrize("sticky", [False, True], ids=["once", "for-good"])
def test_intake_takes_messages(alone, ledger, own, sticky):
    """Three messages amid a crowd for each N, until they are taken without a failure."""
    memory, failed = Memory(own, "all"), 0
    alone.environment = memory.environment
    for nth in range(1, 1000):
        if not alone.is_running():
            alone.start_intake()
        memory.fail(nth, sticky)
        crowd = [says_hello(alone) for _ in range(5)]
        answers = [ledger.send(body=body, timeout=5, recipients=3).answer for body in (SMALL, INLINE, LARGE)]
        now = memory.failed
        memory.fail(0)
        for client in filter(None, crowd):
            client.close()
        assert not [answer for answer in answers if answer.startswith("5")], "what will be better later is a 4xx"
        if not now:
            break
        failed += now
        if has_ended(alone):
            alone.start_intake()
        takes_mail_again(alone, ledger)
    assert not now, "it never goes without a failure"
    deliver_all(alone, ledger)
    finish(alone, ledger, "intake", failed)


@pytest.mark.parametrize("sticky", [False, True], ids=["once", "for-good"])
def test_intake_starts(alone, ledger, own, sticky):
    """With a spool that has mail in it."""
    memory, failed = Memory(own, "all"), 0
    alone.environment = memory.environment
    alone.start_intake()
    calls = memory.calls
    assert ledger.send().is_acknowledged
    for nth in some_of(calls):
        alone.stop()
        memory.fail(nth, sticky)
        alone.start_intake()
        failed += memory.failed
        memory.fail(0)
        if has_ended(alone):
            alone.start_intake()
        takes_mail_again(alone, ledger)
    deliver_all(alone, ledger)
    finish(alone, ledger, "intake.start", failed)


@pytest.mark.parametrize("sticky", [False, True], ids=["once", "for-good"])
@pytest.mark.parametrize("owner", ["program", "libc"])
def test_delivery_starts_and_sends(alone, ledger, queue, own, owner, sticky):
    memory, in_all = Memory(own, owner), 0
    alone.environment = memory.environment
    alone.start_delivery()
    drains(alone)
    for nth in some_of(memory.calls):
        alone.stop()
        queue.lay_out()
        memory.fail(nth, sticky)
        alone.start_delivery()
        wait_for(lambda: not alone.is_running() or memory.failed or (alone.control_answers() and is_empty(alone)), 10)
        time.sleep(0.1)  # more of it fails, or it goes on
        failed = memory.failed
        memory.fail(0)
        if has_ended(alone):
            alone.start_delivery()
        drains(alone)
        alone.stop()  # what is left is read from the spool
        if failed:
            finish(alone, ledger, f"delivery.{owner}", failed)
        in_all += failed
    assert in_all


@pytest.mark.parametrize("worker", ["relayd-intake", "relayd"])
def test_the_configuration_is_not_blamed(alone, own, worker):
    """Read without memory: libconfuse may end it by a signal, in the middle of a call. But it is never the end that means
    a wrong configuration: after that systemd starts nobody again."""
    memory, failed = Memory(own, "libc.so libconfuse", has_loop=False), 0
    alone.write_config()
    command = [alone.programs / worker, "-c", alone.config]
    for nth in (0, *some_of(250)):
        memory.fail(nth)
        with subprocess.Popen(command, env={**os.environ, **memory.environment}, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
            wait_for(lambda p=process, most=nth or 100: p.poll() is not None or memory.calls >= most, 5)
            time.sleep(0.02)
            process.terminate()
            said = process.communicate(timeout=40)[1].decode(errors="replace")
        assert process.returncode != CONFIG, said
        failed += memory.failed
    assert failed


@pytest.mark.parametrize("call, error", [("openat", "EMFILE"), ("openat", "ENFILE"), ("pread64", "EIO")])
@pytest.mark.parametrize("worker", ["relayd-intake", "relayd"])
def test_the_configuration_is_not_blamed_for_what_passes(alone, own, worker, call, error):
    """Nor where its file cannot be opened for want of descriptors, nor read for its disk."""
    alone.write_config()
    strace = ["timeout", "10", "strace", "-q", "-o", own / "trace", "-P", alone.config, "-e", f"inject={call}:error={error}"]
    done = subprocess.run([*strace, alone.programs / worker, "-c", alone.config], capture_output=True, text=True, check=False)
    assert done.returncode == OUT_OF_MEMORY and f"{alone.config}: cannot be " in done.stderr, done
    count("test_memory.configuration", rows=[11], other_errors_injected=1)


def loads_filters(lines):
    """Which calls of seccomp() loaded one, counted from 1: the others ask the kernel what it has."""
    calls = [line for line in lines if " seccomp(" in line]
    return [n for n, line in enumerate(calls, 1) if "SECCOMP_SET_MODE_FILTER" in line and line.endswith("= 0")]


@pytest.mark.parametrize("worker", ["relayd-intake", "relayd-delivery"])
def test_no_worker_goes_without_its_sandbox(alone, worker):
    """A want of memory or descriptors passes: the worker that meets it while it confines itself is started again, and does
    not serve half confined."""
    alone.set("log", {"level": "debug"})
    alone.start_worker(worker, calls=["seccomp"])
    alone.wait_event("sandbox.entered")
    filters = loads_filters(alone.strace.lines())
    alone.stop()
    assert len(filters) == 2
    cases = [("landlock_create_ruleset", error, 2) for error in ("ENOMEM", "EMFILE", "ENFILE")]  # 1: which version
    cases += [("landlock_add_rule", "ENOMEM", 1), ("landlock_restrict_self", "ENOMEM", 1)]
    cases += [("seccomp", "ENOMEM", n) for n in filters]
    for call, error, when in cases:
        alone.log_path.unlink()
        alone.start_worker(worker, Inject(call, f"error={error}", when))
        assert alone.process.wait(10) == OUT_OF_MEMORY, (call, error, when, alone.log())
        assert "for the sandbox; exiting to be started again" in alone.log() and not alone.events()
    count("test_memory.sandbox", rows=[12], other_errors_injected=len(cases))


@pytest.mark.parametrize("program", ["relayd", "relayd-intake", "relayd-delivery"])
def test_libraries_allocate_by_us(alone, ledger, queue, own, program):
    """libevent and OpenSSL ask our own functions for memory, which end the process in words where there is none: half of
    libevent cannot say that it failed, and OpenSSL tries its start only once."""
    memory = Memory(own, "libevent libssl libcrypto", has_loop=False)
    if program == "relayd-delivery":
        alone.start_delivery(environment=memory.environment)
        drains(alone)
        assert ledger.messages(), "by TLS"
    else:
        alone.start_worker(program, environment=memory.environment)
        takes_mail_again(alone, ledger)
    assert alone.stop() == 0
    assert memory.calls == 0
