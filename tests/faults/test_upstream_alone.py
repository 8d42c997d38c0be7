"""Rows 20 to 37 that need a relayd of their own: names, connections that hang, many connections, throttles, loops."""

import datetime
import socket
import subprocess
import threading
import time

import pytest

import nameserver
from evil import Evil
from figures import count
from ledger import Ledger
from nameserver import A, ANSWERS, NameServer
from sink import PASSWORD, Gone
from tools import free_port, wait_for
from world import DEADLINE, QUICK, TIMEOUT, ElsewhereRelayd

HOST = "smtp.provider.test"


class FullBacklog:
    """Nobody accepts here and the queue is full: a connect() hangs as behind a firewall that drops."""

    def __init__(self, port, address="127.0.0.1"):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((address, port))
        self.listener.listen(0)
        self.waiting = []
        for _ in range(8):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex((address, port))
            self.waiting.append(client)
        time.sleep(0.1)

    def stop(self):
        for each in [self.listener, *self.waiting]:
            each.close()


@pytest.fixture
def elsewhere(programs, own, request, make_sink):
    """A relayd that sees other names than we do, with its sink (in clear and without a login) and its ledger."""
    relayd = ElsewhereRelayd(programs, own / "relayd").names()
    request.node.relayd = relayd
    relayd.set("log", {"level": "debug"})
    sink = make_sink(starttls=False, auth=False)
    relayd.to_sink(sink, host=HOST, auth="none", **QUICK)
    relayd.sink, relayd.ledger = sink, Ledger(relayd, sink, own)
    yield relayd
    relayd.ledger.stop()
    assert relayd.stop() in (None, 0)
    assert not relayd.events("worker.died")


def drain(relayd, seconds=20):
    deadline = time.monotonic() + seconds
    while relayd.queue():
        assert time.monotonic() < deadline, f"{relayd.queue()}\n{relayd.log()[-6000:]}"
        relayd.ctl("retry", "--all")
        time.sleep(0.1)


# ---- row 20: names ----

def test_names_that_lead_nowhere(elsewhere):
    """Row 20: all of it is temporary, also NXDOMAIN; mail is taken meanwhile as fast as ever."""
    relayd, server = elsewhere, NameServer()
    relayd.names(server.resolv_conf).start()
    relayd.ledger.send()
    relayd.wait_empty()
    for name, (answer, word) in ANSWERS.items():
        server.answer = answer
        relayd.sink.stop()  # the connection that is open would do
        relayd.sink.start()
        told = len(relayd.events("upstream.down"))
        slowest = 0
        for _ in range(5):
            begin = time.monotonic()
            assert relayd.ledger.send().is_acknowledged, name
            slowest = max(slowest, time.monotonic() - begin)
        assert slowest < 1, f"{name}: {slowest} s for one message"
        if word is None:
            relayd.wait_empty()
            assert len(relayd.events("upstream.down")) == told
            continue
        event = relayd.wait_event("upstream.down", count=told + 1, seconds=TIMEOUT * 1.1 + 3)[-1]
        assert word in event["why"] and ("127.9.9.9" in event["why"] or HOST in event["why"]), (name, event)
        assert event["level"] == "warning" and event["next_probe"] <= 6, (name, event)
        assert len(relayd.queue()) == 5
        server.answer = nameserver.right
        drain(relayd)
    server.stop()
    assert not relayd.events("message.deferred"), "no message loses an attempt"
    relayd.ledger.check("test_upstream.names", rows=[20], exact=True, upstream_misdeeds=len(ANSWERS))


def test_a_name_server_that_is_not_there_and_then_is(elsewhere):
    """Row 20: the network comes up later than relayd does, with another resolv.conf."""
    server = NameServer()
    relayd = elsewhere.names(f"nameserver 127.0.0.1:{free_port()}\n").start()
    relayd.ledger.send()
    relayd.wait_event("upstream.down")
    relayd.names(server.resolv_conf)  # in place: the same inode
    drain(relayd)
    server.stop()
    relayd.ledger.check("test_upstream.resolv_conf", rows=[20], exact=True, upstream_misdeeds=1)


def test_no_answer_about_ipv6(elsewhere):
    """Row 20: the answer about IPv4 is enough."""
    server = NameServer(lambda query: nameserver.right(query) if query.type == A else None)
    relayd = elsewhere.names(server.resolv_conf)
    relayd.settings['upstream "up"']["connect_timeout"] = "10s"
    relayd.start()
    relayd.ledger.send()
    relayd.wait_empty(8)
    server.stop()
    relayd.ledger.check("test_upstream.no_ipv6", rows=[20], exact=True, upstream_misdeeds=1)


# ---- rows 21 and 22: no connection ----

@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_refused_connections_are_few(relayd, make_sink, own, tls):
    """Row 21: one knocks for all, however long the queue is."""
    sink = make_sink(implicit_tls=tls == "implicit")
    sink.stop()
    relayd.set("log", {"level": "debug"})
    relayd.to_sink(sink, connections=8, **QUICK).start()
    ledger = Ledger(relayd, sink, own)
    ledger.load(500, connections=10).wait()
    first, second = (datetime.datetime.fromisoformat(event["time"].rstrip("Z"))
                     for event in relayd.wait_event("upstream.closed", count=2)[:2])
    assert (second - first).total_seconds() > 0.9, "a pause"
    assert len(relayd.events("upstream.closed")) == 2 and len(relayd.events("upstream.down")) == 1
    sink.start()
    drain(relayd)
    ledger.check("test_upstream.refused", rows=[21], exact=True, upstream_misdeeds=2)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_connection_that_never_comes_about(relayd, make_sink, own, tls):
    """Row 22, at the first packet."""
    sink = make_sink(implicit_tls=tls == "implicit")
    sink.stop()
    hole = FullBacklog(sink.port)
    relayd.to_sink(sink, host="127.0.0.1", **QUICK).start()
    ledger = Ledger(relayd, sink, own)
    begin = time.monotonic()
    ledger.send()
    event = relayd.wait_event("upstream.down")[0]
    assert DEADLINE[0] <= time.monotonic() - begin <= DEADLINE[1], event
    assert event["level"] == "warning" and "timed out" in event["why"]
    ledger.send()
    hole.stop()
    sink.start()
    drain(relayd)
    ledger.check("test_upstream.black_hole", rows=[22], exact=True, upstream_misdeeds=1)


@pytest.mark.parametrize("order", [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")])
def test_the_next_address_is_tried(elsewhere, order):
    """Row 22: one address is a black hole, the other works."""
    hole = FullBacklog(elsewhere.sink.port, "127.0.0.2")
    elsewhere.names(hosts="".join(f"{address} {HOST}\n" for address in order)).start()
    elsewhere.ledger.send()
    elsewhere.wait_empty(TIMEOUT + 2)
    hole.stop()
    assert not elsewhere.events("upstream.down")
    elsewhere.ledger.check("test_upstream.next_address", rows=[22], exact=True, upstream_misdeeds=1)


# ---- row 24: slow down ----

THROTTLES = {
    "mail-450": ("MAIL", "450 4.7.1 Error: too many messages, slow down"),
    "rcpt-451": ("RCPT", "451 4.7.1 Rate limit exceeded"),
    "end-454": ("END", "454 4.7.0 Throttling failure: Maximum sending rate exceeded."),
    "end-421": ("END", "421 4.7.0 Try again later, closing connection."),
    "mail-421": ("MAIL", "421 4.7.28 Too many emails from your address, rate limited"),
}


@pytest.mark.parametrize("name", THROTTLES)
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_slow_down(relayd, make_sink, own, tls, name):
    """Row 24: it is slower then, and no message loses an attempt or comes twice."""
    sink = make_sink(implicit_tls=tls == "implicit")
    verb, answer = THROTTLES[name]
    left = [2]

    def throttle(*_):
        left[0] -= 1
        return answer if left[0] >= 0 else None

    sink.rules[verb] = throttle
    relayd.to_sink(sink, connections=2, **QUICK).start()
    ledger = Ledger(relayd, sink, own)
    ledger.load(8, connections=1).wait()
    event = relayd.wait_event("upstream.paced")[0]
    assert event["fix"] and answer.partition(" ")[2][:3] in ("4.7",)
    assert len(relayd.events("upstream.paced")) <= 2
    relayd.wait_empty(60)
    assert not relayd.events("message.deferred") and not relayd.events("message.bounced")
    ledger.check("test_upstream.slow_down", rows=[24], exact=True, upstream_misdeeds=2)


def test_too_many_connections(relayd, make_sink, own):
    """Row 24: the upstream takes two connections; a third gets 421 and everything goes through two."""
    sink, most = Evil(make_sink().authority), []
    greet = sink.kind_of_session.greet

    def counted(session):
        with sink.changed:
            most.append(len(sink.alive))
        if most[-1] > 2:
            session.put(b"421 4.3.2 Too many concurrent connections\r\n")
            raise Gone
        greet(session)

    sink.kind_of_session = type("Counted", (Evil.kind_of_session,), {"greet": counted})
    relayd.to_sink(sink, connections=8, **QUICK).start()
    ledger = Ledger(relayd, sink, own)
    ledger.load(300, connections=4).wait()
    relayd.wait_empty(60)
    assert not relayd.events("upstream.down") and not relayd.events("message.deferred")
    refused = sum(alive > 2 for alive in most)
    assert 1 <= refused <= 16, most
    sink.stop()
    ledger.check("test_upstream.connections", rows=[24], exact=True, upstream_misdeeds=refused)


# ---- row 28: one login ----

@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_one_login_for_all(relayd, make_sink, own, tls):
    """A refused password is not tried again by the other connections, by new mail, or for a quarter of an hour."""
    sink = make_sink(implicit_tls=tls == "implicit")
    relayd.to_sink(sink, connections=8, **QUICK)
    relayd.password_file("another one")
    relayd.start()
    ledger = Ledger(relayd, sink, own)
    ledger.load(200, connections=10).wait()
    event = relayd.wait_event("upstream.down")[0]
    ledger.send()
    time.sleep(7)  # the pause after other faults is over
    assert [right for _, _, right in sink.logins] == [False], sink.logins
    assert event["next_probe"] >= 900 and event["level"] == "error"
    relayd.password_file(PASSWORD)
    relayd.wait_empty(20)  # it is noticed without a word
    assert "another one" not in relayd.log()
    ledger.check("test_upstream.one_login", rows=[28], exact=True, upstream_misdeeds=1)


# ---- row 37: ourselves ----

def test_the_upstream_is_ourselves(elsewhere):
    """It stops after a few rounds, and is told to an operator: nobody else can be told by this way."""
    relayd = elsewhere.names(hosts=f"127.0.0.1 {HOST}\n")
    relayd.settings['upstream "up"']["port"] = relayd.port
    relayd.start()
    with relayd.smtp() as smtp:
        smtp.sendmail("ann@example.net", ["bob@example.net"], b"Subject: round\r\n\r\ntext\r\n")
    relayd.wait_event("message.held", 20)
    time.sleep(0.5)
    accepted = relayd.events("message.accepted")
    rounds = sum(event.get("sender") == "ann@example.net" for event in accepted)
    assert rounds == 5, "rounds, and then it is a loop"
    assert len(accepted) <= 20, len(accepted)
    bounced = relayd.events("message.bounced")
    assert bounced and all("5.4.6" in event["reply"] for event in bounced), bounced
    assert [m["state"] for m in relayd.queue()] == ["held"]
    count("test_upstream_alone.ourselves", rows=[37], messages_acknowledged=len(accepted), upstream_misdeeds=rounds,
          bounced=len(bounced), lost=0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_configuration_says_so(relayd, host):
    relayd.add_upstream(host=host, port=relayd.port, tls="none", auth="none").write_config()
    done = subprocess.run([relayd.programs / "relayd", "-n", "-c", relayd.config], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 78 and "that is relayd itself" in done.stderr, done


# ---- row 27: renegotiation ----

def test_renegotiation_is_refused(relayd, authority, own):
    """TLS 1.2 lets a server begin a new handshake in the middle: it gets none."""
    certificate, key = authority.issue("good")
    port = free_port()
    relayd.add_upstream(host="localhost", port=port, tls="implicit", tls_ca=authority.ca, username="user",
                        password_file=relayd.password_file(PASSWORD), **QUICK).start()
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", certificate, "-key", key, "-tls1_2",
               "-crlf", "-no_ticket"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        heard = []
        threading.Thread(target=lambda: heard.extend(iter(lambda: server.stdout.read1(4096), b"")), daemon=True).start()
        wait_for(lambda: b"ACCEPT" in b"".join(heard), why=lambda: heard)

        def say(text):
            server.stdin.write(text)
            server.stdin.flush()

        relayd.send("kept")
        wait_for(lambda: b"CIPHER is" in b"".join(heard), why=lambda: heard)
        say(b"220 hello\n")
        wait_for(lambda: b"EHLO" in b"".join(heard), why=lambda: heard)
        say(b"R\n")  # renegotiate
        time.sleep(0.3)
        say(b"250 AUTH PLAIN\n")
        relayd.wait_event("upstream.down")
        server.kill()
    text = b"".join(heard)
    assert b"no renegotiation" in text or b"no_renegotiation" in text or b"SSL_do_handshake" in text, text[-2000:]
    assert b"MAIL" not in text
    assert len(relayd.queue()) == 1 and PASSWORD not in relayd.log()
