"""relayd-intake alone (-c FILE): from the socket to the spool, without supervisor and delivery."""

import concurrent.futures
import json
import os
import pathlib
import random
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import time

import pytest

from tools import SANITIZED, free_port, is_listening, wait_for
from relayd import block

BUILD = pathlib.Path(os.environ.get("RELAYD_BUILD", "."))
HEADER = b"From: <ann@example.net>\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@x>\r\n"


class Intake:
    """One relayd-intake with its own directory, ports and log."""

    def __init__(self, where, sandbox="kill", **settings):
        self.where, self.sandbox = where, sandbox
        self.port, self.unix, self.spool = free_port(), where / "submit", where / "spool"
        self.log_path, self.process = where / "log", None
        self.settings = {
            "hostname": "relay.test",
            f'listen "127.0.0.1:{self.port}"': {}, f'listen "unix:{self.unix}"': {},
            "spool": {"directory": self.spool, "min_free": "1M"},
            "log": {"target": "json", "level": "debug"},
            'upstream "up"': {"host": "localhost", "port": 2525, "tls": "none", "auth": "none"},
        }
        for name, value in settings.items():
            if isinstance(self.settings.get(name), dict):
                self.settings[name].update(value)
            else:
                self.settings[name] = value

    def start(self):
        config = self.where / "relayd.conf"
        config.write_text(block(self.settings), encoding="utf-8")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([BUILD / "relayd-intake", "-c", config], stderr=log,
                                            stdout=log, stdin=subprocess.DEVNULL,
                                            env={**os.environ, "RELAYD_SANDBOX": self.sandbox})
        wait_for(lambda: self.is_up() and self.unix.exists(), 15, why=self.log)
        return self

    def is_up(self):
        assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.log()}"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as raw:
                return raw.recv(4) != b""  # the backlog answers before intake does
        except OSError:
            return False

    @property
    def pid(self):
        return self.process.pid

    def stop(self, how=signal.SIGTERM, seconds=20):
        if self.process and self.process.poll() is None:
            os.kill(self.pid, how)
        return self.process.wait(seconds)

    def log(self):
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def events(self, name):
        found = []
        for line in self.log().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("event") == name:
                found.append(event)
        return found

    def connect(self, address=None, timeout=15):
        assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.log()}"
        if address == "unix":
            raw = socket.socket(socket.AF_UNIX)
            raw.settimeout(timeout)
            raw.connect(str(self.unix))
        else:
            port = address if isinstance(address, int) else self.port
            raw = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        return Client(raw)

    def talk(self, address=None):
        """A client that has said EHLO."""
        client = self.connect(address)
        assert client.reply().startswith("220 relay.test")
        client.say("EHLO client.test")
        return client

    def has_stored(self, text):
        """Do these bytes stand in a segment?"""
        return any(text in path.read_bytes() for path in self.spool.glob("intake-*.seg"))

    def prefix_of(self, queue_id):
        """The header lines that intake wrote before this message."""
        for path in self.spool.glob("intake-*.seg"):
            found = re.search(rb"Received: (?:[^\0\r]|\r\n[ \t])*" + queue_id.encode() +
                              rb"(?:[^\0\r]|\r\n(?!\0))*\r\n", path.read_bytes())
            if found:
                return found.group(0)
        return b""

    def rss_bytes(self):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) * 1024

    def descriptors(self):
        """What is open, by number; what is closed while we look is left out."""
        found = {}
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                found[fd] = os.readlink(f"/proc/{self.pid}/fd/{fd}")
            except FileNotFoundError:
                pass
        return found

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Client:
    def __init__(self, raw):
        self.raw, self.buffer = raw, b""

    def send(self, data):
        self.raw.sendall(data)

    def line(self):
        while b"\n" not in self.buffer:
            more = self.raw.recv(65536)
            if not more:
                raise EOFError(self.buffer)
            self.buffer += more
        line, _, self.buffer = self.buffer.partition(b"\n")
        assert line.endswith(b"\r")
        return line[:-1].decode()

    def reply(self):
        """One reply; the lines of a longer one joined."""
        lines = [self.line()]
        while lines[-1][3:4] == "-":
            lines.append(self.line())
        return "\n".join(lines)

    def say(self, command):
        self.send(command.encode() + b"\r\n")
        return self.reply()

    def envelope(self, sender="ann@example.net", recipient="bob@example.net"):
        assert self.say(f"MAIL FROM:<{sender}>").startswith("250 2.1.0")
        assert self.say(f"RCPT TO:<{recipient}>").startswith("250 2.1.5")

    def message(self, body, **envelope):
        self.envelope(**envelope)
        assert self.say("DATA").startswith("354")
        self.send(body.replace(b"\r\n.", b"\r\n..") + b"\r\n.\r\n")
        return self.reply()

    def is_closed(self):
        """Everything was read and the other end is shut."""
        try:
            return self.raw.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self):
        self.raw.close()


@pytest.fixture
def make(own):
    made = []

    def start(**options):
        where = own / str(len(made))
        where.mkdir()
        made.append(Intake(where, **options))
        return made[-1].start()

    yield start
    for intake in made:
        if intake.process and intake.process.poll() is None:
            os.kill(intake.pid, signal.SIGKILL)
            intake.process.wait()


# The main way.

@pytest.mark.parametrize("address", ["tcp", "unix"])
def test_a_message_is_in_the_spool_when_250_is_said(make, address):
    intake = make()
    client = intake.talk(address)
    body = HEADER + b"\r\n.dot\r\n..\r\nk\xc3\xb6rper " + os.urandom(8).hex().encode() + b"\r\n"
    answer = client.message(body.rstrip(b"\r\n"))
    assert re.fullmatch(r"250 2\.0\.0 .*queued as 0[0-9A-HJKMNP-TV-Z]{12}", answer), answer
    assert intake.has_stored(body)
    assert client.say("QUIT").startswith("221")
    assert client.is_closed()
    event = intake.events("message.accepted")[0]
    assert event["queue_id"] == answer.split()[-1]
    assert (event["sender"], event["recipient"], event["uid"]) == ("ann@example.net", "bob@example.net", os.getuid())
    assert event["size"] == len(body)
    assert event["client"] == ("127.0.0.1" if address == "tcp" else f"uid {os.getuid()}")
    prefix = intake.prefix_of(answer.split()[-1])
    assert prefix.startswith(b"Received: from client.test ") and b"by relay.test" in prefix, prefix
    assert b"Date:" not in prefix and b"Message-ID:" not in prefix


def test_unit_of_the_client_is_told(make, own):
    if not shutil.which("systemd-run") or subprocess.run(["systemctl", "is-system-running"], capture_output=True,
                                                         check=False).returncode not in (0, 1) or \
            not pathlib.Path("/run/systemd/system").exists():
        # without systemd a cgroup named like a unit does as well
        root = pathlib.Path("/sys/fs/cgroup")
        if not (root / "cgroup.procs").exists():
            root = root / "unified"
        if not (root / "cgroup.procs").exists():
            pytest.skip("no cgroup2 here")
        name = root / f"relayd-test-{os.getpid()}.service"
        try:
            name.mkdir()
        except OSError as error:
            pytest.skip(f"no cgroup can be made: {error}")
        intake = make()
        try:
            script = ("import os,smtplib,sys\n"
                      f"open('{name}/cgroup.procs','w').write(str(os.getpid()))\n"
                      f"s=smtplib.SMTP('127.0.0.1',{intake.port}); s.sendmail('a@x.test',['b@x.test'],b'S: x\\r\\n\\r\\nx')\n"
                      f"import socket; s=socket.socket(socket.AF_UNIX); s.connect('{intake.unix}'); s.recv(1)\n")
            subprocess.run(["python3", "-c", script], check=True)
        finally:
            wait_for(lambda: not (name / "cgroup.procs").read_text().strip(), 5)
            name.rmdir()
        assert intake.events("message.accepted")[0]["unit"] == name.name
        assert [e for e in intake.events("session.opened") if e["client"].startswith("uid ") and e["unit"] == name.name]
    else:
        intake = make()
        subprocess.run(["systemd-run", "--wait", "--collect", "--unit=relayd-test-unit", "python3", "-c",
                        "import smtplib; smtplib.SMTP('127.0.0.1',%d).sendmail('a@x.test',['b@x.test'],b'S: x\\r\\n\\r\\nx')"
                        % intake.port], check=True)
        assert intake.events("message.accepted")[0]["unit"] == "relayd-test-unit.service"


def test_large_bodies_go_to_their_own_file(make):
    intake = make(spool={"max_message": "8M"})
    client = intake.talk()
    body = HEADER + b"\r\n" + (b"x" * 76 + b"\r\n") * 50000 + b"end"
    answer = client.message(body)
    assert answer.startswith("250 "), answer
    assert (intake.spool / "large" / answer.split()[-1]).read_bytes() == body + b"\r\n"
    assert not intake.has_stored(b"x" * 76)


def test_an_oversized_message_is_refused_and_leaves_nothing(make):
    intake = make(spool={"max_message": "1M"})
    client = intake.talk()
    assert client.say("MAIL FROM:<a@x.test> SIZE=2000000").startswith("552 5.3.4")
    assert client.message(HEADER + b"\r\n" + b"y" * 3000000).startswith("552 5.3.4")
    assert client.message(HEADER + b"\r\nsmall").startswith("250 ")
    assert list((intake.spool / "large").iterdir()) == []


def test_smtplib_with_pipelined_and_bdat_clients(make):
    intake = make()
    with smtplib.SMTP("127.0.0.1", intake.port) as smtp:
        for number in range(20):
            smtp.sendmail("a@x.test", ["b@x.test", "c@x.test"], HEADER + b"\r\nnumber %d\r\n" % number)
    client = intake.talk()
    client.send(b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nBDAT 7\r\nS: x\r\n\rBDAT 7 LAST\r\n\nbdat\r\n"
                b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nBDAT 6 LAST\r\n\r\nzw\r\nQUIT\r\n")
    replies = [client.reply() for _ in range(8)]
    assert [r[:3] for r in replies] == ["250"] * 7 + ["221"], replies
    assert len(intake.events("message.accepted")) == 22


def test_every_byte_in_its_own_segment(make):
    intake = make()
    client = intake.connect()
    client.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.reply()
    for line, code in ((b"EHLO x", "250"), (b"MAIL FROM:<a@x.test>", "250"), (b"RCPT TO:<b@x.test>", "250"),
                       (b"DATA", "354")):
        for byte in line + b"\r\n":
            client.send(bytes([byte]))
        assert client.reply().startswith(code)
    for byte in HEADER + b"\r\nslow\r\n.\r\n":
        client.send(bytes([byte]))
    assert client.reply().startswith("250 ")


# Refusals and limits.

def test_clients_that_may_not_submit_are_told_where_to_look(make):
    intake = make(clients=["10.0.0.0/8"])
    client = intake.connect()
    assert client.reply() == '550 5.7.1 127.0.0.1 may not submit here: see "clients" in relayd.conf'
    assert intake.events("session.refused")[0]["client"] == "127.0.0.1"
    assert intake.talk("unix").message(HEADER + b"\r\nlocal").startswith("250 ")


def test_connections_are_limited_by_client_and_in_all(make):
    intake = make(limits={"connections_per_client": 5})
    held = [intake.talk() for _ in range(5)]
    refused = intake.connect()
    assert re.match(r"421 4\.7\.0 .*connections-per-client", refused.reply())
    assert refused.is_closed()
    held.pop().close()
    wait_for(lambda: intake.connect().reply().startswith("220"), 5)

    intake = make(limits={"connections": 5})
    held = [intake.talk() for _ in range(5)]
    assert re.match(r"421 4\.3\.2 .*connections", intake.connect().reply())


def test_a_full_disk_is_told_at_mail(make):
    intake = make(spool={"min_free": "1000G"})
    client = intake.talk()
    answer = client.say("MAIL FROM:<a@x.test>")
    assert answer.startswith("452 4.3.1") and str(intake.spool) in answer
    assert intake.events("spool.full")
    assert client.say("NOOP").startswith("250")


@pytest.fixture
def small_disk(own, request):
    """Makes a file system of that size."""
    def mount(size):
        directory = own / "small"
        directory.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", directory], capture_output=True,
                          check=False).returncode:
            pytest.skip("a file system of its own can only be mounted by root")
        request.addfinalizer(lambda: subprocess.run(["umount", "-l", directory], check=True))
        return directory
    return mount


def refusals(intake):
    """The lines that are read without asking for debug."""
    return [event for event in intake.events("message.rejected") if event["level"] == "warning"]


def test_a_full_disk_is_told_once_and_so_is_its_end(make, small_disk):
    """Not a line for each 452: the first one, a number now and then, and the number of all when there is room."""
    directory = small_disk("64m")
    intake = make(spool={"directory": directory / "spool", "min_free": "8M", "segment": "1M"}, limits={"errors": 1000})
    room = os.statvfs(directory)
    (directory / "filler").write_bytes(b"x" * (room.f_bavail * room.f_bsize - (4 << 20)))
    client = intake.talk()
    wait_for(lambda: client.say("MAIL FROM:<a@x.test>").startswith("452") or client.say("RSET") is None, 10)
    for _ in range(20):
        client.send(b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n")  # sent ahead, as most do
        assert [client.reply()[:3] for _ in range(3)] == ["452", "503", "503"]
    full, = intake.events("spool.full")
    assert full["free_bytes"] < full["min_free_bytes"] == 8 << 20
    assert len(refusals(intake)) == 1
    first, second = wait_for(lambda: len(e := refusals(intake)) == 2 and e, 15, why=intake.log)
    assert first["client"] and second["refused"] == 20 and second["reply"].startswith("452 4.3.1")
    (directory / "filler").unlink()
    end, = wait_for(lambda: intake.events("spool.has-room"), 15, why=intake.log)
    assert end["refused"] == 21 and end["down"] > 5 and end["free_bytes"] > 8 << 20
    assert client.say("MAIL FROM:<a@x.test>").startswith("250")
    assert len(intake.events("spool.full")) == 1


def test_a_disk_that_is_full_at_start_is_told_until_there_is_room(make, small_disk):
    directory = small_disk("160m")
    (directory / "filler").write_bytes(b"x" * (156 << 20))
    intake = make(spool={"directory": directory / "spool"})
    client = intake.talk()
    answer = client.say("MAIL FROM:<a@x.test>")
    assert answer.startswith("452 4.3.1") and str(directory) in answer
    assert client.say("MAIL FROM:<a@x.test>").startswith("452 4.3.1")
    assert len(refusals(intake)) == 1, "the rest is counted"
    (directory / "filler").unlink()
    wait_for(lambda: client.say("MAIL FROM:<a@x.test>").startswith("250"), 10)
    client.say("RSET")
    assert intake.events("spool.recovered")[0]["refused"] >= 2
    assert client.message(HEADER + b"\r\nroom again").startswith("250 ")
    assert intake.events("spool.recovered")


def test_a_mail_that_goes_in_circles_is_stopped(make):
    intake = make()
    hops = b"".join(b"Received: from a by b; Mon, 23 Nov 2026 10:00:00 +0000\r\n" for _ in range(100))
    assert intake.talk().message(hops + HEADER + b"\r\nagain").startswith("554 5.4.6")
    assert intake.talk().message(hops[hops.index(b"\n") + 1:] + HEADER + b"\r\nagain").startswith("250 ")
    assert intake.events("message.rejected")[0]["reply"].startswith("554 5.4.6")


def test_a_login_is_ignored_where_the_listener_says_so(make):
    port = free_port()
    intake = make(**{f'listen "127.0.0.1:{port}"': {"auth": "ignore"}})
    assert "AUTH" not in intake.connect().reply() + intake.talk().say("EHLO x")
    with smtplib.SMTP("127.0.0.1", port) as smtp:
        smtp.login("somebody", "anything")
        smtp.sendmail("a@x.test", ["b@x.test"], HEADER + b"\r\nlogged in\r\n")
    assert "anything" not in intake.log()


@pytest.mark.parametrize("settings,body,answer,stored", [
    ({}, b"one\ntwo\rthree", "250", b"one\r\ntwo three\r\n"),
    ({"line_end": "reject"}, b"one\ntwo", "550 5.5.2", None),
    ({"line_end": "reject"}, b"one\rtwo", "550 5.5.2", None),
    ({"line_end": "reject"}, b"one\r\ntwo", "250", b"one\r\ntwo\r\n"),
    ({}, b"one\0two", "550 5.6.0", None),
    ({"nul": "space"}, b"one\0two", "250", b"one two\r\n"),
])
def test_bytes_that_mail_may_not_hold_are_mended_or_refused_as_the_listener_says(make, settings, body, answer, stored):
    port = free_port()
    intake = make(**{f'listen "127.0.0.1:{port}"': settings})
    client = intake.talk(port)
    assert client.message(HEADER + b"\r\n" + body).startswith(answer)
    assert stored is None or intake.has_stored(b"\r\n\r\n" + stored)
    assert client.message(HEADER + b"\r\nthe next").startswith("250 ")
    assert len(intake.events("message.accepted")) == (2 if stored else 1)


def test_a_session_has_an_end(make):
    intake = make(limits={"session_timeout": "1s"})
    client = intake.talk()
    start = time.monotonic()
    try:
        while time.monotonic() - start < 5 and client.say("NOOP").startswith("250"):
            time.sleep(0.1)
    except (EOFError, OSError):
        pass
    assert time.monotonic() - start < 4


def test_one_hundred_thousand_recipients(make):
    intake = make(limits={"recipients": 1000})
    before = intake.rss_bytes()
    client = intake.talk()
    assert client.say("MAIL FROM:<a@x.test>").startswith("250")

    def send():
        try:
            for start in range(0, 100000, 1000):
                client.send(b"".join(b"RCPT TO:<r%d@x.test>\r\n" % n for n in range(start, start + 1000)))
        except OSError:
            pass  # thrown out: as it should be

    replies = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        try:
            while True:
                replies.append(client.reply())
        except (EOFError, OSError):
            pass
        sending.result()
    assert sum(r.startswith("250") for r in replies) == 1000
    assert any(r.startswith("452 4.5.3") for r in replies) and replies[-1].startswith("421"), replies[-1]
    assert SANITIZED or intake.rss_bytes() - before < 4 << 20
    assert intake.talk().message(HEADER + b"\r\nafter").startswith("250 ")


def test_a_client_that_never_reads_is_not_read_either(make):
    intake = make(limits={"commands": 1000000})  # they would end the session before
    client = intake.talk()
    before = intake.rss_bytes()
    client.raw.settimeout(2)
    sent = 0
    try:
        while sent < 64 << 20:
            sent += client.raw.send(b"HELP\r\n" * 1000)
    except OSError:
        pass
    assert sent < 64 << 20
    assert SANITIZED or intake.rss_bytes() - before < 2 << 20
    assert intake.talk().message(HEADER + b"\r\nother").startswith("250 ")


# Deadlines.

def test_a_command_has_a_deadline_whatever_drips(make):
    intake = make(limits={"command_timeout": "1s"})
    client = intake.talk()
    start = time.monotonic()
    try:
        for _ in range(100):
            client.send(b"N")
            time.sleep(0.1)
            if time.monotonic() - start > 3:
                break
    except OSError:
        pass
    assert client.reply().startswith("421 4.4.2")
    assert client.is_closed()
    assert 0.9 < time.monotonic() - start < 4.5


def test_a_message_that_stops_is_thrown_away(make):
    intake = make(limits={"command_timeout": "1s"})
    client = intake.talk()
    client.envelope()
    client.say("DATA")
    client.send(HEADER + b"\r\nhalf a messa")
    assert client.reply().startswith("421 4.4.2")
    lost = wait_for(lambda: intake.events("session.lost"), 5, why=intake.log)[0]
    assert "deadline" in lost["why"] and lost["sender"] == "ann@example.net"
    assert not intake.events("message.accepted")


# Clients that go away.

def test_half_close_after_the_final_dot_still_gets_its_250(make):
    intake = make()
    client = intake.connect()
    client.send(b"EHLO x\r\n")
    client.reply(), client.reply()
    client.send(b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\n")
    client.reply(), client.reply()
    client.say("DATA")
    client.send(HEADER + b"\r\nhalf closed\r\n.\r\n")
    client.raw.shutdown(socket.SHUT_WR)
    assert client.reply().startswith("250 2.0.0 ")
    assert client.is_closed()
    client = intake.talk()
    client.envelope()
    client.say("DATA")
    client.send(HEADER + b"\r\nnever complete\r\n.")
    client.raw.shutdown(socket.SHUT_WR)
    assert client.is_closed()
    assert len(intake.events("message.accepted")) == 1
    assert not intake.has_stored(b"never complete")


def test_disconnects_at_every_byte_store_nothing(make):
    intake = make()
    script = [b"EHLO x\r\n", b"MAIL FROM:<a@x.test>\r\n", b"RCPT TO:<b@x.test>\r\n", b"DATA\r\n", b"S: x\r\n\r\nb\r\n.\r\n"]
    total = sum(map(len, script))
    for cut in range(0, total - 1, 1):
        client = intake.connect()
        client.reply()
        left = cut
        for part in script:
            client.send(part[:left])
            left -= len(part)
            if left < 0:
                break
            client.reply()
        if cut % 2:  # a reset instead of an end
            client.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    wait_for(lambda: len([link for link in intake.descriptors().values() if link.startswith("socket:")]) < 8, 5)
    assert not intake.events("message.accepted")
    assert len(intake.events("session.lost")) > 10
    assert intake.talk().message(HEADER + b"\r\nfine").startswith("250 ")


# Many at once, and descriptors.

def test_one_thousand_idle_connections_cost_little(make):
    intake = make(log={"level": "info"})
    intake.talk().message(HEADER + b"\r\nwarm")
    before = intake.rss_bytes()
    idle = [intake.talk() for _ in range(1000)]
    grown = intake.rss_bytes() - before
    assert SANITIZED or grown < 8 << 20, grown
    start = time.monotonic()
    assert intake.talk().message(HEADER + b"\r\namong a thousand").startswith("250 ")
    assert time.monotonic() - start < 2
    busy = intake.cpu_seconds()
    time.sleep(1)
    assert intake.cpu_seconds() - busy < 0.2
    for client in idle:
        client.close()
    wait_for(lambda: len(intake.descriptors()) < 40, 10)


def test_without_descriptors_it_pauses_and_comes_back(make):
    intake = make()
    now = len(intake.descriptors())
    held = [intake.talk() for _ in range(5)]
    highest = max(int(fd) for fd in intake.descriptors()) + 1
    subprocess.run(["prlimit", f"--pid={intake.pid}", f"--nofile={highest}:{highest}"], check=True)
    refused = intake.connect()
    assert refused.reply().startswith("421 4.3.2")
    waiting = [intake.connect() for _ in range(3)]
    busy = intake.cpu_seconds()
    time.sleep(1)
    assert intake.cpu_seconds() - busy < 0.2
    assert held[0].say("NOOP").startswith("250")
    for client in held:
        client.close()
    del refused, waiting
    client = wait_for(lambda: (c := intake.connect()).reply().startswith("220") and c, 5)
    assert client.say("EHLO x").startswith("250")
    assert now > 0


def test_nothing_but_its_own_is_open(make):
    intake = make()
    intake.talk().message(HEADER + b"\r\nx")
    time.sleep(0.2)
    kinds = {}
    for link in intake.descriptors().values():
        name = re.sub(r":\[\d+\]", "", link).replace(str(intake.where), "")
        kinds[name] = kinds.get(name, 0) + 1
    unexpected = [k for k in kinds if not re.match(
        r"(/dev/null|/log|socket|anon_inode|/spool|/memfd:|pipe)", k)]
    assert not unexpected, kinds
    assert "TracerPid:\t0" in pathlib.Path(f"/proc/{intake.pid}/status").read_text(encoding="ascii")


def test_intake_is_not_linked_with_tls():
    libraries = subprocess.run(["ldd", BUILD / "relayd-intake"], capture_output=True, text=True, check=True).stdout
    for forbidden in ("libssl", "libcrypto", "libgsasl", "libjansson", "libevent_openssl", "libevent_extra"):
        assert forbidden not in libraries


def test_the_sandbox_is_entered(make):
    intake = make()
    status = pathlib.Path(f"/proc/{intake.pid}/status").read_text(encoding="ascii")
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
    assert intake.events("sandbox.entered") or intake.events("sandbox.limited")


# Stopping.

def test_sigterm_lets_a_message_arrive_and_ends_idle_clients(make):
    intake = make()
    idle, sending = intake.talk(), intake.talk()
    sending.envelope()
    sending.say("DATA")
    sending.send(HEADER + b"\r\nfirst half ")
    intake.process.terminate()
    wait_for(lambda: not is_listening(intake.port), 5)
    assert idle.reply().startswith("421 4.3.2")
    sending.send(b"second half\r\n.\r\n")
    assert sending.reply().startswith("250 2.0.0 ")
    assert sending.reply().startswith("421 4.3.2")
    assert intake.process.wait(10) == 0
    assert intake.has_stored(b"first half second half")


def test_sigterm_does_not_wait_for_a_client_that_is_silent_in_its_envelope(make):
    """It has an envelope and no word to say; the drain is 30 s."""
    intake = make()
    silent, halting = intake.talk(), intake.talk()
    silent.envelope()
    halting.say("MAIL FROM:<a@bench.example>")
    halting.send(b"RCPT TO:<b@")
    begin = time.monotonic()
    intake.process.terminate()
    assert silent.reply().startswith("421 4.3.2")
    assert halting.reply().startswith("421 4.3.2")
    assert intake.process.wait(10) == 0
    assert 3 < time.monotonic() - begin < 15, "not at once: it may go on in a moment"


def test_a_second_sigterm_ends_at_once(make):
    intake = make()
    sending = intake.talk()
    sending.envelope()
    sending.say("DATA")
    intake.process.terminate()
    time.sleep(0.3)
    intake.process.terminate()
    assert intake.process.wait(3) == 0


# A disk that does not work.

needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="no strace: contrib/install-deps check")


@pytest.fixture
def inject():
    """inject(intake, "fdatasync:error=EIO"): from now on the system calls of this process fail so.

    strace skips a call by a number that no sandbox knows: intake has to run without "kill"."""
    tracers = []

    def start(intake, *what):
        calls = ",".join(w.partition(":")[0] for w in what)
        rules = [word for w in what for word in ("-e", "inject=" + w)]
        tracers.append(subprocess.Popen(["strace", "-f", "-qq", "-o", intake.where / "strace", "-e", f"trace={calls}",
                                         *rules, "-p", str(intake.pid)], stderr=subprocess.DEVNULL))
        status = pathlib.Path(f"/proc/{intake.pid}/status")
        wait_for(lambda: f"TracerPid:\t{tracers[-1].pid}" in status.read_text(encoding="ascii"), 5,
                 why=lambda: f"{status.read_text()} {intake.process.poll()} {tracers[-1].poll()} {intake.log()}")
        time.sleep(0.1)  # the threads follow

    yield start
    for tracer in tracers:
        tracer.terminate()
        tracer.wait()


@needs_strace
def test_a_failing_sync_is_answered_with_451_and_never_with_250(make, inject):
    intake = make(sandbox="")
    inject(intake, "fdatasync:error=EIO:when=1")
    client = intake.talk()
    answer = client.message(HEADER + b"\r\nunlucky")
    assert answer.startswith("451 "), answer
    assert intake.events("spool.failed")
    assert intake.talk().message(HEADER + b"\r\nlucky").startswith("250 ")


@needs_strace
def test_where_nobody_knows_nothing_is_said_and_then_mail_is_refused(make, inject):
    """Every write fails, also the one that would revoke (I5)."""
    intake = make(sandbox="")
    inject(intake, "fdatasync:error=EIO", "fsync:error=EIO", "pwritev:error=EIO:when=2+")
    client = intake.talk()
    client.envelope()
    client.say("DATA")
    client.send(HEADER + b"\r\nunlucky\r\n.\r\n")
    assert client.is_closed()
    client = intake.talk()
    answer = client.say("MAIL FROM:<a@x.test>")
    assert answer.startswith("452 4.3.1") and str(intake.spool) in answer, answer
    assert client.say("NOOP").startswith("250")


@needs_strace
def test_a_hung_disk_costs_the_client_its_answer_but_not_the_others(make, inject):
    intake = make(sandbox="", limits={"command_timeout": "1s"})
    inject(intake, "fdatasync:delay_enter=4000000:when=1")
    client = intake.talk()
    client.envelope()
    client.say("DATA")
    start = time.monotonic()
    client.send(HEADER + b"\r\nwaiting\r\n.\r\n")
    other = intake.talk()
    assert other.say("NOOP").startswith("250")
    assert client.is_closed()
    assert time.monotonic() - start < 3.5
    assert wait_for(lambda: [e for e in intake.events("session.lost") if "disk" in e["why"]], 5)
    wait_for(lambda: [e for e in intake.events("session.lost") if "is in the queue" in e["why"]], 8)
    assert intake.talk().message(HEADER + b"\r\nlater").startswith("250 ")


# Everything at once.

def chaos(intake, seed, seconds):
    """One client that does what comes to its mind. Gives how many messages it saw accepted."""
    dice, accepted = random.Random(seed), 0
    pieces = [b"EHLO x\r\n", b"MAIL FROM:<a@x.test>\r\n", b"RCPT TO:<b@x.test>\r\n", b"DATA\r\n", b".\r\n", b"RSET\r\n",
              b"S: x\r\n\r\nbody\r\n.\r\n", b"BDAT 5\r\nabc\r\n", b"BDAT 6 LAST\r\nabcd\r\n", b"QUIT\r\n", b"\0\xff\r\n", b"NOOP\n",
              b"BDAT 99999999999999999999 LAST\r\n", b"x" * 5000, b"y" * 70000 + b"\r\n", b"MAIL FROM:<>\r\nRCPT TO:<b@x.test>\r\n"]
    plain = [b"EHLO x\r\n", b"MAIL FROM:<a@x.test>\r\n", b"RCPT TO:<b@x.test>\r\n", b"DATA\r\n", b"S: x\r\n\r\n" + b"z" * 9000 + b"\r\n.\r\n"]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with intake.connect(dice.choice([None, "unix"]), timeout=5).raw as raw:
            try:
                raw.recv(4096)
                for number in range(dice.randrange(1, 40)):
                    data = dice.choice(pieces) if dice.random() < 0.3 else plain[number % 5]
                    cut = len(data) if dice.random() < 0.9 else dice.randrange(len(data))
                    raw.sendall(data[:cut])
                    if dice.random() < 0.9:
                        raw.settimeout(0.3 if cut == len(data) else 0.01)
                        reply = raw.recv(65536)
                        accepted += reply.count(b" queued as ")
                        if not reply:
                            break
                if dice.random() < 0.3:
                    raw.shutdown(socket.SHUT_WR)
                    while reply := raw.recv(65536):
                        accepted += reply.count(b" queued as ")
                elif dice.random() < 0.3:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            except OSError:
                pass
    return accepted


def test_nothing_that_clients_do_ends_it_or_confuses_the_count(make):
    intake = make(limits={"command_timeout": "2s"}, log={"level": "info"})
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        seen = sum(pool.map(lambda seed: chaos(intake, seed, 4), range(8)))
    assert seen > 20
    assert len(intake.events("message.accepted")) >= seen  # a client may go before it reads its 250
    assert intake.talk().message(HEADER + b"\r\nstill here").startswith("250 ")
    wait_for(lambda: len(intake.descriptors()) < 30, 10, why=intake.descriptors)
    assert list((intake.spool / "large").iterdir()) == []
    assert intake.stop() == 0
