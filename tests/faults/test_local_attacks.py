"""Row 47: a local user who means harm, at both sockets: garbage, lines without end, descriptors that nobody asked for,
floods, somebody else's name. That peer is dropped, and only that one: the processes are the same afterwards, with
no more memory and descriptors than before, and nobody else was kept waiting."""

import array
import concurrent.futures
import json
import os
import pathlib
import pwd
import random
import re
import socket
import struct
import subprocess
import sys
import time

import pytest

from figures import count
from tools import wait_for

PROGRAMS = ("relayd", "relayd-intake", "relayd-delivery")
ATTACKER = "daemon"
SEED = int(os.environ.get("RELAYD_SEED", random.randrange(1 << 30)))

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: to be several users")


def connect(path, timeout=10):
    raw = socket.socket(socket.AF_UNIX)
    raw.settimeout(timeout)
    raw.connect(str(path))
    return raw


def read_to_end(raw, most=1 << 20):
    """What comes until the peer hangs up or stays silent."""
    got = b""
    try:
        while len(got) < most and (more := raw.recv(65536)):
            got += more
    except OSError:
        pass
    return got


class Watch:
    """Process ids, open descriptors and memory of the three processes: the same afterwards."""

    def __init__(self, relayd):
        self.relayd = relayd
        self.pids = {name: relayd.pid_of(name) for name in PROGRAMS}
        self.fds = {name: self.count_fds(name) for name in PROGRAMS}
        self.memory = {name: self.rss(name) for name in PROGRAMS}
        self.is_sanitized = b"__asan_init" in (relayd.programs / "relayd-intake").read_bytes()

    def links(self, name):
        """What this program has open."""
        found = []
        for fd in os.listdir(f"/proc/{self.pids[name]}/fd"):
            try:
                found.append(os.readlink(f"/proc/{self.pids[name]}/fd/{fd}"))
            except FileNotFoundError:
                pass
        return found

    def count_fds(self, name):
        return len(self.links(name))

    def rss(self, name):
        status = pathlib.Path(f"/proc/{self.pids[name]}/status").read_text(encoding="ascii")
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def check(self, more_kib=4096):
        assert {name: self.relayd.pid_of(name) for name in PROGRAMS} == self.pids
        for name in PROGRAMS:  # a spool file more or less is theirs: not a hundred sockets
            wait_for(lambda n=name: self.count_fds(n) <= self.fds[n] + 6, 15,
                     why=lambda n=name: (n, self.fds[n], self.links(n)))
            grown = self.rss(name) - self.memory[name]
            assert self.is_sanitized or grown < more_kib, f"{name} has grown by {grown} KiB"


@pytest.fixture
def running(relayd, sink, ledger):
    """relayd at work, warm: the first messages cost memory that stays."""
    relayd.set("limits", {"connections_per_client": 50, "connections": 400})
    relayd.to_sink(sink).start()
    for _ in range(20):
        assert ledger.send().is_acknowledged
    ledger.settle()
    for _ in range(5):
        relayd.status()
    return relayd


def finish(running, ledger, watch, name, dialogues):
    """Others are served as if nothing had been."""
    assert ledger.send().is_acknowledged
    ledger.settle()
    assert "running" in running.ctl("status", "--json").stdout
    watch.check()
    ledger.check(f"test_local_attacks.{name}", rows=[47], exact=True, hostile_dialogues=dialogues)


# The control socket: only root and relayd's user may ask, but they may be mistaken, or taken over.

COMMANDS = ("status", "queue", "show", "retry", "hold", "release", "bounce", "remove", "test", "config", "metrics")
KEYS = ("command", "id", "ids", "all", "address", "upstream", "recipient", "sender", "unit", "json", "x")
WORDS = ("", "*", "00TR6Q0000001", "ZZZZZZZZZZZZZ", "0" * 5000, "a@b.test", "\u0000", "\ud7ff", "../../etc/passwd",
         "%s%n", "up", "x@y.test\r\nRCPT TO:<z@z.test>")
NUMBERS = (0, -1, 1 << 31, 1 << 63, -(1 << 63), 1.5e300, True, False, None)


def some_value(dice, depth=0):
    kind = dice.randrange(6 if depth < 4 else 4)
    if kind == 4:
        return [some_value(dice, depth + 1) for _ in range(dice.randrange(6))]
    if kind == 5:
        return {dice.choice(KEYS): some_value(dice, depth + 1) for _ in range(dice.randrange(5))}
    return dice.choice(WORDS if kind < 2 else NUMBERS)


def some_request(dice):
    request = {dice.choice(KEYS): some_value(dice) for _ in range(dice.randrange(5))}
    if dice.random() < 0.9:
        request["command"] = dice.choice(COMMANDS)
    line = json.dumps(request).encode()
    while dice.random() < 0.3:  # damage
        at = dice.randrange(len(line) + 1)
        line = dice.choice((line[:at], line[:at] + os.urandom(dice.randrange(1, 9)) + line[at:],
                            line[:at] + line[at // 2:]))
    return line + (b"\n" if dice.random() < 0.9 else b"")


def test_the_control_socket_survives_any_request(running, ledger):
    """Objects of every shape and damage to them; half the askers do not wait for the answer. Mail to the addresses that
    `test` names goes to the sink as well, the ledger knows nothing of it."""
    watch, dice = Watch(running), random.Random(SEED)
    print("seed", SEED, file=sys.stderr)
    requests = 0
    end = time.monotonic() + 6
    while time.monotonic() < end:
        with connect(running.control, timeout=0.2) as raw:
            try:
                for _ in range(dice.randrange(1, 5)):
                    raw.sendall(some_request(dice))
                    requests += 1
                if dice.random() < 0.5:
                    raw.shutdown(socket.SHUT_WR)
                    read_to_end(raw)
            except OSError:
                pass
    assert requests > 300
    for message in running.queue():  # what `test` has left
        running.ctl("remove", message["id"], check=False)
    finish(running, ledger, watch, "control_requests", requests)


TOO_MUCH = [
    b"x" * 70000, b'{"command":"' + b"y" * 70000, b"[" * 60000 + b"\n", b'{"a":' * 10000 + b"\n", b"\0" * 65536,
    b"\n" * 100000, b'{"command":"status"}\n' * 3000, b'{"command":"queue"}' * 3000 + b"\n", os.urandom(65536),
    b'{"command":"status"}' + b" " * 65000 + b"\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), b'"\\ud800"\n', b"{}\n" * 20000,
]


def test_the_control_socket_has_an_end_to_everything(running, ledger):
    """Lines without end, nesting without end, requests whose answers nobody reads, and more peers than it takes."""
    watch = Watch(running)
    for data in TOO_MUCH:
        with connect(running.control, timeout=2) as raw:
            try:
                raw.sendall(data)
                raw.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # thrown out in the middle: as it should be
            read_to_end(raw)
    with connect(running.control, timeout=1) as silent:  # asks, and never reads
        sent = 0
        try:
            while sent < 4 << 20:
                sent += silent.send(b'{"command":"status"}\n' * 100)
        except OSError:
            pass
        assert sent < 4 << 20
        assert "running" in running.ctl("status", "--json").stdout
    crowd = [connect(running.control) for _ in range(100)]
    for raw in crowd[50:]:  # the others are let go by hand below: some close, some are reset
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for raw in crowd:
        raw.close()
    wait_for(lambda: running.ctl("status", check=False).returncode == 0, 10)
    finish(running, ledger, watch, "control_limits", len(TOO_MUCH) + 101)


@needs_root
def test_another_user_is_shut_out_of_the_control_socket(running, ledger):
    """By the socket's mode, and, should somebody open that, by what the kernel says about the peer: no words of his
    count (SCM_CREDENTIALS of another process are refused by the kernel itself)."""
    watch = Watch(running)
    script = ("import socket,struct,sys\n"
              "s=socket.socket(socket.AF_UNIX); s.settimeout(5)\n"
              "try: s.connect(sys.argv[1])\n"
              "except PermissionError: sys.exit('shut')\n"
              "try:\n"
              "    s.sendmsg([b'{\"command\":\"status\"}\\n'],[(socket.SOL_SOCKET,2,struct.pack('iII',1,0,0))])\n"
              "    print('the kernel let a lie pass')\n"
              "except OSError: pass\n"
              "try: s.send(b'{\"command\":\"status\"}\\n')\n"
              "except OSError: pass\n"
              "try: print(s.recv(65536).decode())\n"
              "except OSError as e: print(e)\n")

    def ask():
        return subprocess.run(["/usr/bin/python3", "-c", script, running.control], user=ATTACKER, group=ATTACKER,
                              extra_groups=[], capture_output=True, text=True, check=False)

    assert ask().stderr.strip() == "shut"
    running.control.chmod(0o666)
    for _ in range(30):
        answer = ask().stdout
        assert "version" not in answer and "lie" not in answer, answer
        assert "only root and the user that relayd runs as" in answer, answer
    refused = running.wait_event("control.refused", count=30)
    assert {event["uid"] for event in refused} == {pwd.getpwnam(ATTACKER).pw_uid}
    finish(running, ledger, watch, "control_strangers", 31)


# Both sockets: descriptors come with the bytes.

def with_descriptors(raw, data, fds):
    raw.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


@pytest.mark.parametrize("which", ["control", "submit"])
def test_descriptors_that_are_passed_are_not_kept(running, ledger, which, own):
    """Open files, pipes, sockets, the connection itself, in the middle of a conversation, some hundred at a time."""
    watch = Watch(running)
    path = running.control if which == "control" else running.submit
    words = b'{"command":"status"}\n' if which == "control" else b"NOOP\r\n"
    (own / "passed").write_text("x")
    held, passed = [], 0
    with open(own / "passed", "rb") as file:
        for number in range(40):
            raw = connect(path, timeout=2)
            pair = socket.socketpair()
            try:
                with_descriptors(raw, words, [file.fileno()] * 200 + [pair[0].fileno()] * 50)
                with_descriptors(raw, words[:3], [raw.fileno()])  # itself: only the garbage collector frees that
                with_descriptors(raw, words[3:], [pair[1].fileno()])
                passed += 252
                assert raw.recv(65536)
            finally:
                pair[0].close(), pair[1].close()
            if number % 2:
                held.append(raw)  # still open when we count
            else:
                raw.close()
        time.sleep(0.3)
        for name in PROGRAMS:
            assert not [link for link in watch.links(name) if "passed" in link], watch.links(name)
    for raw in held:
        raw.close()
    assert passed == 40 * 252
    finish(running, ledger, watch, f"descriptors_{which}", 40)


# The submit socket: everybody may connect.

GARBAGE = [
    b"\0" * 4096, b"\xff" * 4096, b"x" * 100000, b"MAIL FROM:<" + b"a" * 70000 + b">\r\n", b"\r\n" * 5000,
    b"EHLO " + b"\x80" * 500 + b"\r\n", b"EHLO x\r\nMAIL FROM:<a@b>\r\n" + b"RCPT TO:<c@d>\r\n" * 3000,
    b"EHLO x\r\nBDAT 18446744073709551615\r\n", b'{"command":"status"}\n', b"NOOP\n" * 1000,
    b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 4000000000\r\n" + b"z" * 10000,
    b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n" + b"no end", b"STARTTLS\r\n\x16\x03\x01",
    b"AUTH PLAIN AGEAYg==\r\n", b"MAIL FROM:<a@b> SIZE=99999999999999999999 XUID=0 AUTH=<root>\r\n",
    b"XCLIENT NAME=root UID=0\r\n", b"XFORWARD ADDR=::1\r\n",
]

# Runs as the attacker: floods the socket, and tells how many connections are greeted at the same time.
FLOOD = """
import socket, sys, time
path, seconds = sys.argv[1], float(sys.argv[2])
held, greeted, refused, tried, end = [], 0, 0, 0, time.monotonic() + seconds
while time.monotonic() < end:
    s = socket.socket(socket.AF_UNIX); s.settimeout(2); tried += 1
    try:
        s.connect(path)
        line = s.recv(512)
    except OSError: s.close(); continue
    if line.startswith(b'220'): greeted += 1; held.append(s)
    else: refused += 1; s.close()
    if len(held) > 300 or tried % 500 == 0:
        for one in held: one.close()
        held = []
print(tried, greeted, refused, len(held))
"""


def test_garbage_at_the_submit_socket(running, ledger):
    watch, dice = Watch(running), random.Random(SEED)

    def attack(data):
        with connect(running.submit, timeout=0.5) as raw:
            try:
                while data:
                    size = dice.choice((1, 7, 4096, len(data)))
                    raw.sendall(data[:size])
                    data = data[size:]
                    if size == 1:
                        break
                if dice.random() < 0.5:
                    raw.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return read_to_end(raw)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(attack, GARBAGE * 5))
    assert not [answer for answer in answers if b" queued as " in answer]
    finish(running, ledger, watch, "submit_garbage", len(answers))


@needs_root
def test_a_flood_of_one_user_keeps_nobody_else_out(running, ledger):
    """He gets as many connections as one client may have (50 here), and the rest of the 400 are for the others: by the
    unix socket and by TCP, where the kernel tells the user as well."""
    watch, flooding = Watch(running), 5
    attack = [subprocess.Popen(["/usr/bin/python3", "-c", FLOOD, running.submit, str(flooding)], user=ATTACKER,
                               group=ATTACKER, extra_groups=[], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    waited, served, end = 0.0, 0, time.monotonic() + flooding - 1
    time.sleep(0.5)
    while time.monotonic() < end:
        begin = time.monotonic()
        if served % 2:
            assert ledger.send().is_acknowledged
        else:
            entry = ledger.new()
            said = running.sendmail("-f", entry.sender, *entry.recipients, data=entry.data)
            assert said.returncode == 0, said.stderr
            entry.answer = "250 by sendmail"
        waited, served = max(waited, time.monotonic() - begin), served + 1
    results = [list(map(int, process.communicate(timeout=30)[0].split())) for process in attack]
    tried, refused = sum(r[0] for r in results), sum(r[2] for r in results)
    assert tried > 500 and refused > 100, results
    assert served > 10 and waited < 3, (served, waited)
    finish(running, ledger, watch, "submit_flood", tried)


@needs_root
def test_the_submit_socket_believes_the_kernel_and_not_the_peer(running, ledger):
    """The uid in the log is the sender's, whatever he says, and whoever opened the connection for him is known."""
    watch = Watch(running)
    script = ("import socket,struct,sys\n"
              "s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f=s.makefile('rb'); f.readline()\n"
              "try: s.sendmsg([b'EHLO root\\r\\n'],[(socket.SOL_SOCKET,2,struct.pack('iII',1,0,0))]); print('lie')\n"
              "except PermissionError: s.send(b'EHLO root\\r\\n')\n"
              "while f.readline()[3:4] == b'-': pass\n"
              "for c in (b'XCLIENT UID=0', b'MAIL FROM:<spoof@bench.example>', b'RCPT TO:<r@bench.example>', b'DATA',\n"
              "          b'Subject: x\\r\\n\\r\\nx\\r\\n.'):\n"
              "    s.send(c+b'\\r\\n'); print(f.readline().decode().strip())\n")
    said = subprocess.run(["/usr/bin/python3", "-c", script, running.submit], user=ATTACKER, group=ATTACKER,
                          extra_groups=[], capture_output=True, text=True, check=True).stdout
    assert "lie" not in said and said.splitlines()[-1].startswith("250 "), said
    accepted = running.wait_event("message.accepted", sender="spoof@bench.example")[0]
    assert accepted["uid"] == pwd.getpwnam(ATTACKER).pw_uid
    running.wait_empty()
    received = next(m for m in ledger.messages() if m.sender == "spoof@bench.example").data.split(b"\r\nSubject")[0]
    assert f"uid {pwd.getpwnam(ATTACKER).pw_uid}".encode() in received or b"uid" not in received, received
    watch.check()
    # the ledger does not know that message
    count("test_local_attacks.spoof", rows=[47], hostile_dialogues=1)
