"""Mail arrives bit for bit, by every client's way in and at every family of upstream."""

import os
import socket

import pytest

from relayd import content
from tools import wait_for

LONG_LINE = b"x" * 5000
BODIES = {
    "plain": b"hello\r\n",
    "empty": b"",
    "lone-dots": b".\r\n..\r\n...\r\n.leading\r\n\r\n.\r\n",
    "8-bit": bytes(range(128, 256)) + b"\r\nGr\xfc\xdfe\r\n",
    "utf-8": "Zażółć gęślą jaźń ✉\r\n".encode(),
    "long-line": LONG_LINE + b"\r\n." + LONG_LINE + b"\r\n",
    "blank-lines": b"\r\n\r\n\r\nend\r\n\r\n",
    "tabs-and-spaces": b" \t trailing \t \r\n\t\r\n",
}


def eight_bit(body):
    return ["BODY=8BITMIME"] if any(byte > 127 for byte in body) else []


@pytest.mark.parametrize("chunking", [True, False], ids=["bdat", "data"])
def test_bodies_arrive_bit_for_bit(relayd, sink, chunking):
    if not chunking:
        sink.extensions = [e for e in sink.extensions if e != "CHUNKING"]
    relayd.to_sink(sink, connections=1).start()
    sink.stop()  # they wait, and leave in flights: all of one but its last go by BDAT
    rounds = [f"{n} {name}" for n in range(3) for name in BODIES]
    sent = {name: relayd.send(f"body {name}", body=BODIES[name[2:]], options=eight_bit(BODIES[name[2:]]))
            for name in rounds}
    sink.start()
    relayd.ctl("retry", "--all")
    for name in rounds:
        assert content(sink.wait_subject(f"body {name}")) == sent[name], name
    by_bdat = sum(verb == "BDAT" for verb, _ in sink.commands)
    assert by_bdat >= len(rounds) / 2 if chunking else by_bdat == 0


def test_20_mib_arrive_bit_for_bit(relayd, sink):
    body = b"".join(os.urandom(36).hex().encode() + b"\r\n" for _ in range(1000)) * 284
    assert len(body) > 20 << 20
    relayd.to_sink(sink).start()
    sent = relayd.send("20 MiB", body=body)
    assert content(sink.wait_subject("20 MiB", 60)) == sent


def test_100_recipients_arrive(relayd, sink):
    relayd.to_sink(sink).start()
    recipients = [f"r{i}@example.net" for i in range(100)]
    relayd.send("a hundred", recipients=recipients)
    wait_for(lambda: sum(len(m.recipients) for m in sink.messages) >= 100)
    assert sorted(r for m in sink.messages for r in m.recipients) == sorted(recipients)


def test_bdat_keeps_what_data_cannot(relayd, sink):
    """A message by BDAT, in chunks that split lines, arrives as it is."""
    relayd.to_sink(sink).start()
    data = b"From: <a@example.net>\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <b@c.test>\r\n" \
           b"Subject: in chunks\r\n\r\n.\r\n.\r\nlast\r\n"
    with socket.create_connection(("127.0.0.1", relayd.port), timeout=20) as raw, raw.makefile("rb") as replies:
        def expect(code):
            while True:
                line = replies.readline()
                if line[3:4] != b"-":
                    assert line.startswith(code), line
                    return
        expect(b"220")
        raw.sendall(b"EHLO client.test\r\n")
        expect(b"250")
        raw.sendall(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.net>\r\n")
        chunks = [data[:1], data[1:100], data[100:131], data[131:]]
        for number, chunk in enumerate(chunks, 1):
            raw.sendall(f"BDAT {len(chunk)}{' LAST' if number == len(chunks) else ''}\r\n".encode() + chunk)
        for _ in range(2 + len(chunks)):
            expect(b"250")
    assert content(sink.wait_subject("in chunks")) == data


@pytest.mark.parametrize("name", ["postfix", "exim", "chasquid"])
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_real_upstreams_get_it_bit_for_bit(relayd, neighbour, authority, name, tls):
    """TLS verified, the login by the strongest mechanism that each offers."""
    peer = neighbour(name)
    relayd.add_upstream(host="localhost", port=peer.port if tls == "starttls" else peer.tls_port, tls=tls,
                        tls_ca=authority.ca, username=peer.user,
                        password_file=relayd.password_file(peer.password)).start()
    for kind in ("lone-dots", "8-bit", "long-line"):
        body, subject = BODIES[kind], f"{kind} to {name} by {tls}"
        relayd.send(subject, recipients=["r1@example.net", "r2@example.net"], sender="user@example.net", body=body,
                    options=eight_bit(body))
        got = wait_for(lambda: [m for m in peer.messages if f"Subject: {subject}\r\n".encode() in m.data], 20,
                       why=lambda: peer.log() + relayd.log())
        assert got[0].data.endswith(b"\r\n\r\n" + body)
    relayd.wait_empty()


@pytest.mark.parametrize("name", ["postfix", "exim", "chasquid"])
def test_real_upstreams_take_many_in_one_session(relayd, neighbour, authority, name):
    """By BDAT and DATA in turn where they do CHUNKING. None is found out of step, and nothing is repeated."""
    peer = neighbour(name)
    relayd.add_upstream(host="localhost", port=peer.port, tls="starttls", tls_ca=authority.ca, username=peer.user,
                        password_file=relayd.password_file("wrong"), connections=1, messages_per_connection=100)
    relayd.start()
    sent = {n: relayd.send(f"many {n}", sender="user@example.net", body=b".\r\n" * n,
                           recipients=["r1@example.net"]) for n in range(1, 41)}
    relayd.wait_event("upstream.down")
    relayd.password_file(peer.password)  # all of them wait for the right one
    relayd.ctl("retry", "--all")
    relayd.wait_empty(60)

    def arrived():
        return sorted(content(m) for m in peer.messages if b"Subject: many " in m.data)

    wait_for(lambda: len(arrived()) >= len(sent), 30, why=peer.log)
    assert arrived() == sorted(sent.values())
    for event in ("upstream.warned", "message.repeated"):
        assert not relayd.events(event), event


def test_100_recipients_and_20_mib_to_postfix(relayd, neighbour, authority):
    peer = neighbour("postfix")
    relayd.add_upstream(host="localhost", port=peer.port, tls="starttls", tls_ca=authority.ca, username=peer.user,
                        password_file=relayd.password_file(peer.password)).start()
    recipients = [f"p{i}@example.net" for i in range(100)]
    body = (b"0123456789" * 7 + b"\r\n") * (20 << 20 >> 6)
    sent = relayd.send("large", recipients=recipients, body=body)
    got = wait_for(lambda: [m for m in peer.messages if b"Subject: large\r\n" in m.data[:4000]], 60, why=peer.log)
    assert sorted(r for m in got for r in m.recipients) == sorted(recipients)
    assert content(got[0]) == sent


@pytest.mark.parametrize("mechanism", ["plain", "login", "cram-md5", "scram-sha-256"])
def test_each_mechanism_logs_in(relayd, neighbour, authority, mechanism):
    peer = neighbour("postfix")
    relayd.add_upstream(host="localhost", port=peer.port, tls="starttls", tls_ca=authority.ca, username=peer.user,
                        auth=mechanism, password_file=relayd.password_file(peer.password)).start()
    relayd.send(f"by {mechanism}")
    wait_for(lambda: [m for m in peer.messages if f"Subject: by {mechanism}\r\n".encode() in m.data], 20,
             why=lambda: peer.log() + relayd.log())


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
def test_a_token_from_a_command_logs_in(relayd, sink, mechanism):
    sink.mechanisms, sink.passwords = (mechanism,), {"user": "token-of-today"}
    relayd.to_sink(sink, password_file=None, auth=mechanism.lower(), password_command="echo token-of-today")
    del relayd.settings['upstream "up"']["password_file"]
    relayd.start()
    relayd.send("by token")
    sink.wait(1)
    assert sink.logins[-1] == ("user", mechanism, True)


def test_trace_fields_are_added_and_nothing_else(relayd, sink):
    """One Received on top; Date and Message-ID only where missing (RFC 6409 8)."""
    relayd.to_sink(sink).start()
    with relayd.smtp() as smtp:
        smtp.sendmail("a@example.net", ["b@example.net"], b"Subject: bare\r\n\r\nx\r\n")
    header = sink.wait_subject("bare").data.partition(b"\r\n\r\n")[0]
    names = [line.partition(b":")[0] for line in header.split(b"\r\n") if line[:1] not in b" \t"]
    assert sorted(names) == [b"Date", b"Message-ID", b"Received", b"Subject"]
    assert names[0] == b"Received"
