"""The alerts of deploy/prometheus, by promtool: each fires when it is to and not otherwise. And a Prometheus that
scrapes the hub: it takes the metrics, the rules and what the dashboard asks."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest
import requests
import yaml

import deploy
import wait

PROGRAMS = pathlib.Path(sys.executable).parents[2] / "prometheus/usr/bin"
ADDRESS = "127.0.0.1:9090"
FOLDER = deploy.ROOT / "deploy/prometheus"
RULES = yaml.safe_load(deploy.text("deploy/prometheus/alerts.yaml"))["groups"][0]["rules"]


def promtool(*arguments, **more):
    return subprocess.run([PROGRAMS / "promtool", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=60, **more)


def test_alerts_fire_when_they_are_to(tmp_path):
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    for arguments in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        checked = promtool(*arguments, cwd=tmp_path)
        assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("old, new", [
    ('outcome="unavailable"', 'outcome="not_found"'),
    ('dunlin_presence_up == 0', 'dunlin_presence_up == 1'),
    ('[5m])) > 1\n        for: 5m', '[5m])) > 3\n        for: 5m'),
])
def test_a_planted_fault_is_found(old, new, tmp_path):
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    alerts = tmp_path / "alerts.yaml"
    assert old in alerts.read_text(), f"{old!r} is not there any more: plant another fault"
    alerts.write_text(alerts.read_text().replace(old, new))
    assert promtool("test", "rules", "alerts_test.yaml", cwd=tmp_path).returncode != 0


def test_each_alert_says_what_to_do_and_is_tested():
    tests = deploy.text("deploy/prometheus/alerts_test.yaml")
    for rule in RULES:
        name, annotations = rule["alert"], rule["annotations"]
        assert len(annotations["runbook"]) > 100 and annotations["summary"], name
        assert rule["labels"]["severity"] in ("warning", "critical"), name
        assert f"alertname: {name}}}" in tests and f'alertname="{name}"' in tests, name


@pytest.fixture(scope="module")
def ask(hub, tmp_path_factory):
    """A Prometheus that has scraped the hub with our rules, and its API."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(FOLDER / "alerts.yaml")],
        "scrape_configs": [{"job_name": "dunlin", "static_configs": [{"targets": [f"{hub.address}:9600"]}]}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    log = folder / "log"
    with open(log, "wb") as output:
        command = [PROGRAMS / "prometheus", f"--config.file={folder}/prometheus.yaml",
                   f"--storage.tsdb.path={folder}/data", f"--web.listen-address={ADDRESS}"]
        child = subprocess.Popen(command, stdout=output, stderr=output)

    def ask(path, **parameters):
        answer = requests.get(f"http://{ADDRESS}/api/v1/{path}", params=parameters, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def scraped():
        assert child.poll() is None, log.read_text()
        try:
            if not requests.get(f"http://{ADDRESS}/-/ready", timeout=10).ok:
                return False
        except requests.ConnectionError:
            return False
        targets = ask("targets")["activeTargets"]
        assert not any(target["lastError"] for target in targets), targets
        return any(target["health"] == "up" for target in targets)

    try:
        wait.until("a scrape", scraped)
        yield ask
    finally:
        child.kill()
        child.wait()


def test_prometheus_takes_the_metrics_and_the_rules(ask):
    kinds = {name: entries[0]["type"] for name, entries in ask("metadata").items() if name.startswith("dunlin_")}
    assert kinds["dunlin_connects"] == "counter" and kinds["dunlin_store_operation_seconds"] == "histogram", kinds
    [group] = ask("rules")["groups"]
    assert len(group["rules"]) == len(RULES) and all(rule["health"] != "err" for rule in group["rules"])
    [ready] = ask("query", query='dunlin_ready{part="gateway"}')["result"]
    assert ready["value"][1] == "1"


def test_prometheus_understands_the_dashboard(ask):
    panels = json.loads(deploy.text("deploy/grafana/dunlin.json"))["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert len(expressions) > 20
    for expression in expressions:
        ask("query", query=expression.replace("$job", "dunlin").replace("$__rate_interval", "1m"))
    [devices] = ask("query", query=expressions[0].replace("$job", "dunlin"))["result"]
    assert devices["value"][1].isdigit()
