"""Renewal of SAS tokens: the SDKs reconnect with a new token, and no message is lost or doubled by it."""

import pathlib

import drivers
import messages
import wait

pytestmark = drivers.TRANSPORTS

# (lifetime, margin) in seconds: renewed lifetime - margin after the client was made. Python's margin is fixed.
RENEWAL = {"python": {"ttl": 125}, "node": {"ttl": 12, "margin": 7}}


# The hub's port of each transport.
PORTS = {"mqtt": 8883, "websocket": 443}


def connections(client):
    """Client ports of the connections that are up to the session's hub, on the client's transport."""
    port = PORTS[client.transport]
    ports = set()
    for line in pathlib.Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        local, remote, state = line.split()[1:4]
        if remote == f"0100007F:{port:04X}" and state == "01":
            ports.add(int(local.split(":")[1], 16))
    return ports


def renewed(client, before):
    """Waits until the one connection is another than `before`: the client has reconnected."""
    def probe():
        now = connections(client)
        return now if len(now) == 1 and now != before else None
    return wait.until("the client reconnected with a new token", probe, 60)


def test_messages_before_and_after_renewals_are_stored_once(hub, device, client):
    wait.until("earlier clients are gone", lambda: not connections(client))
    client.connect(device.connection_string, hub.ca, **RENEWAL[client.sdk])
    connection = connections(client)
    assert len(connection) == 1
    sent = []
    for round_number in range(3):
        if round_number:
            # Twice: the second token, too, is renewed.
            connection = renewed(client, connection)
        some = messages.sequence(30, f"r{round_number}")
        client.send(some)
        sent += some
    client.send([messages.last()])
    messages.assert_same(hub.events_before(device, "the-last"), sent)


def test_messages_during_a_renewal_are_all_stored(hub, device, client):
    """In flight while the SDK reconnects, a message may be sent again; then it says so (DUP)."""
    wait.until("earlier clients are gone", lambda: not connections(client))
    client.connect(device.connection_string, hub.ca, **RENEWAL[client.sdk])
    connection = connections(client)
    sent = []

    def send_more():
        some = messages.sequence(20, f"r{len(sent)}")
        client.send(some)
        sent.extend(some)
        now = connections(client)
        return len(now) == 1 and now != connection

    wait.until("the client reconnected with a new token", send_more, 60)
    client.send([messages.last()])
    seen, once = set(), []
    for event in hub.events_before(device, "the-last"):
        again = event["properties"]["application"].pop("mqtt-dup", None)
        message_id = event["properties"]["system"]["message-id"]
        assert message_id not in seen or again == "true", f"{message_id} is stored twice and was sent once"
        if message_id not in seen:
            once.append(event)
        seen.add(message_id)
    messages.assert_same(once, sent)
