"""An upstream that the tests can bend: contrib/demo-provider's classes, with rules.

    sink.rules["RCPT"] = lambda session, argument: "550 5.1.1 no" if "bad@" in argument else None

A rule gets each command (CONNECT for the greeting, END with the whole body) and gives a reply, or None
for the usual one; it may also sleep, or raise Gone to hang up without a word. KEPT is called when a message
has been kept and before that is said.
"""

import socket
import threading

from tools import demo_provider, free_port, wait_for

Gone = demo_provider.Gone
PASSWORD = "correct horse battery staple"


class Sink(demo_provider.Provider):
    def __init__(self, authority, certificate="good", starttls=True, implicit_tls=False, auth=True, port=0):
        self.authority = authority
        super().__init__(tls=authority.context(certificate) if starttls or implicit_tls else None,
                         implicit_tls=implicit_tls, passwords={"user": PASSWORD} if auth else {},
                         port=port or free_port())  # one that it gets again after a stop
        self.extensions = demo_provider.EXTENSIONS + ("DSN",)
        self.rules, self.commands, self.notes = {}, [], []
        self.listen()

    def answer(self, session, verb, argument):
        if verb != "END":
            self.commands.append((verb, argument))
        rule = self.rules.get(verb)
        return rule(session, argument) if rule else None

    def store(self, session, data):
        number = super().store(session, data)
        if "KEPT" in self.rules:
            self.rules["KEPT"](session)
        return number

    def note(self, session, text):
        self.notes.append(text)

    def use_certificate(self, kind):
        self.tls = self.authority.context(kind)

    def stop(self):
        """Refuses connections from now on and drops those that are open."""
        if self.socket:
            self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()
            self.socket = None
        self.drop()

    def drop(self):
        """The connections that are open."""
        for session in list(self.sessions):
            try:
                session.connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def start(self):
        if not self.socket:
            self.listen()

    def clear_text(self):
        """All bytes that any client sent before (or without) TLS."""
        return b"".join(bytes(session.clear_bytes) for session in self.sessions)

    def wait(self, count, seconds=20):
        wait_for(lambda: len(self.messages) >= count, seconds,
                 why=lambda: f"{count} messages; {len(self.messages)} arrived")
        return self.messages[:count]

    def wait_subject(self, subject, seconds=20):
        """The one message with this Subject."""
        return wait_for(lambda: self.find(subject), seconds, why=f"the message '{subject}'")

    def find(self, subject):
        line = f"Subject: {subject}\r\n".encode()
        return next((m for m in list(self.messages) if line in m.data.partition(b"\r\n\r\n")[0] + b"\r\n"), None)


class BlackHole:
    """Accepts connections and says nothing, ever."""

    def __init__(self, port=0):
        self.socket = socket.create_server(("127.0.0.1", port), backlog=64)
        self.port = self.socket.getsockname()[1]
        self.connections = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                self.connections.append(self.socket.accept()[0])
            except OSError:
                return

    def received(self):
        """What the clients sent so far."""
        data = b""
        for connection in list(self.connections):
            connection.setblocking(False)
            try:
                data += connection.recv(65536)
            except OSError:
                pass
        return data

    def stop(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for connection in self.connections:
            connection.close()
