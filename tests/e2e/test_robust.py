"""The queue when its own ground gives way: a full spool, nonsense on the control socket, a refused login."""

import json
import os
import pathlib
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


@pytest.fixture(name="broken_syncs")
def make_broken_syncs(relayd):
    """broken_syncs(pid): no sync of that process succeeds until the tracer that it gives is ended."""
    relayd.sandbox = ""  # strace skips a call by a number that no sandbox knows
    tracers = []

    def start(pid):
        tracers.append(subprocess.Popen(["strace", "-f", "-qq", "-o", relayd.where / "strace", "-e", "trace=fdatasync,fsync",
                                         "-e", "inject=fdatasync,fsync:error=EIO", "-p", str(pid)]))
        tasks = pathlib.Path(f"/proc/{pid}/task")
        wait_for(lambda: all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks.iterdir()), 10)
        return tracers[-1]

    yield start
    for tracer in tracers:
        tracer.terminate()
        tracer.wait()


@pytest.mark.skipif(not shutil.which("strace"), reason="no strace: contrib/install-deps check")
def test_an_outcome_that_cannot_be_kept_is_none(relayd, sink, broken_syncs):
    """I3, I5: what the upstream took is told when it is durable; until then nothing else is sent."""
    relayd.to_sink(sink, connections=1).start()
    tracer = broken_syncs(relayd.pid_of("relayd-delivery"))
    relayd.send("taken")
    sink.wait_subject("taken")
    wait_for(lambda: json.loads(relayd.ctl("status", "--json").stdout)["paused"], why=relayd.log)  # no file works
    relayd.send("must wait")
    time.sleep(2)
    assert json.loads(relayd.ctl("status", "--json").stdout)["paused"]
    assert not relayd.events("message.delivered")
    assert len(relayd.queue()) == 2 and len(sink.messages) == 1
    tracer.terminate()
    sink.wait_subject("must wait", 90)
    relayd.wait_event("message.delivered", 90, count=2)
    relayd.wait_empty()
    assert len(sink.messages) == 2


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


def test_so_many_may_ask_at_once(relayd, sink):
    """I9: who is one too many is hung up on; when the others have gone, everybody may ask again."""
    relayd.to_sink(sink).start()
    peers = [socket.socket(socket.AF_UNIX) for _ in range(60)]
    for peer in peers:
        peer.settimeout(10)
        peer.connect(str(relayd.control))
    assert peers[-1].recv(1) == b"", "hung up on"
    assert b'"ok"' not in ask(relayd.control, b'{"command":"status"}\n')
    for peer in peers:
        peer.close()
    wait_for(lambda: b'"ok"' in ask(relayd.control, b'{"command":"status"}\n'), why="an answer")


def test_a_request_has_a_largest_size(relayd, sink):
    relayd.to_sink(sink).start()
    assert b"longer than 64 KiB" in ask(relayd.control, b'{"command":"' + b"x" * 70000)
    assert b'"ok"' in ask(relayd.control, b'{"command":"status"}\n')


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
