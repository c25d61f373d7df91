"""A rank's current activity, for status queries and for its successor if it dies."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from ray_warmup.warmup.device.tuner import Watch
from ray_warmup.warmup.messages.values import CrashRecord, Heartbeat
from ray_warmup.warmup.rank.crash_recorder import CrashRecorder

logger = logging.getLogger(__name__)

IDLE = "idle"


class RankActivity:
    """Current method and task with their start.

    Also on disk once `open` is called.
    """

    def __init__(self) -> None:
        self._doing = (IDLE, "", time.monotonic())
        self._recorder: CrashRecorder | None = None
        self.last_words: CrashRecord | None = None
        """What this rank's previous process wrote last; None when this is the first, or it left nothing."""

    def open(self, path: Path, dir_mode: int) -> None:
        """Read what the predecessor left at `path` and write on there. A disk that refuses costs only the record."""
        if self._recorder is not None:
            return
        try:
            self._recorder = CrashRecorder(path, dir_mode)
        except OSError as error:
            logger.warning(
                "which tactic kills a process will not be known: %s "
                "-> make the cache root writable (`ray-warmup doctor`)",
                error,
            )
            return
        self.last_words = self._recorder.predecessor
        self._recorder.listen()

    def begin(self, method: str, task_id: str) -> None:
        """A method begins."""
        self._doing = (method, task_id, time.monotonic())
        self._note(method, task_id)

    def progress(self, what: str) -> None:
        """Record the method's progress as text, shown in place of its task."""
        method, _, since = self._doing
        self._doing = (method, what, since)
        logger.info("%s: %s", method, what)

    def end(self) -> None:
        """It ended."""
        self._doing = (IDLE, "", time.monotonic())

    def tactic(self, watch: Watch) -> None:
        """A tactic is about to run."""
        if watch.runner:
            method, task_id, _ = self._doing
            self._note(method, task_id, watch.op, watch.runner, watch.tactic)

    def heartbeat(self, watch: Watch) -> Heartbeat:
        """Method and task, for how many seconds, and what the tuner runs."""
        method, task_id, since = self._doing
        return Heartbeat(method, task_id, time.monotonic() - since, watch.op, watch.runner, watch.tactic)

    def close(self) -> None:
        """Nothing stays on disk."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close()

    def _note(self, *words: str) -> None:
        """A disk that is full by now costs only the record, too."""
        if self._recorder is None:
            return
        try:
            self._recorder.note(*words)
        except OSError as error:
            logger.warning(
                "which tactic kills a process is not known from here on: %s "
                "-> make the cache root writable (`ray-warmup doctor`)",
                error,
            )
            self.close()
