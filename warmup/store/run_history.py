"""The last runs that were started on this node, each with its report, below the cache root.

A job's own directory is removed with the job, so its report is kept here as well. `<root>/reports/` holds one file per
run: a line for the list, then the report. The newest KEPT files stay.
"""

from __future__ import annotations

import json
import logging
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.warmup.codec import decode, encode, message
from ray_warmup.warmup.disk.publish import publish_bytes, store_error
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import StoreError, WarmupError

logger = logging.getLogger(__name__)

REPORTS = "reports"
KEPT = 50
MAX_BYTES = 256 << 20
_NAME = re.compile(r"\d{13}-[\w.-]{1,200}\.jsonl")


@message
class EndedRun:
    """One run as `ray-warmup history` lists it."""

    run_id: str
    """Empty where the run ended before it had one."""
    kind: str
    """`builtin`, or the name of a real engine."""
    model: str
    began_at: float
    """Seconds since 1970."""
    seconds: float
    ready: bool
    exit_code: int
    ranks: int
    nodes: int
    classes: tuple[str, ...]
    """Cache keys, or keys of a real engine's artifacts."""
    warnings: int
    version: str
    """Of ray-warmup."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class KeptRun:
    """A run in the list, and the file that holds its report."""

    run: EndedRun
    path: Path


def keep_run(root: Path, run: EndedRun, report: bytes, modes: Modes = OWNER_ONLY) -> Path:
    """Keep a run with its report, and drop the oldest beyond KEPT. Raises StoreError."""
    name = re.sub(r"[^\w.-]", "_", run.run_id)[:200] or "no-run"
    path = root / REPORTS / f"{int(run.began_at * 1000):013d}-{name}.jsonl"
    head = json.dumps(encode(run)).encode()
    publish_bytes(path, b"\n".join((head, _one_line(report), b"")), modes=modes)
    for old in _files(root)[KEPT:]:
        with suppress(FileNotFoundError):
            old.unlink()
    return path


def kept_runs(root: Path, problems: list[str]) -> list[KeptRun]:
    """List the runs, newest first. Files that cannot be read are named in `problems`."""
    found = []
    for path in _files(root):
        try:
            found.append(KeptRun(decode(EndedRun, json.loads(_lines(path)[0])), path))
        except FileNotFoundError:
            continue  # another run has just dropped it
        except (ValueError, IndexError, WarmupError) as error:
            problems.append(f"{path}: {error}")
    return found


def report_of(root: Path, run: str) -> bytes:
    """Return the report of the newest run whose id begins with `run`. Raises StoreError if there is none."""
    problems: list[str] = []
    for kept in kept_runs(root, problems):
        if kept.run.run_id.startswith(run):
            return _lines(kept.path)[1]
    unread = "".join(f"; {problem}" for problem in problems[:1])
    raise StoreError(
        f"no run {run} is kept in {root / REPORTS}; `ray-warmup history` lists the runs of this node{unread}",
        path=str(root / REPORTS),
    )


def _files(root: Path) -> list[Path]:
    """Return the files, newest first. Raises StoreError where the directory cannot be listed."""
    directory = root / REPORTS
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise store_error("read", directory, error) from error
    return [directory / name for name in sorted(names, reverse=True) if _NAME.fullmatch(name)]


def _lines(path: Path) -> list[bytes]:
    return read_regular(path, MAX_BYTES).splitlines()


def _one_line(report: bytes) -> bytes:
    return json.dumps(json.loads(report)).encode()
