"""What a compared daemon can be asked for, whichever it is."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import textwrap

from tools import children, command_name, free_port, wait_for

PEERS_DIRECTORY = pathlib.Path(os.environ.get("RELAYD_PEERS", "/var/cache/relayd-peers"))
LOGIN = ("bench", "secret-of-the-bench")
MOST_MESSAGE = 100 << 20


def greets(port):
    """Whoever opened the port may not be there yet who answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
            return client.recv(3) == b"220"
    except OSError:
        return False


class Upstream:
    """Where a peer relays to: verified STARTTLS and LOGIN, or plain; over so many connections at once."""

    def __init__(self, port, authority=None, connections=20):
        self.port, self.authority, self.connections = port, authority, connections

    @property
    def tls(self):
        return self.authority is not None


class Peer:
    """One daemon in a directory of its own. configure() writes, command is what runs it."""

    name, most_rounds = "?", 5
    expected = 400  # messages relayed in a second, roughly: what a measurement sends depends on it
    start_seconds = 30

    def __init__(self, where, upstream, bench):
        self.where, self.upstream, self.bench, self.port = where, upstream, bench, free_port()
        where.mkdir(parents=True)
        where.chmod(0o755)
        self.nest = None
        self.numbers = 0  # of the messages it was given while there was no sink
        self.configure()

    def configure(self):
        raise NotImplementedError

    def command(self):
        raise NotImplementedError

    def terminate(self):
        """Asks it to stop, as its operator would."""
        for pid in children(self.nest.pid)[:1]:
            os.kill(pid, signal.SIGTERM)

    def flush(self):
        """The operator says: everything, now. Gives the command."""
        raise NotImplementedError

    def listing(self):
        """The command that lists the queue."""
        raise NotImplementedError

    # The same for all of them.

    def start(self, wait=True):
        with open(self.where / "output", "ab") as output:
            self.nest = subprocess.Popen(list(map(str, [self.bench.programs / "bench-nest", *self.command()])),
                                         stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        wait_for(self.is_ready, self.start_seconds, step=0.005, why=self.output)

    def is_ready(self):
        assert self.nest.poll() is None, self.output()
        return greets(self.port)

    def output(self):
        texts = [path.read_text(encoding="utf-8", errors="replace")[-1500:]
                 for path in (self.where / "output", *self.where.glob("log*")) if path.is_file()]
        return f"{self.name} said: {' '.join(texts)}"

    def pids(self):
        """All its processes, the nest not among them."""
        return children(self.nest.pid)

    def processes(self):
        """And the nest, which has collected the processor time of those that ended."""
        return [self.nest.pid, *self.pids()]

    def run(self, command, check=True):
        """One of its tools."""
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=check, timeout=300)

    def stop(self):
        if not self.nest:
            return
        if self.nest.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.terminate()
        try:
            self.nest.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        self.nest = None

    def kill(self):
        for _ in range(100):
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                self.nest.wait(0.1)
                return
            except subprocess.TimeoutExpired:
                pass
        raise RuntimeError(f"{self.name} cannot be killed: {[command_name(pid) for pid in self.pids()]}")

    def write(self, name, text, mode=0o644):
        path = self.where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        path.chmod(mode)
        return path

    def directory(self, name, user=None, mode=0o755):
        path = self.where / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        if user:
            shutil.chown(path, user, user)
        return path
