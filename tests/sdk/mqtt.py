"""As much of MQTT 3.1.1 as the TLS tests need: packets as bytes."""

import struct

CONNACK_ACCEPTED = bytes([0x20, 2, 0, 0])
PINGREQ, PINGRESP = bytes([0xC0, 0]), bytes([0xD0, 0])
DISCONNECT = bytes([0xE0, 0])


def _text(text):
    data = text.encode()
    return struct.pack("!H", len(data)) + data


def _packet(head, body):
    length, rest = b"", len(body)
    while True:
        rest, digit = rest >> 7, rest & 0x7F
        length += bytes([digit | (0x80 if rest else 0)])
        if not rest:
            return bytes([head]) + length + body


def connect(device, password=None, keep_alive=120):
    """CONNECT of a device with a clean session, as `Device` describes it; its token unless told."""
    user = f"{device.host}/{device.client_id}/?api-version=2021-04-12"
    flags = 0x80 | 0x40 | 0x02
    fields = _text(device.client_id) + _text(user) + _text(password or device.token())
    return _packet(0x10, _text("MQTT") + bytes([4, flags]) + struct.pack("!H", keep_alive) + fields)


def publish(device, packet_id, body=b"", qos=1, bag=""):
    topic = _text(f"devices/{device.id}/messages/events/{bag}")
    return _packet(0x30 | qos << 1, topic + (struct.pack("!H", packet_id) if qos else b"") + body)


def puback(packet_id):
    return bytes([0x40, 2]) + struct.pack("!H", packet_id)


def length(data):
    """Length of the packet that `data` begins with, None while that cannot be told."""
    total = 0
    for index, digit in enumerate(data[1:5]):
        total |= (digit & 0x7F) << (7 * index)
        if not digit & 0x80:
            return 2 + index + total
    return None
