"""Direct methods by the official SDKs: a back end calls, a device or a module answers."""

import json

import pytest

import drivers
from services import named

ANSWERS = {
    "echo": {"status": 200, "payload": {"b": [1.5, "ä", None]}},
    "nothing": {"status": 204, "payload": None},
    "failing": {"status": 500, "payload": "no"},
    "silent": None,
}


@pytest.fixture
def callee(hub, party, client):
    """A connected device or module that takes methods."""
    client.connect(party.connection_string, hub.ca)
    client.ask("take_methods", answers=ANSWERS)
    return party


def invoke(service, party, name, **more):
    # Node's SDK does not say when it has subscribed: the call waits for it.
    return service.call("invoke", **named(party), name=name, connect_timeout=30, **more)


@drivers.PAIRS
def test_what_a_device_answers_is_the_answer(service, callee, client):
    sent = {"a": {"deep": [1, "ä", True]}}
    assert invoke(service, callee, "echo", payload=sent) == ANSWERS["echo"]
    assert client.wait_event("method") == {"event": "method", "name": "echo", "payload": sent}
    assert invoke(service, callee, "failing", payload="text") == ANSWERS["failing"]
    assert client.wait_event("method")["payload"] == "text"


def test_the_command_line_calls_too(hub, callee, client):
    module = () if callee.module_id is None else ("-m", callee.module_id)
    said = hub.cli("method", "invoke", "-d", callee.id, *module, "-n", "echo", "--method-payload", '{"a": 1}',
                   "--connect-timeout", "30")
    assert json.loads(said) == ANSWERS["echo"]
    assert client.wait_event("method")["payload"] == {"a": 1}


@drivers.PAIRS
def test_a_call_and_an_answer_may_be_empty(service, callee, client):
    answer = invoke(service, callee, "nothing")
    assert answer["status"] == 204 and answer.get("payload") is None
    # Python's service SDK sends an empty text for nothing.
    assert client.wait_event("method")["payload"] == {"python": "", "node": None}[service.sdk]


@drivers.PAIRS
def test_calls_are_answered_one_by_one(service, callee, client):
    for number in range(20):
        assert invoke(service, callee, "echo", payload=number) == ANSWERS["echo"]
        assert client.wait_event("method")["payload"] == number


@drivers.TRANSPORTS
def test_a_payload_may_be_large(service, callee, client):
    text = "x" * (128 * 1024 - 2)
    assert invoke(service, callee, "echo", payload=text) == ANSWERS["echo"]
    assert client.wait_event("method")["payload"] == text
    with service.refuses(413, "MessageTooLarge"):
        invoke(service, callee, "echo", payload=text + "x")


def test_a_method_that_nobody_answers_times_out(service, callee, client):
    with service.refuses(504, "GatewayTimeout"):
        invoke(service, callee, "silent", response_timeout=5)
    assert client.wait_event("method")["name"] == "silent"
    # And the device is called again.
    assert invoke(service, callee, "echo") == ANSWERS["echo"]


def test_a_method_that_the_device_does_not_know(service, callee, client):
    if client.sdk == "python":
        assert invoke(service, callee, "other")["status"] == 404
    else:
        # Node's SDK passes over what it was not told of.
        with service.refuses(504, "GatewayTimeout"):
            invoke(service, callee, "other", response_timeout=5)


def test_who_is_not_there_or_takes_no_methods(hub, service, device, client, name):
    # Node's SDK knows no error for these but a plain one.
    with service.refuses(404, "DeviceNotOnline", node="Error"):
        service.call("invoke", device=device.id, name="echo")
    with service.refuses(404, "DeviceNotOnline", node="Error"):
        service.call("invoke", device=device.id, name="echo", connect_timeout=1)
    client.connect(device.connection_string, hub.ca)
    with service.refuses(404, "DeviceNotOnline", node="Error"):
        service.call("invoke", device=device.id, name="echo")
    with service.refuses(404, "DeviceNotFound"):
        service.call("invoke", device=name, name="echo")
    with service.refuses(404, "ModuleNotFound", node="Error"):
        service.call("invoke", device=device.id, module="m", name="echo")


def test_calls_against_the_rules_are_refused(service, device):
    for more in ({"name": "a b"}, {"name": "echo", "response_timeout": 4}, {"name": "echo", "response_timeout": 301},
                 {"name": "echo", "connect_timeout": 301}):
        with service.refuses(400, "ArgumentInvalid"):
            service.call("invoke", device=device.id, **more)


def test_a_policy_may_call_and_write_twins_if_it_permits(hub, service, device):
    service.connect(hub.cli("policy", "connection-string", "-n", "registryReadWrite").strip())
    for op, arguments in (("twin", {}), ("update_twin", {"patch": {"tags": {}}}), ("invoke", {"name": "x"})):
        with service.refuses(401, "IotHubUnauthorizedAccess"):
            service.call(op, device=device.id, **arguments)
    service.connect(hub.cli("policy", "connection-string", "-n", "service").strip())
    assert service.call("twin", device=device.id)["deviceId"] == device.id
