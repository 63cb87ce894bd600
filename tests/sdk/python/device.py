"""Driver of the official Python device SDK, unmodified: see ../drivers.py."""

import base64
import json
import sys
import threading
import time
from unittest import mock
from urllib.parse import parse_qs

from azure.iot.device import X509, IoTHubDeviceClient, IoTHubModuleClient, Message, MethodResponse

_stdout = threading.Lock()


def say(message):
    with _stdout:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def causes(error):
    """Types of what an error was raised from, nearest first."""
    found = []
    while (error := error.__cause__ or error.__context__) is not None:
        found.append(f"{type(error).__name__}: {error}")
    return found


class Client:
    def __init__(self):
        self.client = None
        self.is_module = False

    def connect(self, ask):
        if self.client is None:
            self.client = self.create(ask)
            self.client.on_connection_state_change = self.state_changed
        self.client.connect()

    def create(self, ask):
        options = {"connection_retry": ask.get("retry", False), "websockets": ask["transport"] == "websocket"}
        if ask.get("ca"):
            with open(ask["ca"], encoding="ascii") as file:
                options["server_verification_cert"] = file.read()
        if "token" in ask:
            # The SDK does not even try with a token that its own clock calls expired. A device whose
            # clock is behind does: such a clock is what the SDK sees here, while it looks.
            expiry = int(parse_qs(ask["token"].split(" ", 1)[1])["se"][0])
            with mock.patch("time.time", return_value=min(time.time(), expiry - 1)):
                return IoTHubDeviceClient.create_from_sastoken(ask["token"], **options)
        if "certificate" in ask:
            kind = IoTHubModuleClient if ask.get("module_id") else IoTHubDeviceClient
            module = {"module_id": ask["module_id"]} if ask.get("module_id") else {}
            return kind.create_from_x509_certificate(
                X509(ask["certificate"], ask["key"]), ask["host"], ask["device_id"], **module, **options)
        text = ask["connection_string"]
        if "ttl" in ask:
            options["sastoken_ttl"] = ask["ttl"]
        self.is_module = ";ModuleId=" in text
        kind = IoTHubModuleClient if self.is_module else IoTHubDeviceClient
        return kind.create_from_connection_string(text, **options)

    def state_changed(self):
        say({"event": "connected" if self.client.connected else "disconnected"})

    def send(self, ask):
        for one in ask["messages"]:
            message = Message(base64.b64decode(one["body"]))
            message.message_id = one.get("message_id")
            message.correlation_id = one.get("correlation_id")
            message.content_type = one.get("content_type")
            message.content_encoding = one.get("content_encoding")
            message.custom_properties = dict(one.get("properties", {}))
            if "output" in one:
                self.client.send_message_to_output(message, one["output"])
            else:
                self.client.send_message(message)

    def twin(self, _):
        return self.client.get_twin()

    def report(self, ask):
        self.client.patch_twin_reported_properties(ask["patch"])

    def watch_desired(self, _):
        def changed(patch):
            say({"event": "desired", "patch": patch})
        self.client.on_twin_desired_properties_patch_received = changed

    def take_commands(self, _):
        # Not by a handler: the SDK runs four of them at a time, in no order.
        first = self.client.receive_message(block=False)
        threading.Thread(target=self.receive, args=[first], daemon=True).start()

    def receive(self, message):
        while True:
            if message is not None:
                say({"event": "command", "body": base64.b64encode(message.data).decode(),
                     "message_id": message.message_id, "correlation_id": message.correlation_id,
                     "user_id": message.user_id, "content_type": message.content_type,
                     "content_encoding": message.content_encoding, "ack": message.ack,
                     "expires": message.expiry_time_utc, "properties": message.custom_properties})
            message = self.client.receive_message()

    def take_inputs(self, _):
        def received(message):
            say({"event": "input", "name": message.input_name})
        self.client.on_message_received = received

    def take_methods(self, ask):
        answers = ask["answers"]

        def called(request):
            say({"event": "method", "name": request.name, "payload": request.payload})
            answer = answers.get(request.name, {"status": 404, "payload": None})
            if answer is not None:
                self.client.send_method_response(MethodResponse.create_from_method_request(
                    request, answer["status"], answer["payload"]))
        self.client.on_method_request_received = called

    def disconnect(self, _):
        self.client.disconnect()


def main():
    client = Client()
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            say({"result": getattr(client, ask["op"])(ask)})
        except Exception as error:  # pylint: disable=broad-except  # whatever it is, it is the answer
            say({"error": {"type": type(error).__name__, "message": str(error), "causes": causes(error)}})
    if client.client is not None:
        client.client.shutdown()


main()
