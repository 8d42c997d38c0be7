"""The ledger: what a test knows of each message, held against what relayd, its log and the upstream say.

Messages are numbered. The clients' record: attempted, then acknowledged (250), refused (4xx, 5xx), cut (the
connection broke before the end of data), or unknown (it broke after that, or the client was killed). The upstream's
record: the sink's messages, kept before it answers. check() compares them when the queue is empty:

    L1  acknowledged: each recipient was delivered, bounced, or is still shown in the queue: lost = 0
    L2  nothing is delivered that was refused or cut, or that nobody sent
    L3  what arrives is what was sent, byte for byte, and for its own recipients only
    L4  each repeat was foretold, by message and recipient: as many `message.repeated` lines as repeats at the least
        (exactly as many with exact=True: where no process was killed relayd knows it all). Only after the death of
        everything at once it is a number without names
    L5  unknown but delivered is no failure: it is counted as recovered
    L6  each bounced recipient has exactly one DSN, if there is a sender to tell
    L7  the log: no recipient with two ends, no secret, nothing unprintable; with exact=True each acknowledged message
        has its line, and each recipient its end (or it is in the queue)
    L8  the queue becomes empty: settle()"""

import collections
import email
import os
import pathlib
import re
import signal
import smtplib
import subprocess
import sys

from figures import count
from relayd import content
from sink import PASSWORD
from tools import wait_for

BUILD = pathlib.Path(os.environ.get("RELAYD_BUILD", "."))
NUMBER = re.compile(rb"^Subject: bench (\d+)\r$", re.M)
RECEIVED_ID = re.compile(rb"\bid ([0-9A-Z]+)")
QUEUED_AS = re.compile(r"queued as ([0-9A-Za-z]+)")
ENDS = ("message.delivered", "message.bounced", "message.removed")


def filler(size):
    """As tests/bench/load.c makes it."""
    data = bytearray((b"abcdefghijklmnopqrstuvw" * (size // 23 + 1))[:size])
    for i in range(size):
        if i % 72 >= 70:
            data[i] = (13, 10)[i % 72 - 70]
    data[-2:] = b"\r\n"
    if data[-3] == 13:
        data[-3] = ord("x")
    return bytes(data)


class Entry:
    def __init__(self, number, recipients, data, sender="sender@bench.example"):
        self.number, self.recipients, self.data, self.sender = number, recipients, data, sender
        self.answer = "unknown"  # until it is known: a client that was killed never says

    @property
    def is_acknowledged(self):
        return self.answer.startswith("250")

    @property
    def is_refused(self):
        return self.answer[0] in "45" or self.answer == "cut"

    @property
    def queue_id(self):
        found = QUEUED_AS.search(self.answer)
        return found and found[1]


class Load:
    """The benchmark's generator in the background; its messages are entered in the ledger when it is asked."""

    def __init__(self, ledger, first, messages, size, connections, rate, port, options):
        self.ledger, self.first, self.messages, self.size = ledger, first, messages, size
        self.path = ledger.where / f"load-{first}"
        self.path.touch()
        self.recipients = int(options.get("r", 1))
        command = [BUILD / "bench-load", "-b", first, "-n", messages, "-s", size, "-c", connections, "-l", self.path]
        if rate:
            command += ["-R", rate]
        for name, value in options.items():
            command += ["-" + name, value]
        self.process = subprocess.Popen(list(map(str, [*command, port])), stdout=subprocess.PIPE)

    def answers(self):
        lines = (line.partition(" ") for line in self.path.read_text(errors="replace").split("\n")[:-1])
        return {int(number): answer for number, _, answer in lines}

    def acknowledged(self):
        return sum(answer.startswith("250") for answer in self.answers().values())

    def wait_acknowledged(self, messages, seconds=60):
        wait_for(lambda: self.acknowledged() >= messages or self.process.poll() is not None, seconds, step=0.01,
                 why=lambda: f"{messages} acknowledged; {self.acknowledged()} are\n{self.ledger.relayd.log()[-4000:]}")
        return self

    def wait(self, seconds=120):
        self.process.communicate(timeout=seconds)
        self.enter()
        return self.acknowledged()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.communicate()
        self.enter()
        return self.acknowledged()

    def data_of(self, number):
        return (f"From: <sender@bench.example>\r\nTo: <r0.{number}@bench.example>\r\nSubject: bench {number}\r\n"
                "Date: Mon, 23 Nov 2026 10:00:00 +0000\r\n"
                f"Message-ID: <{number}.{self.process.pid}@bench.example>\r\n\r\n").encode() + self.filler()

    def filler(self):
        size = self.size - 200 if self.size > 250 else 50
        return self.ledger.fillers.setdefault(size, filler(size))

    def enter(self):
        answers = self.answers()
        for number in range(self.first, self.first + self.messages):
            entry = self.ledger.entries.get(number) or self.ledger.enter(
                Entry(number, [f"r{i}.{number}@bench.example" for i in range(self.recipients)], lambda n=number: self.data_of(n)))
            entry.answer = answers.get(number, "unknown")


class Ledger:
    def __init__(self, relayd, sink, where):
        self.relayd, self.sinks, self.where = relayd, [sink], where
        self.entries, self.loads, self.fillers = {}, [], {}
        self.next = 0
        self.figures = collections.Counter()

    # Clients.

    def enter(self, entry):
        self.entries[entry.number] = entry
        return entry

    def load(self, messages, size=2000, connections=20, rate=None, **options):
        """Starts the generator. options: its other flags (r=3 recipients, m=1 message per connection, w="step")."""
        load = Load(self, self.next, messages, size, connections, rate, self.relayd.port, options)
        self.next += messages
        self.loads.append(load)
        return load

    def new(self, recipients=1, body=b"text\r\n", sender="sender@bench.example", names=()):
        """A message to be sent by whatever client: its Entry, with the bytes in entry.data."""
        number, self.next = self.next, self.next + 1
        names = list(names) or [f"r{i}.{number}@bench.example" for i in range(recipients)]
        data = (f"From: <{sender or 'nobody@bench.example'}>\r\nTo: <{names[0]}>\r\nSubject: bench {number}\r\n"
                "Date: Mon, 23 Nov 2026 10:00:00 +0000\r\n"
                f"Message-ID: <{number}.ledger@bench.example>\r\n\r\n").encode() + body
        return self.enter(Entry(number, names, data, sender))

    def send(self, timeout=30, rcpt_options=(), **message):
        """One message by smtplib; gives its Entry, with the answer in it. Never raises for what a server does."""
        entry = self.new(**message)
        stage = "cut"
        try:
            with smtplib.SMTP("127.0.0.1", self.relayd.port, local_hostname="client.test", timeout=timeout) as smtp:
                smtp.ehlo_or_helo_if_needed()
                code, text = smtp.mail(entry.sender)
                for recipient in entry.recipients if code == 250 else ():
                    code, text = smtp.rcpt(recipient, list(rcpt_options))
                if code == 250:
                    stage = "unknown"
                    code, text = smtp.data(entry.data)
                entry.answer = f"{code} {text.decode(errors='replace')}"
        except smtplib.SMTPDataError as error:
            entry.answer = f"{error.smtp_code} {error.smtp_error!r}"
        except (OSError, smtplib.SMTPException):
            if not entry.is_acknowledged:
                entry.answer = stage
        return entry

    def stop(self):
        for load in self.loads:
            load.stop()

    # The upstream.

    def arrived(self):
        """(number, recipient) → how often; for messages that carry a number."""
        times = collections.Counter()
        for message in self.messages():
            if (found := NUMBER.search(message.data)) and message.sender:
                times.update((int(found[1]), recipient) for recipient in message.recipients)
        return times

    def messages(self):
        return [message for sink in self.sinks for message in list(sink.messages)]

    def settle(self, seconds=60):
        """L8: everything leaves the queue. Generators end first."""
        for load in self.loads:
            load.wait(seconds)
        self.relayd.wait_empty(seconds)
        return self

    # The comparison.

    def check(self, test, rows=(), exact=False, crashes=0, log_is_cut=False, **figures):
        """All of L1 to L7. Gives the figures and adds them to those of the run. log_is_cut: lines were left out."""
        self.stop()
        report = Report(self)
        report.compare(exact)
        if exact and not log_is_cut:
            report.log_is_whole()
        found = {**report.figures, "crashes_survived": crashes, **figures}
        count(test, rows, **found)
        print(f"{test}: " + ", ".join(f"{name} {value}" for name, value in found.items()), file=sys.stderr)
        return found


class Report:
    """What check() works with."""

    def __init__(self, ledger):
        self.ledger, relayd = ledger, ledger.relayd
        self.entries = ledger.entries
        self.arrived = ledger.arrived()
        self.queued = {m["id"]: [r["recipient"] for r in m["recipients"]] for m in relayd.queue()}
        self.events = collections.defaultdict(list)
        for event in relayd.events():
            self.events[event["event"]].append(event)
        self.ids = {}  # number → queue IDs: what the client was told, and what Received says
        for entry in self.entries.values():
            if entry.queue_id:
                self.ids.setdefault(entry.number, set()).add(entry.queue_id)
        for message in ledger.messages():
            if (found := NUMBER.search(message.data)) and (received := RECEIVED_ID.search(message.data)):
                self.ids.setdefault(int(found[1]), set()).add(received[1].decode())
        self.bounced = collections.Counter((e["queue_id"], e["recipient"]) for e in self.events["message.bounced"])
        self.told = self.failures_told()
        self.figures = {}

    def failures_told(self):
        """recipient → the DSNs that say that it failed, by their Message-ID: one may arrive twice, too."""
        told = collections.defaultdict(set)
        for message in self.ledger.messages():
            report = email.message_from_bytes(message.data) if message.sender == "" else None
            if report is None or report.get_param("report-type") != "delivery-status":
                continue
            for part in report.get_payload()[1].get_payload()[1:]:
                if part["Action"] == "failed":
                    told[part["Final-Recipient"].partition(";")[2].strip()].add(report["Message-ID"])
        return told

    def compare(self, exact):
        acknowledged = [e for e in self.entries.values() if e.is_acknowledged]
        lost = self.lost(acknowledged)
        self.nothing_else_arrives()
        self.bytes_are_the_same()
        duplicates, possible = self.repeats(exact)
        self.bounces_are_told()
        self.log_is_clean()
        self.figures = {
            "messages_acknowledged": len(acknowledged),
            "messages_refused": sum(e.is_refused for e in self.entries.values()),
            "answers_unknown": sum(e.answer == "unknown" for e in self.entries.values()),
            "delivered": sum(self.arrived.values()), "bounced": sum(map(bool, self.told.values())),
            "recovered": sum(e.answer == "unknown" and self.arrived[e.number, e.recipients[0]] > 0
                             for e in self.entries.values()),
            "lost": len(lost), "duplicates": duplicates, "possible_duplicates": possible,
        }
        assert not lost, f"L1: lost: {lost[:20]} of {len(lost)}\n{self.ledger.relayd.log()[-4000:]}"

    def lost(self, acknowledged):
        return [(entry.number, entry.queue_id, recipient) for entry in acknowledged for recipient in entry.recipients
                if not self.arrived[entry.number, recipient] and not self.bounced[entry.queue_id, recipient]
                and not self.told[recipient]  # the line of a bounce may have died with its process
                and recipient not in self.queued.get(entry.queue_id, ())]

    def nothing_else_arrives(self):
        for number, recipient in self.arrived:
            entry = self.entries.get(number)
            assert entry, f"L2: {number} arrived and nobody sent it"
            assert not entry.is_refused, f"L2: {number} arrived and was answered '{entry.answer}'"
            assert recipient in entry.recipients, f"L3: {number} arrived for {recipient}"

    def bytes_are_the_same(self):
        for message in self.ledger.messages():
            if (found := NUMBER.search(message.data)) and message.sender:
                entry = self.entries[int(found[1])]
                data = entry.data() if callable(entry.data) else entry.data
                assert content(message) == data, f"L3: {entry.number} arrived changed: {message.data[:300]}"
                assert message.sender == entry.sender, f"L3: {entry.number} arrived from {message.sender}"

    def repeats(self, exact):
        named = [e for e in self.events["message.repeated"] if "queue_id" in e]
        foretold = collections.Counter((e["queue_id"], e.get("recipient")) for e in named)
        bounds = [e for e in self.events["message.repeated"] if "queue_id" not in e]
        assert all(f"at most {e['messages']} message" in e["why"] for e in bounds), f"L4: a bound, and no count: {bounds}"
        unnamed = sum(e["messages"] for e in bounds)
        duplicates, unforetold = 0, []
        for (number, recipient), times in self.arrived.items():
            duplicates += times - 1
            ids = self.ids.get(number, ())
            known = sum(foretold[queue_id, recipient] + foretold[queue_id, None] for queue_id in ids)
            if times - 1 > known:
                unforetold.append((number, ids, recipient, times, known))
        possible = sum(foretold.values()) + unnamed
        assert len({number for number, *_ in unforetold}) <= unnamed, (
            f"L4: repeated without a word: {unforetold[:10]} of {len(unforetold)}; without names: {unnamed}")
        assert not exact or possible == duplicates, f"L4: {possible} possible repeats were told, there are {duplicates}"
        return duplicates, possible

    def bounces_are_told(self):
        foretold = collections.Counter(e.get("queue_id") for e in self.events["message.repeated"])
        for entry in self.entries.values():
            for recipient in entry.recipients if entry.sender else ():
                bounced = sum(self.bounced[queue_id, recipient] for queue_id in self.ids.get(entry.number, ()))
                told = len(self.told[recipient])
                again = sum(foretold[queue_id] for queue_id in self.ids.get(entry.number, ())) + foretold[None]
                assert min(bounced, 1) <= told <= 1 + again, f"L6: {recipient}: {bounced} bounces, {told} DSNs"

    def log_is_whole(self):
        """Where no process was killed each message has its line, and each recipient its end or its place in the queue."""
        accepted = {e["queue_id"] for e in self.events["message.accepted"]}
        ended = {(e["queue_id"], e["recipient"]) for name in ENDS for e in self.events[name] if "recipient" in e}
        for entry in filter(lambda entry: entry.queue_id, self.entries.values()):  # sendmail(1) tells none
            assert entry.queue_id in accepted, f"L7: {entry.number} ({entry.answer}) has no line"
            for recipient in entry.recipients:
                assert (entry.queue_id, recipient) in ended or recipient in self.queued.get(entry.queue_id, ()), (
                    f"L7: {entry.queue_id} has no end for {recipient}")

    def log_is_clean(self):
        ends = collections.Counter((e["queue_id"], e["recipient"]) for name in ENDS for e in self.events[name]
                                   if "recipient" in e)
        twice = [key for key, times in ends.items() if times > 1]
        assert not twice, f"L7: ended twice: {twice[:10]}"
        accepted = collections.Counter(e["queue_id"] for e in self.events["message.accepted"])
        assert not [key for key, times in accepted.items() if times > 1], "L7: accepted twice"
        log = self.ledger.relayd.log()
        assert PASSWORD not in log, "L7: a password in the log"
        bad = [line for line in log.splitlines() if not line.isprintable()]
        assert not bad, f"L7: not printable: {bad[:3]}"
