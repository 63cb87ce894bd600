"""Driver of the official Python service SDK, unmodified: see ../services.py."""

import json
import sys

from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import (
    AuthenticationMechanism,
    CloudToDeviceMethod,
    ExportImportDevice,
    SymmetricKey,
    Twin,
    TwinProperties,
    X509Thumbprint,
)

MODES = {"add": ("create", "create"), "update": ("updateIfMatchETag", "update"),
         "remove": ("deleteIfMatchETag", "delete")}


def keys(identity):
    found = identity.get("authentication", {}).get("symmetricKey", {})
    # Empty: the hub makes them.
    return found.get("primaryKey", ""), found.get("secondaryKey", "")


def thumbprints(identity):
    found = identity["authentication"]["x509Thumbprint"]
    return found.get("primaryThumbprint"), found.get("secondaryThumbprint")


def kind(identity):
    return identity.get("authentication", {}).get("type", "sas")


def shown(model):
    """The JSON that a model was read from."""
    return None if model is None else model.serialize(keep_readonly=True)


class Service:
    def __init__(self):
        self.manager = None

    def connect(self, ask):
        self.manager = IoTHubRegistryManager.from_connection_string(ask["connection_string"])
        self.manager.protocol.config.connection.verify = ask["ca"]

    def _put(self, verb, identity, etag):
        device, module = identity["deviceId"], identity.get("moduleId")
        how, secrets = {
            "sas": ("sas", keys),
            "selfSigned": ("x509", thumbprints),
            "certificateAuthority": ("certificate_authority", lambda _: ()),
        }[kind(identity)]
        secrets = secrets(identity)
        if module is not None:
            call = getattr(self.manager, f"{verb}_module_with_{how}")
            managed_by = identity.get("managedBy", "")
            if verb == "create":
                return shown(call(device, module, managed_by, *secrets))
            if how == "certificate_authority":
                return shown(call(device, module, managed_by, etag))
            return shown(call(device, module, managed_by, etag, *secrets))
        call = getattr(self.manager, f"{verb}_device_with_{how}")
        more = {"status": identity.get("status", "enabled"), "status_reason": identity.get("statusReason")}
        if identity.get("capabilities"):
            more["iot_edge"] = identity["capabilities"]["iotEdge"]
        if identity.get("deviceScope"):
            more["device_scope"] = identity["deviceScope"]
        etags = (etag,) if verb == "update" else ()
        return shown(call(device, *etags, *secrets, **more))

    def create(self, ask):
        return self._put("create", ask["identity"], None)

    def update(self, ask):
        return self._put("update", ask["identity"], ask.get("etag"))

    def get(self, ask):
        if "module" in ask:
            return shown(self.manager.get_module(ask["device"], ask["module"]))
        return shown(self.manager.get_device(ask["device"]))

    def list(self, ask):
        return [shown(one) for one in self.manager.get_devices(ask.get("top"))]

    def modules(self, ask):
        return [shown(one) for one in self.manager.get_modules(ask["device"])]

    def delete(self, ask):
        if "module" in ask:
            return self.manager.delete_module(ask["device"], ask["module"], ask.get("etag"))
        return self.manager.delete_device(ask["device"], ask.get("etag"))

    def twin(self, ask):
        if "module" in ask:
            return shown(self.manager.get_module_twin(ask["device"], ask["module"]))
        return shown(self.manager.get_twin(ask["device"]))

    def _write_twin(self, verb, ask):
        patch = ask["patch"]
        twin = Twin(tags=patch.get("tags"))
        if "properties" in patch:
            twin.properties = TwinProperties(desired=patch["properties"]["desired"])
        if "module" in ask:
            call = getattr(self.manager, f"{verb}_module_twin")
            return shown(call(ask["device"], ask["module"], twin, ask.get("etag")))
        return shown(getattr(self.manager, f"{verb}_twin")(ask["device"], twin, ask.get("etag")))

    def update_twin(self, ask):
        return self._write_twin("update", ask)

    def replace_twin(self, ask):
        return self._write_twin("replace", ask)

    def invoke(self, ask):
        call = CloudToDeviceMethod(
            method_name=ask["name"], payload=ask.get("payload"),
            response_timeout_in_seconds=ask.get("response_timeout"),
            connect_timeout_in_seconds=ask.get("connect_timeout"))
        if "module" in ask:
            return shown(self.manager.invoke_device_module_method(ask["device"], ask["module"], call))
        return shown(self.manager.invoke_device_method(ask["device"], call))

    def purge(self, ask):
        return shown(self.manager.protocol.cloud_to_device_messages.purge_cloud_to_device_message_queue(ask["device"]))

    def feedback(self, _):
        # The SDK has no type for what it reads there.
        response = self.manager.protocol.cloud_to_device_messages.receive_feedback_notification(raw=True).response
        if response.status_code == 204:
            return None
        return {"lock": response.headers["ETag"].strip('"'), "records": response.json()}

    def settle_feedback(self, ask):
        messages = self.manager.protocol.cloud_to_device_messages
        return {"complete": messages.complete_feedback_notification,
                "abandon": messages.abandon_feedback_notification}[ask["how"]](ask["lock"])

    def statistics(self, _):
        return shown(self.manager.get_device_registry_statistics())

    def service_statistics(self, _):
        return shown(self.manager.get_service_statistics())

    def bulk(self, ask):
        mode = MODES[ask["mode"]][ask.get("force", False)]
        done = self.manager.bulk_create_or_update_devices([self._item(one, mode) for one in ask["devices"]])
        return shown(done)

    @staticmethod
    def _item(identity, mode):
        primary, secondary = keys(identity)
        authentication = AuthenticationMechanism(
            type="sas", symmetric_key=SymmetricKey(primary_key=primary, secondary_key=secondary))
        if kind(identity) == "selfSigned":
            primary, secondary = thumbprints(identity)
            authentication = AuthenticationMechanism(type="selfSigned", x509_thumbprint=X509Thumbprint(
                primary_thumbprint=primary, secondary_thumbprint=secondary))
        return ExportImportDevice(
            id=identity["deviceId"], module_id=identity.get("moduleId"), e_tag=identity.get("etag"), import_mode=mode,
            status=identity.get("status", "enabled"), status_reason=identity.get("statusReason"),
            authentication=authentication)


def main():
    service = Service()
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            answer = {"result": getattr(service, ask["op"])(ask)}
        except Exception as error:  # pylint: disable=broad-except  # whatever it is, it is the answer
            response = getattr(error, "response", None)
            answer = {"error": {"type": type(error).__name__, "message": str(error), "causes": [],
                                "status": getattr(response, "status_code", None),
                                "body": getattr(response, "text", None)}}
            if callable(answer["error"]["body"]):
                answer["error"]["body"] = answer["error"]["body"]()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


main()
