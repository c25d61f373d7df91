"""Table at the end of a run with a real engine: by rank and cache kind what was recorded, carried, placed and hit.

With it, how a node's artifact was proven, in words.
"""

from __future__ import annotations

from rich.console import Console

from ray_warmup.scripts.terminal.console import add_row, table_of
from ray_warmup.warmup.engines.reports.report import EngineReport, KindReport, Proven

PROVEN_IN_WORDS: dict[Proven, str] = {
    "now": "proven",
    "before": "proven by an earlier run",
    "elsewhere": "proven on another node",
    "off": "not to be proven (engine.proof: off)",
    "no": "not proven",
}


def show_kinds(console: Console, report: EngineReport, *, whole: bool) -> None:
    """Print one row for each rank and kind.

    Args:
        console: where to.
        report: of the run.
        whole: nodes with equal rows are printed each by itself.
    """
    nodes = [node for node in report.nodes if node.kinds]
    rows: dict[tuple[str, KindReport], list[str]] = {}
    for node in nodes:
        for row in node.kinds:
            apart = node.node_id if whole else ""
            rows.setdefault((apart, row), []).append(node.node_id[:8])
    if not rows:
        return
    table = table_of("node", "rank", "kind", "recorded", "carried", "placed", "hit", "compiled", whole=("node", "kind"))
    for (_, row), names in rows.items():
        counted = [_count(value) for value in (row.placed, row.found, row.compiled)]
        add_row(table, _nodes(names, len(nodes)), row.rank, row.kind, row.recorded, row.carried, *counted)
    console.print(table)


def _nodes(names: list[str], of: int) -> str:
    """Name one node, count several."""
    if len(names) == 1:
        return names[0]
    if len(names) == of:
        return f"all {of} nodes"
    return f"{len(names)} of {of} nodes"


def _count(value: int | None) -> str:
    """Write a count, or a dash where no proof start of this run counted."""
    if value is None:
        return "-"
    return str(value)
