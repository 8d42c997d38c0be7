"""Exim, tuned: delivers at once, no lookups, no limits, TLS sessions resumed; with a backlog, many queue runners."""

import os
import shutil
import signal

from .peer import LOGIN, MOST_MESSAGE, PEERS_DIRECTORY, Peer


class Exim(Peer):
    name, most_rounds = "Exim", 2
    expected = 80
    program = PEERS_DIRECTORY / "exim4-daemon-light" / "usr" / "sbin" / "exim4"

    def configure(self):
        assert self.program.exists(), f"no {self.program}: run contrib/install-deps bench"
        for name in ("spool", "logs"):
            self.directory(name, user="Debian-exim", mode=0o750)
        self.write("exim.conf", f"""\
            exim_path = {self.program}
            spool_directory = {self.where}/spool
            log_file_path = {self.where}/logs/%slog
            pid_file_path = {self.where}/spool/pid
            primary_hostname = relay.test
            local_interfaces = 127.0.0.1
            daemon_smtp_ports = {self.port}
            disable_ipv6
            host_lookup =
            rfc1413_hosts =
            smtp_accept_max = 0
            smtp_accept_queue = 0
            smtp_accept_max_per_connection = 0
            smtp_accept_queue_per_connection = 0
            smtp_connect_backlog = 1024
            smtp_enforce_sync = false
            queue_run_max = 0
            remote_max_parallel = {self.upstream.connections}
            split_spool_directory = true
            log_selector = -all
            tls_advertise_hosts =
            message_size_limit = {MOST_MESSAGE}
            chunking_advertise_hosts =
            acl_smtp_rcpt = accept
            acl_smtp_data = accept
            begin acl
            accept:
              accept
            begin routers
            upstream:
              driver = manualroute
              transport = upstream
              route_list = * localhost byname
              self = send
            begin transports
            upstream:
              driver = smtp
              port = {self.upstream.port}
              allow_localhost
              connection_max_messages = 1000
              hosts_try_fastopen =
            {self.tls() if self.upstream.tls else "  hosts_avoid_tls = *"}
            begin retry
            * * F,4d,5m
            begin authenticators
            login:
              driver = plaintext
              public_name = PLAIN
              client_send = ^{LOGIN[0]}^{LOGIN[1]}
            """)

    def tls(self):
        ca = self.where / "ca.pem"  # Exim reads it as its own user
        shutil.copy(self.upstream.authority.ca, ca)
        return f"""\
              hosts_require_tls = *
              tls_verify_certificates = {ca}
              tls_verify_hosts = *
              tls_resumption_hosts = *
              hosts_require_auth = *"""

    def command(self):
        return [self.program, "-C", self.where / "exim.conf", "-bdf", "-q5m"]

    def terminate(self):
        """Its processes know little of each other."""
        for pid in self.pids():
            os.kill(pid, signal.SIGTERM)

    def flush(self):
        """A few queue runners: each connection goes on with what waits for the same host. More get in each other's way."""
        one = f"{self.program} -C {self.where}/exim.conf -qff"
        return ["sh", "-c", " & ".join([one] * min(self.upstream.connections, 4)) + " & wait"]

    def listing(self):
        return [self.program, "-C", self.where / "exim.conf", "-bp"]
