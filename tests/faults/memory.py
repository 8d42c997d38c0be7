"""memory.c from the test's side: which allocation of which programs fails."""

import mmap
import pathlib
import struct
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
# "all" is without libseccomp: where its memory fails it may load a filter that forbids everything, and say nothing.
OWNERS = {"program": "relayd libevent libssl libcrypto", "libc": "libc.so", "all": "relayd libevent libc.so"}


class Memory:
    """The allocations of whoever has its environment."""

    def __init__(self, where, owner, has_loop=True):
        self.library, path = where / "memory.so", where / "memory"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", self.library, HERE / "memory.c", "-ldl"], check=True)
        path.write_bytes(bytes(32))
        self.environment = {"LD_PRELOAD": str(self.library), "MEMORY": str(path), "MEMORY_OF": OWNERS.get(owner, owner)}
        if has_loop:
            self.environment["MEMORY_LOOP"] = "1"
        with open(path, "r+b") as file:
            self.shared = mmap.mmap(file.fileno(), 32)

    def fail(self, nth, sticky=False):
        """The N-th from now. 0: none any more."""
        self.shared[8:32] = struct.pack("qqq", sticky, 0, 0)
        self.shared[:8] = struct.pack("q", nth)

    @property
    def calls(self):
        return struct.unpack("qq", self.shared[16:32])[0]

    @property
    def failed(self):
        return struct.unpack("qq", self.shared[16:32])[1]
