"""OpenSMTPD, tuned: no limits that are lower than its peers'. It never syncs before its 250.

Its paths are built in: it runs in a mount namespace where they are ours, and so do its tools."""

import shutil

from .peer import LOGIN, PEERS_DIRECTORY, Peer

USERS = {"opensmtpd": 64020, "opensmtpq": 64021}
INSIDE = """\
    set -e
    own=$1 package=$2
    shift 2
    for path in etc/passwd etc/group etc/ssl/certs/ca-certificates.crt; do
        mount --bind "$own/$path" "/$path"
    done
    for path in run var/spool var/lib; do
        mount --bind "$own/$path" "/$path"
    done
    mount --bind "$package/usr/libexec" /usr/libexec
    exec "$@"
    """


class OpenSMTPD(Peer):
    name, most_rounds = "OpenSMTPD", 2
    expected = 60
    package = PEERS_DIRECTORY / "opensmtpd"

    def configure(self):
        assert self.package.exists(), f"no {self.package}: run contrib/install-deps bench"
        self.inside = self.write("inside", INSIDE)
        self.users()
        for name in ("run", "var/lib/opensmtpd/empty"):
            self.directory(name)
        self.directory("var/spool/smtpd", mode=0o711)
        many, tls = self.upstream.connections, self.upstream.tls
        self.write("smtpd.conf", f"""\
            table logins {{ "sink" = "{":".join(LOGIN)}" }}
            smtp max-message-size "100M"
            smtp limit max-mails 1000000
            mta limit max-conn-per-host {many}
            mta limit max-conn-per-route {many}
            mta limit max-conn-per-source {many}
            mta limit max-conn-per-connector {many}
            mta limit max-conn-per-relay {many}
            mta limit max-conn-per-domain {many}
            mta limit session-mail-max 1000
            mta max-deferred 100000
            scheduler limit max-inflight 50000
            listen on 127.0.0.1 port {self.port} hostname relay.test
            action "relay" relay host "smtp+{"tls://sink@" if tls else "notls://"}localhost:{self.upstream.port}" \\
            {"auth <logins>" if tls else ""} helo relay.test
            match from any for any action "relay"
            """)

    def users(self):
        for name, fields in (("passwd", "x:{0}:{0}::/var/lib/opensmtpd/empty:/usr/sbin/nologin"), ("group", "x:{0}:")):
            ours = "".join(f"{user}:{fields.format(number)}\n" for user, number in USERS.items())
            with open(f"/etc/{name}", encoding="utf-8") as file:
                self.write(f"etc/{name}", file.read() + ours)
        ca = self.write("etc/ssl/certs/ca-certificates.crt", "")
        if self.upstream.tls:
            shutil.copy(self.upstream.authority.ca, ca)

    def command(self):
        return ["unshare", "-m", "sh", self.inside, self.where, self.package, self.package / "usr" / "sbin" / "smtpd",
                "-d", "-f", self.where / "smtpd.conf"]

    def smtpctl(self, *arguments):
        return ["nsenter", "-m", "-t", self.pids()[0], "--setgid", USERS["opensmtpq"],
                self.package / "usr" / "sbin" / "smtpctl", *arguments]

    def flush(self):
        """A route that failed is disabled for minutes; an operator resumes it first."""
        ctl = " ".join(map(str, self.smtpctl()))
        return ["sh", "-c", f"for id in $({ctl} show routes | cut -d. -f1); do {ctl} resume route $id; done; "
                            f"{ctl} schedule all"]

    def listing(self):
        return self.smtpctl("show", "queue")
