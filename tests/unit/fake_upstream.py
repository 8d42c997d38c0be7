#!/usr/bin/env python3
"""fake_upstream.py CERTS - SMTP servers with faults, for test_conn.

Each line "DIR key=value..." on stdin starts another one: it makes certificates in CERTS/<kind> unless they are there, listens on a
free port of 127.0.0.1 and serves until the next line, which may be empty. The answer to each line is the port, or 0. Accepted
messages become DIR/msg-N, all command lines DIR/log. (A python3 for each server would take longer than all that they do.)

  tls=none|starttls|implicit   version=1.2   cert=good|expired|wrong|self   wants=cert
  ext=PIPELINING,CHUNKING,...  auth=PLAIN,LOGIN,...  user=U  password=P
  fault=WORD                   one of the words in Session below
A recipient rNNN@... is answered NNN; a sender dNNN@... has its DATA answered NNN, eNNN@... its end.
"""
import base64, functools, hashlib, hmac, os, signal, socket, ssl, subprocess, sys, threading, time

DIR = CERTS = FAULT = ""
opt = {}
lock = threading.Lock()
count = 0


def sh(*args):
    subprocess.run(args, cwd=CERTS, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make_certificates():
    """ca.pem, and server.pem (key and certificate) of the wanted kind, client.pem for us."""
    kind = opt.get("cert", "good")
    if os.path.exists(CERTS + "/client.pem"):
        return
    os.makedirs(CERTS, exist_ok=True)
    name = "DNS:a.example,DNS:*.b.example" if kind == "wrong" else "DNS:localhost,IP:127.0.0.1"
    with open(CERTS + "/san", "w") as f:
        f.write("subjectAltName=%s\n" % name)
    new = ("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    sh(*new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA", "-days", "30")
    for who in ("server", "client"):
        sh(*new, "-keyout", who + ".key", "-out", who + ".csr", "-subj", "/CN=" + who)
        days = "-1" if who == "server" and kind == "expired" else "30"
        if who == "server" and kind == "self":
            sh("openssl", "x509", "-req", "-in", "server.csr", "-signkey", "server.key", "-extfile",
               "san", "-out", "server.crt", "-days", "30")
        elif days == "-1":  # faketime-free: a certificate that ended a day ago
            with open(CERTS + "/ca.cnf", "w") as f:
                f.write("[ca]\ndefault_ca=d\n[d]\nnew_certs_dir=.\ndatabase=index\nserial=serial\n"
                        "default_md=sha256\npolicy=p\nx509_extensions=x\n[p]\ncommonName=supplied\n"
                        "[x]\nsubjectAltName=%s\n" % name)
            open(CERTS + "/index", "w").close()
            with open(CERTS + "/serial", "w") as f:
                f.write("01\n")
            sh("openssl", "ca", "-batch", "-config", "ca.cnf", "-in", "server.csr", "-keyfile", "ca.key",
               "-cert", "ca.pem", "-startdate", "20200101000000Z", "-enddate", "20210101000000Z",
               "-out", "server.crt", "-notext")
        else:
            sh("openssl", "x509", "-req", "-in", who + ".csr", "-CA", "ca.pem", "-CAkey", "ca.key",
               "-CAcreateserial", "-extfile", "san", "-out", who + ".crt", "-days", days)
        with open("%s/%s.pem" % (CERTS, who), "w") as f:
            for part in (".key", ".crt"):
                f.write(open(CERTS + "/" + who + part).read())


@functools.lru_cache(None)
def context():
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    c.load_cert_chain(CERTS + "/server.pem")
    if opt.get("version") == "1.2":
        c.maximum_version = ssl.TLSVersion.TLSv1_2
    if opt.get("wants") == "cert":
        c.verify_mode = ssl.CERT_REQUIRED
        c.load_verify_locations(CERTS + "/ca.pem")
    return c


class Over(Exception):
    pass


class Session:
    def __init__(self, sock):
        self.sock, self.buffer, self.secured = sock, b"", False
        self.sender = None
        self.rcpts = []
        self.refused = False
        self.login = False

    def recv(self):
        data = self.sock.recv(65536)
        if not data:
            raise Over
        self.buffer += data

    def line(self):
        while b"\n" not in self.buffer:
            self.recv()
        line, self.buffer = self.buffer.split(b"\n", 1)
        with lock, open(DIR + "/log", "ab") as f:
            f.write((b"S " if self.secured else b"C ") + line.rstrip(b"\r") + b"\n")
        return line.rstrip(b"\r").decode("latin-1")

    def exactly(self, n):
        while len(self.buffer) < n:
            self.recv()
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def say(self, text):
        self.sock.sendall(text.encode("latin-1") + b"\r\n")

    def secure(self):
        self.sock = context().wrap_socket(self.sock, server_side=True)
        self.secured = True

    def run(self):
        if opt.get("tls") == "implicit":
            self.secure()
        if FAULT == "mute":
            time.sleep(20)
        if FAULT == "greet554":
            return self.say("554 5.7.1 go away")
        if FAULT == "greet2":
            self.sock.sendall(b"220 hi\r\n250-fake\r\n250 AUTH PLAIN\r\n")
        elif FAULT == "garbage":
            self.say("SSH-2.0-OpenSSH_9.2")
        elif FAULT == "endless":
            while True:
                self.sock.sendall(b"220-" + b"x" * 4000)
        else:
            self.say("220 fake ESMTP")
        while True:
            line = self.line()
            verb = line.split(" ")[0].upper().split(":")[0]
            if FAULT == "drop-" + verb.lower():
                raise Over
            if FAULT == "421-" + verb.lower():
                self.say("421 4.3.2 going down")
                raise Over
            if FAULT == "silent-" + verb.lower():
                time.sleep(20)
            if FAULT == "drip-" + verb.lower():
                for c in "250-slow\r\n" * 100:
                    self.sock.sendall(c.encode())
                    time.sleep(0.1)
            if FAULT == "extra-" + verb.lower():
                self.say("250 2.0.0 extra")
            if getattr(self, "do_" + verb.lower(), self.unknown)(line):
                break

    def unknown(self, line):
        self.say("502 5.5.2 what?")

    def do_ehlo(self, line):
        ext = ["fake"] + [e.replace("_", " ") for e in opt.get("ext", "").split(",") if e]
        if opt.get("tls") == "starttls" and not self.secured and FAULT != "nostarttls":
            ext.append("STARTTLS")
        if opt.get("auth") and (self.secured or opt.get("tls") == "none"):
            ext.append("AUTH " + opt["auth"].replace(",", " "))
        for e in ext[:-1]:
            self.sock.sendall(b"250-" + e.encode() + b"\r\n")
        self.say("250 " + ext[-1])

    def do_starttls(self, line):
        if FAULT == "starttls454":
            return self.say("454 4.7.0 not now")
        if FAULT == "inject":
            self.sock.sendall(b"220 go\r\n250-AUTH PLAIN\r\n250 ok\r\n")
        else:
            self.say("220 go")
        self.secure()

    def check(self, user, password):
        if (user, password) == (opt.get("user"), opt.get("password")):
            self.login = True
            self.say("235 2.7.0 welcome")
        else:
            self.say("535 5.7.8 bad credentials")

    def ask(self, text):
        self.say("334 " + base64.b64encode(text).decode())
        answer = self.line()
        return None if answer == "*" else base64.b64decode(answer)

    def do_auth(self, line):
        words = line.split(" ")
        mech, initial = words[1].upper(), words[2] if len(words) > 2 else None
        if initial is not None:
            initial = b"" if initial == "=" else base64.b64decode(initial)
        if FAULT == "echo":
            return self.say("500 5.5.2 what is: " + line + " or " + opt["password"] + "?")
        if FAULT == "bad64":
            self.say("334 !!!!")
            answer = self.line()
            return self.say("501 5.7.0 cancelled" if answer == "*" else "535 5.7.8 you did not cancel")
        if FAULT == "endless334":
            while True:
                self.say("334 ")
                if self.line() == "*":
                    return self.say("501 5.7.0 cancelled")
        if mech == "PLAIN":
            parts = (initial if initial is not None else self.ask(b"")).decode().split("\0")
            self.check(parts[1], parts[2])
        elif mech == "LOGIN":
            user = self.ask(b"Username:").decode()
            self.check(user, self.ask(b"Password:").decode())
        elif mech == "CRAM-MD5":
            user, digest = self.ask(b"<1.2@fake>").decode().rsplit(" ", 1)
            good = hmac.new(opt["password"].encode(), b"<1.2@fake>", "md5").hexdigest()
            self.check(user, opt["password"] if digest == good else "")
        elif mech == "EXTERNAL":
            self.login = True
            self.say("235 2.7.0 known")
        elif mech in ("XOAUTH2", "OAUTHBEARER"):
            token = initial.split(b"auth=Bearer ")[1].split(b"\1")[0].decode()
            if token != opt["password"]:
                self.ask(b'{"status":"401"}')
            self.check(opt["user"] if opt["user"].encode() in initial else "", token)
        elif mech.startswith("SCRAM-"):
            self.scram(mech, initial.decode())
        else:
            self.say("504 5.5.4 no such mechanism")

    def scram(self, mech, first):
        name = "sha256" if "256" in mech else "sha1"
        flag, _, bare = first.split(",", 2)
        nonce = dict(a.split("=", 1) for a in bare.split(","))["r"] + "server"
        rounds = 4096 if FAULT != "rounds" else 2000000000
        salt = b"salt"
        sfirst = "r=%s,s=%s,i=%d" % (nonce, base64.b64encode(salt).decode(), rounds)
        final = self.ask(sfirst.encode())
        if final is None:
            return self.say("501 5.7.0 cancelled")
        bound, proof = final.decode().rsplit(",p=", 1)
        cb = (flag + ",,").encode()
        if mech.endswith("PLUS"):
            cb += self.sock.get_channel_binding("tls-unique")
        salted = hashlib.pbkdf2_hmac(name, opt["password"].encode(), salt, rounds)
        message = ",".join((bare, sfirst, bound)).encode()
        key = hmac.new(salted, b"Client Key", name).digest()
        signature = hmac.new(hashlib.new(name, key).digest(), message, name).digest()
        good = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature))).decode()
        if proof != good or dict([bound.split(",")[0].split("=", 1)])["c"] != base64.b64encode(cb).decode():
            return self.say("535 5.7.8 bad proof")
        v = hmac.new(hmac.new(salted, b"Server Key", name).digest(), message, name).digest()
        if FAULT == "noproof":
            self.login = True
            return self.say("235 2.7.0 trust me")
        if FAULT == "badproof":
            v = b"x" * len(v)
        if self.ask(b"v=" + base64.b64encode(v)) is None:
            return self.say("501 5.7.0 cancelled")
        self.login = True
        self.say("235 2.7.0 welcome")

    def do_rset(self, line):
        self.sender, self.rcpts = None, []
        self.say("250 2.0.0 ok")

    def do_mail(self, line):
        if opt.get("auth") and not self.login:
            return self.say("530 5.7.0 log in")
        if self.sender is not None:
            return self.say("503 5.5.1 nested MAIL")
        self.sender = line[line.index("<") + 1:line.index(">")]
        if self.sender.startswith("r"):
            code, self.sender = self.sender[1:4], None
            return self.say(code + " 5.7.1 not you")
        self.say("250 2.1.0 ok")

    def do_rcpt(self, line):
        rcpt = line[line.index("<") + 1:line.index(">")]
        if self.sender is None:
            return self.say("503 5.5.1 MAIL first")
        if rcpt[0] == "r" and rcpt[1:4].isdigit():
            code = rcpt[1:4]
            return self.say("%s %s.1.1 no" % (code, code[0]))
        self.rcpts.append(rcpt)
        self.say("250 2.1.5 ok")

    def do_data(self, line):
        if not self.rcpts and FAULT != "always354":
            return self.say("503 5.5.1 RCPT first")
        if self.sender.startswith("d"):
            return self.say(self.sender[1:4] + " 4.3.0 no data")
        if self.buffer:
            return self.say("554 5.5.0 SMTP protocol synchronization")
        self.say("354 go")
        if FAULT == "deaf":
            time.sleep(20)
        if FAULT == "drop-body":
            raise Over
        body = b""
        while not (body == b".\r\n" or body.endswith(b"\r\n.\r\n")):
            body += self.exactly(1) if not self.buffer else self.take(body)
            if FAULT == "interrupt":
                self.say("552 5.3.4 too much")
                raise Over
        if FAULT == "forget":  # chasquid up to 1.11: what was read ahead of the next command is lost
            self.buffer = b""
        body = body[:-3]
        body = b"\r\n".join(l[1:] if l[:1] == b"." else l for l in body.split(b"\r\n"))
        self.end(body)

    def take(self, body):
        """As much of the buffer as surely belongs to the body."""
        at = (body[-4:] + self.buffer).find(b"\r\n.\r\n")
        n = len(self.buffer) if at < 0 else at + 5 - len(body[-4:])
        if not body and self.buffer.startswith(b".\r\n"):
            n = 3
        return self.exactly(n)

    def do_bdat(self, line):
        words = line.split(" ")
        body = self.exactly(int(words[1]))
        if not self.rcpts:
            self.sender = None
            return self.say("503 5.5.1 no recipients")
        self.end(body)

    def end(self, body):
        global count
        if FAULT == "drop-dot":
            raise Over
        sender, rcpts, self.sender, self.rcpts = self.sender, self.rcpts, None, []
        if FAULT == "421-dot":
            self.say("421 4.3.2 later")
            raise Over
        if sender.startswith("e") and sender[1:4].isdigit():
            return self.say("%s %s.7.1 refused" % (sender[1:4], sender[1]))
        if not rcpts:
            return self.say("554 5.5.1 no valid recipients")
        with lock:
            count += 1
            with open("%s/msg-%d" % (DIR, count), "wb") as f:
                f.write(("%s %s\n" % (sender, ",".join(rcpts))).encode("latin-1") + body)
        self.say("250 2.0.0 queued")
        if FAULT == "rst-after":
            raise Over

    def do_quit(self, line):
        self.say("221 2.0.0 bye")
        return True


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def serve(sock):
    try:
        Session(sock).run()
    except (Over, OSError, ValueError, IndexError):
        pass
    sock.close()


def be_server(words):
    global DIR, CERTS, FAULT
    DIR = words[0]
    opt.update(word.split("=", 1) for word in words[1:])
    CERTS = sys.argv[1] + "/" + opt.get("cert", "good")
    FAULT = opt.get("fault", "")
    if opt.get("tls", "none") != "none":
        make_certificates()
    listener = socket.create_server(("127.0.0.1", 0))
    os.write(1, b"%d\n" % listener.getsockname()[1])
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


def main():
    server = 0
    for line in iter(sys.stdin.readline, ""):
        if server:
            end(server)
        server = os.fork() if line.strip() else 0
        if not server and line.strip():
            try:
                be_server(line.split())
            finally:
                os._exit(1)
        if not server:
            os.write(1, b"0\n")
    if server:
        end(server)


main()
