"""The demo provider gives nothing away before TLS and takes nothing without a login."""

import smtplib
import ssl
import subprocess

import pytest

from sink import PASSWORD
from tools import TOP, wait_for


def client(port, ca=None):
    smtp = smtplib.SMTP("localhost", port, timeout=10)
    if ca:
        smtp.starttls(context=ssl.create_default_context(cafile=str(ca)))
    return smtp


def test_nothing_goes_without_tls(sink):
    with client(sink.port) as smtp:
        smtp.ehlo()
        assert not smtp.has_extn("auth")
        assert smtp.mail("a@example.org")[0] == 530


def test_nothing_goes_without_a_login(sink, authority):
    with client(sink.port, authority.ca) as smtp:
        smtp.ehlo()
        assert smtp.mail("a@example.org")[0] == 530
        with pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login("user", "wrong")


def test_a_message_is_stored_as_it_is(sink, authority):
    body = b"Subject: x\r\n\r\n.\r\n..\r\n\xff\r\n.end\r\n"
    with client(sink.port, authority.ca) as smtp:
        smtp.login("user", PASSWORD)
        smtp.sendmail("a@example.org", ["b@example.org", "c@example.org"], body)
    (message,) = sink.wait(1)
    assert message.data == body
    assert (message.sender, message.recipients) == ("a@example.org", ["b@example.org", "c@example.org"])
    assert b"AUTH" not in sink.clear_text()


@pytest.mark.parametrize("kind", ["expired", "wrong-name", "stranger"])
def test_a_bad_certificate_is_bad(make_sink, authority, kind):
    with pytest.raises(ssl.SSLCertVerificationError):
        client(make_sink(certificate=kind).port, authority.ca)


def test_the_program_stores_what_it_gets(own):
    program = subprocess.Popen([TOP / "contrib" / "demo-provider", "--directory", own], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: (own / "port").exists())
        with client(int((own / "port").read_text()), own / "ca.pem") as smtp:
            smtp.login("demo", (own / "password").read_text().strip())
            smtp.sendmail("a@example.org", "b@example.org", b"Subject: y\r\n\r\nz\r\n")
        assert (own / "mail" / "1.eml").read_bytes() == b"Subject: y\r\n\r\nz\r\n"
    finally:
        program.terminate()
        program.wait(10)
