"""What there is to check of deploy/ and docker-compose.yml without a container engine: they are read as an engine
reads them, as far as they use it, and every check returns what is wrong, one fault a line."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import tomllib
import urllib.parse

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ("dunlin", "dunlin-loadtest")
USER = "65532:65532"
# Read by the binary beside the settings, which begin with DUNLIN__.
VARIABLES = {"DUNLIN_MASTER_KEY", "DUNLIN_LOG", "OTEL_EXPORTER_OTLP_ENDPOINT"}


def text(path):
    return (ROOT / path).read_text()


SETTINGS = tomllib.loads(text("docs/hub.toml"))
PORTS = {value for name, value in SETTINGS["gateway"].items() if name.endswith("_port")} | {SETTINGS["admin"]["port"]}
# Each role but the gateway has a setting that says where it is.
ROLES = {"gateway", *re.findall(r"^# URL of the role `(\w+)`", text("docs/hub.toml"), re.MULTILINE)}


def tracked():
    """What a checkout has, as paths from the root."""
    # The checkout may belong to another user, as in a container.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for path in listing.split("\0") if path and (ROOT / path).is_file()]


def context(ignore):
    """The paths that a .dockerignore leaves. Of its patterns it may use plain paths and `*` alone."""
    patterns = [line for line in ignore.splitlines() if line and not line.startswith("#")]
    plain = re.compile(r"!?[\w./-]+|\*")
    assert all(plain.fullmatch(pattern) for pattern in patterns), f".dockerignore: {patterns}"

    def kept(path):
        left = True
        for pattern in patterns:
            place = pattern.removeprefix("!")
            if place == "*" or path == place or path.startswith(f"{place}/"):
                left = pattern.startswith("!")
        return left
    return {path for path in tracked() if kept(path)}


def sources(left):
    """The files that the compiler reads beside those that .dockerignore names by their folder: a crate's code may
    include others from anywhere."""
    included = set()
    for path in left:
        if "/src/" in path and path.endswith(".rs"):
            named = re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', text(path))
            included |= {os.path.normpath(f"{os.path.dirname(path)}/{name}") for name in named}
    return included


def instructions(dockerfile):
    """Its lines as (word, rest), continued ones joined."""
    lines = "\n".join(line for line in dockerfile.splitlines() if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def dockerfile_faults(dockerfile, left, images):
    """`left`: the context. `images`: what build.sh laid out, a folder a program."""
    faults, stages, copied, stage = [], {}, {}, None
    for word, rest in instructions(dockerfile):
        if word == "FROM":
            base, _, stage = rest.split()
            stages[stage] = dict(stages.get(base, {}))
            copied[stage] = []
        elif word == "RUN":
            script, program, folder = rest.split()[-3:]
            if script not in left:
                faults.append(f"{stage}: {script} is not in the context")
            stages[stage]["built"] = (program, folder)
        elif word == "COPY" and "--from=" in rest:
            *flags, source, target = rest.split()
            program, folder = stages[flags[0].removeprefix("--from=")].get("built", ("", ""))
            path = images.get(program, pathlib.Path("/none")) / source.removeprefix(f"{folder}/")
            if not path.exists():
                faults.append(f"{stage}: {source} is not in {flags[0]}")
            if path.name == "dunlin-data" and f"--chown={USER}" not in flags:
                faults.append(f"{stage}: {target} is not {USER}'s, who could not write to a volume there")
            copied[stage] += [f"{target}/{file.relative_to(path)}" for file in path.rglob("*") if file.is_file()]
        elif word == "COPY" and rest != ". .":
            faults.append(f"{stage}: COPY {rest}: .dockerignore says what is copied")
        elif word in ("ENTRYPOINT", "HEALTHCHECK"):
            program = json.loads(rest[rest.index("["):])[0]
            if program not in copied[stage]:
                faults.append(f"{stage}: {word} {program} is not in the image")
        if word in ("USER", "EXPOSE", "ENV", "VOLUME"):
            stages[stage][word] = rest
    if list(stages)[-1] != "dunlin":
        faults.append(f"{stage} is the last stage, which is what is built by default")
    for program in PROGRAMS:
        if stages[program].get("USER") != USER:
            faults.append(f"{program}: runs as {stages[program].get('USER')}")
    hub = stages["dunlin"]
    if {int(port) for port in hub["EXPOSE"].split()} != PORTS:
        faults.append(f"EXPOSE {hub['EXPOSE']}: the configuration has {sorted(PORTS)}")
    if not (images["dunlin"] / hub["VOLUME"].removeprefix("/")).is_dir():
        faults.append(f"VOLUME {hub['VOLUME']} is not laid out")
    return faults


def image_environment():
    last = [rest for word, rest in instructions(text("deploy/Dockerfile")) if word == "ENV"][-1]
    return dict(assignment.split("=", 1) for assignment in shlex.split(last))


def interpolated(value):
    """What `docker compose` makes of a value where nobody has set anything."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


def environment(service):
    return {name: interpolated(value) for name, value in service.get("environment", {}).items()}


def hubs(compose):
    """The services of our image, by name."""
    return {name: one for name, one in compose["services"].items() if one["image"].startswith("dunlin:")}


def roles(service):
    command = service.get("command", ["up"])
    return set(command[2].split(",")) if command[:2] == ["run", "--roles"] else ROLES


def compose_faults(compose, refused):
    """`refused(environment)`: what the binary says against those variables, if anything."""
    compose = yaml.safe_load(compose)
    services, faults = compose["services"], []
    for name, service in hubs(compose).items():
        variables = environment(service)
        unknown = {name for name in variables if not name.startswith("DUNLIN__")} - VARIABLES
        faults += [f"{name}: {variable} is no variable of the hub" for variable in unknown]
        if said := refused(image_environment() | variables):
            faults.append(f"{name}: {said}")
        faults += url_faults(name, variables, services)
    cluster = [one for one in hubs(compose).values() if one["profiles"] == ["cluster"]]
    if (run := set().union(*map(roles, cluster))) != ROLES:
        faults.append(f"cluster: runs {sorted(run)}, there are {sorted(ROLES)}")
    for name, service in services.items():
        for other in service.get("depends_on", []):
            if not set(service["profiles"]) <= set(services[other]["profiles"]):
                faults.append(f"{name}: depends on {other}, which is in other profiles")
        used = [mount.split(":")[0] for mount in service.get("volumes", []) if re.match(r"\w", mount)]
        faults += [f"{name}: no volume {one}" for one in used if one not in compose["volumes"]]
    fronts = {"dunlin": PORTS, "balancer": PORTS - {SETTINGS["admin"]["port"]}}
    for name, wanted in fronts.items():
        ports = [interpolated(port).split(":") for port in services[name]["ports"]]
        if any(outside != inside for _, outside, inside in ports) or {int(port[-1]) for port in ports} != wanted:
            faults.append(f"{name}: publishes {ports}, the configuration has {sorted(wanted)}")
    return faults


def url_faults(name, variables, services):
    """Every URL names a service that is there, at a port it listens on."""
    faults = []
    for variable, value in variables.items():
        url = urllib.parse.urlsplit(value)
        if not url.hostname:
            continue
        there = services.get(url.hostname)
        if there is None:
            faults.append(f"{name}: {variable}: no service {url.hostname}")
            continue
        listen = environment(there).get("DUNLIN__MESH__LISTEN", "")
        ports = {listen.rpartition(":")[2]} | {port.split(":")[-1] for port in there.get("ports", [])}
        ports |= set(re.findall(r"://:(\d+)", environment(there).get("KAFKA_LISTENERS", "")))
        if str(url.port) not in ports:
            faults.append(f"{name}: {variable}: {url.hostname} does not listen on {url.port}")
        role = variable.removeprefix("DUNLIN__MESH__").lower()
        if role in ROLES and role not in roles(there):
            faults.append(f"{name}: {variable}: {url.hostname} does not run {role}")
        if role == "advertise" and url.hostname != name:
            faults.append(f"{name}: {variable}: tells the name of {url.hostname}")
    return faults
