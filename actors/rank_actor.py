"""The border between a rank's plain class and Ray: location, messages, references to bytes, heartbeats.

Only `rank_group.py` wraps `RankActor` in `ray.remote`. The actor has three concurrency groups. The default group runs
the phases one after the other. `control` answers `status` meanwhile. `life` holds one call that ends with the process,
which makes a death known at once.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray

from ray_warmup.actors.transfer import Refs, buffer, fetch
from ray_warmup.configs import VERSION, ConfigError, WarmupConfig, env
from ray_warmup.configs.loader import config_of_text
from ray_warmup.warmup.device.factory import load_factory
from ray_warmup.warmup.errors import StoreError, TuningError
from ray_warmup.warmup.messages.values import Heartbeat, Located
from ray_warmup.warmup.messages.wire import QUESTIONS, from_bytes, to_bytes
from ray_warmup.warmup.rank.process_end import started_at
from ray_warmup.warmup.ranks import ActorLocation, RankInfo
from ray_warmup.warmup.store.node_paths import flashinfer_environment, resolve_paths

if TYPE_CHECKING:
    from ray_warmup.warmup.rank.process import RankProcess

logger = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""Of coordinator and ranks: several nodes' logs are read side by side, so every line has its time."""


@dataclass(frozen=True, slots=True)
class Work:
    """Instructions that every rank receives once."""

    config: str
    """As `text_of_config` writes it."""
    backend: str
    tuner: str
    run_id: str
    environment: Mapping[str, str] = field(default_factory=dict)


class RankActor:
    """One rank's process."""

    def __init__(self, bundle_index: int, work: Work) -> None:
        env.export(dict(work.environment))
        os.umask(os.umask(0o077) | 0o022)  # what FlashInfer and Triton build is loaded as code: nobody else writes it
        die_of_sigterm()
        logging.basicConfig(level=env.read("RAY_WARMUP_LOG_LEVEL") or "INFO", format=LOG_FORMAT)
        self._bundle_index = bundle_index
        self._work = work
        self._config = config_of_text(work.config)
        self._process: RankProcess | None = None
        self._closed = threading.Event()
        # The imports take seconds: they run while other actors are still being placed.
        threading.Thread(target=import_early, args=(self._config, work.tuner), daemon=True).start()

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
        from ray_warmup.warmup.rank.process import RankProcess  # here, because the coordinator imports this module, too

        work = self._work
        self._process = RankProcess(
            from_bytes(info, RankInfo),
            self._config,
            work.backend,
            lambda device, options: load_factory(work.tuner)(device, options),  # awaited in PROBING, under its deadline
            work.run_id,
            work.tuner,
        )

    def call(self, question: bytes, refs: Refs | None = None) -> tuple[bytes, float]:
        """Return the answer to a question, and its seconds.

        The rank fetches those of `refs` that it needs.
        """
        from ray_warmup.warmup.rank.answering import answer

        assert self._process is not None, "assign comes first"
        began = time.monotonic()
        asked = from_bytes(question, *QUESTIONS)
        blobs: Mapping[str, memoryview] = {}
        if refs is not None:
            wanted = set(self._process.wanted(asked, [digest for digest, _ in refs]))
            blobs = fetch([pair for pair in refs if pair[0] in wanted])
        answered = to_bytes(answer(self._process, asked, blobs))
        return answered, time.monotonic() - began

    def blob(self, digest: str) -> Any:
        """One packed blob, for the coordinator to take over."""
        assert self._process is not None, "assign comes first"
        return buffer(self._process.blob(digest))

    def status(self) -> bytes:
        """Return the current work as a `Heartbeat`, also while a phase runs."""
        return to_bytes(Heartbeat("", "", 0.0) if self._process is None else self._process.status())

    def live(self) -> None:
        """Block until the rank is closed. Raises in the caller if the process dies."""
        self._closed.wait()

    def close(self) -> None:
        """Remove what the rank left on disk for this run only."""
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


def import_early(config: WarmupConfig, tuner: str) -> None:
    """Begin the imports of PROBING, which waits for them. A failure repeats there and is reported then."""
    if not config.autotune.is_enabled:
        return
    try:
        env.export(flashinfer_environment(resolve_paths(config.cache)))
        load_factory(tuner)
    except (ImportError, AttributeError, OSError, RuntimeError, ConfigError, StoreError, TuningError) as error:
        logger.info("early import of %s: %s", tuner, error)
