"""The official service SDKs as child processes (`node/service.js`, `python/service.py`), and what
their errors are called."""

import contextlib
import json
import os
import pathlib
import sys

import pytest

import drivers
import sas
import wait

HERE = pathlib.Path(__file__).parent
COMMANDS = {
    "python": [sys.executable, str(HERE / "python/service.py")],
    "node": ["node", str(HERE / "node/service.js")],
}

# By status: the type of Node's error. Python's is HttpOperationError in each case.
NODE_ERRORS = {400: "ArgumentError", 401: "UnauthorizedError", 404: "DeviceNotFoundError",
               409: "DeviceAlreadyExistsError", 412: "InvalidEtagError", 413: "Error",
               504: "GatewayTimeoutError"}


def named(party):
    """How calls name a device or a module."""
    found = {"device": party.id}
    return found if party.module_id is None else {**found, "module": party.module_id}


class Service(drivers.Driver):
    """One service client of an SDK."""

    def __init__(self, sdk, log, ca):
        # Node's SDK takes a CA in no other way.
        super().__init__(sdk, log, COMMANDS[sdk], {**os.environ, "NODE_EXTRA_CA_CERTS": str(ca)})
        self.ca = ca

    def connect(self, connection_string):  # pylint: disable=arguments-differ
        self.ask("connect", connection_string=connection_string, ca=str(self.ca))

    def call(self, op, **arguments):
        """The SDK's result, as the JSON it was read from."""
        sas.keep(arguments)
        return sas.keep(self.ask(op, **arguments)["result"])

    def feedback(self, device, count):
        """Which messages of the device have come to which end, so many of them; that on other devices goes."""
        told = []
        while len(told) < count:
            batch = wait.until("feedback", lambda: self.call("feedback"))
            told += [(one["originalMessageId"], one["statusCode"]) for one in batch["records"]
                     if one["deviceId"] == device.id]
            self.call("settle_feedback", how="complete", lock=batch["lock"])
        return told

    @contextlib.contextmanager
    def refuses(self, status, code, node=None):
        """What is done inside is refused so. `node`: another type of Node's error than the status says."""
        with pytest.raises(drivers.SdkError) as caught:
            yield
        error = caught.value
        assert error.status == status, error
        expected = {"python": "HttpOperationError", "node": node or NODE_ERRORS[status]}[self.sdk]
        assert error.type == expected, error
        said = json.loads(error.body)
        assert said["Message"].startswith(f"ErrorCode:{code};"), error
        assert isinstance(said["ExceptionMessage"], str), error
