"""Fixtures: the session's hub, devices of it, clients of both SDKs."""

import itertools
import os
import pathlib
import re
import subprocess

import pytest

# Before they are imported: so that their assertions, too, say what they compared.
pytest.register_assert_rewrite("drivers", "hub", "messages", "services", "tls")

import drivers  # noqa: E402
import hub as hubs  # noqa: E402
import pki  # noqa: E402
import services as service_sdks  # noqa: E402

_numbers = itertools.count(1)


def pytest_configure():
    if not pathlib.Path(os.environ.get("DUNLIN_BIN", "")).is_file():
        raise pytest.UsageError("DUNLIN_BIN names no hub: start these tests with `cargo xtask test --only sdk`")


# As which the session's hub runs.
SHAPES = {"up": hubs.Hub, "cluster": hubs.Cluster}


def pytest_addoption(parser):
    parser.addoption("--shape", choices=SHAPES, default="up", help="the hub as `dunlin up` or as `cargo xtask cluster up`")


def pytest_collection_modifyitems(config, items):
    """What does not use the session's hub is the same in both shapes: it runs with the first."""
    if config.getoption("shape") == "up":
        return
    others = [item for item in items if "hub" not in item.fixturenames]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


@pytest.fixture(scope="session")
def hub(tmp_path_factory, request):
    """The hub `hub.test`, one for the session. DUNLIN_TEST_HOST: run by hand, see docs/testing.md."""
    host = os.environ.get("DUNLIN_TEST_HOST", "hub.test")
    folder = tmp_path_factory.mktemp("hub")
    config = folder / "hub.toml"
    # Instead of 15: it is waited for often.
    config.write_text("[c2d]\nfeedback_batch_seconds = 1\n")
    shape = SHAPES[request.config.getoption("shape")]
    with shape(folder, host, "127.0.0.1", ("--config", str(config))) as hub:
        yield hub


@pytest.fixture(scope="session")
def factory(hub, tmp_path_factory):
    """A CA of the hub's, verified as `dunlin ca verify` says it."""
    folder = tmp_path_factory.mktemp("factory")
    ca = pki.self_signed(folder, "ca")
    hub.cli("ca", "add", "-n", "factory", "--path", str(ca[0]))
    said = hub.cli("ca", "verify", "-n", "factory").splitlines()
    for command in [line.strip() for line in said if line.startswith("  ")]:
        if command.startswith("dunlin "):
            hub.cli(*command.split()[1:-1], str(folder / "proof.pem"))
        else:
            subprocess.run(command, shell=True, check=True, capture_output=True, cwd=folder)
    assert re.search(r"^factory .*yes$", hub.cli("ca", "list"), re.MULTILINE)
    return folder, ca


@pytest.fixture
def device(hub, request):
    """A device of the test's own."""
    return hub.create_device(f"{request.node.originalname.replace('_', '-')[:100]}.{next(_numbers)}")


@pytest.fixture(params=["device", "module"])
def party(request, hub, device):
    """A device, or a module of one."""
    return device if request.param == "device" else hub.create_module(device, "m")


@pytest.fixture(params=["python", "node"])
def sdk(request):
    return request.param


@pytest.fixture
def transport():
    """What carries a client's MQTT; a test that is marked with `drivers.TRANSPORTS` runs over each."""
    return "mqtt"


@pytest.fixture
def client(sdk, transport, tmp_path):
    """A client of the SDK in turn, not connected."""
    driver = drivers.Driver(sdk, tmp_path / f"{sdk}.log", transport=transport)
    yield driver
    driver.stop()


@pytest.fixture(scope="session")
def services(hub, tmp_path_factory):
    """Service clients of both SDKs, one each for the session: they keep no connection."""
    folder = tmp_path_factory.mktemp("services")
    started = {}

    def service(sdk):
        if sdk not in started:
            started[sdk] = service_sdks.Service(sdk, folder / f"{sdk}.log", hub.ca)
        return started[sdk]
    yield service
    for one in started.values():
        one.stop()


@pytest.fixture
def pair():
    """Whose service SDK faces the client: a test that is marked with `drivers.PAIRS` runs with the other one too."""
    return "own"


@pytest.fixture
def service(hub, sdk, pair, services):
    """A service client of the SDK in turn, or of the other, logged in as the owner."""
    one = services(sdk if pair == "own" else drivers.OTHER[sdk])
    one.connect(hub.file["owner_connection_string"])
    return one


@pytest.fixture
def name(sdk, request):
    """A device id of the test's own."""
    return f"{request.node.originalname.replace('_', '-')[:80]}.{sdk}.{next(_numbers)}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """With a failure: what the hub and the client logged."""
    report = (yield).get_result()
    if not report.failed:
        return
    arguments = getattr(item, "funcargs", {})
    for name in ("hub", "second_hub"):
        if name in arguments:
            report.sections.append((f"log of {name}", arguments[name].log_tail()))
    for name in ("client", "service"):
        if name in arguments:
            text = pathlib.Path(arguments[name].log).read_text(errors="replace")
            report.sections.append((f"log of the {name}", "\n".join(text.splitlines()[-60:])))
