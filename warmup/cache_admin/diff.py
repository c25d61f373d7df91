"""Compare two generations of a store: winners, their times, and the blobs beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_warmup.warmup.artifact.artifact import Artifact
from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.artifact.table import TunedTable, parse_table
from ray_warmup.warmup.artifact.timings import read_timings
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.tasks import TaskResult


@dataclass(frozen=True, slots=True)
class TaskChange:
    """One task whose table entry differs between two generations.

    Times are in seconds, None if not recorded.
    """

    task: str
    old: str
    new: str
    old_s: float | None
    new_s: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Changes from one generation to another."""

    old: int
    new: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[TaskChange, ...]
    same: int
    blobs: tuple[str, ...]
    """`+kind/path`, `-kind/path` or `~kind/path` for blobs other than the table and its timings."""


@dataclass(frozen=True, slots=True)
class _Winners:
    """Task -> what serves it, and task -> its recorded time."""

    choices: dict[str, str]
    times: dict[str, float]


def diff_generations(path: Path, old: int, new: int) -> Difference:
    """Return the changes from generation `old` to `new`.

    Raises StoreError when one of them is not there, CorruptArtifactError when it is damaged.
    """
    before, after = (_load(NodeStore(path), number) for number in (old, new))
    left, right = _winners(before), _winners(after)
    both = left.choices.keys() & right.choices.keys()
    changed = []
    for task in sorted(both):
        one, other = left.choices[task], right.choices[task]
        if one != other:
            changed.append(TaskChange(task, one, other, left.times.get(task), right.times.get(task)))
    return Difference(
        old=old,
        new=new,
        added=tuple(sorted(right.choices.keys() - both)),
        removed=tuple(sorted(left.choices.keys() - both)),
        changed=tuple(changed),
        same=len(both) - len(changed),
        blobs=tuple(_blob_changes(before.manifest, after.manifest)),
    )


def _load(store: NodeStore, number: int) -> Artifact:
    return store.read_artifact(["autotune_configs", "timings"], generation=number)


def _winners(artifact: Artifact) -> _Winners:
    if artifact.table is None:
        return _Winners({}, {})
    table = parse_table(artifact.table)
    names = {key: _name(task) for task, key in table.by_task().items()}
    choices = {names[key]: f"{entry.runner} {entry.to_json()[1]}" for key, entry in table.entries.items()}
    return _Winners(choices, dict(_times(artifact, table, names)))


def _name(task: tuple[str, tuple[Any, ...], tuple[Any, ...]]) -> str:
    """`op shapes extras`, as one line: `bf16_gemm ((256, 1024), (1024, 4096))`."""
    return " ".join(str(part) for part in task if part != ())


def _times(artifact: Artifact, table: TunedTable, names: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    for row in read_timings(artifact).rows:
        for runner, key in row.result.keys.items():
            if key not in table.entries:
                continue
            time = _time_of(row.result, runner, table.entries[key].tactic)
            if time is not None:
                yield names[key], time


def _time_of(result: TaskResult, runner: str, tactic: Any) -> float | None:
    for row in result.measurements:
        if (row.runner, row.tactic) == (runner, tactic):
            return row.median_s
    return None


def _blob_changes(old: Manifest, new: Manifest) -> Iterator[str]:
    left, right = _digests(old), _digests(new)
    for name in sorted(left.keys() | right.keys()):
        if name not in left:
            yield f"+{name}"
        elif name not in right:
            yield f"-{name}"
        elif left[name] != right[name]:
            yield f"~{name}"


def _digests(manifest: Manifest) -> dict[str, str]:
    """Map the names of the blobs beside table and timings to their contents' sha256."""
    found = {}
    for blob in manifest.blobs:
        if blob.kind not in ("autotune_configs", "timings"):
            found[f"{blob.kind}/{blob.path}"] = blob.content_sha256
    return found
