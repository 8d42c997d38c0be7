"""The programs that people have: each of them gets its mail through relayd."""

import email
import smtplib
import subprocess

import pytest

from relayd import content

TEXT = "From: app@example.net\nTo: rcpt@example.net\nSubject: {0}\n\nHello,\n.\n..\nby {0}.\n"


def run(*command, data="", **options):
    done = subprocess.run(list(map(str, command)), input=data, capture_output=True, text=True, timeout=30,
                          check=False, **options)
    assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
    return done


def body_of(message):
    return message.data.partition(b"\r\n\r\n")[2]


@pytest.fixture
def running(relayd, sink):
    return relayd.to_sink(sink).start()


def test_swaks(running, sink):
    run("swaks", "--server", "127.0.0.1", "--port", running.port, "--from", "app@example.net", "--to",
        "rcpt@example.net,second@example.net", "--header", "Subject: swaks", "--body", "by swaks", "--pipeline")
    message = sink.wait_subject("swaks")
    assert message.recipients == ["rcpt@example.net", "second@example.net"]
    assert b"by swaks" in body_of(message)


def test_curl(running, sink):
    run("curl", "-sS", "--crlf", f"smtp://127.0.0.1:{running.port}", "--mail-from", "app@example.net", "--mail-rcpt",
        "rcpt@example.net", "-T", "-", data=TEXT.format("curl"))
    assert body_of(sink.wait_subject("curl")) == b"Hello,\r\n.\r\n..\r\nby curl.\r\n"


def test_msmtp(running, sink):
    run("msmtp", "--host=127.0.0.1", f"--port={running.port}", "--auth=off", "--tls=off", "--from=app@example.net",
        "rcpt@example.net", data=TEXT.format("msmtp"))
    assert body_of(sink.wait_subject("msmtp")) == b"Hello,\r\n.\r\n..\r\nby msmtp.\r\n"


def test_smtplib(running, sink):
    with smtplib.SMTP("127.0.0.1", running.port) as smtp:
        assert {"pipelining", "size", "8bitmime", "smtputf8", "chunking", "dsn"} <= set(smtp.ehlo() and smtp.esmtp_features)
        message = email.message.EmailMessage()
        message["From"], message["To"], message["Subject"] = "app@example.net", "rcpt@example.net", "smtplib"
        message.set_content("Grüße\n")
        smtp.send_message(message)
    assert email.message_from_bytes(sink.wait_subject("smtplib").data).get_payload(decode=True).decode() == "Grüße\r\n"


def test_smtputf8(running, sink):
    with smtplib.SMTP("127.0.0.1", running.port) as smtp:
        smtp.sendmail("büro@example.net", ["postę@example.net"], "Subject: ünïcode\r\n\r\nx\r\n".encode(),
                      ["SMTPUTF8", "BODY=8BITMIME"])
    (message,) = sink.wait(1)
    assert (message.sender, message.recipients) == ("büro@example.net", ["postę@example.net"])
    assert "SMTPUTF8" in message.sender_params


def test_sendmail(running, sink):
    done = running.sendmail("-f", "app@example.net", "rcpt@example.net", data=TEXT.format("sendmail").encode())
    assert done.returncode == 0, done.stderr
    assert body_of(sink.wait_subject("sendmail")) == b"Hello,\r\n"  # without -i a lone dot ends it
    done = running.sendmail("-i", "-f", "app@example.net", "rcpt@example.net", data=TEXT.format("sendmail i").encode())
    assert done.returncode == 0, done.stderr
    assert body_of(sink.wait_subject("sendmail i")) == b"Hello,\r\n.\r\n..\r\nby sendmail i.\r\n"


def test_sendmail_t_hides_bcc(running, sink):
    text = ("From: app@example.net\nTo: to@example.net\nCc: Some One <cc@example.net>\nBcc: secret@example.net,\n"
            " folded@example.net\nSubject: t\nBCC: repeated@example.net\n\nx\n")
    done = running.sendmail("-t", "-oi", data=text.encode())
    assert done.returncode == 0, done.stderr
    message = sink.wait_subject("t")
    assert sorted(message.recipients) == ["cc@example.net", "folded@example.net", "repeated@example.net",
                                          "secret@example.net", "to@example.net"]
    for word in (b"secret", b"folded", b"repeated", b"bcc"):
        assert word not in message.data.lower()


def test_mail_of_cron(running, sink):
    """As Debian's writes it: who runs it is all that it knows."""
    text = "From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@web1> /bin/true\n\noutput\n"
    done = running.sendmail("-i", "-FCronDaemon", "-B8BITMIME", "-oem", "root", data=text.encode())
    assert done.returncode == 0, done.stderr
    message = sink.wait_subject("Cron <root@web1> /bin/true")
    host = message.sender.partition("@")[2]
    assert host and message.recipients == [f"root@{host}"]
    assert f"\r\nFrom: root@{host} (Cron Daemon)\r\nTo: root@{host}\r\nSubject: ".encode() in message.data


def test_what_comes_by_smtp_is_not_completed(running, sink):
    with smtplib.SMTP("127.0.0.1", running.port) as smtp:
        smtp.sendmail("root", ["root"], b"From: root (Cron Daemon)\r\nTo: root\r\nSubject: bare\r\n\r\nx\r\n")
    assert b"\r\nFrom: root (Cron Daemon)\r\nTo: root\r\n" in sink.wait_subject("bare").data


def test_sendmail_needs_no_privilege(running, sink):
    """As from a unit with NoNewPrivileges and DynamicUser."""
    run("setpriv", "--no-new-privs", "--reuid=12345", "--regid=12345", "--clear-groups",
        running.programs / "relayd-sendmail", "-f", "app@example.net", "rcpt@example.net",
        data="Subject: unprivileged\n\nx\n", env=running.sendmail_environment())
    sink.wait_subject("unprivileged")
    assert running.wait_event("message.accepted")[0]["uid"] == 12345


def test_sendmail_knows_relayd_by_its_greeting(running, sink):
    """On a port, where anybody could be."""
    run(running.programs / "relayd-sendmail", "-f", "app@example.net", "rcpt@example.net",
        data="Subject: by port\n\nx\n", env={"RELAYD_SUBMIT": f"127.0.0.1:{running.port}"})
    sink.wait_subject("by port")


def test_sendmail_takes_no_other_server_for_relayd(relayd, sink):
    done = subprocess.run([relayd.programs / "relayd-sendmail", "rcpt@example.net"], input=b"Subject: stray\n\nx\n",
                          env={"RELAYD_SUBMIT": f"127.0.0.1:{sink.port}"}, capture_output=True, timeout=30, check=False)
    assert done.returncode == 75
    assert b"another server than relayd answers at 127.0.0.1:%d: " % sink.port in done.stderr
    assert not sink.find("stray")


def test_sendmail_exit_codes(running):
    assert running.sendmail(data=b"Subject: x\n\nx\n").returncode == 64  # EX_USAGE: no recipient
    running.stop()
    assert running.sendmail("rcpt@example.net", data=b"Subject: x\n\nx\n").returncode in (69, 75)


def test_php_mail(running, sink):
    code = 'exit(mail("rcpt@example.net", "php", "Hello from PHP", "From: app@example.net") ? 0 : 1);'
    run("php", "-d", f"sendmail_path={running.programs}/relayd-sendmail -t -i", "-r", code,
        env=running.sendmail_environment())
    assert b"Hello from PHP" in body_of(sink.wait_subject("php"))


def test_bsd_mailx(running, sink, own):
    (own / "mailrc").write_text(f"set sendmail={running.programs}/relayd-sendmail\n")
    run("bsd-mailx", "-s", "mailx", "rcpt@example.net", data="Hello from mailx\n",
        env={**running.sendmail_environment(), "MAILRC": str(own / "mailrc"), "HOME": str(own)})
    assert b"Hello from mailx" in body_of(sink.wait_subject("mailx"))


def test_who_sent_it_is_known(running, sink):
    running.send("who")
    sink.wait_subject("who")
    assert running.wait_event("message.accepted")[0]["uid"] == 0


def test_auth_ignore(relayd, sink):
    relayd.settings[f'listen "127.0.0.1:{relayd.port}"'] = {"auth": "ignore"}
    relayd.to_sink(sink).start()
    with relayd.smtp() as smtp:
        smtp.login("anyone", "anything at all")
        smtp.sendmail("a@example.net", ["b@example.net"], b"Subject: auth ignored\r\n\r\nx\r\n")
    sink.wait_subject("auth ignored")
    assert "anything" not in relayd.log()


def test_content_is_all_there_is(running, sink):
    sent = running.send("content")
    assert content(sink.wait_subject("content")) == sent
