"""Interface between an engine's launcher and the devices of its replica.

The launcher knows neither Ray nor GPUs, so `actors/` implements `Starter` besides `engines/start/child_process.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class StartedProcess(Protocol):
    """The process of an engine's front end, with everything that it starts."""

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""

    def kill(self) -> None:
        """End the process and all that it started, and return when they are gone. A second call does nothing."""


class Starter(Protocol):
    """Way to start an engine's front end on the devices of one replica."""

    arguments: Mapping[str, str]
    """Arguments of the engine that this way needs, besides the user's."""

    def start(self, module: str, request: Path, result: Path, environ: Mapping[str, str], log: Path) -> StartedProcess:
        """Run an engine's front end with these files.

        Args:
            module: of the front end (`EngineAdapter.start_module`).
            request: what the start reads.
            result: what it writes once the trial requests are answered.
            environ: the whole environment, but for the devices.
            log: receives its output.

        Raises:
            EngineError: the devices could not be had.
        """
