"""TLS against OpenSSL: what records may look like on their way, and how connections end."""

import socket
import ssl

import pytest

import mqtt
import pki
from tls import Tls, context

versions = pytest.mark.parametrize("version", ["1.2", "1.3"])


def stored_bodies(hub, device):
    """Bodies by the hub's book, up to the message `end`, which is sent here."""
    with Tls(hub.host, context(hub.ca, "1.3")).handshake() as tls:
        tls.connect(device).publish(device, 1, bag="%24.mid=end")
    return [event.get("payload_base64") for event in hub.events_before(device, "end")]


@versions
@pytest.mark.parametrize("certificate", [False, True], ids=["no-certificate", "client-certificate"])
def test_telemetry_with_and_without_a_client_certificate(hub, device, tmp_path, version, certificate):
    made = pki.self_signed(tmp_path, device.id[:60]) if certificate else None
    with Tls(hub.host, context(hub.ca, version, made)).handshake() as tls:
        assert tls.tls.version() == f"TLSv{version}"
        tls.connect(device).publish(device, 1, b"one").publish(device, 2, b"two")
    assert len(stored_bodies(hub, device)) == 2


@versions
def test_every_byte_dribbled_in_pieces_of_seven(hub, device, version):
    with Tls(hub.host, context(hub.ca, version), pieces=7).handshake() as tls:
        tls.connect(device)
        for packet_id in range(1, 4):
            tls.publish(device, packet_id, b"x" * 50)
        tls.send(mqtt.PINGREQ)
        assert tls.packet() == mqtt.PINGRESP


@versions
def test_many_packets_in_one_record(hub, device, version):
    with Tls(hub.host, context(hub.ca, version)).handshake() as tls:
        publishes = b"".join(mqtt.publish(device, packet_id, b"x") for packet_id in range(1, 41))
        tls.send(mqtt.connect(device) + publishes + mqtt.PINGREQ)
        assert tls.packet() == mqtt.CONNACK_ACCEPTED
        received = [tls.packet() for _ in range(41)]
        # PINGRESP may overtake acknowledgements that wait for the disk.
        received.remove(mqtt.PINGRESP)
        assert received == [mqtt.puback(packet_id) for packet_id in range(1, 41)]
    assert len(stored_bodies(hub, device)) == 40


@versions
def test_many_records_in_one_segment(hub, device, version):
    with Tls(hub.host, context(hub.ca, version)).handshake() as tls:
        tls.connect(device)
        for packet_id in range(1, 41):
            tls.write(mqtt.publish(device, packet_id, b"x"))
        tls.flush()
        assert [tls.packet() for _ in range(40)] == [mqtt.puback(packet_id) for packet_id in range(1, 41)]


@versions
def test_the_last_of_the_handshake_and_the_first_data_in_one_segment(hub, device, version):
    with Tls(hub.host, context(hub.ca, version)).handshake(hold_last=True) as tls:
        tls.write(mqtt.connect(device))
        tls.write(mqtt.publish(device, 1, b"early"))
        tls.flush()
        assert tls.packet() == mqtt.CONNACK_ACCEPTED
        assert tls.packet() == mqtt.puback(1)


@versions
@pytest.mark.parametrize("pieces", [None, 1000], ids=["at-once", "in-pieces"])
def test_one_packet_over_many_records(hub, device, version, pieces):
    with Tls(hub.host, context(hub.ca, version), pieces=pieces).handshake() as tls:
        tls.connect(device).publish(device, 1, bytes(range(256)) * 800)


@versions
def test_records_of_one_byte(hub, device, version):
    with Tls(hub.host, context(hub.ca, version)).handshake() as tls:
        tls.connect(device)
        for byte in mqtt.publish(device, 7, b"bytewise"):
            tls.write(bytes([byte]))
        tls.flush()
        assert tls.packet() == mqtt.puback(7)


# How connections end


@versions
def test_close_notify_is_answered(hub, device, version):
    with Tls(hub.host, context(hub.ca, version)).handshake() as tls:
        tls.connect(device).publish(device, 1)
        with pytest.raises(ssl.SSLWantReadError):
            tls.tls.unwrap()
        tls.flush()
        assert tls.closed() == "close_notify"


@versions
def test_close_notify_before_connect_is_answered(hub, version):
    with Tls(hub.host, context(hub.ca, version)).handshake() as tls:
        with pytest.raises(ssl.SSLWantReadError):
            tls.tls.unwrap()
        tls.flush()
        assert tls.closed() == "close_notify"


@versions
def test_data_before_close_notify_is_not_lost(hub, device, version):
    with Tls(hub.host, context(hub.ca, version)).handshake() as tls:
        tls.connect(device)
        tls.write(mqtt.publish(device, 1, b"last words"))
        with pytest.raises(ssl.SSLWantReadError):
            tls.tls.unwrap()
        tls.flush()
        assert tls.closed() == "close_notify"
    assert len(stored_bodies(hub, device)) == 1


ENDS = {
    "disconnect": lambda device: mqtt.DISCONNECT,
    "qos2": lambda device: mqtt.publish(device, 1, qos=2),
    "second-connect": mqtt.connect,
    "not-mqtt": lambda device: b"\xff\xff\xff\xff\xff\xff",
}


@versions
@pytest.mark.parametrize("end", ENDS)
def test_the_hub_closes_with_close_notify(hub, device, version, end):
    with Tls(hub.host, context(hub.ca, version)).handshake() as tls:
        tls.connect(device)
        tls.send(ENDS[end](device))
        assert tls.closed() == "close_notify"
        assert tls.received == b""


@versions
def test_a_refused_device_gets_its_connack_and_close_notify(hub, device, version):
    with Tls(hub.host, context(hub.ca, version)).handshake() as tls:
        tls.send(mqtt.connect(device, password=device.token(-600)))
        assert tls.packet() == bytes([0x20, 2, 0, 5])
        assert tls.closed() == "close_notify"


# Alerts


def test_no_common_cipher_is_a_handshake_failure(hub):
    # The hub's key is an elliptic one.
    tls = Tls(hub.host, context(hub.ca, "1.2", ciphers="ECDHE-RSA-AES128-GCM-SHA256"))
    with tls, pytest.raises(ssl.SSLError) as refused:
        tls.handshake()
    assert refused.value.reason == "SSLV3_ALERT_HANDSHAKE_FAILURE"


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: hub.test\r\n\r\n",
    "mqtt-without-tls": bytes([0x10, 12]) + b"\0\4MQTT\4\2\0\x3c\0\0",
    "zeros": bytes(600),
    "record-too-long": b"\x16\x03\x01\xff\xff" + bytes(600),
    "hello-of-nothing": b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
    "data-before-hello": b"\x17\x03\x03\x00\x10" + bytes(16),
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_answered_with_an_alert_or_the_end(hub, device, garbage):
    with socket.create_connection((hub.host, 8883), timeout=30) as raw:
        raw.sendall(GARBAGE[garbage])
        answer = b""
        try:
            while data := raw.recv(4096):
                answer += data
        except ConnectionResetError:
            pass
    # Nothing, or alert records of two bytes each.
    assert answer == b"" or (answer[0] == 0x15 and len(answer) % 7 == 0), answer
    with Tls(hub.host, context(hub.ca, "1.3")).handshake() as tls:
        tls.connect(device)


@versions
def test_a_broken_record_is_a_bad_record_mac(hub, device, version):
    with Tls(hub.host, context(hub.ca, version)).handshake() as tls:
        tls.connect(device)
        tls.write(mqtt.publish(device, 1, b"untouched"))
        record = bytearray(tls.taken())
        record[-1] ^= 1
        tls.send_raw(bytes(record))
        with pytest.raises(ssl.SSLError) as refused:
            tls.read()
        assert refused.value.reason == "SSLV3_ALERT_BAD_RECORD_MAC"
    assert not stored_bodies(hub, device)


@versions
def test_a_replayed_record_is_a_bad_record_mac(hub, device, version):
    with Tls(hub.host, context(hub.ca, version)).handshake() as tls:
        tls.connect(device)
        tls.write(mqtt.publish(device, 1, b"once"))
        record = tls.taken()
        tls.send_raw(record + record)
        with pytest.raises(ssl.SSLError) as refused:
            while True:
                tls.read()
        assert refused.value.reason == "SSLV3_ALERT_BAD_RECORD_MAC"
