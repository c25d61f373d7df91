"""Note beside a stored engine artifact that an operator put it there: `wait` believes it without a proof of this node.

<store>/admitted.json      by `cache import` or `cache rollback`
"""

from __future__ import annotations

import time
from pathlib import Path

from ray_warmup.warmup.codec import message
from ray_warmup.warmup.store.notes import read_note, write_note

NAME = "admitted.json"


@message
class Admission:
    """An artifact that an operator made current."""

    artifact: str
    """Digest of the artifact."""
    by: str
    at: float
    """By this node's clock."""


def admit(store: Path, artifact: str, by: str) -> None:
    """Keep that an artifact was made current by hand. Raises StoreError."""
    write_note(store / NAME, Admission(artifact, by, time.time()))


def admitted_by(store: Path, artifact: str) -> str:
    """Return the command that made this very artifact current, or an empty text."""
    found = read_note(Admission, store / NAME)
    if found is not None and found.artifact == artifact:
        return found.by
    return ""
