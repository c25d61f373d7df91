"""Files between a launcher and the child process that imports the engine: request, stage and result.

Reads and writes them on both sides. The child imports this module before its engine.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import JsonValue

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class ChildRequest:
    """A request to a child process that imports an engine, as its file holds it."""

    arguments: dict[str, JsonValue]
    """Of the engine's command line."""
    load_format: str
    options: dict[str, str] = field(default_factory=dict)
    """Further settings of the engine's section, by name (`RealEngineSection.start_options`)."""
    stays_until: str | None = None
    """File whose appearance ends the engine, or None if it ends after its trial requests."""
    explain: bool = False
    """Tell which arguments change the identity."""


class Stage:
    """Name of what the front end is at, for whoever waits for it."""

    def __init__(self, told: Path) -> None:
        self._path = told / "stage"

    def write(self, text: str) -> None:
        """Say what begins now."""
        temporary = self._path.with_suffix(".part")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self._path)


def write_request(path: Path, request: ChildRequest) -> None:
    """Write what is asked, readable by this user alone: it may hold a token, and the engine removes it."""
    # The mode is there before the content, which would otherwise be readable for a moment.
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(request)), encoding="utf-8")


def read_request(path: Path) -> ChildRequest:
    """Read what is asked and remove it from the disk."""
    request = ChildRequest(**json.loads(path.read_text(encoding="utf-8")))
    # Removed before the engine starts, so that a token does not stay on the disk if it is killed.
    path.unlink()
    return request


def write_whole(path: Path, document: Mapping[str, JsonValue]) -> None:
    """Write the result so that the parent sees all of it or nothing."""
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(document), encoding="utf-8")
    os.replace(temporary, path)


def wait_for(file: Path) -> None:
    """Wait until a file appears."""
    while not file.is_file():
        time.sleep(POLL_S)


def follow_the_launcher() -> None:
    """Watch, in a thread, for the end of whoever started this process."""
    # A thread of its own, because the main thread is inside native code of the engine for minutes.
    threading.Thread(target=_end_with_the_launcher, name="launcher", daemon=True).start()


def _end_with_the_launcher() -> None:
    """Kill this process group when standard input ends: whoever started the engine is gone, even by SIGKILL."""
    while os.read(0, 1):
        pass
    # The whole group, because the engine's workers are children of this process and would hold the GPU.
    os.killpg(os.getpgrp(), signal.SIGKILL)
