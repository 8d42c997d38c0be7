"""Rows 5, 6, 8 to 10, 15 and 51 on real file systems: full, without inodes, read-only, dead, lying, silent. Whatever the
disk does, what was acknowledged is delivered when it works again, what was refused is not, and no process ends."""

import re
import shutil
import subprocess
import time

import pytest

from alone import Alone
from disks import disks, limit  # noqa: F401 pylint: disable=unused-import
from tools import cpu_seconds, wait_for

MIB = 1 << 20
BIG = b"0123456789abcdef" * 6000 + b"\r\n"  # some of these fill a segment
KILLS_MAX = 400
SOON = 15  # seconds until it works by itself again: the next try of a failed writer comes after 1, 2, 4, 8


@pytest.fixture
def relayd(disks, relayd):  # noqa: F811 pylint: disable=redefined-outer-name
    """Not started, its spool not yet on a disk of its own."""
    relayd.set("spool", {"segment": "1M", "min_free": "0"})
    relayd.set("retry", {"first": "1s", "max": "2s"})
    return relayd


def fill_until_refused(ledger, most=400, **message):
    """Gives the answers that were no 250, once there is one."""
    for _ in range(most):
        entry = ledger.send(**{"body": BIG, **message})
        if not entry.is_acknowledged:
            return entry
    raise AssertionError("the disk does not fill up")


def takes_mail(ledger, seconds=SOON):
    wait_for(lambda: ledger.send(timeout=5).is_acknowledged, seconds, step=0.2, why=ledger.relayd.log)


def stays_the_same(relayd):
    """No worker died; its processes are those it had."""
    assert not relayd.events("worker.died") and not relayd.events("worker.hung")


# Row 8: no room.

def test_full_before_a_message(relayd, sink, disks, ledger):  # noqa: F811
    """It is told when it is so, not at the first mail: 452 at MAIL, with min-free; by itself again when there is room."""
    disk = disks.ext4(relayd.spool, mib=64)
    relayd.set("spool", {"min_free": "4M"})
    relayd.to_sink(sink).start()
    assert ledger.send().is_acknowledged
    filler = disk.fill(leave=2 * MIB)
    relayd.wait_event("spool.full")
    assert not relayd.events("message.rejected")
    wait_for(lambda: ledger.send().answer.startswith("452 4.3.1"), 5)
    text = relayd.status()
    assert "NEW MAIL IS REFUSED" in text and "min-free wants 6.0 MiB" in text and "make room" in text, text
    filler.unlink()
    takes_mail(ledger)
    ledger.settle()
    ledger.check("test_disk.full", rows=[8], exact=True)
    stays_the_same(relayd)


def test_full_of_mail(relayd, sink, disks, ledger):  # noqa: F811
    """Mail that nobody takes fills the disk up to min-free, and all is killed again and again, mostly before it has looked
    at what the dead had made ready: that fills the rest. The mail does not stay for ever: delivery reads it without a
    file of its own, frees what is empty, and has room then."""
    disk = disks.ext4(relayd.spool, mib=96)
    sink.stop()
    relayd.set("spool", {"segment": "4M", "min_free": "1M"})  # less than six of segment: it is six
    relayd.to_sink(sink).start()
    fill_until_refused(ledger, body=BIG * 5)
    assert disk.free_bytes() < 25 * MIB
    kills = 0
    while sum(event["program"] == "relayd-delivery" for event in relayd.events("spool.failed")) < 5:
        relayd.kill_all()
        relayd.start(wait=False)
        kills += 1
        time.sleep(kills * 0.004 % 0.12)
        assert kills < KILLS_MAX, relayd.log()[-3000:]
    relayd.kill_all()
    relayd.start()
    fill_until_refused(ledger, body=BIG * 2)
    sink.start()
    wait_for(lambda: disk.free_bytes() > 7 * MIB, 45, why="room of the files that the dead had made ready")
    relayd.ctl("retry", "--all")
    takes_mail(ledger)
    ledger.settle()
    found = ledger.check("test_disk.full_of_mail", rows=[8], crashes=kills + 1)
    assert found["messages_acknowledged"] > 20
    stays_the_same(relayd)


@pytest.fixture
def alone(programs, own, sink, request):
    daemon = Alone(programs, own / "alone", spool={"segment": "1M", "min_free": "0"})
    request.node.relayd = daemon.to_sink(sink)
    yield daemon
    daemon.kill_all()


def test_room_for_the_journal_and_not_for_a_letter(alone, sink, disks):  # noqa: F811
    """At the start. The bounce waits for the room, and is neither held nor said twice."""
    disk = disks.tmpfs(alone.spool, "16m")
    sink.rules["RCPT"] = lambda session, argument: "550 5.1.1 no such user" if "nobody@" in argument else None
    alone.start_intake()
    alone.send("to nobody", recipients=["nobody@x.example"])
    alone.stop()
    for free in alone.spool.glob("free-*"):
        free.unlink()
    filler = disk.fill(leave=3 * MIB // 2)
    alone.start_delivery()
    wait_for(lambda: [argument for verb, argument in sink.commands if verb == "RCPT"], 20, why=alone.log)
    time.sleep(1)
    assert [message["state"] for message in alone.queue()] != ["held"], alone.log()
    filler.unlink()
    wait_for(lambda: sink.messages, 20, why=alone.log)
    wait_for(lambda: not alone.queue(), 20, why=alone.queue)
    assert len(sink.messages) == 1 and b"no such user" in sink.messages[0].data


@pytest.mark.parametrize("room_kib", range(0, 1200, 300))
def test_full_in_the_middle(relayd, sink, disks, ledger, room_kib):  # noqa: F811
    """ENOSPC when the next segment is made, or a large body is written; delivery cannot make a journal either. It goes on
    by itself, without a restart, when there is room."""
    disk = disks.ext4(relayd.spool, mib=64)
    sink.stop()
    relayd.to_sink(sink).start()
    for body in (BIG, BIG * 4):
        assert ledger.send(body=body).is_acknowledged
    filler = disk.fill(leave=room_kib * 1024)
    answers = [fill_until_refused(ledger).answer, fill_until_refused(ledger, body=BIG * 5).answer]
    assert all(answer.startswith("45") for answer in answers), answers
    sink.start()
    ledger.load(100, rate=200).wait()
    filler.unlink()
    takes_mail(ledger)
    ledger.settle()
    ledger.check("test_disk.full_in_the_middle", rows=[8], exact=True)
    stays_the_same(relayd)


def test_full_while_delivery_writes_outcomes(relayd, sink, disks, ledger):  # noqa: F811
    """The journal needs a new file and gets none: delivery waits with what it knows, and nothing is sent twice."""
    disk = disks.ext4(relayd.spool, mib=64)
    sink.stop()
    relayd.to_sink(sink).start()
    ledger.load(800, size=300, r=4, connections=30).wait()
    disk.fill()
    sink.rules["RCPT"] = lambda session, argument: "450 4.2.1 " + "later " * 60
    sink.start()
    wait_for(lambda: any("delivery waits" in event.get("why", "") for event in relayd.events("spool.failed")), 40,
             why=lambda: relayd.log()[-3000:])
    sink.rules.clear()
    wait_for(lambda: is_quiet(sink), 20)
    assert len(relayd.queue()) > 200
    assert "why:   full: No space left on device" in relayd.status()
    assert all(event["directory"] == str(relayd.spool) for event in relayd.events("spool.failed")), "where to look"
    (disk.at / "filler").unlink()
    ledger.settle()
    ledger.check("test_disk.full_journal", rows=[8], exact=True)
    stays_the_same(relayd)


def test_changes_on_a_full_disk_are_counted(relayd, sink, disks, ledger):  # noqa: F811
    """An operator is told at once what could not be stored, and how much; it is done when there is room."""
    disk = disks.ext4(relayd.spool, mib=64)
    sink.stop()
    relayd.to_sink(sink).start()
    ledger.load(200, size=300).wait()
    relayd.ctl("hold", "--all")
    ids = [message["id"] for message in relayd.queue()]
    disk.fill()
    for _ in range(200):  # to hold what is held makes the journal longer
        done = relayd.ctl("hold", *ids, check=False, timeout=20)
        if done.returncode != 0:
            break
    assert done.returncode == 1 and "does not answer" not in done.stderr, done
    lines = done.stdout.splitlines() + done.stderr.splitlines()[:-1]
    assert sorted(line.removeprefix("relayctl: ").split(":")[0] for line in lines) == sorted(ids), "a line for each"
    assert "it will be done as soon as it can be" in done.stderr
    waiting = done.stderr.count("it will be done")  # a writer that failed answers for the others
    done = relayd.ctl("release", "--all", check=False, timeout=20)
    assert done.stdout == "0 messages released\n" and done.returncode == 1
    assert f"{200 - waiting} messages not released" in done.stderr and "does not answer" not in done.stderr
    (disk.at / "filler").unlink()
    sink.start()
    wait_for(lambda: relayd.ctl("release", "--all", check=False).returncode == 0 and not relayd.queue(), 40, step=0.5,
             why=lambda: relayd.log()[-3000:])
    ledger.settle()
    ledger.check("test_disk.full_changes", rows=[8], exact=True)
    stays_the_same(relayd)


def is_quiet(sink, seconds=1):
    """Nothing arrives for a while."""
    before = len(sink.messages)
    time.sleep(seconds)
    return len(sink.messages) == before


# Row 9.

def test_no_inodes(relayd, sink, disks, ledger):  # noqa: F811
    disk = disks.ext4(relayd.spool, mib=64, inodes=64)
    relayd.to_sink(sink).start()
    assert ledger.send().is_acknowledged
    files = disk.use_inodes()
    wait_for(lambda: not ledger.send(body=BIG).is_acknowledged, 5)
    assert fill_until_refused(ledger).answer.startswith("45")
    assert fill_until_refused(ledger, body=BIG * 5).answer.startswith("45")
    shutil.rmtree(files)
    takes_mail(ledger)
    ledger.settle()
    ledger.check("test_disk.inodes", rows=[9], exact=True)
    stays_the_same(relayd)


# Row 10.

def test_a_limit_on_the_size_of_files(relayd, sink, disks, ledger):  # noqa: F811
    """EFBIG, and SIGXFSZ that would end it: at run time no new segment can be made."""
    disks.ext4(relayd.spool)
    relayd.to_sink(sink).start()
    assert ledger.send().is_acknowledged  # intake has started, too
    pids = [relayd.pid_of("relayd-intake"), relayd.pid_of("relayd-delivery")]
    for pid in pids:
        limit(pid, "fsize", 300000)
    assert fill_until_refused(ledger).answer.startswith("45")
    assert fill_until_refused(ledger, body=BIG * 5).answer.startswith("45")
    for pid in pids:
        limit(pid, "fsize", "unlimited")
    takes_mail(ledger)
    ledger.settle()
    ledger.check("test_disk.file_size", rows=[10], exact=True)
    assert pids == [relayd.pid_of("relayd-intake"), relayd.pid_of("relayd-delivery")]


# Row 15.

def test_read_only_at_run_time(relayd, sink, disks, ledger):  # noqa: F811
    """As when the kernel finds an error and remounts: delivery stops sending, intake refuses, both go on afterwards."""
    disk = disks.ext4(relayd.spool)
    relayd.to_sink(sink).start()
    load = ledger.load(1500, rate=1500)
    load.wait_acknowledged(300)
    disk.turn_read_only()
    load.wait()
    assert ledger.send().answer.startswith("45")
    assert re.search(r"why:   it cannot be written: (Read-only file system|Input/output error)\n +to do: look", relayd.status())
    wait_for(lambda: is_quiet(sink), 20)
    stays_the_same(relayd)
    relayd.kill_all()
    disk.umount()
    disk.again()
    relayd.start()
    ledger.settle()
    ledger.check("test_disk.read_only", rows=[15], crashes=1)


def test_read_only_at_start(relayd, sink, disks):  # noqa: F811
    disk = disks.ext4(relayd.spool)
    disk.remount("ro")
    relayd.to_sink(sink).write_config()
    done = subprocess.run([relayd.programs / "relayd", "-c", relayd.config], capture_output=True, text=True, timeout=20,
                          check=False)
    assert done.returncode == 74, done
    assert str(relayd.spool) in done.stderr and "Read-only file system" in done.stderr, done.stderr


# Rows 5 and 6: the disk is broken.

def test_a_disk_that_lies(relayd, sink, disks, ledger):  # noqa: F811
    """fsync says ENOSPC, then EIO, then 0, and nothing was written. After the repair all that was acknowledged is there."""
    disk = disks.thin(relayd.spool)
    sink.stop()
    relayd.to_sink(sink).start()
    assert ledger.load(200).wait() == 200
    for path in [*relayd.spool.glob("intake-*.seg"), *relayd.spool.glob("journal-*.log")]:
        disk.hollow(path)
    disk.fill_below()
    load = ledger.load(400, connections=20)
    load.wait()
    wait_for(lambda: relayd.events("spool.failed", program="relayd-intake"), 10, why=relayd.log)
    sink.start()
    ledger.load(50, connections=5).wait()
    for _ in range(5):
        ledger.send(timeout=5)
    # The repair: room below, and a mount that has forgotten its errors.
    relayd.kill_all()
    disk.make_room_below()
    disk.umount()
    disk.again()
    relayd.start()
    takes_mail(ledger)
    ledger.settle()
    found = ledger.check("test_disk.lies", rows=[5, 6], crashes=1,
                         sync_errors_injected=len(relayd.events("spool.failed", operation="sync")))
    assert found["messages_acknowledged"] >= 200


def test_a_disk_that_dies(relayd, sink, disks, ledger):  # noqa: F811
    """Each call fails from now on: nothing is acknowledged, nothing more is sent, nobody dies; all is there later."""
    disk = disks.ext4(relayd.spool)
    relayd.to_sink(sink).start()
    load = ledger.load(3000, rate=1500)
    load.wait_acknowledged(500)
    disk.cut()
    time.sleep(0.3)
    after = load.acknowledged()
    load.wait()
    assert load.acknowledged() == after
    assert ledger.send().answer.startswith("45")
    wait_for(lambda: is_quiet(sink), 20)
    stays_the_same(relayd)
    before = cpu_seconds(relayd.pids())
    time.sleep(2)
    assert cpu_seconds(relayd.pids()) - before < 0.2, "it waits, it does not spin"
    relayd.kill_all()
    disk.umount()
    disk.again()
    relayd.start()
    ledger.settle()
    ledger.check("test_disk.dies", rows=[6], crashes=1, power_cuts=1)


# Row 51.

def test_a_disk_that_hangs(relayd, sink, disks, ledger):  # noqa: F811
    """Nobody gets a 250 while it is silent, new mail is refused after a while, everybody answers, all is well later."""
    disk = disks.ext4(relayd.spool)
    relayd.to_sink(sink).start()
    assert ledger.send().is_acknowledged
    disk.freeze()
    patient = ledger.load(40, connections=40)
    time.sleep(11)
    assert patient.acknowledged() == 0
    assert ledger.send(timeout=5).answer.startswith("451 4.3.2"), "intake says that the disk is silent"
    assert '"running":true' in relayd.ctl("status", "--json", timeout=5).stdout
    disk.thaw()
    takes_mail(ledger)
    ledger.settle()
    ledger.check("test_disk.hangs", rows=[51], exact=True)
    stays_the_same(relayd)


# Somebody tidies up.

def test_the_directory_is_removed(relayd, sink, ledger):
    """I1: the file's name is durable. What was acknowledged before is gone with it; nothing is acknowledged after it, and
    the next start makes a new one."""
    relayd.to_sink(sink).start()
    assert ledger.send().is_acknowledged
    sink.wait(1)
    relayd.wait_empty()
    shutil.rmtree(relayd.spool)
    ledger.load(20, size=1000, connections=5).wait()
    for _ in range(3):
        assert not ledger.send(timeout=5).is_acknowledged
    assert relayd.events("spool.failed")
    assert "then restart relayd" in relayd.status()
    stays_the_same(relayd)
    relayd.stop()
    relayd.spool.mkdir(mode=0o700)
    shutil.chown(relayd.spool, relayd.user)
    time.sleep(3)  # numbers start from the clock again
    relayd.start()
    takes_mail(ledger)
    ledger.settle()
    ledger.check("test_disk.removed", rows=[16])
