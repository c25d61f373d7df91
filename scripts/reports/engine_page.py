"""The page of a run with a real engine."""

from __future__ import annotations

from collections.abc import Iterable

from ray_warmup.scripts.reports.page_document import (
    SHORT,
    Cell,
    Grid,
    NodeCard,
    PageDocument,
    RankMark,
    RankTimes,
    StartBar,
    Starts,
    Timeline,
    outcome_of,
    spans_of,
)
from ray_warmup.scripts.views.engine_kinds import PROVEN_IN_WORDS
from ray_warmup.warmup.engines.reports.report import EngineReport, NodeReport

PARTS = ("engine with empty caches", "engine", "first answer")


def engine_page_of(report: EngineReport) -> PageDocument:
    """Return the page of a run with a real engine."""
    found: dict[str, int] = {}
    for node in report.nodes:
        if node.key_sha256:
            found.setdefault(node.key_sha256, len(found))
    cards = [_card(node, found.get(node.key_sha256, -1)) for node in report.nodes]
    return PageDocument(
        title=f"{report.run_id}: {outcome_of(report.ready)}",
        subtitle=f"run {report.run_id}, {_model(report)}",
        ready=report.ready,
        error=report.error or "",
        warnings=(*report.warnings, *_problems(report)),
        facts=tuple(_facts(report)),
        classes=tuple(key[:SHORT] for key in found),
        nodes=tuple(cards),
        timeline=_timeline(report),
        starts=_starts(report),
        kinds=_kinds(report),
    )


def _model(report: EngineReport) -> str:
    engine = report.config.get("engine")
    if not isinstance(engine, dict) or not isinstance(engine.get("args"), dict):
        return ""
    arguments = engine["args"]
    assert isinstance(arguments, dict), "asked above"
    return str(arguments.get("model") or arguments.get("model_path") or "")


def _problems(report: EngineReport) -> Iterable[str]:
    for node in report.nodes:
        for problem in node.problems:
            yield f"node {node.node_id[:8]} ({node.address}): {problem}"


def _facts(report: EngineReport) -> Iterable[tuple[str, str]]:
    yield "took", f"{sum(report.phases.values()):.1f} s"
    yield "nodes", str(len(report.nodes))
    proven, slowest = 0, None
    for node in report.nodes:
        proven += node.proven in ("now", "before")
        if node.engine_s is not None:
            slowest = max(slowest or 0.0, node.engine_s)
    yield "proven", str(proven)
    if report.recorded_engine_s is not None:
        yield "engine, empty caches", f"{report.recorded_engine_s:.1f} s"
    if slowest is not None:
        yield "engine, warm", f"{slowest:.1f} s"
    if report.recorded_engine_s is not None and slowest is not None:
        yield "saved by each start", f"{report.recorded_engine_s - slowest:.1f} s"


def _card(node: NodeReport, number: int) -> NodeCard:
    state = "ready"
    if node.problems:
        state = "failed"
    ranks = sorted({kind.rank for kind in node.kinds})
    marks = [RankMark(rank, "rank", state, number) for rank in ranks]
    detail = f"{node.role or 'holds nothing'}, {PROVEN_IN_WORDS[node.proven]}"
    return NodeCard(f"{node.address} {node.node_id[:8]}", detail, tuple(marks))


def _timeline(report: EngineReport) -> Timeline:
    """The run's own phases: a launcher reports none of its own."""
    if not report.phases:
        return Timeline()
    return Timeline(spans_of(report.phases), (RankTimes("run", dict(report.phases)),))


def _starts(report: EngineReport) -> Starts:
    bars = []
    if report.recorded_engine_s is not None:
        bars.append(StartBar("cold", (report.recorded_engine_s, 0.0, 0.0)))
    for node in report.nodes:
        if node.engine_s is not None:
            bars.append(StartBar(f"warm, {node.node_id[:8]}", (0.0, node.engine_s, node.first_answer_s or 0.0)))
    note = "Seconds in which an engine was made: with empty caches where it was recorded, and warm where it was proven."
    return Starts(PARTS, tuple(bars), note)


def _kinds(report: EngineReport) -> Grid:
    rows: list[tuple[Cell, ...]] = []
    for node in report.nodes:
        for kind in node.kinds:
            counts = (kind.recorded, kind.carried, kind.placed, kind.found, kind.compiled)
            rows.append((node.node_id[:8], kind.rank, kind.kind, *counts))
    note = "By node, rank and cache kind. Compiled is 0 where the proof holds, and empty where no proof start ran."
    columns = ("node", "rank", "kind", "recorded", "carried", "placed", "hit", "compiled")
    return Grid(columns, tuple(rows), note)
