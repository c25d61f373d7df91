"""Print the summary of a run's report.

Equal messages of several ranks share one line. `-v` and the report file show every one.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ray_warmup.configs.clause import when
from ray_warmup.scripts.terminal.console import add_row, say, table_of
from ray_warmup.scripts.views.cache import size
from ray_warmup.scripts.views.verdict import show_verdict
from ray_warmup.warmup.report import WarmupReport

logger = logging.getLogger(__name__)

STACK = " stands here:"
"""End of the line before a rank's stacks."""


def show_report(console: Console, report: WarmupReport, *, whole: bool) -> None:
    """Print the verdict, and with `whole` the tables of ranks, classes and files after it."""
    is_logged = logger.isEnabledFor(logging.INFO)
    show_verdict(console, report, report.error if is_logged else brief(report.error))
    if whole or is_logged:
        for line in wrote_lines(report, each=is_logged):
            say(console, line)
        show_details(console, report)


def show_details(console: Console, report: WarmupReport) -> None:
    """Print ranks, classes and engine warmups."""
    if report.ranks:
        show_ranks(console, report)
    for group in report.classes:
        found = "found in the cache"
        if not group.hit:
            found = f"measured {group.measured}, resumed {group.reused}"
        guard = group.guard
        quality = ""
        if guard.geomean is not None:
            quality = f", geomean {guard.geomean:.3f}x the default"
        say(
            console,
            f"class {group.key[:12]}: {group.tasks} tasks, {found}; kept {group.kept}, default {group.dropped}; "
            f"{guard.state}{quality}; strategy {group.strategy}, leader rank {group.leader}",
        )
        for rank, names in group.built.items():
            where = ""
            if group.received:
                where = f", taken over by {len(group.received)} nodes"
            say(console, f"  rank {rank} compiled {', '.join(names)}{where}")
        for reason in sorted({f"{skip.op}: {skip.reason}" for skip in group.skipped}):
            say(console, f"  skipped {reason}")
    for line in engine_lines(report):
        say(console, line)


def wrote_lines(report: WarmupReport, *, each: bool) -> list[str]:
    """Return one line per node that wrote files, or one line per file if `each` is set."""
    if each:
        return [f"wrote {file.path} ({file.bytes} bytes, node {file.node_id[:8]})" for file in report.files]
    lines = []
    paths: dict[str, list[str]] = {}
    total = Counter[str]()
    for file in report.files:
        paths.setdefault(file.node_id, []).append(file.path)
        total[file.node_id] += file.bytes
    for node_id, own in paths.items():
        where = f"{size(total[node_id])}, on node {node_id[:8]}: {os.path.commonpath(own)}"
        if len(own) == 1:
            lines.append(f"wrote 1 file, {where}")
        else:
            lines.append(f"wrote {len(own)} files, {where}")
    return lines


def brief(error: str | None) -> str | None:
    """An error without the stacks of ranks, of which the report has every line."""
    if error is None:
        return None
    kept: list[str] = []
    num_stacks = 0
    for line in error.splitlines():
        num_stacks += line.endswith(STACK)
        if not num_stacks:
            kept.append(line)
    if not num_stacks:
        return error
    ranks = "1 rank"
    if num_stacks != 1:
        ranks = f"{num_stacks} ranks"
    return "\n".join([*kept, f"(the stacks of {ranks} are in the report: --report, or -v)"])


def engine_lines(report: WarmupReport) -> list[str]:
    """Return the outcomes of engine warmups and of their check requests, merged over ranks with equal outcomes."""
    lines: dict[str, list[int]] = {}
    for rank in report.ranks:
        if rank.engine is None:
            continue
        if rank.engine.reason:
            lines.setdefault(f"engine warmups: none, {rank.engine.reason}", []).append(rank.rank)
        for outcome in rank.engine.outcomes:
            said = outcome.state
            if outcome.state == "done":
                said = f"{outcome.state}, {len(outcome.shapes)} shapes"
            text = f"engine warmup {outcome.name}: {said}{when(outcome.reason, f' ({outcome.reason})')}"
            lines.setdefault(text, []).append(rank.rank)
        if built := ", ".join(f"{kind} {count}" for kind, count in rank.engine.compiled.items() if count):
            lines.setdefault(f"compiled for the engine warmups: {built}", []).append(rank.rank)
        if (found := rank.engine.verification) is not None:
            seen = f"{sum(found.compiled.values())} compiled, {sum(found.loaded.values())} loaded from disk"
            text = f"{found.requests} requests after the engine warmups: {seen}"
            lines.setdefault(text, []).append(rank.rank)
    return [f"{text}; ranks {', '.join(map(str, ranks))}" for text, ranks in lines.items()]


def show_ranks(console: Console, report: WarmupReport) -> None:
    """Print one row per rank, with the seconds of each phase if they fit.

    Otherwise the seconds of the whole run follow the table.
    """
    run_by_a_rank: set[str] = set()
    for rank in report.ranks:
        run_by_a_rank.update(rank.phases)
    table = rank_table(report, [name for name in report.phases if name in run_by_a_rank])
    if console.measure(table, options=console.options.update(max_width=sys.maxsize)).maximum <= console.width:
        console.print(table)
        return
    console.print(rank_table(report, []))
    seconds = ", ".join(f"{name.lower()} {spent:.2f}" for name, spent in report.phases.items() if spent)
    say(console, f"seconds: {seconds} (of each rank: --report)")


def rank_table(report: WarmupReport, names: Sequence[str]) -> Table:
    """Build a table with one row per rank and one column per named phase."""
    columns = ("rank", "node", "role", "state", "entries", "hits", "digest", *(f"{name.lower()} s" for name in names))
    table = table_of(*columns, title=f"run {report.run_id}", whole=columns)
    for rank in report.ranks:
        seconds = [f"{rank.phases[name]:.2f}" if name in rank.phases else "" for name in names]
        digest = (rank.digest or "-")[:12]
        cells = (rank.rank, rank.node_id[:8], rank.role, rank.state, rank.entries, rank.hits, digest)
        add_row(table, *cells, *seconds)
    return table
