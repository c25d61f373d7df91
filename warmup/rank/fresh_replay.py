"""A process that loads and replays a table and warms an engine, and nothing else: what it compiles is what is shipped.

Tuning leaves every tactic's kernels in the driver's cache; a serving process needs those of the winners. The parent
holds a `FreshProcess`; the child is this module with the factory as its argument and one message on stdin. It
imports before it reads, so that one which was started while the parent still measures has its imports behind it when
the table is there. It touches the GPU only after that.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import ray_warmup
from ray_warmup.configs import ConfigError, WarmupConfig
from ray_warmup.configs.dimensions import dimensions_of
from ray_warmup.configs.loader import config_of_text
from ray_warmup.configs.strict_json import parse_json
from ray_warmup.warmup.caches import compute_cache, flashinfer_modules, triton_cache
from ray_warmup.warmup.device.factory import load_factory
from ray_warmup.warmup.errors import LoadError, MessageError, WarmupError
from ray_warmup.warmup.messages.answers import Warmed
from ray_warmup.warmup.messages.replays import FreshlyReplayed, FreshReplay
from ray_warmup.warmup.messages.wire import from_bytes, to_bytes
from ray_warmup.warmup.monitor.compile_hooks import FlashInferHook
from ray_warmup.warmup.signing.policy import believe
from ray_warmup.warmup.store.leases import is_process_alive, process_identity
from ray_warmup.warmup.tasks import tasks_of

logger = logging.getLogger(__name__)

ROOT = Path(ray_warmup.__file__).resolve().parents[1]
PATH_VARIABLE = "PYTHONPATH"
PREFIX, OWNER = "ray-warmup-replay-", "owner.json"
OWNER_BYTES = 4096
"""Of a scratch directory, and the file in it that says whose it is."""


class FreshProcess:
    """A child process that waits for one request.

    `close`, or the end of this process, ends it. Use as a context.
    """

    def __init__(self, factory: str, environ: Mapping[str, str]) -> None:
        """Start the child.

        Args:
            factory: the tuner as `module:Class`.
            environ: the process' environment; the compute cache is replaced, the import path extended.

        Raises:
            LoadError: the system gives it no directory or no process.
        """
        self._scratch = _new_scratch()
        self.compute_cache = self._scratch / "compute_cache"
        """The driver's compute cache of the child. `close` removes it."""
        path = ":".join(filter(None, (str(ROOT), environ.get(PATH_VARIABLE))))
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "ray_warmup.warmup.rank.fresh_replay", factory, str(self._scratch)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**environ, **compute_cache.replay_environment(self.compute_cache), PATH_VARIABLE: path},
            )
        except OSError as error:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise LoadError(f"no process could be started for the replay: {error}") from error

    @property
    def is_alive(self) -> bool:
        """Return True if the child still waits."""
        return self._child.poll() is None

    def replay(self, request: FreshReplay, table: bytes, timeout_s: float) -> FreshlyReplayed:
        """Replay a table there.

        Raises:
            LoadError: the process failed or took longer than `timeout_s`; kernels are then not shipped.
        """
        file = self._scratch / "autotune_configs.json"
        try:
            self.compute_cache.mkdir(exist_ok=True)  # the driver makes it as soon as the child's imports load it
            file.write_bytes(table)
        except OSError as error:
            raise LoadError(f"{file} cannot be written for the replay (TMPDIR): {error}") from error
        try:
            said = to_bytes(replace(request, table=str(file)))
            out, err = self._child.communicate(said, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"the replay for the compute cache took longer than {timeout_s:.0f} s") from error
        if self._child.returncode != 0:
            raise LoadError(f"the replay for the compute cache failed with {self._child.returncode}: {_end(err)}")
        try:
            return from_bytes(b"\n".join(out.splitlines()[-2:]), FreshlyReplayed)  # libraries may have said more before
        except MessageError as error:
            raise LoadError(
                f"the replay for the compute cache ended without an answer: {error}: {_end(err)}"
            ) from error

    def close(self) -> None:
        """End the child and remove what it wrote."""
        # Killed and not asked: it may be inside a kernel, and everything it wrote is removed below.
        self._child.kill()
        # Without it the child stays a zombie for as long as the rank lives.
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> FreshProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end(output: bytes) -> str:
    return output[-800:].decode(errors="replace")


def _new_scratch() -> Path:
    """A directory of this process, after those of dead ones are removed. Raises LoadError."""
    try:
        _sweep(Path(tempfile.gettempdir()))
        scratch = Path(tempfile.mkdtemp(prefix=PREFIX))
        (scratch / OWNER).write_text(json.dumps(process_identity(os.getpid())))
    except OSError as error:
        raise LoadError(f"no temporary directory could be made for the replay (TMPDIR): {error}") from error
    return scratch


def _sweep(parent: Path) -> None:
    """Remove what was left by processes that were killed together with their children, as Ray does."""
    for left in parent.glob(f"{PREFIX}*"):
        try:
            # /tmp is shared, and others may have directories of this name.
            if left.lstat().st_uid != os.getuid():
                continue
            owner = parse_json((left / OWNER).read_bytes(), OWNER_BYTES)
            # None means unknown, for example another container's process, and its directory stays.
            if isinstance(owner, dict) and is_process_alive(owner) is False:
                shutil.rmtree(left, ignore_errors=True)
        except (OSError, ValueError):
            continue  # it was made, or removed, this very moment


def replay(request: FreshReplay) -> FreshlyReplayed:
    """The child's work: prepare, load, replay."""
    from ray_warmup.warmup.device.memory_budget import fit_buckets
    from ray_warmup.warmup.device.tuner import TunerOptions
    from ray_warmup.warmup.rank.rank_workloads import rank_workloads, runnable

    config = config_of_text(request.config)
    believe(config.cache)
    if request.provider is not None:
        flashinfer_modules.activate(Path(request.provider))
    tuner = load_factory(request.factory)(request.backend, TunerOptions())
    recorder = triton_cache.Recorder()
    if request.triton_cache is not None:
        recorder.start()
    modules, hook = set[str](), FlashInferHook()
    hook.install(lambda seen: modules.add(seen.kernel))
    workloads = rank_workloads(config, dimensions_of(config), request.rank, request.backend)
    if request.budget_bytes is not None:
        workloads, _ = fit_buckets(workloads, request.budget_bytes)
    tasks = tasks_of(runnable(workloads, tuner.prepare(workloads)))
    began = time.monotonic()
    loaded = tuner.load(Path(request.table), ())
    outcome = tuner.replay(tasks)
    seconds = time.monotonic() - began
    engine = None
    if request.engine:
        engine = _warm_engine(config, request)
    hook.remove()
    if request.triton_cache is not None:
        recorder.stop(Path(request.triton_cache))
    return FreshlyReplayed(
        replayed=outcome,
        entries=loaded.entries,
        seconds=seconds,
        triton_entries=tuple(sorted(recorder.used)),
        modules=tuple(sorted(modules)),
        engine=engine,
    )


def _warm_engine(config: WarmupConfig, request: FreshReplay) -> Warmed:
    """Run the engine warmups as every rank does, without their check.

    A failure costs only their compiled code.
    """
    from ray_warmup.warmup.rank.engine import RankEngine, nothing_ran

    # The check of requests is made by every rank later, and needs no second process.
    unchecked = config.model_copy(update={"engine": config.engine.model_copy(update={"verify_requests": 0})})
    engine = RankEngine(unchecked, dimensions_of(config), request.rank, request.backend, logger.info)
    try:
        return engine.warm({})
    except (WarmupError, RuntimeError) as error:  # torch's own for memory and lost devices
        return nothing_ran(f"{type(error).__name__}: {error}", warn=True)


def main(factory: str, scratch: str) -> int:
    """Read one message from stdin and write one as the last lines of stdout."""
    # Imported before the request comes, so that seconds of imports pass beside the rank's own work.
    importlib.import_module(factory.partition(":")[0])
    said = sys.stdin.buffer.read()
    if not said:  # the parent needs no replay any more, or is gone and cannot remove its directory
        shutil.rmtree(scratch, ignore_errors=True)
        return 0
    try:
        answer = replay(from_bytes(said, FreshReplay))
    except (WarmupError, ConfigError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    # Text of libraries in Python's buffer must come before the answer, which goes around it.
    sys.stdout.flush()
    sys.stdout.buffer.write(b"\n" + to_bytes(answer) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
