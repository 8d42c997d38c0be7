"""What is measured: (a) to (i). Each function is one round for one peer, and gives {(where, figure): value}.

A figure is a row of table.FIGURES. Every message has a number, and the sink says which arrived, and how often: a
round in which one is lost or doubled raises Broken."""

import contextlib
import os
import pwd
import signal
import subprocess
import time

from ends import Broken, Far, Knock, Load, Sink, load, times
from meter import MIB, Calls, Cpu, Peak, memory
from peers.peer import Upstream
from tools import free_port, wait_for

SIZES = {"4 KiB": 4096, "64 KiB": 65536, "100 KB": 100_000, "25 MiB": 25 << 20}
WARM = 40


def warm(bench, peer, sink):
    """Processes run and connections are open before anything counts."""
    sink.settled(load(bench, peer.port, sink, messages=WARM, connections=20))


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def enough(bench, peer, seconds, size=4096):
    """As many messages as should keep the peer busy for so long."""
    return max(20, int(peer.expected * bench.seconds(seconds) / (1 + size / 16384)))


def is_ours(peer):
    return peer.name == "relayd"


# --- (a) ----------------------------------------------------------------------------------------

INTAKE = [(20, True), (20, False), (1, True), (100, True)]


def intake(bench, kind):
    """How fast mail is accepted while the upstream is down."""
    found = {}
    with bench.peer(kind, Upstream(free_port(), bench.authority)) as peer:
        load(bench, peer.port, peer, messages=WARM)
        for connections, kept in INTAKE:
            result = load(bench, peer.port, peer, connections=connections, kept=kept, seconds=bench.seconds(1))
            where = f"{connections} connections, {'many messages each' if kept else 'one message each'}"
            found[where, "accepted/s"] = result["per_second"]
            found[where, "to the 250, p99 ms"] = result["p99_ms"]
    return found


# --- (b) ----------------------------------------------------------------------------------------

CELLS = [(tls, size, connections, kept) for tls in (True, False) for size in ("4 KiB", "64 KiB")
         for connections in (20, 1, 100) for kept in (True, False)]
QUICK_CELLS = [cell for cell in CELLS if cell[2] == 20 or cell[0] and cell[1] == "4 KiB" and cell[3]]


def end_to_end(bench, kind):
    """How fast it is accepted and arrives, by the sink, size, connections, and messages for each."""
    found = {}
    for tls in (True, False):
        with bench.sink(tls=tls) as sink, bench.peer(kind, bench.upstream(sink.port, tls)) as peer:
            warm(bench, peer, sink)
            for cell in QUICK_CELLS if bench.quick else CELLS:
                if cell[0] == tls:
                    found.update(relay(bench, peer, sink, cell))
    return found


def relay(bench, peer, sink, cell):
    tls, size, connections, kept = cell
    result = load(bench, peer.port, sink, size=SIZES[size], connections=connections, kept=kept,
                  messages=enough(bench, peer, 1, SIZES[size]))
    last = sink.settled(result)["last"]
    where = (f"{'TLS+AUTH' if tls else 'plain'}, {size}, {connections} connections, "
             f"{'many messages each' if kept else 'one message each'}")
    return {(where, "accepted/s"): result["per_second"], (where, "arrived/s"): result["accepted"] / (last - result["start"])}


# --- (c) ----------------------------------------------------------------------------------------

def latency(bench, kind):
    """At ten messages a second, each on a connection of its own."""
    with bench.sink() as sink, bench.peer(kind, bench.upstream(sink.port)) as peer:
        warm(bench, peer, sink)
        result, ways = paced(bench, peer, sink, messages=60, rate=10)
        sink.settled(result)
    found = {}
    for figure, values in (("connect → 250", [accepted - began for began, accepted, _ in ways]),
                           ("250 → arrival", [arrived - accepted for _, accepted, arrived in ways])):
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            found["10 messages/s", f"{figure}, {name} ms"] = percentile(values, share) * 1000
    return found


def paced(bench, peer, sink, messages, rate, seconds=60):
    """(what the generator says, [(began, accepted, arrived)]): what has not arrived within `seconds` arrives then."""
    sent, arrived = bench.scratch_file("sent"), bench.scratch_file("arrived")
    result = load(bench, peer.port, sink, messages=messages, rate=rate, connections=8, kept=False, options=["-T", sent])
    deadline = time.monotonic() + seconds
    while sink.of(result, arrived)["distinct"] < result["accepted"] and time.monotonic() < deadline:
        time.sleep(0.05)
    there, now = times(arrived), time.monotonic()
    return result, [(began, accepted, there.get(number, [now])[0])
                    for number, (began, accepted) in times(sent).items()]


# --- (d) ----------------------------------------------------------------------------------------

def cost(bench, kind):
    """Processor time, system calls and syncs for each message, TLS and AUTH, 20 connections."""
    found = {}
    with bench.sink() as sink, bench.peer(kind, bench.upstream(sink.port)) as peer:
        warm(bench, peer, sink)
        for size in ("4 KiB", "100 KB"):
            with Cpu(peer) as cpu:
                result = load(bench, peer.port, sink, size=SIZES[size], messages=enough(bench, peer, 2, SIZES[size]))
                sink.settled(result)
                time.sleep(0.3)  # the last outcomes are written down
            found[size, "CPU s/1,000"] = cpu.seconds / result["accepted"] * 1000
        with Calls(peer, bench.scratch) as calls:
            result = load(bench, peer.port, sink, messages=enough(bench, peer, 1))
            sink.settled(result)
            time.sleep(0.3)
        for name, count in calls.found.items():
            found["4 KiB", f"system {name}/message" if name == "calls" else "syncs/message"] = count / result["accepted"]
    return found


# --- (e) ----------------------------------------------------------------------------------------

def resident(bench, kind):
    """Memory of all processes: idle; with so many queued; and what a restart with the largest queue takes."""
    port, found = free_port(), {}
    with bench.peer(kind, Upstream(port, bench.authority)) as peer:
        time.sleep(0.5)
        idle = found["idle", "MiB PSS"] = memory(peer) / MIB
        for queued in (100_000, 250_000 if bench.quick else 1_000_000) if is_ours(peer) else ():
            load(bench, peer.port, peer, messages=queued - peer.numbers, size=1024)
            time.sleep(1)
            where = f"{queued:,} queued"
            found[where, "MiB PSS"] = memory(peer) / MIB
            found[where, "bytes/message"] = (found[where, "MiB PSS"] - idle) * MIB / queued
        if is_ours(peer):
            found.update(restart(peer, port, where))
            wait_for(lambda: peer.queued() >= queued, 60, why=f"{queued} were queued, and after the restart not all are")
            if peer.queued() != queued:
                raise RuntimeError(f"{queued} were queued, {peer.queued()} are after the restart")
            found[where, "MiB PSS after restart"] = memory(peer) / MIB
    return found


def restart(peer, port, where):
    peer.stop()
    knock, begin = Knock(port), time.monotonic()
    try:
        peer.start()
        listening = time.monotonic()
        limit = begin + 10
        while not knock.first and time.monotonic() < limit:
            time.sleep(0.01)
        return {(where, "start, s"): listening - begin, (where, "first attempt, s"): (knock.first or limit) - begin}
    finally:
        knock.stop()


# --- (f) ----------------------------------------------------------------------------------------

def outage(bench, kind):
    """So many queued, a restart with them, listing them; then the upstream is back and the operator says: now.

    relayd is also left to itself: fill, upstream back, nobody says anything."""
    port, found = free_port(), {}
    messages = min(20_000, kind.expected * (5 if bench.quick else 50))
    where = f"{messages:,} queued"
    with bench.peer(kind, Upstream(port, bench.authority)) as peer:
        result = load(bench, peer.port, peer, messages=messages, seconds=60)
        time.sleep(1)
        found[where, "MiB PSS"] = memory(peer) / MIB
        begin = time.monotonic()
        listed = peer.run(peer.listing()).stdout.count("bench.example")
        found[where, "listing, s"] = time.monotonic() - begin
        if listed < result["accepted"]:
            raise Broken(f"{result['accepted']} accepted, {listed} lines in the list of the queue")
        found.update(restart(peer, port, where))
        with bench.sink(port=port) as sink:
            begin = time.monotonic()
            with running(peer.flush()):
                there = arrived_within(sink, result, 120)
            if there["distinct"] == result["accepted"]:
                found[where, "retry now → last arrival, s"] = there["last"] - begin
            found[where, "drained/s"] = there["distinct"] / max(there["last"] - begin, 1)
    if is_ours(peer):
        found.update(left_alone(bench, kind, messages))
    return found


@contextlib.contextmanager
def running(command):
    """It may take as long as what it asks for; then nobody waits for it."""
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def arrived_within(sink, result, seconds):
    """What a slow peer has not relayed by then is not lost: it is not counted."""
    deadline = time.monotonic() + seconds
    while sink.of(result)["distinct"] < result["accepted"] and time.monotonic() < deadline:
        time.sleep(0.02)
    return sink.ledger(result, most_missing=result["accepted"])


def left_alone(bench, kind, messages):
    port = free_port()
    with bench.peer(kind, Upstream(port, bench.authority)) as peer:
        result = load(bench, peer.port, peer, messages=messages)
        time.sleep(5)
        with bench.sink(port=port) as sink:
            begin = time.monotonic()
            there = sink.settled(result, 120)
    where = f"{messages:,} queued, after 5 s of outage, nobody says anything"
    return {(where, "first arrival, s"): there["first"] - begin,
            (where, "first → last arrival, s"): there["last"] - there["first"]}


# --- (g) ----------------------------------------------------------------------------------------

def far(bench, kind):
    """An upstream 50 ms away: first to last arrival of a backlog, over one connection and over four."""
    found = {}
    for connections in (1, 4):
        for chunking in (True, False):
            with (bench.sink(chunking=chunking) as sink, bench.end(Far(bench, sink.port)) as way,
                  bench.peer(kind, bench.upstream(way.port, connections=connections)) as peer):
                sink.settled(load(bench, peer.port, sink, messages=1, connections=1))
                each = 400 if is_ours(peer) and chunking else 50 if is_ours(peer) else 10 if bench.quick else 20
                result = load(bench, peer.port, sink, messages=each * connections)
                there = sink.settled(result)
                where = f"{connections} connection{'s' * (connections > 1)}, {'' if chunking else 'no '}CHUNKING"
                found[where, "arrived/s"] = (result["accepted"] - 1) / (there["last"] - there["first"])
    return found


# --- (h) ----------------------------------------------------------------------------------------

def large(bench, kind):
    """One message of 25 MiB."""
    with bench.sink() as sink, bench.peer(kind, bench.upstream(sink.port)) as peer:
        warm(bench, peer, sink)
        time.sleep(0.5)
        with Peak(peer) as peak:
            result = load(bench, peer.port, sink, messages=1, connections=1, kept=False, size=SIZES["25 MiB"])
            last = sink.settled(result)["last"]
    return {("25 MiB", "connect → 250, p50 ms"): result["p50_ms"],
            ("25 MiB", "connect → arrival, ms"): (last - result["start"]) * 1000,
            ("25 MiB", "peak MiB above idle"): peak.bytes / MIB}


# --- (i) ----------------------------------------------------------------------------------------

def fairness(bench, kind):
    """One tenant queues a backlog for an upstream far away; another sends one message a second."""
    messages, found = 8 if bench.quick else 20, {}
    with (bench.sink() as sink, bench.end(Far(bench, sink.port)) as way,
          bench.peer(kind, bench.upstream(way.port, connections=4)) as peer):
        sink.settled(load(bench, peer.port, sink, messages=8, connections=4))
        for where in ("alone", "beside the backlog of another"):
            if where != "alone":
                backlog = 20_000 if is_ours(peer) else 500
                many = Load(bench, peer.port, sink, messages=backlog, user=pwd.getpwnam("daemon").pw_uid).done()
            result, ways = paced(bench, peer, sink, messages, rate=1, seconds=15)
            sink.ledger(result, most_missing=messages)
            found[where, "connect → arrival, p99 ms"] = percentile([end - began for began, _, end in ways], 0.99) * 1000
        there = sink.of(many)
        if there["distinct"] == many["begun"]:
            raise RuntimeError("the backlog was gone before the other tenant was done")
    return found


# letter → title, function, rounds of a full run (a peer may have a most of its own), and of a quick one
MEASURES = {
    "a": ("intake, upstream down", intake, 5, 1),
    "b": ("end to end", end_to_end, 5, 1),
    "c": ("latency at low load", latency, 5, 1),
    "d": ("cost of a message", cost, 5, 1),
    "e": ("memory", resident, 1, 1),
    "f": ("after an outage", outage, 1, 1),
    "g": ("far upstream, 50 ms each way", far, 1, 1),
    "h": ("one message of 25 MiB", large, 5, 1),
    "i": ("another tenant's message, upstream 50 ms away, 4 connections", fairness, 1, 1),
}
