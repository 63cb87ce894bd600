"""Devices with client certificates: by thumbprint, and by a CA that the hub was shown and given proof of."""

import hashlib
import re
import ssl
import subprocess

import pytest

import drivers
import hub as hubs
import messages
import pki

pytestmark = drivers.TRANSPORTS

AUTHORITY = "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign\n"


def thumbprint(certificate, kind):
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    return hashlib.new(kind, der).hexdigest()


def register(hub, device_id, *auth):
    hub.cli("device", "create", "-d", device_id, *auth)
    return hubs.Device(hub.host, device_id, None)


def assert_works(hub, device, client, certificate):
    client.connect_certificate(device, certificate, hub.ca)
    sent = messages.sequence(3)
    client.send(sent)
    client.send([messages.last()])
    stored = hub.events_before(device, "the-last")
    messages.assert_same(stored, sent)
    method = stored[0]["annotations"]["iothub-connection-auth-method"]
    assert method == '{"scope":"device","type":"x509","issuer":"external"}'


def assert_refused(client, device, certificate, ca):
    with pytest.raises(drivers.SdkError) as refused:
        client.connect_certificate(device, certificate, ca)
    expected = {"python": "CredentialError", "node": "UnauthorizedError"}[client.sdk]
    assert refused.value.type == expected, refused.value
    if client.sdk == "node":
        assert "Connection refused: Not authorized" in refused.value.message


@pytest.fixture(scope="session")
def factory(hub, tmp_path_factory):
    """A CA of the hub's, verified as `dunlin ca verify` says it."""
    folder = tmp_path_factory.mktemp("factory")
    ca = pki.self_signed(folder, "ca")
    hub.cli("ca", "add", "-n", "factory", "--path", str(ca[0]))
    said = hub.cli("ca", "verify", "-n", "factory").splitlines()
    for command in [line.strip() for line in said if line.startswith("  ")]:
        if command.startswith("dunlin "):
            hub.cli(*command.split()[1:-1], str(folder / "proof.pem"))
        else:
            subprocess.run(command, shell=True, check=True, capture_output=True, cwd=folder)
    assert re.search(r"^factory .*yes$", hub.cli("ca", "list"), re.MULTILINE)
    return folder, ca


@pytest.mark.parametrize("kind", ["sha1", "sha256"])
def test_a_device_is_known_by_its_thumbprint(hub, client, name, kind, tmp_path):
    certificate = pki.self_signed(tmp_path, "whoever")
    device = register(hub, name, "--auth-method", "x509_thumbprint",
                      "--primary-thumbprint", thumbprint(certificate[0], kind))
    assert_works(hub, device, client, certificate)


def test_another_certificate_is_refused(hub, client, name, tmp_path):
    own, other = (pki.self_signed(tmp_path, each) for each in ("own", "other"))
    device = register(hub, name, "--auth-method", "x509_thumbprint",
                      "--primary-thumbprint", thumbprint(own[0], "sha256"))
    assert_refused(client, device, other, hub.ca)


def test_a_certificate_is_none_for_a_device_with_keys(hub, client, name, tmp_path):
    device = register(hub, name)
    assert_refused(client, device, pki.self_signed(tmp_path, name), hub.ca)


def test_a_device_is_known_by_a_certificate_of_a_ca(hub, client, name, factory, tmp_path):
    _, ca = factory
    device = register(hub, name, "--auth-method", "x509_ca")
    assert_works(hub, device, client, pki.signed(tmp_path, "leaf", ca, subject=name))


def test_a_chain_goes_by_way_of_an_intermediate(hub, client, name, factory, tmp_path):
    _, ca = factory
    between = pki.signed(tmp_path, "between", ca, AUTHORITY)
    leaf = pki.signed(tmp_path, "leaf", between, subject=name)
    chain = tmp_path / "chain.pem"
    chain.write_text(leaf[0].read_text() + between[0].read_text())
    device = register(hub, name, "--auth-method", "x509_ca")
    assert_works(hub, device, client, (chain, leaf[1]))


def test_the_certificate_of_another_device_is_refused(hub, client, name, factory, tmp_path):
    _, ca = factory
    device = register(hub, name, "--auth-method", "x509_ca")
    assert_refused(client, device, pki.signed(tmp_path, "leaf", ca, subject="another-device"), hub.ca)


def test_the_certificate_of_an_unknown_ca_is_refused(hub, client, name, tmp_path):
    device = register(hub, name, "--auth-method", "x509_ca")
    ca = pki.self_signed(tmp_path, "other")
    assert_refused(client, device, pki.signed(tmp_path, "leaf", ca, subject=name), hub.ca)
