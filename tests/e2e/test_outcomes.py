"""What becomes of each recipient: delivered, tried again, returned to the sender, told to the postmaster, held."""

import email
import re
import subprocess
import time

from tools import wait_for


def refuse(**answers):
    """A rule for RCPT: refuse(bad="550 5.1.1 No such user") answers that for <bad@...>."""
    def rule(session, argument):
        local = re.search(r"<([^@>]*)", argument)[1]
        answer = answers.get(local)
        return answer(argument) if callable(answer) else answer
    return rule


def times(count, reply):
    """The reply `count` times, then the usual one."""
    left = [reply] * count
    return lambda argument: left.pop() if left else None


def dsn_to(sink, recipient):
    return wait_for(lambda: next((m for m in list(sink.messages) if m.recipients == [recipient] and m.sender == ""), None),
                    20, why=lambda: f"a DSN to {recipient}; {[(m.sender, m.recipients) for m in sink.messages]}")


def status_fields(message, part=1):
    report = email.message_from_bytes(message.data)
    assert report.get_content_type() == "multipart/report" and report.get_param("report-type") == "delivery-status"
    text, status, original = report.get_payload()
    assert text.get_content_type() == "text/plain"
    assert original.get_content_type() in ("message/rfc822", "text/rfc822-headers")
    return report, status.get_payload()[part]


def test_a_permanent_failure_is_returned_to_the_sender(relayd, sink):
    sink.rules["RCPT"] = refuse(bad="550 5.1.1 No such user here")
    relayd.to_sink(sink).start()
    relayd.send("to nobody", recipients=["bad@example.net"], sender="ann@example.net")
    report, fields = status_fields(dsn_to(sink, "ann@example.net"))
    assert fields["Final-Recipient"].replace(" ", "") == "rfc822;bad@example.net"
    assert fields["Action"] == "failed" and fields["Status"] == "5.1.1"
    assert "No such user here" in fields["Diagnostic-Code"]
    assert report["Auto-Submitted"].startswith("auto-")
    assert b"Subject: to nobody" in dsn_to(sink, "ann@example.net").data
    event = relayd.wait_event("message.bounced")[0]
    assert event["recipient"] == "bad@example.net" and "No such user here" in event["reply"]
    relayd.wait_empty()


def test_mixed_results_go_their_own_ways(relayd, sink):
    sink.rules["RCPT"] = refuse(bad="550 5.1.1 No such user here", later=times(1, "450 4.2.1 Mailbox busy"))
    relayd.set("retry", {"first": "1s"})
    relayd.to_sink(sink).start()
    relayd.send("mixed", recipients=["good@example.net", "bad@example.net", "later@example.net", "fine@example.net"],
                sender="ann@example.net")
    wait_for(lambda: sorted(r for m in sink.messages for r in m.recipients) ==
             ["ann@example.net", "fine@example.net", "good@example.net", "later@example.net"], 30,
             why=lambda: str([(m.sender, m.recipients) for m in sink.messages]))
    _, fields = status_fields(dsn_to(sink, "ann@example.net"))
    assert fields["Final-Recipient"].endswith("bad@example.net")
    assert len(status_fields(dsn_to(sink, "ann@example.net"))[0].get_payload()[1].get_payload()) == 2, "one recipient"
    assert relayd.wait_event("message.deferred")[0]["recipient"] == "later@example.net"
    relayd.wait_empty()
    delivered = sorted(e["recipient"] for e in relayd.events("message.delivered"))
    assert delivered == ["ann@example.net", "fine@example.net", "good@example.net", "later@example.net"]


def test_a_refusal_of_the_whole_message_is_returned(relayd, sink):
    sink.rules["END"] = lambda session, data: "554 5.6.0 Do not want" if session.sender[0] else None
    relayd.to_sink(sink).start()
    relayd.send("unwanted", recipients=["a@example.net", "b@example.net"], sender="ann@example.net")
    message = dsn_to(sink, "ann@example.net")
    assert b"a@example.net" in message.data and b"b@example.net" in message.data
    relayd.wait_empty()
    assert len(sink.messages) == 1


def test_a_temporary_refusal_is_tried_again(relayd, sink):
    answers = times(2, "451 4.3.0 Try again")
    sink.rules["END"] = lambda session, data: answers(data)
    relayd.set("retry", {"first": "1s"})
    relayd.to_sink(sink).start()
    relayd.send("later")
    event = relayd.wait_event("message.deferred")[0]
    assert "Try again" in event["reply"]
    sink.wait_subject("later", 30)
    relayd.wait_empty()


def test_notify_never_is_honoured(relayd, sink):
    sink.rules["RCPT"] = refuse(bad="550 5.1.1 No such user here")
    relayd.to_sink(sink).start()
    relayd.send("quiet", recipients=["bad@example.net"], rcpt_options=["NOTIFY=NEVER"])
    relayd.wait_event("message.bounced")
    relayd.send("after")
    sink.wait_subject("after")
    relayd.wait_empty()
    assert len(sink.messages) == 1


def test_dsn_parameters_travel_to_the_upstream(relayd, sink):
    relayd.to_sink(sink).start()
    relayd.send("with parameters", options=["RET=HDRS", "ENVID=abc+2Bdef"],
                rcpt_options=["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;orig@example.net"])
    message = sink.wait_subject("with parameters")
    assert {"RET=HDRS", "ENVID=abc+2Bdef"} <= set(message.sender_params)
    assert {"NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;orig@example.net"} <= set(message.recipient_params[0])


def test_no_sender_means_the_postmaster_and_no_dsn_for_a_dsn(relayd, sink):
    sink.rules["RCPT"] = refuse(bad="550 5.1.1 No such user here")
    relayd.to_sink(sink).start()
    relayd.send("from the null sender", recipients=["bad@example.net"], sender="")
    message = dsn_to(sink, "postmaster@relay.test")
    assert b"bad@example.net" in message.data
    relayd.wait_empty()


def test_what_nobody_can_be_told_is_held(relayd, sink):
    sink.rules["RCPT"] = refuse(bad="550 5.1.1 No such user here", postmaster="550 5.1.1 Not here either")
    relayd.to_sink(sink).start()
    relayd.send("hopeless", recipients=["bad@example.net"], sender="")
    (held,) = relayd.wait_event("message.held")
    assert "relayctl show" in held["fix"] and "relayctl release" in held["fix"]
    assert any(m["state"] == "held" for m in relayd.queue())
    assert not sink.messages
    assert len(relayd.events("dsn.sent")) == 1, "the notice to the postmaster, and none about that"


def test_reports_are_bounded(relayd, sink):
    sink.rules["RCPT"] = refuse(bad="550 5.1.1 No such user here")
    relayd.set("limits", {"dsn_per_hour": 1})
    relayd.to_sink(sink).start()
    for i in range(3):
        relayd.send(f"fails {i}", recipients=["bad@example.net"], sender="ann@example.net")
    (limited,) = relayd.wait_event("dsn.limited")
    assert "stay held" in limited["why"]
    for word in ("relayctl queue --state held", "release", "bounce", "remove", "dsn-per-hour"):
        assert word in limited["fix"], "how to go on"
    relayd.wait_event("message.held", count=2)
    assert len([m for m in sink.messages if m.sender == ""]) <= 1
    assert len(relayd.events("dsn.sent")) == 1


def test_what_an_operator_can_mend_is_never_given_up(relayd, sink):
    sink.rules["MAIL"] = lambda session, argument: "550 5.7.1 Sender address is not verified"
    relayd.set("retry", {"first": "1s", "max": "1s", "expire": "2s"})
    relayd.to_sink(sink).start()
    relayd.send("kept", sender="ann@example.net")
    relayd.wait_event("message.deferred", 40, count=5)
    assert not relayd.events("message.bounced")
    sink.rules.clear()
    sink.wait_subject("kept", 30)
    relayd.wait_empty()


def test_a_message_whose_bytes_have_changed_is_held(relayd, sink):
    """It is not sent as it is now, it is not forgotten, and it costs the others nothing."""
    sink.stop()
    relayd.to_sink(sink).start()
    for name in ("whole before", "damaged", "whole after"):
        relayd.send(name, body=f"the body of what is {name}\r\n")
    wait_for(lambda: len(relayd.queue()) == 3)  # delivery has read them: what changes before is found then
    segment = next(path for path in relayd.spool.glob("intake-*.seg") if b"what is damaged" in path.read_bytes())
    with open(segment, "r+b") as file:
        file.seek(segment.read_bytes().index(b"what is damaged"))
        file.write(b"W")
    sink.start()
    relayd.ctl("retry", "--all")
    relayd.wait_event("message.held")
    sink.wait_subject("whole before", 30)
    sink.wait_subject("whole after", 30)
    relayd.wait_event("message.delivered", count=2)
    assert [m["state"] for m in relayd.queue()] == ["held"]
    assert len(sink.messages) == 2


def test_a_segment_stays_as_long_as_one_message_of_it(relayd, sink):
    """Also when it is full, or its writer gone, and the others are done."""
    sink.rules["RCPT"] = refuse(busy="450 4.2.1 Mailbox busy")
    relayd.to_sink(sink).start()
    relayd.send("done", recipients=["ann@example.net"])
    relayd.send("waits", recipients=["busy@example.net"])
    relayd.wait_event("message.delivered")
    relayd.wait_event("message.deferred")
    relayd.stop()
    relayd.start()
    sink.rules.clear()
    relayd.ctl("retry", "--all")
    sink.wait_subject("waits", 30)
    relayd.wait_empty()
    assert not relayd.events("message.held")


def test_an_expired_message_is_returned(relayd, sink):
    sink.rules["RCPT"] = refuse(busy="450 4.2.1 Mailbox busy")
    relayd.set("retry", {"first": "1s", "max": "1s", "expire": "3s"})
    relayd.to_sink(sink).start()
    relayd.send("too late", recipients=["busy@example.net"], sender="ann@example.net")
    _, fields = status_fields(dsn_to(sink, "ann@example.net"))
    assert fields["Action"] == "failed" and "Mailbox busy" in fields["Diagnostic-Code"]
    relayd.wait_empty()


def test_a_late_message_is_told_to_its_sender(relayd, sink):
    sink.rules["RCPT"] = refuse(busy=times(4, "450 4.2.1 Mailbox busy"))
    relayd.set("retry", {"first": "1s", "max": "1s", "warn": "2s"})
    relayd.to_sink(sink).start()
    relayd.send("slow", recipients=["busy@example.net"], sender="ann@example.net")
    _, fields = status_fields(dsn_to(sink, "ann@example.net"))
    assert fields["Action"] == "delayed"
    sink.wait_subject("slow", 30)
    relayd.wait_empty()
    assert len([m for m in sink.messages if m.sender == ""]) == 1, "told once"


def test_the_second_upstream_takes_over(relayd, sink, make_sink):
    second = make_sink()
    relayd.to_sink(sink, "first", connect_timeout="2s")
    relayd.to_sink(second, "second")
    sink.stop()
    relayd.start()
    relayd.send("by the second")
    second.wait_subject("by the second", 30)
    assert relayd.events("upstream.down", upstream="first")


def test_another_sender_does_not_wait_for_a_long_queue(relayd, sink):
    """Tenants share an upstream fairly (here: one by SMTP as root, one by sendmail as another user)."""
    sink.rules["RCPT"] = lambda session, argument: time.sleep(0.02)
    relayd.to_sink(sink, connections=2, recipients_per_message=1).start()
    with relayd.smtp() as smtp:
        for i in range(300):
            smtp.sendmail("news@example.net", ["many@example.net"], f"Subject: newsletter {i}\r\n\r\nx\r\n".encode())
    subprocess.run(["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups",
                    relayd.programs / "relayd-sendmail", "-f", "app@example.net", "rcpt@example.net"],
                   input=b"Subject: password reset\n\nx\n", env=relayd.sendmail_environment(), check=True)
    before = len(sink.messages)
    sink.wait_subject("password reset", 20)
    at = next(i for i, m in enumerate(sink.messages) if b"Subject: password reset" in m.data)
    assert at - before < 100, f"{at - before} newsletters went first"
