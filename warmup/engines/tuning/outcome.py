"""Contents that a tuning of recorded requests adds to an artifact: a table, its measurements, every class's requests.

Classes of one replica share one table: engines compare their ranks' tables before they believe them, and a key that
nobody asks for costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ray_warmup.warmup.artifact.artifact import Content, sha256, table_content
from ray_warmup.warmup.artifact.manifest import UNGUARDED, GuardSummary
from ray_warmup.warmup.artifact.rows import TimingRow
from ray_warmup.warmup.artifact.table import Entry, TunedTable, parse_table
from ray_warmup.warmup.artifact.timings import timings_content
from ray_warmup.warmup.engines.tuning.conductor import Conductor
from ray_warmup.warmup.workloads.recorded_request import Recording

STRATEGY = "recorded"


@dataclass(frozen=True, slots=True)
class TunedRequests:
    """Outcome of one replica's tuning."""

    contents: tuple[Content, ...] = ()
    guard: GuardSummary = UNGUARDED
    warnings: tuple[str, ...] = ()
    classes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """(digest of the recording, ranks), by first rank."""
    requests: int = 0
    """Different requests that the ranks recorded."""
    tasks: int = 0
    """Tasks that were tuned, over all classes."""
    tasks_elsewhere: int = 0
    """Of these, the ones that other replicas measured."""


def outcome_of(conductor: Conductor) -> TunedRequests:
    """Collect what the ranks serve now."""
    recordings = {recording.digest: recording for recording in conductor.recordings.values()}
    kept = tuple(
        Content("recorded_requests", f"{digest[:16]}.json", _with_reasons(conductor, digest, recording).to_bytes())
        for digest, recording in sorted(recordings.items())
    )
    ranks: dict[str, list[int]] = {}
    for rank, recording in sorted(conductor.recordings.items()):
        ranks.setdefault(recording.digest, []).append(rank)
    classes = tuple((digest, tuple(members)) for digest, members in ranks.items())
    asked: set[str] = set()
    for recording in recordings.values():
        for request in recording.requests:
            asked.add(request.digest)
    requests = len(asked)
    table = joined_table([served.table for _, served in sorted(conductor.served.items())])
    warnings = (*conductor.problems, *conductor.warnings, *_named_defaults(conductor, recordings))
    if table is None:
        return TunedRequests(kept, UNGUARDED, warnings, classes, requests)
    elsewhere = sum(conductor.measured_elsewhere.values())
    rows: list[TimingRow] = []
    decisions = Counter[str]()
    state: Literal["guarded", "unguarded"] = "unguarded"
    for group in conductor.classes.values():
        for task_id, result in group.results.items():
            rows.append(TimingRow(result, group.verdicts.get(task_id)))
        decisions.update(verdict.decision for verdict in group.verdicts.values())
        if group.needs_guard:
            state = "guarded"
    guard = GuardSummary(state, dict(decisions))
    data = table.to_bytes()
    sidecar = timings_content(sha256(data), rows, strategy=STRATEGY, guard=guard.state)
    contents = (table_content(data), sidecar, *kept)
    return TunedRequests(contents, guard, warnings, classes, requests, len(rows), elsewhere)


def joined_table(tables: Sequence[str]) -> TunedTable | None:
    """Join the tables of all ranks, the first rank's first.

    Of two answers to one task the first one counts: both were guarded. Returns None if nothing was tuned.
    """
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    answered: set[object] = set()
    for text in dict.fromkeys(filter(None, tables)):
        table = parse_table(text.encode())
        metadata = metadata or table.metadata
        for task, key in table.by_task().items():
            if task not in answered:
                answered.add(task)
                entries[key] = table.entries[key]
    if not entries:
        return None
    return TunedTable(metadata, entries, {})


def _with_reasons(conductor: Conductor, digest: str, recording: Recording) -> Recording:
    """Add why requests were left out where they were to be measured."""
    reasons: dict[str, str] = {}
    for group in conductor.classes.values():
        if group.parts.get("recording") == digest:
            reasons.update((skip.workload, skip.reason) for skip in group.skips)
    return recording.with_defaults(reasons)


def _named_defaults(conductor: Conductor, recordings: Mapping[str, Recording]) -> list[str]:
    """Name the requests that keep their default, each with the reason."""
    named: list[str] = []
    for recording in recordings.values():
        for request in recording.requests:
            if not request.is_tuned:
                named.append(f"{request.op} {request.shapes()} keeps its default: {request.keeps_default}")
    for group in conductor.classes.values():
        for skip in group.skips:
            named.append(f"{skip.workload} keeps its default: {skip.reason}")
    return list(dict.fromkeys(named))
