#!/usr/bin/python3
"""relayd itself, with stand-ins for its workers: what it opens, locks, starts, watches and tells."""

import fcntl
import io
import multiprocessing
import os
import random
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

RELAYD = os.path.abspath("relayd")
AT_ONCE = 4

# A worker as base/worker.h wants it. What it shall do wrong stands in files beside it.
WORKER = """#!/usr/bin/python3 -S
import os, signal, socket, struct, sys, time
here, name = os.path.split(os.path.abspath(sys.argv[0]))
def told(what): return os.path.exists(f"{here}/{what}-{name}")
channel = socket.socket(fileno=6)
slow = told("slow")  # when it starts: the next one shall not be
stop = []
signal.signal(signal.SIGTERM, lambda *a: stop.append(1))
signal.signal(signal.SIGINT, signal.SIG_IGN)
if told("exit"): sys.exit(int(open(f"{here}/exit-{name}").read()))
def note(text):
    with open(f"{here}/seen-{name}", "a") as out: out.write(f"{os.getpid()} {text}\\n")
text = os.pread(3, 1 << 20, 0).decode()
note("config " + text.replace("\\n", ";"))
note("fds " + " ".join(sorted(os.listdir("/proc/self/fd"), key=int)[:-1]))
note("environment " + " ".join(sorted(os.environ)))
channel.send(struct.pack("II", 1, 0))
channel.settimeout(0.2)
asked = False
try:
  while not stop:
    if not told("silent"): channel.send(struct.pack("II", 2, 0))
    if told("ask") and not asked:
        channel.send(struct.pack("II", 3, 0)); asked = True
        channel.send(struct.pack("II", 3, 77)); channel.send(b"x"); channel.send(b"y" * 100)
    try:
        message = channel.recv(9000)
        if not message: break
        kind, upstream, status, length = struct.unpack("IIiI", message[:16])
        note(f"password {upstream} {status} {message[16:16 + length].decode()}")
    except socket.timeout: pass
except (BrokenPipeError, ConnectionResetError): pass  # relayd is gone, as it is when recv() gives nothing
if slow: time.sleep(60)
if told("crash"): os.kill(os.getpid(), signal.SIGSYS)
"""

CONFIG = """
user = ""
drain = "1s"
spool {{ directory = "{dir}/spool" }}
control {{ socket = "{dir}/run/control" }}
listen "127.0.0.1:{port}" {{ }}
listen "unix:{dir}/run/submit" {{ }}
upstream "one" {{ host = "smtp.example.com" username = "u" password-command = "{command}" }}
{more}
"""


def free_port():
    """A port that nobody has, and that the kernel gives to no connection of a test beside this one."""
    while True:
        with socket.socket() as s:
            try:
                port = random.randrange(10000, 32000)
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def within(seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.02)
    return False


class Relayd(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="relayd-")
        shutil.copy(RELAYD, self.dir)
        for name in ("relayd-intake", "relayd-delivery"):
            with open(f"{self.dir}/{name}", "w") as out:
                out.write(WORKER)
            os.chmod(f"{self.dir}/{name}", 0o755)
        self.port = free_port()
        self.process = None
        self.write()

    def tearDown(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        # workers whose relayd was killed may still be writing
        within(10, lambda: shutil.rmtree(self.dir, ignore_errors=True) or not os.path.exists(self.dir))

    def write(self, command="echo geheim", more=""):
        with open(f"{self.dir}/conf", "w") as out:
            out.write(CONFIG.format(dir=self.dir, port=self.port, command=command, more=more))

    def run_relayd(self, *arguments, **more):
        return subprocess.run([f"{self.dir}/relayd", "-c", f"{self.dir}/conf", *arguments], text=True,
                              capture_output=True, timeout=30, **more)

    def start(self, wait="daemon.started", environment=None, **more):
        self.log = open(f"{self.dir}/log", "w+")
        self.process = subprocess.Popen([f"{self.dir}/relayd", "-c", f"{self.dir}/conf"], stderr=self.log,
                                        env={**os.environ, **(environment or {})}, **more)
        self.expect(wait)

    def read_log(self):
        with open(f"{self.dir}/log") as log:
            return log.read()

    def expect(self, words, times=1, seconds=10):
        if not within(seconds, lambda: self.read_log().count(words) >= times):
            self.fail(f"no {words!r} in:\n{self.read_log()}")

    def seen(self, name):
        path = f"{self.dir}/seen-{name}"
        return open(path).read() if os.path.exists(path) else ""

    def tell(self, what, name, text=""):
        with open(f"{self.dir}/{what}-{name}", "w") as out:
            out.write(text)

    def pid_of(self, name):
        """The worker that was started last."""
        lines = [l for l in self.read_log().splitlines() if f"worker.started worker={name} " in l]
        return int(lines[-1].rsplit("pid=", 1)[1])

    def stop(self):
        self.process.terminate()
        self.assertEqual(self.process.wait(20), 0, self.read_log())

    # ---- start and stop ----

    def test_it_starts_both_workers_and_stops_cleanly(self):
        self.start()
        with socket.create_connection(("127.0.0.1", self.port)):
            pass
        self.assertEqual(stat.S_IMODE(os.stat(f"{self.dir}/run/submit").st_mode), 0o666)
        self.assertEqual(stat.S_IMODE(os.stat(f"{self.dir}/run/control").st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(os.stat(f"{self.dir}/spool").st_mode), 0o700)
        self.assertIn("fds 0 1 2 3 4 5 6 7 8 9 10\n", self.seen("relayd-intake"))
        self.assertIn("fds 0 1 2 3 4 5 6 7 8 9\n", self.seen("relayd-delivery"))
        self.stop()
        self.assertIn("daemon.stopped", self.read_log())
        self.assertEqual(os.listdir(f"{self.dir}/run"), [])

    def test_workers_get_a_small_environment(self):
        self.start(environment={"SECRET": "x", "LD_LIBRARY_PATH": "/nowhere", "TZ": "UTC"})
        for name in ("relayd-intake", "relayd-delivery"):
            names = self.seen(name).split(" environment ")[1].split("\n")[0].split()
            self.assertNotIn("SECRET", names)
            self.assertNotIn("LD_LIBRARY_PATH", names)
            self.assertIn("TZ", names)

    def test_descriptors_of_the_parent_do_not_leak(self):
        extra = fcntl.fcntl(0, fcntl.F_DUPFD, 77)  # no number that the worker has for something else
        self.addCleanup(os.close, extra)
        self.start(pass_fds=[extra])
        self.assertIn("fds 0 1 2 3 4 5 6 7 8 9 10\n", self.seen("relayd-intake"))

    def test_closed_standard_descriptors_are_opened(self):
        self.start(stdin=subprocess.DEVNULL, preexec_fn=lambda: (os.close(0), os.close(1)))
        self.assertIn("fds 0 1 2 3 4 5 6 7 8 9 10\n", self.seen("relayd-intake"))

    def test_a_second_one_names_the_first(self):
        self.start()
        second = self.run_relayd()
        self.assertEqual(second.returncode, 69)
        self.assertIn(f"another relayd (pid {self.process.pid}) uses it", second.stderr)

    def test_a_name_left_by_a_killed_one_is_replaced(self):
        self.start()
        workers = [self.pid_of(n) for n in ("relayd-intake", "relayd-delivery")]
        self.process.kill()
        self.process.wait()
        for pid in workers:  # their channel broke
            self.assertTrue(within(10, lambda: not os.path.exists(f"/proc/{pid}")
                                   or open(f"/proc/{pid}/stat").read().split()[2] == "Z"))
        self.start()
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(f"{self.dir}/run/submit")

    # ---- what is wrong is said ----

    def test_a_port_in_use_names_its_owner(self):
        with socket.create_server(("127.0.0.1", self.port)):
            result = self.run_relayd()
        self.assertEqual(result.returncode, 69)
        self.assertIn(f"port {self.port} is in use by", result.stderr)
        self.assertIn(f"(pid {os.getpid()})", result.stderr)

    def test_a_low_port_in_use_is_not_called_a_missing_right(self):
        """Also where /proc shows processes alone, as in relayd.service. A neighbour at another address has the port
        as well, and is not in the way."""
        pids_only = ["unshare", "--mount", "sh", "-c", 'mount -t proc -o subset=pid proc /proc && exec "$@"', "sh"]
        if os.geteuid() != 0 or subprocess.run([*pids_only, "true"], capture_output=True).returncode:
            self.skipTest("needs a mount namespace, and root to open low ports")
        if int(open("/proc/sys/net/ipv4/ip_unprivileged_port_start").read()) < 1024:
            self.skipTest("low ports need no right here")
        os.chmod(self.dir, 0o777)
        self.port = 1023
        self.write(more='listen "127.0.0.3:1023" { }')
        with socket.create_server(("127.0.0.1", self.port)):
            for before in [], pids_only:
                result = subprocess.run([*before, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                                         f"{self.dir}/relayd", "-c", f"{self.dir}/conf"], text=True,
                                        capture_output=True, timeout=30)
                self.assertEqual(result.returncode, 69, result.stderr)
                taken, right = [line for line in result.stderr.splitlines() if "listen " in line]
                self.assertIn('127.0.0.1:1023\\": port 1023 is in use by another program', taken)
                self.assertIn('127.0.0.3:1023\\": a port below 1024 needs a right', right)
                self.assertIn("systemctl status relayd.socket", right)

    def test_a_file_in_the_place_of_a_socket_is_not_removed(self):
        os.mkdir(f"{self.dir}/run")
        with open(f"{self.dir}/run/submit", "w") as out:
            out.write("mine")
        self.assertNotEqual(self.run_relayd().returncode, 0)
        with open(f"{self.dir}/run/submit") as kept:
            self.assertEqual(kept.read(), "mine")

    def test_a_spool_that_is_a_link_is_refused(self):
        os.mkdir(f"{self.dir}/elsewhere")
        os.symlink(f"{self.dir}/elsewhere", f"{self.dir}/spool")
        result = self.run_relayd()
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("symbolic link", result.stderr)

    @unittest.skipUnless(os.geteuid() == 0, "needs root to make files of others")
    def test_a_spool_of_somebody_else_is_refused(self):
        os.mkdir(f"{self.dir}/spool", 0o700)
        os.chown(f"{self.dir}/spool", 12345, 12345)
        result = self.run_relayd()
        self.assertEqual(result.returncode, 78)
        self.assertIn("belongs to uid 12345", result.stderr)

    @unittest.skipUnless(os.geteuid() == 0, "needs root to become somebody else")
    def test_root_becomes_the_user_for_good(self):
        self.write(more="")
        text = open(f"{self.dir}/conf").read().replace('user = ""', 'user = "nobody"')
        open(f"{self.dir}/conf", "w").write(text)
        os.chmod(self.dir, 0o777)
        self.start(extra_groups=[0, 4, 24])
        for pid in (self.process.pid, self.pid_of("relayd-intake"), self.pid_of("relayd-delivery")):
            status = open(f"/proc/{pid}/status").read()
            self.assertIn("CapEff:\t0000000000000000", status)
            self.assertIn("NoNewPrivs:\t1", status)
            self.assertNotIn("Uid:\t0", status)
            groups = status.split("Groups:\t")[1].split("\n")[0].split()
            self.assertEqual({"0", "4", "24"} & set(groups), set())
        self.stop()

    def test_check_tells_every_mistake(self):
        with open(f"{self.dir}/conf", "a") as out:
            out.write('upstream "two" { port = 99999 }\nretry { first = "soon" }\n')
        result = self.run_relayd("-n")
        self.assertEqual(result.returncode, 78)
        self.assertIn("port", result.stderr)
        self.assertIn("first", result.stderr)
        self.assertEqual(self.run_relayd("--nonsense").returncode, 64)

    def test_check_counts_what_is_good(self):
        result = self.run_relayd("-n")
        self.assertEqual(result.stdout, f"relayd: {self.dir}/conf is good: 2 listeners, 1 upstream\n", result.stderr)

    def test_what_is_hardly_meant_is_told_and_works(self):
        with open(f"{self.dir}/conf", "a") as out:
            out.write('upstream "clear" { host = "mail.example.com" tls = none username = "u" password-command = "true" }\n'
                      'upstream "anybody" { host = "mail.example.com" tls-verify = false auth = none }\n'
                      'upstream "here" { host = "127.0.0.1" tls = none username = "u" password-command = "true" }\n')
        result = self.run_relayd("-n")
        self.assertEqual(result.returncode, 0, result.stderr)
        clear, anybody = result.stderr.splitlines()
        self.assertIn('upstream "clear": tls = none: whoever is on the way to mail.example.com reads the password', clear)
        self.assertIn('upstream "anybody": tls-verify = false: whoever answers as mail.example.com gets the mail', anybody)
        self.start()
        self.expect('config.warned why="', 2)
        self.stop()

    def test_what_it_prints_to_the_journal_has_a_priority(self):
        """`journalctl -u relayd -p warning` finds it; on a terminal, or a file, nothing is before it."""
        with open(f"{self.dir}/conf", "a") as out:
            out.write('upstream "clear" { host = "mail.example.com" tls = none username = "u" password-command = "true" }\n')
        good = self.printed("-n")
        self.assertEqual([line[:18] for line in good], ["<4>relayd: warning"], good)
        with open(f"{self.dir}/conf", "a") as out:
            out.write('nonsense = 1\n')
        for arguments in (["-n"], []):
            lines = self.printed(*arguments)
            self.assertTrue(lines and all(line.startswith("<3>relayd: ") for line in lines), lines)
        self.assertTrue(all(line.startswith("relayd: ") for line in self.printed("-n", stream="1:2")))

    def printed(self, *arguments, stream=None):
        """What it prints to the stream that it takes for the journal's."""
        with open(f"{self.dir}/stream", "w+") as out:
            st = os.fstat(out.fileno())
            subprocess.run([f"{self.dir}/relayd", "-c", f"{self.dir}/conf", *arguments], stderr=out, timeout=30,
                           stdout=subprocess.DEVNULL,
                           env={**os.environ, "JOURNAL_STREAM": stream or f"{st.st_dev}:{st.st_ino}"})
            out.seek(0)
            return out.read().splitlines()

    # ---- death and silence ----

    def test_a_worker_that_died_is_started_again(self):
        self.start()
        for name in ("relayd-intake", "relayd-delivery"):
            os.kill(self.pid_of(name), signal.SIGKILL)
            self.expect(f"worker.died worker={name}")
            self.expect(f"worker.started worker={name}", 2)
            self.assertTrue(within(10, lambda: self.seen(name).count("config ") == 2))

    def test_restarts_slow_down(self):
        self.tell("exit", "relayd-delivery", "1")
        self.start(wait="daemon.started")  # intake alone serves: accepted mail is safe on disk
        first = self.read_log().count("worker.started worker=relayd-delivery")
        self.assertGreaterEqual(first, 3)
        time.sleep(2)
        self.assertLessEqual(self.read_log().count("worker.started worker=relayd-delivery"), first + 3)
        os.unlink(f"{self.dir}/exit-relayd-delivery")
        self.assertTrue(within(15, lambda: "fds" in self.seen("relayd-delivery")))

    def test_a_missing_worker_is_said(self):
        os.unlink(f"{self.dir}/relayd-delivery")
        self.start(wait="relayd-delivery is neither beside relayd nor in")

    def test_it_waits_for_the_workers_of_a_killed_one(self):
        """I1: they may still write what a new delivery would have read already, or freed."""
        self.tell("slow", "relayd-intake")
        self.start()
        left = self.pid_of("relayd-intake")
        self.process.kill()
        self.process.wait()
        os.unlink(f"{self.dir}/slow-relayd-intake")
        begin = time.monotonic()
        threading.Timer(1.5, os.kill, (left, signal.SIGKILL)).start()
        self.start()
        self.assertGreater(time.monotonic() - begin, 1.4)

    def test_a_worker_that_does_not_end_is_killed(self):
        self.tell("slow", "relayd-intake")
        self.start()
        begin = time.monotonic()
        self.process.terminate()
        time.sleep(0.3)
        self.process.terminate()  # the second signal shortens the wait
        self.assertEqual(self.process.wait(20), 0)
        self.assertLess(time.monotonic() - begin, 10)
        self.assertIn("it did not end in time", self.read_log())

    def test_a_worker_that_crashes_on_its_way_out_did_die(self):
        self.tell("crash", "relayd-delivery")
        self.start()
        pid = self.pid_of("relayd-delivery")
        self.stop()
        self.assertIn(f"worker.died worker=relayd-delivery pid={pid} ", self.read_log())
        self.assertIn("signal 31 (Bad system call): a sandbox forbids what it tried", self.read_log())
        self.assertIn(f"type=1326 pid={pid} ", self.read_log())
        self.assertIn("worker.stopped worker=relayd-intake", self.read_log())

    def test_as_pid_1_it_reaps_orphans(self):
        if os.geteuid() != 0 or subprocess.run(["unshare", "-pf", "true"], capture_output=True).returncode:
            self.skipTest("needs a PID namespace")
        self.write(command="(sleep 0.3; exit 0) >/dev/null & echo geheim")
        self.log = open(f"{self.dir}/log", "w+")
        self.process = subprocess.Popen(["unshare", "-pf", "--kill-child", "--mount-proc", f"{self.dir}/relayd", "-c", f"{self.dir}/conf"],
                                        stderr=self.log)
        self.expect("daemon.started version=0.1.0 pid=1 ")
        time.sleep(1)
        children = subprocess.run(["ps", "-e", "-o", "stat=,args="], text=True, capture_output=True).stdout
        self.assertNotIn("Z    [sleep]", children)

    # ---- reload ----

    def test_reload_replaces_intake_before_it_stops_the_old_one(self):
        self.start()
        inode = os.stat(f"{self.dir}/run/submit").st_ino
        self.write(more='postmaster = "ops@example.org"')
        self.process.send_signal(signal.SIGHUP)
        self.expect("config.reloaded")
        log = self.read_log()
        second = log.index("worker.started worker=relayd-intake", log.index("worker.started worker=relayd-intake") + 1)
        self.assertLess(second, log.index("worker.stopped worker=relayd-intake"))
        self.assertLess(log.index("worker.stopped worker=relayd-delivery"),
                        log.rindex("worker.started worker=relayd-delivery"))
        self.assertIn("ops@example.org", self.seen("relayd-delivery").splitlines()[-4] + self.seen("relayd-delivery"))
        self.assertEqual(os.stat(f"{self.dir}/run/submit").st_ino, inode, "the socket is the same")
        self.stop()

    def test_a_bad_config_changes_nothing(self):
        self.start()
        before = self.read_log().count("worker.started")
        self.write(more="nonsense = 1")
        self.process.send_signal(signal.SIGHUP)
        self.expect("config.rejected")
        self.write(more='listen "192.0.2.1:2525" { }')
        self.process.send_signal(signal.SIGHUP)
        self.expect("does not have that address")
        self.assertEqual(self.read_log().count("worker.started"), before)
        with socket.create_connection(("127.0.0.1", self.port)):
            pass

    def test_a_reload_keeps_the_spool_and_says_where_mail_waits(self):
        self.start()
        text = open(f"{self.dir}/conf").read()
        with open(f"{self.dir}/conf", "w") as out:
            out.write(text.replace(f"{self.dir}/spool", f"{self.dir}/other"))
        self.process.send_signal(signal.SIGHUP)
        self.expect("spool { directory } changed: that needs a restart, a reload keeps the spool; mail that waits "
                    f"stays in {self.dir}/spool: move what is in there to {self.dir}/other while relayd is stopped")
        self.assertFalse(os.path.exists(f"{self.dir}/other"))

    def test_a_config_with_which_intake_does_not_start_is_taken_back(self):
        self.start()
        old = self.pid_of("relayd-intake")
        self.tell("exit", "relayd-intake", "78")
        self.process.send_signal(signal.SIGHUP)
        self.expect("does not start with the new configuration")
        os.kill(old, 0)  # it still serves
        time.sleep(0.5)
        self.assertNotIn("config.reloaded", self.read_log())
        os.unlink(f"{self.dir}/exit-relayd-intake")
        self.process.send_signal(signal.SIGHUP)
        self.expect("config.reloaded")

    def test_a_config_with_which_nothing_starts_can_be_replaced(self):
        self.tell("exit", "relayd-intake", "78")
        self.start(wait="worker.died worker=relayd-intake")
        os.unlink(f"{self.dir}/exit-relayd-intake")
        self.process.send_signal(signal.SIGHUP)
        self.expect("daemon.started", seconds=5)

    def test_reload_opens_and_closes_listeners(self):
        self.start()
        old, self.port = self.port, free_port()
        self.write()
        self.process.send_signal(signal.SIGHUP)
        self.expect("config.reloaded")
        with socket.create_connection(("127.0.0.1", self.port)):
            pass
        # the old worker has it open until it has ended
        self.assertTrue(within(10, lambda: not listens(old)))

    def test_reload_makes_a_socket_anew_whose_name_was_removed(self):
        self.start()
        paths = [f"{self.dir}/run/submit", f"{self.dir}/run/control"]
        for path in paths:
            os.unlink(path)
        self.process.send_signal(signal.SIGHUP)
        self.expect("config.reloaded")
        for path in paths:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
        self.assertEqual(stat.S_IMODE(os.stat(paths[1]).st_mode), 0o600)
        self.stop()
        self.assertFalse([path for path in paths if os.path.exists(path)])

    def test_a_reload_that_failed_leaves_no_dead_socket_in_the_way(self):
        self.start()
        path = f"{self.dir}/run/submit"
        os.unlink(path)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.write(more=f'listen "127.0.0.1:{taken.getsockname()[1]}" {{ }}')
            self.process.send_signal(signal.SIGHUP)
            self.expect("config.rejected")
        self.write()
        self.process.send_signal(signal.SIGHUP)
        self.expect("config.reloaded")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)

    # ---- password-command ----

    def test_password_command_goes_to_delivery(self):
        self.write(command="echo $HOME-$PATH >&2; echo geheim; echo two")
        self.start()
        self.assertTrue(within(10, lambda: "password 0 0 geheim\ntwo" in self.seen("relayd-delivery")))
        self.assertTrue(within(10, lambda: "\n-/usr/local/sbin:" in "\n" + self.read_log()))
        self.assertNotIn("geheim", self.read_log())

    def test_password_command_that_fails_is_said(self):
        self.write(command="echo half; exit 3")
        self.start()
        self.expect("secret.failed upstream=one")
        self.expect("exit code 3")
        self.assertTrue(within(10, lambda: "password 0 3 \n" in self.seen("relayd-delivery")))

    def test_password_command_that_says_too_much_is_refused(self):
        self.write(command="head -c 100000 /dev/zero")
        self.start()
        self.expect("more than 8192 bytes")

    def test_password_command_that_never_stops_talking_keeps_relayd_from_nothing(self):
        self.write(command="yes")
        self.start()
        time.sleep(0.5)
        began = time.monotonic()
        self.stop()
        self.assertLess(time.monotonic() - began, 5)

    def test_a_worker_that_asks_again_waits_and_nonsense_does_no_harm(self):
        self.tell("ask", "relayd-delivery")
        self.start()
        self.assertTrue(within(5, lambda: self.seen("relayd-delivery").count("password 0 0") == 1))
        time.sleep(1)
        self.assertEqual(self.seen("relayd-delivery").count("password 0 0"), 1, "at most once in 10 s")
        self.assertTrue(within(15, lambda: self.seen("relayd-delivery").count("password 0 0") == 2))

    # ---- systemd ----

    def test_it_tells_systemd_what_it_does(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(f"{self.dir}/notify")
            notify.settimeout(15)
            self.start(environment={"NOTIFY_SOCKET": f"{self.dir}/notify", "WATCHDOG_USEC": "4000000"})
            heard = ""

            def hear(words):
                nonlocal heard
                end = time.monotonic() + 15  # the watchdog is fed for ever
                while words not in heard:
                    self.assertLess(time.monotonic(), end, f"no {words!r} in {heard!r}")
                    heard += notify.recv(4096).decode() + "\n"
                heard = heard[heard.index(words) + len(words):]

            hear("READY=1\nSTATUS=serving 2 listeners, 1 upstream\n")
            hear("WATCHDOG=1")
            self.process.send_signal(signal.SIGHUP)
            hear("RELOADING=1\nMONOTONIC_USEC=")
            hear("READY=1")
            self.write(more="nonsense = 1")
            self.process.send_signal(signal.SIGHUP)
            hear("RELOADING=1")
            hear("READY=1")
            self.process.terminate()
            hear("STOPPING=1")

    def test_sockets_from_systemd_are_matched_by_address(self):
        os.mkdir(f"{self.dir}/run")
        with socket.create_server(("127.0.0.1", self.port)) as tcp, \
                socket.create_server(("127.0.0.1", 0)) as unwanted, \
                socket.socket(socket.AF_UNIX) as unix:
            unix.bind(f"{self.dir}/run/submit")
            unix.listen()
            inode = os.stat(f"{self.dir}/run/submit").st_ino
            unnamed = unwanted.getsockname()
            fds = [unwanted.fileno(), unix.fileno(), tcp.fileno()]

            # LISTEN_PID has to be the pid after exec: a shell execs in place
            script = f'LISTEN_PID=$$ LISTEN_FDS=3 exec "{self.dir}/relayd" -c "{self.dir}/conf"'
            self.log = open(f"{self.dir}/log", "w+")
            moved = [os.dup(fd) for fd in fds]
            redirect = " ".join(f"{3 + i}<&{fd}" for i, fd in enumerate(moved))
            self.process = subprocess.Popen(["bash", "-c", f"exec {redirect}; {script}"], stderr=self.log,
                                            pass_fds=moved)
            for fd in moved:
                os.close(fd)
            self.expect("daemon.started")
        self.assertIn("systemd passes this socket, but no listen block names it", self.read_log())
        self.assertRegex(self.answer_at(unnamed), r"^421 4\.3\.2 .*no listen block names it\r\n$")
        with socket.create_connection(("127.0.0.1", self.port)):
            pass
        self.assertEqual(os.stat(f"{self.dir}/run/submit").st_ino, inode)
        self.write(more=f'listen "127.0.0.1:{unnamed[1]}" {{ }}')
        self.process.send_signal(signal.SIGHUP)
        self.expect("config.reloaded")
        with self.assertRaises(TimeoutError):
            self.answer_at(unnamed, seconds=2)  # it is intake's now, and this one says nothing
        self.write()
        self.process.send_signal(signal.SIGHUP)
        self.expect("config.reloaded", times=2)
        self.assertRegex(self.answer_at(unnamed), "^421 ")
        self.stop()
        self.assertTrue(os.path.exists(f"{self.dir}/run/submit"), "the name is systemd's")


    @staticmethod
    def answer_at(address, seconds=10):
        """All that a server says until it closes."""
        with socket.create_connection(address, timeout=seconds) as client:
            return b"".join(iter(lambda: client.recv(4096), b"")).decode()


def run_one(name):
    out = io.StringIO()
    suite = unittest.defaultTestLoader.loadTestsFromName(name, sys.modules["__main__"])
    result = unittest.TextTestRunner(out, verbosity=2, warnings="ignore").run(suite)
    return result.wasSuccessful(), out.getvalue()


def main():
    """They wait more than they work: some at a time, each in a process of its own. (Or those that are named.)"""
    if sys.argv[1:]:
        unittest.main(verbosity=2, warnings="ignore")
    names = [f"Relayd.{name}" for name in unittest.defaultTestLoader.getTestCaseNames(Relayd)]
    failed = 0
    with multiprocessing.get_context("fork").Pool(AT_ONCE, maxtasksperchild=1) as pool:
        for is_good, text in pool.imap(run_one, names, 1):
            print(text, end="", flush=True)
            failed += not is_good
    print(f"{len(names)} tests, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    if not os.path.exists(RELAYD):
        print("relayd is not built here")
        sys.exit(77)
    main()
