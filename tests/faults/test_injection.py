"""Words that want to be more than words (security-standards 3.1): in the log, in reports, on the upstream's wire, and from
a server that is not relayd in front of relayd-sendmail."""

import asyncio
import concurrent.futures
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time

import pytest

from figures import count
from hostile import Client
from tools import wait_for

EVILS = {
    "escape": b"\x1b[2J\x1b]0;owned\x07", "csi": b"\x9b31m", "csi-utf8": "\x9b31m".encode(), "bell": b"\x07\x08\x7f",
    "prefix": b'relayd[1]: message.delivered queue_id=0 recipient="all"', "json": b'","event":"message.delivered","x":"',
    "backslash": b"\\\\n\\x0a\\u000a", "percent": b"%n%s%s%s%n", "bidi": "\u202egnp.exe\u2066".encode(),
    "line": "a\u2028b\u2029c\u0085d".encode(), "latin": b"\xfc\xe4\xff", "cut-utf8": b"\xe2\x80", "surrogate": b"\xed\xa0\x80",
    "overlong": b"\xc0\x8a\xc0\x8d", "high": "\U0010ffff\U000e0041\ufeff".encode(), "long": b"z" * 3500, "journal": b"\x01PRIORITY=0",
    "vt": b"a\x0bb\x0cc", "tab": b"a\tb", "cr": b"a\rMESSAGE_ID=x",
}
PLACES = (b"%s", b"EHLO %s", b"HELO %s", b"MAIL FROM:<%s@evil.example>", b"MAIL FROM:<%s@evil.example> SMTPUTF8",
          b"MAIL FROM:<a@b.example> %s=1", b"MAIL FROM:<a@b.example> ENVID=%s", b"RCPT TO:<%s@evil.example>",
          b"RCPT TO:<a@b.example> ORCPT=rfc822;%s", b"VRFY %s", b"AUTH PLAIN %s", b"STARTTLS %s", b"BDAT %s")


async def say_all(where):
    """Each evil in each place, in sessions of their own; each gets its reply."""
    replies = []
    for evil in EVILS.values():
        for place in PLACES:
            client = await Client.connect(where)
            await client.send(b"")
            await client.reply()
            if not place.startswith((b"EHLO", b"HELO")):
                await client.send(b"EHLO client.test\r\n")
                await client.reply()
            if place.startswith(b"RCPT"):
                await client.send(b"MAIL FROM:<a@b.example> SMTPUTF8\r\n")
                await client.reply()
            await client.send((place % evil) + b"\r\n")
            replies.append(await client.reply())
            await client.send(b"QUIT\r\n")
            await client.rest()
            await client.close()
    assert all(reply.isprintable() and reply.isascii() for reply in replies)
    return len(replies)


def check_lines(lines, events):
    """Printable, one line for one event, and no event that the words have made."""
    for line in lines:
        assert line.isprintable() and len(line) < 4096, line
        assert not re.search("[\u0080-\u009f\u2028-\u202e\u2066-\u2069\ufeff]", line), line
    assert "message.delivered" not in events and len(lines) == len(events)


@pytest.fixture
def journal(own):
    """A socket where the journal's would be, for a relayd in a mount namespace of its own."""
    where = own / "journal"
    where.mkdir(mode=0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(where / "socket"))
        (where / "socket").chmod(0o777)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        listener.settimeout(0.5)
        yield where, listener


def read_entries(listener, entries):
    """What comes, as the journal would read it: lists of (name, value)."""
    while True:
        try:
            data = listener.recv(1 << 20)
        except (TimeoutError, OSError):
            return
        fields = []
        while data.strip(b"\n"):  # an empty line parts two entries: there may be one at the end only
            name, found, rest = data.partition(b"\n")
            if b"=" in name:
                fields.append(tuple(name.split(b"=", 1)))
                data = rest
            else:  # NAME LF length value LF
                size = int.from_bytes(rest[:8], "little")
                assert rest[8 + size:9 + size] == b"\n"
                fields.append((name, rest[8:8 + size]))
                data = rest[9 + size:]
        entries.append(fields)


def with_journal(relayd, where):
    """relayd's programs, with a relayd that sees `where` as /run/systemd/journal."""
    programs = relayd.where / "programs"
    shutil.copytree(relayd.programs, programs)
    (programs / "relayd").rename(programs / "relayd.real")
    script = programs / "relayd"
    os.makedirs("/run/systemd/journal", exist_ok=True)
    script.write_text("#!/bin/sh\nexec unshare -m sh -c 'mount --bind \"$1\" /run/systemd/journal && shift && exec \"$@\"' "
                      f"sh {where} {programs}/relayd.real \"$@\"\n")
    script.chmod(0o755)
    relayd.programs = programs


def test_words_stay_words_in_the_journal(relayd, sink, journal):
    if os.getuid() != 0:
        pytest.skip("a mount namespace needs root")
    where, listener = journal
    with_journal(relayd, where)
    relayd.set("log", {"target": "journal", "level": "debug"})
    entries, ended = [], threading.Event()

    def read():
        while not ended.is_set():
            read_entries(listener, entries)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            relayd.to_sink(sink).start()
            dialogues = asyncio.run(say_all(relayd.port))
        finally:
            relayd.stop()
            ended.set()
        reading.result()
    assert len(entries) > dialogues
    allowed = {b"MESSAGE", b"MESSAGE_ID", b"PRIORITY", b"SYSLOG_IDENTIFIER", b"SYSLOG_PID", b"CODE_FILE", b"TID"}
    for fields in entries:
        names = [name for name, _ in fields]
        assert len(set(names)) == len(names) and all(n in allowed or n.startswith(b"RELAYD_") for n in names), fields
        assert all(value.decode().isprintable() for _, value in fields), fields
    check_lines([dict(f)[b"MESSAGE"].decode() for f in entries], [dict(f).get(b"RELAYD_EVENT", b"").decode() for f in entries])
    count("test_injection.journal", rows=[46], hostile_dialogues=dialogues)


@pytest.mark.parametrize("target", ["json", "stderr"])
def test_words_stay_words_in_the_log(relayd, sink, target):
    relayd.set("log", {"target": target, "level": "debug"})
    relayd.to_sink(sink)
    relayd.start()
    pids = sorted(relayd.pids())
    dialogues = asyncio.run(say_all(relayd.port))
    assert sorted(relayd.pids()) == pids
    relayd.stop()
    lines = relayd.log_path.read_bytes().decode().split("\n")[:-1]
    assert len(lines) > dialogues
    if target == "json":
        parsed = [json.loads(line, object_pairs_hook=lambda pairs: pairs) for line in lines]
        assert all(len({name for name, _ in pairs}) >= len(pairs) - 1 for pairs in parsed)  # "pid" of two kinds
        events = [dict(pairs)["event"] for pairs in parsed]
    else:
        events = [re.search(r"\b([a-z]+\.[a-z]+)\b", line)[1] for line in lines]
    assert all(re.fullmatch(r"[a-z]+\.[a-z]+", event) for event in events)
    check_lines(lines, events)
    count("test_injection." + target, rows=[46], hostile_dialogues=dialogues)
