"""The benchmark's own ends: the generator, the sink, and the way between that makes the sink far."""

import json
import socket
import subprocess
import threading
import time

from peers.peer import LOGIN
from tools import wait_for

MANY = 10_000_000


class Broken(Exception):
    """Mail was lost, doubled or not taken: the run counts for nothing."""


class End:
    """A program that says "port N" and lives as long as its standard input."""

    def __init__(self, *command):
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.port = int(self.process.stdout.readline().split()[1])

    def stop(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait(10)


class Sink(End):
    def __init__(self, bench, tls=True, chunking=True, port=0):
        command = [bench.programs / "bench-sink", "-p", port]
        if tls:
            command += ["-t", "starttls", "-k", bench.pem, "-a", ":".join(LOGIN)]
        super().__init__(*command, *([] if chunking else ["-C"]))
        self.numbers = 0

    def ask(self, *question):
        self.process.stdin.write(" ".join(map(str, question)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def of(self, load, path=""):
        return self.ask(load["first"], load["begun"], path)

    def settled(self, load, seconds=60):
        """Waits until all that was accepted has arrived, once; gives what the sink says about it."""
        try:
            wait_for(lambda: self.of(load)["distinct"] >= load["accepted"], seconds, step=0.02)
        except AssertionError:
            raise Broken(f"{load['accepted']} accepted, {self.of(load)['distinct']} arrived within {seconds} s") from None
        return self.ledger(load)

    def ledger(self, load, most_missing=0):
        found = self.of(load)
        missing = load["accepted"] - found["distinct"]
        if missing > most_missing or found["distinct"] > load["accepted"] + load["lost"]:
            raise Broken(f"{load['accepted']} accepted, {load['lost']} without an answer, {found['distinct']} arrived")
        if found["doubled"]:
            raise Broken(f"{found['doubled']} of {found['distinct']} arrived more than once")
        return found


class Far(End):
    def __init__(self, bench, port, milliseconds=50):
        super().__init__(bench.programs / "bench-far", "-d", milliseconds, port)


class Knock(threading.Thread):
    """Stands at the upstream's door, and notes when somebody tries it first."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.door = socket.create_server(("127.0.0.1", port))
        self.first = None
        self.start()

    def run(self):
        while True:
            try:
                visitor, _ = self.door.accept()
            except OSError:
                return
            self.first = self.first or time.monotonic()
            visitor.close()

    def stop(self):
        self.door.shutdown(socket.SHUT_RDWR)
        self.door.close()
        self.join()


class Load:
    """The generator, running. Its messages have numbers of their own at this sink (or peer: `where`)."""

    def __init__(self, bench, port, where, messages=MANY, size=4096, connections=20, kept=True, seconds=None, rate=None,
                 options=(), user=None):
        self.first = where.numbers
        command = [bench.programs / "bench-load", "-b", self.first, "-n", messages, "-s", size, "-c", connections]
        command += ([] if kept else ["-m", 1]) + (["-d", seconds] if seconds else []) + (["-R", rate] if rate else [])
        self.process = subprocess.Popen(list(map(str, [*command, *options, port])), stdout=subprocess.PIPE, text=True,
                                        user=user)
        self.where = where

    def done(self, seconds=120):
        try:
            out, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise Broken(f"no answer to all messages within {seconds} s") from None
        found = {**json.loads(out), "first": self.first}
        self.where.numbers = self.first + found["begun"]
        if found["accepted"] == 0:
            raise Broken(f"nothing was accepted: {found}")
        return found


def load(*arguments, **options):
    return Load(*arguments, **options).done()


def times(path):
    """number → the times in a file of the generator or the sink."""
    rows = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {int(number): [float(value) for value in values] for number, *values in rows}
