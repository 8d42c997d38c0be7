"""The queue when its own ground gives way: a full spool, nonsense on the control socket, a refused login."""

import json
import os
import random
import shutil
import socket
import subprocess
import time

import pytest

from tools import wait_for


@pytest.fixture(name="small_spool")
def make_small_spool(relayd):
    """A spool on a file system of its own, small enough to fill."""
    if os.getuid() != 0:
        pytest.skip("mounting a file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", relayd.spool], check=True)
    if relayd.user:
        shutil.chown(relayd.spool, relayd.user)
    relayd.set("spool", {"segment": "1M", "max_message": "1M"})
    yield relayd.spool
    relayd.stop()
    subprocess.run(["umount", relayd.spool], check=True)


def fill(directory):
    fd = os.open(directory / "filler", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        while True:
            os.write(fd, b"x" * 4096)
    except OSError:
        pass
    finally:
        os.close(fd)


def test_delivery_waits_for_a_full_journal_and_goes_on(relayd, sink, small_spool):
    """I5, F9: nothing is sent whose outcome cannot be kept, and nothing is sent twice for it."""
    sink.rules["RCPT"] = lambda session, argument: "450 4.2.1 Mailbox busy"
    relayd.set("retry", {"first": "1s", "max": "1s"})
    relayd.to_sink(sink).start()
    for i in range(100):
        relayd.send(f"waits {i}")
    fill(small_spool)
    wait_for(lambda: json.loads(relayd.ctl("status", "--json").stdout)["paused"], 60, why=relayd.log)
    sink.rules.clear()
    time.sleep(3)
    assert not sink.messages
    os.unlink(small_spool / "filler")
    relayd.wait_empty(90)
    assert len(sink.messages) == 100
    assert relayd.events("spool.failed") and relayd.events("spool.recovered")


def ask(path, data, answer=True):
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(path))
        out = b""
        try:
            peer.sendall(data)
            if not answer:
                return out
            peer.shutdown(socket.SHUT_WR)
            while piece := peer.recv(65536):
                out += piece
        except ConnectionError:
            pass
        return out


def test_nonsense_on_the_control_socket_ends_nothing(relayd, sink):
    """I8: the seed is fixed, so that a failure comes again."""
    sink.rules["RCPT"] = lambda session, argument: "450 4.2.1 Mailbox busy"
    relayd.to_sink(sink).start()
    for i in range(30):
        relayd.send(f"message {i}")
    ids = [message["id"] for message in relayd.queue()]
    commands = ["status", "queue", "show", "retry", "hold", "release", "bounce", "remove", "test", "config", "metrics"]
    rng = random.Random(2)
    values = [ids[0], ids[:3], True, None, 5, "x" * 100, "a@b", {}, [1, 2, None], "\0", "deferred", "up"]
    for _ in range(300):
        request = {"command": rng.choice(commands)}
        for key in rng.sample(["id", "all", "body", "sender", "recipient", "state", "upstream", "uid", "unit"], 3):
            request[key] = rng.choice(values)
        data = json.dumps(request).encode() + b"\n"
        kind = rng.random()
        if kind < 0.2:
            data = rng.randbytes(rng.randrange(3000))
        elif kind < 0.3:
            data = data[:rng.randrange(len(data))]
        elif kind < 0.33:
            data = b"{" * 70000
        ask(relayd.control, data, answer=rng.random() < 0.7)
    assert b'"ok"' in ask(relayd.control, b'{"command":"status"}\n')
    assert not relayd.events("worker.died")


def test_a_wrong_password_is_tried_once(relayd, sink):
    """Row 28: one login for each pause, however many messages wait and connections are allowed."""
    logins = []
    sink.rules["AUTH"] = lambda session, argument: logins.append(argument) or "535 5.7.8 Not accepted"
    relayd.to_sink(sink, connections=8).start()
    for i in range(50):
        relayd.send(f"locked out {i}")
    relayd.wait_event("upstream.down")
    time.sleep(3)
    assert len(logins) == 1
    assert len(relayd.queue()) == 50
    sink.rules.clear()
    relayd.ctl("retry", "--all")
    relayd.wait_empty()
    assert len(sink.messages) == 50
