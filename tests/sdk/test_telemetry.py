"""Telemetry: what a device sends is stored once, in order and unharmed."""

import json

import pytest

import drivers
import messages

pytestmark = drivers.TRANSPORTS

LIMIT = 256 * 1024


def test_a_thousand_messages_arrive_once_in_order_and_unharmed(hub, device, client):
    sent = messages.sequence(1000)
    client.connect(device.connection_string, hub.ca)
    client.send(sent)
    client.send([messages.last()])
    events = hub.events_before(device, "the-last")
    messages.assert_same(events, sent)
    for event, message in zip(events, sent, strict=True):
        assert event["origin"] == device.id and not event.get("module")
        stamps = event["annotations"]
        assert stamps["iothub-connection-device-id"] == device.id
        assert stamps["iothub-message-source"] == "Telemetry"
        assert json.loads(stamps["iothub-connection-auth-method"])["issuer"] == "iothub"
        if message.get("content_type") == "application/json":
            assert event["payload"] == json.loads(message["body"])
    assert [event["offset"] for event in events] == sorted({event["offset"] for event in events})
    times = [event["enqueued"] for event in events]
    assert times == sorted(times)


def test_a_module_sends_to_its_outputs(hub, device, client):
    module = hub.create_module(device, "thermo.1")
    sent = messages.sequence(30)
    for number, message in enumerate(sent):
        message["output"] = f"output{number % 3}"
    client.connect(module.connection_string, hub.ca)
    client.send(sent)
    client.send([{**messages.last(), "output": "end"}])
    events = hub.events_before(device, "the-last")
    messages.assert_same(events, sent)
    for event, message in zip(events, sent, strict=True):
        assert (event["origin"], event["module"]) == (device.id, "thermo.1")
        assert event["annotations"]["iothub-connection-module-id"] == "thermo.1"
        assert output_name(event) == message["output"]


def test_a_module_listens_to_its_inputs(hub, device, client):
    # Nothing comes of it without an Edge hub, but that the module may.
    module = hub.create_module(device, "m")
    client.connect(module.connection_string, hub.ca)
    client.ask("take_inputs")
    client.send([{**messages.sequence(1)[0], "output": "next"}])
    client.send([messages.last()])
    assert len(hub.events_before(device, "the-last")) == 1
    assert all(event["event"] == "connected" for event in list(client.events.queue))


def output_name(event):
    """A system property by the field's reference; `az iot hub monitor-events` shows some among the annotations."""
    system, stamps = event["properties"]["system"], event["annotations"]
    return system.get("iothub-outputname", system.get("output-name", stamps.get("iothub-outputname")))


def test_a_device_and_its_module_are_connected_at_once(hub, device, sdk, transport, client, tmp_path):
    module = hub.create_module(device, "m")
    other = drivers.Driver(sdk, tmp_path / "module.log", transport=transport)
    try:
        client.connect(device.connection_string, hub.ca)
        other.connect(module.connection_string, hub.ca)
        of_device, of_module = messages.sequence(20, "device"), messages.sequence(20, "module")
        for one, two in zip(of_device, of_module, strict=True):
            client.send([one])
            other.send([{**two, "output": "out"}])
        client.send([messages.last()])
    finally:
        other.stop()
    both = [message for pair in zip(of_device, of_module, strict=True) for message in pair]
    messages.assert_same(hub.events_before(device, "the-last"), both)


def test_a_message_of_256_kib_is_stored(hub, device, client):
    # The Python SDK counts its own overhead against the limit.
    size = LIMIT - len("big") if client.sdk == "node" else LIMIT - 2000
    sent = [{"message_id": "big", "body": bytes(range(256)) * (size // 256) + b"x" * (size % 256), "properties": {}}]
    assert len(sent[0]["body"]) == size
    client.connect(device.connection_string, hub.ca)
    client.send(sent)
    client.send([messages.last()])
    messages.assert_same(hub.events_before(device, "the-last"), sent)


def test_after_a_larger_message_the_next_one_goes_through(hub, device, client):
    client.connect(device.connection_string, hub.ca)
    before, after = messages.sequence(3, "before"), messages.sequence(3, "after")
    client.send(before)
    if client.sdk == "node":
        # Both SDKs look at the body themselves; Node's leaves the properties out of its sum, the hub does not.
        large = {"message_id": "large", "body": bytes(LIMIT), "properties": {"one": "1" * 8000}}
        expected = "NotConnectedError"
    else:
        large = {"message_id": "large", "body": bytes(LIMIT + 1), "properties": {}}
        expected = "ValueError"
    with pytest.raises(drivers.SdkError) as refused:
        client.send([large])
    assert refused.value.type == expected
    client.connect(device.connection_string, hub.ca)
    client.send(after)
    client.send([messages.last()])
    messages.assert_same(hub.events_before(device, "the-last"), before + after)
