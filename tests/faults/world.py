"""A relayd and an evil upstream that live for many rows, and a relayd in a network of its own making."""

import base64
import subprocess
import time

from evil import Evil
from ledger import Ledger
from relayd import Relayd
from sink import PASSWORD
from tools import demo_provider, wait_for

TIMEOUT = 2  # of connecting and of each reply; deadlines have 10 % and a second of room
QUICK = {f"{wait}_timeout": f"{TIMEOUT}s" for wait in ("connect", "command", "data")}
DEADLINE = (TIMEOUT * 0.9, TIMEOUT * 1.1 + 1)
WIRES = {"bdat": (), "pipelined": ("CHUNKING",), "plain": ("CHUNKING", "PIPELINING")}  # without these extensions
TLS = ("starttls", "implicit")
ALL, SERIAL, NONE = tuple(WIRES), ("pipelined", "plain"), ()  # serial: no body leaves before its envelope is answered
SECRETS = [base64.b64encode(text.encode()).decode() for text in (PASSWORD, f"\0user\0{PASSWORD}")]


class SharedRelayd(Relayd):
    """Its log begins anew with each row."""
    begin = 0

    def log(self):
        if not self.log_path.exists():
            return ""
        with open(self.log_path, "rb") as file:
            file.seek(self.begin)
            return file.read().decode("utf-8", "replace")

    def forget_log(self):
        self.begin = self.log_path.stat().st_size


class Memory:
    """What a process has resident, and at most had."""

    def __init__(self, pid):
        self.pid = pid
        self.before = self.peak_from_now()

    def field(self, name):
        with open(f"/proc/{self.pid}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

    def peak_from_now(self):
        with open(f"/proc/{self.pid}/clear_refs", "w", encoding="ascii") as file:
            file.write("5\n")
        return self.field("VmRSS")

    def is_sanitized(self):
        """A build whose freed memory stays resident for a while, on purpose."""
        with open(f"/proc/{self.pid}/maps", encoding="utf-8") as file:
            return "libasan" in file.read()

    def grew_by(self, most):
        """More than `most` bytes at any time since? (With sanitizers nothing can be said.)"""
        growth = self.field("VmHWM") - self.before
        return growth > most and not self.is_sanitized() and growth


class World:
    """A relayd and its upstream, for many rows."""

    def __init__(self, programs, where, authority, tls, wire):
        self.where, self.tls, self.wire = where, tls, wire
        self.evil = Evil(authority, implicit_tls=tls == "implicit")
        self.extensions = [e for e in demo_provider.EXTENSIONS + ("DSN",) if e.split()[0] not in WIRES[wire]]
        self.relayd = SharedRelayd(programs, where / "relayd")
        self.relayd.set("log", {"level": "debug"})
        self.relayd.set("limits", {"dsn_per_hour": 100000})
        self.relayd.to_sink(self.evil, connections=1, messages_per_connection=3, **QUICK)
        self.relayd.start()
        self.next, self.ledger, self.is_warm = 0, None, False
        self.delivery = None

    def renew(self):
        """A delivery process that trusts its upstream: envelopes may overlap, and many messages leave in one flight."""
        if self.delivery is not None:
            self.relayd.reload()
            self.relayd.wait_event("config.reloaded")
        self.delivery = wait_for(lambda: (pid := self.relayd.pid_of("relayd-delivery")) != self.delivery and pid)
        self.ledger = Ledger(self.relayd, self.evil, self.where)
        self.ledger.next = self.next
        self.send_together(3)
        self.drain()

    def begin(self):
        """A quiet relayd with no connection, a good upstream, a new ledger."""
        self.evil.mend()
        self.evil.tls = self.evil.authority.context()
        self.evil.passwords, self.evil.mechanisms = {"user": PASSWORD}, Evil.mechanisms
        self.evil.extensions = list(self.extensions)
        self.evil.start()
        self.evil.hang_up()
        self.drain()  # whatever a failed row left
        if self.delivery is None or (self.wire != "plain" and self.relayd.events("upstream.warned")):
            self.renew()
        self.evil.hang_up()
        self.evil.mend()
        for kept in (self.evil.messages, self.evil.sessions, self.evil.logins, self.evil.commands):
            kept.clear()
        self.relayd.forget_log()
        self.ledger = Ledger(self.relayd, self.evil, self.where)
        self.ledger.next = self.next
        return self

    def send(self, **message):
        entry = self.ledger.send(**message)
        self.next = self.ledger.next
        assert entry.is_acknowledged, entry.answer
        return entry

    def send_together(self, messages, **message):
        """All of them wait when the first connection is greeted: a session has as much in flight as it ever has."""
        self.evil.gate.clear()
        try:
            return [self.send(**message) for _ in range(messages)]
        finally:
            self.evil.gate.set()

    def down(self, seconds=10):
        """The event that says so."""
        return self.relayd.wait_event("upstream.down", seconds)[0]

    def drain(self, seconds=20):
        """The operator has mended it, and says so until the queue is empty."""
        deadline = time.monotonic() + seconds
        while self.relayd.queue():
            assert time.monotonic() < deadline, f"not empty: {self.relayd.queue()}\n{self.relayd.log()[-6000:]}"
            self.relayd.ctl("retry", "--all")
            time.sleep(0.05)

    def mend(self):
        self.evil.misbehave([])
        self.evil.tls = self.evil.authority.context()

    def fds(self):
        return len(list((self.proc() / "fd").iterdir()))

    def proc(self):
        return type(self.where)(f"/proc/{self.delivery}")

    def check(self, name, rows, exact=True, misdeeds=None):
        """What holds after each row."""
        misdeeds = sum(self.evil.done.values()) if misdeeds is None else misdeeds
        found = self.ledger.check(f"test_upstream.{name}", rows, exact, upstream_misdeeds=misdeeds)
        assert self.relayd.pid_of("relayd-delivery") == self.delivery, "the same process"
        log = self.relayd.log()
        assert not [secret for secret in SECRETS if secret in log], "a secret in the log"
        self.nothing_in_clear()
        wait_for(lambda: self.fds() <= FDS_IDLE + len(self.evil.alive), 5, why=lambda: f"{self.fds()} descriptors")
        return found

    def nothing_in_clear(self):
        clear = self.evil.clear_text()
        for word in (b"AUTH", b"MAIL", b"RCPT", b"DATA", b"BDAT", PASSWORD.encode(), *map(str.encode, SECRETS)):
            assert word not in clear, f"{word} in clear: {clear[:400]}"

    def stop(self):
        status = self.relayd.stop()
        self.relayd.begin = 0
        self.evil.stop()
        died = self.relayd.events("worker.died")
        assert not died, died
        assert "Sanitizer" not in self.relayd.log(), self.relayd.log()[-20000:]
        assert status in (None, 0), f"relayd ended with {status}"


FDS_IDLE = 30  # of relayd-delivery, with its spool and log; a leak grows beyond it soon


class ElsewhereRelayd(Relayd):
    """It sees another /etc/resolv.conf and /etc/hosts than the machine has."""

    BIND = "for f in resolv.conf hosts; do mount --bind $0/$f /etc/$f || exit 99; done"
    is_bound = False

    def names(self, resolv_conf="", hosts="127.0.0.1 localhost\n"):
        for name, text in (("resolv.conf", resolv_conf), ("hosts", hosts)):
            (self.where / name).write_text(text, encoding="ascii")
            (self.where / name).chmod(0o644)
        return self

    def bind_names(self):
        """For this process as well, and all that it starts: it has a mount namespace of its own (disks.Namespace). No
        other namespace holds the disks then when relayd has ended."""
        subprocess.run(["sh", "-c", self.BIND, self.where], check=True)
        self.is_bound = True

    def command(self):
        if self.is_bound:
            return super().command()
        return ["unshare", "-m", "sh", "-c", self.BIND + "; exec \"$@\"", self.where, *super().command()]
