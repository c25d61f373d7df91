"""Notes beside a stored engine artifact: that this node has proven it, or that a proof refused it.

    <store>/proof.json       an artifact that a fresh engine on this node used without compiling anything
    <store>/refused.json     an artifact with which an engine crashed or hung: no engine here is given it again
    <store>/proven_elsewhere.json     what a serving engine has left, and a proof start on another node has used

A note speaks of one artifact by its digest, so a newer artifact in the same store is neither proven nor refused.
"""

from __future__ import annotations

import time
from pathlib import Path

from ray_warmup.warmup.codec import message
from ray_warmup.warmup.messages.engine import Reach
from ray_warmup.warmup.store.notes import read_note, write_note

PROOF, REFUSAL, ELSEWHERE = "proof.json", "refused.json", "proven_elsewhere.json"
MAX_REASON = 2000


@message
class ProofRecord:
    """A proof that held on this node."""

    artifact: str
    """Digest of the artifact."""
    engine: str
    """Name and version."""
    device: str
    driver: str
    """Version of the GPU's driver, empty without a GPU."""
    engine_s: float
    """Seconds in which the proof start made its engine."""
    first_answer_s: float
    at: float
    """By this node's clock."""
    reach: Reach = "home"
    """`node` where this node had the artifact from another one, which shows more than another home does."""

    def is_valid_for(self, artifact: str, engine: str, device: str, driver: str) -> bool:
        """Return True if the same artifact, engine, device and driver were proven."""
        return (self.artifact, self.engine, self.device, self.driver) == (artifact, engine, device, driver)


@message
class Refusal:
    """An artifact with which a proof start on this node crashed or hung."""

    artifact: str
    reason: str
    at: float


@message
class ProvenElsewhere:
    """An artifact of a serving engine that came from where only proven ones are handed out."""

    artifact: str
    by: str
    """Who has proven it, or who handed it out, in words."""
    at: float


def save_proof(store: Path, record: ProofRecord) -> None:
    """Keep a proof, and forget an earlier refusal. Raises StoreError."""
    write_note(store / PROOF, record)
    (store / REFUSAL).unlink(missing_ok=True)


def load_proof(store: Path) -> ProofRecord | None:
    """Return the last proof on this node.

    None where there is none or it cannot be read.
    """
    return read_note(ProofRecord, store / PROOF)


def refuse(store: Path, artifact: str, reason: str) -> None:
    """Keep the reason why no engine on this node may use an artifact. Raises StoreError."""
    write_note(store / REFUSAL, Refusal(artifact, reason[:MAX_REASON], time.time()))
    (store / PROOF).unlink(missing_ok=True)


def refusal_of(store: Path, artifact: str) -> str:
    """Return the reason why an artifact is refused on this node, or an empty string."""
    found = read_note(Refusal, store / REFUSAL)
    if found is not None and found.artifact == artifact:
        return found.reason
    return ""


def note_elsewhere(store: Path, artifact: str, by: str) -> None:
    """Keep that an artifact was proven elsewhere, so that engines on this node get it. Raises StoreError."""
    write_note(store / ELSEWHERE, ProvenElsewhere(artifact, by, time.time()))


def proven_elsewhere(store: Path, artifact: str) -> str:
    """Return who has proven this very artifact elsewhere, or an empty text."""
    found = read_note(ProvenElsewhere, store / ELSEWHERE)
    if found is not None and found.artifact == artifact:
        return found.by
    return ""
