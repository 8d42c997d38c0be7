#!/usr/bin/env python3
"""relayd-sendmail against a small fake server: what it sends, what it says, how it exits."""
import concurrent.futures
import os
import socket
import subprocess
import tempfile
import threading
import time
import unittest

PROGRAM = os.path.abspath("relayd-sendmail")
HASTY = os.path.abspath("hasty-sendmail")
EHLO = "250-relay.example.com\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-DSN\r\n250 SMTPUTF8"


class Server(threading.Thread):
    """Answers one connection; `answers` maps the start of a command to another reply. Without a path: on self.port."""

    def __init__(self, path=None, answers=None, close_at=None):
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.listener.bind(path or ("127.0.0.1", 0))
        self.listener.listen()
        self.port = None if path else self.listener.getsockname()[1]
        self.answers = {"EHLO": EHLO, **(answers or {})}
        self.close_at = close_at
        self.commands, self.messages, self.rcpts = [], [], 0

    def reply(self, command):
        for start, text in self.answers.items():
            if command.startswith(start):
                return text() if callable(text) else text
        return {"DATA": "354 go", "QUIT": "221 bye"}.get(command[:4], "250 2.0.0 Ok")

    def run(self):
        connection, _ = self.listener.accept()
        with connection, connection.makefile("rb") as lines:
            connection.sendall(self.answers.get("greeting", "220 fake ESMTP relayd").encode() + b"\r\n")
            for line in lines:
                command = line.decode().rstrip("\r\n")
                self.commands.append(command)
                if self.close_at and command.startswith(self.close_at):
                    return
                answer = self.reply(command)
                connection.sendall(answer.encode() + b"\r\n")
                if command == "DATA" and answer.startswith("354"):
                    if not self.data(connection, lines):
                        return
                if command == "QUIT":
                    return

    def data(self, connection, lines):
        message = []
        for line in lines:
            if line == b".\r\n":
                if self.close_at == "end":
                    return False
                self.messages.append(b"".join(message))
                connection.sendall(self.answers.get("end", "250 2.0.0 stored").encode() + b"\r\n")
                return True
            message.append(line[1:] if line.startswith(b".") else line)
        return False

# In each a @ is what relayd-sendmail puts in, a % an @ that was there.
QUALIFIED = (
    "To: root@",
    "tO:root@",
    "Cc : root@ ",
    "Sender: <root@>",
    "Reply-To: Ann Lee <ann@>",
    "Resent-From: root@",
    "Resent-Sender: root@",
    "Resent-Reply-To: root@",
    "Resent-To: root@",
    "resent-cc: root@",
    "From: root@ (Cron Daemon)",
    "From: root@(Cron Daemon)",
    'From: "(Cron Daemon)" <root@>',
    "From: (Cron (the \\) Daemon)) root@",
    "From: (a) < (b) root@ (c) > (d)",
    "From: www-data+x=y@ (PHP)",
    "From: ann.lee@",
    'From: "ann lee"@',
    'From: "ann \\" lee" <"ann\\"<>, lee"@>',
    "To: root@,ann@, bob%x.org, carl@",
    'To: "Lee, Ann" <ann@>, "root, or; so: <x>" <root@>, bob%x.org',
    'To: "ann%x.org" <root@>',
    "To: Ann\n Lee\n <ann@>,\n\tbob@ (Bob,\n  really),\n carl%x.org",
    "To:\n root@",
    "To: root@\n ",
    'To: "Cron\n Daemon" <root@>',
    "To: J\u00f6rg <joerg@>",
    'To: "J\u00f6rg, \u6f22\u5b57" <joerg@> (Gr\u00fc\u00dfe)',
    "To: =?UTF-8?Q?J=C3=B6rg?= <joerg@>",
    "To: A. N. Other <another@>",
    "To: undisclosed-recipients:;, root@",
    "To: friends: ann, Bob <bob>;, carl@",
    "To: , root@,, ann@,",
    "To: root@, <>",
    "To: ann%[127.0.0.1], root@",
    "To: " + ",\n ".join(f"user{i}@" for i in range(2000)),
    "To: " + "a" * 256 + "@",
    "To: " + "x" * 900 + " <root@>",
)
NOT_QUALIFIED = (
    b"X-To: root",
    b"Subject: root",
    b"To:",
    b"To: ",
    b"From: <>",
    b"To: undisclosed-recipients:;",
    b"To: list: ann, bob;",
    b"To: list: ann, bob",
    b"To: ann@x.org, Bob <bob@y.org>",
    b"To: ann @ x.org",
    b"To: ann@",
    b"To: @x.org",
    b"To: <@r.org:ann@x.org>",
    b"To: J\xc3\xb6rg",
    b"To: J\xf6rg",
    b"To: J\xf6rg <j\xf6rg>",
    b"To: =?UTF-8?Q?J=C3=B6rg?=",
    b"To: \"=?UTF-8?Q?J=C3=B6rg?=\"",
    b"To: <root>@x.org",
    b"To: <root> @ x.org, ann",
    b"To: <root> ann",
    b"To: Ann Lee",
    b"To: \"Ann\" Lee",
    b"To: ann . lee",
    b"To: ann (x) .lee",
    b"To: ann..lee",
    b"To: .ann",
    b"To: ann.",
    b"To: \"ann\".lee",
    b"To: \"\"",
    b"To: ann@x.org <root>",
    b"To: [ann] <root>",
    b"To: root; ann",
    b"To: root;",
    b"To: a: b: root;, ann",
    b"To: <ann>: root;, bob",
    b"To: :;, root",
    b"To: root, <ann",
    b"To: root, ann>",
    b"To: root, \"ann",
    b"To: root (Cron",
    b"To: root) <ann>",
    b"To: a\\b",
    b"To: a\\b <root>",
    b"To: root, ann lee",
    b"To: root\x01",
    b"To: \x7f <root>",
    b"To: <<root>>",
    b"To: root, " + b"a" * 257,
    b"To: " + b"a" * 2000,
    b"To: " + b"x" * 970 + b" <root>",
    b"To: " + b",".join([b"root"] * 100),
    b"To: " + b",\n ".join([b"root"] * 20001),
)


class Sendmail(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.path = os.path.join(self.dir.name, "submit")

    def run_it(self, args, message=b"", env=None, name=None):
        program = PROGRAM
        if name:
            program = os.path.join(self.dir.name, name)
            os.symlink(PROGRAM, program)
        return subprocess.run([program, *args], input=message, capture_output=True, timeout=60,
                              env={"RELAYD_SUBMIT": self.path, **(env or {})}, check=False)

    def send(self, args, message, code=0, **server):
        s = Server(self.path, **server)
        s.start()
        result = self.run_it(args, message)
        self.assertEqual(result.returncode, code, result.stderr)
        if code == 0:
            self.assertEqual(result.stderr, b"")
        else:
            self.assertEqual(result.stderr.count(b"\n"), 1, result.stderr)
        s.join(10)
        self.assertFalse(s.is_alive())
        os.unlink(self.path)
        return s

    def rcpts(self, server):
        return [c[9:-1] for c in server.commands if c.startswith("RCPT TO:<")]

    def test_a_plain_message(self):
        s = self.send(["-f", "ann@example.com", "bob@example.org"],
                      b"From: ann@example.com\nSubject: x\n\nhello\n..\nend")
        self.assertIn("MAIL FROM:<ann@example.com> SIZE=53", s.commands)
        self.assertEqual(self.rcpts(s), ["bob@example.org"])
        self.assertEqual(s.messages, [
            b"From: ann@example.com\r\nSubject: x\r\n\r\nhello\r\n..\r\nend\r\n"])
        self.assertEqual(s.commands[-1], "QUIT")

    def test_line_ends_and_nul(self):
        s = self.send(["bob@x.org"], b"From: a@b.c\r\n\r\na\rb\r\r\nc\0d\ne")
        self.assertEqual(s.messages, [b"From: a@b.c\r\n\r\na b \r\nc d\r\ne\r\n"])

    def test_lone_dot(self):
        text = b"From: a@b.c\n\none\n.\ntwo\n"
        self.assertEqual(self.send(["b@x.org"], text).messages, [b"From: a@b.c\r\n\r\none\r\n"])
        for option in ("-i", "-oi", "-ti"):
            s = self.send([option, "b@x.org"], text)
            self.assertEqual(s.messages, [b"From: a@b.c\r\n\r\none\r\n.\r\ntwo\r\n"])
        s = self.send(["b@x.org"], b"From: a@b.c\r\n\r\none\r\n.\r\ntwo\r\n")
        self.assertEqual(s.messages, [b"From: a@b.c\r\n\r\none\r\n"])

    def test_bcc_never_leaks(self):
        for bcc in (b"Bcc: secret@x.org\n", b"bCC : secret@x.org\n", b"BCC:\n secret@x.org\n",
                    b"Bcc: a@x.org\nBcc: secret@x.org\nBcc: c@x.org\n",
                    b"Bcc: a@x.org,\n\tsecret@x.org (secret),\n  \"secret\" <c@x.org>\n",
                    b"Resent-Bcc: secret@x.org\n", b"resent-bcc\t:secret@x.org\nBcc: secret@y.org\n",
                    b"Bcc: secret@x.org\r\n"):
            text = b"From: a@b.c\n" + bcc + b"To: b@x.org\n" + bcc + b"\nhello\n"
            for args in (["-t"], ["-t", "-i"], ["d@x.org"]):
                s = self.send(args, text)
                self.assertEqual(s.messages, [b"From: a@b.c\r\nTo: b@x.org\r\n\r\nhello\r\n"])
                self.assertEqual("secret@x.org" in self.rcpts(s), args[0] == "-t")

    def test_header_recipients(self):
        text = (b"To: Ann Lee <ann@x.org>, bob@x.org (Bob, really), \"C, D\"\n <c@x.org>\n"
                b"cc: list: e@x.org, <@r.org:f@x.org>;, undisclosed:;\n"
                b"Cc: ann@x.org, \"odd one\"@x.org, h@[127.0.0.1], root\n"
                b"X-To: no@x.org\nFrom: a@b.c\n\nTo: no@x.org\n")
        s = self.send(["-t", "g@x.org"], text)
        self.assertEqual(self.rcpts(s), [
            "g@x.org", "ann@x.org", "bob@x.org", "c@x.org", "e@x.org", "f@x.org",
            "\"odd one\"@x.org", "h@[127.0.0.1]", "root"])

    def test_resent_recipients_come_instead(self):
        s = self.send(["-t"], b"Resent-To: r@x.org\nTo: t@x.org\nFrom: a@b.c\nBcc: s@x.org\n\n")
        self.assertEqual(self.rcpts(s), ["r@x.org"])
        self.assertNotIn(b"s@x.org", s.messages[0])

    def test_from_is_added_where_it_is_missing(self):
        s = self.send(["-f", "ann@x.org", "-F", "Ann \"Q\" Lee", "b@x.org"], b"Subject: x\n\nhi\n")
        self.assertEqual(s.messages, [
            b"From: \"Ann \\\"Q\\\" Lee\" <ann@x.org>\r\nSubject: x\r\n\r\nhi\r\n"])
        s = self.send(["-r", "ann", "-FJörg", "b@x.org"], b"hello, no header\n")
        self.assertEqual(s.messages, [
            b"From: =?UTF-8?Q?J=C3=B6rg?= <ann@relay.example.com>\r\n\r\nhello, no header\r\n"])
        s = self.send(["-f", "<>", "-Fa\nBcc: x@y.z", "b@x.org"], b"")
        self.assertEqual(s.messages, [
            b"From: \"aBcc: x@y.z\" <MAILER-DAEMON@relay.example.com>\r\n\r\n"])
        self.assertIn("MAIL FROM:<> SIZE=0", s.commands)
        self.assertIn(b"From: ", self.send(["b@x.org"], b"\nbody\n").messages[0])

    def test_addresses_without_a_domain_are_completed(self):
        """Of header fields, where it is certain: cron's "From: root" is refused by providers."""
        for field in QUALIFIED:
            sent = field.replace("@", "").replace("%", "@").encode()
            want = field.replace("@", "@relay.example.com").replace("%", "@").encode()
            s = self.send(["b@x.org"], b"From: a@b.c\n" + sent + b"\n\nTo: root\n")
            self.assertEqual(s.messages, [b"From: a@b.c\r\n" + want.replace(b"\n", b"\r\n") + b"\r\n\r\nTo: root\r\n"])
            self.assertIn(f" SIZE={len(s.messages[0])}", s.commands[1])

    def test_header_fields_that_stay_as_they_are(self):
        for field in NOT_QUALIFIED:
            s = self.send(["b@x.org"], b"From: a@b.c\n" + field + b"\n\nx\n")
            self.assertEqual(s.messages, [b"From: a@b.c\r\n" + field.replace(b"\n", b"\r\n") + b"\r\n\r\nx\r\n"], field)

    def test_nothing_is_completed_with_what_is_no_domain(self):
        s = self.send(["b@x.org"], b"From: root\n\nx\n", answers={"EHLO": "250 not_a@domain"})
        self.assertEqual(s.messages, [b"From: root\r\n\r\nx\r\n"])

    def test_cron_s_mail(self):
        for sender in ("root@relay.example.com (Cron Daemon)", '"(Cron Daemon)" <root@relay.example.com>'):
            bare = sender.replace("@relay.example.com", "")
            s = self.send(["-t", "-oem"], f"From: {bare}\nTo: root\nBcc: ann\nSubject: Cron <root@web1> true\n\nx\n".encode())
            self.assertEqual(self.rcpts(s), ["root", "ann"])  # relayd completes these
            self.assertEqual(s.messages, [f"From: {sender}\r\nTo: root@relay.example.com\r\n"
                                          "Subject: Cron <root@web1> true\r\n\r\nx\r\n".encode()])

    def test_mbox_line_is_dropped(self):
        s = self.send(["b@x.org"], b"From ann Tue Nov 24 02:00:00 2026\nFrom: a@b.c\n\nx\n")
        self.assertEqual(s.messages, [b"From: a@b.c\r\n\r\nx\r\n"])

    def test_dsn_and_body_options(self):
        s = self.send(["-N", "success,delay", "-R", "hdrs", "-V", "a+b=c", "-B8BITMIME", "--",
                       "b@x.org", "-c@x.org"], b"From: a@b.c\n\n\xc3\xa4\n")
        self.assertRegex(s.commands[1], " SIZE=19 BODY=8BITMIME RET=HDRS ENVID=a[+]2Bb[+]3Dc$")
        self.assertEqual(s.commands[2:4], ["RCPT TO:<b@x.org> NOTIFY=success,delay",
                                           "RCPT TO:<-c@x.org> NOTIFY=success,delay"])

    def test_utf8_addresses(self):
        s = self.send(["-f", "jörg@x.org", "b@x.org"], b"From: a@b.c\n\n")
        self.assertTrue(s.commands[1].endswith(" SMTPUTF8"), s.commands)
        self.send(["jörg@x.org"], b"From: a@b.c\n\n", code=65, answers={"EHLO": "250 x"})

    def test_options_that_do_not_matter(self):
        self.send(["-oem", "-odb", "-oi", "-om", "-n", "-ee", "-Ac", "-U", "-v" * 0 + "-m", "-h", "3",
                   "-L", "tag", "-d7", "-p", "x", "-G", "-bm", "-FCronDaemon", "b@x.org"],
                  b"From: a@b.c\n\n")

    def test_dangerous_options_are_refused(self):
        for args in (["-X/tmp/x"], ["-X", "/tmp/x"], ["-C/tmp/x"], ["-D", "/tmp/x"],
                     ["-OQueueDirectory=/tmp"], ["-oQ/tmp"], ["-oA/tmp/x"], ["-t", "-i", "-X/tmp/x"],
                     ["-bd"], ["-bt"], ["-f"], ["-Z"], ["--frobnicate"], ["-N", "never,success"],
                     ["-N", "sometimes"], ["-B", "x"], ["-R", "x"], ["-V", ""]):
            result = self.run_it(args + ["b@x.org"] if len(args[-1]) > 2 else args)
            self.assertEqual(result.returncode, 64, (args, result))
            self.assertEqual(result.stderr.count(b"\n"), 1, result)

    def test_bad_addresses(self):
        for args, code in ((["a\nb@x.org"], 65), (["b@x.org\r\nRCPT TO:<c@x.org>"], 65),
                           (["a b@x.org"], 65), (["<b@x.org"], 65), ([""], 64),
                           (["-f", "a\nb", "b@x.org"], 64), (["-f", "a@x.org\n", "b@x.org"], 64),
                           (["-f", "a@x.org, c@x.org", "b@x.org"], 64),
                           (["-f", "a@x.org> SIZE=1", "b@x.org"], 64), ([], 64)):
            result = self.run_it(args, b"From: a@b.c\n\n")
            self.assertEqual(result.returncode, code, (args, result))
        for header in (b"To: a b@x.org\n", b"To: <b@x.org\n", b"To: a@@x.org\n", b"Subject: x\n",
                       b"To: \"x\n", b"To: a@" + b"x" * 600 + b"\n"):
            result = self.run_it(["-t"], header + b"From: a@b.c\n\n")
            self.assertEqual(result.returncode, 65, (header, result))

    def test_recipients_have_an_end(self):
        header = b"To: " + b",\n ".join(b"%d@x.org" % i for i in range(20001)) + b"\n"
        result = self.run_it(["-t"], header + b"From: a@b.c\n\n")
        self.assertEqual(result.returncode, 65, result)
        self.assertIn(b"too many addresses", result.stderr)

    def test_large_messages_are_complete(self):
        body = b"".join(b"%d .line\n.%d\n" % (i, i) for i in range(100000))
        s = self.send(["-i", "b@x.org"], b"From: a@b.c\n\n" + body)
        self.assertEqual(s.messages, [b"From: a@b.c\r\n\r\n" + body.replace(b"\n", b"\r\n")])
        result = self.run_it(["b@x.org"], b"From: a@b.c\nX: " + b"x" * 2000000)
        self.assertEqual(result.returncode, 65, result.stderr)

    def test_refusals(self):
        text = b"From: a@b.c\n\nx\n"
        for answers, code in (({"greeting": "421 4.3.2 busy"}, 75), ({"EHLO": "502 no"}, 69),
                              ({"MAIL": "452 4.3.1 full"}, 75), ({"MAIL": "552 5.3.4 large"}, 65),
                              ({"MAIL": "550 5.7.1 you may not"}, 77),
                              ({"RCPT": "550 5.1.1 who"}, 67), ({"RCPT": "451 4.3.0 later"}, 75),
                              ({"DATA": "554 5.5.1 no"}, 69), ({"end": "451 4.3.0 disk"}, 75),
                              ({"end": "550 5.6.0 bad"}, 65), ({"MAIL": "garbage"}, 75),
                              ({"end": "354 what"}, 75)):
            s = self.send(["b@x.org"], text, code=code, answers=answers)
            if "end" not in answers:
                self.assertEqual(s.messages, [])

    def test_lost_connections_are_temporary(self):
        for where in ("EHLO", "MAIL", "RCPT", "DATA", "end"):
            self.send(["b@x.org"], b"From: a@b.c\n\nx\n", code=75, close_at=where)
        result = self.run_it(["b@x.org"], b"From: a@b.c\n\nx\n")
        self.assertEqual(result.returncode, 75)
        self.assertIn(b"cannot reach relayd at " + self.path.encode(), result.stderr)
        for where in ("example.com:25", "192.0.2.1:25", "127.0.0.1", "[::1]:99999"):
            result = self.run_it(["--submit=" + where, "b@x.org"], b"\n")
            self.assertEqual(result.returncode, 75)

    def test_more_recipients_than_one_message_takes(self):
        count = {"n": 0}

        def rcpt():
            count["n"] += 1
            return "452 4.5.3 too many" if count["n"] == 3 else "250 ok"

        s = self.send(["a@x.org", "b@x.org", "c@x.org"], b"From: a@b.c\n\nx\n",
                      answers={"RCPT": rcpt})
        self.assertEqual(len(s.messages), 2)
        self.assertEqual(s.messages[0], s.messages[1])
        self.assertEqual(self.rcpts(s), ["a@x.org", "b@x.org", "c@x.org", "c@x.org"])

    def test_smtp_on_standard_input(self):
        s = Server(self.path)
        s.start()
        result = self.run_it(["-bs"], b"EHLO me\r\nQUIT\r\n")
        self.assertEqual(result.returncode, 0)
        self.assertEqual(result.stdout, b"220 fake ESMTP relayd\r\n" + EHLO.encode() + b"\r\n221 bye\r\n")

    def test_names_and_modes_without_a_message(self):
        self.assertEqual(self.run_it([], name="newaliases").returncode, 0)
        for args in (["-bi"], ["-q"], ["-q15m"], ["-I"], ["--help"], ["--version"]):
            self.assertEqual(self.run_it(args).returncode, 0, args)


EXIM = "220 web1 ESMTP Exim 4.96 Tue, 24 Nov 2026 02:00:00 +0000"
RELAYD_CONF = """upstream "x" {{
    host = "smtp.example.com"
}}
listen "192.0.2.1:2525" {{
}}
listen "127.0.0.1:{0}" {{
}}
listen "127.0.0.1:1" {{
}}
"""


class WhoAnswers(unittest.TestCase):
    """Exit 0 says that relayd has the message: another server that has its place gets nothing."""

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)

    def run_it(self, args, environment=None):
        return subprocess.run([HASTY, *args], input=b"From: a@b.c\n\nx\n", capture_output=True, timeout=60,
                              cwd=self.dir.name, env=environment or {}, check=False)

    def by_port(self, greeting, args=("b@x.org",), has_listener=True):
        """There is no socket, but somebody listens where relayd.conf says; gives him and what happened."""
        server = Server(answers={"greeting": greeting})
        server.start()
        with open(os.path.join(self.dir.name, "relayd.conf"), "w", encoding="ascii") as conf:
            conf.write(RELAYD_CONF.format(server.port))
        where = {"RELAYD_SUBMIT": "" if has_listener else f"127.0.0.1:{server.port}"}
        result = self.run_it(args, where)
        server.join(10)
        self.assertFalse(server.is_alive())
        return server, result

    def test_relayd_is_found_by_its_port(self):
        server, result = self.by_port("220 relay.example.com ESMTP relayd")
        self.assertEqual((result.returncode, result.stderr), (0, b""))
        self.assertEqual(len(server.messages), 1)

    def test_another_server_gets_nothing(self):
        for greeting in (EXIM, "220 x ESMTP relayd-like", "220 x ESMTP Postfix (relayd)", "220 ESMTP notrelayd",
                         "220 relayd", "220", "220-x ESMTP relayd\r\n220 y ESMTP Postfix"):
            for has_listener in (True, False):
                server, result = self.by_port(greeting, has_listener=has_listener)
                self.assertEqual(result.returncode, 75, (greeting, result))
                self.assertEqual(server.commands, [])
                self.assertEqual(result.stderr.count(b"\n"), 1, result.stderr)
                self.assertIn(greeting.rpartition("\n")[2].encode(), result.stderr)
                self.assertIn(b"127.0.0.1:%d" % server.port, result.stderr)
                self.assertIn(b"systemctl status relayd relayd.socket", result.stderr)

    def test_why_it_was_not_the_socket_is_told(self):
        self.assertIn(b"(submit: No such file or directory)", self.by_port(EXIM)[1].stderr)

    def test_another_server_s_refusal_is_not_relayd_s(self):
        for greeting in ("554 5.7.1 no", "521 no mail here", "421 busy"):
            self.assertEqual(self.by_port(greeting)[1].returncode, 75)
        self.assertEqual(self.by_port("550 5.7.1 you may not", has_listener=False)[1].returncode, 77)

    def test_smtp_on_standard_input_as_well(self):
        server, result = self.by_port(EXIM, ["-bs"])
        self.assertEqual((result.returncode, result.stdout, server.commands), (75, b"", []))
        _, result = self.by_port("421 4.3.2 busy", ["-bs"], has_listener=False)
        self.assertEqual((result.returncode, result.stdout), (75, b"421 4.3.2 busy\r\n"))


class Impostor(threading.Thread):
    """A server that is not relayd: what it sends is a script of bytes, waits (seconds) and None (read a line)."""

    def __init__(self, path, script):
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.script = script

    def run(self):
        connection, _ = self.listener.accept()
        with connection, connection.makefile("rb") as lines:
            try:
                for step in self.script:
                    if step is None:
                        lines.readline()
                    elif isinstance(step, bytes):
                        connection.sendall(step)
                    else:
                        time.sleep(step)
            except OSError:
                pass


EHLO_OK = EHLO.encode() + b"\r\n"
TO_DATA = [b"220 x ESMTP relayd\r\n", None, EHLO_OK, None, b"250 a\r\n", None, b"250 b\r\n", None]  # the answer to DATA is next
# What it does: never the 250 to a message that it has read to its end. The exit code is that of a temporary failure.
IMPOSTORS = {
    "says nothing": [30],
    "closes at once": [],
    "garbage": [os.urandom(4000) + b"\r\n"],
    "a line without end": [b"2" * 4096] * 1000,
    "a reply without end": [b"220-x\r\n" * 200] * 100,
    "NUL": [b"2\x0020\r\n"],
    "bare line ends": [b"220\r220 x\r"] * 1000,
    "dripping greeting": [piece for _ in range(100) for piece in (b"2", 0.3)],
    "dripping lines": [piece for _ in range(90) for piece in (b"220-x\r\n", 0.3)],
    "everything beforehand": [b"220 x ESMTP relayd\r\n" + EHLO_OK + b"250 a\r\n250 b\r\n354 go\r\n250 stored\r\n", 3],
    "one reply too many": [*TO_DATA[:-2], b"250 b\r\n250 b2\r\n", None, b"354 go\r\n", None, 3],
    "250 before the end": [*TO_DATA, b"354 go\r\n250 stored\r\n", 3],
    "250 for DATA": [*TO_DATA, b"250 stored\r\n", 3],
    "never answers the message": [*TO_DATA, b"354 go\r\n", 30],
    "354 for the message": [*TO_DATA, b"354 go\r\n", *[None] * 4, b"354 go on\r\n", 3],
    "25": [*TO_DATA, b"354 go\r\n", *[None] * 4, b"25\r\n", 3],
    "2500": [*TO_DATA, b"354 go\r\n", *[None] * 4, b"\r\n250 late\r\n", 3],
    "250- and no more": [*TO_DATA, b"354 go\r\n", *[None] * 4, b"250-stored\r\n"],
}


class HostileServer(unittest.TestCase):
    """RELAYD_SUBMIT may be anything: never 0 without a 250 to the whole message, and never for ever."""

    def submit(self, script, message=b"From: a@b.c\n\nx\n"):
        with tempfile.TemporaryDirectory() as where:
            path = os.path.join(where, "submit")
            Impostor(path, script).start()
            begin = time.monotonic()
            result = subprocess.run([HASTY, "b@x.org"], input=message, capture_output=True, timeout=60,
                                    env={"RELAYD_SUBMIT": path}, check=False)
            self.assertLess(time.monotonic() - begin, 20, "a deadline moves")
            return result

    def test_impostors(self):
        with concurrent.futures.ThreadPoolExecutor(len(IMPOSTORS)) as pool:
            for name, result in zip(IMPOSTORS, pool.map(self.submit, IMPOSTORS.values())):
                with self.subTest(name):
                    self.assertEqual(result.returncode, 75, result.stderr)
                    self.assertEqual(result.stderr.count(b"\n"), 1, result.stderr)
                    self.assertTrue(result.stderr.decode().strip().isprintable(), result.stderr)
                    if name.endswith("without end"):
                        self.assertIn(b"Protocol error", result.stderr)

    def test_a_greeting_is_not_waited_for_as_long_as_an_answer(self):
        """systemd holds the socket of a relayd that cannot start."""
        def submit(script):
            begin = time.monotonic()
            return self.submit(script).stderr, time.monotonic() - begin

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            silent, slow = pool.map(submit, ([30], [b"220 x ESMTP relayd\r\n", 30]))
        self.assertLess(silent[1] + 0.5, slow[1])
        self.assertIn(b"Connection timed out; is relayd running? systemctl status relayd relayd.socket", silent[0])

    def test_a_full_backlog_is_not_waited_for_longer(self):
        with tempfile.TemporaryDirectory() as where, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.join(where, "submit"))
            listener.listen(0)
            with socket.socket(socket.AF_UNIX) as first:
                first.connect(listener.getsockname())
                begin = time.monotonic()
                for environment in ({}, {"RELAYD_SUBMIT": listener.getsockname()}):
                    result = subprocess.run([HASTY, "b@x.org"], input=b"From: a@b.c\n\nx\n", capture_output=True,
                                            timeout=60, cwd=where, env=environment, check=False)
                    self.assertEqual(result.returncode, 75, result.stderr)
                    self.assertIn(b"submit: Connection timed out", result.stderr)
                self.assertLess(time.monotonic() - begin, 2 * 2)

    def test_the_impostors_script_can_succeed(self):
        script = [*TO_DATA, b"354 go\r\n", *[None] * 4, b"250 stored\r\n", None]
        self.assertEqual(self.submit(script).returncode, 0)

    def test_a_server_that_does_not_read(self):
        result = self.submit([*TO_DATA, b"354 go\r\n", 30], b"From: a@b.c\n\n" + b"x" * 70 + b"\n" * 3000000)
        self.assertEqual(result.returncode, 75, result.stderr)

    def test_last_words_are_told(self):
        result = self.submit([b"220 x ESMTP relayd\r\n", None, EHLO_OK + b"421 4.3.2 restarting\x1b[2J\r\n", 1])
        self.assertEqual(result.returncode, 75)
        self.assertIn(b"421 4.3.2 restarting\\x1b[2J", result.stderr)


if __name__ == "__main__":
    unittest.main()
