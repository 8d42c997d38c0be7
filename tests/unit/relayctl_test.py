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

    def serve(self, *lines, hang_up=False):
        """Answers each request with these lines."""
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(f"{self.dir}/control")
        self.server.listen()

        def run():
            while True:
                try:
                    client, _ = self.server.accept()
                except OSError:
                    return
                with client, client.makefile("rwb") as stream:
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
                          ["status", "now"], ["queue", "--yes"], ["status", "--state", "held"],
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
        self.serve({"message": MESSAGE}, {"ok": True, "count": 1})
        result = self.run_it("queue", "--state", "deferred", "--sender", "a", "--uid", "33")
        self.assertEqual(result.returncode, 0)
        self.assertEqual(self.requests, [{"command": "queue", "state": "deferred", "sender": "a", "uid": 33}])
        self.assertIn("ann@example.org  450 4.2.1 ", result.stdout)
        self.assertIn("<>", result.stdout)
        self.assertNotIn("\x1b", result.stdout, "nothing steers the terminal")

    def test_queue_says_what_queued_mail_waits_for(self):
        self.serve({"message": {**MESSAGE, "state": "queued"}},
                   {"status": {"upstreams": [{"name": "gmail", "state": "down", "why": "the password is wrong"}]}},
                   {"ok": True, "count": 1})
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
        self.assertIn("7 messages", self.run_it("retry", "--all").stdout)
        self.assertEqual(self.requests, [{"command": "retry", "all": True}])

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
                                              "why": "the password is wrong", "fix": "change it"}]}},
                   {"ok": True})
        result = self.run_it("status")
        self.assertEqual(result.returncode, 0)
        for words in ("DELIVERY WAITS: the spool does not work", "DOES NOT RUN", "DOWN", "2 h 0 min",
                      "the password is wrong", "change it"):
            self.assertIn(words, result.stdout)
        self.assertTrue(json.loads(self.run_it("status", "--json").stdout)["running"])

    def test_an_answer_that_breaks_off_is_1(self):
        self.serve({"message": MESSAGE}, hang_up=True)
        result = self.run_it("queue")
        self.assertEqual(result.returncode, 1)
        self.assertIn("broke off", result.stderr)

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
