"""The neighbours themselves, by a direct client: what fails here is not relayd's fault."""

import smtplib
import ssl

import pytest

from tools import wait_for


def login(neighbour, authority, implicit):
    context = ssl.create_default_context(cafile=str(authority.ca))
    if implicit:
        smtp = smtplib.SMTP_SSL("localhost", neighbour.tls_port, context=context, timeout=20)
    else:
        smtp = smtplib.SMTP("localhost", neighbour.port, timeout=20)
        smtp.starttls(context=context)
    smtp.login(neighbour.user, neighbour.password)
    return smtp


@pytest.mark.parametrize("name", ["postfix", "exim", "chasquid"])
@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
def test_takes_mail_with_tls_and_login(neighbour, authority, name, implicit):
    peer = neighbour(name)
    subject = f"direct {name} {implicit}"
    body = f"Subject: {subject}\r\nFrom: a@example.net\r\n\r\n.\r\n..lone\r\n{'x' * 5000}\r\n".encode() + b"\xe4\xff\r\n"
    with login(peer, authority, implicit) as smtp:
        smtp.sendmail("user@example.net", ["r1@example.net", "r2@example.net"], body, mail_options=["BODY=8BITMIME"])
    got = wait_for(lambda: [m for m in peer.messages if subject.encode() in m.data], 20, why=peer.log)
    assert got[0].data.endswith(body.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("name", ["postfix", "exim", "chasquid"])
def test_refuses_a_wrong_password(neighbour, authority, name):
    peer = neighbour(name)
    smtp = smtplib.SMTP("localhost", peer.port, timeout=20)
    smtp.starttls(context=ssl.create_default_context(cafile=str(authority.ca)))
    with pytest.raises(smtplib.SMTPAuthenticationError):
        smtp.login(peer.user, "wrong")
    smtp.close()
