"""The load test against the hub: every kind of device and back end, workers, what is left behind."""

import json
import signal

import pytest

from hub import Refused
import wait

SCENARIO = """
hold = 3
burst = 1
[[devices]]
prefix = "lt-mqtt-"
count = 6
tls = "resume"
connect = "storm"
retry = {}
reconnect = { every = 1 }
telemetry = { rate = { per_device = 5 }, size = { weights = [[64, 3], [1024, 1]] }, window = 5 }
reports = { rate = { total = 10 }, size = { from = 10, to = 100 } }
[[devices]]
prefix = "lt-ws-"
count = 4
protocol = "mqtt-ws"
methods = { delay = 0.01 }
[[devices]]
prefix = "lt-https-"
count = 4
protocol = "https"
connect = { per_second = 100 }
telemetry = { rate = { total = 10 }, batch = 3 }
c2d = { poll = 0.2, reject = 0.2 }
[[devices]]
prefix = "lt-bad-"
count = 6
misbehave = { share = 1.0, kinds = ["garbage", "slow-loris", "oversize", "no-acks", "bad-token", "half-open"] }
[[backends]]
does = "methods"
rate = { total = 10 }
devices = "lt-ws-"
[[backends]]
does = "c2d"
rate = { total = 10 }
devices = "lt-ws-"
ack = "full"
[[backends]]
does = "c2d"
rate = { total = 5 }
devices = "lt-https-"
ack = "full"
[[backends]]
does = "desired"
rate = { total = 10 }
devices = "lt-ws-"
[[backends]]
does = "feedback"
rate = { total = 5 }
"""
# One message, to a device that looks too late.
LOSES = """
hold = 2
drain = 1
[[devices]]
prefix = "lt-lost-"
count = 1
protocol = "https"
c2d = { poll = 600 }
[[backends]]
does = "c2d"
rate = { total = 0.4 }
parallel = 1
"""
# What the scenario has of each kind of operation.
OPS = {"connect", "telemetry", "burst", "report", "method", "c2d_send", "c2d", "desired", "feedback"}


def left(hub):
    """Devices of the load test that are still registered."""
    listed = json.loads(hub.cli("device", "list", "--json"))
    return [device for device in (entry["deviceId"] for entry in listed) if device.startswith("lt-")]


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_is_lost_of_any_kind(hub, tmp_path, workers):
    scenario, figures, history = tmp_path / "all.toml", tmp_path / "report.json", tmp_path / "history"
    scenario.write_text(SCENARIO)
    hub.loadtest("run", str(scenario), "--workers", str(workers), "--quiet",
                 "--json", str(figures), "--history", str(history))
    report = json.loads(figures.read_text())
    assert set(report["ops"]) == OPS
    for name, op in report["ops"].items():
        assert op["done"] > 0 and not op["failed"], f"{name}: {op}"
    assert (report["connected"], report["sent"]) == (14, report["acked"])
    assert report["events"]["misbehaved"] >= 6
    assert report["lost"] == {} and report["workers"] == workers
    files = [history] if workers == 1 else [tmp_path / "history.0", tmp_path / "history.1"]
    checked = hub.loadtest("check", *map(str, files), f"{history}.log")
    last = checked.splitlines()[-1]
    assert last.startswith("acked=") and " lost=0 " in last, checked
    assert left(hub) == []
    assert report["drained"] == "yes"
    texts = [file.read_text() for file in files]
    assert all(text.endswith(" drained\n") for text in texts)
    feedback, ends = words(texts, "feedback"), words(texts, "accepted")
    assert len(ends) == len(feedback) == report["ops"]["c2d_send"]["done"], "all feedback was read"
    # The same run, had the hub lost a message: what its device and the readers of feedback say of it is gone.
    device, message = ends[0][2], ends[0][4]
    plant(files, lambda line: (line[2], line[4]) == (device, message) and line[0] not in ("c2d", "accepted"))
    with pytest.raises(Refused) as refused:
        hub.loadtest("check", *map(str, files), f"{history}.log")
    assert "c2d" in str(refused.value) and " lost=1 " in str(refused.value), refused.value


def words(texts, word):
    """The lines with this word."""
    lines = [line.split(" ") for text in texts for line in text.splitlines()]
    return [line for line in lines if line[0] == word]


def plant(files, gone):
    """Takes lines out of histories; their ends agree."""
    for file in files:
        first, *lines, last = file.read_text().splitlines()
        lines = [line for line in lines if not gone(line.split(" "))]
        word, time, _, drained = last.split(" ")
        file.write_text("\n".join([first, *lines, f"{word} {time} {len(lines)} {drained}", ""]))


def test_a_message_that_the_hub_loses_is_found(hub, tmp_path):
    """Purged behind its sender's back: neither its device nor its sender ever hears of it."""
    scenario, history = tmp_path / "lost.toml", tmp_path / "history"
    scenario.write_text(LOSES)
    run = hub.begin_loadtest("run", str(scenario), "--quiet", "--history", str(history))
    try:
        wait.until("a message is there", lambda: queued(hub, "lt-lost-000000") == 1, 60)
        hub.cli("c2d", "purge", "-d", "lt-lost-000000")
        said, trouble = run.communicate(timeout=120)
    finally:
        run.kill()
        run.wait()
    assert "history drained" in said, said + trouble
    with pytest.raises(Refused) as refused:
        hub.loadtest("check", str(history), f"{history}.log")
    assert "lt-lost-000000" in str(refused.value) and " lost=1 " in str(refused.value), refused.value


def test_feedback_of_an_earlier_run_is_not_this_ones(hub, tmp_path):
    """It may come as late as in the middle of the next run of the same devices."""
    group = 'hold = 2\n[[devices]]\nprefix = "lt-fb-"\ncount = 2\n'
    send = group + '[[backends]]\ndoes = "c2d"\nrate = { total = 5 }\nack = "full"\n'
    both = send + '[[backends]]\ndoes = "feedback"\nrate = { total = 5 }\n'
    for name, text in [("send", send), ("both", both)]:
        (tmp_path / name).write_text(text)
    hub.loadtest("create", str(tmp_path / "send"))
    hub.loadtest("run", str(tmp_path / "send"), "--reuse", "--quiet")
    history = str(tmp_path / "history")
    said = hub.loadtest("run", str(tmp_path / "both"), "--reuse", "--quiet", "--history", history)
    hub.loadtest("remove", str(tmp_path / "send"))
    assert "history drained" in said
    checked = hub.loadtest("check", history, f"{history}.log")
    assert " lost=0 " in checked, checked


def queued(hub, device):
    """C2D messages that the hub has for it; None: it is not there."""
    try:
        return json.loads(hub.cli("device", "show", "-d", device, "--json"))["cloudToDeviceMessageCount"]
    except Refused:
        return None


def test_devices_are_removed_when_it_is_interrupted(hub):
    run = hub.begin_loadtest("run", "--prefix", "lt-int-", "--devices", "5", "--hold", "600", "--quiet")
    try:
        wait.until("the devices are there", lambda: len(left(hub)) == 5, 60)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    finally:
        run.kill()
        run.wait()
    assert (run.returncode, "interrupted" in said) == (1, True), said
    assert left(hub) == []


def test_parts_of_a_run_are_all_of_its_devices(hub):
    """As several machines have them, each with its own part."""
    for part in ("0/2", "1/2"):
        hub.loadtest("create", "--prefix", "lt-part-", "--devices", "5", "--worker", part)
    assert sorted(left(hub)) == [f"lt-part-{number:06}" for number in range(5)]
    hub.loadtest("remove", "--prefix", "lt-part-", "--devices", "5", "--range", "1..5")
    assert left(hub) == ["lt-part-000000"]
    hub.loadtest("remove", "--prefix", "lt-part-", "--devices", "5")
    assert left(hub) == []


@pytest.mark.parametrize("text, field", [
    ("[[devices]]\ncuont = 5", "cuont"),
    ("[[devices]]\ntelemetry = { rate = { per_device = -1 } }", "devices[0] (load-): telemetry: rate.per_device"),
    ("[[devices]]\nprotocol = \"coap\"", "coap"),
    ("[[devices]\ncount = 5", "is no scenario"),
])
def test_a_bad_scenario_says_what_is_wrong(hub, tmp_path, text, field):
    scenario = tmp_path / "bad.toml"
    scenario.write_text(text)
    with pytest.raises(Refused) as refused:
        hub.loadtest("run", str(scenario))
    assert field in str(refused.value)
