"""contrib/soak: its schedule, what it says of a machine that does not allow a fault, and one round of it."""

import os
import pathlib
import subprocess
import sys

import soak

HERE = pathlib.Path(__file__).resolve().parent
ROUNDS = 60


def rounds(seed, number=ROUNDS, faults=soak.FAULTS):
    plans = soak.schedule(seed, faults)
    return [next(plans) for _ in range(number)]


def test_the_same_seed_is_the_same_schedule():
    assert rounds(1) == rounds(1) != rounds(2)


def test_faults_overlap_but_for_those_that_touch_the_same():
    overlaps = 0
    for plan in rounds(3):
        for i, turn in enumerate(plan.turns):
            for other in plan.turns[i + 1:]:
                together = turn.begin <= other.end and other.begin <= turn.end
                overlaps += together
                assert not (together and turn.fault.holds & other.fault.holds), (turn, other)
    assert overlaps > ROUNDS


def test_each_fault_comes_before_any_comes_again():
    names = [turn.fault.name for plan in rounds(4) for turn in plan.turns]
    assert {fault.name for fault in soak.FAULTS} == set(names)
    assert max(map(names.count, names)) - min(map(names.count, names)) <= 2
    assert len({fault.name for fault in soak.FAULTS}) == len(soak.FAULTS)


def test_what_cannot_be_done_is_told_by_name(monkeypatch, capsys):
    monkeypatch.setattr(soak, "NEEDS", {**dict.fromkeys(soak.NEEDS, lambda: None), "disk": lambda: "no loop devices"})
    faults, missing = soak.possible(soak.FAULTS)
    left_out = [fault.name for fault in soak.FAULTS if fault.needs == "disk"]
    assert "power cut" in left_out and "syncs fail, and lie" in left_out and missing == {"disk"}
    assert capsys.readouterr().out == f"soak: cannot do: {', '.join(left_out)} (no loop devices)\n"
    assert len(faults) == len(soak.FAULTS) - len(left_out)


def test_a_round():
    """Seed and faults of the day; a failure prints the seed."""
    done = subprocess.run([sys.executable, HERE / "soak.py", "0.02"], env=os.environ, capture_output=True, text=True, timeout=600,
                          check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert "The faults of 1 rounds" in done.stdout and "lost                                0" in done.stdout, done.stdout
