"""The border between a process of a run and Ray: location, messages, references to bytes, heartbeats.

A subclass says what the process is: a rank (`rank_actor.py`) or an engine's launcher (`engine_launcher.py`). Three
concurrency groups: the default one runs the questions one after the other; `control` answers `status` meanwhile; `life`
holds one call that ends when the process does, so that its death is known at once.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray

from ray_warmup.actors.cluster.transfer import Refs, buffer, fetch
from ray_warmup.actors.processes.logs import mark
from ray_warmup.configs import VERSION, env
from ray_warmup.warmup.artifact.artifact import Blob
from ray_warmup.warmup.messages.questions import AnyQuestion
from ray_warmup.warmup.messages.values import Heartbeat, Located
from ray_warmup.warmup.messages.wire import AnyAnswer, from_bytes, to_bytes
from ray_warmup.warmup.rank.process_end import started_at
from ray_warmup.warmup.ranks import ActorLocation, RankInfo

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""Of coordinator and ranks: several nodes' logs are read side by side, so every line has its time."""


@dataclass(frozen=True, slots=True)
class Work:
    """Instructions that every process of a run receives once."""

    config: str
    """As `text_of_config` writes it."""
    backend: str
    tuner: str
    run_id: str
    environment: Mapping[str, str] = field(default_factory=dict)


class Answering(Protocol):
    """Work of a process, without Ray."""

    def wanted(self, question: Any, digests: Sequence[str]) -> Sequence[str]:
        """Return those blobs of a question's artifact that are to be fetched."""

    def answer(self, question: Any, blobs: Mapping[str, Blob]) -> AnyAnswer:
        """Answer a question."""

    def blob(self, digest: str) -> Blob:
        """Return one packed blob."""

    def status(self) -> Heartbeat:
        """Return the current work."""

    def close(self) -> None:
        """End what belongs to the run alone."""


class ProcessActor:
    """One process of a run."""

    questions: tuple[type[AnyQuestion], ...] = ()
    """Kinds of question that it answers."""

    def __init__(self, bundle_index: int, work: Work) -> None:
        env.export(dict(work.environment))
        os.umask(os.umask(0o077) | 0o022)  # what libraries build here is loaded as code: nobody else writes it
        die_of_sigterm()
        logging.basicConfig(level=env.read("RAY_WARMUP_LOG_LEVEL") or "INFO", format=LOG_FORMAT)
        self._bundle_index = bundle_index
        self._work = work
        self._process: Answering | None = None
        self._closed = threading.Event()

    def make(self, info: RankInfo) -> Answering:
        """Make what answers for a rank."""
        raise NotImplementedError(f"{type(self).__name__} must say what it does for {info}")

    def locate(self) -> bytes:
        """Return this actor's location and versions, as a `Located`."""
        context = ray.get_runtime_context()
        place = ActorLocation(
            bundle_index=self._bundle_index,
            node_id=context.get_node_id(),
            gpu_ids=tuple(str(gpu) for gpu in context.get_accelerator_ids().get("GPU", [])),
            address=ray.util.get_node_ip_address(),
            pid=os.getpid(),
            started=started_at(os.getpid()),
            host=socket.gethostname(),
        )
        return to_bytes(Located(place, versions()))

    def assign(self, info: bytes) -> None:
        """Give this process its rank: a `RankInfo`."""
        given = from_bytes(info, RankInfo)
        mark(self._work.run_id, given.rank, given.node_id)
        self._process = self.make(given)

    def call(self, question: bytes, refs: Refs | None = None) -> tuple[bytes, float]:
        """Return the answer to a question, and its seconds.

        The process fetches those of `refs` that it needs.
        """
        assert self._process is not None, "assign comes first"
        began = time.monotonic()
        asked = from_bytes(question, *self.questions)
        blobs: Mapping[str, memoryview] = {}
        if refs is not None:
            wanted = set(self._process.wanted(asked, [digest for digest, _ in refs]))
            blobs = fetch([pair for pair in refs if pair[0] in wanted])
        answered = to_bytes(self._process.answer(asked, blobs))
        return answered, time.monotonic() - began

    def blob(self, digest: str) -> Any:
        """One packed blob, for the coordinator to take over."""
        assert self._process is not None, "assign comes first"
        return buffer(self._process.blob(digest))

    def status(self) -> bytes:
        """Return the current work as a `Heartbeat`, also while a phase runs."""
        return to_bytes(Heartbeat("", "", 0.0) if self._process is None else self._process.status())

    def live(self) -> None:
        """Block until the process is closed. Raises in the caller if it dies."""
        self._closed.wait()

    def close(self) -> None:
        """Remove what the process left for this run only."""
        if self._process is not None:
            self._process.close()
        self._closed.set()


def die_of_sigterm() -> None:
    """End at once on SIGTERM. Ray's own handler ends the main thread only, and the rest stays, answering nothing."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))


def versions() -> dict[str, str]:
    """Versions that decide whether processes understand each other."""
    try:
        flashinfer = importlib.metadata.version("flashinfer-python")
    except importlib.metadata.PackageNotFoundError:
        flashinfer = "not installed"
    return {"ray": ray.__version__, "ray-warmup": VERSION, "flashinfer": flashinfer}
