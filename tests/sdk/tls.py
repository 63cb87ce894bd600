"""A TLS client with its hands on the bytes: OpenSSL (Python's ssl) between two memory buffers."""

import pathlib
import socket
import ssl

import mqtt
import wait

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def context(ca, version, certificate=None, ciphers=None):
    made = ssl.create_default_context(cafile=str(ca))
    made.minimum_version = made.maximum_version = VERSIONS[version]
    if certificate:
        made.load_cert_chain(*map(str, certificate))
    if ciphers:
        made.set_ciphers(ciphers)
    return made


class Tls:
    """One connection. What OpenSSL wants sent is kept until `flush`."""

    def __init__(self, host, tls_context, pieces=None, port=8883):
        self.socket = socket.create_connection((host, port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = tls_context.wrap_bio(self.incoming, self.outgoing, server_hostname=host)
        # Bytes at a time, each read by the server before the next is sent; None: all at once.
        self.pieces = pieces
        self.received = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def handshake(self, hold_last=False):
        """`hold_last`: keeps the client's last flight back, to be sent with what is written next."""
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.flush()
                self._read_socket()
            except ssl.SSLError:
                self.flush()
                raise
        if not hold_last:
            self.flush()
        return self

    def write(self, data):
        """Encrypts, as one record (up to 16 KiB); sent by `flush`."""
        self.tls.write(data)

    def send(self, data):
        self.write(data)
        self.flush()

    def taken(self):
        """What is waiting to be sent, instead of sending it."""
        return self.outgoing.read()

    def flush(self):
        self.send_raw(self.taken())

    def send_raw(self, data):
        if self.pieces is None:
            self.socket.sendall(data)
            return
        for start in range(0, len(data), self.pieces):
            self.socket.sendall(data[start:start + self.pieces])
            wait.until("the server has read what was sent", self._was_read)

    def _was_read(self):
        """The kernel holds nothing that the server has not read: its side of the connection in /proc."""
        mine, theirs = self.socket.getsockname()[1], self.socket.getpeername()[1]
        for line in pathlib.Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
            local, remote, _, queues = line.split()[1:5]
            if (int(local.split(":")[1], 16), int(remote.split(":")[1], 16)) == (theirs, mine):
                return int(queues.split(":")[1], 16) == 0
        return True  # The server's side is gone; reading will tell why.

    def _read_socket(self):
        data = self.socket.recv(65536)
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    def read(self):
        """Some of what the server sent. Raises SSLZeroReturnError after its close_notify, SSLEOFError when
        the connection ended without one."""
        while True:
            try:
                data = self.tls.read(65536)
            except ssl.SSLWantReadError:
                self.flush()
                self._read_socket()
                continue
            if data:
                return data
            # Python's way to say close_notify, where it does not raise.
            raise ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "close_notify")

    def packet(self):
        """The server's next MQTT packet."""
        while (length := mqtt.length(self.received)) is None or len(self.received) < length:
            self.received += self.read()
        packet, self.received = self.received[:length], self.received[length:]
        return packet

    def closed(self):
        """Reads to the end: "close_notify" or, when that is missing, "cut". Answers the former, and waits for
        TCP's end as well."""
        try:
            while True:
                self.received += self.read()
        except ssl.SSLZeroReturnError:
            pass
        except (ssl.SSLEOFError, ConnectionResetError):
            return "cut"
        try:
            self.tls.unwrap()
            self.flush()
            while self.socket.recv(65536):
                pass
        except (ConnectionResetError, BrokenPipeError):
            pass  # Gone before our answer: an end, too.
        return "close_notify"

    def connect(self, device, **options):
        self.send(mqtt.connect(device, **options))
        assert self.packet() == mqtt.CONNACK_ACCEPTED
        return self

    def publish(self, device, packet_id, body=b"", bag=""):
        self.send(mqtt.publish(device, packet_id, body, bag=bag))
        assert self.packet() == mqtt.puback(packet_id)
        return self
