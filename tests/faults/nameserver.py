"""A name server on loopback whose answers are data: nameserver.answer(query) gives bytes, or None for silence.

The functions below make such answers; each name that is asked for gets the same."""

import socket
import struct
import threading

A, AAAA = 1, 28
TRUNCATED = 0x0200


class Query:
    def __init__(self, data):
        self.id = data[:2]
        end = data.index(b"\0", 12) + 5
        self.question = data[12:end]
        self.type = struct.unpack("!H", data[end - 4:end - 2])[0]


def reply(query, records=b"", count=0, rcode=0, flags=0, number=None, question=None):
    return ((number or query.id) + struct.pack("!HHHHH", 0x8180 | flags | rcode, 1, count, 0, 0) +
            (question or query.question) + records)


def record(address="127.0.0.1", name=b"\xc0\x0c", kind=A, ttl=1):
    family = socket.AF_INET if kind == A else socket.AF_INET6
    data = socket.inet_pton(family, address)
    return name + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


def right(query):
    """127.0.0.1, and no IPv6."""
    return reply(query, record(), 1) if query.type == A else reply(query)


def only_a(answer):
    """The one answer to A, and none to AAAA."""
    return lambda query: answer(query) if query.type == A else reply(query)


def wrong_id(query):
    return reply(query, record(), 1, number=bytes(byte ^ 0x5a for byte in query.id))


ANSWERS = {  # name → (what is answered, words of why; None: it is as good as any other)
    "nxdomain": (lambda query: reply(query, rcode=3), "does not exist"),
    "empty": (reply, "DNS"),
    "servfail": (lambda query: reply(query, rcode=2), ""),
    "refused": (lambda query: reply(query, rcode=5), "DNS"),
    "not-implemented": (lambda query: reply(query, rcode=4), "DNS"),
    "truncated": (lambda query: reply(query, flags=TRUNCATED), "DNS"),
    "silence": (lambda query: None, "no name server answered"),
    "thousand-records": (only_a(lambda query: reply(query, record() * 1000, 1000)), None),
    "garbage": (lambda query: query.id + b"\x81\x80" + b"\xff" * 100, ""),
    "short": (lambda query: query.id, "no name server answered"),
    "name-in-a-circle": (only_a(lambda query: reply(query, record(), 1, question=b"\xc0\x0c\0\1\0\1")), ""),
    "records-that-are-not-there": (only_a(lambda query: reply(query, b"", 65535)), ""),
    "wrong-id": (wrong_id, "no name server answered"),
    "another-question": (lambda query: reply(query, record(), 1, question=b"\5other\4test\0\0\1\0\1"), ""),
    "a-lie": (only_a(lambda query: reply(query, record("127.9.9.9"), 1)), "refused"),
}


class NameServer:
    def __init__(self, answer=right):
        self.answer, self.asked = answer, 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    @property
    def resolv_conf(self):
        return f"nameserver 127.0.0.1:{self.port}\n"

    def serve(self):
        while True:
            try:
                data, client = self.socket.recvfrom(4096)
            except OSError:
                return
            self.asked += 1
            if (answer := self.answer(Query(data))) is not None:
                self.socket.sendto(answer, client)

    def stop(self):
        self.socket.close()
