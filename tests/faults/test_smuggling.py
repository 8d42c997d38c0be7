"""Row 39: each row of end-of-data.vectors (what the scanners smtpsmug and The-Login send, and more) against the whole
relayd, with real segments, by TCP and by the unix socket: one message, one answer, a normal session afterwards; and
upstream goes what the row says, clean, by DATA and by BDAT, also where the upstream is one that could be fooled."""

import re

import pytest

from figures import count
from hostile import Client, run, vectors
from ledger import NUMBER
from relayd import content
from tools import wait_for

EVIL = b"evil@bench.example"
ENVELOPE = b"MAIL FROM:<" + EVIL + b">\r\nRCPT TO:<" + EVIL + b">\r\n"
SMUGGLED = (ENVELOPE + b"DATA\r\nSubject: bench 99999999\r\n\r\nevil",
            ENVELOPE + b"BDAT 30 LAST\r\nSubject: bench 99999999\r\n\r\nevi",
            b"RSET\r\nEHLO evil\r\n" + ENVELOPE + b"DATA\r\nSubject: bench 99999999\r\n\r\nevil")
DIRTY = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
UPSTREAM = {"EHLO", "MAIL", "RCPT", "DATA", "BDAT", "AUTH", "STARTTLS", "QUIT", "CONNECT", "RSET", "NOOP"}


class Attempt:
    """A message with a vector and something smuggled in it: how it is sent, and what has to come of it."""

    def __init__(self, ledger, vector, number, bdat):
        smuggled = SMUGGLED[number % len(SMUGGLED)]
        kept = vector.in_bdat if bdat else vector.in_data
        end = b"\r\n.\r\nQUIT\r\n" if bdat else b"\r\n"
        self.entry = ledger.new(body=b"hello" + kept + smuggled + end)
        self.second = ledger.new(body=b"second\r\n")
        head = self.entry.data[:-len(kept + smuggled + end)]
        self.content = head + vector.sent + smuggled + (end if bdat else b"\r\n.\r\n")
        self.at = len(head)  # the vector begins here
        self.vector, self.bdat = vector, bdat
        self.code = "550 5.6.0" if vector.has_nul else "250 2.0.0"

    def pieces(self, cut):
        """cut: None, "bytes", or how many bytes behind the start of the vector the first piece ends."""
        if cut is None:
            return [self.content]
        if cut == "bytes":
            near = range(self.at - 2, self.at + len(self.vector.sent) + 2)
            return [self.content[:near[0]], *(self.content[i:i + 1] for i in near), self.content[near[-1] + 1:-5],
                    *(self.content[i:i + 1] for i in range(len(self.content) - 5, len(self.content)))]
        if cut == "end":
            return [self.content[:-2], self.content[-2:]]
        return [self.content[:self.at + cut], self.content[self.at + cut:]]

    def say(self, client, entry):
        return client.send(b"MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\n" % (entry.sender.encode(), entry.recipients[0].encode()))

    async def send_data(self, client, cut):
        await client.send(b"DATA\r\n")
        assert (await client.reply()).startswith("354 ")
        await client.send(*self.pieces(cut))
        return await client.reply()

    async def send_bdat(self, client, cut):
        """Each piece is a chunk; an empty one is the last."""
        pieces = self.pieces(cut)
        await client.send(*(b"BDAT %d\r\n%s" % (len(piece), piece) for piece in pieces))
        replies = await client.replies(len(pieces))
        first_bad = next((i for i, reply in enumerate(replies) if reply[:1] != "2"), len(pieces))
        assert [reply[:3] for reply in replies[first_bad + 1:]] == ["551"] * (len(pieces) - first_bad - 1)
        await client.send(b"BDAT 0 LAST\r\n")
        last = await client.reply()
        if first_bad == len(pieces):
            return last
        assert last.startswith("551 ")
        return replies[first_bad]

    async def run(self, where, cut):
        client = await (await Client.connect(where)).greet()
        await self.say(client, self.entry)
        await client.replies(2)
        self.entry.answer = await (self.send_bdat if self.bdat else self.send_data)(client, cut)
        assert self.entry.answer.startswith(self.code), (self.vector.name, self.bdat, cut, self.entry.answer)
        await self.say(client, self.second)
        await client.send(b"DATA\r\n")
        assert [reply[:3] for reply in await client.replies(3)] == ["250", "250", "354"], (self.vector.name, cut)
        await client.send(self.second.data + b".\r\n")
        self.second.answer = await client.reply()
        assert self.second.answer.startswith("250 ")
        await client.send(b"QUIT\r\n")
        assert [reply[:3] for reply in await client.rest()] == ["221"], (self.vector.name, cut)
        await client.close()


def attempts(ledger, relayd):
    """Everything once: (attempt, where, cut)."""
    number = 0
    for vector in vectors():
        for where in (relayd.port, relayd.submit):
            for bdat in (False, True):
                for cut in (None, "bytes", "end", *range(-1, len(vector.sent) + 1)):
                    yield Attempt(ledger, vector, number, bdat), where, cut
                    number += 1


@pytest.mark.parametrize("chunking", [True, False], ids=["BDAT", "DATA"])
def test_no_vector_smuggles_anything(relayd, sink, ledger, chunking):
    """With all the pieces that the core's test makes (test_vectors.c), but through sockets, disk and upstream."""
    if not chunking:
        sink.extensions = [word for word in sink.extensions if word != "CHUNKING"]
    relayd.set("limits", {"errors": 100})
    relayd.to_sink(sink).start()
    pids = sorted(relayd.pids())
    todo = list(attempts(ledger, relayd))
    run(attempt.run(where, cut) for attempt, where, cut in todo)
    ledger.settle(120)
    found = ledger.check("test_smuggling", rows=[39], exact=True, hostile_dialogues=len(todo))
    assert found["delivered"] == found["messages_acknowledged"] == len(sink.messages)
    assert found["messages_acknowledged"] == sum(1 if a.vector.has_nul else 2 for a, _, _ in todo)
    assert not [message.data for message in sink.messages if DIRTY.search(message.data)]  # C1
    assert {verb for verb, _ in sink.commands} <= UPSTREAM
    assert ("BDAT" in {verb for verb, _ in sink.commands}) == chunking  # a session's first message goes by DATA always
    assert sorted(relayd.pids()) == pids  # I8


# The way of smtpsmug: is a vector alone an end of data?

async def wait_in_vain(where, vector):
    """The vector alone brings no answer; the true end brings one."""
    client = await (await Client.connect(where)).greet()
    await client.send(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
    await client.replies(3)
    await client.send(b"Subject: scan\r\n\r\nhello" + vector.sent)
    try:
        early = await client.line(timeout=0.5)
        return f"{vector.name}: {early}"
    except TimeoutError:
        pass
    except EOFError as error:
        return f"{vector.name}: closed {error}"
    await client.send(b"\r\n.\r\nQUIT\r\n")
    replies = await client.rest()
    await client.close()
    return [reply[:3] for reply in replies] in (["250", "221"], ["550", "221"]) or f"{vector.name}: {replies}"


def test_no_vector_alone_is_answered(relayd, sink):
    relayd.to_sink(sink).start()
    results = run([wait_in_vain(where, vector) for vector in vectors() for where in (relayd.port, relayd.submit)], 100)
    assert [result for result in results if result is not True] == []
    relayd.wait_empty()
    assert len(sink.messages) == sum(not vector.has_nul for vector in vectors()) * 2
    count("test_smuggling.scan", rows=[39], hostile_dialogues=len(results))


# An upstream that is real: Debian 12's Postfix lets a line end in a bare LF by default.

@pytest.mark.parametrize("chunking", [True, False], ids=["BDAT", "DATA"])
def test_a_lenient_upstream_is_not_fooled_either(relayd, neighbour, authority, ledger, chunking):
    peer = neighbour("postfix")
    relayd.add_upstream(host="localhost", port=peer.port, tls="starttls", tls_ca=authority.ca, username=peer.user,
                        password_file=relayd.password_file(peer.password), chunking=chunking).start()
    todo = [Attempt(ledger, vector, number, bdat) for number, vector in enumerate(vectors()) for bdat in (False, True)
            if not vector.has_nul]
    token = f"{relayd.port}.{chunking}".encode()  # the neighbour serves other tests as well
    for attempt in todo:
        for entry in (attempt.entry, attempt.second):
            entry.data = entry.data.replace(b"Message-ID: <", b"Message-ID: <" + token + b".")
        attempt.content = attempt.content.replace(b"Message-ID: <", b"Message-ID: <" + token + b".")
        attempt.at += len(token) + 1
    run((attempt.run(relayd.port, None) for attempt in todo), 4)
    relayd.wait_empty(60)

    def arrived():
        return [message for message in list(peer.messages) if b"Message-ID: <" + token in message.data]

    wait_for(lambda: len(arrived()) >= 2 * len(todo), 60, why=lambda: f"{len(arrived())} of {2 * len(todo)}\n{peer.log()}")
    assert not [message for message in list(peer.messages) if EVIL.decode() in message.recipients]
    entries = {entry.number: entry for attempt in todo for entry in (attempt.entry, attempt.second)}
    assert len(arrived()) == len(entries)
    for message in arrived():
        entry = entries.pop(int(NUMBER.search(message.data)[1]))
        assert content(message) == entry.data
        assert message.recipients == entry.recipients
    count("test_smuggling.postfix", rows=[39], hostile_dialogues=len(todo), messages_acknowledged=2 * len(todo),
          delivered=2 * len(todo))
