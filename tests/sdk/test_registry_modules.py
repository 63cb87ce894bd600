"""The identity registry: modules of a device by the official service SDKs."""

import base64

import pytest

from test_registry import SHA1, SHA256, key, self_signed, symmetric


@pytest.fixture
def parent(service, name):
    """A device to have modules."""
    service.call("create", identity={"deviceId": name})
    return name


def test_a_module_is_made_read_changed_and_deleted(service, parent):
    made = service.call("create", identity={"deviceId": parent, "moduleId": "m", "managedBy": "me"})
    assert (made["deviceId"], made["moduleId"], made["managedBy"]) == (parent, "m", "me")
    assert made["etag"] and made["generationId"] and made["connectionState"] == "Disconnected"
    assert len(base64.b64decode(made["authentication"]["symmetricKey"]["primaryKey"])) == 32
    read = service.call("get", device=parent, module="m")
    assert {one: read[one] for one in made} == made
    primary, secondary = key(), key()
    updated = service.call("update", identity={
        "deviceId": parent, "moduleId": "m", "managedBy": "you", "authentication": symmetric(primary, secondary)})
    assert updated["managedBy"] == "you" and updated["etag"] != made["etag"]
    assert updated["authentication"]["symmetricKey"] == {"primaryKey": primary, "secondaryKey": secondary}
    service.call("delete", device=parent, module="m")
    assert service.call("modules", device=parent) == []


def test_certificates_authenticate_a_module(service, parent):
    made = service.call("create", identity={
        "deviceId": parent, "moduleId": "m", "authentication": self_signed(SHA1, SHA256)})
    assert made["authentication"]["type"] == "selfSigned"
    updated = service.call("update", identity={
        "deviceId": parent, "moduleId": "m", "authentication": {"type": "certificateAuthority"}}, etag=made["etag"])
    assert updated["authentication"]["type"] == "certificateAuthority"


def test_modules_are_listed_with_their_device(service, parent):
    for module in ("b", "a", "c$d"):
        service.call("create", identity={"deviceId": parent, "moduleId": module})
    assert sorted(one["moduleId"] for one in service.call("modules", device=parent)) == ["a", "b", "c$d"]
    assert all(one["deviceId"] == parent for one in service.call("modules", device=parent))
    assert parent in [one["deviceId"] for one in service.call("list")]
    service.call("delete", device=parent)
    # Node's SDK knows no error for a module or its device that is not there but a plain one.
    with service.refuses(404, "DeviceNotFound"):
        service.call("modules", device=parent)


def test_an_etag_guards_a_module(service, parent):
    made = service.call("create", identity={"deviceId": parent, "moduleId": "m"})
    changed = service.call("update", identity={"deviceId": parent, "moduleId": "m"}, etag=made["etag"])
    with service.refuses(412, "PreconditionFailed"):
        service.call("update", identity={"deviceId": parent, "moduleId": "m"}, etag=made["etag"])
    with service.refuses(412, "PreconditionFailed"):
        service.call("delete", device=parent, module="m", etag=made["etag"])
    service.call("delete", device=parent, module="m", etag=changed["etag"])


def test_a_module_exists_once_and_not_without_its_device(service, parent):
    service.call("create", identity={"deviceId": parent, "moduleId": "m"})
    with service.refuses(409, "ModuleAlreadyExistsOnDevice"):
        service.call("create", identity={"deviceId": parent, "moduleId": "m"})
    with service.refuses(404, "ModuleNotFound", node="Error"):
        service.call("get", device=parent, module="n")
    with service.refuses(404, "ModuleNotFound", node="Error"):
        service.call("delete", device=parent, module="n")
    with service.refuses(404, "DeviceNotFound"):
        service.call("create", identity={"deviceId": f"{parent}.x", "moduleId": "m"})


def test_a_device_has_fifty_modules_at_most(service, parent):
    for number in range(50):
        service.call("create", identity={"deviceId": parent, "moduleId": f"m{number}"})
    with service.refuses(413, "TooManyModulesOnDevice"):
        service.call("create", identity={"deviceId": parent, "moduleId": "m50"})
