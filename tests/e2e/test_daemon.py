"""relayd as a process: start, stop, reload, what it refuses, what it costs."""

import os
import resource
import socket
import subprocess
import time

from tools import SANITIZED, command_name, free_port, is_listening, pss_bytes, wait_for

IDLE_MIB = 15
IDLE_CONNECTIONS = 1000


def check(relayd):
    relayd.write_config()
    return subprocess.run([relayd.programs / "relayd", "-n", "-c", relayd.config], capture_output=True, text=True,
                          check=False)


def test_nothing_stays_root(relayd, sink):
    relayd.to_sink(sink).start()
    for pid in relayd.pids():
        uids = next(line for line in open(f"/proc/{pid}/status", encoding="ascii") if line.startswith("Uid:"))
        assert set(uids.split()[1:]) == {"65534" if os.getuid() == 0 else str(os.getuid())}, command_name(pid)


def test_a_second_one_refuses_to_start_and_names_the_first(relayd, sink):
    relayd.to_sink(sink).start()
    relayd.set(f'listen "127.0.0.1:{relayd.port}"', None)
    relayd.set(f'listen "unix:{relayd.submit}"', None)
    relayd.set(f'listen "127.0.0.1:{free_port()}"', {})
    relayd.set("control", {"socket": relayd.where / "run" / "second"})
    relayd.write_config()
    second = subprocess.run([relayd.programs / "relayd", "-c", relayd.config], capture_output=True, text=True,
                            timeout=20, check=False)
    assert second.returncode != 0 and str(relayd.process.pid) in second.stderr, second.stderr


def test_stop_is_orderly(relayd, sink):
    relayd.to_sink(sink).start()
    pids = relayd.pids()
    relayd.send("before the stop")
    began = time.monotonic()
    assert relayd.stop() == 0
    assert time.monotonic() - began < 10
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert not is_listening(relayd.port)
    assert relayd.events("daemon.stopped")


def test_a_config_error_names_file_line_setting_and_remedy(relayd, sink):
    relayd.to_sink(sink, tls="starttls", port=465)
    done = check(relayd)
    assert done.returncode != 0
    assert str(relayd.config) in done.stderr and "465" in done.stderr and "implicit" in done.stderr
    relayd.to_sink(sink)
    relayd.set("no_such_setting", "x")
    done = check(relayd)
    assert done.returncode != 0 and "no-such-setting" in done.stderr


def test_a_good_config_passes(relayd, sink):
    done = check(relayd.to_sink(sink))
    assert done.returncode == 0, done.stderr


def test_reload_with_a_good_config(relayd, sink, make_sink):
    second = make_sink()
    relayd.to_sink(sink).start()
    supervisor, intake = relayd.process.pid, relayd.pid_of("relayd-intake")
    relayd.send("old way")
    sink.wait_subject("old way")
    relayd.to_sink(second)
    relayd.reload()
    relayd.wait_event("config.reloaded")
    wait_for(lambda: relayd.pid_of("relayd-intake") != intake)
    assert relayd.process.poll() is None and relayd.process.pid == supervisor
    relayd.send("new way")
    second.wait_subject("new way")


def test_reload_with_a_bad_config_changes_nothing(relayd, sink):
    relayd.to_sink(sink).start()
    pids = relayd.pids()
    relayd.set("retry", {"first": "yesterday"})
    relayd.reload()
    event = relayd.wait_event("config.rejected")[0]
    assert "relayd.conf:" in str(event) and "first" in str(event)
    assert relayd.pids() == pids
    relayd.send("still here")
    sink.wait_subject("still here")


def test_reload_opens_and_closes_listeners(relayd, sink):
    relayd.to_sink(sink).start()
    old, new = relayd.port, free_port()
    relayd.set(f'listen "127.0.0.1:{old}"', None)
    relayd.set(f'listen "127.0.0.1:{new}"', {})
    relayd.port = new
    relayd.reload()
    wait_for(lambda: is_listening(new) and not is_listening(old))
    relayd.send("by the new port")
    sink.wait_subject("by the new port")


def test_a_thousand_idle_connections_and_mail_flows(relayd, sink):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    relayd.to_sink(sink).start()
    idle = []
    try:
        for _ in range(IDLE_CONNECTIONS):
            idle.append(socket.create_connection(("127.0.0.1", relayd.port), timeout=20))
        for connection in idle:
            assert connection.recv(4) == b"220 "
        began = time.monotonic()
        for i in range(100):
            relayd.send(f"among the idle {i}")
        sink.wait(100)
        assert time.monotonic() - began < 10
        assert pss_bytes(relayd.pids()) < 64 << 20
    finally:
        for connection in idle:
            connection.close()


def test_memory_of_all_processes_idle(relayd, sink):
    relayd.to_sink(sink).start()
    for i in range(200):
        relayd.send(f"before the rest {i}")
    sink.wait(200)
    relayd.wait_empty()
    used = pss_bytes(relayd.pids()) / (1 << 20)
    assert SANITIZED or used <= IDLE_MIB, f"{used:.1f} MiB PSS"


def test_strangers_are_refused(relayd, sink):
    relayd.set("clients", ["192.0.2.0/24"])
    relayd.to_sink(sink).start(wait=False)
    wait_for(lambda: is_listening(relayd.port))
    with socket.create_connection(("127.0.0.1", relayd.port), timeout=10) as raw:
        reply = raw.recv(1000)
    assert reply.startswith((b"550 5.7.1", b"554 5.7.1")) and b"127.0.0.1" in reply and b'"clients"' in reply


def test_secrets_stay_secret(relayd, sink):
    """I10: not in the log, an argument list or an environment."""
    relayd.set("log", {"level": "debug"})
    relayd.to_sink(sink).start()
    relayd.send("hush", body="body-of-the-message\r\n")
    sink.wait(1)
    password = sink.passwords["user"]
    assert password not in relayd.log() and "body-of-the-message" not in relayd.log()
    for pid in relayd.pids():
        for name in ("cmdline", "environ"):
            with open(f"/proc/{pid}/{name}", "rb") as file:
                assert password.encode() not in file.read()


def test_intake_knows_no_tls_and_no_secret(programs):
    linked = subprocess.run(["ldd", programs / "relayd-intake"], capture_output=True, text=True, check=True).stdout
    assert "libssl" not in linked and "libcrypto" not in linked.replace("libgcrypt", "")
