"""C2D messages: what a back end sends, the SDKs' devices receive once, in order and unharmed."""

import base64

import pytest

import drivers
import wait

pytestmark = drivers.TRANSPORTS


@pytest.fixture
def back_end(services, hub):
    service = services("python")
    service.connect(hub.file["owner_connection_string"])
    return service


@pytest.fixture
def queued(back_end):
    """How many messages of a device are not done with."""
    return lambda device: back_end.call("get", device=device.id)["cloudToDeviceMessageCount"]


def send(hub, device, name, *more):
    hub.cli("c2d", "send", "-d", device.id, "--data", f"body of {name}", "--message-id", name, *more)


def body(event):
    return base64.b64decode(event["body"]).decode()


def test_messages_arrive_with_their_properties(hub, device, client, queued, back_end):
    client.connect(device.connection_string, hub.ca)
    client.ask("take_commands")
    send(hub, device, "all", "--correlation-id", "c:1", "--user-id", "u 1", "--content-type", "application/json",
         "--content-encoding", "utf-8", "--ack", "full", "--props", "Case=kept;awkward=a/b&c=d+e %25 Größe")
    event = client.wait_event("command")
    assert body(event) == "body of all"
    got = {name: event[name] for name in ("message_id", "correlation_id", "user_id", "content_type",
                                          "content_encoding")}
    assert got == {"message_id": "all", "correlation_id": "c:1", "user_id": "u 1", "content_type": "application/json",
                   "content_encoding": "utf-8"}
    # Node's SDK has it among the properties.
    assert (event.get("ack") or event["properties"]["iothub-ack"]) == "full"
    assert event["expires"]
    own = {name: value for name, value in event["properties"].items() if name in ("Case", "awkward")}
    assert own == {"Case": "kept", "awkward": "a/b&c=d+e %25 Größe"}
    wait.until("it is done with", lambda: queued(device) == 0)
    assert back_end.feedback(device, 1) == [("all", "Success")]


def test_messages_wait_for_the_device_and_keep_their_order(hub, device, client, queued):
    names = [f"m{number}" for number in range(10)]
    for name in names[:5]:
        send(hub, device, name)
    client.connect(device.connection_string, hub.ca)
    client.ask("take_commands")
    for name in names[5:]:
        send(hub, device, name)
    assert [client.wait_event("command")["message_id"] for _ in names] == names
    wait.until("all are done with", lambda: queued(device) == 0)
    client.ask("disconnect")
    send(hub, device, "later")
    client.connect(device.connection_string, hub.ca)
    assert client.wait_event("command")["message_id"] == "later"
    wait.until("it is done with", lambda: queued(device) == 0)
