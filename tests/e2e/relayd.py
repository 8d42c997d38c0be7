"""relayd under test: its own configuration, ports, spool, sockets and log; and the ways to talk to it."""

import json
import os
import pathlib
import shutil
import signal
import smtplib
import socket
import subprocess

from sink import PASSWORD
from tools import children, command_name, free_port, wait_for

PROGRAMS = ("relayd", "relayd-intake", "relayd-delivery", "relayctl", "relayd-sendmail")
SERVICE_USER = "nobody"


def copy_programs(build, where):
    """Puts the programs where every user may run them: a build tree can stand below /root."""
    where.mkdir(mode=0o755, exist_ok=True)
    for name in PROGRAMS:
        shutil.copy(pathlib.Path(build) / name, where / name)
    return where


def quoted(value):
    """A value as relayd.conf writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "{" + ", ".join(quoted(item) for item in value) + "}"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def block(settings, indent=""):
    lines = []
    for name, value in settings.items():
        word, space, title = name.partition(" ")  # a title ("unix:/some_where") stays as it is
        name = word.replace("_", "-") + space + title
        if isinstance(value, dict):
            lines.append(f"{indent}{name} {{\n{block(value, indent + '    ')}{indent}}}\n")
        else:
            lines.append(f"{indent}{name} = {quoted(value)}\n")
    return "".join(lines)


class Relayd:
    """Relayd(programs, directory, upstream={...}, retry={...}, ...): keyword arguments are settings.

    What its sandbox forbids ends a worker, and by worker.died the test. sandbox="" before start() makes it fail
    with EPERM as in production: strace's inject= needs that (it skips a call by a number that no filter knows)."""

    def __init__(self, programs, where, user=None, sandbox="kill", **settings):
        self.programs, self.where = pathlib.Path(programs), pathlib.Path(where)
        self.where.mkdir(parents=True, exist_ok=True)
        self.user = user if user is not None else (SERVICE_USER if os.getuid() == 0 else "")
        self.port = free_port()
        self.control, self.submit = self.where / "run" / "control", self.where / "run" / "submit"
        self.spool, self.config = self.where / "spool", self.where / "relayd.conf"
        self.log_path = self.where / "log"
        self.process, self.killed, self.sandbox = None, set(), sandbox
        self.settings = {
            "hostname": "relay.test", "postmaster": "postmaster@relay.test", "user": self.user,
            f'listen "127.0.0.1:{self.port}"': {}, f'listen "unix:{self.submit}"': {},
            "spool": {"directory": self.spool, "min_free": "1M"}, "control": {"socket": self.control},
            "log": {"target": "json", "level": "info"},
        }
        for name, value in settings.items():
            self.set(name, value)
        for directory, mode in ((self.spool, 0o700), (self.where / "run", 0o755)):
            directory.mkdir(mode=mode, exist_ok=True)
            if self.user:
                shutil.chown(directory, self.user)

    # Configuration.

    def set(self, name, value):
        """A setting, or the parts of a block that change; None takes it away."""
        if value is None:
            self.settings.pop(name, None)
        elif isinstance(value, dict) and isinstance(self.settings.get(name), dict):
            self.settings[name].update(value)
        else:
            self.settings[name] = value

    def add_upstream(self, name="up", **settings):
        self.set(f'upstream "{name}"', settings)
        return self

    def to_sink(self, sink, name="up", **settings):
        """Adds the test's sink as an upstream: TLS verified, login by password file."""
        tls = "implicit" if sink.implicit_tls else "starttls" if sink.tls else "none"
        options = {"host": "localhost", "port": sink.port, "tls": tls}
        if sink.tls:
            options["tls_ca"] = sink.authority.ca
        if sink.passwords:
            options.update(username="user", password_file=self.password_file(PASSWORD))
        return self.add_upstream(name, **{**options, **settings})

    def password_file(self, password, name="password"):
        path = self.where / name
        path.write_text(password + "\n", encoding="utf-8")
        path.chmod(0o600)
        if self.user:
            shutil.chown(path, self.user)
        return path

    def write_config(self):
        self.config.write_text(block(self.settings), encoding="utf-8")

    # Life.

    def command(self):
        return [self.programs / "relayd", "-c", self.config]

    def open_log(self):
        return open(self.log_path, "ab")

    def start(self, wait=True):
        self.write_config()
        with self.open_log() as log:
            self.process = subprocess.Popen(self.command(),
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, "RELAYD_SANDBOX": self.sandbox})
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        def is_ready():
            assert self.process.poll() is None, f"relayd ended with {self.process.returncode}: {self.log()}"
            return self.greets() and '"running":true' in self.ctl("status", "--json", check=False).stdout
        wait_for(is_ready, 20, why=self.log)

    def greets(self):
        """intake itself: the backlog answers before it does."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as client:
                return client.recv(4) == b"220 "
        except OSError:
            return False

    def stop(self, seconds=40):
        """Stops it as an operator would; gives the exit status."""
        if not self.process:
            return None
        pids = self.pids() if self.process.poll() is None else []
        if pids:
            self.process.terminate()
        try:
            return self.process.wait(seconds)
        finally:
            for pid in pids:
                if command_name(pid) in PROGRAMS:
                    self.kill(pid)
            self.process.wait()
            self.process = None

    def kill_all(self):
        """kill -9 of everything at once: what a power cut leaves, except for the disk."""
        self.process.send_signal(signal.SIGSTOP)  # it starts no worker that is not seen here
        for pid in self.pids():
            self.kill(pid)
        self.process.wait()

    def kill(self, pid):
        self.killed.add(pid)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def reload(self):
        self.write_config()
        self.process.send_signal(signal.SIGHUP)

    def pids(self):
        return [self.process.pid] + children(self.process.pid)

    def pid_of(self, program):
        """The process id of the (youngest) relayd, relayd-intake or relayd-delivery; None if there is none."""
        found = [pid for pid in self.pids() if command_name(pid) == program]
        return max(found) if found else None

    # What it says.

    def log(self):
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def events(self, name=None, **fields):
        """The log lines of this event (log { target = json }) with these fields."""
        found = []
        for line in self.log().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if name in (None, event.get("event")) and all(str(event.get(k)) == str(v) for k, v in fields.items()):
                found.append(event)
        return found

    def wait_event(self, name, seconds=20, count=1, **fields):
        return wait_for(lambda: (e := self.events(name, **fields)) and len(e) >= count and e, seconds,
                        why=lambda: f"{count} {name} {fields} in the log:\n{self.log()[-6000:]}")

    def ctl(self, *arguments, check=True, timeout=30, **options):
        done = subprocess.run([self.programs / "relayctl", "-c", self.config, *arguments], capture_output=True,
                              text=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False, **options)
        assert not check or done.returncode == 0, f"relayctl {arguments}: {done.stderr} {done.stdout}"
        return done

    def status(self):
        return self.ctl("status").stdout

    def queue(self):
        return [json.loads(line) for line in self.ctl("queue", "--json").stdout.splitlines()]

    def wait_empty(self, seconds=20):
        wait_for(lambda: not self.queue(), seconds, step=0.1, why=lambda: f"queue: {self.queue()}\n{self.log()[-6000:]}")

    # What it is told.

    def smtp(self, timeout=30):
        return smtplib.SMTP("127.0.0.1", self.port, local_hostname="client.test", timeout=timeout)

    def send(self, subject="hello", recipients=("rcpt@example.net",), sender="sender@example.net", body="text\r\n",
             options=(), rcpt_options=()):
        """One message by SMTP; gives what was sent."""
        if isinstance(body, str):
            body = body.encode()
        data = (f"From: <{sender or 'nobody@example.net'}>\r\nTo: <{recipients[0]}>\r\nSubject: {subject}\r\n"
                "Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <" + subject.replace(" ", ".") +
                "@client.test>\r\n\r\n").encode() + body
        with self.smtp() as smtp:
            smtp.sendmail(sender, list(recipients), data, list(options), list(rcpt_options))
        return data

    def sendmail(self, *arguments, data=b"", **options):
        command = [self.programs / "relayd-sendmail", *arguments]
        return subprocess.run(command, input=data, capture_output=True, timeout=30, check=False,
                              env=self.sendmail_environment(), **options)

    def sendmail_environment(self):
        return {"PATH": os.environ["PATH"], "RELAYD_SUBMIT": str(self.submit)}


def content(message):
    """What arrived, without the Received lines on top: (header and body) as the client sent it."""
    data = message.data
    while data.startswith(b"Received:"):
        line, _, data = data.partition(b"\r\n")
        while data[:1] in (b" ", b"\t"):
            line, _, data = data.partition(b"\r\n")
    return data
