"""The faults of soak.py, a row for each: FAULTS. What begins one gets the stage (relayd, its upstream, its disk, ...), and
what it gives is what the end of it takes."""

import collections
import functools
import os
import pathlib
import random
import shutil
import signal
import socket
import threading
import time

import disks
import nameserver
from cgroup import Group
from evil import Misdeed, close, close_notify, drip, hang, hear, reset, say, wait
from nameserver import ANSWERS
from tools import free_port, wait_for

HOUR_S, YEAR_S = 3600, 365 * 86400
WORKERS = ("relayd-intake", "relayd-delivery")
ENVELOPE = b"EHLO x\r\nMAIL FROM:<evil@bench.example>\r\nRCPT TO:<evil@bench.example>\r\n"
HALVES = (b"DATA\r\nhalf a mess", b"BDAT 1000 LAST\r\nhalf", b"BDAT 5\r\nabcde",
          b"DATA\r\n\n.\nMAIL FROM:<smuggled@bench.example>\r\n", b"")


class NotNow(Exception):
    """There is nobody or nothing to do this to at the moment."""


def nothing(stage, made):
    pass


def kill_worker(name, stage):
    stage.relayd.kill(stage.worker(name))
    stage.count("crashes")


def kill_supervisor(stage):
    if stage.relayd.process.poll() is not None:
        raise NotNow
    pids = stage.relayd.pids()
    stage.is_down = True
    stage.relayd.kill(pids[0])
    stage.relayd.process.wait()
    stage.count("crashes")
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids[1:]), 30, why="the workers to end")


def kill_everything(stage):
    stage.is_down = True
    stage.kill_all()


def come_back(stage, made=None):
    stage.up()


def cut_power(stage):
    stage.is_down = True
    stage.disk.cut()
    stage.kill_all()
    stage.count("power_cuts")
    stage.disk.umount()


def power_is_back(stage, made=None):
    stage.disk.again()
    stage.up()


def stop_relayd(stage):
    stage.is_down = True
    status = stage.relayd.stop()
    assert status == 0 or stage.may_end(), f"relayd ended with {status}: {stage.relayd.log()[-3000:]}"


def signal_relayd(stage):
    if stage.is_down or stage.relayd.process.poll() is not None:
        raise NotNow
    stage.relayd.process.send_signal(signal.SIGHUP)


def reload_config(stage, made=None):
    stage.relayd.write_config()
    signal_relayd(stage)


def reload_nonsense(stage):
    stage.relayd.config.write_text("upstream { nonsense", encoding="utf-8")
    try:
        signal_relayd(stage)
    except NotNow:
        stage.relayd.write_config()
        raise


def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def stop_worker(name, stage):
    pid = stage.worker(name)
    send(pid, signal.SIGSTOP)
    return pid


def let_go_on(stage, pid):
    send(pid, signal.SIGCONT)


def limit_workers(name, room, stage):
    """What they may have is what they have, and room."""
    if not (pids := [pid for pid in map(functools.partial(worker_or_none, stage), WORKERS) if pid]):
        raise NotNow
    for pid in pids:
        disks.limit(pid, name, room(pid), check=False)
    return pids


def worker_or_none(stage, name):
    try:
        return stage.worker(name)
    except NotNow:
        return None


def limit_no_more(name, most, stage, pids):
    for pid in pids:
        disks.limit(pid, name, most, check=False)


def one_more_descriptor(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd")) + 1
    except FileNotFoundError:
        return 1024  # it has just ended


def one_allocation_fails(stage):
    stage.memory.fail(stage.rng.randrange(1, 3000))


def no_memory(stage):
    stage.memory.fail(stage.rng.randrange(1, 300), sticky=True)


def memory_is_back(stage, made=None):
    stage.count("other_errors_injected", stage.memory.failed)
    stage.memory.fail(0)


def kernel_kills(name, stage):
    """The worker goes into a cgroup that has no room for what it does next; who replaces it is not in there."""
    pid = stage.worker(name)
    group = Group(f"relayd-soak-{os.getpid()}-{name}")
    stage.relayd.killed.add(pid)
    try:
        group.take(pid, 1 << 20)
    except ProcessLookupError:
        pass
    stage.count("crashes")
    return group


def leave_group(stage, group):
    group.leave()
    group.remove()


def set_clock(offset_s, stage):
    stage.clock.set(offset_s)


def clock_is_right(stage, made=None):
    stage.clock.set(0)


def fill_disk(stage):
    return stage.disk.fill()


def unfill_disk(stage, filler):
    filler.unlink()


def no_inodes(stage):
    return stage.disk.use_inodes()


def inodes_again(stage, files):
    shutil.rmtree(files)


def freeze_disk(stage):
    stage.disk.freeze()


def thaw_disk(stage, made=None):
    stage.disk.thaw()


def turn_read_only(stage):
    stage.disk.turn_read_only()


def mount_anew(stage, made=None):
    """A file system with an error has to be mounted anew, and relayd is killed for it."""
    stage.is_down = True
    stage.kill_all()
    stage.disk.umount()
    power_is_back(stage)


def start_read_only(stage):
    """It stands still while the disk is remounted, and refuses to start."""
    stop_relayd(stage)
    stage.disk.remount("ro")
    stage.relayd.start(wait=False)
    assert stage.relayd.process.wait(20) == 74, f"on a disk that is read-only: {stage.relayd.log()[-3000:]}"


def remount_writable(stage, made=None):
    stage.disk.remount("rw")
    stage.up()


def is_stopped(pid):
    states = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            states.append(task.read_text(encoding="latin-1").rpartition(")")[2].split()[0])
        except OSError:
            pass
    return all(state in "TZX" for state in states)


def disk_lies(stage):
    """Nobody writes while what was written ahead loses its ground (Thin.hollow): what was acknowledged keeps its own."""
    if stage.relayd.process.poll() is not None:
        raise NotNow
    send(stage.relayd.process.pid, signal.SIGSTOP)
    wait_for(lambda: is_stopped(stage.relayd.process.pid))
    pids = stage.relayd.pids()
    try:
        for pid in pids:
            send(pid, signal.SIGSTOP)
        wait_for(lambda: all(map(is_stopped, pids)), 30, why="everything to stand still")
        disks.run("fstrim", stage.disk.at, check=False)
        for path in [*stage.relayd.spool.glob("intake-*.seg"), *stage.relayd.spool.glob("journal-*.log")]:
            stage.disk.hollow(path)
        stage.disk.fill_below()
    finally:
        for pid in pids:
            send(pid, signal.SIGCONT)


def disk_is_repaired(stage, made=None):
    stage.is_down = True
    stage.kill_all()
    stage.disk.make_room_below()
    stage.disk.umount()
    power_is_back(stage)


def upstream_away(stage):
    stage.evil.stop()


def upstream_is_back(stage, made=None):
    stage.evil.start()


def answer_names(answer, stage):
    """New connections: those that are open need no name."""
    stage.names.answer = answer
    stage.evil.drop()


def names_are_right(stage, made=None):
    stage.names.answer = nameserver.right


def slow_names(query):
    time.sleep(1.5)
    return nameserver.right(query)


def no_name_server(stage):
    stage.relayd.names(f"nameserver 127.0.0.1:{free_port()}\n", hosts="")
    stage.evil.drop()


def another_name_server(stage, made=None):
    stage.relayd.names(stage.names.resolv_conf, hosts="")


def use_certificate(kind, stage):
    stage.evil.use_certificate(kind)
    stage.evil.drop()


def right_certificate(stage, made=None):
    stage.evil.use_certificate("good")


def misbehave(at, share, deeds, stage):
    """This share of the times that the upstream comes to a point. What begins a connection needs one to begin."""
    def some(session, go):
        if not stage.chance(share):
            go()
            return
        stage.count("upstream_misdeeds")
        for deed in deeds:
            deed(session, go)
    misdeed = Misdeed(at, [some], times=None)
    stage.evil.misdeeds = [*stage.evil.misdeeds, misdeed]
    if at in ("greeting", "starttls", "tls", "hello", "auth"):
        stage.evil.drop()
    return misdeed


def behave(stage, misdeed):
    stage.evil.misdeeds = [other for other in stage.evil.misdeeds if other is not misdeed]


def rule(verb, share, reply, stage):
    """Of the sink: it knows the argument, and may be told of any reply. Who is told of failures is not refused: a DSN that
    fails is told to somebody else."""
    def answer(session, argument):
        if not stage.chance(share) or (reply[0] == "5" and "<r0." not in argument):
            return None
        stage.count("upstream_misdeeds")
        return reply
    stage.evil.rules[verb] = answer


def no_rule(verb, stage, made):
    del stage.evil.rules[verb]


def hostile_clients(stage):
    """Nonsense, halves of messages, and connections that hang up in the middle of them."""
    rng = random.Random(stage.rng.random())

    def attack():
        for _ in range(60):
            try:
                with socket.create_connection(("127.0.0.1", stage.relayd.port), timeout=5) as peer:
                    peer.sendall(ENVELOPE[:rng.randrange(90)])
                    peer.sendall(rng.choice((*HALVES, rng.randbytes(500))))
            except OSError:
                pass
            stage.count("hostile_dialogues")
    thread = threading.Thread(target=attack)
    thread.start()
    return thread


def clients_go(stage, thread):
    thread.join()


# ---- the table ----

# holds: what no other fault may touch meanwhile. needs: of NEEDS. may_end: under it a worker may end by itself, in words, and
# relayd may fail to start.
Fault = collections.namedtuple("Fault", "name holds begin end needs may_end", defaults=("", False))


def row(name, holds, begin, end=nothing, needs="", may_end=False):
    return Fault(name, frozenset(holds.split()), begin, end, needs, may_end)


def of_worker(name, begin, end=nothing, also="", needs=""):
    """The same for each of the two."""
    for worker in WORKERS:
        short = worker.removeprefix("relayd-")
        yield row(f"{short} {name}", f"{short} {also}", functools.partial(begin, worker), end, needs)


def of_clock(name, offset_s):
    return row(f"clock {name}", "clock", functools.partial(set_clock, offset_s), clock_is_right, "preload")


def of_names(name, answer):
    return row(f"name server: {name}", "names", functools.partial(answer_names, answer), names_are_right, "root")


def of_certificate(kind):
    return row(f"certificate: {kind}", "tls", functools.partial(use_certificate, kind), right_certificate)


def of_upstream(name, at, share, *deeds):
    return row(f"upstream {name}", at, functools.partial(misbehave, at, share, deeds), behave)


def of_rule(name, verb, share, reply):
    return row(f"upstream {name}", verb, functools.partial(rule, verb, share, reply), functools.partial(no_rule, verb))


FAULTS = (
    # Processes. "life": relayd as a whole goes and comes back.
    *of_worker("killed", kill_worker),
    *of_worker("stopped", stop_worker, let_go_on, also="life"),
    *of_worker("killed for memory", kernel_kills, leave_group, also="life", needs="cgroup"),
    row("relayd killed", "life", kill_supervisor, come_back),
    row("everything killed", "life", kill_everything, come_back),
    row("restart", "life", stop_relayd, come_back),
    row("reload", "config", reload_config),
    row("reload of nonsense", "config life", reload_nonsense, reload_config),
    # What a process may have.
    row("no descriptors", "descriptors", functools.partial(limit_workers, "nofile", one_more_descriptor),
        functools.partial(limit_no_more, "nofile", 1024), may_end=True),
    row("files may not grow", "sizes", functools.partial(limit_workers, "fsize", lambda pid: 300000),
        functools.partial(limit_no_more, "fsize", "unlimited"), may_end=True),
    row("one allocation fails", "memory", one_allocation_fails, memory_is_back, "preload", may_end=True),
    row("no memory", "memory", no_memory, memory_is_back, "preload", may_end=True),
    # The disk.
    row("power cut", "life disk", cut_power, power_is_back, "disk"),
    row("disk full", "disk", fill_disk, unfill_disk, "disk", may_end=True),
    row("no inodes", "disk", no_inodes, inodes_again, "disk", may_end=True),
    row("disk hangs", "life disk", freeze_disk, thaw_disk, "disk"),
    row("disk turns read-only", "life disk", turn_read_only, mount_anew, "disk", may_end=True),
    row("disk read-only at the start", "life disk", start_read_only, remount_writable, "disk", may_end=True),
    row("syncs fail, and lie", "life disk", disk_lies, disk_is_repaired, "disk", may_end=True),
    # The clock.
    of_clock("an hour ahead", HOUR_S), of_clock("an hour behind", -HOUR_S),
    of_clock("ten years ahead", 10 * YEAR_S), of_clock("a year behind", -YEAR_S),
    # Names.
    row("name server: gone", "names", no_name_server, another_name_server, "root"),
    of_names("slow", slow_names),
    *(of_names(name, ANSWERS[name][0]) for name in ("silence", "servfail", "nxdomain", "refused", "truncated", "garbage")),
    # The upstream's TLS.
    *map(of_certificate, ("wrong-name", "expired", "stranger")),
    of_upstream("cuts the handshake", "tls", 1, close), of_upstream("resets the handshake", "tls", .5, hear, reset),
    of_upstream("hangs in the handshake", "tls", .5, hang),
    of_upstream("says STARTTLS is not available", "starttls", .5, say("454 4.7.0 TLS not available")),
    of_upstream("ends TLS in a session", "mail", .01, close_notify, say("250 2.0.0 Ok"), hang),
    # The upstream.
    row("upstream away", "upstream", upstream_away, upstream_is_back),
    of_upstream("greets with 554", "greeting", .5, say("554 5.3.2 Not now"), close),
    of_upstream("refuses the login", "auth", 1, say("535 5.7.8 Not accepted")),
    of_upstream("says 421", "mail", .02, say("421 4.7.0 Enough"), close),
    of_upstream("goes down at the end", "dot", .01, say("421 4.3.2 Going down"), close),
    of_upstream("hangs up", "rcpt", .02, close), of_upstream("hangs up in a body", "body", .02, reset),
    of_upstream("says a byte a second", "rcpt", .005, drip(b"250-slow\r\n", 1)),
    of_upstream("is slow", "mail", 1, wait(.05), lambda session, go: go()),
    of_upstream("keeps and says nothing", "kept", .02, close),
    of_upstream("hangs after it has kept", "kept", .005, hang),
    of_upstream("resets after it has said 250", "said", .02, reset),
    of_rule("refuses some", "RCPT", .05, "550 5.1.1 No such user"),
    of_rule("defers some", "RCPT", .05, "450 4.2.1 Busy"),
    of_rule("defers at the end", "END", .05, "451 4.3.0 Later"),
    of_rule("says slow down", "MAIL", .02, "451 4.7.1 Rate limit exceeded, slow down"),
    # Clients.
    row("hostile clients", "clients", hostile_clients, clients_go),
)
