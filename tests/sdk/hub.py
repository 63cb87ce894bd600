"""A hub of the tests' own: the binary of DUNLIN_BIN as a child process, and its command line."""

import base64
import http.client
import json
import os
import re
import ssl
import subprocess
import threading
import urllib.error
import urllib.request

import sas
import wait

API_VERSION = "2021-04-12"


class Refused(Exception):
    """A command or a request that the hub did not do."""


class Device:
    """An identity of the hub, a device or a module of one."""

    def __init__(self, host, device_id, key, module_id=None):
        self.host, self.id, self.key, self.module_id = host, device_id, key, module_id

    @property
    def client_id(self):
        return self.id if self.module_id is None else f"{self.id}/{self.module_id}"

    @property
    def resource(self):
        module = "" if self.module_id is None else f"/modules/{self.module_id}"
        return f"{self.host}/devices/{self.id}{module}"

    @property
    def connection_string(self):
        return self.connection_string_with(self.key)

    def connection_string_with(self, key):
        module = "" if self.module_id is None else f";ModuleId={self.module_id}"
        return f"HostName={self.host};DeviceId={self.id}{module};SharedAccessKey={key}"

    def token(self, lifetime=3600):
        return sas.token(self.resource, self.key, lifetime=lifetime)


class Hub:
    """`dunlin up` on 8883 and 443 of an address, the ports that the SDKs fix."""

    def __init__(self, folder, host, address, extra=(), ca=None):
        self.folder, self.host, self.address = folder, host, address
        self.data, self.log = folder / "data", folder / "hub.log"
        self.extra, self.ca = list(extra), ca
        self.child = None
        self.starts = 0
        self.file = {}

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind, *_):
        self.stop()
        if kind is None:
            self.search_log()

    def _command(self):
        return [binary(), "up"]

    def start(self):
        ports = ["--mqtt-port", "8883", "--https-port", "443", "--admin-port", "9600"]
        names = ["--data", str(self.data), "--hostname", self.host, "--bind", self.address]
        with open(self.log, "ab") as log:
            command = [*self._command(), *names, *ports, *self.extra]
            self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait.until("the hub is ready", self._ready, 120)
        self.file = json.loads((self.data / "hub.json").read_text())
        self.starts += 1
        self.ca = self.ca or self.file["ca"]
        assert self.file["hostname"] == self.host and self.file["mqtt_port"] == 8883

    def _ready(self):
        if self.child.poll() is not None:
            raise AssertionError(f"the hub ended with {self.child.returncode}:\n{self.log_tail()}")
        try:
            with urllib.request.urlopen(f"http://{self.address}:9600/readyz", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def stop(self):
        """Ends the hub: asked first, killed when it does not hear."""
        if self.child is None:
            return
        self.child.terminate()
        try:
            self.child.wait(30)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.child = None

    def search_log(self):
        """No key and no signature is in it, but for the owner's connection string in each banner."""
        text = "".join(log.read_text(errors="replace") for log in self._logs())
        owner = self.file["owner_connection_string"]
        sas.parse(owner)
        assert 0 < text.count(owner) <= self.starts, f"{self.log} does not begin with the banner"
        text = text.replace(owner, "")
        for secret in sas.SECRETS:
            at = text.find(secret)
            assert at < 0, f"a secret is in {self.log}: {text[max(at - 200, 0):at]}"
        # Those that the SDKs made, too.
        found = re.search(r"sig=[A-Za-z0-9%+/]{8}", text)
        assert found is None, f"a signature is in {self.log}: {text[max(found.start() - 200, 0):found.start()]}"

    def log_tail(self, lines=60):
        texts = [log.read_text(errors="replace") for log in self._logs() if log.exists()]
        return "\n".join("\n".join(text.splitlines()[-lines:]) for text in texts)

    def _logs(self):
        return [self.log]

    def _environment(self):
        owner = self.file["owner_connection_string"]
        return {**os.environ, "DUNLIN_LOGIN": owner, "DUNLIN_CA": str(self.ca)}

    def cli(self, *args):
        """Runs `dunlin ARGS` against this hub; its standard output."""
        return self._run(binary(), *args)

    def loadtest(self, *args):
        """Runs `dunlin-loadtest ARGS`, which lies beside the hub's binary; its standard output."""
        return self._run(loadtest_binary(), *args)

    def begin_loadtest(self, *args):
        """Starts it; the caller ends it."""
        return subprocess.Popen([loadtest_binary(), *args], env=self._environment(), text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def _run(self, *command):
        done = subprocess.run(command, env=self._environment(), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            name = os.path.basename(command[0])
            raise Refused(f"{name} {' '.join(command[1:])}: {done.returncode}: {done.stdout}{done.stderr.strip()}")
        return done.stdout

    def create_device(self, device_id):
        self.cli("device", "create", "-d", device_id)
        text = self.cli("device", "connection-string", "-d", device_id).strip()
        parts = sas.parse(text)
        assert set(parts) == {"HostName", "DeviceId", "SharedAccessKey"}, text
        assert (parts["HostName"], parts["DeviceId"]) == (self.host, device_id), text
        return Device(self.host, device_id, parts["SharedAccessKey"])

    def create_module(self, device, module_id):
        keys = [base64.b64encode(os.urandom(32)).decode() for _ in range(2)]
        self.rest("PUT", f"/devices/{device.id}/modules/{module_id}", {
            "deviceId": device.id,
            "moduleId": module_id,
            "authentication": {
                "type": "sas",
                "symmetricKey": {"primaryKey": keys[0], "secondaryKey": keys[1]},
            },
        })
        return Device(self.host, device.id, keys[0], module_id)

    def rest(self, method, path, body=None):
        """A request to the service API with the owner's policy; the answer's JSON."""
        owner = sas.parse(self.file["owner_connection_string"])
        token = sas.token(self.host, owner["SharedAccessKey"], owner["SharedAccessKeyName"])
        context = ssl.create_default_context(cafile=str(self.ca))
        connection = http.client.HTTPSConnection(self.host, 443, timeout=30, context=context)
        headers = {"Authorization": token, "Content-Type": "application/json"}
        try:
            connection.request(method, f"{path}?api-version={API_VERSION}", json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status // 100 != 2:
            raise Refused(f"{method} {path}: {answer.status}: {text}")
        return sas.keep(json.loads(text)) if text else None

    def events_before(self, device, last_id, seconds=120):
        """What the hub stored of a device, from the start to the message with id `last_id`, without that one.

        The caller has sent that message last of all and seen it acknowledged: whatever was stored
        twice or out of order stands before it.
        """
        args = ["events", "monitor", "-d", device.id, "--from-start", "--timeout", "60", "--json"]
        monitor = subprocess.Popen([binary(), *args], env=self._environment(), text=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        watchdog = threading.Timer(seconds, monitor.kill)
        watchdog.start()
        events = []
        try:
            for line in monitor.stdout:
                event = json.loads(line)["event"]
                if event["properties"]["system"].get("message-id") == last_id:
                    return events
                events.append(event)
            monitor.wait()
            raise AssertionError(f"{last_id} is not among {len(events)} events; monitor ended with "
                                 f"{monitor.returncode}: {monitor.stderr.read()}")
        finally:
            watchdog.cancel()
            monitor.kill()
            monitor.communicate()


class Cluster(Hub):
    """`cargo xtask cluster up` in its place: a process a role, two gateways that share the ports."""

    def _command(self):
        return [os.environ["DUNLIN_XTASK"], "cluster", "up", "--gateways", "2"]

    def _logs(self):
        return [self.log, *sorted((self.data / "logs").glob("*.log"))]


def binary():
    return os.environ["DUNLIN_BIN"]


def loadtest_binary():
    return os.path.join(os.path.dirname(binary()), "dunlin-loadtest")
