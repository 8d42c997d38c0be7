"""A memory cgroup, in which the kernel kills who wants more than there is."""

import pathlib

from tools import wait_for

MEMORY = pathlib.Path("/sys/fs/cgroup/memory")  # version 1; version 2 has it all in one place
UNIFIED = pathlib.Path("/sys/fs/cgroup")


class Group:
    """A memory cgroup, of version 1 or 2."""

    def __init__(self, name):
        self.is_old = (MEMORY / "memory.limit_in_bytes").exists()
        self.path = (MEMORY if self.is_old else UNIFIED) / name
        self.path.mkdir()

    def take(self, pid, limit_bytes):
        (self.path / ("memory.limit_in_bytes" if self.is_old else "memory.max")).write_text(str(limit_bytes))
        (self.path / "cgroup.procs").write_text(str(pid))

    def leave(self):
        """Who is still in it goes up."""
        for pid in (self.path / "cgroup.procs").read_text().split():
            try:
                (self.path.parent / "cgroup.procs").write_text(pid)
            except ProcessLookupError:
                pass

    def remove(self):
        wait_for(lambda: not (self.path / "cgroup.procs").read_text(), 10, why="the cgroup to be empty")
        self.path.rmdir()
