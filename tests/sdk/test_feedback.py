"""Purge and feedback over REST, as the Python service SDK has them. Node's speaks AMQP there."""

import pytest

import wait


@pytest.fixture
def service(hub, services):
    one = services("python")
    one.connect(hub.file["owner_connection_string"])
    return one


def feedback_on(service, device):
    """The next batch with records of this device; batches of other tests go."""
    while True:
        batch = wait.until("feedback", lambda: service.call("feedback"))
        records = [one for one in batch["records"] if one["deviceId"] == device.id]
        if records:
            return batch["lock"], records
        service.call("settle_feedback", how="complete", lock=batch["lock"])


def test_what_is_purged_is_told(hub, service, device):
    for name in ("m1", "m2"):
        hub.cli("c2d", "send", "-d", device.id, "--data", "x", "--message-id", name, "--ack", "negative")
    assert service.call("twin", device=device.id)["cloudToDeviceMessageCount"] == 2
    assert service.call("get", device=device.id)["cloudToDeviceMessageCount"] == 2
    purged = {"totalMessagesPurged": 2, "deviceId": device.id}
    assert service.call("purge", device=device.id) == purged
    for how in ("abandon", "complete"):
        lock, records = feedback_on(service, device)
        told = [(one["originalMessageId"], one["statusCode"], one["description"]) for one in records]
        assert told == [("m1", "Purged", "Purged"), ("m2", "Purged", "Purged")]
        service.call("settle_feedback", how=how, lock=lock)
        with service.refuses(412, "DeviceMessageLockLost"):
            service.call("settle_feedback", how=how, lock=lock)


def test_what_does_not_exist_is_not_purged(service):
    with service.refuses(404, "DeviceNotFound"):
        service.call("purge", device="nobody")
