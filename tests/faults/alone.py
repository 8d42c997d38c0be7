"""The two workers each on its own, under strace if wanted: what a supervised relayd takes a second for takes 0.1.

They run one after the other on the same spool: alone, neither knows what the other is writing.

    daemon.start_intake(Inject("fdatasync", "error=EIO", when=3))
    daemon.start_delivery(Inject("sendto", "signal=KILL", when=7))"""

import collections
import os
import pathlib
import re
import signal
import subprocess

from relayd import Relayd
from tools import wait_for


class Inject:
    """What strace does to the k-th call of this name: when=3, or "3+5" for each fifth from the third on."""

    def __init__(self, call, what, when):
        self.call, self.what, self.when = call, what, when

    def __str__(self):
        return f"{self.call}:{self.what}:when={self.when}"


# began and ended: numbers of lines.
Call = collections.namedtuple("Call", "name arguments fd result began ended")


class Strace:
    """strace's part of a command line, and what it has written."""

    def __init__(self, path, calls, inject=None):
        self.path, self.calls, self.inject = pathlib.Path(path), calls, inject
        self.shown = 32  # bytes of each string

    def command(self):
        inject = ["-e", f"inject={self.inject}"] if self.inject else []
        return ["strace", "-f", "-q", "-s", self.shown, "-o", self.path, "-e", f"trace={','.join(self.calls)}", *inject]

    def lines(self):
        return self.path.read_text(errors="replace").splitlines() if self.path.exists() else []

    def injected(self):
        return sum("(INJECTED" in line or "(DELAYED" in line for line in self.lines())

    def returned(self):
        """Each call that has returned, also those that overlap: Call."""
        begun = {}
        for at, line in enumerate(self.lines()):
            thread, _, text = line.partition(" ")
            text, began = text.strip(), at
            if text.endswith("<unfinished ...>"):
                begun[thread] = at, text.removesuffix("<unfinished ...>")
                continue
            if resumed := re.match(r"<\.\.\. \w+ resumed>", text):
                began, text = begun[thread][0], begun[thread][1] + text[resumed.end():]
            if call := re.match(r"(\w+)\((.*)\)\s+= (-?\d+)", text):
                yield Call(call[1], call[2], call[2].partition(",")[0].strip(), int(call[3]), began, at)

    def is_stopped(self):
        return any("--- stopped by SIGSTOP" in line for line in self.lines())


class Tracer(Strace):
    """strace on a running process, all its threads."""

    def __init__(self, pid, path, calls, inject=None):
        super().__init__(path, calls, inject)
        self.process = subprocess.Popen([*map(str, self.command()), "-p", str(pid)], stderr=subprocess.DEVNULL)
        wait_for(lambda: is_traced(pid), 10, why="strace to attach")

    def detach(self):
        """It may wait forever for a thread of a process that was killed: then it is killed too."""
        self.process.terminate()
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def is_traced(pid):
    """All its threads, but for those that it was killed for already."""
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
        try:
            if not re.search(r"^(TracerPid:\t[1-9]|State:\t[XZ])", task.read_text(), re.M):
                return False
        except OSError:
            continue
    return True


class Alone(Relayd):
    """Relayd's settings, log and relayctl, but its workers are started one by one, and stay who we are."""

    def __init__(self, programs, where, **settings):
        super().__init__(programs, where, user="", **settings)
        self.strace, self.runs, self.tracer = None, 0, None
        self.environment = {}  # of every worker that is started

    def start_worker(self, name, inject=None, calls=(), shown=32, environment=None):
        assert self.process is None or self.process.poll() is not None
        self.write_config()
        command = [self.programs / name, "-c", self.config]
        self.runs += 1
        self.strace = None
        if inject or calls:
            self.strace = Strace(self.where / f"strace-{self.runs}", {*calls, *([inject.call] if inject else [])}, inject)
            self.strace.shown = shown
            command = [*self.strace.command(), *command]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, **self.environment, **(environment or {})},
                                            start_new_session=True)
        return self

    def start_intake(self, inject=None, wait=True, **options):
        """Waits until it serves, or has ended: is_running() says which."""
        self.start_worker("relayd-intake", inject, **options)
        if wait:
            wait_for(lambda: not self.is_running() or (self.strace and self.strace.is_stopped()) or
                     self.greets(), 20, step=0.005, why=self.log)
        return self

    def start_delivery(self, inject=None, **options):
        return self.start_worker("relayd-delivery", inject, **options)

    def attach(self, inject, calls=()):
        self.runs += 1
        self.tracer = Tracer(self.process.pid, self.where / f"strace-{self.runs}", {inject.call, *calls}, inject)
        return self.tracer

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def worker_pid(self):
        """The worker itself, not its tracer."""
        if not self.is_running():
            return None
        if not self.strace:
            return self.process.pid
        found = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(found[0]) if found else None

    def signal(self, number):
        pid = self.worker_pid()
        if pid:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def stop(self, seconds=40):
        """By SIGTERM; gives the exit status (negative: a signal), also of one that has ended by itself."""
        if self.process is None:
            return None
        self.signal(signal.SIGTERM)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise
        self.process = None
        return status

    def kill_all(self):
        if self.tracer:
            self.tracer.detach()
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.kill()
            self.process.wait()
            self.process = None

    def control_answers(self):
        return '"running":true' in self.ctl("status", "--json", check=False).stdout

    def wait_empty(self, seconds=20):
        """Delivery sends all there is."""
        super().wait_empty(seconds)
