"""One batch of trial requests: rows of equal length, with token ids that differ in every row."""

from __future__ import annotations

from dataclasses import dataclass

VOCABULARY = 1000
"""Token ids of prompts lie below this."""
FIRST_ID = 3
"""The first ids of most vocabularies are special tokens."""


@dataclass(frozen=True, slots=True)
class TrialBatch:
    """Requests of one batch: equal sampling parameters and prompt length, but for the first `plain` rows."""

    rows: int
    prompt_tokens: int
    sampling: dict[str, float]
    plain: int = 0
    """Rows that use top-p alone."""


def token_rows(batch: TrialBatch) -> list[list[int]]:
    """Return the prompts of one batch as token ids, different in every row."""
    rows = []
    for row in range(batch.rows):
        rows.append([FIRST_ID + (row * 31 + position) % VOCABULARY for position in range(batch.prompt_tokens)])
    return rows


def sampling_of(batch: TrialBatch, row: int) -> dict[str, float]:
    """Return the sampling parameters of one row."""
    if row < batch.plain:
        return {name: value for name, value in batch.sampling.items() if name != "top_k"}
    return dict(batch.sampling)
