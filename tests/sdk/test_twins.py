"""Twins by the official SDKs: a back end and a device, or a module, that tell each other what they want."""

import pytest

import drivers
import wait
from services import named
from test_renewal import RENEWAL


def own(section):
    return {key: value for key, value in section.items() if not key.startswith("$")}


def wait_desired(client, wanted):
    """Waits for a patch with these properties. Node's SDK also tells what it reads of its own accord."""
    while True:
        patch = client.wait_event("desired")["patch"]
        if wanted.items() <= patch.items():
            return patch


def test_a_back_end_reads_changes_and_replaces(service, party):
    read = service.call("twin", **named(party))
    assert read["deviceId"] == party.id and read.get("moduleId") == party.module_id
    assert read["etag"] == "AAAAAAAAAAE=" and read["version"] == 2 and read["status"] == "enabled"
    assert read["authenticationType"] == "sas" and not read["tags"]
    assert read["properties"]["desired"]["$version"] == 1 and not own(read["properties"]["desired"])
    tags, desired = {"site": {"floor": 2, "gone": "x"}}, {"interval": 10, "ratio": 1.5, "list": [1, {"a": "ä"}]}
    changed = service.call("update_twin", **named(party), patch={"tags": tags, "properties": {"desired": desired}})
    assert changed["tags"] == tags and own(changed["properties"]["desired"]) == desired
    assert changed["properties"]["desired"]["$version"] == 2
    assert changed["properties"]["desired"]["$metadata"]["interval"]["$lastUpdatedVersion"] == 2
    assert changed["etag"] != read["etag"] and changed["version"] > read["version"]
    changed = service.call("update_twin", **named(party), patch={"tags": {"site": {"gone": None}}})
    assert changed["tags"] == {"site": {"floor": 2}} and own(changed["properties"]["desired"]) == desired
    assert service.call("twin", **named(party)) == changed


@pytest.mark.parametrize("sdk", ["python"])
def test_a_back_end_replaces(service, party):
    # Node's SDK has no call for it.
    service.call("update_twin", **named(party), patch={"tags": {"a": 1}, "properties": {"desired": {"b": 2, "c": 3}}})
    replaced = service.call("replace_twin", **named(party), patch={"properties": {"desired": {"c": 4}}})
    assert not replaced["tags"] and own(replaced["properties"]["desired"]) == {"c": 4}
    with service.refuses(412, "PreconditionFailed"):
        service.call("replace_twin", **named(party), patch={"tags": {}}, etag="AAAAAAAAAAE=")
    assert service.call("replace_twin", **named(party), patch={"tags": {"d": 5}}, etag=replaced["etag"])["tags"] == {"d": 5}


def test_an_etag_guards_a_twin(service, party):
    read = service.call("twin", **named(party))
    changed = service.call("update_twin", **named(party), patch={"tags": {"a": 1}}, etag=read["etag"])
    with service.refuses(412, "PreconditionFailed"):
        service.call("update_twin", **named(party), patch={"tags": {"a": 2}}, etag=read["etag"])
    assert service.call("twin", **named(party))["tags"] == {"a": 1}
    service.call("update_twin", **named(party), patch={"tags": {"a": 2}}, etag=changed["etag"])


def test_what_is_no_twin_is_refused(service, device, name):
    with service.refuses(404, "DeviceNotFound"):
        service.call("twin", device=name)
    # Node's SDK knows no error for a module that is not there but a plain one.
    with service.refuses(404, "ModuleNotFound", node="Error"):
        service.call("twin", device=device.id, module="m")
    for tags in ({"a.b": 1}, {"$a": 1}, {"a": "x" * 4097}, {"a": 2 ** 52}):
        with service.refuses(400, "ArgumentInvalid"):
            service.call("update_twin", device=device.id, patch={"tags": tags})


@drivers.PAIRS
def test_a_device_reads_its_twin_and_reports(hub, service, party, client):
    service.call("update_twin", **named(party), patch={"tags": {"secret": 1}, "properties": {"desired": {"a": {"b": 1}}}})
    client.connect(party.connection_string, hub.ca)
    twin = client.ask("twin")["result"]
    assert twin == {"desired": {"a": {"b": 1}, "$version": 2}, "reported": {"$version": 1}}
    for version, patch, want in [
            (2, {"x": 1, "deep": {"y": "ä", "z": [True, 1.5]}}, {"x": 1, "deep": {"y": "ä", "z": [True, 1.5]}}),
            (3, {"x": None, "deep": {"y": 2}}, {"deep": {"y": 2, "z": [True, 1.5]}}),
    ]:
        client.ask("report", patch=patch)
        assert client.ask("twin")["result"]["reported"] == {**want, "$version": version}
        reported = service.call("twin", **named(party))["properties"]["reported"]
        assert own(reported) == want and reported["$version"] == version
        assert "$lastUpdated" in reported["$metadata"] and "$lastUpdatedVersion" not in reported["$metadata"]


@drivers.TRANSPORTS
def test_a_report_against_the_rules_is_refused(hub, device, client):
    client.connect(device.connection_string, hub.ca)
    client.ask("report", patch={"x": 1})
    for patch in ({"a.b": 1}, {"a": "x" * 4097}):
        with pytest.raises(drivers.SdkError):
            client.ask("report", patch=patch)
    # And the connection goes on.
    assert client.ask("twin")["result"]["reported"] == {"x": 1, "$version": 2}


@drivers.PAIRS
def test_a_device_is_told_of_desired_properties(hub, service, party, client):
    client.connect(party.connection_string, hub.ca)
    client.ask("watch_desired")
    for number in range(3):
        patch = {"properties": {"desired": {"interval": number, "deep": {f"k{number}": "ä"}}}}
        version = service.call("update_twin", **named(party), patch=patch)["properties"]["desired"]["$version"]
        told = wait_desired(client, {"interval": number})
        assert told == {"interval": number, "deep": {f"k{number}": "ä"}, "$version": version}
    service.call("update_twin", **named(party), patch={"properties": {"desired": {"deep": {"k0": None}}}})
    if client.sdk == "python":
        # Node's takes what is null for removed, and removes it before it tells.
        assert client.wait_event("desired")["patch"] == {"deep": {"k0": None}, "$version": 5}
    service.call("update_twin", **named(party), patch={"tags": {"a": 1}})
    service.call("update_twin", **named(party), patch={"properties": {"desired": {"last": 1}}})
    assert wait_desired(client, {"last": 1}) == {"last": 1, "$version": 6}, "tags are not the device's"


@drivers.TRANSPORTS
def test_a_device_hears_of_changes_after_its_token_was_renewed(hub, service, party, client):
    """The SDKs subscribe once: what was subscribed to outlives the connection."""
    client.connect(party.connection_string, hub.ca, **RENEWAL[client.sdk])
    client.ask("watch_desired")
    client.ask("take_methods", answers={"hello": {"status": 200, "payload": "here"}})

    path = f"/devices/{party.id}" + (f"/modules/{party.module_id}" if party.module_id else "")

    def connected_since():
        shown = hub.rest("GET", path)
        return shown["connectionState"] == "Connected" and shown["connectionStateUpdatedTime"]

    since = wait.until("the device is shown connected", connected_since)
    for number in range(3):
        if number:
            def renewed(before=since):
                now = connected_since()
                return now != before and now
            since = wait.until("the client reconnected with a new token", renewed, 60)
        service.call("update_twin", **named(party), patch={"properties": {"desired": {"number": number}}})
        wait_desired(client, {"number": number})
        answer = service.call("invoke", **named(party), name="hello", connect_timeout=30)
        assert answer == {"status": 200, "payload": "here"}
        client.ask("report", patch={"number": number})
    assert own(service.call("twin", **named(party))["properties"]["reported"]) == {"number": 2}
