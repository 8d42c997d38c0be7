#!/usr/bin/python3
"""soak.py MINUTES [--seed N] [--only PATTERN]: load and random faults together, round after round, and the ledger after each.

A round: mail comes in for some seconds, and meanwhile faults come and go, several at a time: processes are killed, the power
is cut, the disk fills up or hangs or lies, names and certificates are wrong, the clock jumps, memory runs out, the upstream
and the clients misbehave (soak_faults.py). Then everything is mended, relayd has to be there by itself, the queue has to become
empty, and the ledger is checked (ledger.py). The spool stays the same from the first round to the last.

The seed is printed, and the same seed makes the same schedule: which faults, when, for how long, under which load. What
this machine does not allow is told at the start, by the names of the faults. Needs $RELAYD_BUILD; contrib/soak sees to it."""

import argparse
import collections
import fcntl
import fnmatch
import itertools
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]

import disks  # noqa: E402
from cgroup import Group  # noqa: E402
from clock import Clock  # noqa: E402
from evil import Evil  # noqa: E402
from figures import show  # noqa: E402
from ledger import Ledger  # noqa: E402
from memory import Memory  # noqa: E402
from nameserver import NameServer  # noqa: E402
from relayd import copy_programs  # noqa: E402
from soak_faults import FAULTS, WORKERS, NotNow  # noqa: E402
from tools import Authority, wait_for  # noqa: E402
from world import ElsewhereRelayd  # noqa: E402

ROUND_SECONDS = 12
ROUND_RATE = 400
ROUND_BYTES_A_SECOND = 10_000_000
SETTLE_SECONDS = 180
FAULT_SECONDS = (0.2, 4)
FAULTS_A_ROUND = (3, 9)
DISK_MIB = 384
INODES = 4096
RESTART_SECONDS = 2  # systemd's, as relayd.service says
NO_RESTART = (64, 78)  # relayd's exit codes behind which systemd starts nobody
BY_ITSELF = ("exit code 71", "exit code 74")  # how a worker may end (worker.h), and only under a fault that may_end it


# ---- what a machine must have ----

def needs_root():
    return None if os.getuid() == 0 else "not root"


def needs_loop():
    """A loop device, and ext4."""
    if reason := needs_root():
        return reason
    with tempfile.TemporaryDirectory(prefix="relayd-loop.") as where:
        made = None
        try:
            made = disks.Ext4(pathlib.Path(where) / "at", pathlib.Path(where) / "image", mib=16)
        except (AssertionError, OSError) as error:
            return "no disk of its own can be mounted: " + " ".join(str(error).split())[-120:]
        finally:
            if made:
                made.umount()
    return None


def needs_cgroup():
    try:
        group = Group(f"relayd-soak-probe-{os.getpid()}")
    except OSError as error:
        return f"no memory cgroup: {error}"
    group.remove()
    return None


def needs_preload():
    """A compiler, and programs without a sanitizer: that one has to be loaded first."""
    if not shutil.which("cc"):
        return "no C compiler"
    loads = subprocess.run(["ldd", pathlib.Path(os.environ["RELAYD_BUILD"]) / "relayd-intake"], capture_output=True, text=True,
                           check=False).stdout
    return "the programs are sanitized" if "libasan" in loads else None


NEEDS = {"root": needs_root, "disk": needs_loop, "cgroup": needs_cgroup, "preload": needs_preload}


# ---- what the faults act on ----

class SoakedRelayd(ElsewhereRelayd):
    """Its log goes through a pipe: a limit on the size of files is not one on the log. Its processes end that pipe."""

    def open_log(self):
        with open(self.log_path, "ab") as log:
            reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
        fcntl.fcntl(reader.stdin, fcntl.F_SETPIPE_SZ, 1 << 20)
        return reader.stdin


class Stage:
    def __init__(self, where, seed, missing):
        self.rng, self.where, self.missing = random.Random(seed), where, missing
        self.evil = Evil(Authority(where / "certificates"))
        self.evil.note = lambda session, text: None
        programs = copy_programs(os.environ["RELAYD_BUILD"], where / "programs")
        self.relayd = SoakedRelayd(programs, where / "relayd")
        self.relayd.is_bound = True  # to nothing, where we may not
        self.relayd.set("retry", {"first": "1s", "max": "3s"})
        self.relayd.set("spool", {"segment": "2M", "min_free": "16M"})  # delivery has to find room for its files
        self.relayd.set("limits", {"command_timeout": "20s"})
        self.relayd.to_sink(self.evil, messages_per_connection=200,
                            **{f"{what}_timeout": seconds for what, seconds in
                               (("connect", "3s"), ("command", "5s"), ("data", "5s"))})
        self.disks = self.disk = self.names = self.clock = self.memory = self.ledger = None
        self.running, self.is_down, self.figures = [], False, collections.Counter()
        self.relayd_ended = 0  # by itself
        if "disk" not in missing:
            self.disks = disks.Disks(where)
            self.disk = self.disks.thin(self.relayd.spool, below_mib=DISK_MIB + 16, mib=DISK_MIB, inodes=INODES)
        if "root" not in missing:
            self.set_names()
        if "preload" not in missing:
            self.preload(programs)
        self.relayd.start()

    def set_names(self):
        """localhost is the only name that the certificate has: it comes from our name server alone."""
        disks.Namespace.enter()
        self.names = NameServer()
        self.relayd.names(self.names.resolv_conf, hosts="")
        self.relayd.bind_names()

    def preload(self, programs):
        """Before both workers, by a script in the place of each: relayd hands no environment on."""
        own = self.where / "preload"
        own.mkdir(mode=0o755)
        self.clock, self.memory = Clock(own), Memory(own, "all")
        (own / "memory").chmod(0o666)
        environment = {**self.memory.environment, **self.clock.environment(),
                       "LD_PRELOAD": f"{self.clock.library} {self.memory.library}"}
        words = " ".join(f"{name}='{value}'" for name, value in environment.items())
        for worker in WORKERS:
            shutil.move(programs / worker, own / worker)
            (programs / worker).write_text(f"#!/bin/sh\nexport {words}\nexec {own / worker} \"$@\"\n", encoding="ascii")
            (programs / worker).chmod(0o755)

    def new_ledger(self, first):
        for kept in (self.evil.messages, self.evil.commands, self.evil.logins):
            kept.clear()
        self.evil.sessions = [session for session in self.evil.sessions if session in self.evil.alive]
        os.truncate(self.relayd.log_path, 0)
        self.ledger = Ledger(self.relayd, self.evil, self.where)
        self.ledger.next = first
        self.figures = collections.Counter(crashes=0, power_cuts=0, upstream_misdeeds=0, hostile_dialogues=0,
                                           other_errors_injected=0)

    def count(self, what, by=1):
        self.figures[what] += by

    def chance(self, share):
        return self.rng.random() < share

    # relayd's life, as systemd would lead it.

    def worker(self, name):
        """Its process id."""
        pid = None if self.is_down or self.relayd.process.poll() is not None else self.relayd.pid_of(name)
        if pid is None:
            raise NotNow
        return pid

    def up(self):
        """Starts it; whether it is ready is asked at the end of the round, when nothing stands in its way any more."""
        self.is_down = False
        self.relayd.start(wait=False)

    def kill_all(self):
        if self.relayd.process.poll() is None:
            self.relayd.kill_all()
        self.count("crashes")

    def look_after(self):
        """It may end by itself where it cannot start for a fault; then it is started again."""
        if self.is_down or self.relayd.process.poll() is None:
            return
        status = self.relayd.process.returncode
        assert status not in (0, *NO_RESTART) and self.may_end(), f"relayd ended with {status}: {self.relayd.log()[-3000:]}"
        self.relayd_ended += 1
        time.sleep(RESTART_SECONDS)
        self.up()

    def may_end(self):
        return any(fault.may_end for fault in self.running)

    def close(self):
        self.relayd.stop()
        self.evil.stop()
        if self.disks:
            self.disks.close()


# ---- the schedule ----

Turn = collections.namedtuple("Turn", "begin end fault")
Round = collections.namedtuple("Round", "seconds size rate connections w turns")


def schedule(seed, faults):
    """Rounds without end; each fault once before any comes again. The same for the same seed."""
    rng, deck = random.Random(seed), []
    while True:
        seconds = rng.uniform(.5, 1) * ROUND_SECONDS
        size = rng.choice((300, 2000, 2000, 2000, 2000, 20000, 400000))
        turns = []
        for _ in range(rng.randint(*FAULTS_A_ROUND)):
            deck = deck or rng.sample(faults, len(faults))
            begin = rng.uniform(0, seconds)
            turn = Turn(begin, begin + rng.uniform(*FAULT_SECONDS), deck[-1])
            if not any(collide(turn, other) for other in turns):
                turns.append(turn)
                deck.pop()
        yield Round(seconds, size, min(ROUND_RATE, ROUND_BYTES_A_SECOND // size), rng.choice((1, 5, 20, 50)),
                    rng.choice(("step", "message", "flow")), sorted(turns, key=lambda turn: turn[:2]))


def collide(one, other):
    return one.begin <= other.end and other.begin <= one.end and one.fault.holds & other.fault.holds


def play(stage, turns, start):
    """Begins and ends each in its time, or as soon as what is before it has been done; gives those that could be done."""
    moments = sorted([(turn.begin, 0, turn) for turn in turns] + [(turn.end, 1, turn) for turn in turns],
                     key=lambda moment: moment[:2])
    made, done = {}, []
    for at, is_end, turn in moments:
        time.sleep(max(0, start + at - time.monotonic()))
        stage.look_after()
        if not is_end:
            try:
                stage.running.append(turn.fault)
                made[turn] = turn.fault.begin(stage)
                done.append(turn)
            except NotNow:
                stage.running.remove(turn.fault)
        elif turn in made:
            try:
                turn.fault.end(stage, made[turn])
            except NotNow:
                pass
            stage.look_after()
            stage.running.remove(turn.fault)
    return done


def nobody_died(stage, turns):
    """But those we killed, and by themselves those who had to."""
    may_end = any(turn.fault.may_end for turn in turns)
    died = [event for event in stage.relayd.events("worker.died") if event.get("pid") not in stage.relayd.killed and
            not (may_end and any(words in event["why"] for words in BY_ITSELF))]
    assert not died, f"died: {died}\n{stage.relayd.log()[-6000:]}"
    assert not stage.relayd.events("worker.hung")
    assert not stage.relayd.events("log.dropped"), "the ledger needs all lines"


def settle(stage, load, names):
    """All is mended: relayd is back by itself, and everything leaves the queue."""
    stage.relayd.wait_ready()
    load.wait(SETTLE_SECONDS)
    if "upstream says slow down" in names:  # a reload forgets the pace; else the queue would take its time, as it should
        before = len(stage.relayd.events("config.reloaded"))
        stage.relayd.reload()
        stage.relayd.wait_event("config.reloaded", count=before + 1)
    wait_for(lambda: stage.relayd.ctl("retry", "--all", check=False).returncode == 0, 30)
    stage.ledger.settle(SETTLE_SECONDS)


def run_round(stage, number, first, plan):
    stage.new_ledger(first)
    begin = time.monotonic()
    load = stage.ledger.load(int(plan.rate * plan.seconds), size=plan.size, rate=plan.rate, connections=plan.connections,
                             w=plan.w)
    print(f"round {number}: " + ", ".join(f"{t.fault.name} {t.begin:.1f}-{t.end:.1f}" for t in plan.turns), flush=True)
    done = play(stage, plan.turns, begin)
    settle(stage, load, [turn.fault.name for turn in done])
    nobody_died(stage, done)
    figures = dict(stage.figures, sync_errors_injected=len(stage.relayd.events("spool.failed", operation="sync")))
    found = stage.ledger.check(f"round {number}", **figures)
    print(f"round {number}: {time.monotonic() - begin:.0f} s", flush=True)
    return found, collections.Counter(turn.fault.name for turn in done), stage.ledger.next


def possible(faults):
    """Those that this machine allows; says which ones it does not, and why. And what is missing."""
    reasons = {need: probe() for need, probe in NEEDS.items()}
    missing = {need for need, reason in reasons.items() if reason}
    for need in sorted(missing):
        names = [fault.name for fault in faults if fault.needs == need]
        if names:
            print(f"soak: cannot do: {', '.join(names)} ({reasons[need]})", flush=True)
    return [fault for fault in faults if fault.needs not in missing], missing


def show_counts(counts, faults):
    for fault in faults:
        print(f"    {fault.name:40} {counts[fault.name]:>8,}")


def run_rounds(stage, args, faults):
    total, counts, first, until = collections.Counter(), collections.Counter(), 0, time.monotonic() + 60 * args.minutes
    for number, plan in zip(itertools.count(1), schedule(args.seed, faults)):
        try:
            found, done, first = run_round(stage, number, first, plan)
        except BaseException as error:
            if isinstance(error, AssertionError):
                error.args = (str(error)[:3000],)  # it may hold the log, which stays where it is
            print(f"soak: it failed in round {number} of seed {args.seed}; {stage.where} holds log and spool", file=sys.stderr)
            shutil.copytree(stage.relayd.spool, stage.where / "spool-copy", dirs_exist_ok=True)
            raise
        total.update(found)
        counts.update(done)
        if time.monotonic() >= until:
            break
    print(f"\nThe faults of {number} rounds:")
    show_counts(counts, faults)
    print("\nThe ledger:")
    show([{"figures": total}])


def main(words=None):
    parser = argparse.ArgumentParser(description="Load and random faults together, and the ledger after each round.")
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--only", default="*", help="the faults whose names match this pattern: 'disk*'")
    args = parser.parse_args(words)
    if os.getuid() == 0:
        disks.Namespace.enter()
    faults, missing = possible([fault for fault in FAULTS if fnmatch.fnmatch(fault.name, args.only)])
    if not faults:
        sys.exit(f"soak: no fault that it can do matches '{args.only}'")
    print(f"seed {args.seed}", flush=True)
    where = pathlib.Path(tempfile.mkdtemp(prefix="relayd-soak."))
    where.chmod(0o755)
    stage = Stage(where, args.seed, missing)
    try:
        run_rounds(stage, args, faults)
    finally:
        stage.close()
    shutil.rmtree(where, ignore_errors=True)


if __name__ == "__main__":
    main()
