"""TLS against `openssl s_client`, for what Python's ssl cannot ask for; and the hub's own certificate files."""

import os
import subprocess
import threading

import pytest

import hub as hubs
import mqtt
import pki
import wait
from tls import Tls, context


class SClient:
    """`openssl s_client`: a line that begins with K or k asks for new keys, everything else is data."""

    def __init__(self, hub, folder, *args):
        self.messages = folder / "messages.log"
        server = ["-connect", f"{hub.host}:8883", "-servername", hub.host, "-CAfile", str(hub.ca)]
        shown = ["-verify_return_error", "-brief", "-msg", "-msgfile", str(self.messages)]
        command = ["openssl", "s_client", *server, *shown, *args]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.stdout, self.stderr = b"", b""
        self.readers = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in ("stdout", "stderr")]
        for reader in self.readers:
            reader.start()

    def _read(self, name):
        while data := os.read(getattr(self.child, name).fileno(), 65536):
            setattr(self, name, getattr(self, name) + data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        for reader in self.readers:
            reader.join(5)
        for stream in (self.child.stdin, self.child.stdout, self.child.stderr):
            stream.close()

    def send(self, data):
        self.child.stdin.write(data)
        self.child.stdin.flush()

    def expect(self, data):
        """Waits until everything received so far ends with `data`."""
        wait.until(f"received {data!r}", lambda: self.stdout.endswith(data))

    def log(self):
        return self.messages.read_text() if self.messages.exists() else ""

    def key_updates(self, direction):
        return sum(line.startswith(direction) and "KeyUpdate" in line for line in self.log().splitlines())


@pytest.mark.parametrize("letter", ["K", "k"], ids=["answer-requested", "not-requested"])
def test_keys_are_updated(hub, device, tmp_path, letter):
    with SClient(hub, tmp_path, "-tls1_3") as client:
        client.send(mqtt.connect(device))
        client.expect(mqtt.CONNACK_ACCEPTED)
        for round_number in range(1, 4):
            client.send(f"{letter}\n".encode())
            wait.until("s_client updates its keys", lambda: client.stderr.count(b"KEYUPDATE") == round_number)
            client.send(mqtt.publish(device, round_number, b"under new keys"))
            client.expect(mqtt.puback(round_number))
            assert client.key_updates(">>>") == round_number
        answers = 3 if letter == "K" else 0
        wait.until("the hub updates its keys as asked", lambda: client.key_updates("<<<") == answers)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_client_certificate_is_asked_for(hub, device, tmp_path, version):
    with SClient(hub, tmp_path, version) as client:
        client.send(mqtt.connect(device))
        client.expect(mqtt.CONNACK_ACCEPTED)
        assert "CertificateRequest" in client.log()


REFUSED = {
    "1.3-no-common-cipher": (["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"], "handshake_failure"),
    "1.2-no-common-cipher": (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], "handshake_failure"),
    # TLS 1.1 has no signature algorithms to offer, which rustls looks at before the version.
    "1.1": (["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], "handshake_failure"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_offered_is_refused_with_an_alert(hub, tmp_path, case):
    args, alert = REFUSED[case]
    with SClient(hub, tmp_path, *args) as client:
        assert client.child.wait(30) != 0
        received = [line for line in client.log().splitlines() if line.startswith("<<<")]
        assert [line for line in received if f"fatal {alert}" in line], client.log()


@pytest.fixture
def issuer(tmp_path):
    return pki.self_signed(tmp_path, "issuer")


@pytest.fixture
def second_hub(tmp_path, issuer):
    """A hub with certificate files of the tests' own, at `hub2.test`."""
    cert, key = tmp_path / "server.pem", tmp_path / "server.key"
    first = pki.issued(tmp_path, "first", issuer, "hub2.test")
    first[0].rename(cert)
    first[1].rename(key)
    files = ["--tls-cert", str(cert), "--tls-key", str(key)]
    with hubs.Hub(tmp_path, "hub2.test", "127.0.0.2", files, ca=issuer[0]) as hub:
        yield hub


def served(hub):
    """Common name of the certificate that a new connection is shown."""
    with Tls(hub.host, context(hub.ca, "1.3")).handshake() as tls:
        return dict(pair for name in tls.tls.getpeercert()["subject"] for pair in name)["commonName"]


def wait_until_refused(hub):
    """The hub has looked at the files and said that it cannot use them."""
    said = "the new certificate cannot be used"
    wait.until("the hub refuses the files", lambda: said in hub.log.read_text(errors="replace"), 15)


def test_replaced_certificate_files_serve_new_connections(second_hub, issuer, tmp_path):
    hub = second_hub
    device = hub.create_device("reload")
    with Tls(hub.host, context(hub.ca, "1.3")).handshake() as before:
        before.connect(device).publish(device, 1)
        assert served(hub) == "first"
        second = pki.issued(tmp_path, "second", issuer, hub.host)
        # Key first: between the two steps the files do not match, and the hub has to bear it.
        second[1].rename(tmp_path / "server.key")
        wait_until_refused(hub)
        assert served(hub) == "first"
        second[0].rename(tmp_path / "server.pem")
        wait.until("new connections are shown the new certificate", lambda: served(hub) == "second", 15)
        # Who is connected stays connected.
        before.publish(device, 2)


def test_files_that_are_no_certificate_change_nothing(second_hub, issuer, tmp_path):
    hub = second_hub
    (tmp_path / "server.pem").write_text("not a certificate\n")
    wait_until_refused(hub)
    assert served(hub) == "first"
    third = pki.issued(tmp_path, "third", issuer, hub.host)
    third[1].rename(tmp_path / "server.key")
    third[0].rename(tmp_path / "server.pem")
    wait.until("new connections are shown the new certificate", lambda: served(hub) == "third", 15)
