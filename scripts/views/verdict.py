"""The end of a run as one can act on it: READY or FAILED first, seconds saved or lost, warnings, one line a node.

Everything else is for `-v` (`report.py`) and the report file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console

from ray_warmup.scripts.terminal.console import first_line, say_sentence
from ray_warmup.scripts.views.run_screen import duration
from ray_warmup.warmup.machine.naming import span
from ray_warmup.warmup.remedies import parts
from ray_warmup.warmup.report import ClassReport, RankReport, WarmupReport

SHOWN_WARNINGS = 5
SKIPPED_BY_A_HIT = ("COMPILING", "TUNING", "GUARDING")
MORE = "more: `ray-warmup report show RUN` (`ray-warmup history`), or `--report FILE`"


def show_verdict(console: Console, report: WarmupReport, error: str | None) -> None:
    """Print the verdict of a run. `error` is that of the report, as much of it as belongs on a screen."""
    if report.ready:
        say_sentence(console, ready_line(report), style="bold green")
    else:
        cause = error or "not every rank is ready: the lines of the nodes say which"
        say_sentence(console, f"FAILED: {cause}", style="bold red", lines=True)
    for line in worth_lines(report):
        say_sentence(console, line)
    show_warnings(console, report.warnings)
    for line in node_lines(report):
        say_sentence(console, line)
    if not report.ready and report.ranks:
        say_sentence(console, MORE, style="dim")


def ready_line(report: WarmupReport) -> str:
    """Say how long a ready run took, and what serves now."""
    ranks = [rank for rank in report.ranks if rank.state != "removed"]
    nodes = {rank.node_id for rank in ranks}
    text = f"READY in {total_s(report):.2f} s: {_count(len(ranks), 'rank')} on {_count(len(nodes), 'node')}"
    tables = [_table(group) for group in report.classes if group.tasks]
    if tables:
        text += f", {'; '.join(tables)}"
    return text


def total_s(report: WarmupReport) -> float:
    """Seconds of all phases."""
    return sum(report.phases.values())


def worth_lines(report: WarmupReport) -> Iterator[str]:
    """Yield what a run saved or lost, in seconds."""
    measured = sum(group.measured for group in report.classes)
    done = measured + sum(group.reused for group in report.classes)
    if not report.ready:
        kept = ""
        if done:
            kept = f"; {_count(done, 'measured task')} kept on the nodes, run again to go on from there"
        yield f"lost: {duration(total_s(report))}{kept}"
        return
    if report.classes and all(group.hit for group in report.classes):
        saved = sum(group.measuring_s for group in report.classes)
        text = "the tuned table was found in the cache; nothing was measured"
        if saved > 0:
            text += f": {duration(saved)} of measuring saved"
        yield text
    elif measured:
        skipped = sum(report.phases.get(phase, 0.0) for phase in SKIPPED_BY_A_HIT)
        yield f"saved for each next start of these nodes: {duration(skipped)} of compiling, tuning and guarding"


def show_warnings(console: Console, warnings: Sequence[str]) -> None:
    """Print warnings, each with its remedy on a line of its own."""
    for warning in warnings[:SHOWN_WARNINGS]:
        text, remedy = parts(warning)
        say_sentence(console, f"warning: {first_line(text)}", style="yellow")
        if remedy:
            say_sentence(console, f"  do: {remedy}")
    if len(warnings) > SHOWN_WARNINGS:
        say_sentence(console, f"and {len(warnings) - SHOWN_WARNINGS} more warnings ({MORE})", style="yellow")


def node_lines(report: WarmupReport) -> Iterator[str]:
    """Yield one line for each node: its ranks and their states, the table that they serve, and where it lies."""
    of_node: dict[str, list[RankReport]] = {}
    for rank in report.ranks:
        of_node.setdefault(rank.node_id, []).append(rank)
    for node_id, ranks in of_node.items():
        yield f"node {node_id[:8]} {_where(ranks[0])}: {_states(ranks)}{_served(ranks)}"


def _where(rank: RankReport) -> str:
    if rank.host and rank.address:
        return f"{rank.host} ({rank.address})"
    return rank.host or rank.address or "(no address)"


def _states(ranks: Sequence[RankReport]) -> str:
    """Group a node's ranks by state: `ranks 0-3 ready`."""
    found = []
    for state in Counter(rank.state for rank in ranks):
        numbers = [rank.rank for rank in ranks if rank.state == state]
        word = "rank" if len(numbers) == 1 else "ranks"
        found.append(f"{word} {span(numbers)} {state}")
    return ", ".join(found)


def _served(ranks: Sequence[RankReport]) -> str:
    digests = sorted({rank.digest[:12] for rank in ranks if rank.digest is not None})
    if not digests:
        return ", no table"
    hits, misses = sum(rank.hits for rank in ranks), sum(rank.misses for rank in ranks)
    text = f", table {', '.join(digests)}, {hits} lookups hit"
    if misses:
        text += f", {misses} MISSED"
    return text


def _table(group: ClassReport) -> str:
    text = f"{group.tasks} tasks ({group.kept} tuned, {group.dropped} default)"
    if group.guard.geomean is not None:
        text += f", {group.guard.geomean:.3f} times as fast as the default"
    return text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
