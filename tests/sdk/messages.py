"""Messages to send, and the comparison of what the hub stored with what was sent."""

import base64
import json
import random

# What a property bag in a topic has to carry unharmed: separators, wildcards, escapes, the world.
AWKWARD = {
    "with space": "a b  c ",
    "percent%": "100%25 %2F %zz",
    "amp&and": "x&y=z",
    "equals=": "=a=b=",
    "slash/": "/a//b/",
    "question?": "?q?",
    "plus+": "1+1",
    "hash#": "#",
    "dollar$": "$.mid",
    "$lead": "%24.mid",
    "umlaut äöüß": "Größe",
    "emoji 🌡": "21 °C 🔥",
    "quote\"'": "\"'\\`",
    "empty": "",
    "UPPER": "Case",
    "long": "v" * 2000,
}


def sequence(count, prefix="m"):
    """Messages of every kind in turn; the same ones for the same arguments."""
    chance = random.Random(count)
    names = list(AWKWARD)
    made = []
    for number in range(count):
        message = {
            "message_id": f"{prefix}-{number}",
            "correlation_id": f"c:{number}@{prefix}",
            "properties": {"n": f"{number}", names[number % len(names)]: AWKWARD[names[number % len(names)]]},
        }
        if number % 3 == 0:
            body = {"number": number, "text": "°C 🔥", "nested": {"list": [1, 2.5, None, True]}}
            message["body"] = json.dumps(body, ensure_ascii=number % 2 == 0).encode()
            message["content_type"], message["content_encoding"] = "application/json", "utf-8"
        elif number % 3 == 1:
            message["body"] = chance.randbytes(number % 600)
            message["content_type"] = "application/octet-stream"
        else:
            # Neither type nor encoding, and all properties at once.
            message["body"] = bytes(range(256))
            message["properties"] = {"n": f"{number}", **AWKWARD}
        made.append(message)
    return made


def last(message_id="the-last"):
    return {"message_id": message_id, "body": b"", "properties": {}}


SYSTEM = {"message_id": "message-id", "correlation_id": "correlation-id",
          "content_type": "content-type", "content_encoding": "content-encoding"}


def as_sent(message):
    """A sent message in the form of `as_stored`."""
    return {
        "system": {name: message[key] for key, name in SYSTEM.items() if key in message},
        "application": message["properties"],
        "body": message["body"],
    }


def as_stored(event):
    """What of a stored event the device decides."""
    return {
        "system": {name: value for name, value in event["properties"]["system"].items() if name in SYSTEM.values()},
        "application": event["properties"]["application"],
        "body": base64.b64decode(event["payload_base64"], validate=True),
    }


def assert_same(events, sent):
    """Stored exactly once each, in order, unharmed."""
    stored = [as_stored(event) for event in events]
    ids = [one["system"].get("message-id") for one in stored]
    assert ids == [message["message_id"] for message in sent]
    for one, message in zip(stored, sent, strict=True):
        assert one == as_sent(message)
