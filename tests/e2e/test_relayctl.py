"""relayctl: shows and changes the queue, with the daemon and without it; what scripts rely on."""

import json
import os
import re
import signal
import socket
import struct
import subprocess

import pytest

from sink import PASSWORD
from tools import wait_for

RFC3339 = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")


@pytest.fixture
def waiting(relayd, sink):
    """Three messages, kept by an upstream that is away."""
    sink.stop()
    relayd.to_sink(sink).start()
    for i in range(3):
        relayd.send(f"waiting {i}", recipients=[f"r{i}@example.net", "all@example.net"], sender=f"s{i}@example.net")
    return relayd


def test_queue_json_is_what_scripts_rely_on(waiting):
    queue = waiting.queue()
    assert len(queue) == 3
    for i, message in enumerate(sorted(queue, key=lambda m: m["sender"])):
        assert re.fullmatch(r"[0-9A-Za-z]{13}", message["id"])
        assert message["state"] in ("queued", "active", "deferred")
        assert message["sender"] == f"s{i}@example.net" and message["upstream"] == "up"
        assert 200 < message["size"] < 2000 and RFC3339.match(message["arrived"])
        assert message["next_attempt"] is None or RFC3339.match(message["next_attempt"])
        assert message["uid"] == os.getuid() and isinstance(message["unit"], str)
        assert [r["recipient"] for r in message["recipients"]] == [f"r{i}@example.net", "all@example.net"]
        for recipient in message["recipients"]:
            assert recipient["state"] in ("queued", "deferred") and recipient["attempts"] == 0
            assert isinstance(recipient["reply"], str)


def test_queue_filters(waiting):
    def count(*arguments):
        return len(waiting.ctl("queue", "--json", *arguments).stdout.splitlines())
    assert count("--sender", "s1@example.net") == 1
    assert count("--recipient", "all@example.net") == 3
    assert count("--recipient", "r2@") == 1
    assert count("--upstream", "up") == 3
    assert count("--state", "held") == 0


def test_the_queue_is_shown_without_the_daemon(waiting):
    running = {m["id"]: m for m in waiting.queue()}
    identity = next(iter(running))
    held = waiting.ctl("hold", identity)
    assert held.returncode == 0
    waiting.stop()
    stopped = {m["id"]: m for m in waiting.queue()}
    assert stopped.keys() == running.keys()
    assert stopped[identity]["state"] == "held"
    for key in ("sender", "size", "arrived", "uid"):
        assert {i: m[key] for i, m in stopped.items()} == {i: m[key] for i, m in running.items()}
    assert "waiting" in waiting.ctl("show", identity).stdout
    assert "relayd does not run" in waiting.status() and "3" in waiting.status()
    failed = waiting.ctl("retry", "--all", check=False)
    assert failed.returncode == 1 and len(failed.stderr.strip().splitlines()) == 1


def test_show(waiting):
    message = waiting.queue()[0]
    text = waiting.ctl("show", message["id"]).stdout
    assert message["sender"] in text and "all@example.net" in text and "Subject: waiting" in text
    assert "text\n" not in text.replace("\r", "")
    assert waiting.ctl("show", message["id"], "--body").stdout.replace("\r", "").endswith("text\n")
    shown = json.loads(waiting.ctl("show", message["id"], "--json").stdout)
    assert shown["id"] == message["id"] and "history" in shown and "Subject: waiting" in shown["headers"]


def test_show_of_what_is_gone_says_where_it_is_told(relayd, sink):
    relayd.to_sink(sink).start()
    relayd.send("delivered")
    (event,) = relayd.wait_event("message.delivered")
    relayd.wait_empty()
    words = f"{event['queue_id']} is not in the queue; journalctl -u relayd RELAYD_QUEUE_ID={event['queue_id']} tells"
    done = relayd.ctl("show", event["queue_id"], check=False)
    assert done.returncode == 1 and words in done.stderr
    relayd.stop()
    assert words in relayd.ctl("show", event["queue_id"], check=False).stderr


def test_show_keeps_the_upstreams_words(relayd, sink):
    sink.rules["RCPT"] = lambda session, argument: "450 4.2.1 Mailbox busy today"
    relayd.to_sink(sink).start()
    relayd.send("busy")
    relayd.wait_event("message.deferred")
    (message,) = relayd.queue()
    assert message["state"] == "deferred" and RFC3339.match(message["next_attempt"])
    assert message["recipients"][0]["attempts"] == 1 and "Mailbox busy today" in message["recipients"][0]["reply"]
    assert "Mailbox busy today" in relayd.ctl("show", message["id"]).stdout
    sink.rules.clear()
    relayd.ctl("retry", message["id"])
    sink.wait_subject("busy", 10)
    relayd.wait_empty()


def test_hold_release_bounce_remove(waiting, sink):
    first, second, third = sorted(waiting.queue(), key=lambda m: m["sender"])
    waiting.ctl("hold", first["id"])
    assert [m["id"] for m in waiting.queue() if m["state"] == "held"] == [first["id"]]
    waiting.ctl("remove", "--yes", second["id"])
    waiting.ctl("bounce", third["id"])
    wait_for(lambda: len(waiting.queue()) == 2)  # the held one, and the DSN
    sink.start()
    waiting.ctl("retry", "--all")
    (dsn,) = sink.wait(1)
    assert (dsn.sender, dsn.recipients) == ("", ["s2@example.net"])
    waiting.stop()
    waiting.start()
    assert [m["state"] for m in waiting.queue()] == ["held"], "a hold outlives a restart"
    waiting.ctl("release", first["id"])
    sink.wait_subject("waiting 0")
    waiting.wait_empty()
    assert len(sink.messages) == 2
    assert waiting.events("message.removed")[0]["queue_id"] == second["id"]


def test_all_does_not_mean_what_it_has_written_itself(waiting):
    """bounce --all tells each sender, and does not return those letters as well."""
    for i in range(70):
        waiting.send(f"more {i}", sender=f"more{i}@example.net")
    wait_for(lambda: len(waiting.queue()) == 73)
    assert "73 messages bounced" in waiting.ctl("bounce", "--all").stdout
    wait_for(lambda: len(waiting.queue()) == 73 and all(m["sender"] == "" for m in waiting.queue()), why=waiting.log)
    assert {m["state"] for m in waiting.queue()} <= {"queued", "active", "deferred"}
    recipients = {m["recipients"][0]["recipient"] for m in waiting.queue()}
    assert len(recipients) == 73 and "more69@example.net" in recipients


def test_what_was_told_to_have_failed_is_not_done_later(waiting):
    """A delivery that hangs for longer than relayctl waits."""
    identity = waiting.queue()[0]["id"]
    delivery = waiting.pid_of("relayd-delivery")
    os.kill(delivery, signal.SIGSTOP)
    assert waiting.ctl("remove", "--yes", identity, check=False).returncode == 1
    os.kill(delivery, signal.SIGCONT)
    (event,) = waiting.wait_event("control.performed")
    assert event["changed"] == 0 and event["queue_id"] == identity
    assert identity in [m["id"] for m in waiting.queue()]


def test_the_log_says_who_changed_what(waiting):
    first, second, third = sorted(waiting.queue(), key=lambda m: m["sender"])
    waiting.ctl("hold", first["id"])
    (held,) = waiting.events("message.held")
    assert held["queue_id"] == first["id"] and held["sender"] == "s0@example.net" and held["recipients"] == 2
    (performed,) = waiting.events("control.performed")
    assert (performed["command"], performed["queue_id"], performed["changed"], performed["failed"]) == (
        "hold", first["id"], 1, 0)
    for event in (held, performed):
        assert event["level"] == "info" and event["uid"] == os.getuid() and event["pid"] > 1
    waiting.ctl("hold", second["id"], third["id"], "0000000000000", check=False)
    performed = waiting.events("control.performed")[1]
    assert performed["queue_ids"].split() == [second["id"], third["id"], "0000000000000"]
    assert (performed["changed"], performed["failed"]) == (2, 1)
    assert waiting.ctl("release", "--all").stdout == "3 messages released\n"
    assert waiting.events("control.performed")[2]["queue_ids"] == "all"
    released = waiting.events("message.released")
    assert {e["queue_id"] for e in released} == {first["id"], second["id"], third["id"]} and len(released) == 3


def test_the_log_of_very_many_changes_is_bounded(waiting):
    """Of a request that changes more than a thousand messages the rest are lines at debug."""
    with waiting.smtp() as smtp:
        for _ in range(1050):
            smtp.sendmail("many@example.net", ["r@example.net"], b"Subject: many\r\n\r\ntext\r\n")
    held = int(waiting.ctl("hold", "--all").stdout.split()[0])
    assert held > 1050 and len(waiting.events("message.held")) == 1000
    assert waiting.events("control.performed")[0]["changed"] == held


def test_a_change_that_nobody_waits_for_is_told(waiting):
    """relayctl goes away after its request: what was done meanwhile is in the log all the same."""
    with waiting.smtp() as smtp:
        for _ in range(300):
            smtp.sendmail("many@example.net", ["r@example.net"], b"Subject: many\r\n\r\ntext\r\n")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(waiting.control))
        client.sendall(b'{"command": "hold", "all": true}\n')
        client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    (performed,) = waiting.wait_event("control.performed")
    held = len([m for m in waiting.queue() if m["state"] == "held"])
    assert performed["changed"] == held and performed["pid"] == os.getpid()
    assert (held < 303) == ("went away" in performed.get("why", ""))


def test_remove_asks(waiting):
    identity = waiting.queue()[0]["id"]
    refused = waiting.ctl("remove", identity, check=False)
    assert refused.returncode != 0 and len(waiting.queue()) == 3


def test_retry_all_ends_the_pause(waiting, sink):
    waiting.wait_event("upstream.down")
    sink.start()
    waiting.ctl("retry", "--all")
    sink.wait(3, 4)


def test_status(relayd, sink):
    relayd.to_sink(sink).start()
    relayd.send("one")
    sink.wait(1)
    relayd.wait_empty()
    status = json.loads(relayd.ctl("status", "--json").stdout)
    assert {p["name"]: p["pid"] for p in status["processes"]} == {
        name: relayd.pid_of(name) for name in ("relayd", "relayd-intake", "relayd-delivery")}
    (upstream,) = status["upstreams"]
    assert upstream["name"] == "up" and upstream["state"] == "up" and RFC3339.match(upstream["last_success"])
    assert status["queue"]["total"] == 0 and status["counts"]["delivered"] == 1
    assert status["spool"]["free_bytes"] > 0 and status["spool"]["directory"] == str(relayd.spool)
    text = relayd.status()
    assert "up" in text and str(relayd.pid_of("relayd-intake")) in text


def test_test_explains_success(relayd, sink):
    relayd.to_sink(sink).start()
    done = relayd.ctl("test", "you@example.net", timeout=60)
    (message,) = sink.wait(1)
    assert message.recipients == ["you@example.net"]
    assert "EHLO" in done.stdout and "250" in done.stdout
    assert PASSWORD not in done.stdout and "AHVzZXI" not in done.stdout  # base64 of NUL user NUL


@pytest.mark.parametrize("trouble, words", [
    ("password", ("535", "password")), ("certificate", ("expired", "certificate")), ("recipient", ("550", "No such user")),
    ("refused", ("refused",))])
def test_test_explains_failure(relayd, sink, trouble, words):
    relayd.to_sink(sink)
    if trouble == "password":
        relayd.password_file("wrong")
    elif trouble == "certificate":
        sink.use_certificate("expired")
    elif trouble == "recipient":
        sink.rules["RCPT"] = lambda session, argument: "550 5.1.1 No such user"
    else:
        sink.stop()
    relayd.start()
    done = relayd.ctl("test", "you@example.net", check=False, timeout=60)
    assert done.returncode == 1
    for word in words:
        assert word.lower() in (done.stdout + done.stderr).lower()
    assert "wrong\n" not in done.stdout


def test_config_is_shown_without_secrets(relayd, sink):
    relayd.to_sink(sink, name="other", password_file=None, password_command="echo very-secret-argument")
    del relayd.settings['upstream "other"']["password_file"]
    relayd.start()
    text = relayd.ctl("config").stdout
    assert "relay.test" in text and "min-free" in text and 'upstream "other"' in text
    assert "very-secret-argument" not in text


def test_metrics(relayd, sink):
    relayd.to_sink(sink).start()
    relayd.send("one")
    sink.wait(1)
    relayd.wait_empty()
    text = relayd.ctl("metrics").stdout
    for line in text.splitlines():
        assert line.startswith("#") or re.fullmatch(r'relayd_[a-z_]+(\{[^}]*\})? -?[0-9.e+-]+', line), line
    assert re.search(r"^relayd_\w*delivered\w*(\{[^}]*\})? 1(\.0)?$", text, re.M)


def test_exit_codes(waiting):
    assert waiting.ctl("no-such-command", check=False).returncode == 2
    assert waiting.ctl(check=False).returncode == 2
    assert waiting.ctl("show", "0000000000000", check=False).returncode == 1
    assert waiting.ctl("--help").returncode == 0 and "queue" in waiting.ctl("--help").stdout
    assert re.search(r"\d+\.\d+", waiting.ctl("--version").stdout)


def test_a_stranger_may_not_ask(waiting):
    done = subprocess.run(["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups",
                           waiting.programs / "relayctl", "-s", waiting.control, "queue"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "s0@example.net" not in done.stdout


def test_a_stranger_who_reaches_the_socket_may_not_ask_either(waiting):
    """Its permissions are one wall, the kernel's word about who asks is the other."""
    os.chmod(waiting.control, 0o666)
    for directory in waiting.control.parents[:2]:
        os.chmod(directory, 0o755)
    done = subprocess.run(["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups",
                           waiting.programs / "relayctl", "-s", waiting.control, "queue"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "s0@example.net" not in done.stdout
    assert "only root and the user that relayd runs as may ask here" in done.stderr, done
    assert waiting.events("control.refused", uid="12345")
