"""Messages between the ranks of a recorded engine and whoever conducts their tuning, beside the questions to any rank.

A rank joins, is asked, and is at last told what to serve. Questions and answers travel inside `Asked` and `Replied`.
"""

from __future__ import annotations

from ray_warmup.warmup.codec import message
from ray_warmup.warmup.tasks import Count, Duration, GuardVerdict, Name, Note, TacticId, TaskResult


@message
class Joined:
    """A rank has run its forward and waits for questions."""

    token: str
    """The secret by which a process of this start is known."""
    rank: Count
    world_size: Count
    recording: str
    """What it recorded, as JSON."""
    problems: tuple[Note, ...] = ()
    """Requests that could not be recorded, with the reason."""
    states: tuple[tuple[Name, Note], ...] = ()
    """(digest of a request, what its runners hold)."""
    refused: tuple[tuple[Name, Note], ...] = ()
    """(digest of a request of another replica, why this process did not make it again)."""


@message
class Welcome:
    """Settings by which a rank measures, before the first question."""

    shortlist: Count
    tie_band: Duration
    guard_margin: Duration
    guard_rounds: Count
    max_memory_bytes: Count | None = None


@message
class Asked:
    """One question."""

    call_id: Count
    question: str


@message
class Replied:
    """The answer to a question, or what was raised instead."""

    call_id: Count
    seconds: Duration
    answer: str = ""
    kind: str = ""
    """Class name of an exception; empty where there is an answer."""
    error: Note = ""
    traceback: Note = ""
    culprit: TacticId | None = None


@message
class Serve:
    """The last question: load what was found, replay it, and go on."""

    results: tuple[TaskResult, ...]
    verdicts: tuple[GuardVerdict, ...]


@message
class Served:
    """Table that a rank serves now."""

    table: str
    """As FlashInfer wrote it; empty where nothing was tuned."""
    digest: str
    """Of the table by its entries; empty where nothing was tuned."""
    hits: Count
    problems: tuple[Note, ...] = ()
    """Misses and failed replays."""


@message
class TableProof:
    """Lookups of one process that serves a table, its own and those of every recorded task."""

    digest: str
    entries: Count
    """Of the table."""
    own_hits: Count
    """Lookups of the engine's own that hit."""
    own_misses: tuple[str, ...]
    """Each with its key and the nearest one."""
    hits: Count
    """Recorded tasks whose lookup gives the table's runner and tactic."""
    misses: tuple[str, ...]
    unasked: tuple[str, ...]
    """Recorded requests that the engine has not made."""
    beyond: Count = 0
    """Keys with more tokens than the engine's own tuning reaches, which the default serves."""
