"""Compilers behind counting wrappers: how often a process started nvcc, ninja or gcc; they can be forbidden.

"Nothing was compiled" is then a count. Questions that compile nothing are not counted: FlashInfer asks nvcc for its
version, and once in every process for the architectures that it knows.
"""

from __future__ import annotations

import shutil
from pathlib import Path

TOOLS = ("nvcc", "ninja", "gcc", "cc", "g++", "c++")

_WRAPPER = """#!/bin/sh
case "$1" in --version|-V|--list-gpu-arch|--list-gpu-code) [ -x "{real}" ] && exec "{real}" "$@"; exit 1;; esac
echo {tool} >> "$TOOL_LOG"
[ "$TOOL_DENY" = 1 ] && {{ echo "{tool} is forbidden in this step" >&2; exit 1; }}
exec "{real}" "$@"
"""


class ToolCounters:
    """A directory with one wrapper for each tool, and a CUDA_HOME whose nvcc is the wrapper."""

    def __init__(self, directory: Path) -> None:
        self._bin = directory / "bin"
        self._cuda = directory / "cuda"
        self._logs = directory / "logs"
        for room in (self._bin, self._cuda / "bin", self._logs):
            room.mkdir(parents=True, exist_ok=True)
        nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
        self._mirror(Path(nvcc).resolve().parents[1])
        for tool in TOOLS:
            self._wrap(tool, nvcc if tool == "nvcc" else shutil.which(tool) or "")

    def environment(self, step: str, path: str, *, deny: bool) -> dict[str, str]:
        """Variables that put the wrappers in front of a process' `PATH`; `deny` makes every tool fail."""
        log = self._logs / step
        log.touch()
        return {
            "PATH": f"{self._bin}:{path}",
            "CUDA_HOME": str(self._cuda),
            "CC": str(self._bin / "gcc"),
            "CXX": str(self._bin / "g++"),
            "TOOL_LOG": str(log),
            "TOOL_DENY": "1" if deny else "0",
        }

    def started(self, step: str) -> dict[str, int]:
        """Tool -> how often the step's processes started it; a tool that was not started is left out."""
        names = (self._logs / step).read_text(encoding="utf-8").split()
        return {tool: names.count(tool) for tool in TOOLS if tool in names}

    def _mirror(self, home: Path) -> None:
        """A CUDA_HOME of links to the real one, nvcc left out."""
        entries = [entry for entry in (*home.iterdir(), *(home / "bin").iterdir()) if entry.name not in ("bin", "nvcc")]
        for entry in entries:
            link = self._cuda / entry.relative_to(home)
            if not link.is_symlink():
                link.symlink_to(entry)

    def _wrap(self, tool: str, real: str) -> None:
        places = [self._bin / tool, *([self._cuda / "bin" / tool] if tool == "nvcc" else [])]
        for place in places:
            place.write_text(_WRAPPER.format(tool=tool, real=real), encoding="utf-8")
            place.chmod(0o755)
