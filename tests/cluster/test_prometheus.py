"""A real Prometheus that scrapes a real raylet: it answers the dashboard's expressions and evaluates the alert rules.

Needs `prometheus` (`apt-get install prometheus`); without it the test is skipped. `pytest -m long` runs it.
The last result is `tests/cluster/results/prometheus.md`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.test_metrics_endpoint import run_on_a_head
from tests.own_head import free_port
from tests.testbed import wait_until
from tests.unit.configs.test_monitoring import MONITORING, dashboard, rules

PROMETHEUS = shutil.which("prometheus")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.skipif(PROMETHEUS is None, reason="needs Prometheus: apt-get install prometheus"),
]
WITHOUT_DATA = {
    "Requests recorded in engines": "no engine was started",
    "Time to install by kind": "one rank of one node installs nothing that another one made",
}
"""Panels that may be empty after this run."""


@contextmanager
def prometheus(directory: Path, target_port: int) -> Iterator[str]:
    """Prometheus with our alert rules, which scrapes one endpoint each second: the address of its HTTP interface."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(MONITORING / "alerts.yaml")],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [f"127.0.0.1:{target_port}"]}]}],
    }
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    assert PROMETHEUS is not None
    with (directory / "log").open("w") as log:
        server = subprocess.Popen(
            [
                *(PROMETHEUS, f"--config.file={directory / 'prometheus.yaml'}", f"--web.listen-address={address}"),
                f"--storage.tsdb.path={directory / 'data'}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait(20)


def asked(address: str, path: str, **query: str) -> Any:
    """The data of an answer of the HTTP interface."""
    url = f"{address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        document = json.loads(answer.read())
    assert document["status"] == "success", document
    return document["data"]


def is_scraping(address: str) -> bool:
    """Whether the endpoint was scraped once."""
    try:
        return bool(asked(address, "query", query="up == 1")["result"])
    except OSError:
        return False


def panel_expressions() -> list[tuple[str, str]]:
    """Title and expression of every panel, with Grafana's variables filled in."""
    found = []
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            found.append((panel["title"], target["expr"].replace("$__range", "1h").replace("$work", ".*")))
    return found


def test_a_real_prometheus_answers_every_expression(tmp_path: Path) -> None:
    """During a run and after it: no expression is an error, and those have data that this run must have counted."""
    with_data: dict[str, int] = {}
    with run_on_a_head() as (run, port, report), prometheus(tmp_path, port) as address:
        assert wait_until(lambda: is_scraping(address), 30), (tmp_path / "log").read_text()
        is_over = False
        while not is_over:
            is_over = run.poll() is not None and report.exists()
            time.sleep(1)
            for title, expression in panel_expressions():
                series = asked(address, "query", query=expression)["result"]
                key = f"{title} | {expression}"
                with_data[key] = max(with_data.get(key, 0), len(series))
        (group,) = asked(address, "rules")["groups"]
        names = {"series": asked(address, "label/__name__/values")}
    lacking = []
    for key, count in with_data.items():
        if not count and key.partition(" | ")[0] not in WITHOUT_DATA:
            lacking.append(key)
    assert lacking == []
    assert {rule["name"]: (rule["health"], rule.get("lastError", "")) for rule in group["rules"]} == {
        rule["alert"]: ("ok", "") for rule in rules()
    }
    assert "ray_warmup_runs_total" in names["series"]
    for key, count in with_data.items():
        print(f"| {key.replace(' | ', ' | `').replace('|~', '~')}` | {count} |")
