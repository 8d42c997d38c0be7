#!/usr/bin/env python3
"""Takes one safety of the spool away at a time, in a scratch copy, and shows which test turns red.

A row that stays green is a missing test. Run from a configured build tree:
    tests/mutation/spool.py [BUILD-DIRECTORY] [word in the row's name ...]
"""
import os
import shutil
import subprocess
import sys
import tempfile

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TESTS = ["writer", "damage", "journal", "golden", "faults", "power"]
LAYER = {"faults": "tests/unit/os_fault.c", "power": "tests/unit/os_power.c"}

# name, file in src/spool, what stands there, what stands there instead
ROWS = [
    ("sync of a group", "writer.c", "g->error = os_fdatasync(f->fd);", "g->error = 0;"),
    ("sync of the directory after a new segment", "segment.c",
     "r = os_fsync(dirfd); /* the name is data too (F2) */", "r = 0;"),
    ("sync of a new segment", "segment.c", "return r < 0 ? r : os_fsync(fd);", "return r;"),
    ("sync of a large body", "large.c", "r = os_fsync(l->fd);", "r = 0;"),
    ("sync of large/", "large.c", "r = os_fsync(fd); /* the name is data too */", "r = 0;"),
    ("sync of the directory after freeing", "store.c",
     "r = os_fsync(s->dirfd); /* before", "r = 0; /* before"),
    ("sync before recovery", "segment.c", "synced = os_fsync(fd);", "synced = 0;"),
    ("cache dropped before recovery", "segment.c", "os_drop_cache(fd);", ""),
    ("short writes go on", "writer.c", "g->offset += (uint64_t)written;",
     "g->offset += (uint64_t)written; return;"),
    ("a failed file is closed for good", "writer.c",
     "\tfile_seal(w, &w->current);\n\tif (!take_spare(w)) {",
     "\tif (!file_is_open(&w->current) && !take_spare(w)) {"),
    ("a REVOKE is honoured", "store.c",
     "if (v->segment == segment && v->first_seq <= seq && seq <= v->last_seq)", "if (0)"),
    ("what holds a REVOKE stays", "store.c", "if (is_needed(s, number)) {", "if (0) {"),
    ("checksum of payloads", "record.c",
     "return checksum(payload, h->payload_bytes, seed) == record_get_u64(end);", "return true;"),
    ("checksum of headers", "record.c",
     "if (checksum(in, 24, salt.header) != got.checksum)", "if (0)"),
    ("seq only grows", "reader.c", "&& h->seq > r->last_seq &&", "&&"),
    ("checksum of large bodies", "store.c",
     "checksum_stream_value(b->sum) != b->checksum_wanted", "0"),
    ("a new salt for a recycled file", "segment.c",
     "r = os_random(h->salt, sizeof(h->salt));", "r = 0;"),
    ("what is done stays done", "catalog.c",
     "if (p->index != NULL && journal_index_is_done(p->index, entry->id)) {", "if (0) {"),
    ("a locked large body is not swept", "catalog.c", "if (os_is_locked(fd) == 0) {", "if (1) {"),
    ("damaged bytes are set aside", "catalog.c",
     "if (damage->range == SPOOL_RANGE_CORRUPT && p->options->sweep &&", "if (0 &&"),
    ("no line ends in texts", "tlv.c", "return text.len == 0 ||", "return true ||"),
    ("the last records of a compaction", "journal_index.c",
     "r = write(arg, RECORD_OUTCOME, NULL, 0);", "r = 0;"),
    ("compaction keeps what is done", "journal_index.c", "\tr = journal_index_get(c->index, id, &o);",
     "\tif (done)\n\t\treturn 0;\n\tr = journal_index_get(c->index, id, &o);"),
]


class Scratch:
    def __init__(self, build):
        self.path = tempfile.mkdtemp(
            prefix="relayd-mutation-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        for part in ("src", "tests/unit"):
            shutil.copytree(os.path.join(SOURCE, part), os.path.join(self.path, part))
        shutil.copy(os.path.join(build, "config.h"), self.path)
        self.units = ["src/spool/" + f for f in sorted(os.listdir(self.path + "/src/spool"))
                      if f.endswith(".c")] + ["src/base/base.c", "src/base/queue_id.c"]
        for unit in self.units + ["src/base/os.c"] + list(LAYER.values()):
            self.compile(unit)
        for test in TESTS:
            self.compile("tests/unit/test_spool_%s.c" % test)

    def compile(self, unit):
        subprocess.run(["cc", "-O1", "-w", "-include", "config.h", "-Isrc", "-Itests/unit", "-c",
                        "-o", unit[:-2] + ".o", unit], cwd=self.path, check=True)

    def is_green(self, test):
        units = self.units + [LAYER.get(test, "src/base/os.c"), "tests/unit/test_spool_%s.c" % test]
        subprocess.run(["cc", "-o", "t"] + [u[:-2] + ".o" for u in units]
                       + ["-lcmocka", "-lpthread"], cwd=self.path, check=True)
        try:
            return subprocess.run(["./t"], cwd=self.path, env=dict(os.environ, srcdir=".", TMPDIR=self.path),
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  timeout=120).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def first_red(self):
        for test in TESTS:
            if not self.is_green(test):
                return "test_spool_" + test
        return None

    def mutate(self, row):
        _, name, old, new = row
        unit = "src/spool/" + name
        with open(os.path.join(self.path, unit)) as f:
            text = f.read()
        if text.count(old) != 1:
            return "does not apply: the source has changed"
        with open(os.path.join(self.path, unit), "w") as f:
            f.write(text.replace(old, new))
        self.compile(unit)
        red = self.first_red()
        with open(os.path.join(self.path, unit), "w") as f:
            f.write(text)
        self.compile(unit)
        return red


def main():
    build = sys.argv[1] if len(sys.argv) > 1 else "."
    words = sys.argv[2:]
    scratch = Scratch(build)
    missing = 0
    try:
        if not words and scratch.first_red():
            sys.exit("the tests are red before anything was taken away")
        for row in ROWS:
            if words and not any(word in row[0] for word in words):
                continue
            red = scratch.mutate(row)
            missing += red is None or not red.startswith("test_")
            print("%-45s %s" % (row[0], red or "NO TEST NOTICES"), flush=True)
    finally:
        shutil.rmtree(scratch.path)
    print("%d rows without a test" % missing)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
