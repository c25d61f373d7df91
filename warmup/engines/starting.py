"""Interfaces between an engine's launcher and the rest: how its process starts, and what is tuned before it ends.

The launcher knows neither Ray nor GPUs: `actors/` implements `Starter`, and part of `warmup/` that tunes what an engine
asked for implements `RecordedTuning`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue

from ray_warmup.warmup.artifact.artifact import Content


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

    def start(self, request: Path, result: Path, environ: Mapping[str, str], log: Path) -> StartedProcess:
        """Run `engines/vllm/start.py` with these files.

        Args:
            request: what the start reads.
            result: what it writes once the trial requests are answered.
            environ: the whole environment, but for the devices.
            log: receives its output.

        Raises:
            EngineError: the devices could not be had.
        """


class LiveEngine(Protocol):
    """An engine that has answered its trial requests and still runs, with the weights of the recording."""

    def call(self, function: str, arguments: Mapping[str, JsonValue], limit_s: float) -> JsonValue:
        """Run a function of this project in the engine's front end and return its answer.

        Args:
            function: `ray_warmup.module:function`. It is called as `function(llm, **arguments)` with the running
                `vllm.LLM`, whose `collective_rpc` reaches every worker.
            arguments: plain JSON values.
            limit_s: seconds after which the engine is given up.

        Raises:
            EngineError: the function raised, the engine died, or the answer was late.
        """


class RecordedTuning(Protocol):
    """Tuning and checking of what a recorded engine asked its libraries for, between RECORDING and CAPTURING.

    Winners compile kernels of their own, so they run in the live engine before its caches are captured.
    """

    def tune(self, engine: LiveEngine, limit_s: float) -> int:
        """Measure every recorded request, replay the winners, and return the number of requests."""

    def guard(self, engine: LiveEngine, limit_s: float) -> int:
        """Check every winner against the default, and return the number of those that stand."""

    def contents(self) -> tuple[Content, ...]:
        """Return what belongs into the artifact beside the engine's caches."""
