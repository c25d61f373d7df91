"""The verdict beside a table: how the last run ended, or that one is under way."""

from __future__ import annotations

import os
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from ray_warmup.warmup.codec import decode, encode, message
from ray_warmup.warmup.disk.reading import LATEST
from ray_warmup.warmup.messages.values import RankEnd, RunVerdict
from ray_warmup.warmup.store.leases import is_process_alive, process_identity

RunState = Literal["running", "ready", "failed"]
RUNNING = "running"


@message
class ProcessIdentity:
    """A process that cannot be taken for a later one with its number."""

    pid: int
    start: str | None
    host: str

    @classmethod
    def own(cls) -> ProcessIdentity:
        """Return this process's identity."""
        return decode(cls, process_identity(os.getpid()))

    @property
    def is_gone(self) -> bool:
        """Return True if the process is known to have ended."""
        return is_process_alive(encode(self)) is False


@message
class StoredVerdict:
    """One run's verdict, as `verdict.json` holds it."""

    run_id: str
    ready: bool
    ended_at: Annotated[float, Field(ge=0, lt=LATEST)]
    """End of the run, or its beginning while it is under way."""
    error: str | None = None
    state: str = ""
    """`running` while the run is under way; otherwise `ready` says all."""
    phases: dict[str, float] = field(default_factory=dict)
    ranks: tuple[RankEnd, ...] = ()
    table_sha256: str | None = ""
    """Table with which the run ended, None if nothing was tunable. Empty: the table that is there."""
    proven_sha256: str | None = ""
    """Table that was ready last, by this run or before it. Empty: any table."""
    process: ProcessIdentity | None = None
    """Process of a run that is under way."""

    @classmethod
    def of(cls, verdict: RunVerdict, table_sha256: str | None, proven_sha256: str | None) -> StoredVerdict:
        """Return the verdict of a run that has ended, with its table."""
        return cls(
            run_id=verdict.run_id,
            ready=verdict.ready,
            ended_at=verdict.ended_at,
            error=verdict.error,
            state=verdict.state,
            phases=verdict.phases,
            ranks=verdict.ranks,
            table_sha256=table_sha256,
            proven_sha256=proven_sha256,
        )

    @property
    def run_state(self) -> RunState:
        """Return what is known of the run: it is under way, or how it ended."""
        if self.state == RUNNING:
            return "running"
        if self.ready:
            return "ready"
        return "failed"
