"""The walls around the workers, tried from the inside of the running processes (tests/e2e/inside.c): what would
somebody reach who has taken one over? Every other test runs with RELAYD_SANDBOX=kill; here what is forbidden
fails with EPERM as in production, so that one worker answers all rows."""

import errno
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import time

import pytest

from relayd import Relayd
from sink import PASSWORD
from tools import SANITIZED, forbidden_calls, is_listening, system_calls, wait_for

BUILD = pathlib.Path(os.environ.get("RELAYD_BUILD", "."))
INSIDE = BUILD / "e2e-inside"
INTAKE, DELIVERY = "relayd-intake", "relayd-delivery"
BOTH = (INTAKE, DELIVERY)
NUMBERS = {name: number for number, name in system_calls().items()}
AT_FDCWD = -100
EPERM, EACCES, ENOSYS = -errno.EPERM, -errno.EACCES, -errno.ENOSYS
WORKS = "works"
PORTS_ARE_WALLED = 4  # Landlock's ABI

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="needs root: to look into a process"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="e2e-inside knows the registers of x86-64 only"),
    pytest.mark.skipif(SANITIZED, reason="AddressSanitizer needs what the sandbox forbids: its build is allowed more"),
]


def landlock_abi():
    """What this kernel offers: landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION)."""
    script = ("import ctypes; print(ctypes.CDLL(None).syscall("
              f"{NUMBERS['landlock_create_ruleset']}, None, 0, 1))")
    return int(subprocess.run(["/usr/bin/python3", "-c", script], capture_output=True, text=True, check=True).stdout)


def line_of(call, *arguments):
    words = [str(NUMBERS[call] if isinstance(call, str) else call)]
    for argument in arguments:
        if isinstance(argument, bytes):
            words.append("x:" + argument.hex())
        elif isinstance(argument, (str, os.PathLike)):
            words.append(f"s:{argument}")
        else:
            words.append(str(int(argument)))
    return " ".join(words) + "\n"


def inside_all(pid, calls):
    """What these system calls, (name or number, argument, ...), return in that process: numbers, or in the end
    ("killed", signal)."""
    done = subprocess.run([INSIDE, str(pid)], input="".join(line_of(*call) for call in calls), capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [line.split() for line in done.stdout.splitlines()]
    return [("killed", int(words[1])) if words[0] == "killed" else int(words[0]) for words in said]


def inside(pid, *call):
    return inside_all(pid, [call])[0]


def ipv4(port, address="127.0.0.1"):
    return struct.pack("<H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(address) + bytes(8)


def name_of(error):
    return errno.errorcode.get(-error, str(error)) if isinstance(error, int) and error < 0 else str(error)


class Captive:
    """One running worker, to be asked."""

    def __init__(self, relayd, program):
        self.relayd, self.program, self.pid = relayd, program, relayd.pid_of(program)

    def __call__(self, *call):
        return inside(self.pid, *call)

    def all(self, calls):
        answers = inside_all(self.pid, calls)
        assert len(answers) == len(calls), answers
        return answers

    def open(self, path, flags=os.O_RDONLY, mode=0o600):
        got = self("openat", AT_FDCWD, path, flags, mode)
        if isinstance(got, int) and got >= 0:
            self("close", got)
        return got

    def descriptors(self):
        found = {}
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                found[int(fd)] = os.readlink(f"/proc/{self.pid}/fd/{fd}")
            except FileNotFoundError:
                pass
        return found


def check(rows):
    """rows: (what, got, wanted); wanted is an error, several, or WORKS. Tells all that are wrong at once."""
    wrong = []
    for what, got, wanted in rows:
        good = isinstance(got, int) and got >= 0 if wanted == WORKS else got in (
            wanted if isinstance(wanted, tuple) else (wanted,))
        if not good:
            wrong.append(f"{what}: {name_of(got)}, not {wanted}")
    assert not wrong, "\n".join(wrong)
    return len(rows)


@pytest.fixture
def captives(relayd, sink, own):
    """Both workers of a relayd that delivers; afterwards the same processes must still do so."""
    relayd.sandbox = ""
    secrets = own / "secrets"
    secrets.mkdir()
    relayd.to_sink(sink, password_file=relayd.password_file(PASSWORD, name="../secrets/password"))
    relayd.start()
    workers = {program: Captive(relayd, program) for program in BOTH}
    yield workers
    relayd.send("after all that")
    wait_for(lambda: any(b"after.all.that" in m.data for m in sink.messages), why=relayd.log)
    assert {program: relayd.pid_of(program) for program in BOTH} == {p: c.pid for p, c in workers.items()}
    assert not relayd.events("sandbox.limited"), "the kernel lacks a part of the sandbox"


# What is told about a violation.

def violate(relayd, program):
    """One forbidden call in a worker that is killed for it. Gives its process id."""
    pid = relayd.pid_of(program)
    relayd.killed.add(pid)
    assert inside(pid, "memfd_create", "x", 0) == ("killed", signal.SIGSYS)
    wait_for(lambda: relayd.pid_of(program) not in (None, pid))
    relayd.wait_ready()
    return pid


@pytest.mark.parametrize("program", BOTH)
def test_a_violation_is_fatal_in_every_other_test(relayd, sink, program):
    """... and the log says that it was the sandbox, and where to find the call."""
    relayd.to_sink(sink).start()
    pid = violate(relayd, program)
    died = relayd.wait_event("worker.died", pid=pid)[0]
    assert died["worker"] == program and "signal 31 (Bad system call)" in died["why"]
    assert "sandbox" in died["why"] and f"type=1326 pid={pid}" in died["why"]
    relayd.send("after the restart")
    wait_for(lambda: sink.messages, why=relayd.log)


def test_the_kernel_names_what_was_forbidden(relayd, sink):
    """So that a test that goes red by a violation says which (conftest.py)."""
    if not subprocess.run(["dmesg"], capture_output=True, check=False).stdout:
        pytest.skip("the kernel's log is not shown here")
    relayd.to_sink(sink).start()
    told = []
    for _ in range(4):
        if told := forbidden_calls(violate(relayd, INTAKE)):
            break
        time.sleep(6)  # after many lines the kernel says no more for 5 s
    assert told == ["memfd_create"]


def test_calls_of_another_architecture_end_it(relayd, sink):
    """The x32 numbers of x86-64: a filter that looks at numbers only would not know them."""
    relayd.sandbox = ""
    relayd.to_sink(sink).start()
    pid = relayd.pid_of(INTAKE)
    relayd.killed.add(pid)
    assert inside(pid, 0x40000000 | NUMBERS["getpid"]) in (("killed", signal.SIGSYS), EPERM, ENOSYS)
    relayd.wait_ready()


# System calls.

# What a worker may call whatever the arguments (base/sandbox.c); read again here, so that a row that is added there
# has to be believed twice. Names of other machines and of older C libraries are not here.
ALLOWED = set("""
    epoll_wait epoll_pwait epoll_pwait2 epoll_ctl epoll_create epoll_create1 eventfd2 timerfd_create timerfd_settime
    poll ppoll clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time
    read readv pread64 preadv write writev pwrite64 pwritev close lseek pipe2
    accept accept4 recvfrom recvmsg getsockname getpeername
    open openat openat2 getdents64 stat lstat fstat newfstatat statx statfs fstatfs access faccessat faccessat2
    readlink readlinkat mkdir mkdirat unlink unlinkat rename renameat renameat2 linkat
    fsync fdatasync ftruncate fallocate fadvise64
    munmap mremap madvise brk futex set_robust_list rseq set_tid_address sched_yield sched_getaffinity membarrier
    gettid getpid getppid rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall exit exit_group
    getrandom uname sysinfo getrlimit getrusage getuid geteuid getgid getegid
""".split())
ALLOWED_TO_DELIVERY = {"connect", "mlock", "munlock"}
ONES = (-1,) * 6  # not among the arguments that let through what is allowed with some only


@pytest.mark.parametrize("program", BOTH)
def test_every_other_system_call_is_refused(captives, program):
    captive = captives[program]
    may = ALLOWED | (ALLOWED_TO_DELIVERY if program == DELIVERY else set())
    names = [name for name in sorted(NUMBERS) if name not in may]
    names += range(max(NUMBERS.values()) + 1, max(NUMBERS.values()) + 40)  # what this C library has no name for yet
    answers = captive.all([(name, *ONES) for name in names])
    assert check([(name, got, ENOSYS if name == "clone3" else EPERM) for name, got in zip(names, answers)]) > 250
    assert captive("getpid") == captive.pid


PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
PRIVATE = 0x22  # MAP_PRIVATE | MAP_ANONYMOUS
CLONE_THREAD, CLONE_NEWUSER, SIGCHLD = 0x10000, 0x10000000, 17
MSG_FASTOPEN = 0x20000000
F_SETOWN, F_SETSIG, F_SETLEASE, F_NOTIFY, F_ADD_SEALS = 8, 10, 1024, 1026, 1033
TIOCSTI, TIOCLINUX, SIOCGIFCONF = 0x5412, 0x541C, 0x8912
AF_NETLINK, AF_PACKET, AF_ALG, AF_VSOCK = 16, 17, 38, 40
IPPROTO_SCTP, IPPROTO_MPTCP = 132, 262
SO_BINDTODEVICE, SO_ATTACH_FILTER, SO_SNDBUF, TCP_ULP = 25, 26, 7, 31

# (who, call, arguments, answer): what the arguments decide. "other" and "relayd" are put in: process ids.
ROWS = [
    (BOTH, "execve", ("/bin/true", 0, 0), EPERM),
    (BOTH, "execveat", (AT_FDCWD, "/bin/true", 0, 0, 0), EPERM),
    (BOTH, "fork", (), EPERM),
    (BOTH, "vfork", (), EPERM),
    (BOTH, "clone", (SIGCHLD,), EPERM),
    (BOTH, "clone", (CLONE_NEWUSER | SIGCHLD,), EPERM),
    (BOTH, "clone", (CLONE_THREAD | CLONE_NEWUSER,), EPERM),
    (BOTH, "clone3", (struct.pack("<11Q", *[0] * 11), 88), ENOSYS),
    (BOTH, "unshare", (CLONE_NEWUSER,), EPERM),
    (BOTH, "mmap", (0, 4096, PROT_READ | PROT_EXEC, PRIVATE, -1, 0), EPERM),
    (BOTH, "mmap", (0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, PRIVATE, -1, 0), EPERM),
    (BOTH, "mmap", (0, 4096, PROT_READ | PROT_WRITE, PRIVATE, -1, 0), WORKS),
    (BOTH, "mprotect", (0, 4096, PROT_READ | PROT_EXEC), EPERM),
    (BOTH, "memfd_create", ("x", 0), EPERM),
    (BOTH, "kill", ("relayd", 0), EPERM),
    (BOTH, "kill", ("other", 0), EPERM),
    (BOTH, "tkill", ("other", 0), EPERM),
    (BOTH, "tgkill", ("other", "other", 0), EPERM),
    (BOTH, "tgkill", ("self", "self", 0), WORKS),
    (BOTH, "rt_sigqueueinfo", ("other", 0, bytes(128)), EPERM),
    (BOTH, "pidfd_open", ("other", 0), EPERM),
    (BOTH, "ptrace", (16, "other", 0, 0), EPERM),
    (BOTH, "process_vm_readv", ("relayd", bytes(16), 1, bytes(16), 1, 0), EPERM),
    (BOTH, "prlimit64", ("relayd", 7, 0, bytes(16)), EPERM),
    (BOTH, "prlimit64", (0, 7, 0, bytes(16)), WORKS),
    (BOTH, "prlimit64", (0, 4, bytes(16), 0), EPERM),
    (BOTH, "prctl", (4, 1), EPERM),  # PR_SET_DUMPABLE
    (BOTH, "fcntl", (0, F_SETOWN, "other"), EPERM),
    (BOTH, "fcntl", (0, F_SETSIG, signal.SIGKILL), EPERM),
    (BOTH, "fcntl", (0, F_SETLEASE, 0), EPERM),
    (BOTH, "fcntl", (0, F_NOTIFY, 1), EPERM),
    (BOTH, "fcntl", (0, F_ADD_SEALS, 0), EPERM),
    (BOTH, "fcntl", (0, 3), WORKS),  # F_GETFL
    (BOTH, "ioctl", (0, TIOCSTI, b"x"), EPERM),
    (BOTH, "ioctl", (0, TIOCLINUX, b"x"), EPERM),
    (BOTH, "ioctl", (0, SIOCGIFCONF, bytes(16)), EPERM),
    (BOTH, "setuid", (0,), EPERM),
    (BOTH, "setresuid", (0, 0, 0), EPERM),
    (BOTH, "setgroups", (0, 0), EPERM),
    (BOTH, "mount", ("none", "/mnt", "tmpfs", 0, 0), EPERM),
    (BOTH, "chroot", ("/tmp",), EPERM),
    (BOTH, "io_uring_setup", (8, bytes(120)), EPERM),
    (BOTH, "bpf", (0, bytes(64), 64), EPERM),
    (BOTH, "perf_event_open", (bytes(128), 0, -1, -1, 0), EPERM),
    (BOTH, "keyctl", (0, -3, 0), EPERM),
    (BOTH, "userfaultfd", (0,), EPERM),
    (BOTH, "symlinkat", ("/etc/passwd", AT_FDCWD, "x"), EPERM),
    (BOTH, "mknodat", (AT_FDCWD, "x", 0o10600, 0), EPERM),
    (BOTH, "socketpair", (1, 1, 0, bytes(8)), EPERM),
    (BOTH, "listen", ("listener", 1), EPERM),
    (BOTH, "bind", ("listener", ipv4(0), 16), EPERM),
    (BOTH, "setsockopt", ("listener", 1, SO_ATTACH_FILTER, bytes(16), 16), EPERM),
    (BOTH, "setsockopt", ("listener", 1, SO_BINDTODEVICE, b"lo\0", 3), EPERM),
    (BOTH, "setsockopt", ("listener", 1, SO_SNDBUF, bytes(4), 4), EPERM),
    (BOTH, "setsockopt", ("listener", 6, TCP_ULP, b"tls", 3), EPERM),
    (BOTH, "sendto", ("listener", b"x", 1, MSG_FASTOPEN, ipv4(9), 16), EPERM),
    (BOTH, "sendmsg", ("listener", bytes(56), MSG_FASTOPEN), EPERM),
    (BOTH, "shutdown", ("listener", socket.SHUT_RD), EPERM),
    (BOTH, "sendmmsg", ("listener", bytes(64), 1, 0), EPERM),
    (BOTH, "socket", (socket.AF_UNIX, socket.SOCK_STREAM, 0), EPERM),
    (BOTH, "socket", (socket.AF_UNIX, socket.SOCK_DGRAM, 0), EPERM),
    (BOTH, "socket", (AF_NETLINK, socket.SOCK_RAW, 0), EPERM),
    (BOTH, "socket", (AF_PACKET, socket.SOCK_RAW, 0), EPERM),
    (BOTH, "socket", (AF_ALG, 5, 0), EPERM),
    (BOTH, "socket", (AF_VSOCK, socket.SOCK_STREAM, 0), EPERM),
    (BOTH, "socket", (socket.AF_INET, socket.SOCK_RAW, 1), EPERM),
    (BOTH, "socket", (socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP), EPERM),
    (BOTH, "socket", (socket.AF_INET, socket.SOCK_STREAM, IPPROTO_SCTP), EPERM),
    ((INTAKE,), "socket", (socket.AF_INET, socket.SOCK_STREAM, 0), EPERM),
    ((INTAKE,), "socket", (socket.AF_INET6, socket.SOCK_DGRAM, 0), EPERM),
    ((INTAKE,), "connect", ("listener", ipv4(9), 16), EPERM),
]


@pytest.mark.parametrize("program", BOTH)
def test_arguments_decide(captives, program):
    captive, other = captives[program], captives[INTAKE if program == DELIVERY else DELIVERY]
    listener = min(fd for fd, link in captive.descriptors().items() if link.startswith("socket:") and fd >= 7)
    put_in = {"self": captive.pid, "other": other.pid, "relayd": captive.relayd.process.pid, "listener": listener}
    rows = [row[1:] for row in ROWS if program in row[0]]
    answers = captive.all([(call, *(put_in.get(a, a) if isinstance(a, str) else a for a in arguments))
                           for call, arguments, _ in rows])
    assert check([(f"{call}{arguments}", got, wanted) for (call, arguments, wanted), got in zip(rows, answers)]) > 50


def test_a_listener_can_neither_be_closed_for_all_nor_turned_into_a_connection(captives):
    """shutdown() would end it for relayd and every later worker too, and leave a socket that MSG_FASTOPEN connects."""
    captive = captives[INTAKE]
    for listener in [fd for fd, link in captive.descriptors().items() if fd >= 7 and link.startswith("socket:")][:2]:
        check([(f"shutdown({how})", captive("shutdown", listener, how), EPERM)
               for how in (socket.SHUT_RD, socket.SHUT_RDWR)])
    assert is_listening(captive.relayd.port)


def test_delivery_connects_to_its_upstreams_ports_only(captives, sink):
    if landlock_abi() < PORTS_ARE_WALLED:
        pytest.skip("Landlock of this kernel knows no ports (Linux 6.7 does)")
    captive = captives[DELIVERY]
    with socket.create_server(("127.0.0.1", 0)) as lure:
        rows = []
        for port, wanted in ((lure.getsockname()[1], EACCES), (sink.port, (0, -errno.EINPROGRESS))):
            fd = captive("socket", socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0)
            rows.append((f"connect to {port}", captive("connect", fd, ipv4(port), 16), wanted))
            captive("close", fd)
        check(rows)


# Files.

READ, WRITE, CREATE = os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def file_rows(relayd, program, neighbour, secrets, others):
    """(path, flags, answer) for this worker."""
    forbidden = (EACCES, EPERM)
    is_intake = program == INTAKE
    return [
        (relayd.spool, DIRECTORY, WORKS),
        (relayd.spool / "lock", READ, WORKS),
        (relayd.spool / "new", CREATE, WORKS),
        (relayd.spool / "large" / "new", CREATE, WORKS),
        (next(relayd.spool.glob("journal-*.log")), READ, WORKS),  # one directory: intake reaches it too
        (secrets / "password", READ, EACCES if is_intake else WORKS),
        (secrets / "password", WRITE, EACCES),
        (secrets / "new", CREATE, EACCES),
        (secrets, DIRECTORY, EACCES),
        (others, READ, EACCES),
        (others, WRITE, EACCES),
        (relayd.config, READ, EACCES),
        (relayd.log_path, WRITE, EACCES),
        ("/etc/passwd", READ, EACCES if is_intake else WORKS),  # /etc/resolv.conf is replaced by renaming
        ("/etc/passwd", WRITE, EACCES),
        ("/etc/shadow", READ, EACCES),
        ("/etc", DIRECTORY, EACCES),
        ("/etc/resolv.conf", READ, EACCES if is_intake else WORKS),
        ("/", DIRECTORY, EACCES),
        ("/tmp", DIRECTORY, EACCES),
        ("/tmp/relayd-sandbox-new", CREATE, EACCES),
        ("/dev/shm/relayd-sandbox-new", CREATE, EACCES),
        ("/var/log", DIRECTORY, EACCES),
        ("/home", DIRECTORY, EACCES),
        ("/root", DIRECTORY, EACCES),
        ("/usr/bin/env", READ, EACCES),
        ("/dev/kmsg", READ, forbidden),
        ("/dev/null", WRITE, EACCES),
        ("/run", DIRECTORY, EACCES),
        ("/sys/kernel", DIRECTORY, EACCES),
        ("/sys/fs/cgroup", DIRECTORY, WORKS if is_intake else EACCES),
        ("/proc", DIRECTORY, EACCES),
        (f"/proc/{relayd.process.pid}/cgroup", READ, WORKS if is_intake else EACCES),
        ("/proc/self/mem", WRITE, EACCES),
        ("/proc/self/environ", READ, EACCES),
        ("/proc/1/environ", READ, EACCES),
        ("/proc/sys/kernel/core_pattern", WRITE, EACCES),
    ] + [(f"/proc/{pid}/{what}", READ, EACCES) for pid in (relayd.process.pid, neighbour)
         for what in ("mem", "maps", "environ", "fd/3", "map_files")]


@pytest.mark.parametrize("program", BOTH)
def test_it_opens_what_it_needs_and_nothing_else(captives, own, program):
    captive, relayd = captives[program], captives[program].relayd
    others = own / "others"  # of the same user, readable for everybody: only the sandbox is in the way
    others.write_text("x")
    others.chmod(0o666)
    os.chmod(own / "secrets", 0o777)
    relayd.send("something for the journal")
    wait_for(lambda: list(relayd.spool.glob("journal-*.log")))
    neighbour = captives[INTAKE if program == DELIVERY else DELIVERY].pid
    rows = file_rows(relayd, program, neighbour, own / "secrets", others)
    assert check([(f"{program}: {path}, flags {flags:#x}", captive.open(path, flags), wanted)
                  for path, flags, wanted in rows]) > 40
    check([
        ("out of the spool", captive("renameat", AT_FDCWD, relayd.spool / "new", AT_FDCWD, own / "new"),
         (EACCES, -errno.EXDEV)),
        ("a second name outside", captive("linkat", AT_FDCWD, relayd.spool / "new", AT_FDCWD, own / "new", 0),
         (EACCES, -errno.EXDEV)),
        ("remove outside", captive("unlinkat", AT_FDCWD, others, 0), EACCES),
        ("directory outside", captive("mkdirat", AT_FDCWD, own / "secrets" / "d", 0o700), EACCES),
        ("up and out", captive.open(relayd.spool / ".." / ".." / "others"), EACCES),
        ("remove in the spool", captive("unlinkat", AT_FDCWD, relayd.spool / "new", 0), WORKS),
        ("remove in large/", captive("unlinkat", AT_FDCWD, relayd.spool / "large" / "new", 0), WORKS),
    ])
    assert others.exists() and not (own / "new").exists()
    assert not pathlib.Path("/tmp/relayd-sandbox-new").exists()


def test_without_the_sandbox_the_same_tries_succeed(programs, own, sink):
    """So it is the sandbox that says no in the tests above."""
    relayd = Relayd(programs, own / "relayd", sandbox="off").to_sink(sink).start()
    try:
        captive = Captive(relayd, INTAKE)
        fd = captive("socket", socket.AF_INET, socket.SOCK_STREAM, 0)
        check([
            ("socket", fd, WORKS),
            ("connect", captive("connect", fd, ipv4(sink.port), 16), WORKS),
            ("/etc/passwd", captive.open("/etc/passwd"), WORKS),
            ("/", captive.open("/", DIRECTORY), WORKS),
            ("kill", captive("kill", relayd.pid_of(DELIVERY), 0), WORKS),
            ("mmap", captive("mmap", 0, 4096, PROT_READ | PROT_EXEC, PRIVATE, -1, 0), WORKS),
            ("fcntl", captive("fcntl", fd, F_SETOWN, relayd.pid_of(DELIVERY)), WORKS),
            ("memfd_create", captive("memfd_create", "x", 0), WORKS),
        ])
        assert len(relayd.wait_event("sandbox.limited", count=2)) == 2
    finally:
        assert relayd.stop() == 0


# What a process shows, and holds.

def test_every_thread_is_in_the_sandbox(captives):
    for captive in captives.values():
        for thread in pathlib.Path(f"/proc/{captive.pid}/task").iterdir():
            status = (thread / "status").read_text(encoding="ascii")
            assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status, status
            assert re.search(r"CapEff:\t0{16}", status) and re.search(r"CapBnd:\t\w+", status)


def test_nobody_looks_into_them(captives):
    """I10: not the other processes of the same user, and no core holds a secret."""
    relayd = captives[INTAKE].relayd
    relayd.send("uses the password")
    wait_for(lambda: not relayd.queue())
    for pid in (relayd.process.pid, *(captive.pid for captive in captives.values())):
        proc = pathlib.Path(f"/proc/{pid}")
        assert "Max core file size        0                    0" in (proc / "limits").read_text(encoding="ascii")
        for name in ("cmdline", "environ"):
            assert PASSWORD.encode() not in (proc / name).read_bytes()
        assert (proc / "mem").stat().st_uid == 0, "dumpable"
        for name in ("mem", "maps", "environ", "auxv", "stack"):
            said = subprocess.run(["head", "-c", "1", proc / name], user=relayd.user or None, capture_output=True,
                                  text=True, check=False)
            assert said.returncode != 0, f"{proc / name}: {said.stdout}"
    assert PASSWORD not in relayd.log()


def test_secrets_are_not_swapped(captives):
    status = pathlib.Path(f"/proc/{captives[DELIVERY].pid}/status").read_text(encoding="ascii")
    assert int(re.search(r"VmLck:\s+(\d+)", status).group(1)) >= 16
    assert "VmLck:\t       0 kB" in pathlib.Path(f"/proc/{captives[INTAKE].pid}/status").read_text(encoding="ascii")


KEPT = {"PATH", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY", "SSL_CERT_FILE", "SSL_CERT_DIR", "TZ", "ASAN_OPTIONS",
        "UBSAN_OPTIONS", "LSAN_OPTIONS", "RELAYD_SANDBOX"}


def test_environment_and_descriptors_are_its_own(captives):
    relayd = captives[INTAKE].relayd
    relayd.send("opens what it needs")
    wait_for(lambda: not relayd.queue())
    time.sleep(0.2)
    for captive in captives.values():
        environment = pathlib.Path(f"/proc/{captive.pid}/environ").read_bytes().split(b"\0")
        assert {line.partition(b"=")[0].decode() for line in environment if line} <= KEPT
        unexpected = [link for link in captive.descriptors().values() if not re.match(
            rf"(/dev/null|{re.escape(str(relayd.log_path))}|socket:|anon_inode:|/memfd:|pipe:|"
            rf"{re.escape(str(relayd.spool))}(/|$))", link)]
        assert not unexpected, (captive.program, unexpected)


def test_certificates_named_by_the_environment_can_be_read(relayd, sink, own, monkeypatch):
    """SSL_CERT_FILE may stand anywhere, and be a link to somewhere else."""
    (own / "real").mkdir()
    (own / "named").mkdir()
    (own / "real" / "ca.pem").write_bytes(pathlib.Path(sink.authority.ca).read_bytes())
    (own / "named" / "ca.pem").symlink_to(own / "real" / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(own / "named" / "ca.pem"))
    relayd.to_sink(sink, tls_ca=None)
    del relayd.settings['upstream "up"']["tls_ca"]
    relayd.start()
    relayd.send("verified")
    wait_for(lambda: sink.messages, why=relayd.log)


def test_a_secret_that_is_a_link_is_read_and_changes(relayd, make_sink, own):
    """As Kubernetes keeps them: the name leads into another directory."""
    for name in ("one", "two"):
        (own / name).mkdir()
    sink = make_sink()
    real = relayd.password_file(PASSWORD, name="../one/password")
    link = own / "two" / "password"
    link.symlink_to(real)
    relayd.to_sink(sink, password_file=link).start()
    relayd.send("by a link")
    wait_for(lambda: sink.messages, why=relayd.log)
