"""Renewal of SAS tokens: the SDKs reconnect with a new token, and no message is lost or doubled by it."""

import pathlib

import messages
import wait

# (lifetime, margin) in seconds: renewed lifetime - margin after the client was made. Python's margin is fixed.
RENEWAL = {"python": {"ttl": 125}, "node": {"ttl": 12, "margin": 7}}


def connections():
    """Client ports of the connections that are up to port 8883 of the session's hub."""
    ports = set()
    for line in pathlib.Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        local, remote, state = line.split()[1:4]
        if remote == f"0100007F:{8883:04X}" and state == "01":
            ports.add(int(local.split(":")[1], 16))
    return ports


def renewed(before):
    """Waits until the one connection is another than `before`: the client has reconnected."""
    def probe():
        now = connections()
        return now if len(now) == 1 and now != before else None
    return wait.until("the client reconnected with a new token", probe, 60)


def test_messages_before_and_after_renewals_are_stored_once(hub, device, client):
    wait.until("earlier clients are gone", lambda: not connections())
    client.connect(device.connection_string, hub.ca, **RENEWAL[client.sdk])
    connection = connections()
    assert len(connection) == 1
    sent = []
    for round_number in range(3):
        if round_number:
            # Twice: the second token, too, is renewed.
            connection = renewed(connection)
        some = messages.sequence(30, f"r{round_number}")
        client.send(some)
        sent += some
    client.send([messages.last()])
    messages.assert_same(hub.events_before(device, "the-last"), sent)


def test_messages_during_a_renewal_are_all_stored(hub, device, client):
    """In flight while the SDK reconnects, a message may be sent again; then it says so (DUP)."""
    wait.until("earlier clients are gone", lambda: not connections())
    client.connect(device.connection_string, hub.ca, **RENEWAL[client.sdk])
    connection = connections()
    sent = []

    def send_more():
        some = messages.sequence(20, f"r{len(sent)}")
        client.send(some)
        sent.extend(some)
        now = connections()
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
