"""What every test here needs: waiting, free ports, certificates, a look at /proc."""

import importlib.machinery
import importlib.util
import itertools
import os
import pathlib
import random
import re
import socket
import subprocess
import time

TOP = pathlib.Path(__file__).resolve().parents[2]


def is_sanitized(program):
    """Its memory is not the program's own then, and it needs calls that the sandbox forbids."""
    return program.exists() and b"__asan_init" in program.read_bytes()


SANITIZED = is_sanitized(pathlib.Path(os.environ.get("RELAYD_BUILD", ".")) / "relayd-intake")


def load_demo_provider():
    """contrib/demo-provider is a script for people; here it is a module."""
    path = str(TOP / "contrib" / "demo-provider")
    loader = importlib.machinery.SourceFileLoader("demo_provider", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("demo_provider", loader))
    loader.exec_module(module)
    return module


demo_provider = load_demo_provider()


def wait_for(what, seconds=15, step=0.02, why=None):
    """Gives the first true value of what(), or fails."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        if time.monotonic() > deadline:
            if callable(why):
                why = why()
            raise AssertionError(f"not within {seconds} s: {why or what.__name__}")
        time.sleep(step)
    return value


# Below those that the kernel hands out (32768 and up), and a range for each worker of a parallel run: what is
# free now is still free when the test takes it.
PORTS_EACH = 2000
first_port = 10000 + PORTS_EACH * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 10)
ports = itertools.cycle(range(first_port, first_port + PORTS_EACH))
for _ in range(random.randrange(PORTS_EACH)):  # two runs on one machine
    next(ports)


def free_port():
    """A port on 127.0.0.1 that nobody listens on and that this run gave to nobody else."""
    while True:
        port = next(ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def is_listening(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """A certificate authority of one test run, and the certificates that go wrong."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.made = {}

    @property
    def ca(self):
        self.issue("good")
        return self.directory / "good" / "ca.pem"

    def issue(self, kind):
        """Gives (certificate, key); kind: good, wrong-name, expired or stranger (of another authority)."""
        if kind not in self.made:
            own = self.directory / kind
            own.mkdir(exist_ok=True)
            if kind in ("wrong-name", "expired"):
                for name in ("ca.pem", "ca.key"):
                    (own / name).write_bytes((self.ca.parent / name).read_bytes())
            names = ("mail.elsewhere.example",) if kind == "wrong-name" else ("localhost", "127.0.0.1", "::1")
            demo_provider.make_certificates(own, names)
            if kind == "expired":
                self.expire(own)
            for path in own.iterdir():  # relayd and its neighbours run as several users
                path.chmod(0o644)
            self.made[kind] = (own / "server.pem", own / "server.key")
        return self.made[kind]

    def context(self, kind="good"):
        return demo_provider.server_context(*map(str, self.issue(kind)))

    @staticmethod
    def expire(own):
        """`openssl x509` takes no dates before 3.4; `openssl ca` does."""
        (own / "index.txt").write_text("")
        (own / "ca.cnf").write_text(
            f"[ca]\ndefault_ca=d\n[d]\nnew_certs_dir={own}\ndatabase={own}/index.txt\nrand_serial=yes\n"
            "default_md=sha256\npolicy=p\nunique_subject=no\ncopy_extensions=copy\n[p]\ncommonName=supplied\n")
        openssl("req", "-new", "-key", own / "server.key", "-subj", "/CN=localhost",
                "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", own / "server.csr")
        openssl("ca", "-batch", "-notext", "-config", own / "ca.cnf", "-cert", own / "ca.pem",
                "-keyfile", own / "ca.key", "-in", own / "server.csr", "-out", own / "server.pem",
                "-startdate", "20200101000000Z", "-enddate", "20200201000000Z")


def system_calls():
    """The names of this machine's system calls, by number."""
    lines = subprocess.run(["cpp", "-dM", "-include", "sys/syscall.h", "/dev/null"], capture_output=True, text=True,
                           check=True).stdout.splitlines()
    words = [line.split() for line in lines if line.startswith("#define __NR_")]
    return {int(value): name[5:] for _, name, value in words if value.isdigit()}


def forbidden_calls(pid):
    """The system calls that a sandbox refused this process, as the kernel's log has them."""
    lines = subprocess.run(["dmesg"], capture_output=True, text=True, check=False).stdout.splitlines()
    found = [re.search(r" syscall=(\d+)", line) for line in lines if "type=1326" in line and f" pid={pid} " in line]
    names = system_calls() if found else {}
    return [names.get(int(number.group(1)), number.group(1)) for number in found if number]


def pss_bytes(pids):
    """Proportional set size of the processes together."""
    total = 0
    for pid in pids:
        rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        total += sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


def children(pid):
    """Process ids below pid, pid excluded."""
    tree = {}
    for name in filter(str.isdigit, os.listdir("/proc")):  # glob() fails on a process that ends meanwhile
        try:
            stat = pathlib.Path("/proc", name, "stat").read_text(encoding="latin-1")
            parent = int(stat.rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        tree.setdefault(parent, []).append(int(name))
    found, todo = [], [pid]
    while todo:
        below = tree.get(todo.pop(), [])
        found += below
        todo += below
    return found


def command_name(pid):
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)")
    except OSError:
        return ""


def cpu_seconds(pids):
    """User and system time of the processes and of those children of theirs that have ended."""
    ticks = 0
    for pid in pids:
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")
