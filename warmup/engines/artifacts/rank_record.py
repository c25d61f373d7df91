"""Record of one engine process: identity, directories, compile paths and counts, as one JSON file per rank.

The engine's process writes it, and the launcher that started it reads it. A launcher requests it through
`RAY_WARMUP_RECORD`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ray_warmup.warmup.artifact.manifest import parse_json
from ray_warmup.warmup.codec import decode, encode, message
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.engines.artifacts.specialisations import KERNELS
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError
from ray_warmup.warmup.messages.recorded import TableProof

SCHEMA_VERSION = 3
ANY_DEVICE = -1
_LIMIT = 16 << 20
SHOWN_STAGES = 8


@message
class CompiledModule:
    """One compiled module of a model and where this process looked for its ahead-of-time file."""

    tag: str
    """vLLM's digest of the module's code: equal in every start of one version."""
    path: str
    rank: str
    """vLLM's name of the rank's directory, `rank_0_0`."""
    device_index: int
    """CUDA device index that is baked into the file; ANY_DEVICE where none is."""


@message
class WatchedDirectory:
    """A directory whose new results are compilations, and the results that it held when it was first looked at."""

    kind: str
    directory: str
    before: tuple[tuple[str, int], ...]
    """(result, nanoseconds at which it was written)."""


@message
class CompileCounts:
    """Compiled and found entries per cache kind in one process."""

    compiled: dict[str, int]
    found: dict[str, int]
    names: tuple[str, ...]
    """`kind: name` of what was compiled."""


@message
class RankRecord:
    """One worker process."""

    rank: int
    pid: int
    identity: tuple[tuple[str, str], ...]
    settings: dict[str, str]
    """`section.field` -> text of the resolved configuration (`identity.settings_of`)."""
    compile_factors: dict[str, str]
    """Every environment factor of vLLM's compile key."""
    places: tuple[tuple[str, str], ...]
    """(kind, directory), in order."""
    modules: tuple[CompiledModule, ...]
    counts: CompileCounts
    deaf: dict[str, str]
    """Compiler that is installed -> why nobody hears it in this process."""
    watched: tuple[WatchedDirectory, ...]
    """Compared once more when the engine has ended: nobody hears what its requests compile into these."""
    specialisations: tuple[tuple[str, str], ...]
    """(function, data) of every Triton kernel that the process met; empty where nothing is recorded."""
    placed: dict[str, int]
    """Kind -> entries that were put in place in this process."""
    lookup: str
    """`hit`, or why there was nothing to place."""
    own_seconds: float
    """Time spent in this project's code."""
    module_requirements: dict[str, str]
    """Requirements of FlashInfer's compiled modules (`flashinfer_modules.describe_process`)."""
    is_warm: bool
    """True once the engine's warmup has ended."""
    table: TableProof | None = None
    """What was looked up in the table of the engine's own calls; None where none was placed."""
    schema_version: int = SCHEMA_VERSION

    @property
    def found(self) -> dict[str, int]:
        """Return what was found by kind, the hit entries of the table and the loaded kernels among it."""
        found = dict(self.counts.found)
        if self.table is not None:
            found["autotune_configs"] = self.table.hits
        # A recorded kernel is loaded from the placed cache, and one that is not there is heard as compiled.
        if self.placed.get(KERNELS):
            found[KERNELS] = self.placed[KERNELS]
        return found

    def write(self, directory: Path) -> None:
        """Publish the record as `rank_<n>.json`. Raises StoreError."""
        publish_bytes(directory / f"rank_{self.rank}.json", json.dumps(encode(self)).encode() + b"\n")


@message
class BesideRecord:
    """A process that looked up facts of a model: the front end, or the worker where both are one process."""

    pid: int
    placed: dict[str, int]
    own_seconds: float
    """Time spent in this project's code."""
    found: int = 0
    """Lookups of a model's facts that were answered from a file."""
    inspected: tuple[str, ...] = ()
    """Files of facts that were not there or of another source: the engine inspects the model's class."""

    def write(self, directory: Path) -> None:
        """Publish the record as `beside_<pid>.json`. Raises StoreError."""
        publish_bytes(directory / f"beside_{self.pid}.json", json.dumps(encode(self)).encode() + b"\n")


def read_records(directory: Path) -> tuple[RankRecord, ...]:
    """Read the records of all ranks, by rank.

    Raises:
        CorruptArtifactError: a file is no record.
        RejectedArtifactError: another version wrote it.
    """
    records = [_read(path) for path in sorted(directory.glob("rank_*.json"))]
    return tuple(sorted(records, key=lambda record: record.rank))


def read_besides(directory: Path) -> tuple[BesideRecord, ...]:
    """Read the records of all processes that looked up facts of a model. Raises CorruptArtifactError."""
    found = []
    for path in sorted(directory.glob("beside_*.json")):
        found.append(decode(BesideRecord, parse_json(path.read_bytes(), _LIMIT, str(path))))
    return tuple(found)


def write_stage(directory: Path, rank: int, text: str) -> None:
    """Say what a worker is at. Raises StoreError."""
    publish_bytes(directory / f"rank_{rank}.stage", text.encode())


def write_note(directory: Path, text: str) -> None:
    """Say something of this start that its report must show, in place of what this process said. Raises StoreError."""
    publish_bytes(directory / f"{own_pid()}.note", text.encode())


def notes_in(directory: Path) -> tuple[str, ...]:
    """Return what processes of a start have said for its report, each text once."""
    found = [path.read_text(encoding="utf-8") for path in sorted(directory.glob("*.note"))]
    return tuple(dict.fromkeys(found))


def stage_in(directory: Path) -> str:
    """Return what a start is at: its front end, and each worker that has said anything."""
    try:
        front = (directory / "stage").read_text(encoding="utf-8")
    except FileNotFoundError:
        return "starting its process"
    workers = []
    for path in sorted(directory.glob("rank_*.stage"))[:SHOWN_STAGES]:
        rank = path.stem.removeprefix("rank_")
        workers.append(f"rank {rank}: {path.read_text(encoding='utf-8')}")
    if workers:
        return f"{front} ({', '.join(workers)})"
    return front


def _read(path: Path) -> RankRecord:
    document = parse_json(path.read_bytes(), _LIMIT, str(path))
    try:
        record = decode(RankRecord, document)
    except CorruptArtifactError as error:
        raise CorruptArtifactError(f"{path} is no record of a rank: {error}", path=str(path)) from error
    if record.schema_version != SCHEMA_VERSION:
        raise RejectedArtifactError(
            f"{path} has schema version {record.schema_version}, this version reads {SCHEMA_VERSION}", path=str(path)
        )
    return record


def own_pid() -> int:
    """This process' number."""
    return os.getpid()


def device_name(device_index: int) -> str:
    """Return the part of a content's path that says on which device index its file runs."""
    if device_index == ANY_DEVICE:
        return "any_device"
    return f"device_{device_index}"
