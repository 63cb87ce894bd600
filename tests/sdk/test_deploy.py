"""The image, docker-compose.yml and the load test's Job, without a container engine: each check passes on what is
there, and finds each fault that is planted."""

import http.server
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest
import yaml

import deploy

BINARIES = pathlib.Path(os.environ["DUNLIN_BIN"]).resolve().parent
LINTS = [
    (["check-jsonschema", "--builtin-schema", "vendor.compose-spec"], "docker-compose.yml", "profiles:", "profile:"),
    (["hadolint"], "deploy/Dockerfile", "FROM rust:1.95-bookworm", "FROM rust"),
    (["shellcheck"], "deploy/build.sh", '"$folder/dunlin-data"', "$folder/dunlin-data"),
    (["kubernetes-validate", "--strict"], "deploy/loadtest-job.yaml", "completionMode:", "completionModus:"),
    (["/usr/sbin/haproxy", "-c", "-f"], "deploy/haproxy.cfg", "mode tcp", "mode udp"),
]
# In place of cargo, which would make release builds: that the workspace can be read from the context is asked of
# cargo itself, the binary is the one that the tests have.
CARGO = """#!/bin/sh
set -eu
test "$1 $2 $3 $4" = "build --release --locked --package"
"$REAL_CARGO" tree --locked --offline --package "$5" --depth 0
install -D "$BINARIES/$5" "target/release/$5"
"""
# In a network of its own, where every port is free: until the hub is ready, and then a command beside it.
LIVE = """
set -eu
ip link set lo up
PATH=$PWD/usr/local/bin
if dunlin health; then exit 1; fi
dunlin up &
until dunlin health; do /bin/kill -0 $!; /bin/sleep 0.1; done  # sleep: between two looks
dunlin device create -d d
/bin/kill $!
wait $!
"""


def run(*command, **more):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, **more)


def planted(text, old, new):
    assert old in text, f"{old!r} is not there any more: plant another fault"
    return text.replace(old, new)


@pytest.mark.parametrize("command, path, old, new", LINTS, ids=[lint[1] for lint in LINTS])
def test_lints_pass_and_find_a_planted_fault(command, path, old, new, tmp_path):
    command[0] = str(pathlib.Path(sys.executable).parent / command[0])
    passed = run(*command, str(deploy.ROOT / path))
    assert passed.returncode == 0, passed.stdout
    bad = tmp_path / pathlib.Path(path).name
    bad.write_text(planted(deploy.text(path), old, new))
    assert run(*command, str(bad)).returncode != 0


def build(ignore, folder):
    """What build.sh lays out, run in what .dockerignore leaves: a folder a program."""
    for path in deploy.context(ignore):
        (folder / "src" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(deploy.ROOT / path, folder / "src" / path)
    cargo = folder / "bin/cargo"
    cargo.parent.mkdir()
    cargo.write_text(CARGO)
    cargo.chmod(0o755)
    environment = os.environ | {"PATH": f"{cargo.parent}:{os.environ['PATH']}", "BINARIES": str(BINARIES),
                                "REAL_CARGO": shutil.which("cargo")}
    environment.pop("CARGO_TARGET_DIR", None)
    images = {program: folder / "image" / program for program in deploy.PROGRAMS}
    for program, image in images.items():
        built = run(str(folder / "src/deploy/build.sh"), program, str(image), env=environment)
        assert built.returncode == 0, built.stdout
    return images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return build(deploy.text(".dockerignore"), tmp_path_factory.mktemp("build"))


def left_out(ignore):
    left = deploy.context(ignore)
    return deploy.sources(left) - left


def test_the_context_has_every_source_and_no_more_than_it_must(tmp_path):
    ignore = deploy.text(".dockerignore")
    assert left_out(ignore) == set()
    assert left_out(planted(ignore, "!docs/hub.toml\n", "")) == {"docs/hub.toml"}
    assert not [path for path in deploy.context(ignore) if path.startswith(("tests/", ".git", "fuzz/"))]
    with pytest.raises(AssertionError, match="xtask"):
        build(planted(ignore, "!xtask\n", ""), tmp_path)


@pytest.mark.parametrize("old, new, fault", [
    ("/image/usr /usr\nENTRYPOINT", "/image/bin /usr\nENTRYPOINT", "/image/bin is not in"),
    ('["/usr/local/bin/dunlin", "health"]', '["curl", "localhost"]', "HEALTHCHECK curl"),
    ("deploy/build.sh dunlin /image", "deploy/make.sh dunlin /image", "deploy/make.sh is not in the context"),
    ("COPY . .", "COPY crates crates", "COPY crates crates"),
    ("EXPOSE 8883 443 9600", "EXPOSE 8883 9600", "EXPOSE 8883 9600"),
    (f"USER {deploy.USER}", "USER root", "runs as root"),
    ("VOLUME /dunlin-data", "VOLUME /data", "VOLUME /data"),
    ("--chown=65532:65532 ", "", "could not write"),
])
def test_the_dockerfile_uses_what_is_there(images, old, new, fault):
    dockerfile, left = deploy.text("deploy/Dockerfile"), deploy.context(deploy.text(".dockerignore"))
    assert deploy.dockerfile_faults(dockerfile, left, images) == []
    assert fault in "\n".join(deploy.dockerfile_faults(planted(dockerfile, old, new), left, images))


def test_a_library_that_the_base_image_lacks_is_found(tmp_path):
    script = planted(deploy.text("deploy/build.sh"), "libgcc_s.so.1 | ", "")
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/build.sh").write_text(script)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/cargo").symlink_to("/bin/true")
    release = tmp_path / "target/release/dunlin"
    release.parent.mkdir(parents=True)
    shutil.copy(BINARIES / "dunlin", release)
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    built = run("sh", f"{tmp_path}/deploy/build.sh", "dunlin", f"{tmp_path}/image", env=environment)
    assert built.returncode == 1 and "dunlin needs libgcc_s.so.1" in built.stdout


def refused(environment):
    """What the binary says of variables that are no settings; whether there is a hub is another matter."""
    said = run("unshare", "--net", str(BINARIES / "dunlin"), "health", env=environment)
    return said.stdout if said.returncode != 3 else ""


@pytest.mark.parametrize("old, new, fault", [
    ("DUNLIN__TLS__KEY", "DUNLIN__TLS__KEYS", "unknown field `keys`"),
    ("DUNLIN_MASTER_KEY:", "DUNLIN_MASTERKEY:", "DUNLIN_MASTERKEY is no variable"),
    ("'[\"${DUNLIN_HOSTNAME:-localhost}\"]'", "${DUNLIN_HOSTNAME:-localhost}", "hostnames"),
    (":443:443", ":443:8443", "publishes"),
    ("http://twins:9700", "http://twin:9700", "no service twin"),
    ("http://twins:9700", "http://c2d:9700", "c2d does not run twins"),
    ("@redis:6379", "@redis:6380", "redis does not listen on 6380"),
    ("http://gateway-2:9700", "http://gateway-1:9700", "tells the name of gateway-1"),
    ("roles, methods]", "roles, twins]", "there are ['api', 'c2d', 'gateway', 'methods'"),
    ("profiles: [deps, cluster]", "profiles: [deps]", "which is in other profiles"),
    ("\n  kafka-data:", "", "no volume kafka-data"),
])
def test_compose_agrees_with_the_configuration(old, new, fault):
    compose = deploy.text("docker-compose.yml")
    assert deploy.compose_faults(compose, refused) == []
    assert fault in "\n".join(deploy.compose_faults(planted(compose, old, new), refused))


def stopped_by(compose, folder):
    """What each role of the cluster ends with as Compose starts it, on a machine without servers."""
    said = {}
    for name, service in deploy.hubs(yaml.safe_load(compose)).items():
        if service["profiles"] == ["cluster"]:
            given = deploy.image_environment() | deploy.environment(service) | {"DUNLIN__HUB__DATA": str(folder / name)}
            ended = run("unshare", "--net", str(BINARIES / "dunlin"), *service["command"], env=given)
            assert ended.returncode == 1, ended.stdout
            said[name] = ended.stdout
    return said


@pytest.mark.parametrize("old, new, fault", [
    ("  DUNLIN__MESH__LISTEN: 0.0.0.0:9700\n", "", "mesh.listen is empty"),
    ("DUNLIN__STORES__PRESENCE: redis:", "DUNLIN__STORES__PRESENCE: 'memory:' #", "stores.presence"),
])
def test_every_role_of_the_cluster_comes_as_far_as_its_servers(old, new, fault, tmp_path):
    compose = deploy.text("docker-compose.yml")
    said = stopped_by(compose, tmp_path)
    assert len(said) == 7
    for name, ended in said.items():
        assert "cannot use Postgres at postgres:5432/dunlin" in ended, f"{name}: {ended}"
    for name, ended in stopped_by(planted(compose, old, new), tmp_path).items():
        assert fault in ended, f"{name}: {ended}"


def test_the_default_profile_is_the_hub_in_one_container():
    profile = dict(line.split("=") for line in deploy.text(".env").splitlines() if not line.startswith("#"))
    services = yaml.safe_load(deploy.text("docker-compose.yml"))["services"]
    assert [name for name, one in services.items() if profile["COMPOSE_PROFILES"] in one["profiles"]] == ["dunlin"]


def test_what_the_image_holds_becomes_ready_as_compose_starts_it(images):
    service = yaml.safe_load(deploy.text("docker-compose.yml"))["services"]["dunlin"]
    environment = deploy.image_environment() | deploy.environment(service) | {"PATH": os.environ["PATH"]}
    command = ["unshare", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", LIVE]
    live = run(*command, cwd=images["dunlin"], env=environment)
    assert live.returncode == 0, live.stdout
    for said in ("0.0.0.0:8883", "gateway ready", "connection-string -d d"):
        assert said in live.stdout


def test_a_hub_that_is_not_ready_is_not_healthy():
    class Unready(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503 if self.path == "/readyz" else 200)
            self.end_headers()
            self.wfile.write(b"twins not ready\n")
    with http.server.HTTPServer(("127.0.0.1", 0), Unready) as server:
        threading.Thread(target=server.handle_request).start()
        said = run(str(BINARIES / "dunlin"), "health", "--address", f"127.0.0.1:{server.server_port}")
    assert said.returncode == 1 and "twins not ready" in said.stdout


def test_the_job_runs_what_the_image_holds(images):
    job = yaml.safe_load(deploy.text("deploy/loadtest-job.yaml"))
    container = job["spec"]["template"]["spec"]["containers"][0]
    program = container["command"][0]
    assert container["image"] == f"{program}:latest" and (images[program] / "usr/local/bin" / program).is_file()
    command = [str(images[program] / "usr/local/bin" / program), *container["command"][1:], *container["args"]]
    said = run(*command, env=os.environ | {"JOB_COMPLETION_INDEX": "3"})
    # There is no such scenario here, and no fault in the flags.
    assert "/scenario/scenario.toml" in said.stdout and "Usage" not in said.stdout, said.stdout
