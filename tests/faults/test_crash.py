"""Rows 1, 2, 13, 50: kill -9 of each process under load, of all of them at once, and of delivery in the middle of
everything it does. The ledger says what was lost (nothing) and whether each repeat was foretold (I4)."""

import datetime

import pytest

from tools import wait_for

MESSAGES = 2500
FATES = {"busy": "450 4.2.1 Mailbox busy", "nobody": "550 5.1.1 No such user"}


@pytest.fixture
def relayd(relayd):  # pylint: disable=redefined-outer-name
    """What was cut off in the middle waits for its next attempt: not a minute in these tests."""
    relayd.set("retry", {"first": "1s", "max": "2s"})
    return relayd


def refuse_some(sink):
    """Mail of every fate: refused for good, deferred at RCPT and at the end of data, and the rest delivered."""
    seen = {}

    def rcpt(session, argument):
        number = int(argument.partition("r0.")[2].partition("@")[0] or -1)
        if number % 50 == 7:
            return "550 5.1.1 No such user"
        if number % 50 == 8 and seen.setdefault(argument, 0) < 1:
            seen[argument] += 1
            return "450 4.2.1 Mailbox busy"
        return None

    def end(session, data):
        number = int(session.recipients[0][0].partition("r0.")[2].partition("@")[0] or -1)
        if number % 50 == 9 and seen.setdefault(number, 0) < 1:
            seen[number] += 1
            return "451 4.3.0 Try again"
        return None

    sink.rules.update(RCPT=rcpt, END=end)


def kill_and_wait(relayd, program):
    victim = relayd.pid_of(program)
    relayd.kill(victim)
    wait_for(lambda: relayd.pid_of(program) not in (None, victim), 20, why=f"a new {program}")
    relayd.wait_ready()


@pytest.mark.parametrize("program", ["relayd-intake", "relayd-delivery"])
def test_a_worker_killed_again_and_again(relayd, sink, ledger, program):
    refuse_some(sink)
    relayd.to_sink(sink).start()
    load = ledger.load(MESSAGES, rate=900)
    kills = 5
    for share in range(1, kills + 1):
        load.wait_acknowledged(share * MESSAGES // (kills + 2))
        kill_and_wait(relayd, program)
    load.wait()
    ledger.settle()
    found = ledger.check(f"test_crash.{program}", rows=[1 if program == "relayd-intake" else 2], crashes=kills)
    assert found["messages_acknowledged"] > MESSAGES // 2 and found["bounced"] > 10
    assert relayd.process.poll() is None


def test_delivery_killed_while_it_drains(relayd, sink, ledger):
    """A full queue: every moment is in the middle of something."""
    refuse_some(sink)
    sink.stop()
    relayd.to_sink(sink).start()
    assert ledger.load(1500).wait() == 1500
    sink.start()
    kills = 6
    for kill in range(1, kills + 1):
        wait_for(lambda at=kill * 200: len(sink.messages) >= at, 40)
        kill_and_wait(relayd, "relayd-delivery")
    ledger.settle()
    ledger.check("test_crash.drain", rows=[2], crashes=kills)


def test_everything_killed_at_once(relayd, sink, ledger):
    refuse_some(sink)
    relayd.to_sink(sink).start()
    kills = 4
    for _ in range(kills):
        load = ledger.load(800, rate=1500)
        load.wait_acknowledged(400)
        relayd.kill_all()
        load.stop()
        relayd.start()
    ledger.settle()
    ledger.check("test_crash.all", rows=[1, 2, 13], crashes=kills)


def test_the_supervisor_killed(relayd, sink, ledger):
    """Its workers see that it is gone and end at once; what they had on its way is unknown, and was told."""
    relayd.to_sink(sink).start()
    load = ledger.load(MESSAGES, rate=1200)
    kills = 3
    for share in range(1, kills + 1):
        load.wait_acknowledged(share * MESSAGES // (kills + 2))
        workers = relayd.pids()[1:]
        relayd.kill(relayd.process.pid)
        relayd.process.wait()
        wait_for(lambda w=workers: not any(is_running(pid) for pid in w), 20, why="the workers to end")
        relayd.start()
    load.wait()
    ledger.settle()
    ledger.check("test_crash.supervisor", rows=[1, 2], crashes=kills)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("verb", ["RCPT", "END"])
def test_a_kill_repeats_nothing_that_was_stored(relayd, sink, ledger, verb):
    """A queue at rest: a kill of delivery foretells nothing and repeats nothing."""
    sink.rules[verb] = lambda session, argument: "450 4.2.1 Mailbox busy"
    relayd.to_sink(sink).start()
    for _ in range(50):
        ledger.send()
    wait_for(lambda: len(relayd.events("message.deferred")) >= 50)
    relayd.set("retry", {"first": "1s"})
    kill_and_wait(relayd, "relayd-delivery")
    assert not relayd.events("message.repeated")
    sink.rules.clear()
    relayd.ctl("retry", "--all")
    ledger.settle()
    found = ledger.check(f"test_crash.at_rest[{verb}]", rows=[2], exact=True, crashes=1)
    assert found["duplicates"] == 0


def by_name(session, argument):
    """The recipient says what becomes of it."""
    return next((reply for name, reply in FATES.items() if argument.startswith(f"TO:<{name}.")), None)


def at_rest(relayd):
    """All that a list tells of each message, and when each that has to wait is due."""
    queue = {message["id"]: message for message in relayd.queue()}
    due = {}
    for message in queue.values():
        when = message.pop("next_attempt")
        if message["state"] == "deferred":
            due[message["id"]] = datetime.datetime.fromisoformat(when.replace("Z", "+00:00")).timestamp()
        elif message["state"] == "active":  # one that was never tried: it may be on its way now
            message["state"] = "queued"
    return queue, due


def compare(relayd, before):
    queue, due = at_rest(relayd)
    assert queue == before[0]
    assert due.keys() == before[1].keys()
    assert all(abs(due[name] - when) <= 1 for name, when in before[1].items()), (due, before[1])  # they are rounded


def test_the_queue_is_made_anew_as_it_was(relayd, sink, ledger):
    """I7: tried and not tried, in part delivered and in part bounced, large, held: the next delivery knows what the one that
    was killed knew, and so does the next relayd."""
    relayd.set("retry", {"first": "10m", "max": "10m"})
    sink.rules["RCPT"] = by_name
    relayd.to_sink(sink).start()
    sent = [ledger.send(names=["busy.0@bench.example"]),
            ledger.send(names=["good.1@bench.example", "busy.1@bench.example", "nobody.1@bench.example"]),
            ledger.send(names=["busy.2@bench.example"], body=b"large\r\n" * 700000),
            ledger.send(names=["busy.3@bench.example"])]
    wait_for(lambda: len(relayd.events("message.deferred")) == 4 and relayd.events("dsn.sent"), why=relayd.log)
    wait_for(lambda: len(relayd.queue()) == 4)  # the DSN has left
    relayd.ctl("hold", sent[3].queue_id)
    sink.stop()
    sent.append(ledger.send())
    relayd.wait_event("upstream.down")
    before = at_rest(relayd)
    assert [before[0][entry.queue_id]["state"] for entry in sent] == ["deferred"] * 3 + ["held", "queued"]
    assert {r["state"] for r in before[0][sent[1].queue_id]["recipients"]} == {"delivered", "deferred", "bounced"}
    assert list((relayd.spool / "large").iterdir())
    kill_and_wait(relayd, "relayd-delivery")
    compare(relayd, before)
    assert relayd.stop() == 0
    relayd.start()
    compare(relayd, before)
    sink.rules.clear()
    sink.start()
    relayd.ctl("release", sent[3].queue_id)
    relayd.ctl("retry", "--all")
    ledger.settle()
    found = ledger.check("test_crash.anew", rows=[2], exact=True, crashes=1)
    assert found["duplicates"] == 0
