"""What is measured beside time: processor, memory, system calls, the disk. A row of `with` for each."""

import os
import pathlib
import signal
import subprocess
import threading
import time

from tools import cpu_seconds, pss_bytes

CALLS = {"raw_syscalls:sys_enter": "calls", "syscalls:sys_enter_fsync": "syncs", "syscalls:sys_enter_fdatasync": "syncs",
         "syscalls:sys_enter_sync_file_range": "syncs", "syscalls:sys_enter_sync": "syncs"}
MIB = 1048576


class Cpu:
    """Seconds of user and system time of all a peer's processes, the dead ones included."""

    def __init__(self, peer):
        self.peer, self.seconds = peer, 0

    def __enter__(self):
        self.before = cpu_seconds(self.peer.processes())
        return self

    def __exit__(self, *_):
        self.seconds = cpu_seconds(self.peer.processes()) - self.before


def memory(peer):
    """PSS of all its processes. One may end while we look."""
    total = 0
    for pid in peer.pids():
        try:
            total += pss_bytes([pid])
        except OSError:
            pass
    return total


def field(pid, name):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


class Peak(threading.Thread):
    """How far memory rose above what it was: the PSS that was seen, or what the processes say their own peaks were."""

    def __init__(self, peer):
        super().__init__(daemon=True)
        self.peer, self.over, self.bytes = peer, threading.Event(), 0

    def __enter__(self):
        self.before = self.most = memory(self.peer)
        self.resident = {}
        for pid in self.peer.pids():
            pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5\n", encoding="ascii")  # the peak begins anew
            self.resident[pid] = field(pid, "VmRSS")
        self.start()
        return self

    def run(self):
        while not self.over.wait(0.002):
            self.most = max(self.most, memory(self.peer))

    def __exit__(self, *_):
        self.over.set()
        self.join()
        grown = 0
        for pid, resident in self.resident.items():
            try:
                grown += field(pid, "VmHWM") - resident
            except OSError:
                pass
        self.bytes = max(self.most - self.before, grown)


class Calls:
    """System calls and syncs of all a peer's processes and of those they start, by the kernel's tracepoints."""

    def __init__(self, peer, scratch):
        self.pids, self.path, self.found = ",".join(map(str, peer.pids())), scratch / "calls", {}

    def __enter__(self):
        self.perf = subprocess.Popen(["perf", "stat", "-x", ",", "-o", self.path, "-e", ",".join(CALLS), "-p", self.pids],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)  # it has attached itself
        return self

    def __exit__(self, *_):
        self.perf.send_signal(signal.SIGINT)
        self.perf.wait(20)
        self.found = {"calls": 0, "syncs": 0}
        for line in self.path.read_text(encoding="ascii").splitlines():
            value, _, name, *_ = line.split(",") + [""] * 3
            if name in CALLS:
                if not value.isdigit():
                    raise RuntimeError(f"perf cannot count: {line}")
                self.found[CALLS[name]] += int(value)


BLOCK = 4096


def disk(directory, seconds):
    """How often a second it makes 4 KiB durable, in a zeroed log, 20 times at once there, and as a file of its own."""
    took, shared = syncs(directory, 1, seconds), syncs(directory, 20, seconds)
    seldom = syncs(directory, 1, 3 * seconds, pause=0.1)  # a disk that was idle answers later: see (c)
    return {("disk", "syncs/s in a log"): len(took) / sum(took),
            ("disk", "sync in a log, 10/s, p50 ms"): seldom[len(seldom) // 2] * 1000,
            ("disk", "sync in a log, 10/s, p99 ms"): seldom[int(len(seldom) * 0.99)] * 1000,
            ("disk", "messages/s, 20 to a sync"): 20 * len(shared) / sum(shared),
            ("disk", "files/s, synced"): files_a_second(directory, os.urandom(BLOCK), seconds)}


def syncs(directory, blocks, seconds, pause=0):
    """How long each write and sync of so many blocks took, in seconds, sorted."""
    block, size = os.urandom(BLOCK * blocks), BLOCK * 20 * 200
    log = os.open(directory / "disk.log", os.O_CREAT | os.O_WRONLY, 0o600)
    os.pwrite(log, bytes(size), 0)
    os.fsync(log)
    took, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(pause)
        begin = time.monotonic()
        os.pwrite(log, block, len(took) * len(block) % size)
        os.fdatasync(log)
        took.append(time.monotonic() - begin)
    os.close(log)
    return sorted(took)


def files_a_second(directory, block, seconds):
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    count, begin = 0, time.monotonic()
    while time.monotonic() - begin < seconds:
        file = os.open(f"disk.{count}", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=parent)
        os.write(file, block)
        os.fsync(file)
        os.close(file)
        os.fsync(parent)
        count += 1
    rate = count / (time.monotonic() - begin)
    for number in range(count):
        os.unlink(f"disk.{number}", dir_fd=parent)
    os.close(parent)
    return rate
