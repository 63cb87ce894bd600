"""The identity registry: what back ends do with devices by the official service SDKs."""

import base64
import os
import re
import string

import pytest

import sas
import wait

NEVER = re.compile(r"0001-01-01T00:00:00(\.0+)?Z?")
SHA1, SHA256 = "A1" * 20, "b2" * 32


def key():
    return base64.b64encode(os.urandom(32)).decode()


def symmetric(primary, secondary):
    return {"type": "sas", "symmetricKey": {"primaryKey": primary, "secondaryKey": secondary}}


def self_signed(primary, secondary):
    return {"type": "selfSigned",
            "x509Thumbprint": {"primaryThumbprint": primary, "secondaryThumbprint": secondary}}


def test_a_device_is_made_with_keys_of_the_hubs(service, name):
    made = service.call("create", identity={"deviceId": name})
    assert made["deviceId"] == name and made["status"] == "enabled"
    assert made["etag"] and not made["etag"].startswith('"') and made["generationId"].isdigit()
    assert made["authentication"]["type"] == "sas"
    keys = made["authentication"]["symmetricKey"]
    assert len({keys["primaryKey"], keys["secondaryKey"]}) == 2
    assert all(len(base64.b64decode(one)) == 32 for one in keys.values())
    assert made["capabilities"] == {"iotEdge": False}
    assert made["connectionState"] == "Disconnected" and made["cloudToDeviceMessageCount"] == 0
    assert NEVER.fullmatch(made["connectionStateUpdatedTime"]) and NEVER.fullmatch(made["lastActivityTime"])
    read = service.call("get", device=name)
    assert {one: read[one] for one in made} == made


def test_keys_reasons_and_status_are_kept(service, name):
    primary, secondary = key(), key()
    made = service.call("create", identity={
        "deviceId": name, "status": "disabled", "statusReason": "not yet ä",
        "authentication": symmetric(primary, secondary)})
    assert (made["status"], made["statusReason"]) == ("disabled", "not yet ä")
    assert made["authentication"]["symmetricKey"] == {"primaryKey": primary, "secondaryKey": secondary}
    updated = service.call("update", identity={
        "deviceId": name, "status": "enabled", "authentication": symmetric(secondary, primary)})
    assert updated["status"] == "enabled" and not updated.get("statusReason")
    assert updated["authentication"]["symmetricKey"] == {"primaryKey": secondary, "secondaryKey": primary}
    assert updated["generationId"] == made["generationId"] and updated["etag"] != made["etag"]
    assert not NEVER.fullmatch(updated["statusUpdatedTime"])


def test_empty_keys_are_made_anew(service, name):
    made = service.call("create", identity={"deviceId": name})
    kept = service.call("update", identity={**made, "status": "disabled"})
    assert kept["authentication"] == made["authentication"]
    # As Node's SDK completes an update without authentication.
    renewed = service.call("update", identity={"deviceId": name, "authentication": symmetric("", "")})
    before, after = (one["authentication"]["symmetricKey"] for one in (made, renewed))
    assert all(after[one] and after[one] != before[one] for one in ("primaryKey", "secondaryKey"))


def test_certificates_authenticate_a_device(service, name):
    made = service.call("create", identity={"deviceId": name, "authentication": self_signed(SHA1, SHA256)})
    assert made["authentication"]["type"] == "selfSigned"
    thumbprints = made["authentication"]["x509Thumbprint"]
    assert {name: value.lower() for name, value in thumbprints.items()} == {
        "primaryThumbprint": SHA1.lower(), "secondaryThumbprint": SHA256.lower()}
    assert not (made["authentication"].get("symmetricKey") or {}).get("primaryKey")
    updated = service.call("update", identity={
        "deviceId": name, "authentication": {"type": "certificateAuthority"}})
    assert updated["authentication"]["type"] == "certificateAuthority"
    assert not (updated["authentication"].get("x509Thumbprint") or {}).get("primaryThumbprint")
    back = service.call("update", identity={"deviceId": name})
    assert back["authentication"]["type"] == "sas"
    assert len(base64.b64decode(back["authentication"]["symmetricKey"]["primaryKey"])) == 32


def test_a_device_exists_once(service, name):
    service.call("create", identity={"deviceId": name})
    with service.refuses(409, "DeviceAlreadyExists"):
        service.call("create", identity={"deviceId": name})


def test_who_does_not_exist_is_not_found(service, name):
    with service.refuses(404, "DeviceNotFound"):
        service.call("get", device=name)
    with service.refuses(404, "DeviceNotFound"):
        service.call("update", identity={"deviceId": name})
    with service.refuses(404, "DeviceNotFound"):
        service.call("delete", device=name)


def test_a_device_is_deleted_and_may_be_made_again(service, name):
    first = service.call("create", identity={"deviceId": name})
    service.call("delete", device=name)
    with service.refuses(404, "DeviceNotFound"):
        service.call("get", device=name)
    second = service.call("create", identity={"deviceId": name})
    assert second["generationId"] != first["generationId"]


@pytest.mark.parametrize("sdk", ["python"])
def test_an_update_or_delete_may_ask_for_an_etag(service, name):
    # Node's SDK sends `*` for devices whatever it is given.
    made = service.call("create", identity={"deviceId": name})
    changed = service.call("update", identity={"deviceId": name, "status": "disabled"}, etag=made["etag"])
    with service.refuses(412, "PreconditionFailed"):
        service.call("update", identity={"deviceId": name}, etag=made["etag"])
    with service.refuses(412, "PreconditionFailed"):
        service.call("delete", device=name, etag=made["etag"])
    assert service.call("get", device=name)["status"] == "disabled"
    service.call("delete", device=name, etag=changed["etag"])


def test_every_letter_an_id_may_have(service, name):
    odd = f"{string.ascii_letters}{string.digits}-:.+%_#*?!(),=@;$'"[52:] + name[-20:]
    service.call("create", identity={"deviceId": odd})
    assert service.call("get", device=odd)["deviceId"] == odd
    assert odd in [one["deviceId"] for one in service.call("list")]
    service.call("delete", device=odd)


def test_what_is_no_device_is_refused(service, name):
    for device in ("a b", "ä", "x" * 129):
        with service.refuses(400, "ArgumentInvalid"):
            service.call("create", identity={"deviceId": device})
    for bad in (symmetric("no base64!", key()), symmetric(key(), ""),
                symmetric(base64.b64encode(b"short").decode(), key()), self_signed("zz", None)):
        with service.refuses(400, "ArgumentInvalid"):
            service.call("create", identity={"deviceId": name, "authentication": bad})
    with service.refuses(400, "ArgumentInvalid"):
        service.call("create", identity={"deviceId": name, "status": "asleep"})
    with service.refuses(400, "ArgumentInvalid"):
        service.call("create", identity={"deviceId": name, "statusReason": "x" * 129})
    with service.refuses(404, "DeviceNotFound"):
        service.call("get", device=name)


def test_devices_are_listed(service, name):
    for number in range(3):
        service.call("create", identity={"deviceId": f"{name}.{number}", "status": "disabled"})
    listed = {one["deviceId"]: one for one in service.call("list")}
    assert {f"{name}.{number}" for number in range(3)} <= set(listed)
    one = service.call("get", device=f"{name}.0")
    assert listed[f"{name}.0"]["etag"] == one["etag"]
    assert listed[f"{name}.0"]["authentication"] == one["authentication"]


@pytest.mark.parametrize("sdk", ["python"])
def test_a_list_has_as_many_as_were_asked_for(service, name):
    # Node's SDK cannot ask.
    for number in range(3):
        service.call("create", identity={"deviceId": f"{name}.{number}"})
    assert len(service.call("list", top=2)) == 2
    # Beyond 1 to 1000 it is 1000.
    assert len(service.call("list", top=5_000)) >= 3
    assert len(service.call("list", top=-1)) >= 3


def test_devices_are_counted(service, name):
    before = service.call("statistics")
    for number, status in enumerate(["enabled", "enabled", "disabled"]):
        service.call("create", identity={"deviceId": f"{name}.{number}", "status": status})
    after = service.call("statistics")
    grown = {one: after[one] - before[one] for one in after}
    assert grown == {"totalDeviceCount": 3, "enabledDeviceCount": 2, "disabledDeviceCount": 1}
    service.call("delete", device=f"{name}.0")
    assert service.call("statistics")["totalDeviceCount"] == after["totalDeviceCount"] - 1


def test_who_is_connected_is_shown(hub, service, services, device, client):
    client.connect(device.connection_string, hub.ca)

    def state(wanted):
        read = service.call("get", device=device.id)
        return read["connectionState"] == wanted and read
    read = wait.until("the device is shown connected", lambda: state("Connected"), 10)
    assert not NEVER.fullmatch(read["connectionStateUpdatedTime"])
    assert not NEVER.fullmatch(read["lastActivityTime"])
    if service.sdk == "python":
        assert service.call("service_statistics")["connectedDeviceCount"] >= 1
    listed = {one["deviceId"]: one for one in service.call("list")}
    assert listed[device.id]["connectionState"] == "Connected"
    client.ask("disconnect")
    wait.until("the device is shown disconnected", lambda: state("Disconnected"), 10)


def test_a_policy_may_do_what_it_permits(hub, service, name):
    reader = hub.cli("policy", "connection-string", "-n", "registryRead").strip()
    service.call("create", identity={"deviceId": name})
    service.connect(reader)
    assert service.call("get", device=name)["deviceId"] == name
    service.call("statistics")
    for op, arguments in (("create", {"identity": {"deviceId": f"{name}.2"}}),
                          ("update", {"identity": {"deviceId": name, "status": "disabled"}}),
                          ("delete", {"device": name}),
                          ("bulk", {"mode": "add", "devices": [{"deviceId": f"{name}.3"}]})):
        with service.refuses(401, "IotHubUnauthorizedAccess"):
            service.call(op, **arguments)
    service.connect(hub.cli("policy", "connection-string", "-n", "service").strip())
    with service.refuses(401, "IotHubUnauthorizedAccess"):
        service.call("get", device=name)
    service.connect(hub.cli("policy", "connection-string", "-n", "registryReadWrite").strip())
    service.call("delete", device=name)


def test_a_wrong_key_or_policy_is_refused(hub, service, name):
    owner = hub.file["owner_connection_string"]
    parts = sas.parse(owner)
    for bad in (owner.replace(parts["SharedAccessKey"], key()),
                owner.replace("SharedAccessKeyName=iothubowner", "SharedAccessKeyName=nobody")):
        service.connect(bad)
        with service.refuses(401, "IotHubUnauthorized"):
            service.call("get", device=name)


def test_an_edge_device_has_a_scope_and_others_join_it(service, name):
    edge = service.call("create", identity={"deviceId": f"{name}.edge", "capabilities": {"iotEdge": True}})
    assert edge["capabilities"] == {"iotEdge": True}
    assert re.fullmatch(rf"ms-azure-iot-edge://{re.escape(name)}\.edge-\d+", edge["deviceScope"])
    leaf = service.call("create", identity={"deviceId": f"{name}.leaf", "deviceScope": edge["deviceScope"]})
    assert leaf["deviceScope"] == edge["deviceScope"]
    assert service.call("get", device=f"{name}.leaf")["deviceScope"] == edge["deviceScope"]
