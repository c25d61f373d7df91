"""Keep what a recording start leaves in its temporary home, for a later start in that very home."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from pathlib import Path


class Keeper:
    """Watches a temporary directory for a recording that has answered its requests, and links its files elsewhere."""

    def __init__(self, temporary: Path, kept: Path) -> None:
        self._temporary, self._kept = temporary, kept
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.home: Path | None = None
        """Where the recording's home was."""

    def start(self) -> Keeper:
        """Begin to watch."""
        self._temporary.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._thread.join()

    def put_back(self) -> Path:
        """Put the files back where they were, and return the home. Raises RuntimeError where nothing was kept."""
        if self.home is None:
            raise RuntimeError(f"no recording answered below {self._temporary}")
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-al", str(self._kept / "home"), str(self.home)], check=True)
        return self.home

    @property
    def log(self) -> str:
        """The engine's log."""
        path = self._kept / "start" / "engine.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            found = next(self._temporary.glob("ray-warmup-record-*/start/result.json"), None)
            if found is not None and self.home is None:
                directory = found.parents[1]
                # Links of the files: whoever removes the directory leaves these.
                subprocess.run(["cp", "-al", str(directory), str(self._kept)], check=False)
                self.home = directory / "home"
                time.sleep(0.1)
                return
