"""T5, T7 for the two programs that are no workers: each kind of system call that relayd (the supervisor) and relayd-sendmail
make fails, or is their last one (kill -9). strace makes it so. Which calls there are, a run without faults tells.

The supervisor goes on, or ends by itself with a word; in either case no worker is left alone, and the next start has all
mail. relayd-sendmail ends with a code of sysexits.h and a word; when it says 0 the mail is there. Of each kind
some calls are taken, by a seed that changes every day: of relayd two of the first, the last and one between them, of
relayd-sendmail all of up to 16."""

import collections
import os
import pathlib
import random
import re
import signal
import subprocess
import time

import pytest

from alone import Inject, Strace
from relayd import PROGRAMS
from tools import command_name, wait_for

SEED = int(os.environ.get("RELAYD_SEED", time.time() // 86400))
LOADER = ("access", "arch_prctl", "prlimit64", "set_tid_address", "set_robust_list", "rseq", "mprotect", "munmap",
          "execve", "exit_group", "getrandom", "brk", "mmap", "restart_syscall", "rt_sigreturn")
ERRORS = {"epoll_wait": "EINTR", "wait4": "EINTR", "sendmsg": "ENOBUFS", "clone": "EAGAIN", "kill": "EPERM",
          "openat": "EMFILE", "socket": "EMFILE", "socketpair": "EMFILE", "memfd_create": "EMFILE", "eventfd2": "EMFILE",
          "epoll_create1": "EMFILE", "epoll_ctl": "ENOMEM", "bind": "EADDRINUSE", "connect": "ECONNREFUSED",
          "recvfrom": "ECONNRESET", "poll": "EINTR"}  # of the others: EIO
NEVER_FAIL = re.compile(r"rt_sig\w+|get\w*id|umask|alarm|clock_\w+|gettimeofday|close|futex")  # or glibc ends it
SYSEXITS = range(64, 79)


def kinds(strace):
    """name → how often it was called, without what only the loader and libc do."""
    called = collections.Counter(found[1] for line in strace.lines() if (found := re.match(r"(?:\d+ +)?(\w+)\(", line)))
    return {name: times for name, times in called.items() if name not in LOADER}


def some_of(calls, most):
    """The first and the last, and one between."""
    chosen = sorted({1, calls, random.Random(SEED).randint(1, calls)})
    return sorted(random.Random(SEED).sample(chosen, min(most, len(chosen))))


# The supervisor.

class Supervised:
    """A relayd whose supervisor alone is under strace. Its workers are found by a word in their environment."""

    def __init__(self, relayd, own):
        self.relayd, self.own, self.runs, self.strace, self.mark = relayd, own, 0, None, ""

    def run(self, inject=None):
        """Start, mail, a reload, a worker that dies, the end. Gives the exit status."""
        self.runs += 1
        self.mark = str(self.own / f"run-{self.runs}")
        self.strace = Strace(self.own / f"strace-{self.runs}", ["all"] if inject is None else [inject.call], inject)
        command = [part for part in self.strace.command() if part != "-f"]
        command = ["strace", "-D", *command[1:], self.relayd.programs / "relayd", "-c", self.relayd.config]
        self.relayd.write_config()
        with open(self.relayd.log_path, "wb") as log:
            self.relayd.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                   env={**os.environ, "RELAYD_SANDBOX": "", "SSL_CERT_DIR": self.mark})
        for step in (self.is_ready, self.is_reloaded, self.is_whole_again):
            self.soon(step)
        return self.end()

    def has_ended(self):
        return self.relayd.process.poll() is not None

    def soon(self, step):
        deadline = time.monotonic() + 4
        while not self.has_ended() and time.monotonic() < deadline and not step():
            time.sleep(0.02)

    def workers(self):
        found = {}
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            if f"SSL_CERT_DIR={self.mark}\0".encode() in environment and command_name(pid) in PROGRAMS[1:3]:
                found[command_name(pid)] = pid
        return found

    def is_ready(self):
        return self.relayd.events("daemon.started")

    def is_reloaded(self):
        if not self.relayd.events("config.reloaded") and not getattr(self, "asked", None) == self.runs:
            self.asked = self.runs
            self.relayd.process.send_signal(signal.SIGHUP)
        return self.relayd.events("config.reloaded")

    def is_whole_again(self):
        workers = self.workers()
        if getattr(self, "killed", None) != self.runs and "relayd-intake" in workers:
            self.killed, self.victim = self.runs, workers["relayd-intake"]
            self.relayd.kill(self.victim)
            return False
        return workers.get("relayd-intake") not in (None, getattr(self, "victim", None))

    def end(self):
        """By SIGTERM if it has not ended by itself."""
        if not self.has_ended():
            self.relayd.process.terminate()
        status = self.relayd.process.wait(40)
        self.relayd.process = None
        wait_for(lambda: not self.workers(), 20, why=lambda: f"left alone: {self.workers()}\n{self.relayd.log()[-3000:]}")
        return status


@pytest.fixture
def supervised(relayd, sink, own):
    relayd.set("retry", {"first": "1s", "max": "2s"})
    relayd.set("drain", "1s")
    relayd.to_sink(sink)
    return Supervised(relayd, own)


def still_has_it_all(supervised, ledger, name, rows, **figures):
    """What was taken before, between and behind is delivered. What died in these runs was meant to."""
    supervised.relayd.log_path.write_bytes(b"")
    supervised.relayd.start()
    assert ledger.send().is_acknowledged
    ledger.settle()
    ledger.check(f"test_syscalls_more.{name}", rows=rows, **figures)


def calls_of(supervised, share, shares):
    """This share of the kinds that a good run makes."""
    assert supervised.run() == 0, supervised.relayd.log()
    return sorted(kinds(supervised.strace).items())[share::shares]


@pytest.mark.parametrize("share", range(4))
def test_the_supervisor_is_killed_at_each_kind_of_call(supervised, ledger, share):
    kills = 0
    for call, calls in calls_of(supervised, share, 4):
        for k in some_of(calls, 2):
            status = supervised.run(Inject(call, "signal=KILL", k))
            assert status in (-signal.SIGKILL, 0), f"{call} {k}: {status}"
            kills += status != 0
    assert kills
    still_has_it_all(supervised, ledger, "supervisor.kill", [1, 2], crashes=kills)


@pytest.mark.parametrize("share", range(4))
def test_a_call_of_the_supervisor_fails(supervised, ledger, share):
    failed = 0
    for call, calls in calls_of(supervised, share, 4):
        for k in () if NEVER_FAIL.fullmatch(call) else some_of(calls, 2):
            status = supervised.run(Inject(call, f"error={ERRORS.get(call, 'EIO')}", k))
            said = supervised.relayd.log()
            assert status == 0 or (status in (*SYSEXITS, 1, 127) and said), f"{call} {k}: {status}: {said[-2000:]}"
            failed += supervised.strace.injected()
    assert failed
    still_has_it_all(supervised, ledger, "supervisor.errors", [7, 8, 11, 12], other_errors_injected=failed)


# relayd-sendmail.

SENDMAIL_MOST = 16


class Sendmail:
    """One message by relayd-sendmail under strace."""

    def __init__(self, relayd, ledger, own):
        self.relayd, self.ledger, self.own, self.runs, self.strace = relayd, ledger, own, 0, None

    def run(self, inject=None):
        """Gives the exit status and what was said. In the ledger it is acknowledged if that is 0, else nobody knows."""
        self.runs += 1
        entry = self.ledger.new(body=b"text\r\n" * 2000)
        self.strace = Strace(self.own / f"sendmail-{self.runs}", ["all"] if inject is None else [inject.call], inject)
        command = [*self.strace.command(), self.relayd.programs / "relayd-sendmail", "-i", "-f", entry.sender, *entry.recipients]
        done = subprocess.run(list(map(str, command)), input=entry.data, capture_output=True, timeout=30, check=False,
                              env=self.relayd.sendmail_environment())
        entry.answer = "250 sent" if done.returncode == 0 else "unknown"
        return done.returncode, done.stderr.decode(errors="replace")


@pytest.mark.parametrize("what", ["fails", "kills"])
def test_each_call_of_sendmail(relayd, sink, ledger, own, what):
    relayd.to_sink(sink).start()
    sendmail, hits, endings = Sendmail(relayd, ledger, own), 0, collections.Counter()
    assert sendmail.run()[0] == 0
    for call, calls in sorted(kinds(sendmail.strace).items()):
        for k in range(1, min(calls, SENDMAIL_MOST) + 1) if what == "kills" or not NEVER_FAIL.fullmatch(call) else ():
            status, said = sendmail.run(
                Inject(call, "signal=KILL" if what == "kills" else f"error={ERRORS.get(call, 'EIO')}", k))
            endings[status] += 1
            if what == "kills":
                assert status in (0, -signal.SIGKILL), f"{call} {k}: {status}: {said}"
            else:
                assert status == 0 or (status in (*SYSEXITS, 127) and said), f"{call} {k}: {status}: {said}"
            hits += status != 0 if what == "kills" else sendmail.strace.injected()
    ledger.settle()
    figure = {"crashes": hits} if what == "kills" else {"other_errors_injected": hits}
    ledger.check(f"test_syscalls_more.sendmail.{what}", rows=[1] if what == "kills" else [7, 11], **figure)
    assert hits and (what == "kills" or endings[0] and len(endings) > 1), endings
