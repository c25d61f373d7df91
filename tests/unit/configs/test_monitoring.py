"""The Grafana dashboard and the alert rules: valid PromQL that names metrics and labels that exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from ray_warmup.warmup.metrics import catalog
from ray_warmup.warmup.metrics.metric import Metric

MONITORING = Path(__file__).resolve().parents[3] / "configs" / "deploy" / "monitoring"
SERIES: dict[str, Metric] = {name: metric for metric in catalog.CATALOG for name in metric.series}
ALERTS = {
    "WarmupNotReady": "ray_warmup_run_start_time_seconds",
    "WarmupFailed": "ray_warmup_runs_total",
    "WarmupRankSilent": "ray_warmup_run_ranks",
    "WarmupCompilationsAfterReady": "ray_warmup_compilations_after_ready_total",
    "WarmupTableMisses": "ray_warmup_cache_lookups_total",
    "WarmupDivergentTables": "ray_warmup_divergent_tables_total",
}


def dashboard() -> dict[str, Any]:
    """The dashboard's JSON."""
    return json.loads((MONITORING / "grafana_dashboard.json").read_text())


def rules() -> list[dict[str, Any]]:
    """Every alert rule."""
    (group,) = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return group["rules"]


def selectors(text: str) -> list[Any]:
    """The series that an expression selects. Raises ValueError for what is no PromQL."""
    found = []

    def look(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        if isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)
        return True

    # Grafana puts the chosen time range there before Prometheus sees it.
    promql_parser.walk(promql_parser.parse(text.replace("$__range", "1h")), look)
    return list({str(selector): selector for selector in found}.values())


def faults(text: str) -> list[str]:
    """What an expression names that the catalog does not have."""
    found = []
    for selector in selectors(text):
        metric = SERIES.get(selector.name)
        if metric is None:
            found.append(f"no metric {selector.name}")
            continue
        allowed = {*metric.labels, "le"}
        found += [f"{selector.name} has no label {m.name}" for m in selector.matchers.matchers if m.name not in allowed]
    return found


def expressions() -> list[str]:
    """All of both files."""
    of_panels = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return [*of_panels, *(rule["expr"] for rule in rules())]


def test_expressions_name_what_exists() -> None:
    """Each one parses, and names only series and labels of the catalog."""
    assert len(expressions()) > 20
    for text in expressions():
        assert selectors(text), text
        assert not faults(text), text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("sum(ray_warmup_runs)", "no metric ray_warmup_runs"),
        ('rate(ray_warmup_runs_total{state="x"}[5m])', "has no label state"),
        ("ray_warmup_guard_speedup_ratio", "no metric ray_warmup_guard_speedup_ratio"),
    ],
)
def test_a_wrong_name_is_found(text: str, fault: str) -> None:
    """The check can fail."""
    assert fault in faults(text)[0]


def test_what_is_no_promql_is_found() -> None:
    """The parser refuses."""
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        selectors("sum by (work ray_warmup_runs_total")


def test_growth_is_never_asked_by_increase_or_rate() -> None:
    """Both would miss counters of processes that end right after they have counted: each begins with its last value."""
    for text in expressions():
        assert "increase(" not in text, text
        assert "rate(" not in text, text


def test_every_metric_is_on_the_dashboard() -> None:
    """Nothing is exported that nobody looks at."""
    shown = {
        selector.name for panel in dashboard()["panels"] for t in panel["targets"] for selector in selectors(t["expr"])
    }
    lacking = [metric.name for metric in catalog.CATALOG if not shown & set(metric.series)]
    assert lacking == []


def test_the_dashboard_is_one_of_grafana() -> None:
    """Panels have ids and places of their own and a data source that the reader chooses."""
    document = dashboard()
    ids = [panel["id"] for panel in document["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
    variables = {row["name"] for row in document["templating"]["list"]}
    assert variables == {"datasource", "work"}


def test_alerts_cover_what_wakes_an_operator_and_say_what_to_do() -> None:
    """Each rule has a severity, a summary and a remedy."""
    assert {rule["alert"]: selectors(rule["expr"])[0].name for rule in rules()} == ALERTS
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"].endswith(".")
        assert "`" in rule["annotations"]["remedy"]
