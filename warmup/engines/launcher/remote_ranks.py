"""Remote ranks of one replica, as its launcher sees them: started on its devices, given lots, ended.

Nothing waits here. Each `measure` looks after the processes, hands a lot over, and returns what was found meanwhile.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ray_warmup.warmup.engines.front_end.remote_process import MODULE
from ray_warmup.warmup.engines.start.engine_start import import_path
from ray_warmup.warmup.engines.start.starter import StartedProcess, Starter
from ray_warmup.warmup.engines.tuning.options import TuningOptions
from ray_warmup.warmup.engines.tuning.remote_conductor import RemoteConductor
from ray_warmup.warmup.engines.tuning.session import TuningSession
from ray_warmup.warmup.errors import EngineError
from ray_warmup.warmup.messages.allotting import Lot, RemoteStart, SharedRecording, TasksMeasured
from ray_warmup.warmup.messages.wire import to_bytes

logger = logging.getLogger(__name__)

LAST_CHARS = 2000
"""Of the log of processes that ended by themselves."""


class RemoteRanks:
    """The remote ranks of one replica."""

    def __init__(
        self,
        world_size: int,
        options: TuningOptions,
        work: SharedRecording,
        starter: Starter,
        environ: Callable[[Path], Mapping[str, str]],
    ) -> None:
        """Start the processes.

        Args:
            world_size: ranks of the replica.
            options: settings of the tuning.
            work: the requests of the replica that recorded them.
            starter: how processes start on the replica's devices.
            environ: the environment of the processes, with caches below a directory.

        Raises:
            EngineError: the devices could not be had, or no port can be listened at.
        """
        self._world_size, self._work = world_size, work
        self._starter, self._environ = starter, environ
        self._scratch = tempfile.TemporaryDirectory(prefix="ray-warmup-remote-")
        self._base = Path(self._scratch.name)
        self._starts = 0
        self._process: StartedProcess | None = None
        self._session = TuningSession(world_size, options, self._base / "root", conductor=RemoteConductor)
        conductor = self._session.conductor
        assert isinstance(conductor, RemoteConductor), "the session makes what it is given"
        self._conductor = conductor
        conductor.facts = dict(work.facts)
        try:
            self._session.open()
            self._start()
        except BaseException:
            self.close()
            raise

    @property
    def stage(self) -> str:
        """Return what is done now, for people."""
        return f"measuring for another replica: {self._session.stage}"

    def measure(self, lot: Lot | None) -> TasksMeasured:
        """Hand a lot over, and return what was found since the last call."""
        try:
            self._look_after()
        except EngineError as error:
            self._session.fail(str(error))
        with self._session.locked():
            if lot is not None and not self._conductor.error:
                self._conductor.measure(lot, time.monotonic())
            return self._conductor.found()

    def close(self) -> None:
        """End every process at once and remove what they left. A second call does nothing."""
        if self._process is not None:
            self._process.kill()
        self._session.close()
        self._scratch.cleanup()

    def _look_after(self) -> None:
        """Start the processes anew where a tactic took one of them. Raises EngineError where they ended otherwise."""
        process = self._process
        if process is None or self._session.error:
            return
        code = process.poll()
        if code is None and not self._session.reason_to_end:
            return
        process.kill()
        if self._session.engine_ended():
            self._start()
        elif not self._session.error:
            raise EngineError(f"its processes ended with exit code {code}: {self._last_words()}")

    def _start(self) -> None:
        self._starts += 1
        scratch = self._base / f"start_{self._starts}"
        stacks = scratch / "told"
        stacks.mkdir(parents=True)
        request, result, log = scratch / "request", scratch / "result", scratch / "log"
        request.write_bytes(to_bytes(RemoteStart(self._world_size, self._work, str(stacks))))
        home = self._environ(self._base / "home")
        environ = {**home, **self._session.variables(stacks), **import_path(home)}
        self._process = self._starter.start(MODULE, request, result, environ, log)

    def _last_words(self) -> str:
        log = self._base / f"start_{self._starts}" / "log"
        if not log.is_file():
            return "they wrote nothing"
        return log.read_text(encoding="utf-8", errors="replace")[-LAST_CHARS:].strip()
