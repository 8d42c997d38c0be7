"""What an operator can mend never costs a message: it is kept, nothing leaves in clear, one log line and
relayctl status say what is wrong and what to do, and once it is mended the queue drains by itself."""

import json
import re

import pytest

from sink import PASSWORD, BlackHole, Gone, Sink
from tools import free_port, wait_for

QUICK = {"connect_timeout": "2s", "command_timeout": "2s"}
DRAIN_SECONDS = 20


class Stage:
    """A relayd and an upstream that a trouble sets up and mends."""

    def __init__(self, relayd, sink, make_sink):
        self.relayd, self.sink, self.make_sink, self.extra = relayd, sink, make_sink, None

    def upstream(self, **settings):
        self.relayd.to_sink(self.sink, **{**QUICK, **settings})

    def change_config(self, **settings):
        self.upstream(**settings)
        self.relayd.reload()


def wrong_password(stage):
    stage.upstream()
    stage.relayd.password_file("not this")


def right_password(stage):
    stage.relayd.password_file(PASSWORD)


def wrong_host(stage):
    stage.upstream(host="no-such-host.invalid")


def right_config(stage):
    stage.change_config()


def wrong_port(stage):
    """Port of an upstream that wants TLS from the first byte: the provider's 465 with tls = starttls."""
    stage.extra = stage.make_sink(implicit_tls=True)
    stage.upstream(port=stage.extra.port)


def wrong_port_the_other_way(stage):
    stage.upstream(tls="implicit")


def closed_port(stage):
    stage.upstream(port=free_port())


def refused(stage):
    stage.upstream()
    stage.sink.stop()


def listening_again(stage):
    stage.sink.start()


def black_hole(stage):
    stage.upstream()
    stage.sink.stop()
    stage.extra = BlackHole(stage.sink.port)


def black_hole_gone(stage):
    stage.extra.stop()
    stage.sink.start()


def certificate(kind):
    def begin(stage):
        stage.upstream()
        stage.sink.use_certificate(kind)
    return begin


def good_certificate(stage):
    stage.sink.use_certificate("good")


def no_starttls(stage):
    """Someone in the middle takes STARTTLS away, and gladly takes a password in clear."""
    stage.upstream()
    stage.extra, stage.sink.tls = stage.sink.tls, None


def starttls_again(stage):
    stage.sink.tls = stage.extra


def no_auth(stage):
    stage.upstream()
    stage.extra, stage.sink.passwords = stage.sink.passwords, {}
    stage.sink.rules["MAIL"] = lambda session, argument: "530 5.7.0 Authentication required"


def auth_again(stage):
    stage.sink.rules.clear()
    stage.sink.passwords = stage.extra


def starttls_refused(stage):
    stage.upstream()
    stage.sink.rules["STARTTLS"] = lambda session, argument: "454 4.7.0 TLS not available"


def test_an_upstream_that_closes_on_each_message_is_down_once(relayd, sink):
    """A login proves nothing then: it would be up and down many times a second, at the provider and in the log."""
    sink.rules["MAIL"] = lambda session, argument: "421 4.3.2 Service shutting down"
    relayd.to_sink(sink).start()
    for i in range(20):
        relayd.send(f"closed {i}")
    tries = lambda: [verb for verb, _ in sink.commands if verb == "MAIL"]
    relayd.wait_event("upstream.down")
    first = len(tries())
    wait_for(lambda: len(tries()) > first, 15, why=relayd.log)  # the probe
    assert first <= 4 and len(tries()) == first + 1, relayd.log()
    assert len(relayd.events("upstream.down")) == 1 and not relayd.events("upstream.up"), relayd.log()
    sink.rules.clear()
    relayd.ctl("retry", "--all")
    sink.wait(20)
    assert len(relayd.events("upstream.up")) == 1


def test_an_upstream_that_does_not_answer_is_told_long_before_it_is_given_up(relayd):
    hole = BlackHole()
    relayd.add_upstream(host="localhost", port=hole.port, tls="starttls").start()
    relayd.send("waits")
    wait_for(lambda: "no answer for" in relayd.status(), 10, step=0.2)
    assert re.search(r"why:   no answer for \d+ s, while waiting for its greeting", relayd.status())
    (warned,) = relayd.wait_event("upstream.warned", 30)
    assert warned["silent"] >= 15 and f"port {hole.port} does not answer, while waiting" in warned["why"]
    assert "firewall" in warned["fix"] and not relayd.events("upstream.down")
    hole.stop()
    relayd.wait_event("upstream.down")
    assert len(relayd.events("upstream.warned")) == 1


def test_too_many_connections_are_told_in_the_upstreams_words(relayd, sink):
    sink.rules["EHLO"] = lambda session, argument: "421 4.7.0 Too many connections"
    relayd.to_sink(sink).start()
    relayd.send("crowded")
    paced = relayd.wait_event("upstream.paced")[0]
    assert paced["reply"] == "421 4.7.0 Too many connections"
    assert "per_minute" not in paced, "none is set: 0 would read as none may go"


def greeting_421(stage):
    stage.upstream()
    stage.sink.rules["CONNECT"] = lambda session, argument: "421 4.3.2 Back later"


def no_rules(stage):
    stage.sink.rules.clear()


TROUBLES = {
    "wrong-password": (wrong_password, right_password, ("535", "password")),
    "wrong-host": (wrong_host, right_config, ("no-such-host.invalid",)),
    "wrong-port": (wrong_port, right_config, ("implicit",)),
    "wrong-port-implicit": (wrong_port_the_other_way, right_config, ("starttls",)),
    "closed-port": (closed_port, right_config, ("refused",)),
    "refused": (refused, listening_again, ("refused",)),
    "black-hole": (black_hole, black_hole_gone, ("greeting",)),
    "expired-certificate": (certificate("expired"), good_certificate, ("expired",)),
    "wrong-name": (certificate("wrong-name"), good_certificate, ("localhost",)),
    "unknown-authority": (certificate("stranger"), good_certificate, ("certificate",)),
    "starttls-not-offered": (no_starttls, starttls_again, ("STARTTLS",)),
    "starttls-refused": (starttls_refused, no_rules, ("454",)),
    "auth-not-offered": (no_auth, auth_again, ("AUTH",)),
    "greeting-421": (greeting_421, no_rules, ("421",)),
}
NOTHING_TO_DO = ("starttls-refused", "greeting-421")  # the upstream's own trouble: it passes
SAID_IN_CLEAR = (b"EHLO relay.test", b"HELO relay.test", b"STARTTLS", b"QUIT", b"RSET", b"NOOP")


def tls_records(data):
    return data[:1] == b"\x16"


def nothing_in_clear(sinks):
    """Every session said nothing but the way to TLS before TLS."""
    for sink in sinks:
        for session in sink.sessions if isinstance(sink, Sink) else []:
            clear = bytes(session.clear_bytes)
            assert tls_records(clear) or all(line in SAID_IN_CLEAR for line in clear.split(b"\r\n") if line), clear
            assert b"MAIL" not in clear and b"AUTH" not in clear and PASSWORD.encode() not in clear


@pytest.mark.parametrize("name", TROUBLES)
def test_mail_is_kept_and_goes_out_when_mended(relayd, sink, make_sink, name):
    begin, mend, words = TROUBLES[name]
    stage = Stage(relayd, sink, make_sink)
    begin(stage)
    relayd.start()
    sent = [f"{name} {i}" for i in range(5)]
    for subject in sent[:3]:
        relayd.send(subject)
    (line, *more) = relayd.wait_event("upstream.down")
    for subject in sent[3:]:
        relayd.send(subject)

    text = json.dumps(line)
    assert all(word.lower() in text.lower() for word in words), text
    assert line["upstream"] == "up" and line["why"], text
    fix = line.get("fix", "")
    assert fix or name in NOTHING_TO_DO, text
    assert line["level"] in ("error", "warning")
    status = wait_for(lambda: (s := relayd.status()) and line["why"] in " ".join(s.split()) and s, 10,
                      why=lambda: f"'{line['why']}' in {relayd.status()}")
    assert " ".join(fix.split()) in " ".join(status.split()), status
    queued = relayd.queue()
    assert len(queued) == 5 and {m["state"] for m in queued} <= {"queued", "deferred", "active"}, queued
    assert not sink.messages and not relayd.events("message.bounced")

    mend(stage)
    sink.wait(5, DRAIN_SECONDS)
    relayd.wait_empty()
    assert sorted(m.data.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode() for m in sink.messages) == sent
    assert len(relayd.events("upstream.down")) == 1 + len(more) == 1, "one clear line, not many"
    assert all(m.tls and m.login == "user" for m in sink.messages)
    nothing_in_clear([sink, stage.extra])
    assert PASSWORD not in relayd.log() and "not this" not in relayd.log()


def test_upstream_down_at_the_start_and_for_long(relayd, sink):
    """Accepting mail needs no upstream; the first probe that succeeds lets everything flow at once."""
    sink.stop()
    relayd.to_sink(sink).start()
    for i in range(200):
        relayd.send(f"waiting {i}")
    assert len(relayd.queue()) == 200
    sink.start()
    sink.wait(200, DRAIN_SECONDS)
    relayd.wait_empty()
    assert len(sink.messages) == 200
    assert not relayd.events("message.bounced")


def test_connection_lost_before_the_body(relayd, sink):
    """Nothing was sent, so nothing can be repeated: it goes out as soon as the upstream is back."""
    sink.extensions = [e for e in sink.extensions if e != "CHUNKING"]
    relayd.to_sink(sink).start()
    cut = []

    def hang_up(session, argument):
        if not cut:
            cut.append(argument)
            raise Gone

    sink.rules["DATA"] = hang_up
    relayd.send("cut")
    sink.wait_subject("cut", DRAIN_SECONDS)
    relayd.wait_empty()
    assert len(sink.messages) == 1 and not relayd.events("message.repeated")


def test_no_reply_after_the_final_dot(relayd, sink):
    """The verdict is unknown: the message is kept, sent again, and the possible repeat is counted."""
    relayd.set("retry", {"first": "1s"})
    relayd.to_sink(sink).start()
    seen = []

    def swallow(session, data):
        seen.append(data)
        if len(seen) == 1:
            raise Gone

    sink.rules["END"] = swallow
    relayd.send("lost answer")
    sink.wait_subject("lost answer", 90)
    relayd.wait_empty()
    assert len(seen) == 2
    relayd.wait_event("message.repeated")
    assert json.loads(relayd.ctl("status", "--json").stdout)["counts"]["possible_duplicates"] == 1


def test_a_missing_password_file_is_told_and_mended(relayd, sink):
    """At the start, not at the first mail."""
    relayd.to_sink(sink, password_file=relayd.where / "late-password").start()
    (event,) = relayd.wait_event("upstream.down")
    assert "late-password" in event["why"] and "password" in event["fix"]
    assert relayd.events("secret.failed")
    assert "DOWN" in relayd.status() and "late-password" in relayd.status()
    relayd.send("needs the file")
    message, = relayd.queue()
    assert "Waits for    upstream up, which is down: " in relayd.ctl("show", message["id"]).stdout
    relayd.password_file(PASSWORD, "late-password")
    sink.wait_subject("needs the file", DRAIN_SECONDS)
