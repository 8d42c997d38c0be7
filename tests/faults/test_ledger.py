"""The ledger itself can fail: each of its rules is broken once. And the simplest runs of it."""

import re

import pytest

from ledger import Entry
from sink import Gone


def test_a_quiet_run(relayd, sink, ledger):
    relayd.to_sink(sink).start()
    ledger.load(300, r=2).wait()
    for size in (1, 300000):
        assert ledger.send(body=b"x" * size + b"\r\n").is_acknowledged
    ledger.settle()
    found = ledger.check("test_ledger.quiet", exact=True)
    assert found["messages_acknowledged"] == 302 and found["duplicates"] == found["possible_duplicates"] == 0


def test_a_swallowed_reply_is_one_duplicate(relayd, sink, ledger):
    """Row 25: dup = number of such drops, exactly."""
    left = [3]

    def swallow(session):
        left[0] -= 1
        if left[0] >= 0:
            raise Gone

    sink.rules["KEPT"] = swallow
    # With CHUNKING the next message is on the wire as well: that it was not taken nobody can know.
    sink.extensions = [e for e in sink.extensions if e != "CHUNKING"]
    relayd.set("retry", {"first": "1s"})
    relayd.to_sink(sink, connections=1).start()
    for _ in range(5):
        ledger.send()
    ledger.settle()
    found = ledger.check("test_ledger.swallowed", rows=[25], exact=True, upstream_misdeeds=3)
    assert found["duplicates"] == 3


def lose(ledger, sink):
    sink.messages.pop()


def deliver_a_refused_one(ledger, sink):
    ledger.entries[0].answer = "451 4.3.0 not stored"


def deliver_what_nobody_sent(ledger, sink):
    del ledger.entries[0]


def change_a_byte(ledger, sink):
    sink.messages[1].data = sink.messages[1].data[:-3] + b"?\r\n"


def send_it_to_another(ledger, sink):
    sink.messages[0].recipients, sink.messages[1].recipients = sink.messages[1].recipients, sink.messages[0].recipients


def repeat_without_a_word(ledger, sink):
    sink.messages.append(sink.messages[0])


def bounce_without_a_dsn(ledger, sink):
    ledger.relayd.log_path.write_text(ledger.relayd.log() + '{"event":"message.bounced","queue_id":"%s","recipient":"%s"}\n' %
                                      (ledger.entries[0].queue_id, ledger.entries[0].recipients[0]))


def end_it_twice(ledger, sink):
    lines = [line for line in ledger.relayd.log().splitlines() if "message.delivered" in line]
    ledger.relayd.log_path.write_text(ledger.relayd.log() + lines[0] + "\n")


def say_no_end(ledger, sink):
    ledger.relayd.log_path.write_text(re.sub(r".*message.delivered.*\n", "", ledger.relayd.log(), count=1))


def say_no_beginning(ledger, sink):
    ledger.relayd.log_path.write_text(re.sub(r".*message.accepted.*\n", "", ledger.relayd.log(), count=1))


BROKEN = {lose: "L1", deliver_a_refused_one: "L2", deliver_what_nobody_sent: "L2", change_a_byte: "L3",
          send_it_to_another: "L3", repeat_without_a_word: "L4", bounce_without_a_dsn: "L6", end_it_twice: "L7", say_no_end: "L7",
          say_no_beginning: "L7"}


@pytest.mark.parametrize("break_it", BROKEN, ids=lambda f: f.__name__)
def test_the_ledger_notices(relayd, sink, ledger, break_it):
    relayd.to_sink(sink).start()
    for _ in range(3):
        ledger.send()
    ledger.settle()
    sink.messages.sort(key=lambda m: m.data.partition(b"Subject")[2])
    break_it(ledger, sink)
    with pytest.raises(AssertionError, match=BROKEN[break_it]):
        ledger.check("test_ledger.broken", exact=break_it in (say_no_end, say_no_beginning))


def test_what_an_answer_means():
    answers = {"250 2.0.0 Ok: queued as 1AB": (True, False), "451 4.3.0 no": (False, True), "cut": (False, True),
               "unknown": (False, False)}
    for answer, (acknowledged, refused) in answers.items():
        entry = Entry(1, ["a@b"], b"")
        entry.answer = answer
        assert (entry.is_acknowledged, entry.is_refused) == (acknowledged, refused)
