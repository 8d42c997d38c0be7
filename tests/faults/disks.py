"""Real file systems that go wrong, for tests that run as root.

    disks.ext4(at)      an ext4 in a file: its power can be cut (cut()), it fills up, freezes, turns read-only
    disks.thin(at)      the same on a file with holes, on a tmpfs that can be filled: syncs fail for real, and then lie
    disks.tmpfs(at)     small

Everything is mounted in a mount namespace of the test process: what kills that process unmounts it all, and the loop
devices (autoclear) go with their mounts."""

import ctypes
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

from relayd import SERVICE_USER
from tools import wait_for

FS_IOC_SHUTDOWN = 0x8004587D
LOGFLUSH, NOLOGFLUSH = 1, 2  # what the journal holds reaches the disk, or does not
CLONE_NEWNS = 0x00020000
BLOCK = 4096


def run(*command, check=True):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stderr} {done.stdout}"
    return done


def limit(pid, name, soft, check=True):
    """A limit of a running process of relayd's user, whom root without CAP_SYS_RESOURCE may not touch either."""
    as_user = ["setpriv", f"--reuid={SERVICE_USER}", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
    run(*as_user, "prlimit", "--pid", pid, f"--{name}={soft}:", check=check)


class Namespace:
    """Mounts of this process and those it starts; nobody else sees them."""

    entered = False

    @classmethod
    def enter(cls):
        if cls.entered:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        run("mount", "--make-rprivate", "/")
        cls.entered = True


class Mount:
    """A mounted directory that belongs to relayd's user."""

    def __init__(self, at):
        self.at, self.mounted = pathlib.Path(at), False
        self.at.mkdir(exist_ok=True)

    def mount(self, *arguments):
        run("mount", *arguments, self.at)
        self.mounted = True
        return self

    def give_away(self):
        shutil.chown(self.at, SERVICE_USER)
        self.at.chmod(0o700)
        return self

    def remount(self, options):
        run("mount", "-o", "remount," + options, self.at)

    def umount(self):
        """Waits for the last descriptor: who was killed a moment ago may still have one."""
        if self.mounted:
            wait_for(lambda: run("umount", self.at, check=False).returncode == 0, 20, why=f"umount {self.at}")
            self.mounted = False

    def close(self):
        if self.mounted:
            run("umount", "-l", self.at, check=False)
            self.mounted = False

    def free_bytes(self):
        st = os.statvfs(self.at)
        return st.f_bavail * st.f_frsize

    def fill(self, leave=0, name="filler"):
        """Takes all the room but `leave` bytes, root's reserve too; gives the file."""
        path = self.at / name
        with open(path, "wb", buffering=0) as file:
            for piece in (1 << 20, BLOCK):
                try:
                    while self.free_bytes() >= leave + piece:
                        file.write(b"\xa5" * piece)
                except OSError:
                    pass
        return path

    def use_inodes(self, leave=0):
        """Makes empty files until there are no more inodes; gives their directory."""
        where = self.at / "files"
        where.mkdir()
        for i in range(max(0, os.statvfs(self.at).f_ffree - leave)):
            try:
                (where / str(i)).touch()
            except OSError:  # somebody else made files as well
                break
        return where


class Ext4(Mount):
    """ext4 in a file of `image`'s directory."""

    def __init__(self, at, image, mib=256, inodes=None, options="commit=300,errors=remount-ro"):
        super().__init__(at)
        self.image, self.options, self.frozen = pathlib.Path(image), options, False
        self.format(mib, inodes)
        self.again().give_away()

    def format(self, mib, inodes):
        with open(self.image, "wb") as file:
            file.truncate(mib << 20)
        # Nothing is left for the kernel to write later, nothing is kept for root: what fails is ours.
        run("mkfs.ext4", "-q", "-F", "-b", BLOCK, "-m", "0", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
            *(["-N", inodes] if inodes else []), self.image)

    def again(self):
        """Mounts it, as at the next boot: the journal is replayed."""
        return self.mount("-o", "loop," + self.options, self.image)

    def cut(self, flag=NOLOGFLUSH):
        """The power goes: what is not on the disk will never be. From now on each call fails with EIO."""
        fd = os.open(self.at, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, flag.to_bytes(4, "little"))
        finally:
            os.close(fd)

    def device(self):
        return run("findmnt", "-n", "-o", "SOURCE", self.at).stdout.strip()

    def turn_read_only(self):
        """As the kernel does when it meets an error in the file system."""
        name = pathlib.Path(self.device()).name
        (pathlib.Path("/sys/fs/ext4") / name / "trigger_fs_error").write_text("a test\n")

    def freeze(self):
        """Writes and syncs wait, until thaw()."""
        run("fsfreeze", "-f", self.at)
        self.frozen = True

    def thaw(self):
        run("fsfreeze", "-u", self.at)
        self.frozen = False

    def close(self):
        if self.frozen:
            self.thaw()
        super().close()

    def blocks_of(self, path):
        """Where a file stands on the disk: (first block, how many)."""
        extents = run("filefrag", "-v", "-e", path).stdout
        return [(int(physical), int(length)) for physical, length in
                re.findall(r"^ +\d+: +\d+\.\. +\d+: +(\d+)\.\. *\d+: +(\d+):", extents, re.M)]


class Thin(Ext4):
    """ext4 on a file with holes, on a tmpfs of its own. When that one is full, a block that was never written cannot
    be written: fsync says so once or twice, then 0, and reads show bytes that are not on the disk."""

    def __init__(self, at, image, below, mib=256, inodes=None):
        self.below = below
        super().__init__(at, image, mib, inodes)

    def hollow(self, path):
        """Takes away, below the file system, the blocks of a segment that hold the zeros which were written ahead:
        whoever writes there needs room that is not there any more."""
        os.sync()
        blocks = self.blocks_of(path)
        size = sum(length for _, length in blocks)
        used = -(-len(path.read_bytes()[:-BLOCK].rstrip(b"\0")) // BLOCK)
        seen = 0
        for first, length in blocks:
            begin, end = max(seen, used), min(seen + length, size - 1)
            if end > begin:
                run("fallocate", "-p", "-o", (first + begin - seen) * BLOCK, "-l", (end - begin) * BLOCK, self.image)
            seen += length

    def fill_below(self):
        """To the last page: the loop driver takes a write of which a part found room for a whole one."""
        self.below.fill()
        assert self.below.free_bytes() == 0

    def make_room_below(self):
        (self.below.at / "filler").unlink()

    def close(self):
        super().close()
        self.below.close()


class Disks:
    """What a test has mounted."""

    def __init__(self, own):
        Namespace.enter()
        self.where = pathlib.Path(tempfile.mkdtemp(prefix="relayd-disk.", dir="/dev/shm"))
        self.where.chmod(0o755)
        self.own, self.mounts = own, []

    def keep(self, mount):
        self.mounts.append(mount)
        return mount

    def image(self):
        return self.where / f"image-{len(self.mounts)}"

    def ext4(self, at, **options):
        return self.keep(Ext4(at, self.image(), **options))

    def thin(self, at, below_mib=128, mib=256, inodes=None):
        below = Mount(self.where / f"below-{len(self.mounts)}")
        below.mount("-t", "tmpfs", "-o", f"size={below_mib}m", "tmpfs")
        return self.keep(Thin(at, below.at / "image", below, mib, inodes))

    def tmpfs(self, at, size, inodes=None):
        options = f"size={size}" + (f",nr_inodes={inodes}" if inodes else "")
        return self.keep(Mount(at)).mount("-t", "tmpfs", "-o", options, "tmpfs").give_away()

    def close(self):
        for mount in reversed(self.mounts):
            mount.close()
        shutil.rmtree(self.where, ignore_errors=True)


@pytest.fixture
def disks(own):
    made = Disks(own)
    yield made
    made.close()
