"""The values that the report page draws, and how a report of either engine becomes them.

The page (`page/report.js`) reads exactly these fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ray_warmup.scripts.views.cache import size
from ray_warmup.warmup.report import ClassReport, RankReport, WarmupReport

SHORT = 12
"""Characters of a key or a digest that are shown."""
Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class RankMark:
    """A rank on the map of the cluster."""

    rank: int
    role: str
    state: str
    class_: int
    """Number of its class in `PageDocument.classes`, or -1."""


@dataclass(frozen=True, slots=True)
class NodeCard:
    """A node on the map of the cluster."""

    name: str
    detail: str
    ranks: tuple[RankMark, ...]


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """A phase of the run, and when it began in seconds since the run did."""

    name: str
    begin: float


@dataclass(frozen=True, slots=True)
class RankTimes:
    """Seconds of one rank's work by phase."""

    name: str
    phases: dict[str, float]


@dataclass(frozen=True, slots=True)
class Timeline:
    """All ranks and phases."""

    phases: tuple[PhaseSpan, ...] = ()
    ranks: tuple[RankTimes, ...] = ()


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: names of columns, and rows of as many cells."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class StartBar:
    """One stacked bar: seconds for each part."""

    name: str
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Starts:
    """Starts that are compared."""

    parts: tuple[str, ...] = ()
    bars: tuple[StartBar, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class RankRow:
    """One row of the table of ranks."""

    rank: int
    node: str
    device: str
    role: str
    state: str
    entries: int
    hits: int
    phases: dict[str, float]
    error: str


@dataclass(frozen=True, slots=True)
class PageDocument:
    """All that a page shows."""

    title: str
    subtitle: str
    ready: bool
    error: str
    warnings: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    """Names and values at the top."""
    classes: tuple[str, ...] = ()
    class_rows: Grid = field(default_factory=Grid)
    nodes: tuple[NodeCard, ...] = ()
    timeline: Timeline = field(default_factory=Timeline)
    starts: Starts = field(default_factory=Starts)
    kinds: Grid = field(default_factory=Grid)
    rank_rows: tuple[RankRow, ...] = ()
    tasks: Grid = field(default_factory=Grid)


TASK_COLUMNS = (
    *("task", "op", "bucket", "default_s", "tuned_s", "decision", "reason", "runner", "tactic", "class", "rank"),
)


def page_of(report: WarmupReport) -> PageDocument:
    """Return the page of a run with the built-in engine."""
    classes = [group.key[:SHORT] for group in report.classes]
    model = report.config.get("model", {}).get("name", "")
    rank_rows = map(_rank_row, report.ranks)
    return PageDocument(
        title=f"{report.run_id}: {outcome_of(report.ready)}",
        subtitle=f"run {report.run_id}, {model}",
        ready=report.ready,
        error=report.error or "",
        warnings=report.warnings,
        facts=tuple(_facts(report)),
        classes=tuple(classes),
        class_rows=_class_grid(report),
        nodes=tuple(_nodes(report)),
        timeline=_timeline(report),
        starts=_starts(report),
        kinds=_kinds(report),
        rank_rows=tuple(rank_rows),
        tasks=Grid(TASK_COLUMNS, tuple(_task_rows(report.classes))),
    )


def outcome_of(is_ready: bool) -> str:
    """Return how a run ended in one word."""
    if is_ready:
        return "READY"
    return "FAILED"


def _facts(report: WarmupReport) -> Iterable[tuple[str, str]]:
    yield "took", f"{sum(report.phases.values()):.1f} s"
    yield "ranks", str(len(report.ranks))
    yield "nodes", str(len(_by_node(report)))
    if report.on_disk is not None:
        yield "on disk", report.on_disk
    total = kept = 0
    for group in report.classes:
        total, kept = total + group.tasks, kept + group.kept
    if total:
        yield "tasks", str(total)
        yield "kept", str(kept)


SHOWN_PARTS = ("gpu", "flashinfer_version", "torch", "triton", "driver", "arch")
CLASS_COLUMNS = ("class", "leader", "ranks", "tasks", "table", "kept", "default", "speed-up", "worst", "strategy")


def _class_grid(report: WarmupReport) -> Grid:
    """One row per class, with those parts of its key that some class has."""
    known: set[str] = set()
    for group in report.classes:
        known.update(name for name, value in group.parts.items() if value)
    names = [name for name in SHOWN_PARTS if name in known]
    rows: list[tuple[Cell, ...]] = []
    for group in report.classes:
        table = f"measured {group.measured}, resumed {group.reused}"
        if group.hit:
            table = "found"
        ratios = (_ratio(group.guard.geomean), _ratio(group.guard.worst))
        counts = (group.leader, len(group.ranks), group.tasks, table, group.kept, group.dropped)
        parts = map(group.parts.get, names)
        rows.append((group.key[:SHORT], *counts, *ratios, group.strategy, *parts))
    return Grid((*CLASS_COLUMNS, *names), tuple(rows))


def _ratio(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}x"


def _by_node(report: WarmupReport) -> dict[str, list[RankReport]]:
    found: dict[str, list[RankReport]] = {}
    for rank in report.ranks:
        found.setdefault(rank.node_id, []).append(rank)
    return found


def _nodes(report: WarmupReport) -> Iterable[NodeCard]:
    class_of: dict[int, int] = {}
    for number, group in enumerate(report.classes):
        class_of.update(dict.fromkeys(group.ranks, number))
    for own in _by_node(report).values():
        marks = []
        devices = set()
        for rank in own:
            marks.append(RankMark(rank.rank, rank.role, rank.state, class_of.get(rank.rank, -1)))
            devices.add(rank.device)
        yield NodeCard(_node_name(own[0]), ", ".join(sorted(devices - {""})), tuple(marks))


def _node_name(rank: RankReport) -> str:
    return f"{rank.host} {rank.address} {rank.node_id[:8]}".strip()


def spans_of(phases: Mapping[str, float]) -> tuple[PhaseSpan, ...]:
    """Return phases that followed one another, with the moment at which each began."""
    found, begin = [], 0.0
    for name, taken in phases.items():
        found.append(PhaseSpan(str(name), round(begin, 3)))
        begin += taken
    return tuple(found)


def _timeline(report: WarmupReport) -> Timeline:
    ranks = []
    for rank in report.ranks:
        if rank.phases:
            ranks.append(RankTimes(f"rank {rank.rank}", rank.phases))
    return Timeline(spans_of(report.phases), tuple(ranks))


WARM_PHASES = ("PLACING", "PROBING", "LOOKUP", "LOADING", "REPLAYING")
"""Phases of a run that finds its table."""


def _starts(report: WarmupReport) -> Starts:
    if not report.phases or not report.classes:
        return Starts()
    parts = tuple(map(str.lower, report.phases))
    this = StartBar("this run", tuple(report.phases.values()))
    warm = []
    for name, taken in report.phases.items():
        warm.append(taken * (name in WARM_PHASES))
    if tuple(warm) == this.seconds:
        return Starts(parts, (this,), "This run found its table.")
    note = "The second bar leaves out what a run skips that finds the table."
    return Starts(parts, (this, StartBar("a warm run", tuple(warm))), note)


def _kinds(report: WarmupReport) -> Grid:
    rows: list[tuple[Cell, ...]] = []
    for group in report.classes:
        for found in group.kinds:
            if not found.blobs and not found.installed:
                continue
            sizes = (size(found.bytes), found.blobs, size(found.received_bytes), found.installed)
            rows.append((group.key[:SHORT], found.kind, *sizes, *_proven(report, group)))
    note = (
        "Contents of each class's artifact. Compiled and loaded: by its ranks after everything was in place, while the "
        "check requests ran; 0 proves that nothing was missing."
    )
    columns = ("class", "kind", "size", "blobs", "sent to nodes", "installed files", "compiled", "loaded")
    return Grid(columns, tuple(rows), note)


def _proven(report: WarmupReport, group: ClassReport) -> tuple[int | None, int | None]:
    """Sum of what the ranks of a class compiled and loaded in their check requests, None where none ran."""
    compiled = loaded = 0
    is_known = False
    for rank in report.ranks:
        if rank.rank not in group.ranks or rank.engine is None or rank.engine.verification is None:
            continue
        is_known = True
        compiled += sum(rank.engine.verification.compiled.values())
        loaded += sum(rank.engine.verification.loaded.values())
    if not is_known:
        return None, None
    return compiled, loaded


def _rank_row(rank: RankReport) -> RankRow:
    error = (rank.error or "").split("\n", 1)[0]
    device = " ".join((rank.device, *rank.gpu_ids))
    counts = (rank.entries, rank.hits)
    return RankRow(rank.rank, _node_name(rank), device, rank.role, rank.state, *counts, rank.phases, error)


def _task_rows(classes: Iterable[ClassReport]) -> Iterable[tuple[Cell, ...]]:
    for group in classes:
        for row in group.task_reports:
            decision = row.decision
            if row.outcome != "tuned":
                decision = row.outcome
            yield (
                *(row.task, row.op, row.bucket, _short(row.default_s), _short(row.tuned_s), decision),
                *(row.reason, row.runner, row.tactic, group.key[:SHORT], row.rank),
            )


def _short(seconds: float | None) -> float | None:
    """Five digits, which is more than a measurement has."""
    if seconds is None:
        return None
    return float(f"{seconds:.5g}")
