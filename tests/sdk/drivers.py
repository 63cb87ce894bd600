"""The official SDKs as child processes: one JSON object a line in, one out (`node/device.js`,
`python/device.py`). What they are to do and what must come of it stands in the tests, once."""

import base64
import json
import pathlib
import queue
import subprocess
import sys
import threading

import pytest

HERE = pathlib.Path(__file__).parent
COMMANDS = {
    "python": [sys.executable, str(HERE / "python/device.py")],
    "node": ["node", str(HERE / "node/device.js")],
}

# For `pytestmark`: over TLS on 8883, and over WebSocket on 443.
TRANSPORTS = pytest.mark.parametrize("transport", ["mqtt", "websocket"])


# For tests with a device and a back end: over both, and with a back end of the other SDK.
PAIRS = pytest.mark.parametrize("transport, pair", [("mqtt", "own"), ("websocket", "own"), ("mqtt", "other")])
OTHER = {"python": "node", "node": "python"}


class SdkError(Exception):
    """An error that the SDK gave its caller: its type's name, and those of what it names as cause."""

    def __init__(self, error):
        super().__init__(f"{error['type']}: {error['message']} (causes {error['causes']})")
        self.type, self.message, self.causes = error["type"], error["message"], error["causes"]
        # Of the answer it was made from, if the driver knows it.
        self.status, self.body = error.get("status"), error.get("body")


def wire(message):
    return {**message, "body": base64.b64encode(message["body"]).decode()}


class Driver:
    """One client of an SDK: of devices, unless another `command` is given."""

    def __init__(self, sdk, log, command=None, environment=None, transport="mqtt"):
        self.sdk, self.log, self.transport = sdk, log, transport
        with open(log, "ab") as stderr:
            self.child = subprocess.Popen(command or COMMANDS[sdk], stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE, stderr=stderr, text=True,
                                          encoding="utf-8", env=environment)
        self.answers, self.events = queue.Queue(), queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.child.stdout:
            message = json.loads(line)
            (self.events if "event" in message else self.answers).put(message)
        self.answers.put({"error": {"type": "Ended", "message": "the driver ended", "causes": []}})

    def ask(self, op, seconds=60, **arguments):
        """Has the driver do something and waits for it; SdkError when the SDK refuses."""
        self.child.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
        self.child.stdin.flush()
        try:
            answer = self.answers.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"{self.sdk}: `{op}` did not end within {seconds} s") from None
        if "error" in answer:
            raise SdkError(answer["error"])
        return answer

    def connect(self, connection_string, ca, **options):
        """Options: `ttl` and `margin` of tokens, `retry`: the SDK's own, off unless asked for."""
        return self._connect(connection_string=connection_string, ca=ca and str(ca), **options)

    def connect_token(self, token, ca):
        return self._connect(token=token, ca=str(ca))

    def connect_certificate(self, device, certificate, ca):
        """`certificate`: PEM files of a chain, leaf first, and of its key. `ca` None: as the process trusts."""
        chain, key = map(str, certificate)
        return self._connect(certificate=chain, key=key, host=device.host, device_id=device.id,
                             module_id=device.module_id, ca=ca and str(ca))

    def _connect(self, **options):
        return self.ask("connect", transport=self.transport, **options)

    def send(self, messages, seconds=120):
        """Sends all and waits until the hub has acknowledged each."""
        self.ask("send", seconds, messages=[wire(message) for message in messages])

    def send_batch(self, messages):
        """All in one request, which only HTTPS has."""
        self.ask("send_batch", messages=[wire(message) for message in messages])

    def wait_event(self, name, seconds=60):
        """The next event of that name; others before it are dropped."""
        while True:
            try:
                event = self.events.get(timeout=seconds)
            except queue.Empty:
                raise AssertionError(f"{self.sdk}: no event `{name}` within {seconds} s") from None
            if event["event"] == name:
                return event

    def stop(self):
        """Ends the client as an application would, and the process in any case."""
        try:
            self.child.stdin.close()
            self.child.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            self.child.kill()
            self.child.wait()
        self.reader.join(5)
        self.child.stdout.close()
