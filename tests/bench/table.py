"""What was measured, as a table with ratios against Postfix, and what was asked for beside it."""

import os
import statistics
import time

# figure → is more better?
FIGURES = {"accepted/s": True, "arrived/s": True, "drained/s": True}


class Results:
    """(letter, where, figure) → peer → [a value for each round]."""

    def __init__(self):
        self.rows, self.failures = {}, []

    def add(self, letter, peer, found):
        for (where, figure), value in found.items():
            self.rows.setdefault((letter, where, figure), {}).setdefault(peer, []).append(value)

    def fail(self, letter, peer, why):
        self.failures.append({"measure": letter, "peer": peer, "why": str(why)})

    def get(self, key, peer="relayd"):
        values = self.rows.get(key, {}).get(peer)
        return statistics.median(values) if values else None

    def ratio(self, key):
        """Above 1: relayd is better than Postfix."""
        ours, theirs = self.get(key), self.get(key, "Postfix")
        if not ours or not theirs:
            return None
        return ours / theirs if FIGURES.get(key[2]) else theirs / ours

    def as_json(self):
        return [{"measure": letter, "where": where, "figure": figure, "median": {p: self.get(key, p) for p in peers},
                 "rounds": peers, "ratio": self.ratio(key)}
                for key, peers in self.rows.items() for letter, where, figure in [key]]


TLS20 = "TLS+AUTH, 4 KiB, 20 connections, many messages each"
IN20 = "20 connections, many messages each"
LOW = "10 messages/s"
CEILING = ("ceiling", "generator → sink, 20 connections, many messages each")
DISK = ("ceiling", "disk", "messages/s, 20 to a sync")


def share(key, ceiling):
    """Of what the generator does straight into the sink, or the disk with 20 that share each sync, in per cent."""
    def value(results):
        ours = results.get(key)
        most = [results.get(limit, "none between") for limit in ((*CEILING, ceiling), DISK)]
        return ours and all(most) and 100 * ours / min(most)
    return value


def value_of(*key):
    return lambda results: results.get(key)


def ratio_of(*key):
    return lambda results: results.ratio(key)


def times_alone(results):
    beside, alone = (results.get(("i", where, "connect → arrival, p99 ms"))
                     for where in ("beside the backlog of another", "alone"))
    return beside and alone and beside / alone


def syncs_to_250(results):
    """connect → 250, p99, in syncs of this disk, p99 and as seldom as well."""
    ours = results.get(("c", LOW, "connect → 250, p99 ms"))
    disk = results.get(("ceiling", "disk", "sync in a log, 10/s, p99 ms"), "none between")
    return ours and disk and ours / disk


def largest_queue(figure):
    def value(results):
        keys = [key for key in results.rows if key[0] == "e" and key[2] == figure]
        return keys and results.get(keys[-1])
    return value


# what, value, at least or at most, how much
GOALS = [
    ("intake, upstream down, 20 connections: times Postfix", ratio_of("a", IN20, "accepted/s"), ">=", 10),
    ("    % of the ceiling", share(("a", IN20, "accepted/s"), "in clear/s"), ">=", 60),
    ("end to end, TLS and AUTH, 20 connections: times Postfix", ratio_of("b", TLS20, "arrived/s"), ">=", 8),
    ("    % of the ceiling", share(("b", TLS20, "arrived/s"), "TLS+AUTH/s"), ">=", 50),
    ("CPU, 4 KiB: Postfix's through relayd's", ratio_of("d", "4 KiB", "CPU s/1,000"), ">=", 10),
    ("    s for 1,000 of 4 KiB", value_of("d", "4 KiB", "CPU s/1,000"), "<=", 0.25),
    ("    s for 1,000 of 100 KB", value_of("d", "100 KB", "CPU s/1,000"), "<=", 1),
    ("system calls for a message, 20 connections", value_of("d", "4 KiB", "system calls/message"), "<=", 15),
    ("syncs for a message, 20 connections", value_of("d", "4 KiB", "syncs/message"), "<=", 0.15),
    ("250 → arrival, p50: Postfix's through relayd's", ratio_of("c", LOW, "250 → arrival, p50 ms"), ">=", 5),
    ("250 → arrival, p99: Postfix's through relayd's", ratio_of("c", LOW, "250 → arrival, p99 ms"), ">=", 5),
    ("    p99, ms", value_of("c", LOW, "250 → arrival, p99 ms"), "<=", 5),
    ("connect → 250, p99: Postfix's through relayd's", ratio_of("c", LOW, "connect → 250, p99 ms"), ">=", 1),
    ("    p99, in syncs of this disk (p99)", syncs_to_250, "<=", 3),
    ("far, one connection, CHUNKING: times Postfix", ratio_of("g", "1 connection, CHUNKING", "arrived/s"), ">=", 10),
    ("far, one connection, no CHUNKING: times Postfix", ratio_of("g", "1 connection, no CHUNKING", "arrived/s"), ">=", 1.8),
    ("20,000 after an outage: times Postfix", lambda r: drained(r), ">=", 8),
    ("memory, idle: MiB PSS", value_of("e", "idle", "MiB PSS"), "<=", 15),
    ("    bytes for each queued message", largest_queue("bytes/message"), "<=", 64),
    ("the largest queue: first attempt after start, s", largest_queue("first attempt, s"), "<=", 3),
    ("25 MiB: peak MiB above idle", value_of("h", "25 MiB", "peak MiB above idle"), "<=", 4),
    ("another tenant's p99 beside a backlog, times alone", times_alone, "<=", 3),
]


def drained(results):
    """The peers' queue may be smaller than relayd's (--quick)."""
    rates = {peer: values for key, peers in results.rows.items() if key[0] == "f" and key[2] == "drained/s"
             for peer, values in peers.items()}
    if "relayd" not in rates or "Postfix" not in rates:
        return None
    return statistics.median(rates["relayd"]) / statistics.median(rates["Postfix"])


def is_met(value, sign, goal):
    return value >= goal if sign == ">=" else value <= goal


def goals(results):
    found = [(what, value(results), sign, goal) for what, value, sign, goal in GOALS]
    return [{"what": what, "value": value, "goal": f"{sign} {goal}", "met": is_met(value, sign, goal)}
            for what, value, sign, goal in found if value]


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def print_rows(results, peers, titles):
    letter = None
    for key, values in results.rows.items():
        if key[0] != letter:
            letter = key[0]
            names = ["none between"] if letter == "ceiling" else peers
            print(f"\n{'' if letter == 'ceiling' else f'({letter}) '}{titles.get(letter, letter)}\n")
            print(f"{'':82}" + "".join(f"{name:>12}" for name in names) + f"{'ratio':>9}{'rounds':>8}")
        ratio = results.ratio(key)
        print(f"{key[1]:56}{key[2]:26}" + "".join(f"{number(results.get(key, name)):>12}" for name in names) +
              f"{f'{ratio:.1f}x' if ratio else '':>9}{max(map(len, values.values())):>8}")


def print_table(results, peers, titles, quick):
    print(f"relayd beside its peers: {time.strftime('%F')}, {os.cpu_count()} processors, medians"
          f"{'; QUICK: one round, shorter, fewer cells' if quick else ''}. Ratio: against Postfix, above 1 relayd is better.")
    print_rows(results, peers, titles)
    print(f"\n{'asked for':60}{'goal':>10}{'now':>12}")
    for goal in goals(results):
        print(f"{goal['what']:60}{goal['goal']:>10}{number(goal['value']):>12}  {'met' if goal['met'] else 'NOT MET'}")
    for failure in results.failures:
        print(f"\nFAILED: ({failure['measure']}) {failure['peer']}: {failure['why']}")
