"""The table of an engine's own FlashInfer calls in one process: recorded and tuned, or placed, and proven.

What an engine's adapter adds is where its table lies and when its forward begins and ends.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ray_warmup.warmup.artifact.artifact import Artifact
from ray_warmup.warmup.artifact.table import TunedTable, parse_table
from ray_warmup.warmup.caches.tree import TreeLayout
from ray_warmup.warmup.errors import EngineError, WarmupError
from ray_warmup.warmup.messages.recorded import Served, TableProof
from ray_warmup.warmup.workloads.recorded_request import RecordedRequest, Recording, parse_recording

if TYPE_CHECKING:
    from ray_warmup.warmup.device.request_recorder import RequestRecorder
    from ray_warmup.warmup.device.table_proof import LookupWatch

logger = logging.getLogger(__name__)

TABLE_FILE = TreeLayout("autotune_configs", entry_depth=0)
"""A table as a file by itself, in the directory in which an engine keeps its own."""

SHOWN = 3
"""Problems of one kind that are told."""


@dataclass(frozen=True, slots=True)
class KnownTable:
    """A table and the requests for which it was made."""

    table: TunedTable
    data: bytes
    recordings: tuple[Recording, ...]
    """The requests of each class of ranks."""


def table_of(artifact: Artifact) -> KnownTable | None:
    """Return the table of an artifact, or None if nothing was tuned."""
    data = artifact.table
    if data is None:
        return None
    recordings = tuple(parse_recording(content.data) for content in artifact.contents("recorded_requests"))
    return KnownTable(parse_table(data), data, recordings)


def holds(path: Path, known: KnownTable) -> bool:
    """Return True if a file has every entry of a table, made in the same environment.

    An engine writes such a file again with what it has tuned besides.
    """
    try:
        there = parse_table(path.read_bytes())
    except (OSError, WarmupError):
        return False
    is_equal = all(there.entries.get(key) == entry for key, entry in known.table.entries.items())
    return is_equal and there.metadata == known.table.metadata


def requests_of(artifact: Artifact) -> tuple[RecordedRequest, ...]:
    """Return the requests of all classes of an artifact, each once. Raises CorruptArtifactError."""
    found: dict[str, RecordedRequest] = {}
    for content in artifact.contents("recorded_requests"):
        for request in parse_recording(content.data).requests:
            found[request.digest] = request
    return tuple(found.values())


class EngineTable:
    """One process' part."""

    def __init__(self) -> None:
        self._recorder: RequestRecorder | None = None
        self._watch: LookupWatch | None = None
        self._open = ExitStack()

    @property
    def has_recorded(self) -> bool:
        """Return True once a forward was recorded."""
        return self._recorder is not None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the requests of a forward, and answer each with its default.

        The requests of a further forward of the same start are added.
        """
        from ray_warmup.warmup.device.request_recorder import RequestRecorder
        from ray_warmup.warmup.workloads.live_request import PROCESS

        if self._recorder is None:
            PROCESS.clear()
            self._recorder = RequestRecorder(PROCESS)
        with self._recorder.recording():
            yield

    def tune(self, rank: int, world_size: int, where: str, stacks: Path | None) -> Served:
        """Join the tuning with what was recorded, and return what this process serves now.

        Args:
            rank: of this process in its replica.
            world_size: of the replica.
            where: `token@host:port` of the conductor.
            stacks: file for the stacks of a fatal signal.

        Raises:
            EngineError: nothing was recorded, or the conductor is gone.
            TuningError: this FlashInfer is not known.
        """
        import torch

        from ray_warmup.warmup.device.autotuner_seams import without_store
        from ray_warmup.warmup.device.factory import FLASHINFER_TUNER, load_factory
        from ray_warmup.warmup.engines.tuning.engine_rank import EngineRank
        from ray_warmup.warmup.families.library import installed_family
        from ray_warmup.warmup.workloads.live_request import PROCESS

        if self._recorder is None:
            raise EngineError("the engine's forward was not recorded")
        installed_family()  # where this FlashInfer is not known, nobody joins and the engine goes on
        backend = "cuda" if torch.cuda.is_available() else "cpu"
        token, _, address = where.partition("@")
        engine_rank = EngineRank(rank, world_size, PROCESS.recording(), load_factory(FLASHINFER_TUNER), backend)
        with without_store():
            return engine_rank.serve(address, token, self._recorder.problems, stacks, states=PROCESS.states())

    def refusal(self, known: KnownTable) -> str | None:
        """Return the reason why this process' FlashInfer does not serve a table, or None."""
        from ray_warmup.warmup.device.loading import refusal

        return refusal(known.table)

    def watch(self, known: KnownTable) -> None:
        """Follow every lookup from now to the end of this process."""
        from ray_warmup.warmup.device.table_proof import LookupWatch
        from ray_warmup.warmup.workloads.live_request import LiveRequests

        self._watch = LookupWatch(known.table, known.recordings, LiveRequests())
        self._open.enter_context(self._watch.watching())

    def close(self) -> None:
        """Follow no lookup any more."""
        self._open.close()

    def proof(self) -> TableProof | None:
        """Return what was looked up so far, or None where nothing is followed."""
        if self._watch is None:
            return None
        return self._watch.proof()


def unserved(table: bytes | memoryview, reason: str) -> TableProof:
    """Return the proof of a process that serves none of its artifact's table, for a reason."""
    parsed = parse_table(bytes(table))
    return TableProof(
        digest=parsed.digest,
        entries=len(parsed.entries),
        own_hits=0,
        own_misses=(),
        hits=0,
        misses=(f"the table is not served: {reason}",),
        unasked=(),
    )


def problems_of(proof: TableProof, rank: int) -> list[str]:
    """List why a rank's lookups are no proof: a miss, of the engine's own or of a recorded task."""
    problems = []
    for what, texts in (
        ("the engine's own lookup missed:", proof.own_misses),
        ("a recorded task misses:", proof.misses),
        ("the engine never asked for", proof.unasked),
    ):
        for text in texts[:SHOWN]:
            problems.append(f"rank {rank}: {what} {text}")
    return problems
