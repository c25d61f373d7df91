"""Rows that somebody wrote to a disk: a task's result, its verdict, both together, a banned tactic.

A refused row loses only its own task or ban. The other rows are read, and one line names what was refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from ray_warmup.warmup.artifact.file_key import parse_file_key
from ray_warmup.warmup.codec import decode, message
from ray_warmup.warmup.errors import ArtifactError
from ray_warmup.warmup.tasks import GuardVerdict, TacticId, TaskResult

T = TypeVar("T")


@message
class TimingRow:
    """One line of the sidecar: a task's result, and the guard's verdict where there is one."""

    result: TaskResult
    verdict: GuardVerdict | None = None


BAN_FIELDS = tuple(field.name for field in fields(TacticId))


@dataclass(frozen=True)
class ReadRows(Generic[T]):
    """The rows that are believed, in their order, and why each other one is not."""

    rows: tuple[T, ...] = ()
    refused: tuple[str, ...] = ()

    def warnings(self, where: str) -> tuple[str, ...]:
        """Return one warning for all refused rows, or none."""
        if not self.refused:
            return ()
        count, first = len(self.refused), self.refused[0]
        total = count + len(self.rows)
        return (f"{where}: {count} of {total} rows {'is' if count == 1 else 'are'} refused and left out: {first}",)


def read_results(rows: Iterable[Any], task_ids: Collection[str] | None = None) -> ReadRows[TaskResult]:
    """Validate results of these tasks, or of all tasks if None.

    Results of other tasks are left out silently.
    """
    found = _read(rows, _result)
    if task_ids is None:
        return found
    return ReadRows(tuple(row for row in found.rows if row.task_id in task_ids), found.refused)


def read_timing_rows(rows: Iterable[Any]) -> ReadRows[TimingRow]:
    """The lines of a sidecar."""
    return _read(rows, _timing)


def read_bans(rows: Iterable[Any]) -> ReadRows[TacticId]:
    """The rows of quarantine files. What else a row says of a tactic does not lift its ban."""
    return _read(rows, _ban)


def _read(rows: Iterable[Any], read: Callable[[Any], T]) -> ReadRows[T]:
    believed: list[T] = []
    refused: list[str] = []
    for row in rows:
        try:
            believed.append(read(row))
        except (ArtifactError, ValueError) as error:
            refused.append(str(error))
    return ReadRows(tuple(believed), tuple(refused))


def _ban(row: Any) -> TacticId:
    if isinstance(row, dict):
        row = {name: row[name] for name in BAN_FIELDS if name in row}
    return decode(TacticId, row)


def _result(row: Any) -> TaskResult:
    result = decode(TaskResult, row)
    _check_result(result)
    return result


def _timing(row: Any) -> TimingRow:
    timing = decode(TimingRow, row)
    _check_result(timing.result)
    verdict, result = timing.verdict, timing.result
    if verdict is None:
        return timing
    if verdict.task_id != result.task_id:
        raise ValueError(f"TimingRow: verdict.task_id: {verdict.task_id!r}: must be the result's {result.task_id!r}")
    if result.keys and verdict.choice.runner not in result.keys:
        raise ValueError(f"TimingRow: verdict.choice.runner: {verdict.choice.runner!r}: {_must_have_key(result)}")
    return timing


def _check_result(result: TaskResult) -> None:
    """Check that the fields of a result agree, so that a table can be composed from it.

    Raises ValueError.
    """
    if (result.choice is not None) is not (result.outcome == "tuned"):
        raise ValueError(f"TaskResult: outcome: {result.outcome!r}: a choice goes with 'tuned', and with nothing else")
    if result.choice is not None and result.choice.runner not in result.keys:
        raise ValueError(f"TaskResult: choice.runner: {result.choice.runner!r}: {_must_have_key(result)}")
    if result.keys and result.default_runner not in result.keys:
        raise ValueError(f"TaskResult: default_runner: {result.default_runner!r}: {_must_have_key(result)}")
    for runner, text in result.keys.items():
        key = parse_file_key(text)
        if (key.op, key.runner) != (result.op, runner):
            raise ValueError(f"TaskResult: keys.{runner}: {text[:120]!r}: must be a key of {result.op} and that runner")


def _must_have_key(result: TaskResult) -> str:
    return f"must be one of those with a key of {result.task_id} ({', '.join(result.keys) or 'none'})"
