"""Debian's Postfix, tuned: no limits, no lookups, connections kept open with TLS (by tlsproxy), processes that stay."""


from .peer import LOGIN, MOST_MESSAGE, Peer


class Postfix(Peer):
    name = "Postfix"

    def configure(self):
        self.directory("spool")
        self.directory("data", user="postfix", mode=0o700)
        many = self.upstream.connections
        self.write("etc/main.cf", f"""\
            compatibility_level = 3.6
            queue_directory = {self.where}/spool
            data_directory = {self.where}/data
            command_directory = /usr/sbin
            daemon_directory = /usr/lib/postfix/sbin
            maillog_file = {self.where}/log
            maillog_file_prefixes = {self.where}
            myhostname = relay.test
            inet_interfaces = 127.0.0.1
            inet_protocols = ipv4
            mydestination =
            mynetworks = 127.0.0.0/8
            alias_maps =
            local_recipient_maps =
            relayhost = [localhost]:{self.upstream.port}
            smtp_host_lookup = native
            smtp_dns_support_level = disabled
            smtp_connection_cache_on_demand = yes
            smtp_connection_cache_destinations = [localhost]:{self.upstream.port}
            smtp_connection_cache_time_limit = 30s
            smtp_connection_reuse_count_limit = 1000
            smtp_connection_reuse_time_limit = 3600s
            smtp_destination_concurrency_limit = {many}
            default_destination_concurrency_limit = {many}
            initial_destination_concurrency = {many}
            default_process_limit = 100
            max_idle = 3600s
            max_use = 100000
            qmgr_message_active_limit = 50000
            qmgr_message_recipient_limit = 50000
            in_flow_delay = 0
            smtpd_client_connection_count_limit = 0
            smtpd_client_connection_rate_limit = 0
            smtpd_client_message_rate_limit = 0
            smtpd_client_event_limit_exceptions = 127.0.0.0/8
            smtpd_peername_lookup = no
            smtpd_timeout = 300s
            smtpd_relay_restrictions = permit_mynetworks, reject
            receive_override_options = no_address_mappings
            message_size_limit = {MOST_MESSAGE}
            minimal_backoff_time = 300s
            maximal_backoff_time = 3000s
            hash_queue_names = deferred, defer
            {self.tls() if self.upstream.tls else ""}
            """)
        services = [f"127.0.0.1:{self.port} inet n - n - - smtpd", "postlog unix-dgram n - n - 1 postlogd",
                    "pickup unix n - n 60 1 pickup", "cleanup unix n - n - 0 cleanup", "qmgr unix n - n 300 1 qmgr",
                    "tlsmgr unix - - n 1000? 1 tlsmgr", "tlsproxy unix - - n - 0 tlsproxy",
                    "rewrite unix - - n - - trivial-rewrite", "bounce unix - - n - 0 bounce",
                    "defer unix - - n - 0 bounce", "trace unix - - n - 0 bounce", "smtp unix - - n - - smtp",
                    "error unix - - n - - error", "retry unix - - n - - error", "anvil unix - - n - 1 anvil",
                    "scache unix - - n - 1 scache", "proxymap unix - - n - - proxymap",
                    "flush unix n - n 1000? 0 flush", "showq unix n - n - - showq"]
        self.write("etc/master.cf", "\n".join(services) + "\n")

    def tls(self):
        return f"""
            smtp_tls_security_level = secure
            smtp_tls_secure_cert_match = hostname
            smtp_tls_CAfile = {self.upstream.authority.ca}
            smtp_tls_connection_reuse = yes
            smtp_tls_session_cache_database = btree:${{data_directory}}/client-sessions
            smtp_sasl_auth_enable = yes
            smtp_sasl_password_maps = static:{":".join(LOGIN)}
            smtp_sasl_security_options = noanonymous"""

    def command(self):
        return ["/usr/sbin/postfix", "-c", self.where / "etc", "start"]

    def terminate(self):
        self.run(["/usr/sbin/postfix", "-c", self.where / "etc", "abort"], check=False)

    def flush(self):
        return ["/usr/sbin/postqueue", "-c", self.where / "etc", "-f"]

    def listing(self):
        return ["/usr/sbin/postqueue", "-c", self.where / "etc", "-p"]
