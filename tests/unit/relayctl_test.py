#!/usr/bin/python3
"""relayctl against a stand-in for delivery's control socket: what it asks, what it shows, how it ends."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

RELAYCTL = os.path.abspath("relayctl")
ID, OTHER = "00TR4ZW900001", "00TR4ZW900002"
MESSAGE = {"id": ID, "state": "deferred", "sender": "", "size": 2048, "arrived": "2026-01-01T00:00:00Z",
           "next_attempt": "2126-01-01T00:00:00Z", "uid": 33, "unit": "php.service", "upstream": "gmail",
           "recipients": [{"recipient": "ann@example.org", "state": "deferred", "attempts": 2,
                           "reply": "450 4.2.1 \x1b[2Jlater"}]}


class Relayctl(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="relayctl-")
        with open(f"{self.dir}/conf", "w") as out:
            out.write(f'spool {{ directory = "{self.dir}/spool" }}\n'
                      f'control {{ socket = "{self.dir}/control" }}\n'
                      'upstream "gmail" { host = "smtp.example.com" username = "u" '
                      'password-command = "vault read geheim" }\n')
        self.server = None
        self.requests = []

    def tearDown(self):
        if self.server is not None:
            self.server.close()
        shutil.rmtree(self.dir)

    def serve(self, *lines, hang_up=False, hear=True):
        """Answers each request with these lines; if it does not hear, before there is one."""
        self.server = server = socket.socket(socket.AF_UNIX)
        server.bind(f"{self.dir}/control")
        server.listen()

        def run():
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client, client.makefile("rwb") as stream:
                    if hear:
                        self.requests.append(json.loads(stream.readline()))
                    for line in lines:
                        stream.write(json.dumps(line).encode() + b"\n")
                    stream.flush()
                    if not hang_up:
                        stream.readline()

        threading.Thread(target=run, daemon=True).start()

    def run_it(self, *arguments, text=True, **more):
        return subprocess.run([RELAYCTL, "-c", f"{self.dir}/conf", *arguments], text=text, capture_output=True,
                              timeout=30, **more)

    def test_wrong_use_is_2(self):
        for arguments in ([], ["nonsense"], ["show"], ["show", "xyz"], ["retry"], ["retry", ID, "--all"],
                          ["status", "now"], ["queue", "--yes"], ["queue", "-v"], ["status", "--state", "held"],
                          ["queue", "--uid", "root"], ["hold", "../../etc/passwd"], ["--nonsense"]):
            with self.subTest(arguments):
                result = self.run_it(*arguments)
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertEqual(result.stdout, "")

    def test_a_config_that_is_named_has_to_load(self):
        with open(f"{self.dir}/conf", "a") as out:
            out.write("nonsense = 1\n")
        result = self.run_it("status")
        self.assertEqual(result.returncode, 1)
        self.assertIn("nonsense", result.stderr)

    def test_queue_asks_with_filters_and_shows(self):
        self.serve({"row": f"{ID}  deferred  <>"}, {"row": "  -> ann@example.org  450 4.2.1 \x1b[2Jlater \"x\""},
                   {"ok": True, "count": 1})
        result = self.run_it("queue", "--state", "deferred", "--sender", "a", "--uid", "33")
        self.assertEqual(result.returncode, 0)
        self.assertEqual(self.requests, [{"command": "queue", "rows": True, "state": "deferred", "sender": "a",
                                          "uid": 33}])
        title, row, recipient, end = result.stdout.splitlines()
        self.assertEqual(title.split()[:2], ["ID", "STATE"])
        self.assertEqual(row, f"{ID}  deferred  <>")
        self.assertEqual(recipient, '  -> ann@example.org  450 4.2.1 ?[2Jlater "x"', "nothing steers the terminal")
        self.assertEqual(end, "1 message")

    def test_queue_ends_with_an_answer_that_is_none(self):
        for row in (["a"], 7, None):
            with self.subTest(row):
                self.serve({"row": "first"}, {"row": row}, {"ok": True, "count": 2})
                result = self.run_it("queue")
                self.server.close()
                os.unlink(f"{self.dir}/control")
                self.assertEqual((result.returncode, result.stdout.splitlines()[1:]), (1, ["first"]))
                self.assertIn("broke off", result.stderr)

    def test_queue_says_what_queued_mail_waits_for(self):
        self.serve({"row": f"{ID}  queued"},
                   {"status": {"upstreams": [{"name": "gmail", "state": "down", "why": "the password is wrong"}]}},
                   {"ok": True, "count": 1, "queued": True})
        result = self.run_it("queue")
        self.assertEqual([r["command"] for r in self.requests], ["queue", "status"])
        self.assertIn("Mail for upstream gmail waits until it is up again: the password is wrong", result.stdout)

    def test_queue_json_is_the_object_itself(self):
        self.serve({"message": MESSAGE}, {"message": MESSAGE}, {"ok": True, "count": 2})
        result = self.run_it("queue", "--json")
        self.assertEqual([json.loads(l) for l in result.stdout.splitlines()], [MESSAGE, MESSAGE])

    def test_an_error_is_1_and_one_line(self):
        self.serve({"error": "no message of this \x1b[31mname"})
        result = self.run_it("show", ID)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(len(result.stderr.splitlines()), 1)
        self.assertNotIn("\x1b", result.stderr)

    def test_changes_tell_what_became_of_each(self):
        self.serve({"id": ID, "result": "held"}, {"id": OTHER, "error": "it is not in the queue"},
                   {"error": "not all messages were changed", "count": 1})
        result = self.run_it("hold", ID, OTHER)
        self.assertEqual(self.requests, [{"command": "hold", "id": [ID, OTHER]}])
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stdout, f"{ID}: held\n")
        self.assertIn(f"{OTHER}: it is not in the queue", result.stderr)

    def test_retry_all(self):
        self.serve({"ok": True, "count": 7})
        self.assertEqual(self.run_it("retry", "--all").stdout, "7 messages to be tried now\n")
        self.assertEqual(self.requests, [{"command": "retry", "all": True}])

    def test_all_gives_the_total_and_the_lines_when_asked(self):
        lines = [{"id": ID, "result": "released"}, {"id": OTHER, "error": "the disk\x1b is full"},
                 {"id": OTHER, "error": "another"}]
        self.serve(*lines, {"error": "not all messages were changed", "count": 1, "failed": 2})
        result = self.run_it("release", "--all")
        self.assertEqual((result.returncode, result.stdout), (1, "1 message released\n"))
        self.assertEqual(result.stderr, "relayctl: 2 messages not released (-v lists them); "
                                        f"the first is {OTHER}: the disk\\x1b is full\n")
        result = self.run_it("release", "--all", "-v")
        self.assertEqual(result.stdout, f"{ID}: released\n1 message released\n")
        self.assertEqual(len(result.stderr.splitlines()), 3)
        result = self.run_it("release", "--all", "--json")
        self.assertEqual([json.loads(line) for line in result.stdout.splitlines()], lines)

    def test_all_that_breaks_off_says_how_far_it_came(self):
        self.serve({"id": ID, "result": "released"}, hang_up=True)
        result = self.run_it("release", "--all")
        self.assertEqual((result.returncode, result.stdout), (1, "1 message released\n"))
        self.assertIn("broke off", result.stderr)

    def test_all_that_is_refused_has_no_total(self):
        self.serve({"error": "the spool is still being read"})
        result = self.run_it("release", "--all")
        self.assertEqual((result.returncode, result.stdout), (1, ""))

    def test_remove_asks(self):
        self.serve({"id": ID, "result": "removed"}, {"ok": True, "count": 1})
        for answer in ("n\n", "", "\n", "no\n"):
            self.assertEqual(self.run_it("remove", ID, input=answer).returncode, 1)
        self.assertEqual(self.requests, [])
        self.assertEqual(self.run_it("remove", ID, input="y\n").returncode, 0)
        self.assertEqual(self.run_it("remove", "--yes", ID).returncode, 0)
        self.assertEqual(len(self.requests), 2)

    def test_show_body_is_bit_for_bit(self):
        body = bytes(range(256)) * 300
        pieces = [{"data": base64.b64encode(body[i:i + 1000]).decode()} for i in range(0, len(body), 1000)]
        self.serve({"message": {**MESSAGE, "headers": "Subject: \x1b]0;x\x07\r\n", "history": []}}, *pieces,
                   {"ok": True})
        result = self.run_it("show", ID, "--body", text=False)
        self.assertEqual(self.requests, [{"command": "show", "id": ID, "body": True}])
        head, shown = result.stdout.split(b"\nMessage\n", 1)
        self.assertEqual(shown, body)
        self.assertNotIn(b"\x1b", head)

    def test_test_says_why_and_what_to_do(self):
        self.serve({"event": "step", "text": "connecting"},
                   {"event": "dialogue", "direction": ">", "line": "AUTH PLAIN ********"},
                   {"error": "The login failed", "id": ID, "phase": "auth", "why": "535 no", "fix": "check username"})
        result = self.run_it("test", "ann@example.org")
        self.assertEqual(self.requests, [{"command": "test", "recipient": "ann@example.org"}])
        self.assertEqual(result.returncode, 1)
        self.assertIn("  > AUTH PLAIN ********", result.stdout)
        for words in ("FAILED at auth", "535 no", "check username"):
            self.assertIn(words, result.stderr)

    def test_status_says_what_is_down(self):
        self.serve({"status": {"version": "1", "hostname": "h", "paused": "the spool does not work",
                               "processes": [{"name": "relayd-intake", "pid": 0, "restarts": 3}],
                               "queue": {"total": 2, "deferred": 2, "oldest_s": 7200},
                               "upstreams": [{"name": "gmail", "host": "x", "port": 587, "state": "down",
                                              "queued": 1, "why": "the password is wrong", "fix": "change it"}]}},
                   {"ok": True})
        result = self.run_it("status")
        self.assertEqual(result.returncode, 0)
        self.assertNotIn("next probe when there", result.stdout)
        for words in ("DELIVERY WAITS: the spool does not work", "DOES NOT RUN", "DOWN", "2 h 0 min",
                      "the password is wrong", "change it"):
            self.assertIn(words, result.stdout)
        self.assertTrue(json.loads(self.run_it("status", "--json").stdout)["running"])

    def test_a_probe_that_waits_for_mail_has_no_time(self):
        self.serve({"status": {"upstreams": [{"name": "a", "state": "down", "queued": 0, "next_probe": None}]}},
                   {"ok": True})
        self.assertIn("next probe when there is mail to try it with", self.run_it("status").stdout)

    def test_one_is_not_many(self):
        for n, words in ((1, ("1 time after", "1 message:", "1 message,", "1 session now", "1 time deferred",
                              "1 possible duplicate\n", "1 of 1 connection,")),
                         (2, ("2 times after", "2 messages:", "2 messages,", "2 sessions now", "2 times deferred",
                              "2 possible duplicates\n", "2 of 2 connections,"))):
            self.serve({"status": {"processes": [{"name": "relayd-intake", "pid": 1, "restarts": n}],
                                   "queue": {"total": n}, "intake": {"accepted": n, "sessions": n},
                                   "counts": {"deferred": n, "possible_duplicates": n},
                                   "upstreams": [{"name": "a", "connections": n, "connections_max": n}]}}, {"ok": True})
            text = self.run_it("status").stdout
            self.server.close()
            os.unlink(f"{self.dir}/control")
            for word in words:
                self.assertIn(word, text)

    def test_status_says_what_is_the_matter_with_the_spool(self):
        spool = {"directory": "/spool", "free_bytes": 1 << 20, "size_bytes": 1 << 30, "min_free_bytes": 2 << 20}
        for intake, more, words in (
                ({}, {"full": True, "why": "full: 1.0 MiB free", "fix": "make room"},
                 ("NEW MAIL IS REFUSED", "why:   full: 1.0 MiB free", "to do: make room")),
                ({"spool_failed": True}, {"why": "\x1b[2J"}, ("NEW MAIL IS REFUSED", "why:   \\x1b[2J")),
                ({}, {"failed": True, "why": "it cannot be written: no"}, ("IT DOES NOT WORK", "it cannot be written"))):
            with self.subTest(more):
                self.serve({"status": {"version": "1", "hostname": "h", "intake": intake, "spool": {**spool, **more}}},
                           {"ok": True})
                text = self.run_it("status").stdout
                self.server.close()
                os.unlink(f"{self.dir}/control")
                for word in words:
                    self.assertIn(word, text)

    def test_without_a_daemon_it_says_that_the_spool_is_full(self):
        os.mkdir(f"{self.dir}/spool")
        with open(f"{self.dir}/conf") as conf:
            text = conf.read()
        with open(f"{self.dir}/conf", "w") as out:
            out.write(text.replace("spool {", 'spool { min-free = "1024G" '))
        text = self.run_it("status").stdout
        self.assertIn("NEW MAIL IS REFUSED", text)
        self.assertRegex(text, r"why:   full: [0-9.]+ [KMGT]iB free, min-free wants 1.0 TiB\n +to do: make room, or")

    def test_an_answer_that_breaks_off_is_1(self):
        self.serve({"message": MESSAGE}, hang_up=True)
        result = self.run_it("queue")
        self.assertEqual(result.returncode, 1)
        self.assertIn("broke off", result.stderr)

    def test_who_is_turned_away_before_asking_is_told_why(self):
        self.serve({"error": "you may not ask"}, hang_up=True, hear=False)
        result = self.run_it("retry", *["0123456789ABC"] * 20000)  # more than the socket holds: it is being sent
        self.assertEqual(result.returncode, 1)
        self.assertIn("you may not ask", result.stderr)

    def test_what_is_not_the_protocol_is_1(self):
        self.serve([1, 2, 3])
        self.assertEqual(self.run_it("status").returncode, 1)

    def test_without_a_daemon_it_reads_the_spool(self):
        os.mkdir(f"{self.dir}/spool")
        for arguments in (["queue"], ["status"], ["config"]):
            result = self.run_it(*arguments)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("does not run", result.stderr)
        self.assertFalse(json.loads(self.run_it("status", "--json").stdout)["running"])
        self.assertEqual(self.run_it("queue", "--json").stdout, "")
        self.assertEqual(self.run_it("show", ID).returncode, 1)
        for arguments in (["retry", "--all"], ["remove", "--yes", ID], ["test", "a@b"], ["metrics"]):
            result = self.run_it(*arguments)
            self.assertEqual(result.returncode, 1)
            self.assertIn("relayd does not run", result.stderr)
        self.assertEqual(os.listdir(f"{self.dir}/spool"), [], "nothing was changed")

    def test_a_delivery_that_hangs_does_not_hang_us(self):
        os.mkdir(f"{self.dir}/spool")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(f"{self.dir}/control")
            s.listen()
            result = self.run_it("status")
        self.assertEqual(result.returncode, 0)

    def test_a_list_that_hangs_is_not_begun_anew(self):
        os.mkdir(f"{self.dir}/spool")
        self.serve({"message": MESSAGE})
        result = self.run_it("queue", "--json")
        self.assertEqual(result.returncode, 1, result.stdout)
        self.assertEqual(len(result.stdout.splitlines()), 1)

    def test_secrets_are_masked(self):
        result = self.run_it("config")
        self.assertNotIn("geheim", result.stdout)
        self.assertIn("password-command", result.stdout)

    def test_output_that_cannot_be_written_is_told(self):
        self.serve({"message": MESSAGE}, {"ok": True, "count": 1})
        with open("/dev/full", "w") as full:
            result = subprocess.run([RELAYCTL, "-c", f"{self.dir}/conf", "queue"], stdout=full,
                                    stderr=subprocess.PIPE, text=True)
        self.assertEqual(result.returncode, 1)


if __name__ == "__main__":
    if not os.path.exists(RELAYCTL):
        print("relayctl is not built here")
        sys.exit(77)
    unittest.main(verbosity=2, warnings="ignore")
