"""Autotune of FlashInfer's sparse-MLA decode kernels on the SM120 family, and how its result joins the main table.

Two entry points are known and both are optional: a context manager around the mixed step that writes an autotune
file, and (FlashInfer 0.7.2) a calibration call whose result is a second file. Only the leader tunes; the others run
the mixed step alone. Whoever tunes, the mixed shape counts as run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ray_warmup.configs.strict_json import parse_json
from ray_warmup.warmup.artifact.manifest import TABLE_NAME
from ray_warmup.warmup.artifact.table import describe_difference, metadata_difference, parse_table
from ray_warmup.warmup.caches.decode_profiles import FILE_NAME as CALIBRATION_NAME
from ray_warmup.warmup.caches.decode_profiles import MAX_BYTES as MAX_CALIBRATION_BYTES
from ray_warmup.warmup.engines.builtin.runner.protocol import Capability, lacking
from ray_warmup.warmup.engines.builtin.warmups.sparse_mla import MIXED, mixed_shape, run_mixed, sparse_mla_gate
from ray_warmup.warmup.engines.builtin.warmups.spec import (
    EngineWarmup,
    Notes,
    Severity,
    Shape,
    Skip,
    Stage,
    TunedFile,
    WarmupContext,
)
from ray_warmup.warmup.errors import CorruptArtifactError, EngineWarmupError, RejectedArtifactError

SM120_FAMILY = 12
"""Major compute capability."""
NEEDED = (Capability.DUMMY_RUN, Capability.FORCE_ATTENTION, Capability.MIXED_BATCH)


class DecodeTuning(Protocol):
    """One of FlashInfer's ways to tune the decode."""

    def tune(self, mixed_step: Callable[[], None]) -> TunedFile | None:
        """Tune with (or before) the mixed step, which runs exactly once. Returns None if nothing was tuned."""


@dataclass(frozen=True, slots=True)
class ContextTuning:
    """An entry point that is a context manager: what runs inside is tuned, into a file of the main table's form."""

    entry_point: Callable[..., AbstractContextManager[Any]]
    path: Path | None
    """Private file to write; only the leader needs one."""

    def tune(self, mixed_step: Callable[[], None]) -> TunedFile | None:
        """See `DecodeTuning.tune`."""
        if self.path is None:
            raise EngineWarmupError(
                "the decode autotune writes a file: set EngineWarmupOptions.decode_tune_path on the leader"
            )
        with self.entry_point(cache_path=str(self.path)):
            mixed_step()
        if self.path.exists():
            return TunedFile(TABLE_NAME, self.path.read_bytes())
        return None


@dataclass(frozen=True, slots=True)
class CalibrationTuning:
    """An entry point that measures by itself and names its file in the report."""

    entry_point: Callable[..., Any]

    def tune(self, mixed_step: Callable[[], None]) -> TunedFile | None:
        """Tune as `DecodeTuning.tune` does.

        A file without any profile counts as nothing tuned.
        """
        report = self.entry_point()
        mixed_step()
        path = Path(report.cache_path)
        if not (report.entries_calibrated or report.entries_skipped) or not path.exists():
            return None
        return TunedFile(CALIBRATION_NAME, path.read_bytes())


def find_tuning(path: str | None) -> DecodeTuning | None:
    """Return the tuning entry point of the installed FlashInfer, the same on every rank, or None."""
    try:
        import flashinfer
        import flashinfer.mla
    except ImportError:
        return None
    around = getattr(flashinfer, "sparse_mla_sm120_decode_dsv4_autotune", None)
    if around is not None:
        return ContextTuning(around, None if path is None else Path(path))
    calibrate = getattr(flashinfer.mla, "calibrate_sparse_mla_sm120", None)
    if calibrate is None:
        return None
    return CalibrationTuning(calibrate)


class SM120DecodeWarmup(EngineWarmup):
    """Optional: without it FlashInfer's own heuristic serves."""

    name = "sm120_decode"
    stage = Stage.AUTOTUNE
    severity: Severity = "optional"
    leaves = ("tuned decode profiles", "FlashInfer modules")

    def __init__(self, find: Callable[[str | None], DecodeTuning | None] = find_tuning) -> None:
        self._find = find

    def gate(self, context: WarmupContext) -> Skip | None:
        """Autotune explicitly true, a sparse-MLA model, a GPU of the family, and an entry point (else a warning)."""
        if context.options.autotune is not True:
            return Skip("autotune is not switched on explicitly")
        if (skip := sparse_mla_gate(context)) is not None:
            return skip
        if context.capability is None or context.capability[0] != SM120_FAMILY:
            return Skip(f"compute capability is {context.capability}, not of the SM120 family")
        if (reason := lacking(context.runner, *NEEDED)) is not None:
            return Skip(reason)
        if self._find(context.options.decode_tune_path) is None:
            return Skip(
                "this FlashInfer has no sparse-MLA decode autotune; the plain mixed step runs instead", warn=True
            )
        return None

    def shapes(self, context: WarmupContext) -> tuple[Shape, ...]:
        """The mixed step."""
        return (mixed_shape(context),)

    def run(self, context: WarmupContext, shape: Shape) -> Notes:
        """Tune on the leader, or run the mixed step on another rank.

        Either way later warmups do not run it again.
        """
        consumed = frozenset({MIXED})
        tuning = None
        if context.is_leader:
            tuning = self._find(context.options.decode_tune_path)
        if tuning is None:
            run_mixed(context, shape.tokens)
            return Notes(consumed=consumed)
        tuned = tuning.tune(lambda: run_mixed(context, shape.tokens))
        if tuned is None:
            return Notes(("nothing was tuned; FlashInfer's heuristic serves sparse-MLA decode",), consumed)
        return Notes(consumed=consumed, tuned=(tuned,))


def merge_into_artifact(main_table: bytes | None, tuned: tuple[TunedFile, ...]) -> dict[str, bytes]:
    """Named blobs of one artifact: the main table with tuned entries merged in, and further files beside it.

    Args:
        main_table: what the main tune wrote; None when it tuned nothing.
        tuned: what the engine warmups tuned on the leader.

    Raises:
        RejectedArtifactError: a tuned table is of another environment or contradicts the main one.
        CorruptArtifactError: a tuned file is not the JSON that it should be.
    """
    blobs = {} if main_table is None else {TABLE_NAME: main_table}
    for file in tuned:
        if file.name != TABLE_NAME:
            _check_json(file)
        blobs[file.name] = _merged(blobs.get(file.name), file)
    return blobs


def _check_json(file: TunedFile) -> None:
    try:
        parse_json(file.content, MAX_CALIBRATION_BYTES)
    except ValueError as error:
        raise CorruptArtifactError(f"tuned file {file.name} is not JSON: {error}", name=file.name) from error


def _merged(present: bytes | None, file: TunedFile) -> bytes:
    if present is None or present == file.content:
        return file.content
    if file.name != TABLE_NAME:
        raise RejectedArtifactError(f"two different files named {file.name} were tuned", name=file.name)
    main, added = parse_table(present), parse_table(file.content)
    if difference := metadata_difference(added.metadata, main.metadata):
        raise RejectedArtifactError(f"tuned decode table is of another environment: {describe_difference(difference)}")
    known = main.by_task()
    for task, key in added.by_task().items():
        if task in known and main.entries.get(key) != added.entries[key]:
            raise RejectedArtifactError(f"tuned decode table contradicts the main table at {key}", key=key)
    return replace(
        main, entries=main.entries | added.entries, records=main.records | added.records, generation=None
    ).to_bytes()
