"""The identity registry: many devices in one call by the official service SDKs."""

import json

import pytest

import drivers
from test_registry import SHA256, key, self_signed, symmetric


def devices(name, count, **more):
    return [{"deviceId": f"{name}.{number}", **more} for number in range(count)]


def assert_failed(service, mode, items, wanted, **options):
    """Some of it failed, for these (device, code) in order. Python's SDK returns the result, Node's throws it."""
    if service.sdk == "python":
        result = service.call("bulk", mode=mode, devices=items, **options)
    else:
        with pytest.raises(drivers.SdkError) as caught:
            service.call("bulk", mode=mode, devices=items, **options)
        assert (caught.value.type, caught.value.status) == ("ArgumentError", 400), caught.value
        result = json.loads(caught.value.body)
    assert result["isSuccessful"] is False, result
    assert [(one["deviceId"], one["errorCode"]) for one in result["errors"]] == wanted, result
    assert all(one["errorStatus"] for one in result["errors"]), result


def assert_done(result):
    assert result["isSuccessful"] is True and not result.get("errors"), result


def test_a_hundred_are_made_changed_and_deleted(service, name):
    items = devices(name, 100)
    assert_done(service.call("bulk", mode="add", devices=items))
    made = service.call("get", device=f"{name}.99")
    assert made["status"] == "enabled" and made["authentication"]["symmetricKey"]["primaryKey"]
    changed = devices(name, 100, status="disabled", statusReason="all of them")
    assert_done(service.call("bulk", mode="update", devices=changed, force=True))
    read = service.call("get", device=f"{name}.7")
    assert (read["status"], read["statusReason"]) == ("disabled", "all of them")
    assert_done(service.call("bulk", mode="remove", devices=items, force=True))
    with service.refuses(404, "DeviceNotFound"):
        service.call("get", device=f"{name}.0")


def test_keys_and_certificates_are_kept(service, name):
    primary, secondary = key(), key()
    assert_done(service.call("bulk", mode="add", devices=[
        {"deviceId": f"{name}.key", "authentication": symmetric(primary, secondary)},
        {"deviceId": f"{name}.certificate", "authentication": self_signed(SHA256, SHA256)},
    ]))
    keys = service.call("get", device=f"{name}.key")["authentication"]["symmetricKey"]
    assert keys == {"primaryKey": primary, "secondaryKey": secondary}
    assert service.call("get", device=f"{name}.certificate")["authentication"]["type"] == "selfSigned"


def test_who_exists_fails_alone(service, name):
    service.call("create", identity={"deviceId": f"{name}.1"})
    assert_failed(service, "add", devices(name, 3), [(f"{name}.1", "DeviceAlreadyExists")])
    assert service.call("get", device=f"{name}.2")["deviceId"] == f"{name}.2"


def test_who_does_not_exist_fails_alone(service, name):
    service.call("create", identity={"deviceId": f"{name}.0"})
    wanted = [(f"{name}.1", "DeviceNotFound")]
    assert_failed(service, "update", devices(name, 2, status="disabled"), wanted, force=True)
    assert service.call("get", device=f"{name}.0")["status"] == "disabled"
    assert_failed(service, "remove", devices(name, 2), wanted, force=True)
    with service.refuses(404, "DeviceNotFound"):
        service.call("get", device=f"{name}.0")


def test_an_etag_guards_each(service, name):
    made = [service.call("create", identity=one) for one in devices(name, 2)]
    items = [{"deviceId": one["deviceId"], "etag": one["etag"], "status": "disabled"} for one in made]
    assert_done(service.call("bulk", mode="update", devices=items))
    stale = [(f"{name}.{number}", "PreconditionFailed") for number in range(2)]
    assert_failed(service, "update", items, stale)
    assert_failed(service, "remove", items, stale)
    fresh = [{"deviceId": one["deviceId"], "etag": service.call("get", device=one["deviceId"])["etag"]} for one in made]
    assert_done(service.call("bulk", mode="remove", devices=fresh))


def test_what_is_no_device_fails_alone(service, name):
    items = [{"deviceId": f"{name}.0"}, {"deviceId": f"{name} 1"},
             {"deviceId": f"{name}.2", "authentication": symmetric("no base64!", key())}]
    wanted = [(f"{name} 1", "ArgumentInvalid"), (f"{name}.2", "ArgumentInvalid")]
    assert_failed(service, "add", items, wanted)
    assert service.call("get", device=f"{name}.0")["deviceId"] == f"{name}.0"


def test_a_device_is_named_once(service, name):
    assert_failed(service, "add", devices(name, 1) * 2, [(f"{name}.0", "DeviceDefinedMultipleTimes")])


def test_modules_may_be_among_them(service, name):
    service.call("create", identity={"deviceId": name})
    items = [{"deviceId": name, "moduleId": "a"}, {"deviceId": name, "moduleId": "b"}]
    assert_done(service.call("bulk", mode="add", devices=items))
    assert sorted(one["moduleId"] for one in service.call("modules", device=name)) == ["a", "b"]
    assert_done(service.call("bulk", mode="remove", devices=items[:1], force=True))
    assert [one["moduleId"] for one in service.call("modules", device=name)] == ["b"]


def twin(service, name):
    """Tags, and desired properties without what the hub adds to them."""
    read = service.call("twin", device=name)
    desired = read["properties"]["desired"]
    return read["tags"], {key: value for key, value in desired.items() if not key.startswith("$")}


def test_devices_are_made_with_their_twins(service, name):
    desired = {"interval": {"seconds": 30}, "list": [1, 2]}
    items = devices(name, 2, tags={"room": 1}, properties={"desired": desired})
    assert_done(service.call("bulk", mode="add", devices=items))
    for number in range(2):
        assert twin(service, f"{name}.{number}") == ({"room": 1}, desired)
    assert_failed(service, "add", devices(f"{name}.bad", 1, tags={"a.b": 1}), [(f"{name}.bad.0", "ArgumentInvalid")])


@pytest.mark.parametrize("sdk", ["python"])
def test_twins_are_updated(service, name):
    # Node's SDK has no such call.
    assert_done(service.call("bulk", mode="add", devices=devices(name, 2, tags={"room": 1, "floor": 2})))
    change = {"tags": {"room": None}, "properties": {"desired": {"x": 1}}}
    assert_done(service.call("bulk", mode="update_twin", devices=devices(name, 1, **change), force=True))
    assert twin(service, f"{name}.0") == ({"floor": 2}, {"x": 1})
    etags = [service.call("twin", device=f"{name}.{number}")["etag"] for number in range(2)]
    items = [{**one, "twinETag": etags[0]} for one in devices(name, 2, tags={"room": 5})]
    assert_failed(service, "update_twin", items, [(f"{name}.1", "PreconditionFailed")])
    assert twin(service, f"{name}.0")[0] == {"floor": 2, "room": 5}
    assert twin(service, f"{name}.1")[0] == {"floor": 2, "room": 1}


@pytest.mark.parametrize("sdk", ["python"])
def test_more_than_a_hundred_are_refused(service, name):
    # Node's SDK does not even send them.
    with service.refuses(413, "TooManyDevices"):
        service.call("bulk", mode="add", devices=devices(name, 101))
    with service.refuses(404, "DeviceNotFound"):
        service.call("get", device=f"{name}.0")
