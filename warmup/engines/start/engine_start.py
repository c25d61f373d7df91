"""Run one start of an engine as a process of its own with cache directories of its own, under a deadline.

The process and everything that it starts are gone when `launch` returns or `EngineStart.kill` was called.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ray_warmup
from ray_warmup.configs.engine_arguments import hide
from ray_warmup.configs.engine_schema import RealEngineSection
from ray_warmup.warmup.caches.engine_kinds import WATCHED, EngineKind
from ray_warmup.warmup.engines.artifacts.rank_record import (
    BesideRecord,
    RankRecord,
    notes_in,
    read_besides,
    read_records,
    stage_in,
)
from ray_warmup.warmup.engines.front_end.child_request import POLL_S, ChildRequest, write_request
from ray_warmup.warmup.engines.known_engines import adapter_of
from ray_warmup.warmup.engines.plugin.counting import gained_since
from ray_warmup.warmup.engines.start.child_process import ChildStarter
from ray_warmup.warmup.engines.start.exit_message import last_words, secrets_in
from ray_warmup.warmup.engines.start.model_places import model_places
from ray_warmup.warmup.engines.start.starter import Starter
from ray_warmup.warmup.errors import ArtifactError, EngineError

FINISH_S = 60.0
"""At least so long may an engine take to end by itself."""
Purpose = Literal["record", "prove"]


@dataclass(frozen=True, slots=True)
class Started:
    """Result, records and log of one engine start."""

    result: Mapping[str, float]
    """Seconds of import, engine and first answer, and the number of requests."""
    records: tuple[RankRecord, ...]
    gained: tuple[tuple[str, str], ...]
    """(kind, result) of everything that watched directories have gained by the end of the start, over all ranks."""
    log: str
    besides: tuple[BesideRecord, ...] = ()
    """Processes that looked up facts of a model."""


class EngineStart:
    """One engine, from its start to its end."""

    def __init__(
        self,
        section: RealEngineSection,
        home: Path,
        scratch: Path,
        environ: Mapping[str, str],
        *,
        purpose: Purpose,
        stays: bool = False,
        starter: Starter | None = None,
        reason_to_end: Callable[[], str] | None = None,
    ) -> None:
        """Start the engine.

        Args:
            section: the engine and its arguments.
            home: directory below which the engine keeps its caches; models stay where `environ` has them.
            scratch: an empty directory for request, result, calls, records and log.
            environ: the environment of the engine, without cache directories.
            purpose: `record` places nothing and records, `prove` places what the node has and requires it.
            stays: the engine goes on after its trial requests, until `finish`.
            starter: how the process starts; as a child of this process if none is given.
            reason_to_end: asked while the engine is waited for; a text ends the engine.

        Raises:
            EngineError: the devices could not be had.
        """
        self._told = scratch / "told"
        self._told.mkdir(parents=True)
        self._end = scratch / "end"
        self._reason_to_end = reason_to_end
        self._log = scratch / "engine.log"
        self._adapter = adapter_of(section.kind)
        self._result, request = scratch / "result.json", scratch / "request.json"
        starter = starter or ChildStarter()
        arguments = {**section.args, **starter.arguments}
        self._secrets = section.secrets | secrets_in(environ)
        until = str(self._end) if stays else None
        write_request(request, ChildRequest(arguments, section.load_format, section.start_options, until))
        mode = {"RAY_WARMUP": "auto", "RAY_WARMUP_RECORD": str(self._told), **self._adapter.recorded_with}
        if purpose == "prove":
            mode = {"RAY_WARMUP": "require", "RAY_WARMUP_PROOF": str(self._told)}
        moved = {**self._adapter.home(home), **model_places(environ)}
        whole = {**environ, **moved, **mode, **import_path(environ)}
        self._process = starter.start(self._adapter.start_module, request, self._result, whole, self._log)

    @property
    def stage(self) -> str:
        """Return what the engine is at."""
        return stage_in(self._told)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what the engine's processes have said for the report."""
        return notes_in(self._told)

    @property
    def result(self) -> Mapping[str, float]:
        """Return the seconds of the start. Call it after `until_answered`."""
        result: Mapping[str, float] = json.loads(self._result.read_text(encoding="utf-8"))
        return result

    @property
    def is_over(self) -> bool:
        """Return True once the engine's front end has ended."""
        return self._process.poll() is not None

    def until_answered(self, deadline_s: float) -> None:
        """Wait until the trial requests are answered.

        Raises:
            EngineError: the engine did not start, did not answer, or was late. The message names the stage and ends
                with the engine's last lines.
        """
        if not self._wait_for(self._result, deadline_s):
            raise self._given_up(f"the engine did not finish its start within {deadline_s:g} s")

    def finish(self, deadline_s: float) -> Started:
        """Let the engine end by itself and return what it has told.

        Raises:
            EngineError: it did not end, ended with an error, or its plugin told nothing.
        """
        self._end.touch()
        deadline = time.monotonic() + deadline_s
        while (code := self._process.poll()) is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if code is None:
            raise self._given_up(f"the engine answered and did not end within {deadline_s:g} s")
        self.kill()
        if code != 0:
            raise self._ended(code)
        records = read_records(self._told)
        if not records:
            raise EngineError(
                "the engine started, but its plugin told nothing: is ray-warmup installed in the engine's environment, "
                f"and does {self._adapter.plugins_variable} name it?{self._last_words()}"
            )
        log = hide(self._text(), self._secrets)
        return Started(self.result, records, gained_by(records), log, read_besides(self._told))

    def kill(self) -> None:
        """End the engine at once. A second call does nothing."""
        self._process.kill()

    def _wait_for(self, path: Path, limit_s: float) -> bool:
        """Wait for a file of the engine, and return False if it is late. Raises EngineError if the engine ends."""
        deadline = time.monotonic() + limit_s
        # The file is renamed into place, so that its presence means that it is whole.
        while not path.is_file():
            code = self._process.poll()
            # Looked for once more: the engine may write its result and end between the two looks.
            if code is not None and not path.is_file():
                raise self._ended(code)
            if time.monotonic() > deadline:
                return False
            if self._reason_to_end is not None and (reason := self._reason_to_end()):
                raise self._given_up(reason)
            time.sleep(POLL_S)
        return True

    def _ended(self, code: int) -> EngineError:
        stage = self.stage
        self.kill()
        text = f"the engine's start ended with exit code {code} while {stage}{self._last_words()}"
        return EngineError(text, exit_code=code, stage=stage, placed=self._has_placed())

    def _given_up(self, what: str) -> EngineError:
        stage = self.stage
        self.kill()
        return EngineError(f"{what}; it was {stage}{self._last_words()}", stage=stage, placed=self._has_placed())

    def _last_words(self) -> str:
        return last_words(self._text(), self._secrets)

    def _has_placed(self) -> bool:
        """Return True if a worker was given an artifact of ours."""
        try:
            # Tells a start that an artifact may have broken from one that was on its own.
            return any(record.lookup == "hit" for record in read_records(self._told))
        except ArtifactError:
            return False

    def _text(self) -> str:
        if not self._log.is_file():
            return ""
        return self._log.read_text(encoding="utf-8", errors="replace")


def launch(
    section: RealEngineSection,
    home: Path,
    scratch: Path,
    environ: Mapping[str, str],
    *,
    purpose: Purpose,
    starter: Starter | None = None,
    on_start: Callable[[EngineStart], None] | None = None,
) -> Started:
    """Start the engine, let it answer the trial requests, and end it.

    Args:
        section, home, scratch, environ, purpose, starter: as those of `EngineStart`.
        on_start: is told of the start as soon as it runs.

    Raises:
        EngineError: the engine did not start, did not answer, or was late (`start_deadline`). The message ends with
            its last lines.
    """
    engine = EngineStart(section, home, scratch, environ, purpose=purpose, starter=starter)
    try:
        if on_start is not None:
            on_start(engine)
        began = time.monotonic()
        engine.until_answered(section.start_deadline)
        # What the start has left of its deadline, but never less than an orderly end needs.
        return engine.finish(max(FINISH_S, section.start_deadline - (time.monotonic() - began)))
    finally:
        engine.kill()


def gained_by(records: Sequence[RankRecord]) -> tuple[tuple[str, str], ...]:
    """List the results that watched directories have gained. Ranks of one node share directories."""
    layouts: dict[str, EngineKind] = {kind.name: kind for kind in WATCHED}
    gained: set[tuple[str, str]] = set()
    for record in records:
        for watched in record.watched:
            kind = layouts[watched.kind]
            now = kind.layout.results(Path(watched.directory), kind.results)
            for name in gained_since(watched.before, now):
                gained.add((watched.kind, name))
    return tuple(sorted(gained))


def import_path(environ: Mapping[str, str]) -> dict[str, str]:
    """PYTHONPATH under which the child finds this very code."""
    root = str(Path(ray_warmup.__file__).resolve().parents[1])
    return {"PYTHONPATH": ":".join(part for part in (root, environ.get("PYTHONPATH", "")) if part)}
