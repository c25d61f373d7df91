"""Alert rules as Prometheus' own tool evaluates them: each fires on the series that it is about, and on no others.

Needs `promtool` (`apt-get install prometheus`); without it these tests are skipped.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.configs.test_monitoring import ALERTS, MONITORING, rules

PROMTOOL = shutil.which("promtool")
pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool of Prometheus: apt-get install prometheus")
RULES = MONITORING / "alerts.yaml"


@dataclass(frozen=True)
class Scene:
    """Series of one minute each, and when an alert must fire or not."""

    alert: str
    series: dict[str, str]
    fires_at: str
    labels: dict[str, str]
    quiet_at: str


SCENES = (
    Scene(
        "WarmupNotReady",
        {'ray_warmup_run_start_time_seconds{work="w"}': "0x60"},
        fires_at="25m",
        labels={"work": "w"},
        quiet_at="15m",
    ),
    Scene(
        "WarmupFailed",
        # A counter that begins with its value, as that of a driver that counts once and ends.
        {
            'ray_warmup_runs_total{work="w", outcome="failed"}': "_x9 1x40",
            'ray_warmup_runs_total{work="w", outcome="ready"}': "1x50",
        },
        fires_at="20m",
        labels={"work": "w"},
        quiet_at="40m",
    ),
    Scene(
        "WarmupRankSilent",
        {'ray_warmup_run_ranks{work="w", state="silent"}': "0x10 2x10 0x30"},
        fires_at="15m",
        labels={"work": "w"},
        quiet_at="30m",
    ),
    Scene(
        "WarmupCompilationsAfterReady",
        {
            'ray_warmup_compilations_after_ready_total{process="p", kind="triton", source="compiled"}': "0x10 3x60",
            'ray_warmup_compilations_after_ready_total{process="p", kind="triton", source="disk"}': "0x5 7x60",
        },
        fires_at="15m",
        labels={"process": "p", "kind": "triton"},
        quiet_at="50m",
    ),
    Scene(
        "WarmupTableMisses",
        {'ray_warmup_cache_lookups_total{work="w", kind="table", result="miss"}': "0x10 4x200"},
        fires_at="30m",
        labels={"work": "w"},
        quiet_at="5m",
    ),
    Scene(
        "WarmupDivergentTables",
        {'ray_warmup_divergent_tables_total{work="w"}': "0x10 1x200"},
        fires_at="30m",
        labels={"work": "w"},
        quiet_at="120m",
    ),
)


def document(scene: Scene, rule_file: str) -> dict[str, Any]:
    """A scene as promtool reads it."""
    (rule,) = [rule for rule in rules() if rule["alert"] == scene.alert]
    fired = {"exp_labels": scene.labels | rule["labels"], "exp_annotations": rule["annotations"]}
    cases = [
        {"eval_time": scene.fires_at, "alertname": scene.alert, "exp_alerts": [fired]},
        {"eval_time": scene.quiet_at, "alertname": scene.alert, "exp_alerts": []},
    ]
    series = [{"series": name, "values": values} for name, values in scene.series.items()]
    return {
        "rule_files": [rule_file],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": cases}],
    }


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The tool's answer."""
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_the_rules_are_rules_of_prometheus() -> None:
    """Its own checker finds nothing to say."""
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_every_rule_has_a_scene() -> None:
    """None is forgotten."""
    assert {scene.alert for scene in SCENES} == set(ALERTS)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.alert)
def test_a_rule_fires_when_it_should(scene: Scene, tmp_path: Path) -> None:
    """It fires at one time, with its labels and remedy, and is quiet at another."""
    file = tmp_path / "scene.yaml"
    file.write_text(yaml.safe_dump(document(scene, str(RULES))))
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rule_that_never_fires_is_found(tmp_path: Path) -> None:
    """The scenes can fail."""
    broken = RULES.read_text().replace('state="silent"', 'state="silence"')
    (tmp_path / "alerts.yaml").write_text(broken)
    (scene,) = [scene for scene in SCENES if scene.alert == "WarmupRankSilent"]
    file = tmp_path / "scene.yaml"
    file.write_text(yaml.safe_dump(document(scene, "alerts.yaml")))
    assert promtool("test", "rules", str(file)).returncode != 0
