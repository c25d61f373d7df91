"""Keep what engines write below a temporary directory: a failed start removes its own."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

EVERY_S = 0.5
PATTERNS = ("ray-warmup-*/start*/engine.log", "ray-warmup-*/start*/told/*.json", "ray-warmup-*/start*/told/stage")


class LogKeeper:
    """Links logs and records of a temporary directory into another one of the same file system while it is there."""

    def __init__(self, temporary: Path, kept: Path) -> None:
        self._temporary, self._kept = temporary, kept
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> LogKeeper:
        self._temporary.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            for pattern in PATTERNS:
                for path in self._temporary.glob(pattern):
                    self._keep(path)

    def _keep(self, path: Path) -> None:
        target = self._kept / path.relative_to(self._temporary)
        with contextlib.suppress(OSError):  # the start may remove its files at any time
            if target.exists() and target.samefile(path):
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            # A link holds what is written until the end, also after the start has removed its own name of the file.
            os.link(path, target)
