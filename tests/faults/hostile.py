"""Clients that do not behave: raw bytes by TCP or the unix socket, in the pieces that a test wants, many at a time."""

import asyncio
import pathlib
import re
import socket
import struct

VECTORS = pathlib.Path(__file__).resolve().parent.parent / "dialogues" / "end-of-data.vectors"
ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)")
MEANING = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"s": b" "}
AT_ONCE = 60  # clients


def unescape(text):
    return ESCAPE.sub(lambda m: MEANING.get(m[1]) or bytes.fromhex(m[1][1:].decode()), text)


class Vector:
    """One row of end-of-data.vectors; in_data and in_bdat are what is kept of it."""

    def __init__(self, line):
        name, in_data, in_bdat, wrong = line.split()
        self.name, self.wrong = name.decode(), wrong.decode()
        self.sent, self.in_data, self.in_bdat = map(unescape, (name, in_data, in_bdat))

    @property
    def has_nul(self):
        return self.wrong in ("nul", "both")


def vectors():
    return [Vector(line) for line in VECTORS.read_bytes().splitlines() if line and not line.startswith(b"#")]


class Client:
    """One connection. Each send() is a segment of its own (TCP_NODELAY, and a moment between two)."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, where, timeout=20, small=False):
        """where: a port on 127.0.0.1, or the path of a unix socket. small: with little room in our end's buffers."""
        raw = socket.socket(socket.AF_INET if isinstance(where, int) else socket.AF_UNIX)
        raw.setblocking(False)
        if small:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        address = ("127.0.0.1", where) if isinstance(where, int) else str(where)
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(raw, address), timeout)
        if raw.family == socket.AF_INET:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(*await asyncio.open_connection(sock=raw))

    async def send(self, *pieces, pause=0.002):
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(pause)
            self.writer.write(piece)
        await self.writer.drain()

    async def line(self, timeout=20):
        line = await asyncio.wait_for(self.reader.readline(), timeout)
        if not line.endswith(b"\r\n"):
            raise EOFError(line)
        return line[:-2].decode()

    async def reply(self, timeout=20):
        """One reply: its last line."""
        while (line := await self.line(timeout))[3:4] == "-":
            pass
        return line

    async def replies(self, count):
        return [await self.reply() for _ in range(count)]

    async def rest(self, timeout=20):
        """All that still comes until the other end closes, as replies; a reset ends it as well."""
        found = []
        try:
            while True:
                found.append(await self.reply(timeout))
        except (EOFError, ConnectionError):
            return found

    async def say(self, text):
        await self.send(text.encode() + b"\r\n")
        return await self.reply()

    async def greet(self):
        """From the connection to the answer to EHLO."""
        assert (await self.reply()).startswith("220 ")
        assert (await self.say("EHLO client.test")).startswith("250 ")
        return self

    async def half_close(self):
        self.writer.write_eof()

    def reset(self):
        """The connection ends with RST."""
        raw = self.writer.get_extra_info("socket")
        if raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()

    async def close(self):
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


async def all_of(work, at_once=AT_ONCE):
    """Awaits each of the coroutines, so many at a time; their results in order."""
    turn = asyncio.Semaphore(at_once)

    async def one(coroutine):
        async with turn:
            return await coroutine

    return await asyncio.gather(*map(one, work))


def run(work, at_once=AT_ONCE, seconds=120):
    return asyncio.run(asyncio.wait_for(all_of(work, at_once), seconds))
