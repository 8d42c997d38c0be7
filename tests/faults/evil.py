"""An upstream that misbehaves as data says: the sink of tests/e2e with misdeeds.

    evil.misdeeds = [Misdeed("rcpt", [say("421 4.3.2 Later"), close], times=2)]

A misdeed has a place (POINTS), what is done there (a list of the deeds below, one after the other) and how often
(times; None: until it is mended). skip lets some pass first. Without `usual` among its deeds the upstream does nothing
else there; where none closes, the session goes on. What happened is counted in evil.seen (each point that was reached)
and evil.done (misdeeds), and evil.took tells how long a session stayed after its misdeed."""

import base64
import collections
import hashlib
import hmac
import os
import socket
import ssl
import struct
import threading
import time
import warnings

from sink import PASSWORD, Sink
from tools import demo_provider, openssl

Gone = demo_provider.Gone

# In the order of a session. ehlo: in clear, before STARTTLS; hello: the one that counts. body: some bytes of the
# message have come, by DATA or BDAT. dot: all of it has; kept: and it has been stored; said: and that was said.
POINTS = ("connect", "greeting", "ehlo", "starttls", "tls", "hello", "auth", "mail", "rcpt", "data", "bdat", "body",
          "dot", "kept", "said", "rset", "quit")
BODY_BYTES = 100
MOST_BYTES = 64 << 20  # of something endless


class Misdeed:
    def __init__(self, at, do, times=1, skip=0):
        assert at in POINTS, at
        self.at, self.do, self.times, self.skip = at, do, times, skip

    def copy(self):
        return Misdeed(self.at, self.do, self.times, self.skip)


# ---- deeds: each gets the session, and what would have been done at that point ----

def usual(_, go):
    go()


def close(*_):
    raise Gone


def hear(session, _):
    """Lets the client speak first."""
    session.fill()


def hang(session, _):
    """Listens and says nothing, until the client goes."""
    while True:
        session.fill()
        session.buffer.clear()


def deaf(session, _):
    """Does not even read. (Whether the client has gone nobody learns then: its FIN waits behind what is unread.)"""
    session.provider.mended.wait(60)
    raise Gone


def sip(session, _):
    """Reads, but hardly: 200 bytes a second, of whatever TLS has made of them."""
    while not session.provider.mended.wait(0.1):
        os.read(session.connection.fileno(), 20)
    raise Gone


def narrow(session, go):
    """The smallest window that the kernel allows."""
    session.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    go()


def reset(session, _):
    """Closes with RST: the client may lose what it has not read yet."""
    session.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise Gone


def half_close(session, go):
    socket.socket.shutdown(session.connection, socket.SHUT_WR)
    hang(session, go)


def close_notify(session, _):
    """Ends TLS and keeps the connection: what is said next is in clear (Exim's Dead.Letter)."""
    clear = socket.socket(fileno=os.dup(session.connection.fileno()))
    session.connection.settimeout(0.05)
    try:
        session.connection.unwrap()
    except OSError:
        pass  # it waits for the client's, which does not come
    clear.settimeout(None)
    session.connection, session.tls_version = clear, None


def raw(data):
    """These bytes."""
    def deed(session, _):
        session.put(data)
    return deed


def say(*lines):
    return raw("".join(line + "\r\n" for line in lines).encode())


def together(*deeds):
    """All that is said in one write, so in one segment and one TLS record."""
    def deed(session, go):
        session.held = bytearray()
        try:
            for each in deeds:
                each(session, go)
        finally:
            data, session.held = bytes(session.held), None
            session.put(data)
    return deed


def swap(reply):
    """Within together(): another reply in the place of the one just given."""
    def deed(session, _):
        session.held[:] = (reply + "\r\n").encode()
    return deed


def take_message(session, _):
    """What follows a 354 that was said."""
    session.keep(session.read_data())


def ask_again(session, _):
    """A login that never ends: each answer is followed by another question."""
    for _ in range(1000):
        session.put(b"334 \r\n")
        if session.line() == "*":
            session.provider.cancelled += 1
            session.put(b"501 5.7.0 Cancelled\r\n")
            return
    raise AssertionError("a thousand questions were answered")


def answer_cancel(session, _):
    """A login that the client gives up (*)."""
    session.provider.cancelled += session.line() == "*"
    session.put(b"501 5.7.0 Cancelled\r\n")


def drip(data, seconds):
    """One byte at a time, for ever: what has an end begins again."""
    def deed(session, _):
        for at in range(10000):
            session.put(data[at % len(data):at % len(data) + 1])
            time.sleep(seconds)
    return deed


def endless(data):
    """The same again and again, as fast as it is taken."""
    def deed(session, _):
        block = data * (65536 // len(data) + 1)
        for _ in range(MOST_BYTES // len(block)):
            session.put(block)
        raise AssertionError(f"the client took {MOST_BYTES} bytes of {data[:40]}")
    return deed


def wait(seconds):
    return lambda session, go: time.sleep(seconds)


class EvilSession(demo_provider.Session):
    held = None

    def run(self):
        with self.provider.changed:
            self.provider.alive.add(self)
        try:
            super().run()
        finally:
            with self.provider.changed:
                self.provider.alive.discard(self)

    def put(self, data):
        if self.held is not None:
            self.held += data
            return
        try:
            self.connection.sendall(data)
        except (OSError, ValueError) as error:
            raise Gone from error

    def say(self, *lines):
        self.put("".join(line + "\r\n" for line in lines).encode())

    def at(self, point, go):
        """Comes to this point: does what is usual there (go) or the next misdeed."""
        misdeed = self.provider.next(point)
        if misdeed is None:
            go()
            return
        begin, self.provider.begun = time.monotonic(), time.time()
        try:
            for deed in misdeed.do:
                deed(self, go)
        except Gone:
            self.provider.took.append((point, time.monotonic() - begin))
            raise

    # The points.

    def greet(self):
        self.provider.gate.wait(5)
        if not self.provider.implicit_tls:
            self.at("connect", lambda: None)
        self.at("greeting", super().greet)

    def start_tls(self):
        if self.provider.implicit_tls:
            self.at("connect", lambda: None)
        self.at("tls", super().start_tls)

    def command(self, verb, argument):
        point = verb.lower()
        if verb == "EHLO" and (self.tls_version or not self.provider.tls):
            point = "hello"
        go = super().command
        if point in POINTS:
            self.at(point, lambda: go(verb, argument))
        else:
            go(verb, argument)

    def do_data(self, _):
        if not self.recipients and not self.provider.says_354_anyway:
            self.reply("554 5.5.1 No valid recipients")
            return
        self.reply("354 End data with <CR><LF>.<CR><LF>")
        if self.provider.has(("body",)):
            while len(self.buffer) < BODY_BYTES and not self.buffer.endswith(b".\r\n"):
                self.fill()
        self.at("body", lambda: None)
        self.keep(self.read_data())

    def do_bdat(self, argument):
        if self.provider.has(("body",)):
            while len(self.buffer) < BODY_BYTES:
                self.fill()
        self.at("body", lambda: None)
        super().do_bdat(argument)

    def keep(self, data):
        self.at("dot", lambda: super(EvilSession, self).keep(data))
        self.reset()
        self.at("said", lambda: None)

    def ask(self, prompt):
        self.say("334 " + base64.b64encode(prompt).decode())
        answer = self.line()
        if answer == "*":
            self.provider.cancelled += 1
            raise ValueError("cancelled")
        return base64.b64decode(answer)

    def do_auth(self, argument):
        mechanism, _, initial = argument.partition(" ")
        if mechanism.upper() != "SCRAM-SHA-256":
            super().do_auth(argument)
            return
        try:
            self.scram(initial)
        except ValueError:
            self.reply("501 5.7.0 Cancelled")

    def scram(self, initial):
        """RFC 5802, with the faults of provider.scram: what is put in the place of what is right."""
        fault = self.provider.scram
        first = base64.b64decode(initial).decode().split(",", 2)[2]
        fields = dict(field.split("=", 1) for field in first.split(","))
        rounds = fault.get("rounds", 4096)
        nonce = fault.get("nonce", fields["r"] + "server")
        server_first = f"{fault.get('before', '')}r={nonce},s={base64.b64encode(b'salt').decode()},i={rounds}"
        final = self.ask(server_first.encode()).decode()
        bare, _, proof = final.rpartition(",p=")
        message = ",".join((first, server_first, bare)).encode()
        salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), b"salt", min(rounds, 4096))
        key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
        right = base64.b64decode(proof) == bytes(a ^ b for a, b in zip(key, signature))
        self.provider.logins.append((fields["n"], "SCRAM-SHA-256", right))
        if not right and not fault:
            self.reply("535 5.7.8 That is no proof")
            return
        verifier = base64.b64encode(hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256"))
        if fault.get("verifier", True):
            self.ask(fault.get("verifier", b"v=" + verifier))
        self.login = fields["n"]
        self.reply("235 2.7.0 Welcome")


class Evil(Sink):
    kind_of_session = EvilSession

    def __init__(self, authority, **options):
        self.changed = threading.Condition()
        self.alive = set()
        self.mended, self.gate = threading.Event(), threading.Event()
        self.mend()
        super().__init__(authority, **options)

    def mend(self):
        """Good from now on; what it counted begins anew."""
        self.mended.set()
        self.gate.set()
        with self.changed:
            self.misdeeds, self.took = [], []
            self.seen, self.done = collections.Counter(), collections.Counter()
            self.says_354_anyway, self.scram, self.cancelled = False, {}, 0

    def misbehave(self, misdeeds):
        (self.mended.clear if misdeeds else self.mended.set)()
        self.misdeeds, self.begun = [misdeed.copy() for misdeed in misdeeds], None

    def has(self, points):
        return any(misdeed.at in points for misdeed in self.misdeeds)

    def next(self, point):
        with self.changed:
            self.seen[point] += 1
            for misdeed in self.misdeeds:
                if misdeed.at != point or misdeed.times == 0:
                    continue
                if misdeed.skip > 0:
                    misdeed.skip -= 1
                    continue
                if misdeed.times is not None:
                    misdeed.times -= 1
                self.done[point] += 1
                return misdeed
        return None

    def store(self, session, data):
        number = super().store(session, data)
        session.at("kept", lambda: None)
        return number

    def hang_up(self, seconds=10):
        """Closes what is open as a server closes idle connections, and waits until the clients have noticed."""
        with self.changed:
            alive = list(self.alive)
        # some have much to read before they know
        for how, patience in ((socket.SHUT_WR, 1), (socket.SHUT_RDWR, seconds)):
            for session in alive:
                try:
                    socket.socket.shutdown(session.connection, how)
                except OSError:
                    pass
            deadline = time.monotonic() + patience
            while self.alive and time.monotonic() < deadline:
                time.sleep(0.005)
        assert not self.alive, "sessions do not end"


# ---- certificates that are wrong in one way each ----

# kind → (x509's or ca's options, extensions besides the names, names, key)
NAMES = "DNS:localhost,IP:127.0.0.1,IP:::1"
RSA = ["-newkey", "rsa:2048"]
CERTIFICATES = {
    "right": ([], "", NAMES, RSA),  # what is refused below is refused for that one thing
    "expired": (["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"], "", NAMES, RSA),
    "not-yet-valid": (["-startdate", "20900101000000Z", "-enddate", "20910101000000Z"], "", NAMES, RSA),
    "wrong-name": ([], "", "DNS:mail.elsewhere.example,DNS:*.localhost,DNS:local*", RSA),
    "name-in-subject-only": ([], "", None, RSA),
    "wrong-use": ([], "extendedKeyUsage=clientAuth,emailProtection", NAMES, RSA),
    "weak-key": ([], "", NAMES, ["-newkey", "rsa:1024"]),
    "md5": (["-md", "md5"], "", NAMES, RSA),
    "sha1": (["-md", "sha1"], "", NAMES, RSA),
    "critical-unknown": ([], "1.2.3.4=critical,ASN1:NULL", NAMES, RSA),
}


class BadCertificates:
    """An authority of its own, which relayd trusts, and what it should not have issued."""

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir(mode=0o755)
        (directory / "index.txt").write_text("")
        (directory / "ca.cnf").write_text(
            f"[ca]\ndefault_ca=d\n[d]\nnew_certs_dir={directory}\ndatabase={directory}/index.txt\nrand_serial=yes\n"
            "default_md=sha256\ndefault_days=30\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n")
        openssl("req", "-x509", *RSA, "-nodes", "-days", 30, "-subj", "/CN=careless CA",
                "-keyout", directory / "ca.key", "-out", directory / "ca.pem")

    @property
    def ca(self):
        return self.directory / "ca.pem"

    def issue(self, kind):
        """(certificate, key)"""
        own = self.directory / kind
        if own.exists():
            return own / "server.pem", own / "server.key"
        own.mkdir()
        options, extension, names, key = CERTIFICATES[kind]
        (own / "extensions").write_text("basicConstraints=critical,CA:FALSE\n" + extension + "\n" +
                                        (f"subjectAltName={names}\n" if names else ""))
        openssl("req", "-new", *key, "-nodes", "-subj", "/CN=localhost",
                "-keyout", own / "server.key", "-out", own / "csr")
        openssl("ca", "-batch", "-notext", "-config", self.directory / "ca.cnf", "-cert", self.ca,
                "-keyfile", self.directory / "ca.key", "-extfile", own / "extensions", "-in", own / "csr",
                "-out", own / "server.pem", *options)
        return own / "server.pem", own / "server.key"

    def self_signed(self):
        own = self.directory / "self-signed"
        if not own.exists():
            own.mkdir()
            openssl("req", "-x509", *RSA, "-nodes", "-days", 30, "-subj", "/CN=localhost", "-addext",
                    f"subjectAltName={NAMES}", "-keyout", own / "server.key", "-out", own / "server.pem")
        return own / "server.pem", own / "server.key"

    def context(self, kind):
        """A server that says nothing against its own weakness."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL:@SECLEVEL=0")
        kind_of_certificate = kind if kind in CERTIFICATES else "right"
        certificate, key = self.self_signed() if kind == "self-signed" else self.issue(kind_of_certificate)
        if kind == "huge-chain":
            chain = self.directory / "huge-chain.pem"
            chain.write_text(certificate.read_text() + self.ca.read_text() * 400)
            certificate = chain
        context.load_cert_chain(certificate, key)
        if kind in ("tls-1.0", "tls-1.1"):
            with warnings.catch_warnings():  # that it is deprecated is the point
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = context.maximum_version = {"tls-1.0": ssl.TLSVersion.TLSv1,
                                                                     "tls-1.1": ssl.TLSVersion.TLSv1_1}[kind]
        elif kind == "null-cipher":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers("NULL:@SECLEVEL=0")
        elif kind == "anonymous":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers("ADH:AECDH:@SECLEVEL=0")
        return context
