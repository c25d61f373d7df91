"""A rank's crash record: its current tactic in a file that its successor on the same node reads.

One `pwrite` per tactic keeps it exact, where a heartbeat would be seconds old, and it survives any signal. It names its
process, so that the record of a live rank is not swept. Python's faulthandler adds the stacks of a fatal signal, or of
a hung process that is sent SIGNAL, even while native code holds the GIL.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from ray_warmup.configs.strict_json import parse_json
from ray_warmup.warmup.disk.publish import make_directories
from ray_warmup.warmup.messages.values import CrashRecord
from ray_warmup.warmup.store.leases import process_identity

logger = logging.getLogger(__name__)

SIGNAL = signal.SIGUSR2
"""Sent to a hung rank from outside; its stacks are in the crash record then."""
RECORD_BYTES = 4096
STACK_BYTES = 65536
NOTED = tuple(field.name for field in fields(CrashRecord) if field.name != "stack")
"""What the record itself has; the stack lies beside it."""
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class CrashRecorder:
    """Writer of one rank's crash record.

    `predecessor` is the record of the process before it, or None.
    """

    def __init__(self, path: Path, dir_mode: int = 0o700) -> None:
        """Open or create. Raises OSError."""
        make_directories(path.parent, dir_mode)
        self._path = path
        self._stack_path = path.with_name(path.name + ".stack")
        self._process = process_identity(os.getpid())
        # Read before the files are truncated for this process.
        self.predecessor = read_crash_record(path)
        self._record = os.open(path, _FLAGS | os.O_TRUNC, 0o600)
        # Appended to, because a hung process may be asked several times.
        self._stack = os.open(self._stack_path, _FLAGS | os.O_TRUNC | os.O_APPEND, 0o600)

    def listen(self) -> None:
        """From now on fatal signals and SIGNAL write this process' stacks into the crash record."""
        # faulthandler writes from C without the GIL, so it works while native code hangs or crashes.
        faulthandler.enable(file=self._stack)
        faulthandler.register(SIGNAL, file=self._stack, all_threads=True)

    def note(self, method: str, task_id: str, op: str = "", runner: str = "", tactic: str = "") -> None:
        """Record the work that begins now, within a few microseconds."""
        record = {"process": self._process, "method": method, "task_id": task_id}
        record |= {"op": op, "runner": runner, "tactic": tactic}
        # One write of a fixed size over the last record: no file is made or renamed for each of thousands of tactics.
        os.pwrite(self._record, json.dumps(record).encode()[:RECORD_BYTES].ljust(RECORD_BYTES), 0)

    def close(self) -> None:
        """Nothing is left behind."""
        with suppress(ValueError):
            faulthandler.unregister(SIGNAL)
        # Back to standard error, since the file is closed next.
        faulthandler.enable()
        for fd in (self._record, self._stack):
            with suppress(OSError):
                os.close(fd)
        for path in (self._path, self._stack_path):
            path.unlink(missing_ok=True)


def crash_record_path(directory: Path, run_id: str, rank: int) -> Path:
    """Return the path of a rank's crash record, below its store."""
    return directory / "running" / f"{run_id}-{rank}"


def read_crash_record(path: Path) -> CrashRecord | None:
    """Read a crash record.

    None if it is absent or invalid.
    """
    try:
        record = parse_json(_read(path, RECORD_BYTES).rstrip(), RECORD_BYTES)
        stack = _read(path.with_name(path.name + ".stack"), STACK_BYTES)
        return CrashRecord(stack=stack, **{name: str(record[name]) for name in NOTED})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.info("%s holds no record: %s", path, error)
        return None


def _read(path: Path, limit: int) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, limit).decode(errors="replace")
    finally:
        os.close(fd)
