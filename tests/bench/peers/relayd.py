"""relayd as it comes, but for the number of connections to the upstream and of messages on each."""

import json

from relayd import Relayd as RelaydUnderTest

from .peer import LOGIN, Peer


class Relayd(Peer):
    name = "relayd"
    expected = 8000

    def configure(self):
        self.daemon = RelaydUnderTest(self.bench.programs, self.where, log={"target": "stderr"})
        settings = {"host": "localhost", "port": self.upstream.port, "connections": self.upstream.connections,
                    "messages_per_connection": 1000, "tls": "none"}
        if self.upstream.tls:
            settings.update(tls="starttls", tls_ca=self.upstream.authority.ca, username=LOGIN[0],
                            password_file=self.daemon.password_file(LOGIN[1]))
        self.daemon.add_upstream("sink", **settings)
        self.daemon.write_config()
        self.port = self.daemon.port

    def command(self):
        return [self.daemon.programs / "relayd", "-c", self.daemon.config]

    def ctl(self, *arguments):
        return [self.daemon.programs / "relayctl", "-c", self.daemon.config, *arguments]

    def flush(self):
        return self.ctl("retry", "--all")

    def listing(self):
        return self.ctl("queue")

    def output(self):
        return super().output() + self.daemon.log()[-1500:]

    def queued(self):
        """How many messages it has, by its own count."""
        return json.loads(self.run(self.ctl("status", "--json")).stdout)["queue"]["total"]
