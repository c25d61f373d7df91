"""`ray_warmup.monitor`: an engine's own process counts what it compiles after ready, and can be asked from outside.

Each monitored process keeps one small JSON file of a random name in `<cache root>/serving/`. It is rewritten after
every compilation or load, and every few minutes as a sign of life. `ray-warmup status` reads the files of its machine.
The monitor removes its file when it ends. The file of a killed process is shown as ended. For a process in another
container, the time of its last sign of life is shown. The next monitor in that directory removes both kinds after a
day.

(The module is not called `monitor`: importing a module of that name would hide the function.)
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.manifest import parse_json
from ray_warmup.warmup.codec import decode, message
from ray_warmup.warmup.disk.looking import entries
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.disk.reading import is_time, read_regular
from ray_warmup.warmup.errors import CorruptArtifactError, StoreError
from ray_warmup.warmup.metrics import catalog, sink
from ray_warmup.warmup.store.leases import is_process_alive, process_identity
from ray_warmup.warmup.store.node_paths import resolve_paths

if TYPE_CHECKING:
    from ray_warmup.warmup.monitor.compilation_monitor import MonitorReport
    from ray_warmup.warmup.monitor.compile_hooks import Compilation

logger = logging.getLogger(__name__)

FOLDER = "serving"
SHOWN = 20
"""Latest compilations that the file names; all are counted."""
MAX_RECORD_BYTES = 1 << 20
ENDED_KEPT_S = 24 * 3600.0
BEAT_S = 300.0
"""Between signs of life."""


@message
class ServingProcess:
    """A monitored process, as its record tells."""

    name: str
    pid: int
    start: str
    """Start time of the process."""
    host: str
    mode: str
    started_at: float
    """When the monitor began."""
    updated_at: float
    compiled: dict[str, int]
    loaded: dict[str, int]
    unavailable: dict[str, str]
    events: tuple[str, ...]
    """The latest compilations."""
    alive: bool | None = None
    """Added by the reader. None for a process in another container's process namespace."""


RECORDED = tuple(field.name for field in fields(ServingProcess) if field.name != "alive")
"""Fields of a record's file. A later version may write more."""


def monitor(
    name: str = "engine", mode: Literal["count", "warn", "raise"] = "warn", root: str | os.PathLike[str] | None = None
) -> ServingMonitor:
    """Count FlashInfer builds, Triton compilations and CuTe-DSL compilations of this process from now on.

    Call it when the engine is ready. The counters begin at zero. Kernels that come from a disk cache on first use are
    counted separately from compiled ones.

    Args:
        name: what this process is, for those who ask.
        mode: `warn` logs each one with kernel, argument types and shape; `raise` raises UnexpectedCompilationError in
            the step that compiles; `count` says nothing.
        root: cache root of this node; None: as for a config without one.
    """
    directory = (resolve_paths(CacheSection()).root if root is None else Path(root)) / FOLDER
    return ServingMonitor(name, mode, directory)


class ServingMonitor:
    """One process' monitor, active until `close` or the end of a `with` block."""

    def __init__(self, name: str, mode: Literal["count", "warn", "raise"], directory: Path) -> None:
        from ray_warmup.warmup.monitor.compilation_monitor import CompilationMonitor

        self._name, self._directory, self._started_at = name, directory, time.time()
        self._pid = 0
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._monitor = CompilationMonitor(mode, listener=self._heard)
        self._monitor.activate()
        _sweep(directory)
        self._write()

    def running(self, shape: str) -> AbstractContextManager[None]:
        """Name what this thread runs in the body, for example a step's shape."""
        return self._monitor.running(shape)

    def report(self) -> MonitorReport:
        """Return the compilations and loads since the monitor began."""
        return self._monitor.report()

    def close(self) -> None:
        """Stop counting and remove the record's file.

        A second call does nothing.
        """
        self._monitor.deactivate()
        self._ended.set()
        if self._pid != os.getpid():
            return  # a forked process that compiled nothing: the record is its parent's
        with self._writing, suppress(OSError):  # never written, or a disk that refuses: it will be shown as ended
            self.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _heard(self, event: Compilation) -> None:
        self._write()
        source = "disk" if event.from_disk else "compiled"
        sink.record(catalog.COMPILATIONS.sample(1, process=self._name, kind=event.kind, source=source))

    def _write(self) -> None:
        """A disk that refuses costs those outside their answer, never the engine its step."""
        with self._writing:
            if self._ended.is_set():
                return
            self._begin()
            seen = self._monitor.report()
            document = {
                "name": self._name,
                **self._process,
                "mode": seen.mode,
                "started_at": self._started_at,
                "updated_at": time.time(),
                "compiled": seen.compiled,
                "loaded": seen.loaded,
                "unavailable": seen.unavailable,
                "events": [str(event) for event in seen.events[-SHOWN:]],
            }
            try:
                publish_bytes(self.path, json.dumps(document, indent=1).encode())
            except StoreError as error:
                logger.warning(
                    "the monitor of %s cannot be asked from outside: %s "
                    "-> make the cache root writable (`ray-warmup doctor`)",
                    self._name,
                    error,
                )

    def _begin(self) -> None:
        """Start this process's record once.

        A forked process starts its own.
        """
        if self._pid == os.getpid():
            return
        self._pid, self._process = os.getpid(), process_identity(os.getpid())
        self.path = self._directory / f"{secrets.token_hex(8)}.json"
        """Path of this process's record."""
        threading.Thread(target=self._beat, name="ray-warmup-monitor", daemon=True).start()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            self._write()


def serving_processes(root: Path) -> list[ServingProcess]:
    """Return the records of this machine's monitored processes, ordered by start."""
    found = [record for _, record in _records(root / FOLDER) if _is_here(record.host)]
    return sorted(found, key=lambda record: (record.started_at, record.pid))


def _records(directory: Path) -> Iterator[tuple[Path, ServingProcess]]:
    try:
        names = sorted(entry.name for entry in entries(directory) if entry.name.endswith(".json"))
    except StoreError as error:
        logger.warning("%s -> make that directory readable for this user", error)
        return
    for path in (directory / name for name in names if not name.startswith(".")):
        try:
            yield path, _read(path)
        except FileNotFoundError:
            continue  # closed meanwhile
        except (StoreError, CorruptArtifactError) as error:
            logger.warning("%s is not a monitor's record: %s -> remove the file", path, error)


def _read(path: Path) -> ServingProcess:
    """Read one record, which may be foreign or damaged. Raises CorruptArtifactError."""
    document = parse_json(read_regular(path, MAX_RECORD_BYTES), MAX_RECORD_BYTES, str(path))
    if not isinstance(document, dict):
        raise CorruptArtifactError("it must be an object")
    record = decode(ServingProcess, {name: document[name] for name in RECORDED if name in document})
    if not (is_time(record.started_at) and is_time(record.updated_at)):
        raise CorruptArtifactError("started_at and updated_at must be times")
    return replace(record, alive=is_process_alive(document))


def _sweep(directory: Path) -> None:
    for path, record in _records(directory):
        if not record.alive and time.time() - record.updated_at > ENDED_KEPT_S:
            with suppress(OSError):
                path.unlink()


def _is_here(host: str) -> bool:
    """Return True if a record is of this machine: of this boot in any container, or of a machine of this name."""
    own = process_identity(os.getpid())["host"]
    boot, _, rest = own.partition("/")
    # `boot/process namespace/name`, or one word where the host has no boot id.
    is_same_boot = host == boot or host.startswith(f"{boot}/")
    return is_same_boot or host.rpartition("/")[2] == rest.rpartition("/")[2]
