"""Clients that break the rules: rows 40, 44, 45, 46. By the ledger: what was cut
or refused never arrives, recipients of two messages never mix, each command has one reply, and no process ends."""

import asyncio
import random
import re
import time

import pytest

from hostile import Client, run
from ledger import NUMBER
from relayd import content

EIGHT_BIT = "Grüße, здравствуйте\r\n".encode() + bytes(range(128, 256)) + b"\r\n"


@pytest.fixture(name="up")
def make_up(relayd, sink):
    """relayd with its sink, started, with room for errors; and who its processes are."""
    relayd.set("limits", {"errors": 10000})
    relayd.to_sink(sink).start()
    relayd.were = sorted(relayd.pids())
    return relayd


def finish(ledger, test, rows, dialogues):
    assert ledger.send().is_acknowledged
    ledger.settle()
    assert sorted(ledger.relayd.pids()) == ledger.relayd.were
    return ledger.check(test, rows=rows, exact=True, hostile_dialogues=dialogues)


# Row 40: eight bits, said or not.

@pytest.mark.parametrize("offered", [True, False])
def test_eight_bits_that_nobody_announced(up, sink, ledger, offered):
    """Taken as they are and passed on with BODY=8BITMIME; where the upstream cannot, the sender is told with 5.6.3."""
    if not offered:
        sink.extensions = [word for word in sink.extensions if word not in ("8BITMIME", "SMTPUTF8")]
    entries = [ledger.send(body=EIGHT_BIT), ledger.send(body=b"plain\r\n")]
    assert all(entry.is_acknowledged for entry in entries)
    found = finish(ledger, "test_hostile.eight_bit", [40], 1)
    assert found["bounced"] == (0 if offered else 1)
    if offered:
        got = next(m for m in sink.messages if content(m) == entries[0].data)
        assert "BODY=8BITMIME" in got.sender_params
    else:
        assert up.events("message.bounced")[0]["reply"].startswith("554 5.6.3 ")


def test_addresses_that_are_not_ascii(up, sink, ledger):
    """553 5.6.7 without SMTPUTF8, 501 where it is not even UTF-8; with it they arrive; else 5.6.7 to the sender."""
    async def scene():
        client = await (await Client.connect(up.port)).greet()
        rows = [("MAIL FROM:<jörg@bench.example>", "553 5.6.7"), ("MAIL FROM:<a@bücher.example>", "553 5.6.7"),
                (b"MAIL FROM:<j\xf6rg@bench.example> SMTPUTF8", "501 5.6.7"),
                (b"MAIL FROM:<j\xc3@bench.example> SMTPUTF8", "501 5.6.7"),
                (b"MAIL FROM:<\xed\xa0\x80@bench.example> SMTPUTF8", "501 5.6.7"),
                (b"MAIL FROM:<\xc0\xafx@bench.example> SMTPUTF8", "501 5.6.7"),
                ("MAIL FROM:<a@bench.example>", "250"), ("RCPT TO:<jörg@bench.example>", "553 5.6.7"),
                (b"RCPT TO:<j\xf6rg@bench.example>", "501 5.6.7"), ("DATA", "554 5.5.1")]
        for line, code in rows:
            await client.send((line if isinstance(line, bytes) else line.encode()) + b"\r\n")
            reply = await client.reply()
            assert reply.startswith(code), (line, reply)
        await client.close()
        return len(rows)

    dialogues = asyncio.run(scene())
    sink.extensions = [word for word in sink.extensions if word != "SMTPUTF8"]
    with up.smtp() as smtp:
        smtp.ehlo()
        smtp.sendmail("ann@bench.example", ["jörg@bench.example"], "From: jörg\r\nSubject: no\r\n\r\n".encode(),
                      ["SMTPUTF8"])
    assert up.wait_event("message.bounced")[0]["reply"].startswith("553 5.6.7 ")
    finish(ledger, "test_hostile.utf8", [40], dialogues + 1)
    told = [message for message in sink.messages if message.sender == ""]
    assert len(told) == 1 and told[0].recipients == ["ann@bench.example"] and told[0].data.isascii()
    assert b"Final-Recipient: utf-8; j=C3=B6rg@bench.example\r\n" in told[0].data


# Rows 44, 45: clients that go, at every byte.

def transcript(entry, bdat):
    """The parts of one session, each with the number of replies to wait for after it."""
    envelope = b"MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\n" % (entry.sender.encode(), entry.recipients[0].encode())
    half = len(entry.data) // 2
    if bdat:
        return [(b"EHLO x\r\n", 1), (envelope, 2), (b"BDAT %d\r\n%s" % (half, entry.data[:half]), 1),
                (b"BDAT %d LAST\r\n%s" % (len(entry.data) - half, entry.data[half:]), 0)]
    return [(b"EHLO x\r\n", 1), (envelope, 2), (b"DATA\r\n", 1), (entry.data + b".\r\n", 0)]


async def go_away(where, entry, bdat, cut, how):
    """Sends `cut` bytes of the transcript and goes: by "FIN", by "RST", or with a half-close ("half")."""
    client = await Client.connect(where)
    await client.reply()
    parts = transcript(entry, bdat)
    is_whole = cut == sum(len(part) for part, _ in parts)
    entry.answer = "unknown" if is_whole else "cut"
    for part, replies in parts:
        await client.send(part[:cut])
        cut -= len(part)
        if cut < 0:
            break
        await client.replies(replies)
    if how == "half":
        await client.half_close()
        last = (await client.rest() or [""])[-1]
        assert last.startswith("250 2.0.0 Ok: queued") == is_whole, (entry.number, last)
        entry.answer = last if is_whole else entry.answer
    if how == "RST":
        client.reset()
    else:
        await client.close()


def segments(spool):
    return sorted(path.name for path in spool.glob("intake-*.seg"))


@pytest.mark.parametrize("bdat", [False, True], ids=["DATA", "BDAT"])
def test_clients_that_go_at_every_byte(up, sink, ledger, bdat):
    """Nothing of what was cut is in the spool, whatever comes later; half-closed after the end is a complete message."""
    ledger.send()
    time.sleep(0.5)  # segments are prepared ahead
    before = segments(up.spool)
    work = []
    length = sum(len(part) for part, _ in transcript(ledger.new(body=b"never\r\n.\r\nseen\r\n"), bdat))
    for cut in range(length + 9):
        for how in ("FIN", "RST", "half"):
            entry = ledger.new(body=b"never\r\n\r\nseen\r\n")
            if cut > (length := sum(len(part) for part, _ in transcript(entry, bdat))):
                entry.answer = "cut"
                continue
            where = up.submit if (cut + len(work)) % 5 == 0 else up.port
            work.append(go_away(where, entry, bdat, cut, how))
    ledger.entries[1].answer = "cut"  # the measure, never sent
    run(work)
    stored = [e for e in ledger.entries.values() if e.answer == "unknown" or e.is_acknowledged]
    kept = {int(number) for path in up.spool.glob("intake-*.seg")
            for number in re.findall(rb"Message-ID: <(\d+)\.ledger@", path.read_bytes())}
    assert not [entry for entry in ledger.entries.values() if entry.answer == "cut" and entry.number in kept]
    assert len(segments(up.spool)) == len(before)
    assert len(up.events("session.lost")) > length
    found = finish(ledger, "test_hostile.go_" + ("bdat" if bdat else "data"), [44, 45], len(work))
    assert found["delivered"] <= len(stored) + 1


async def half_closed(where, sent, codes):
    """After `sent` and a half-close, exactly these replies come and then the end."""
    client = await Client.connect(where)
    parts = sent if isinstance(sent, list) else [sent]
    await client.reply()
    replies = []
    for number, part in enumerate(parts):
        await client.send(part)
        if number + 1 < len(parts):
            replies += await client.replies(part.count(b"\r\n"))
    await client.half_close()
    replies += await client.rest()
    assert " ".join(reply[:3] for reply in replies) == codes, (sent, replies)
    await client.close()


def test_half_closed_sessions_get_the_answers_they_asked_for(up, sink, ledger):
    mail = b"MAIL FROM:<a@half.example>\r\nRCPT TO:<b@half.example>\r\n"
    hello = [b"EHLO x\r\n"]
    rows = [(b"", ""), (b"EHLO x\r\n", "250"), (b"EHLO x", ""), (b"QUIT\r\n", "221"), (hello + [mail], "250 250 250"),
            (hello + [mail + b"RSET\r\nRSET\r\nRSET\r\n"], "250 250 250 250 250 250"),
            (hello + [mail + b"DATA\r\n"], "250 250 250 354"),
            (hello + [mail + b"DATA\r\n", b"Subject: x\r\n\r\nhalf\r\n."], "250 250 250 354"),
            (hello + [mail + b"BDAT 20\r\nhalf"], "250 250 250"), (hello + [mail + b"BDAT 4\r\nhalf"], "250 250 250 250"),
            (hello + [b"BDAT 100 LAST\r\nhalf"], "250"), (hello + [b"MAIL FROM:<\r\nNO"], "250 501"),
            (hello + [b"RSET\r\n" * 900 + b"QUIT\r\nRSET\r\n"], "250 " + "250 " * 900 + "554")]
    run(half_closed(where, sent, codes) for sent, codes in rows for where in (up.port, up.submit))
    finish(ledger, "test_hostile.half", [45], 2 * len(rows))
    assert len(sink.messages) == 1


# Row 46: what is not offered, not known, not in order, too long. One reply to each command.

MAIL, RCPT = "MAIL FROM:<a@row.example>", "RCPT TO:<b@row.example>"
# what is sent, each behind the reply to the one before → the code of each
ROWS = [
    (["STARTTLS"], "502"), (["AUTH PLAIN AGEAYg=="], "502"), (["AUTH LOGIN"], "502"), (["ETRN x"], "502"),
    (["EXPN list"], "502"), (["VRFY ann"], "252"), (["VRFY"], "501"), (["TURN"], "502"), (["SEND FROM:<a@b.c>"], "502"),
    (["XCLIENT ADDR=1.2.3.4"], "500"), (["XFORWARD NAME=x"], "500"), (["PROXY TCP4 1.2.3.4 1.2.3.4 1 25"], "500"),
    (["DATA"], "503"), ([RCPT], "503"), ([MAIL, "DATA"], "250 554"), ([MAIL, MAIL], "250 503"),
    (["", "  ", " NOOP", "\t", "NO OP"], "500 500 500 500 500"), (["NOOP " + "x" * 3000], "250"),
    (["NOOP " + "x" * 5000], "500"), (["EHLO " + "h" * 300], "501"), (["HELO"], "501"), (["EHLO"], "501"),
    ([MAIL + " FOO=BAR"], "555"), ([MAIL + " SIZE=x"], "501"), ([MAIL + " BODY=BINARYMIME"], "501"),
    ([MAIL + " AUTH=<>"], "555"), ([MAIL + " REQUIRETLS"], "555"), ([MAIL + " SIZE=1 SIZE=1"], "501"),
    ([MAIL + " " + " ".join(f"X{i}=1" for i in range(300))], "555"), ([MAIL + " SIZE=18446744073709551616"], "552"),
    (["MAIL FROM:<" + "a" * 300 + "@b.example>"], "501"), (["MAIL FROM:<a@" + "b." * 200 + "c>"], "501"),
    (["MAIL FROM:<a@b.example"], "501"), (["MAIL FROM:a@b.example>"], "501"), (["MAIL TO:<a@b.example>"], "501"),
    (["MAIL FROM:<a\0b@c.example>"], "500"), (["MAIL FROM:<a\x1bb@c.example>"], "500"), (["MAIL FROM:<a\rb@c.example>"], "500"),
    ([MAIL + " ENVID=a+0Ab"], "501"), ([MAIL + " ENVID=a+0Db"], "501"), ([MAIL + " ENVID=a+00b"], "501"),
    ([MAIL + " ENVID=a+0ab"], "501"), ([MAIL + " ENVID=+"], "501"), ([MAIL + " ENVID=a+7Fb"], "501"),
    ([MAIL + " ENVID=" + "x" * 101], "501"), ([MAIL + " RET=NONE"], "501"),
    ([MAIL, RCPT + " ORCPT=rfc822;b+0D+0ABcc:x"], "250 501"), ([MAIL, RCPT + " ORCPT=rfc822;b+00"], "250 501"),
    ([MAIL, RCPT + " ORCPT=rfc822;b+1B[31m"], "250 501"), ([MAIL, RCPT + " ORCPT=rfc822\u2028;b"], "250 501"),
    ([MAIL, RCPT + " ORCPT=" + "x" * 600 + ";y"], "250 501"), ([MAIL, RCPT + " NOTIFY=NEVER,SUCCESS"], "250 501"),
    ([MAIL, RCPT + " SIZE=1"], "250 555"), ([MAIL, "RCPT TO:<>"], "250 501"), ([MAIL, "RCPT TO:<a@b@c>"], "250 501"),
    ([MAIL, RCPT, "DATA now"], "250 250 501"), ([MAIL, "BDAT 0 LAST"], "250 554"), (["BDAT 0 LAST"], "503"),
    ([MAIL, RCPT, "BDAT 0"], "250 250 551"), (["RSET now"], "501"), (["NOOP now", "HELP me"], "250 214"),
]
# ... and the connection ends
ENDED = [
    ([MAIL, RCPT, "BDAT x"], "250 250 521"), ([MAIL, RCPT, "BDAT -1 LAST"], "250 250 521"),
    ([MAIL, RCPT, "BDAT 18446744073709551616"], "250 250 521"), ([MAIL, RCPT, "BDAT 1 LASTING"], "250 250 521"),
    ([MAIL, RCPT, "BDAT 0x10"], "250 250 521"), ([MAIL, RCPT, "BDAT 1  LAST x"], "250 250 521"), (["BDAT"], "521"),
    (["GET / HTTP/1.1"], "554"), (["POST / HTTP/1.1"], "554"), (["CONNECT localhost:25 HTTP/1.1"], "554"),
    (["QUIT now"], "221"), (["QUIT"], "221"), (["NOOP " + "x" * 80000], "421"),
    # One flight where the client has to wait: D10.
    (["NOOP\r\nNOOP"], "554"), (["QUIT\r\nNOOP"], "554"), (["EHLO x\r\n" + MAIL], "554"), (["VRFY x\r\n" + MAIL], "554"),
    ([MAIL + "\r\n" + RCPT + "\r\nDATA\r\nSubject: x"], "250 250 554"), (["STARTTLS\r\nEHLO x"], "554"),
    (["AUTH PLAIN AGEAYg==\r\n" + MAIL], "554"),
]


async def say_row(where, commands, codes, ends):
    client = await (await Client.connect(where)).greet()
    replies = []
    for command in commands:
        await client.send(command.encode() + b"\r\n")
        if not ends:
            replies.append(await client.reply())
    if not ends:
        await client.send(b"QUIT\r\n")
        codes += " 221"
    replies += await client.rest()
    await client.close()
    found = " ".join(reply[:3] for reply in replies)
    return None if found == codes else f"{commands}: {replies}"


def test_each_command_has_its_one_reply(up, ledger):
    rows = [(row, codes, False) for row, codes in ROWS] + [(row, codes, True) for row, codes in ENDED]
    bad = run(say_row(where, *row) for row in rows for where in (up.port, up.submit))
    assert [text for text in bad if text] == []
    finish(ledger, "test_hostile.rows", [46], 2 * len(rows))


async def early(where):
    """Speaks before the greeting. It may be that the greeting was on its way already."""
    client = await Client.connect(where)
    client.writer.write(b"EHLO early\r\nMAIL FROM:<a@early.example>\r\n")
    replies = await client.rest(5)
    await client.close()
    return replies


def test_who_speaks_first_is_thrown_out(up, ledger):
    results = run(early(where) for where in [up.port, up.submit] * 50)
    for replies in results:
        assert replies[-1].startswith("554 5.5.0 ") and len(replies) <= 2, replies
    finish(ledger, "test_hostile.early", [46], len(results))


# The property: whatever is sent, in whatever pieces, each command has one reply, in order.

class Chatter:
    """One client with a seed: transactions of all kinds, right and wrong, in flights cut anywhere. It knows from the
    replies alone what each of its messages has become."""

    WRONG = (b"FOO", b"MAIL FROM:<", b"RCPT TO:<a b@x.example>", b"RSET x", b"MAIL FROM:<a@b.example> X=1", b"\x01",
             b"RCPT TO:<>", b"y" * 4500, b"SEND a", b"BDAT 0", b"HELP")

    def __init__(self, ledger, where, seed):
        self.ledger, self.where, self.dice = ledger, where, random.Random(seed)
        self.flight = []  # (bytes, what its reply means)
        self.sender, self.taken, self.chunks = None, [], b""
        self.sent = self.heard = self.finished = 0
        self.ends = False

    def fresh(self):
        return self.ledger.new(recipients=self.dice.randrange(1, 5), body=b"%d\r\n" % self.dice.getrandbits(64))

    # What a reply means for the transaction.

    def reset(self, reply):
        if reply[0] == "2":
            self.sender, self.taken, self.chunks = None, [], b""

    def mail(self, entry, reply):
        if reply[0] == "2":
            assert self.sender is None, "MAIL inside a transaction was taken"
            self.sender, self.taken, self.chunks = entry, [], b""

    def rcpt(self, name, reply):
        if reply[0] == "2":
            assert self.sender is not None, "RCPT without MAIL was taken"
            self.taken.append(name)

    def chunk(self, data, is_last, reply):
        if reply[0] == "2":
            assert self.taken, "a chunk without a recipient was taken"
            self.chunks += data
        if is_last and (reply[0] == "2" or self.sender is not None):
            self.end(reply, self.chunks)

    def end(self, reply, data):
        """The message is over. The ledger gets what this very transaction was; its content may be that of a message
        whose own MAIL was refused."""
        taken = self.taken
        self.sender, self.taken, self.chunks = None, [], b""
        if reply[0] == "2":
            assert "queued as" in reply, reply
            entry = self.ledger.entries[int(NUMBER.search(data)[1])]
            entry.answer, entry.recipients, entry.data = reply, taken, data
            self.finished += 1

    # Flights.

    def add(self, data, meaning=lambda reply: None):
        self.flight.append((data, meaning))

    def plan(self):
        """One transaction, with something wrong in it as often as not. Gives its entry if it goes on with DATA."""
        entry = self.fresh()
        entry.answer = "cut"  # until it is more
        steps = [(b"MAIL FROM:<%s>\r\n" % entry.sender.encode(), lambda reply: self.mail(entry, reply))]
        for name in entry.recipients:
            steps.append((b"RCPT TO:<%s>\r\n" % name.encode(), lambda reply, name=name: self.rcpt(name, reply)))
        while self.dice.random() < 0.4:
            steps.insert(self.dice.randrange(len(steps) + 1), (self.dice.choice(self.WRONG) + b"\r\n", lambda reply: None))
        if self.dice.random() < 0.15:
            steps.insert(self.dice.randrange(len(steps) + 1), (b"RSET\r\n", self.reset))
        if self.dice.random() < 0.15:
            del steps[self.dice.randrange(len(steps))]
        self.flight += steps
        if self.dice.random() < 0.5:
            return entry
        data = entry.data
        while data or self.dice.random() < 0.2:
            part, data = data[:(size := self.dice.randrange(1, 120))], data[size:]
            is_last = not data and self.dice.random() < 0.7
            self.add(b"BDAT %d%s\r\n%s" % (len(part), b" LAST" if is_last else b"", part),
                     lambda reply, part=part, is_last=is_last: self.chunk(part, is_last, reply))
            if is_last:
                return None
        self.ends = self.dice.random() < 0.5  # EHLO is the last of its flight
        self.add(b"EHLO again\r\n" if self.ends else b"RSET\r\n", self.reset)
        return None

    def pieces(self, data):
        found = []
        while data:
            size = self.dice.choice((1, 2, 3, 7, 20, 100, 1000, 5000))
            found.append(data[:size])
            data = data[size:]
        return found

    async def fly(self, client):
        """Sends the flight, with all replies read; each meaning is told its reply."""
        flight, self.flight = self.flight, []
        data = b"".join(part for part, _ in flight)
        sending = asyncio.create_task(client.send(*self.pieces(data), pause=0))
        self.sent += len(flight)
        for _, meaning in flight:
            reply = await client.reply()
            self.heard += 1
            assert not reply.startswith(("421", "521", "554 5.5.0")), reply
            meaning(reply)
        await sending

    async def data(self, client, entry):
        """DATA stands alone at the end of a flight; its content is one command more."""
        started = []
        self.add(b"DATA\r\n", started.append)
        await self.fly(client)
        if not started[0].startswith("354"):
            return
        assert self.taken, "DATA without a recipient was taken"
        self.add(entry.data + b".\r\n", lambda reply: self.end(reply, entry.data))
        await self.fly(client)

    async def run(self, transactions=12):
        client = await (await Client.connect(self.where)).greet()
        for _ in range(transactions):
            entry = self.plan()
            if entry is None and not self.ends and self.dice.random() < 0.5:
                continue  # the next one goes with this flight
            self.ends = False
            if entry is not None:
                await self.data(client, entry)
            else:
                await self.fly(client)
        self.add(b"RSET\r\n", self.reset)
        await self.fly(client)
        await client.send(b"QUIT\r\n")
        assert [reply[:3] for reply in await client.rest()] == ["221"]
        await client.close()


def test_each_command_has_one_reply_in_any_order_and_any_pieces(up, ledger):
    """Seeds are fixed, so that a failure comes again. L2 and L3 say that no recipient of another message got it."""
    chatters = [Chatter(ledger, (up.port, up.submit)[seed % 2], seed) for seed in range(150)]

    async def one(chatter, seed):
        try:
            await chatter.run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error

    run([one(chatter, seed) for seed, chatter in enumerate(chatters)], 30)
    assert all(chatter.sent == chatter.heard for chatter in chatters)
    finished = sum(chatter.finished for chatter in chatters)
    print(f"{sum(chatter.sent for chatter in chatters)} commands, {finished} messages")
    assert finished > 150
    found = finish(ledger, "test_hostile.property", [46], len(chatters))
    assert found["messages_acknowledged"] == finished + 1


async def pour_out(where, seed):
    """Says anything and waits for nothing; what came back and whether the end was a good one."""
    dice = random.Random(seed)
    words = [b"EHLO x", b"MAIL FROM:<a@pour.example>", b"RCPT TO:<b@pour.example>", b"DATA", b".", b"RSET", b"NOOP", b"QUIT",
             b"BDAT 4", b"abcd", b"BDAT 3 LAST", b"VRFY x", b"", b"\xff\xfe", b"AUTH PLAIN", b"STARTTLS", b"Subject: x", b"HELP"]
    client = await Client.connect(where)
    await client.reply()
    lines = [dice.choice(words) for _ in range(dice.randrange(1, 60))]
    try:
        for line in lines:
            await client.send(line + dice.choice((b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"")), pause=0)
            if dice.random() < 0.3:
                await asyncio.sleep(0.002)
        await client.half_close()
    except (OSError, RuntimeError):
        pass  # it has been thrown out
    replies = await client.rest()
    await client.close()
    too_many = len(replies) > len(lines) + 1
    closed = [i for i, reply in enumerate(replies) if reply[:3] in ("421", "521", "221") or reply.startswith("554 5.5.0")]
    return not too_many and closed in ([], [len(replies) - 1]) or f"seed {seed}: {lines} {replies}"


def test_babble_gets_no_more_replies_than_lines(up, ledger):
    """No waiting, no sense: at most one reply for each line, and after a last one nothing."""
    ledger_free = run(pour_out((up.port, up.submit)[seed % 2], seed) for seed in range(400))
    assert [result for result in ledger_free if result is not True] == []
    up.wait_empty()
    finish(ledger, "test_hostile.babble", [46], len(ledger_free))
