"""Refusal: who may not connect learns it as the SDK's documented error, and who may is not disturbed."""

import base64
import os
import subprocess

import pytest

import drivers
import messages
import sas

pytestmark = drivers.TRANSPORTS

UNAUTHORIZED = {"python": "CredentialError", "node": "UnauthorizedError"}


def assert_unauthorized(client, connect, again=False):
    """`again`: the client was connected before. Node's SDK calls CONNACK 5 a lost connection then."""
    with pytest.raises(drivers.SdkError) as refused:
        connect()
    expected = "NotConnectedError" if again and client.sdk == "node" else UNAUTHORIZED[client.sdk]
    assert refused.value.type == expected, refused.value
    if client.sdk == "node":
        # It calls a certificate it does not trust unauthorized, too.
        assert "Connection refused: Not authorized" in refused.value.message


def assert_works(hub, device, client, prefix="ok"):
    """Connects if need be, and has a message stored."""
    client.connect(device.connection_string, hub.ca)
    sent = messages.sequence(1, prefix)
    client.send(sent)
    end = f"end-{prefix}"
    client.send([messages.last(end)])
    stored = hub.events_before(device, end)
    messages.assert_same(stored[-1:], sent)


def test_a_wrong_key_is_refused(hub, device, client):
    key = base64.b64encode(os.urandom(32)).decode()
    assert_unauthorized(client, lambda: client.connect(device.connection_string_with(key), hub.ca))


def test_the_key_of_another_device_is_refused(hub, device, client):
    other = hub.create_device(f"{device.id}.other")
    assert_unauthorized(client, lambda: client.connect(device.connection_string_with(other.key), hub.ca))


def test_an_unknown_device_is_refused(hub, device, client):
    text = device.connection_string.replace(device.id, f"{device.id}.unknown")
    assert_unauthorized(client, lambda: client.connect(text, hub.ca))


def test_an_expired_token_is_refused(hub, device, client):
    # The hub grants a clock five minutes; this is beyond.
    assert_unauthorized(client, lambda: client.connect_token(device.token(-600), hub.ca))


def test_a_token_connects_while_it_lasts(hub, device, client):
    made = hub.cli("device", "sas-token", "-d", device.id, "--duration", "3600").strip()
    client.connect_token(made, hub.ca)
    sent = messages.sequence(3)
    client.send(sent)
    client.send([messages.last()])
    messages.assert_same(hub.events_before(device, "the-last"), sent)


def test_a_token_for_another_device_is_refused(hub, device, client):
    # Rightly signed with the device's key, but it names another resource.
    other = sas.token(f"{device.resource}.other", device.key)
    scope = other.split("sr=")[1].split("&")[0]
    assert scope.endswith(".other")
    assert_unauthorized(client, lambda: client.connect_token(other, hub.ca))


def test_a_disabled_device_is_refused_until_enabled(hub, device, client):
    hub.cli("device", "update", "-d", device.id, "--status", "disabled")
    assert_unauthorized(client, lambda: client.connect(device.connection_string, hub.ca))
    hub.cli("device", "update", "-d", device.id, "--status", "enabled")
    assert_works(hub, device, client)


def test_disabling_disconnects(hub, device, client):
    assert_works(hub, device, client, "before")
    hub.cli("device", "update", "-d", device.id, "--status", "disabled")
    client.wait_event("disconnected")
    assert_unauthorized(client, lambda: client.connect(device.connection_string, hub.ca), again=True)
    hub.cli("device", "update", "-d", device.id, "--status", "enabled")
    assert_works(hub, device, client, "after")


NOT_TRUSTED = {
    "python": ("ClientError", ["CERTIFICATE_VERIFY_FAILED"]),
    "node": ("UnauthorizedError", ["unable to verify", "self-signed certificate", "certificate's altnames"]),
}


def assert_not_trusted(client, connect):
    """The SDK ended the handshake because of the hub's certificate."""
    with pytest.raises(drivers.SdkError) as refused:
        connect()
    expected, reasons = NOT_TRUSTED[client.sdk]
    assert refused.value.type == expected, refused.value
    assert any(reason in str(refused.value) for reason in reasons), refused.value


def test_without_the_ca_the_hub_is_not_trusted(hub, device, client):
    assert_not_trusted(client, lambda: client.connect(device.connection_string, None))


def test_with_another_ca_the_hub_is_not_trusted(hub, device, client, tmp_path):
    other = tmp_path / "other.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                    "-nodes", "-keyout", str(tmp_path / "key.pem"), "-out", str(other), "-days", "2",
                    "-subj", "/CN=another CA"], check=True, capture_output=True)
    assert_not_trusted(client, lambda: client.connect(device.connection_string, other))


def test_under_a_name_that_is_not_its_own_the_hub_is_not_trusted(hub, device, client):
    text = device.connection_string.replace(f"HostName={hub.host}", "HostName=other.test")
    assert_not_trusted(client, lambda: client.connect(text, hub.ca))
