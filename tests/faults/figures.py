#!/usr/bin/python3
"""What the tests have counted. A test adds a line to the file that $RELAYD_FIGURES names:

    from figures import count
    count("test_disk", rows=[5, 6], sync_errors_injected=12, lost=0)

Run as a program it adds the lines up: figures.py FILE; and writes those of each row into the table of faults:
figures.py FILE --page FAULTS."""

import collections
import datetime
import json
import os
import re
import sys

# In this order at the end of a run. C programs write the same names: tests/unit/figures.h. A strange file of the spool
# is one that is missing, another one's, none at all, or of another version.
NAMES = ("messages_acknowledged", "messages_refused", "answers_unknown", "crashes_survived", "sync_errors_injected",
         "write_errors_injected", "other_errors_injected", "power_cuts", "torn_writes", "corrupt_images",
         "strange_files", "hostile_dialogues", "upstream_misdeeds", "delivered", "bounced", "recovered", "lost",
         "duplicates", "possible_duplicates")


def count(test, rows=(), **figures):
    """Adds to the figures of this run. rows: of the fault matrix (see FAULTS)."""
    unknown = set(figures) - set(NAMES)
    assert not unknown, f"no such figure: {unknown}"
    path = os.environ.get("RELAYD_FIGURES")
    if path:
        line = json.dumps({"test": test, "row": ",".join(map(str, rows)), "figures": figures})
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")  # short: one write, whole


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def total(entries):
    sums = collections.Counter({name: 0 for name in NAMES})
    for entry in entries:
        sums.update(entry["figures"])
    return sums


def show(entries, out=sys.stdout):
    for name, value in total(entries).items():
        print(f"    {name.replace('_', ' '):24} {value:>12,}", file=out)


def of_rows(entries):
    """row → the sums of all tests that belong to it."""
    rows = collections.defaultdict(collections.Counter)
    for entry in entries:
        for row in filter(None, entry["row"].split(",")):
            rows[int(row)].update(entry["figures"])
    return rows


def in_words(sums):
    """What was counted, and always what was lost."""
    return ", ".join(f"{sums[name]:,} {name.replace('_', ' ')}" for name in NAMES if sums[name] or name == "lost")


def update_page(path, entries):
    rows, row, lines = of_rows(entries), None, []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if found := re.match(r"(\d+) +\S", line):
                row = int(found[1])
            if line.startswith("    figures") and row in rows:
                line = f"    figures  {in_words(rows[row])}\n"
            elif line.startswith("Last figures:"):
                line = f"Last figures: {datetime.date.today()}, make check-faults\n"
            lines.append(line)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(lines)


if __name__ == "__main__":
    show(read(sys.argv[1]))
    if sys.argv[2:3] == ["--page"]:
        update_page(sys.argv[3], read(sys.argv[1]))
