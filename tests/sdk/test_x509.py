"""Devices with client certificates: by thumbprint, and by a CA that the hub was shown and given proof of."""

import hashlib
import ssl

import pytest

import drivers
import hub as hubs
import messages
import pki

pytestmark = drivers.TRANSPORTS


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
    scope = "device" if device.module_id is None else "module"
    assert method == f'{{"scope":"{scope}","type":"x509","issuer":"external"}}'


def assert_refused(client, device, certificate, ca):
    with pytest.raises(drivers.SdkError) as refused:
        client.connect_certificate(device, certificate, ca)
    expected = {"python": "CredentialError", "node": "UnauthorizedError"}[client.sdk]
    assert refused.value.type == expected, refused.value
    if client.sdk == "node":
        assert "Connection refused: Not authorized" in refused.value.message


@pytest.mark.parametrize("kind, key_type", [("sha1", "rsa"), ("sha256", "ec")])
def test_a_device_is_known_by_its_thumbprint(hub, client, name, kind, key_type, tmp_path):
    certificate = pki.self_signed(tmp_path, "whoever", key_type)
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


@pytest.mark.parametrize("key_type", ["rsa", "ec"])
def test_a_chain_goes_by_way_of_an_intermediate(hub, client, name, factory, key_type, tmp_path):
    device = register(hub, name, "--auth-method", "x509_ca")
    assert_works(hub, device, client, pki.chained(tmp_path, factory[1], name, key_type))


# Node's SDK has no certificates for modules.
@pytest.mark.parametrize("sdk", ["python"])
@pytest.mark.parametrize("method", ["x509_thumbprint", "x509_ca"])
def test_a_module_is_known_by_its_certificate(hub, client, name, factory, method, tmp_path):
    register(hub, name)
    certificate = pki.signed(tmp_path, "leaf", factory[1], subject=f"{name}/m")
    hub.cli("module", "create", "-d", name, "-m", "m")
    primary = ("--primary-thumbprint", thumbprint(certificate[0], "sha256")) if method == "x509_thumbprint" else ()
    hub.cli("module", "update", "-d", name, "-m", "m", "--auth-method", method, *primary)
    assert_works(hub, hubs.Device(hub.host, name, None, "m"), client, certificate)


def test_the_certificate_of_another_device_is_refused(hub, client, name, factory, tmp_path):
    _, ca = factory
    device = register(hub, name, "--auth-method", "x509_ca")
    assert_refused(client, device, pki.signed(tmp_path, "leaf", ca, subject="another-device"), hub.ca)


def test_the_certificate_of_an_unknown_ca_is_refused(hub, client, name, tmp_path):
    device = register(hub, name, "--auth-method", "x509_ca")
    ca = pki.self_signed(tmp_path, "other")
    assert_refused(client, device, pki.signed(tmp_path, "leaf", ca, subject=name), hub.ca)
