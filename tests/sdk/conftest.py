"""Fixtures: the session's hub, devices of it, clients of both SDKs."""

import itertools
import os
import pathlib

import pytest

# Before they are imported: so that their assertions, too, say what they compared.
pytest.register_assert_rewrite("drivers", "hub", "messages", "tls")

import drivers  # noqa: E402
import hub as hubs  # noqa: E402

_numbers = itertools.count(1)


def pytest_configure():
    if not pathlib.Path(os.environ.get("DUNLIN_BIN", "")).is_file():
        raise pytest.UsageError("DUNLIN_BIN names no hub: start these tests with `cargo xtask test --only sdk`")


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """The hub `hub.test`, one for the session. DUNLIN_TEST_HOST: run by hand, see docs/testing.md."""
    host = os.environ.get("DUNLIN_TEST_HOST", "hub.test")
    with hubs.Hub(tmp_path_factory.mktemp("hub"), host, "127.0.0.1") as hub:
        yield hub


@pytest.fixture
def device(hub, request):
    """A device of the test's own."""
    return hub.create_device(f"{request.node.originalname.replace('_', '-')[:100]}.{next(_numbers)}")


@pytest.fixture(params=["python", "node"])
def sdk(request):
    return request.param


@pytest.fixture
def client(sdk, tmp_path):
    """A client of the SDK in turn, not connected."""
    driver = drivers.Driver(sdk, tmp_path / f"{sdk}.log")
    yield driver
    driver.stop()


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
    if "client" in arguments:
        text = pathlib.Path(arguments["client"].log).read_text(errors="replace")
        report.sections.append(("log of the client", "\n".join(text.splitlines()[-60:])))
