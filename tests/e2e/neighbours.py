"""Real upstreams in private directories on loopback: Postfix with Dovecot's SASL, Exim, chasquid.

Each listens on `port` (STARTTLS) and `tls_port` (implicit TLS), wants the login USER and PASSWORD, and
gives what it took in `messages`. Postfix and Exim pass their mail on to a plain Sink: it keeps bodies
and envelopes byte for byte, where a mailbox would not."""

import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import textwrap

from sink import PASSWORD, Sink
from tools import free_port, is_listening, wait_for

PEERS = pathlib.Path(os.environ.get("RELAYD_PEERS", "/var/cache/relayd-peers"))


def write(path, text, mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    path.chmod(mode)


def directory(path, user=None, mode=0o755):
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    if user:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)
    return path


class Neighbour:
    user, password = "user", PASSWORD

    def __init__(self, where, authority):
        self.where = directory(where)
        self.certificate, self.key = authority.issue("good")
        self.port, self.tls_port = free_port(), free_port()
        self.processes = []
        self.beyond = Sink(authority, starttls=False, auth=False)
        self.configure()
        self.start()
        wait_for(lambda: is_listening(self.port) and is_listening(self.tls_port), 20, why=self.log)

    @property
    def messages(self):
        return self.beyond.messages

    def run(self, *command, **options):
        with open(self.where / "output", "ab") as output:
            self.processes.append(subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=output,
                                                   stderr=output, start_new_session=True, **options))

    def log(self):
        text = ""
        for path in [self.where / "output", *self.where.glob("log*"), *self.where.glob("log/*")]:
            if path.is_file():
                text += path.read_text(encoding="utf-8", errors="replace")[-3000:]
        return f"{type(self).__name__} said: {text}"

    def stop(self):
        for process in self.processes:
            try:
                os.killpg(process.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.beyond.stop()


class Postfix(Neighbour):
    """Postfix, which asks a private Dovecot about passwords (PLAIN, LOGIN, CRAM-MD5, SCRAM)."""

    def configure(self):
        self.sasl_port = free_port()
        self.configure_dovecot(directory(self.where / "dovecot"))
        etc = directory(self.where / "etc")
        directory(self.where / "spool")
        directory(self.where / "data", user="postfix", mode=0o700)
        write(etc / "main.cf", f"""\
            compatibility_level = 3.6
            queue_directory = {self.where}/spool
            data_directory = {self.where}/data
            command_directory = /usr/sbin
            daemon_directory = /usr/lib/postfix/sbin
            maillog_file = {self.where}/log
            maillog_file_prefixes = {self.where}
            myhostname = postfix.test
            inet_interfaces = 127.0.0.1
            inet_protocols = ipv4
            mydestination =
            mynetworks =
            alias_maps =
            default_transport = smtp:[127.0.0.1]:{self.beyond.port}
            smtp_line_length_limit = 0
            smtp_destination_recipient_limit = 1000
            smtpd_relay_restrictions = permit_sasl_authenticated, reject
            smtpd_tls_security_level = encrypt
            smtpd_tls_auth_only = yes
            smtpd_tls_cert_file = {self.certificate}
            smtpd_tls_key_file = {self.key}
            smtpd_tls_session_cache_database = btree:${{data_directory}}/sessions
            smtpd_sasl_auth_enable = yes
            smtpd_sasl_type = dovecot
            smtpd_sasl_path = inet:127.0.0.1:{self.sasl_port}
            message_size_limit = 104857600
            """)
        services = [f"127.0.0.1:{self.port} inet n - n - - smtpd",
                    f"127.0.0.1:{self.tls_port} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes",
                    "postlog unix-dgram n - n - 1 postlogd", "pickup unix n - n 60 1 pickup",
                    "cleanup unix n - n - 0 cleanup", "qmgr unix n - n 300 1 qmgr",
                    "tlsmgr unix - - n 1000? 1 tlsmgr", "rewrite unix - - n - - trivial-rewrite",
                    "bounce unix - - n - 0 bounce", "defer unix - - n - 0 bounce", "trace unix - - n - 0 bounce",
                    "smtp unix - - n - - smtp", "error unix - - n - - error", "retry unix - - n - - error",
                    "anvil unix - - n - 1 anvil", "scache unix - - n - 1 scache", "proxymap unix - - n - - proxymap"]
        write(etc / "master.cf", "\n".join(services) + "\n")

    def configure_dovecot(self, etc):
        write(etc / "passwd", f"{self.user}:{{PLAIN}}{self.password}:::::\n")
        write(etc / "dovecot.conf", f"""\
            protocols =
            base_dir = {etc}/run
            state_dir = {etc}/state
            log_path = {self.where}/log.dovecot
            ssl = no
            auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256
            auth_failure_delay = 0
            service anvil {{
              unix_listener anvil-auth-penalty {{
                mode = 0
              }}
            }}
            passdb {{
              driver = passwd-file
              args = {etc}/passwd
            }}
            service auth {{
              inet_listener postfix {{
                address = 127.0.0.1
                port = {self.sasl_port}
              }}
            }}
            """)

    def start(self):
        self.run("/usr/sbin/dovecot", "-F", "-c", self.where / "dovecot" / "dovecot.conf")
        wait_for(lambda: is_listening(self.sasl_port), why=self.log)
        self.postfix("start")

    def postfix(self, *command):
        done = subprocess.run(["/usr/sbin/postfix", "-c", self.where / "etc", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + self.log()

    def stop(self):
        self.postfix("abort")
        super().stop()


class Exim(Neighbour):
    def configure(self):
        exim = PEERS / "exim4-daemon-light" / "usr" / "sbin" / "exim4"
        assert exim.exists(), f"no {exim}: run contrib/install-deps check"
        self.program = exim
        for name in ("spool", "log"):
            directory(self.where / name, user="Debian-exim", mode=0o750)
        key = self.where / "server.key"  # Exim reads it as its own user
        shutil.copy(self.key, key)
        shutil.chown(key, "Debian-exim")
        write(self.where / "exim.conf", f"""\
            exim_path = {exim}
            spool_directory = {self.where}/spool
            log_file_path = {self.where}/log/%slog
            pid_file_path = {self.where}/spool/pid
            primary_hostname = exim.test
            local_interfaces = 127.0.0.1
            smtp_accept_queue_per_connection = 0
            daemon_smtp_ports = {self.port} : {self.tls_port}
            tls_on_connect_ports = {self.tls_port}
            tls_advertise_hosts = *
            tls_certificate = {self.certificate}
            tls_privatekey = {key}
            auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}
            acl_smtp_rcpt = rcpt
            acl_smtp_data = data
            message_size_limit = 100M
            dsn_advertise_hosts = *
            prdr_enable = true
            recipients_max = 1000
            begin acl
            rcpt:
              deny message = log in first
                   !authenticated = *
              accept
            data:
              accept
            begin routers
            beyond:
              driver = manualroute
              transport = beyond
              route_list = * 127.0.0.1 byname
              self = send
            begin transports
            beyond:
              driver = smtp
              port = {self.beyond.port}
              allow_localhost
              max_rcpt = 0
              message_linelength_limit = 100M
            begin retry
            * * F,1h,1m
            begin authenticators
            plain:
              driver = plaintext
              public_name = PLAIN
              server_prompts = :
              server_condition = ${{if and{{{{eq{{$auth2}}{{{self.user}}}}}{{eq{{$auth3}}{{{self.password}}}}}}}}}
              server_set_id = $auth2
            login:
              driver = plaintext
              public_name = LOGIN
              server_prompts = Username:: : Password::
              server_condition = ${{if and{{{{eq{{$auth1}}{{{self.user}}}}}{{eq{{$auth2}}{{{self.password}}}}}}}}}
              server_set_id = $auth1
            """)

    def start(self):
        self.run(self.program, "-C", self.where / "exim.conf", "-bdf", "-q1m")


class Chasquid(Neighbour):
    """Chasquid, of another family (Go): takes mail for its own domain and hands it to a program."""

    user = "user@example.net"

    def configure(self):
        account = "chasquid" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self.account = account
        self.mail = directory(self.where / "mail", user=account)
        directory(self.where / "data", user=account)
        self.etc = directory(self.where / "etc", user=account)
        name = self.etc / "certs" / "localhost"
        directory(name)
        shutil.copy(self.certificate, name / "fullchain.pem")
        shutil.copy(self.key, name / "privkey.pem")
        directory(self.etc / "domains" / "example.net", user=account)
        keep = self.where / "keep"
        write(keep, f"""\
            #!/bin/sh
            # keep FROM TO...: one file for each delivery
            file=$(mktemp {self.mail}/XXXXXX)
            {{ echo "$*"; cat; }} >"$file" && mv "$file" "$file.eml"
            """, 0o755)
        write(self.etc / "chasquid.conf", f"""\
            hostname: "localhost"
            max_data_size_mb: 100
            smtp_address: "127.0.0.1:{free_port()}"
            submission_address: "127.0.0.1:{self.port}"
            submission_over_tls_address: "127.0.0.1:{self.tls_port}"
            monitoring_address: ""
            mail_delivery_agent_bin: "{keep}"
            mail_delivery_agent_args: "%from%"
            mail_delivery_agent_args: "%to%"
            data_dir: "{self.where}/data"
            mail_log_path: "{self.where}/log"
            """)
        write(self.where / "log", "")
        shutil.chown(self.where / "log", account)
        subprocess.run(["chasquid-util", f"-C={self.etc}", "user-add", self.user, f"--password={PASSWORD}"],
                       check=True, capture_output=True)
        write(self.etc / "domains" / "example.net" / "aliases",
              "".join(f"r{i}: {self.user}\n" for i in range(100)))
        subprocess.run(["chown", "-R", account, str(self.etc)], check=True)

    def start(self):
        options = {}
        if os.getuid() == 0:
            entry = pwd.getpwnam(self.account)
            options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self.run("/usr/bin/chasquid", f"-config_dir={self.etc}", **options)

    @property
    def messages(self):
        found = []
        for path in sorted(self.mail.glob("*.eml"), key=lambda p: p.stat().st_mtime_ns):
            envelope, _, data = path.read_bytes().partition(b"\n")
            message = Kept()
            message.sender, *message.recipients = envelope.decode().split(" ")
            message.data = re.sub(rb"\r?\n", b"\r\n", data)
            found.append(message)
        return found


class Kept:
    """One delivery by chasquid, like demo_provider.Message; its agent gives line feeds only."""

