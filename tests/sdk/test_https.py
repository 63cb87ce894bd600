"""The device API over HTTPS, which of the SDKs here only Node's speaks."""

import os

import pytest

import drivers
import hub as hubs
import messages
import pki
import wait


def trusting(hub):
    """This transport takes no CA: what it trusts is for its process to know."""
    return {**os.environ, "NODE_EXTRA_CA_CERTS": str(hub.ca)}


@pytest.fixture
def client(hub, tmp_path):
    driver = drivers.Driver("node", tmp_path / "node.log", environment=trusting(hub), transport="https")
    yield driver
    driver.stop()


def sequence(count):
    """Messages with what HTTP headers can carry, names in small letters."""
    made = messages.sequence(count)
    for number, message in enumerate(made):
        message["properties"] = {"n": f"{number}", "colour": "red & blue = 100%", "umlaut": "Größe"}
    return made


def test_messages_arrive_once_in_order_and_unharmed(hub, device, client):
    sent = sequence(30)
    client.connect(device.connection_string, None)
    # Requests overtake one another: one at a time.
    for message in sent:
        client.send([message])
    client.send([messages.last()])
    events = hub.events_before(device, "the-last")
    messages.assert_same(events, sent)
    assert all(event["annotations"]["iothub-connection-device-id"] == device.id for event in events)


def test_a_batch_arrives_in_order(hub, device, client):
    sent = sequence(100)
    for message in sent:
        # Of a batch the SDK sends the properties of an application only.
        for name in messages.SYSTEM:
            message.pop(name, None)
        message["properties"]["Case"] = "is kept"
    client.connect(device.connection_string, None)
    client.send_batch(sent)
    client.send([messages.last()])
    stored = [messages.as_stored(event) for event in hub.events_before(device, "the-last")]
    assert stored == [messages.as_sent(message) for message in sent]


def test_who_has_no_good_token_is_refused(hub, device, client):
    string = device.connection_string_with("bm9uZSBvZiBpdHMga2V5cw==")
    client.connect(string, None)
    with pytest.raises(drivers.SdkError) as refused:
        client.send([messages.last()])
    assert refused.value.type == "UnauthorizedError"


@pytest.mark.parametrize("key_type", ["rsa", "ec"])
def test_a_device_shows_a_certificate(hub, client, factory, key_type, tmp_path):
    device = hubs.Device(hub.host, f"shows-a-certificate.{key_type}", None)
    hub.cli("device", "create", "-d", device.id, "--auth-method", "x509_ca")
    hub.cli("c2d", "send", "-d", device.id, "--data", "hello", "--message-id", "hello")
    client.connect_certificate(device, pki.chained(tmp_path, factory[1], device.id, key_type), None)
    client.send([messages.last()])
    assert hub.events_before(device, "the-last") == []
    client.ask("take_commands", transport="https")
    assert client.wait_event("command")["message_id"] == "hello"
    # The certificate of another.
    other = hubs.Device(hub.host, f"{device.id}.other", None)
    hub.cli("device", "create", "-d", other.id, "--auth-method", "x509_thumbprint", "--primary-thumbprint", "0" * 40)
    stranger = drivers.Driver("node", client.log, environment=trusting(hub), transport="https")
    try:
        stranger.connect_certificate(other, pki.self_signed(tmp_path, "stranger", key_type), None)
        with pytest.raises(drivers.SdkError) as refused:
            stranger.send([messages.last()])
        assert refused.value.type == "UnauthorizedError"
    finally:
        stranger.stop()


def test_a_message_that_is_too_large(hub, device, client):
    client.connect(device.connection_string, None)
    with pytest.raises(drivers.SdkError) as refused:
        client.send([{"body": bytes(256 * 1024 - 5), "properties": {"name": "value"}}])
    assert refused.value.type == "MessageTooLargeError"
    client.send([messages.last()])
    assert hub.events_before(device, "the-last") == []


def test_messages_are_received_and_settled(hub, device, client, services):
    for name in ("first", "second"):
        hub.cli("c2d", "send", "-d", device.id, "--data", name, "--message-id", name, "--props", "colour=red",
                "--ack", "full")
    client.connect(device.connection_string, None)
    client.ask("take_commands", transport="https", settle=["abandon", "reject", "complete"])
    received = [client.wait_event("command") for _ in range(3)]
    assert [one["message_id"] for one in received] == ["first", "first", "second"]
    # The SDK leaves the header's name as it is.
    assert all(one["properties"] == {"iothub-app-colour": "red"} for one in received)
    service = services("python")
    service.connect(hub.file["owner_connection_string"])
    wait.until("all is settled", lambda: service.call("get", device=device.id)["cloudToDeviceMessageCount"] == 0)
    assert service.feedback(device, 2) == [("first", "Rejected"), ("second", "Success")]
