"""Rows 16, 17 and 53: a spool that is not what it should be (of another user, open to everybody, a link, with strange
things in the place of its files, or swapped under relayd's hands), two daemons that want the same one, and one that a
newer relayd has left behind."""

import concurrent.futures
import ctypes
import os
import shutil
import signal
import socket
import struct
import subprocess
import time

import pytest

from figures import count
from relayd import Relayd
from tools import is_listening, wait_for

EX_CONFIG, EX_UNAVAILABLE = 78, 69
AT_FDCWD, RENAME_EXCHANGE = -100, 2
BLOCK = 4096  # of a spool file: its header is the first, and the last is a copy

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: to make files of others")


def refused(relayd, seconds=20):
    """Starts relayd, which must not start. Gives its exit code and what it said."""
    relayd.start(wait=False)
    status = relayd.process.wait(seconds)
    relayd.process = None
    return status, relayd.log()


def another_user(path):
    shutil.chown(path, "daemon")


# Row 16: at the start.

def is_a_link(relayd, own):
    relayd.spool.rename(own / "real")
    relayd.spool.symlink_to(own / "real")


def is_a_file(relayd, own):
    relayd.spool.rmdir()
    relayd.spool.write_text("")


def belongs_to_another(relayd, own):
    another_user(relayd.spool)


def belongs_to_another_and_is_open(relayd, own):
    another_user(relayd.spool)
    relayd.spool.chmod(0o777)


def lock_is_a_fifo(relayd, own):
    os.mkfifo(relayd.spool / "lock")


def lock_is_a_link(relayd, own):
    (own / "victim").write_text("untouched")
    (relayd.spool / "lock").symlink_to(own / "victim")


def lock_has_another_name(relayd, own):
    (own / "victim").write_text("untouched")
    os.link(own / "victim", relayd.spool / "lock")


def lock_is_a_directory(relayd, own):
    (relayd.spool / "lock").mkdir()


def large_is_a_link(relayd, own):
    (own / "outside").mkdir(mode=0o777)
    (relayd.spool / "large").symlink_to(own / "outside")


def quarantine_is_a_link(relayd, own):
    (own / "outside").mkdir(mode=0o777)
    (relayd.spool / "quarantine").symlink_to(own / "outside")


def large_is_a_file(relayd, own):
    (relayd.spool / "large").write_text("")


def large_belongs_to_another(relayd, own):
    (relayd.spool / "large").mkdir(mode=0o777)
    another_user(relayd.spool / "large")


# what is wrong, and the words that must be said beside the path
REFUSED = [
    (is_a_link, "symbolic link"), (is_a_file, "not a directory"),
    (belongs_to_another, "belongs to uid 1 (mode 0700), but relayd runs as uid 65534"),
    (belongs_to_another_and_is_open, "mode 0777"),
    (lock_is_a_fifo, "lock"), (lock_is_a_link, "lock"), (lock_has_another_name, "lock"), (lock_is_a_directory, "lock"),
    (large_is_a_link, "large"), (quarantine_is_a_link, "quarantine"), (large_is_a_file, "large"),
    (large_belongs_to_another, "large"),
]


@needs_root
@pytest.mark.parametrize("spoil, words", REFUSED, ids=[row[0].__name__ for row in REFUSED])
def test_it_does_not_start_in_a_spool_that_is_not_its_own(relayd, sink, own, spoil, words):
    relayd.to_sink(sink)
    spoil(relayd, own)
    status, said = refused(relayd)
    assert status == EX_CONFIG, said
    assert f'spool "{relayd.spool}"' in said.replace("\\", "") and words in said, said
    assert not (own / "victim").exists() or (own / "victim").read_text() == "untouched"
    assert not (own / "outside").exists() or not list((own / "outside").iterdir())
    count("test_spool_strangers.refused", rows=[16], hostile_dialogues=1)


@needs_root
def test_a_spool_that_was_open_to_everybody_is_closed_and_told(relayd, sink):
    relayd.spool.chmod(0o777)
    relayd.to_sink(sink).start()
    assert relayd.spool.stat().st_mode & 0o777 == 0o700
    warned = relayd.wait_event("config.warned")
    assert any(event["directory"] == str(relayd.spool) and "0777" in event["why"] for event in warned), warned


# Row 16: strange things in the place of files.

FORGED = b"forged, and nobody ever got a 250 for it"


class Strangers:
    """What was put into a spool, and how it looked."""

    def __init__(self, relayd, own):
        self.spool, self.outside = relayd.spool, own / "outside"
        self.outside.mkdir(mode=0o777)
        self.outside.chmod(0o777)
        (self.outside / "victim").write_text("untouched")
        os.chmod(self.outside / "victim", 0o666)
        self.names = []

    def put(self, name, kind):
        path = self.spool / name
        if kind == "fifo":
            os.mkfifo(path, 0o666)
        elif kind == "link":
            path.symlink_to(self.outside / "victim")
        elif kind == "dangling":
            path.symlink_to(self.outside / "not-there")
        elif kind == "directory":
            path.mkdir()
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
        elif kind == "device":
            os.mknod(path, 0o020666, os.makedev(1, 7))  # /dev/full
        elif kind == "unreadable":
            path.write_bytes(b"x" * 8192)
            path.chmod(0)
        else:
            path.write_bytes(kind)
            another_user(path)
        self.names.append(name)

    def outside_is_untouched(self):
        assert [path.name for path in self.outside.iterdir()] == ["victim"]
        assert (self.outside / "victim").read_text() == "untouched"


KINDS = ("fifo", "link", "dangling", "directory", "socket", "device", "unreadable")
FILES = ("intake-{}.seg", "delivery-{}.seg", "journal-{}.log", "free-{}.seg", "prep-{}.seg")
READ_AT_START = ("intake-", "delivery-", "journal-")


def names_of(relayd, pattern):
    return sorted(path.name for path in relayd.spool.glob(pattern))


def queue_one(relayd, ledger):
    """One message that is acknowledged and waits: nobody listens where it shall go."""
    entry = ledger.send()
    assert entry.is_acknowledged
    return entry


@needs_root
def test_strange_files_are_passed_over(relayd, sink, own, ledger):
    """All kinds of them in the places of all kinds of files. What waits goes out, nothing outside is touched."""
    relayd.to_sink(sink, host="127.0.0.1", port=9).start()  # discard: nobody there
    queue_one(relayd, ledger)
    relayd.stop()
    strangers, number = Strangers(relayd, own), 900
    for pattern in FILES:
        for kind in KINDS:
            number += 2  # intake's are even
            if (pattern, kind) != ("journal-{}.log", "unreadable"):  # see below
                strangers.put(pattern.format(number + pattern.startswith("delivery")), kind)
    for kind in KINDS:
        strangers.put(f"large/00TR6Q000{number:04d}", kind)
        number += 1
    relayd.to_sink(sink).start()
    ledger.settle()
    assert ledger.send(body=b"x" * 400000 + b"\r\n").is_acknowledged
    ledger.settle()
    strangers.outside_is_untouched()
    told = relayd.log()
    for name in strangers.names:
        if name.startswith(READ_AT_START):
            assert name in told, f"{name} was not told"
            assert os.path.lexists(relayd.spool / name), f"{name} was not left alone"
    relayd.reload()
    relayd.wait_event("config.reloaded")
    ledger.check("test_spool_strangers.strange", rows=[16], corrupt_images=len(strangers.names))


@needs_root
def test_a_file_of_another_user_is_not_believed(relayd, sink, own, ledger):
    """The spool was open to everybody for a while: what somebody has put there is no accepted mail, and accepted mail
    is not written into a file that somebody else holds."""
    relayd.to_sink(sink, host="127.0.0.1", port=9).start()
    relayd.send("forged", body=FORGED + b"\r\n")
    relayd.stop()
    segment = names_of(relayd, "intake-*.seg")[0]
    forged = (relayd.spool / segment).read_bytes()
    assert FORGED in forged
    for name in names_of(relayd, "*.seg") + names_of(relayd, "*.log"):
        (relayd.spool / name).unlink()
    strangers = Strangers(relayd, own)
    strangers.put(segment, forged)
    strangers.put("free-800.seg", b"\0" * len(forged))
    relayd.to_sink(sink).start()
    for _ in range(3):
        assert ledger.send(body=b"not for others\r\n").is_acknowledged
    ledger.settle()
    time.sleep(0.5)
    assert not [message for message in sink.messages if FORGED in message.data]
    assert segment in relayd.log()
    for path in relayd.spool.rglob("*"):
        if path.is_file() and path.stat().st_uid != relayd.spool.stat().st_uid:
            assert b"not for others" not in path.read_bytes()
    ledger.check("test_spool_strangers.foreign", rows=[16], corrupt_images=2)


@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_what_replaces_a_file_with_mail_is_told(relayd, sink, own, ledger, kind):
    """That mail is gone with its file: relayd says so, starts, and delivers the rest."""
    relayd.to_sink(sink, host="127.0.0.1", port=9).start()
    relayd.send("taken away")
    relayd.stop()
    segment = names_of(relayd, "intake-*.seg")[-1]
    (relayd.spool / segment).unlink()
    strangers = Strangers(relayd, own)
    strangers.put(segment, kind)
    relayd.to_sink(sink).start()
    ledger.send()
    ledger.settle()
    assert segment in relayd.log()
    strangers.outside_is_untouched()
    ledger.check("test_spool_strangers.replaced", rows=[16], corrupt_images=1)


def test_a_journal_that_may_not_be_read_is_waited_for(relayd, sink, ledger):
    """Without it nobody knows what was delivered: nothing is sent twice for that. relayd says which file, and goes on
    by itself when it may be read again. Mail is accepted meanwhile."""
    relayd.to_sink(sink).start()
    assert ledger.send().is_acknowledged
    ledger.settle()
    relayd.stop()
    journal = relayd.spool / names_of(relayd, "journal-*.log")[-1]
    journal.chmod(0)
    if os.access(journal, os.R_OK) and os.getuid() != 0:
        pytest.skip("modes do not count here")
    relayd.start(wait=False)
    told = relayd.wait_event("spool.damaged", file=journal.name)[0]
    assert told["error"] == "Permission denied", told
    relayd.killed.update(event["pid"] for event in relayd.wait_event("worker.died"))
    wait_for(lambda: ledger.send().is_acknowledged)
    journal.chmod(0o600)
    relayd.wait_ready()
    ledger.settle()
    ledger.check("test_spool_strangers.journal", rows=[16], exact=True)
    relayd.killed.update(event["pid"] for event in relayd.events("worker.died") if "code 74" in event["why"])


# Row 16: while it runs.

libc = ctypes.CDLL(None, use_errno=True)


def exchange(one, other):
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) < 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def swap(relayd, outside, seconds):
    """Puts links to what is outside in the places of large/, quarantine/, the files that are there and those that will
    come, and takes them away again. Gives how often."""
    spool, swaps, end = relayd.spool, 0, time.monotonic() + seconds
    links = {}
    for name in ("large", "quarantine"):
        links[name] = outside.parent / f"link-{name}"
        links[name].symlink_to(outside)
    victim = outside.parent / "link-victim"
    victim.symlink_to(outside / "victim")
    while time.monotonic() < end:
        for name, link in links.items():
            exchange(spool / name, link)
            exchange(spool / name, link)
            swaps += 2
        present = [path.name for path in spool.iterdir() if path.suffix in (".seg", ".log")]
        highest = max((int(name[name.index("-") + 1:-4]) for name in present), default=0)
        for name in present:
            try:
                exchange(spool / name, victim)
                exchange(spool / name, victim)
            except FileNotFoundError:
                if not (spool / name).is_symlink() and not victim.is_symlink():
                    exchange(spool / name, victim)
                continue
            swaps += 2
        for pattern in FILES:
            path = spool / pattern.format(highest + 1)
            try:
                path.symlink_to(outside / path.name)
                path.unlink()
                swaps += 2
            except (FileExistsError, FileNotFoundError):
                pass
    return swaps


@needs_root
def test_links_swapped_under_its_hands_lead_nowhere(relayd, sink, own, ledger):
    """By somebody who may write the spool: only the same user and root can, after the start. It still never writes
    outside, and ends well; of mail that was acknowledged nothing is lost: what has no body just now is held."""
    outside = own / "outside"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    shutil.chown(outside, relayd.user)
    shutil.chown(outside / "victim", relayd.user)
    relayd.set("retry", {"first": "1s", "max": "2s"})
    relayd.to_sink(sink).start()
    pids = sorted(relayd.pids())
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(swap, relayd, outside, 5)
        while not swapping.done():
            ledger.send()
            ledger.send(body=b"y" * 300000 + b"\r\n", timeout=40)
        swaps = swapping.result()
    assert swaps > 2000
    assert [path.name for path in outside.iterdir()] == ["victim"]
    assert (outside / "victim").read_text() == "untouched"
    assert not [path for path in relayd.spool.rglob("*") if path.is_symlink()]
    wait_for(lambda: ledger.send().is_acknowledged, 30, why=relayd.log)
    wait_for(lambda: all(m["state"] == "held" for m in relayd.queue()), 30, why=relayd.queue)
    for message in relayd.queue():
        relayd.ctl("release", message["id"])
    ledger.settle()
    assert sorted(relayd.pids()) == pids
    ledger.check("test_spool_strangers.swapped", rows=[16], other_errors_injected=swaps)


def stands_elsewhere(relayd, own):
    relayd.spool.rename(own / "elsewhere")


def is_another_one(relayd, own):
    relayd.spool.rename(own / "elsewhere")
    shutil.copytree(own / "elsewhere", relayd.spool, ignore=shutil.ignore_patterns("*.*"))
    for path in [relayd.spool, *relayd.spool.iterdir()]:
        shutil.copystat(own / "elsewhere", path)
        shutil.chown(path, (own / "elsewhere").stat().st_uid)


@pytest.mark.parametrize("lose", [stands_elsewhere, is_another_one])
def test_a_spool_that_is_moved_away_takes_no_mail(relayd, sink, own, ledger, lose):
    """The next start would not find it. What it holds is delivered out of it, by workers that start anew as well, and it
    takes mail again when it is back."""
    sink.stop()
    relayd.to_sink(sink).start()
    assert ledger.send().is_acknowledged
    lose(relayd, own)
    wait_for(lambda: ledger.send().answer.startswith("452 4.3.1 the spool is not in"), 5)
    [told] = relayd.events("spool.failed")
    assert "moved away" in told["why"] and "put it back" in told["fix"] and told["directory"] == str(relayd.spool)
    assert "NEW MAIL IS REFUSED" in relayd.status()
    for program in ("relayd-intake", "relayd-delivery"):
        pid = relayd.pid_of(program)
        relayd.kill(pid)
        wait_for(lambda: relayd.pid_of(program) not in (None, pid), 15)  # noqa: B023 pylint: disable=cell-var-from-loop
    wait_for(relayd.greets, 15)
    wait_for(lambda: not ledger.send().is_acknowledged, 5)
    sink.start()
    relayd.ctl("retry", "--all")
    wait_for(lambda: sink.messages, 30, why=relayd.log)
    if lose is is_another_one:
        assert not [path for path in relayd.spool.rglob("*.*")]
        shutil.rmtree(relayd.spool)
    (own / "elsewhere").rename(relayd.spool)
    wait_for(lambda: ledger.send().is_acknowledged, 15, why=relayd.log)
    assert relayd.events("spool.recovered")
    ledger.settle()
    ledger.check("test_spool_strangers.moved", rows=[16], crashes=2)


def test_a_file_with_mail_that_is_removed_is_told_while_it_can_be_put_back(relayd, sink, own, ledger):
    """Of mail that was never tried nothing else knows: a restart would find an empty queue, and nothing amiss."""
    sink.stop()
    relayd.to_sink(sink).start()
    for _ in range(3):
        assert ledger.send().is_acknowledged
    wait_for(lambda: len(relayd.queue()) == 3)
    [segment] = [path for path in relayd.spool.glob("intake-*.seg") if b"bench 1" in path.read_bytes()]
    copy = shutil.copy2(segment, own / "copy")
    shutil.chown(copy, segment.stat().st_uid)
    segment.unlink()
    [told] = relayd.wait_event("spool.lost", seconds=20)
    assert told["file"] == segment.name and told["messages"] == 3 and "put it back" in told["fix"]
    shutil.move(copy, segment)
    sink.start()
    relayd.kill_all()
    relayd.start()
    ledger.settle()
    ledger.check("test_spool_strangers.removed", rows=[16], crashes=1)


# Row 17.

def test_the_lock_is_not_in_its_file_alone(relayd, sink, own, ledger):
    """Somebody removes it, because it is an old one surely."""
    relayd.to_sink(sink).start()
    (relayd.spool / "lock").unlink()
    status, said = refused(another(relayd, own), 25)  # it may be one that was killed a moment ago: it waits 15 s
    assert status == EX_UNAVAILABLE and "another relayd uses it" in said, said
    assert ledger.send().is_acknowledged
    relayd.kill_all()
    relayd.start()
    assert ledger.send().is_acknowledged
    ledger.settle()
    ledger.check("test_spool_strangers.unlocked", rows=[17], crashes=1)


def another(relayd, own, name="second", **spool):
    """A second relayd for the same spool, with ports of its own."""
    second = Relayd(relayd.programs, own / name)
    for setting, value in relayd.settings.items():
        if setting.startswith("upstream"):
            second.set(setting, value)
    second.set("spool", {"directory": relayd.spool, **spool})
    return second


def says_that_it_is_taken(second, pid):
    status, said = refused(second)
    assert status == EX_UNAVAILABLE, said
    assert f"another relayd (pid {pid})" in said, said
    assert str(second.settings["spool"]["directory"]) in said.replace("\\", "")
    assert not is_listening(second.port)


@pytest.mark.parametrize("way", ["same", "dots", "bind"])
def test_a_second_one_by_whatever_name_is_told_who_has_it(relayd, sink, own, ledger, way):
    relayd.to_sink(sink).start()
    directory = relayd.spool
    if way == "dots":
        directory = relayd.spool / ".." / "spool"
    if way == "bind":
        directory = own / "bound"
        directory.mkdir()
        if subprocess.run(["mount", "--bind", relayd.spool, directory], capture_output=True, check=False).returncode:
            pytest.skip("no bind mounts here")
    try:
        for number in range(3):
            says_that_it_is_taken(another(relayd, own, f"second{number}", directory=directory), relayd.process.pid)
            assert ledger.send().is_acknowledged
    finally:
        if way == "bind":
            subprocess.run(["umount", directory], check=True)
    ledger.settle()
    ledger.check("test_spool_strangers.second", rows=[17], exact=True)


def test_of_many_that_start_at_once_one_gets_it(relayd, sink, own, ledger):
    relayd.to_sink(sink)
    all_of_them = [another(relayd, own, f"one{number}") for number in range(8)]
    try:
        for one in all_of_them:
            one.start(wait=False)
        wait_for(lambda: sum(one.process.poll() is None for one in all_of_them) == 1, 30)
        winner = next(one for one in all_of_them if one.process.poll() is None)
        assert {one.process.poll() for one in all_of_them if one is not winner} == {EX_UNAVAILABLE}
        winner.wait_ready()
        ledger.relayd = winner
        assert ledger.send().is_acknowledged
        ledger.settle()
        ledger.check("test_spool_strangers.many", rows=[17], exact=True)
    finally:
        for one in all_of_them:
            one.stop()


def test_while_the_first_drains_the_second_waits_outside(relayd, sink, own, ledger):
    """It still writes: a body is on its way. Afterwards the spool is free at once."""
    release = []
    sink.rules["END"] = lambda session, data: wait_for(lambda: release, 20) and None
    relayd.set("drain", "15s")
    relayd.to_sink(sink).start()
    entry = ledger.send()
    assert entry.is_acknowledged
    wait_for(lambda: relayd.queue()[0]["state"] == "active")
    time.sleep(0.2)
    pid = relayd.process.pid
    relayd.process.send_signal(signal.SIGTERM)
    relayd.wait_event("worker.stopped", worker="relayd-intake")
    second = another(relayd, own)
    says_that_it_is_taken(second, pid)
    release.append(True)
    assert relayd.process.wait(20) == 0
    relayd.process = None
    second.start()
    try:
        ledger.relayd = second
        assert ledger.send().is_acknowledged
        ledger.settle()
    finally:
        second.stop()
    assert len([m for m in sink.messages if f"bench {entry.number}\r".encode() in m.data]) == 1


@needs_root
def test_a_copy_of_a_running_spool_is_a_spool_of_its_own(relayd, sink, make_sink, own, ledger):
    """Whoever copies a spool that is in use has two: each delivers what it holds, neither disturbs the other, and what
    the copy lost in the middle of a write is told and not guessed."""
    relayd.to_sink(sink, host="127.0.0.1", port=9).start()
    load = ledger.load(400, rate=400)
    load.wait_acknowledged(150)
    copy = own / "copy"
    subprocess.run(["cp", "-a", relayd.spool, copy], check=True)
    load.wait()
    other_sink = make_sink()
    second = another(relayd, own, directory=copy).to_sink(other_sink)
    second.start()
    try:
        second.wait_empty(60)
    finally:
        assert second.stop() == 0
    assert len(other_sink.messages) >= 150
    assert not second.events("worker.died")
    relayd.to_sink(sink)
    relayd.reload()
    relayd.wait_event("config.reloaded")
    ledger.settle()
    ledger.check("test_spool_strangers.copied", rows=[17], exact=True)


# Row 53: after a downgrade.

def set_version(path, digit):
    """Both headers of a spool file: the version is the last byte of the magic, and a checksum covers it (segment.c)."""
    xxhash = ctypes.CDLL("libxxhash.so.0")
    xxhash.XXH3_64bits.restype = ctypes.c_uint64
    xxhash.XXH3_64bits.argtypes = ctypes.c_char_p, ctypes.c_size_t
    data = bytearray(path.read_bytes())
    for at in (0, len(data) - BLOCK):
        data[at + 7] = ord(digit)
        data[at + 48:at + 56] = struct.pack("<Q", xxhash.XXH3_64bits(bytes(data[at:at + 48]), 48))
    path.write_bytes(data)


def make_newer(path):
    """Gives the bytes that it has then."""
    before = path.read_bytes()
    set_version(path, "1")
    assert path.read_bytes() == before, "the format is of version 1, and we know its checksum"
    set_version(path, "2")
    return path.read_bytes()


def test_mail_in_a_file_of_a_newer_version_is_left_for_it(relayd, sink, ledger):
    """The rest goes out, nobody touches the file, and the newer version has it all."""
    relayd.to_sink(sink, host="127.0.0.1", port=9).start()
    left = queue_one(relayd, ledger)
    relayd.stop()
    segment, = [path for path in relayd.spool.glob("intake-*.seg") if left.data in path.read_bytes()]
    written = make_newer(segment)
    relayd.to_sink(sink).start()
    told = relayd.wait_event("spool.damaged")[0]
    assert "newer relayd" in told["why"] and told["fix"] == "run the newer version again"
    for _ in range(3):
        assert ledger.send().is_acknowledged
    ledger.settle()
    assert left.number not in {number for number, _ in ledger.arrived()} and len(sink.messages) == 3
    assert relayd.stop() == 0
    assert segment.read_bytes() == written
    set_version(segment, "1")  # the newer one runs again
    relayd.start()
    sink.wait(4)
    ledger.settle()
    ledger.check("test_spool_strangers.newer_segment", rows=[53], exact=True, strange_files=1)


def test_a_journal_of_a_newer_version_is_not_believed_half(relayd, sink, ledger):
    """It may say what was delivered: without it nothing is sent, and mail is accepted. The file and the words to do about
    it are told, by relayctl too; and the newer version sends each message once."""
    relayd.to_sink(sink).start()
    assert ledger.send().is_acknowledged
    ledger.settle()
    sink.stop()
    queue_one(relayd, ledger)
    relayd.stop()
    journal = relayd.spool / names_of(relayd, "journal-*.log")[-1]
    written = make_newer(journal)
    sink.start()
    relayd.start(wait=False)
    told = relayd.wait_event("spool.damaged", file=journal.name)[0]
    assert "newer relayd" in told["why"] and told["fix"] == "run the newer version again"
    relayd.wait_event("spool.failed", fix=told["fix"])
    relayd.killed.update(event["pid"] for event in relayd.wait_event("worker.died"))
    wait_for(lambda: ledger.send().is_acknowledged)
    asked = relayd.ctl("queue", check=False)
    assert asked.returncode == 1 and asked.stderr.endswith("a newer relayd wrote it: run that version again\n")
    assert relayd.stop() == 0
    assert len(sink.messages) == 1 and journal.read_bytes() == written
    set_version(journal, "1")  # the newer one runs again
    relayd.start()
    ledger.settle()
    found = ledger.check("test_spool_strangers.newer_journal", rows=[53], exact=True, strange_files=1)
    assert found["delivered"] == found["messages_acknowledged"] and found["duplicates"] == 0
    relayd.killed.update(event["pid"] for event in relayd.events("worker.died") if "code 74" in event["why"])
